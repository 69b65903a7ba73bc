"""Networks of many steps: passes end at linear bounds that are known, which hold, and are hardly
wider.
"""

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.bounding import backward, network
from tests.truth import assert_inside, sample_box


class Net(nn.Module):
    def __init__(self, kind: str, **options) -> None:
        super().__init__()
        self.recurrent = getattr(nn, kind)(2, 3, batch_first=True, **options)
        self.last = nn.Linear(3 * (2 if options.get("bidirectional") else 1), 2)

    def forward(self, x):
        return self.last(self.recurrent(x)[0][:, -1])


CASES = {
    "rnn": ("RNN", {}, Saliency, {"abs": False}, torch.inf),
    "relu": ("RNN", {"nonlinearity": "relu", "bidirectional": True}, Saliency, {"abs": False}, 2.0),
    "gru-path": ("GRU", {}, IntegratedGradients, {"n_steps": 2}, torch.inf),
    "lstm": ("LSTM", {}, Saliency, {"abs": False}, 2.0),
}


@pytest.mark.parametrize("name", CASES)
def test_ended_passes_hold_and_are_hardly_wider(name, monkeypatch):
    kind, options, attribution, keywords, norm = CASES[name]
    torch.manual_seed(0)
    net, x = Net(kind, **options).double(), torch.randn(2, 4, 2).double()
    attribution = attribution(net)
    whole = lx.certify(attribution, x, eps=0.05, norm=norm, target=1, **keywords)
    for module in (backward, network):
        monkeypatch.setattr(module, "FAR", 12)
    ended = lx.certify(attribution, x, eps=0.05, norm=norm, target=1, **keywords)
    assert not torch.equal(ended.upper, whole.upper)
    assert float(ended.width.mean()) < 1.5 * float(whole.width.mean())
    radius = 0.05 / (x[0].numel() ** 0.5 if norm == 2 else 1)
    points = sample_box(x - radius, x + radius, 10, torch.Generator().manual_seed(0))
    values = torch.stack([attribution.attribute(p, target=1, **keywords).detach().flatten(1)
                          for p in points])
    assert_inside((ended.lower.flatten(1), ended.upper.flatten(1)), values)


def test_one_number_an_example_may_end_a_pass(monkeypatch):
    for module in (backward, network):
        monkeypatch.setattr(module, "FAR", 3)

    class Sums(nn.Module):
        def forward(self, x):
            for _ in range(3):
                x = torch.tanh(torch.tanh(x).sum(1))[:, None] * torch.ones(1, 2, dtype=x.dtype)
            return x

    saliency, x = Saliency(Sums()), torch.randn(2, 2).double()
    certificate = lx.certify(saliency, x, eps=0.1, target=0, abs=False)
    points = sample_box(x - 0.1, x + 0.1, 10, torch.Generator().manual_seed(0))
    values = torch.stack([saliency.attribute(p, target=0, abs=False).detach() for p in points])
    assert_inside((certificate.lower, certificate.upper), values)


def test_examples_with_different_open_entries_keep_their_own_lines(monkeypatch):
    """All that the first leaves open is bounded; of the second, some, and each line is that of its
    entry.
    """
    for module in (backward, network):
        monkeypatch.setattr(module, "FAR", 5)
    torch.manual_seed(0)
    layers = nn.Linear(3, 3), nn.LeakyReLU(0.1), nn.Hardsigmoid(), nn.Linear(3, 3), nn.LogSoftmax(1)
    net = nn.Sequential(*layers).double()
    net[0].weight.data.copy_(torch.eye(3))
    net[0].bias.data.zero_()
    saliency, x = Saliency(net), torch.tensor([[2.0, -2.0, 1.0], [0.0, 1.0, 2.0]]).double()
    keywords = {"target": 0, "abs": False}
    batch = lx.certify(saliency, x, eps=0.01, **keywords)
    for i in range(2):
        alone = lx.certify(saliency, x[i:i + 1], eps=0.01, **keywords)
        for side in ("lower", "upper"):
            assert torch.allclose(getattr(batch, side)[i:i + 1], getattr(alone, side), rtol=1e-9,
                                  atol=1e-12)
