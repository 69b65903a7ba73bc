"""Monotonicity over a box: directions that are certain, refuted ones, and where they are open."""

import pytest
import torch
from torch import nn

import lirpa_explain as lx


def net(seed, *sizes):
    torch.manual_seed(seed)
    layers = [m for a, b in zip(sizes, sizes[1:], strict=False)
              for m in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()


def derivatives(model, low, high, count=3000):
    share = torch.rand(count, len(low), dtype=torch.float64,
                       generator=torch.Generator().manual_seed(2))
    x = low + share * (high - low)
    x.requires_grad_()
    return x.detach(), torch.autograd.grad(model(x).sum(), x)[0]


@pytest.mark.parametrize("seed", range(3))
def test_directions_agree_with_derivatives(seed):
    model, low, high = net(seed, 4, 5, 5, 1), -torch.ones(4).double(), torch.ones(4).double()
    found = lx.certify_monotone(model, low, high, domains=256)
    x, slopes = derivatives(model, low, high)
    assert bool((slopes >= found.lower - 1e-9).all() and (slopes <= found.upper + 1e-9).all())
    assert bool((found.found_lower >= found.lower).all()
                and (found.found_upper <= found.upper).all())
    for j in range(4):
        if found.direction[j]:
            assert bool((slopes[:, j].sign() == found.direction[j]).all())
            assert len(found.open_low[j]) == 0
        first = 1 if float(found.found_upper[j]) > 0 and not bool(found.refuted[j]) else -1
        if not found.direction[j] and not found.refuted[j]:
            other = x[slopes[:, j] * first <= 0]
            inside = ((other[:, None] >= found.open_low[j]).all(2)
                      & (other[:, None] <= found.open_high[j]).all(2))
            assert bool(inside.any(1).all())
    assert found.direction.any() or found.refuted.any()


def test_a_chosen_feature_that_turns_is_refuted_and_one_that_does_not_is_proven():
    class Turning(nn.Module):
        def forward(self, x):
            return torch.sin(3 * x[:, :1]) + x[:, 1:]

    found = lx.certify_monotone(Turning(), torch.zeros(2).double(), torch.ones(2).double(), [1, 0])
    assert found.direction.tolist() == [1, 0] and found.refuted.tolist() == [False, True]
    assert found.features.tolist() == [1, 0]


@pytest.mark.parametrize("low, high, features, words", [
    (1.0, 0.0, None, "low <= high"), (0.0, 1.0, [5], "features"), (0.0, 1.0, [0.5], "features")])
def test_bad_arguments(low, high, features, words):
    with pytest.raises(ValueError, match=words):
        lx.certify_monotone(net(0, 2, 3, 1), torch.full((2,), low).double(),
                            torch.full((2,), high).double(), features)
