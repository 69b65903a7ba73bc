"""Limits of memory: they are kept, change no bound, and are refused where they cannot be kept."""

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.bounding import portions
from lirpa_explain.bounding.meter import Meter


class Residual(nn.Module):
    """Convolutions, a path beside them, and pooling; the same layers whatever the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(width, width, 3,
                                                                               padding=1)
        self.last = nn.Linear(width * 9, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = nn.functional.max_pool2d(torch.relu(self.second(x) + x), 2)
        return self.last(x.flatten(1))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Residual(24).double().eval()


@pytest.fixture
def meters(monkeypatch):
    """The meters of all calls."""
    made = []

    class Kept(Meter):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(portions, "Meter", Kept)
    return made


def images(count=1):
    return torch.rand(count, 2, 6, 6, dtype=torch.float64,
                      generator=torch.Generator().manual_seed(1))


def certified(net, x, eps=0.05, **settings):
    return lx.certify(Saliency(net), x, eps=eps, target=0, abs=False, **settings)


def test_a_meter_counts_what_lives():
    with Meter() as meter:
        x = torch.ones(1000, 1000)
        y = x[::2] + 1  # a view is no memory of its own
        assert meter.live == x.nbytes + y.nbytes
        z = y.add_(1)
        assert meter.live == x.nbytes + y.nbytes and z is y
        del x
        assert meter.live == y.nbytes
    assert meter.peak == 1000 * 1000 * 4 + y.nbytes


def test_a_meter_counts_what_gradients_keep():
    with Meter() as meter:
        x = torch.rand(256, 256, requires_grad=True)
        y = x.exp().exp()
        assert meter.live == x.nbytes + 2 * y.nbytes  # the first exponential is kept
        y.sum().backward()
        del y
        assert meter.live == 2 * x.nbytes


@pytest.mark.parametrize("method", ["CROWN", "CROWN-Optimized"])
def test_a_limit_is_kept_and_changes_nothing(net, meters, method):
    x, limit = images(), 2 ** 21 if method == "CROWN" else 2 ** 22
    free = certified(net, x, method=method, iterations=1)
    assert not meters
    limited = certified(net, x, method=method, iterations=1, memory_limit=limit)
    peak = max(meter.peak for meter in meters)
    assert limit / 3 < peak <= limit  # as much as there is, and no more
    # fewer functions at once stop descending one by one
    tolerance = 1e-9 if method == "CROWN" else 0.05
    assert torch.allclose(free.lower, limited.lower, rtol=tolerance, atol=tolerance)
    assert torch.allclose(free.upper, limited.upper, rtol=tolerance, atol=tolerance)


def test_what_is_too_little_is_refused_with_what_would_do(meters):
    torch.manual_seed(0)
    net, x = Residual(200).double().eval(), images()
    with pytest.raises(lx.MemoryLimitTooSmall, match="Give memory_limit=") as refused:
        certified(net, x, eps=1e-4, memory_limit=2 ** 20)
    assert isinstance(refused.value, ValueError) and refused.value.least > 2 ** 20
    meters.clear()
    certificate = certified(net, x, eps=1e-4, memory_limit=refused.value.least)
    assert max(meter.peak for meter in meters) <= refused.value.least
    free = certified(net, x, eps=1e-4)
    assert torch.allclose(free.lower, certificate.lower, rtol=1e-9, atol=1e-9)


def test_where_memory_is_short_fewer_rows_are_bounded_at_once(net, meters):
    x = images(4)
    free = lx.certify(IntegratedGradients(net), x, eps=0.01, target=0, n_steps=3)
    limited = lx.certify(IntegratedGradients(net), x, eps=0.01, target=0, n_steps=3,
                         memory_limit=3 * 2 ** 19)
    # more rows were too many
    assert meters[-1].peak <= 3 * 2 ** 19 < max(meter.peak for meter in meters)
    assert torch.allclose(free.lower, limited.lower, rtol=1e-9, atol=1e-9)
    assert torch.allclose(free.upper, limited.upper, rtol=1e-9, atol=1e-9)
