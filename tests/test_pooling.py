"""Max pooling: which positions may hold the maximum, the planes between which it lies, and ReLU put
behind it.
"""

import itertools

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from scipy.optimize import linprog
from torch import nn

import lirpa_explain as lx
from lirpa_explain.boxes import Box
from lirpa_explain.graph import capture
from lirpa_explain.operators.max_pooling import _weights
from lirpa_explain.operators.windows import Comparison, Race, Windows
from tests.truth import assert_sound, ball

POOLS = {
    "plain": {"kernel_size": 2},
    "overlap": {"kernel_size": 3, "stride": 2, "padding": 1},
    "gaps": {"kernel_size": (2, 1), "stride": (3, 2)},
    "dilation": {"kernel_size": 2, "stride": 1, "dilation": 2},
    "ceil": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
}


def net(pool: str, seed: int = 0) -> nn.Sequential:
    """A net in which windows are dead, decided and open, in both layers; in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(**POOLS[pool]),
        nn.Conv2d(3, 3, 2, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.LazyLinear(2),
    ).double().eval()


def image(rows: int = 3) -> torch.Tensor:
    return torch.rand(rows, 1, 7, 8, generator=torch.Generator().manual_seed(1),
                      dtype=torch.float64)


def box(*shape: int, spread: float = 1.0, seed: int = 0) -> Box:
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(*shape, generator=generator, dtype=torch.float64)
    radius = spread * torch.rand(*shape, generator=generator, dtype=torch.float64)
    return Box(center - radius, center + radius)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_upper_plane_is_the_lowest_in_the_middle(count):
    """Beside the lowest of all planes above the vertices of the box, by linear programming."""
    for seed in range(8):
        z = box(count, seed=seed)
        z = Box(z.lower.clamp(max=0), z.upper)
        weights, offset = _weights(z.upper, z.lower)
        corners = np.array(list(itertools.product(*zip(*(end.tolist() for end in z), strict=True))))
        heights = np.maximum(0, corners.max(1))
        assert (corners @ weights.numpy() + float(offset) >= heights - 1e-12).all()
        best = linprog(np.r_[z.center.numpy(), 1], A_ub=-np.c_[corners, np.ones(len(corners))],
                       b_ub=-heights, bounds=[(None, None)] * (count + 1)).fun
        assert float((weights * z.center).sum() + offset) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("rectified", [False, True])
def test_whoever_wins_a_race_is_a_candidate(pool, rectified):
    z = box(2, 2, 7, 8, spread=0.4)
    layer = nn.MaxPool2d(**POOLS[pool])
    pair = {name: list(value) if isinstance(value, tuple) else [value] * 2 for name, value in
            vars(layer).items() if name in ("stride", "padding", "dilation")}
    kernel = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,) * 2
    windows = Windows((7, 8), list(kernel), ceil=layer.ceil_mode, **pair)
    first = Race.of(z, windows, rectified)
    points = z.lower + z.width * torch.rand(12, *z.lower.shape,
                                            generator=torch.Generator().manual_seed(3),
                                            dtype=torch.float64)
    lead = torch.stack([windows.of(p) - windows.of(p).gather(2, first.pivot) for p in points])
    known = Comparison(first.pivot, Box(lead.amin(0), lead.amax(0)),
                       torch.zeros_like(first.undecided))
    races = [first, Race.of(z, windows, rectified, known)]
    assert 0 < int(races[1].undecided.sum()) < int(first.undecided.sum()) < first.undecided.numel()
    for race, point in itertools.product(races, points):
        values = windows.of(point, -torch.inf)
        winner = values.argmax(2, keepdim=True)
        counts = (values.amax(2, keepdim=True) > 0
                  if rectified else torch.ones_like(winner, dtype=torch.bool))
        assert race.candidates.gather(2, winner)[counts].all()
        is_alone = counts & ~race.undecided
        assert (race.pivot == winner)[is_alone].all()
        ahead = windows.of(point) - windows.of(point).gather(2, race.pivot)
        within = race.lead.outward(torch.full_like(ahead, 1e-12)).contains(ahead)
        assert within[race.candidates].all()


@pytest.mark.parametrize("pool", POOLS)
def test_relu_is_put_behind_the_pooling_and_changes_no_number(pool):
    model = net(pool)
    x = image().requires_grad_()
    model(x)
    module = capture(model, (x,))
    order = [step.operator for step in module.steps if step.operator in ("kink", "max_pool")]
    assert order == ["max_pool", "kink", "max_pool"]  # the last layers are linear
    assert [step.operator for step in module.steps if "gradient" in step.operator] == [
        "kink_gradient", "max_pool_gradient", "convolution_gradient"] * 2
    grid = (2 * x).round()  # many equal values, and many windows of zeros
    for points in (x, grid, torch.zeros_like(x)):
        points = points.detach().requires_grad_()
        expected, = torch.autograd.grad(model(points)[:, 0].sum(), points)
        cotangent = torch.eye(2, dtype=x.dtype)[:1].expand(len(x), -1)
        assert torch.equal(module(points.detach(), cotangent), expected.flatten(1))


def test_relu_stays_where_its_values_are_read_otherwise():
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = torch.relu(x - 0.5)
            return (nn.functional.max_pool2d(a, 2).flatten(1).sum(1, keepdim=True)
                    + a.flatten(1).sum(1, keepdim=True))

    module = capture(Twice(), (image(),))
    assert [step.operator for step in module.steps if step.operator in (
        "kink_gradient", "max_pool_gradient")] == ["max_pool_gradient", "kink_gradient"]


@pytest.mark.parametrize(("pool", "method"),
                         [*((pool, "CROWN") for pool in POOLS), ("plain", "IBP"),
                          ("overlap", "CROWN-IBP"), ("ceil", "CROWN-Optimized")])
def test_gradients_through_poolings_are_inside(pool, method):
    model, x, eps = net(pool), image(2).requires_grad_(), 0.05
    model(x)
    saliency = Saliency(model)
    certificate = lx.certify(saliency, x, eps=eps, target=1, abs=False, method=method, iterations=3)
    assert_sound(certificate, saliency, ball(x, eps, count=40), target=1, abs=False)
    alone = lx.certify(saliency, x[1:], eps=eps, target=1, abs=False, method=method, iterations=3)
    assert torch.allclose(alone.lower, certificate.lower[1:], atol=1e-12)
    assert torch.allclose(alone.upper, certificate.upper[1:], atol=1e-12)


def test_outward_bounds_through_poolings():
    model, x = net("overlap").float(), image(2).float()
    model(x)
    saliency = Saliency(model)
    x.requires_grad_()
    certificate = lx.certify(saliency, x, eps=0.02, target=1, abs=False, method="CROWN",
                             rounding="outward")
    assert_sound(certificate, saliency, ball(x, 0.02, count=40), target=1, abs=False)


def test_differences_decide_what_boxes_leave_open():
    """Two entries that move together: their boxes overlap by far, and one is always ahead."""
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pair = torch.stack([x, x + 0.1], 1)[:, None]
            return nn.functional.max_pool2d(pair, (2, 1)).square().flatten(1).sum(1)

    x = torch.tensor([[0.5, -0.3]], dtype=torch.float64)
    certificate = lx.certify(Saliency(Pair()), x, eps=0.2, abs=False, method="CROWN")
    slope = 2 * (x + 0.1)
    assert torch.allclose(certificate.lower, slope - 0.4)
    assert torch.allclose(certificate.upper, slope + 0.4)
