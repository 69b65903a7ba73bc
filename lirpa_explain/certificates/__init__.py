"""What a person wants to know of a bounded explanation: signs, ranks, distances."""

from lirpa_explain.certificates.certificate import Certificate as Certificate
