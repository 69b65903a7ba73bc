"""Senses: which keywords choose which, what does not go together, and one of a user's own."""

import dataclasses

import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.certificates.meaning import Meaning
from lirpa_explain.certifying.senses import (
    SENSES,
    Expectation,
    FiniteSum,
    Integral,
    NearestBoundary,
    Sense,
    sense_of,
)
from lirpa_explain.reporting.page import assumptions


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


X = torch.rand(2, 3, generator=torch.Generator().manual_seed(0)).double()


def test_keywords_choose_senses():
    assert (sense_of({}) == FiniteSum()
            and sense_of({"boundary": None, "confidence": 0.9}) == FiniteSum())
    assert sense_of({"integral": "exact"}) == Integral()
    assert sense_of({"expectation": "gaussian", "confidence": 0.9}) == Expectation("gaussian", 0.9)
    assert sense_of({"boundary": "moving"}) == NearestBoundary(lx.Moving())
    assert isinstance(sense_of({"boundary": "fixed", "integral": "exact"}), Integral)


@pytest.mark.parametrize("keywords", [
    {"integral": "exact", "boundary": "moving"},
    {"expectation": "gaussian", "boundary": lx.Moving()},
    {"integral": "exact", "expectation": "gaussian"}, {"sense": FiniteSum(), "integral": "exact"},
    {"sense": "exact"},
])
def test_senses_that_do_not_go_together(keywords):
    with pytest.raises(ValueError, match="goes neither with|goes with no other"):
        lx.certify(IntegratedGradients(net()), X, eps=0.1, target=0, **keywords)


def test_each_noisy_input_would_have_a_boundary_point_of_its_own():
    with pytest.raises(lx.UnsupportedAttribution, match="a boundary point of its own"):
        lx.certify(NoiseTunnel(lx.BoundarySaliency(net())), X, eps=0.01, expectation="gaussian",
                   nt_samples=4)


@dataclasses.dataclass(frozen=True)
class Scaled(Sense):
    """A multiple of the attribution."""

    factor: float = 1.0

    def prove(self, prover, plan, nominal):
        """The same bounds, scaled."""
        plain = prover.proven(plan, plan, nominal)
        meaning = Meaning("multiple", f", times {self.factor}", "They bound a multiple.", False,
                          {"factor": self.factor, "per_example": torch.ones(2)})
        return dataclasses.replace(plain, box=tuple(self.factor * side for side in plain.box),
                                   propagates=False,
                                   value=self.factor * plain.value, meaning=meaning)


def test_a_sense_of_ones_own(tmp_path, monkeypatch):
    """It is given as an object, or by a keyword once it has a row, and its facts travel with the
    certificate.
    """
    monkeypatch.setitem(SENSES, "factor", (Scaled, ()))
    assert sense_of({"factor": 3.0}) == Scaled(3.0)
    plain = lx.certify(Saliency(net()), X, eps=0.1, target=0)
    scaled = lx.certify(Saliency(net()), X, eps=0.1, target=0, sense=Scaled(3.0))
    torch.testing.assert_close(scaled.upper, 3 * plain.upper)
    scaled.save(tmp_path / "c.npz")
    for certificate in (scaled, lx.Certificate.load(tmp_path / "c.npz")):
        assert certificate.meaning.facts["factor"] == 3.0 and torch.equal(
            certificate.meaning.facts["per_example"], torch.ones(2))
        assert ("times 3.0" in repr(certificate)
                and "They bound a multiple." in assumptions(certificate))
        assert certificate.integral is None
    with pytest.raises(ValueError, match="but its multiple"):
        scaled.sandwich()
