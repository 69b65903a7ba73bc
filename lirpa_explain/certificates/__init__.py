"""What a person wants to know of a bounded explanation: signs, ranks, distances."""

from lirpa_explain.certificates.certificate import Certificate as Certificate
from lirpa_explain.certificates.join import join as join
from lirpa_explain.certificates.metrics import METRICS as METRICS
from lirpa_explain.certificates.metrics import tangent_basis as tangent_basis
from lirpa_explain.certificates.radius import Radius as Radius
from lirpa_explain.certificates.sandwich import Sandwich as Sandwich
