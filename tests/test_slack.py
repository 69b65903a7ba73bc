"""slack: fewer neurons are bounded, and bounds hold."""

import pytest
import torch
from captum.attr import Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.bounding.schedule import Schedule
from lirpa_explain.bounding.slack import _least

NETS = {
    "relu": lambda: nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(),
                                  nn.Linear(20, 3)),
    "smooth": lambda: nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 20), nn.GELU(),
                                    nn.Linear(20, 3)),
    "pooling": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3, stride=1, padding=1), nn.ReLU(),
        nn.MaxPool1d(2), nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)),
}


@pytest.fixture
def wanted(monkeypatch):
    """How many entries were bounded linearly."""
    counts = []
    plain = Schedule._tightened

    def tightened(self, node, box, mask, forms=None):
        counts.append(int(mask.sum()))
        return plain(self, node, box, mask, forms)

    monkeypatch.setattr(Schedule, "_tightened", tightened)
    return counts


@pytest.mark.parametrize("method", ["CROWN", "CROWN-Optimized"])
@pytest.mark.parametrize("name", NETS)
def test_bounds_with_slack_hold_and_cost_less(name, method, wanted):
    torch.manual_seed(0)
    net, x, eps = NETS[name]().double().eval(), torch.rand(4, 6, dtype=torch.float64), 0.1
    attribution, found = Saliency(net), {}
    for slack in (0.0, 0.2):
        wanted.clear()
        certificate = lx.certify(attribution, x, eps=eps, target=1, abs=False, method=method,
                                 iterations=2, slack=slack)
        found[slack] = certificate, sum(wanted)
    (tight, many), (loose, few) = found.values()
    assert few < many
    assert float(loose.width.mean()) <= 1.5 * float(tight.width.mean())
    steps = torch.rand(100, *x.shape, dtype=x.dtype) * 2 - 1
    steps[::2] = steps[::2].sign()
    for step in steps:
        value = attribution.attribute(x + eps * step, target=1, abs=False)
        assert (value >= loose.lower - 1e-9).all() and (value <= loose.upper + 1e-9).all()


def test_the_least_gaps_are_left():
    gaps = torch.tensor([[1.0, 5.0, 0.5, 3.5], [0.0, 0.0, 1.0, 1.0]])
    assert _least(gaps, 0.15).tolist() == [[True, False, True, False], [True, True, False, False]]
    assert not _least(torch.full((1, 3), torch.inf), 0.5).any()


@pytest.mark.parametrize("bad", [1.0, -0.1, True, "a", None])
def test_a_slack_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="slack must be a number of at least 0 and below 1"):
        lx.Certifier(Saliency(nn.Linear(2, 2)), slack=bad)
