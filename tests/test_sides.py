"""Bounds of one side first: those that close a neuron suffice, and others are as they were."""

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

import lirpa_explain as lx
from lirpa_explain.bounding import schedule

NETS = {
    "pooling": lambda: nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=2),
        nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(72, 10), nn.ReLU(),
        nn.Linear(10, 2)),
    "groups": lambda: nn.Sequential(nn.Conv2d(2, 6, 3, padding=2, dilation=2, groups=2), nn.ReLU(),
                                    nn.Conv2d(6, 6, 3, groups=3), nn.LeakyReLU(), nn.AvgPool2d(2),
                                    nn.Flatten(), nn.Linear(54, 10), nn.ReLU(), nn.Linear(10, 2)),
    "layers": lambda: nn.Sequential(nn.Flatten(), nn.Linear(162, 30), nn.ReLU(), nn.Linear(30, 20),
                                    nn.Softplus(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 2)),
}


@pytest.mark.parametrize("name", NETS)
def test_one_side_first_is_as_tight_and_sound(name, monkeypatch):
    torch.manual_seed(0)
    net, x = NETS[name]().double().eval(), torch.rand(3, 2, 9, 9, dtype=torch.float64)
    ig, eps = IntegratedGradients(net), 0.02
    found = {}
    for worth in (0, 2 ** 60):
        monkeypatch.setattr(schedule, "ONE_SIDE", worth)
        sides = []
        monkeypatch.setattr(schedule.Schedule, "_lower_sums", counted(sides))
        found[worth] = lx.certify(ig, x, eps=eps, target=0, n_steps=3)
        assert bool(sides) == (worth == 0)
    one, both = found.values()
    assert (one.width <= both.width * (1 + 1e-6) + 1e-9).all()
    samples = torch.rand(200, *x.shape, dtype=x.dtype).mul(2).sub(1)
    samples[::2] = samples[::2].sign()
    for step in samples[:40]:
        reached = ig.attribute(x + eps * step, target=0, n_steps=3)
        assert (reached >= one.lower - 1e-9).all() and (reached <= one.upper + 1e-9).all()


def counted(calls, plain=schedule.Schedule._lower_sums):
    def sums(self, *args):
        calls.append(args)
        return plain(self, *args)

    return sums
