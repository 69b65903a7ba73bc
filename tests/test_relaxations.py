"""Lines, planes and ranges as plain tensor functions: against dense samples, corners and an
optimiser.
"""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from lirpa_explain.boxes import Box
from lirpa_explain.relaxations import piecewise
from lirpa_explain.relaxations.functions import sigmoid, tanh
from lirpa_explain.relaxations.product import planes, upper_plane
from lirpa_explain.relaxations.ranges import product_range, variance_range
from lirpa_explain.relaxations.univariate import lines, range_of
from tests.tolerances import PRODUCT

SLOPES = [0.0, 0.1, 1.0, 1.5, -0.2]


def random_boxes(count: int, seed: int, *shape: int) -> Box:
    """Boxes of widths 0, 1e-12, 1 and 1e8, many of them touching 0."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[
            torch.randint(0, len(values), (count, *shape), generator=generator)]

    ends = torch.rand(2, count, *shape, generator=generator,
                      dtype=torch.float64) * pick(0, 1e-12, 1, 1, 1, 1e8)
    low = pick(-1, -1, 0, 1) * ends[0]
    return Box(low, low + pick(0, 1, 1, 1) * ends[1])


def grid(low: Tensor, high: Tensor, count: int = 41) -> Tensor:
    """Points (count, *S), the ends among them, and 0 where it is inside."""
    t = torch.linspace(0, 1, count, dtype=low.dtype).reshape(-1, *[1] * low.ndim)
    points = torch.cat([low + t * (high - low), torch.zeros_like(low)[None]])
    return points.clamp(low, high)


def size(*tensors: Tensor) -> Tensor:
    return torch.stack([t.abs() for t in tensors]).amax(0).clamp(min=1)


def kink(t: Tensor, slope: float) -> Tensor:
    return torch.where(t >= 0, t, slope * t)


# Functions with a kink


@pytest.mark.parametrize("slope", SLOPES)
def test_kink_lines_hold_and_touch(slope):
    low, high = random_boxes(3000, 0)
    t = grid(low, high)
    (kl, bl), (ku, bu) = piecewise.kink_lines(low, high, slope)
    below, above = kink(t, slope) - (kl * t + bl), ku * t + bu - kink(t, slope)
    rounding = PRODUCT * size(low, high)
    assert (below >= -rounding).all() and (above >= -rounding).all()
    assert (below.amin(0) <= rounding).all() and (above.amin(0) <= rounding).all()
    one_sided = (low >= 0) | (high <= 0)
    assert (below + above <= 2 * rounding)[:, one_sided].all()


@pytest.mark.parametrize("slope", SLOPES)
def test_step_range_is_the_closed_hull(slope):
    low, high = random_boxes(3000, 1)
    least, most = piecewise.step_range(low, high, slope)
    left = torch.full_like(low, slope)
    right = torch.ones_like(low)
    reaches_left, reaches_right = low <= 0, high >= 0
    assert (least <= torch.where(reaches_left, left, right)).all()
    assert (least <= torch.where(reaches_right, right, left)).all()
    assert (most >= torch.where(reaches_left, left, right)).all()
    assert (most >= torch.where(reaches_right, right, left)).all()
    clear = 1e-12 * torch.maximum(low.abs(), high.abs())
    for stable, value in ((low > clear, 1.0), (high < -clear, slope)):
        assert (least == value)[stable].all() and (most == value)[stable].all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_end_that_rounding_may_have_moved_over_the_kink_counts_as_reaching_it(dtype):
    tiny = torch.finfo(dtype).eps
    low, high = torch.tensor([[tiny, -1.0], [1.0, -tiny]], dtype=dtype)
    least, most = piecewise.step_range(low, high, 0.0)
    assert least.tolist() == [0, 0] and most.tolist() == [1, 1]


# Products

IDENTITY = "identity"
FACTORS = {"tanh": tanh().function, "tanh_slope": tanh().derivative, "sigmoid": sigmoid().function}


@pytest.mark.parametrize("factor", [IDENTITY, "step", *FACTORS])
def test_planes_hold_on_the_whole_box(factor):
    """A product g d(t), with d the identity (McCormick's own case), a step, or a smooth
    function.
    """
    g, t = random_boxes(1500, 2), random_boxes(1500, 3)
    zero, one = torch.zeros_like(t[0]), torch.ones_like(t[0])
    if factor == IDENTITY:
        d, around, function = t, ((one, zero), (one, zero)), lambda t: t
    elif factor == "step":
        d = piecewise.step_range(*t, 0.1)
        around, function = ((zero, d[0]), (zero, d[1])), lambda t: torch.where(t > 0, one,
                                                                               0.1 * one)
    else:
        smooth = FACTORS[factor]
        d, around, function = range_of(smooth, *t), lines(smooth, *t), smooth.value
    lower, upper = planes(g, d, t, around)
    gs, ts = (grid(*box, count=15) for box in (g, t))
    gs, ts = gs[:, None], ts[None]
    product = gs * function(ts)
    rounding = 10 * PRODUCT * size(product.amax((0, 1)), product.amin((0, 1)), *g, *t, *(
        side.abs() * other.abs() for side in g for other in d))
    for sign, (a, b, c) in ((-1, lower), (1, upper)):
        gap = sign * (a * gs + b * ts + c - product)
        assert (gap >= -rounding).all()
        assert all(x.isfinite().all() for x in (a, b, c))


def test_planes_of_a_product_touch_two_corners():
    """Each of McCormick's planes meets x y in three of the four corners; mixtures of two, in the
    two they share.
    """
    g, t = (Box(low.clamp(-10, 10), low.clamp(-10, 10) + 0.1 + (high - low).clamp(max=10))
            for low, high in (random_boxes(800, seed) for seed in (4, 5)))
    one = torch.ones_like(t[0]), torch.zeros_like(t[0])
    for a, b, c in planes(g, t, t, (one, one)):
        touched = torch.stack([(a * x + b * y + c - x * y).abs() <= 1e-10
                               for x, y in itertools.product(g, t)]).sum(0)
        assert (touched >= 2).all()


def test_the_upper_plane_is_the_lowest_of_its_kind_in_the_middle():
    g, t = (random_boxes(800, seed).map(lambda end: end.clamp(-10, 10)) for seed in (6, 7))
    one = torch.ones_like(t[0]), torch.zeros_like(t[0])
    a, b, c = upper_plane(g, t, t, (one, one))
    (gl, gu), (tl, tu), x, y = g, t, (g[0] + g[1]) / 2, (t[0] + t[1]) / 2
    mccormick = torch.minimum(gu * y + tl * x - gu * tl, gl * y + tu * x - gl * tu)
    assert (a * x + b * y + c <= mccormick + 1e-6 * (gu - gl) * (tu - tl) + 1e-10).all()


# Ranges


def test_product_range_is_that_of_the_corners():
    g, d = random_boxes(2000, 8), random_boxes(2000, 9)
    low, high = product_range(g, d)
    corners = torch.stack([x * y for x, y in itertools.product(g, d)])
    assert torch.equal(low, corners.amin(0)) and torch.equal(high, corners.amax(0))
    inside = grid(*g)[:, None] * grid(*d)[None]
    rounding = PRODUCT * size(low, high)
    assert (inside >= low - rounding).all() and (inside <= high + rounding).all()
    wide = product_range((g[0][:, None], g[1][:, None]), d)
    assert wide[0].shape == (2000, 2000) and torch.equal(wide[0].diagonal(), low)


def test_absolute_range_is_exact():
    low, high = random_boxes(2000, 10)
    least, most = Box(low, high).absolute()
    values = grid(low, high).abs()
    assert torch.equal(least, values.amin(0)) and torch.equal(most, values.amax(0))


def variance_of(points: np.ndarray) -> float:
    return float(np.var(points))


def test_variance_range_holds_and_its_lower_end_is_attained():
    """Lower end: an optimiser finds a point with that variance. Upper end: above all corners, never
    above chance.
    """
    generator = torch.Generator().manual_seed(11)
    centers = torch.randn(25, 5, 1, generator=generator, dtype=torch.float64)
    radii = torch.rand(25, 5, 1, generator=generator,
                       dtype=torch.float64) * torch.tensor([0, 0.1, 1, 3, 1])[:, None]
    box = Box(centers - radii, centers + radii)
    low, high = variance_range(box)
    for i, (lower, upper) in enumerate(zip(*box, strict=True)):
        ends = list(zip(lower[:, 0].tolist(), upper[:, 0].tolist(), strict=True))
        best = min(minimize(variance_of, np.clip(start, *zip(*ends, strict=True)), bounds=ends,
                            tol=1e-14).fun
                   for start in (centers[i, :, 0].numpy(), np.full(5, centers[i].mean().item())))
        assert low[i].item() <= best + 1e-12
        assert low[i].item() >= best - 1e-6
        largest = max(map(variance_of, itertools.product(*ends)))
        assert high[i].item() >= largest - 1e-12
        assert high[i].item() <= 1.5 * largest + 1e-12
    points = box[0] + (box[1] - box[0]) * torch.rand(300, 25, 5, 1, generator=generator,
                                                     dtype=torch.float64)
    sampled = points.var(2, correction=0)
    assert (sampled >= low - 1e-12).all() and (sampled <= high + 1e-12).all()


def test_variance_range_of_extreme_boxes():
    point = torch.tensor([[[1.0], [3.0], [5.0]]], dtype=torch.float64)
    for value, side in zip((8 / 3, 8 / 3), variance_range(Box.point(point)), strict=True):
        assert side.item() == pytest.approx(value, rel=1e-9)
    one_sample = variance_range(Box(torch.zeros(2, 1, 3), torch.ones(2, 1, 3)))
    assert torch.equal(one_sample[0], torch.zeros(2, 3)) and (one_sample[1] >= 0).all()
    low, high = random_boxes(40, 12, 4, 3)
    least, most = variance_range(Box(low, high))
    corners = torch.stack([low, high, (low + high) / 2]).var(2, correction=0)
    assert least.isfinite().all() and most.isfinite().all()
    rounding = (1e-9 * (high - low).abs().amax(1).square().clamp(min=1)
                + 1e-9 * low.abs().amax(1).square())
    assert ((least <= corners.amin(0) + rounding).all()
            and (most >= corners.amax(0) - rounding).all())


def test_smaller_boxes_have_smaller_ranges():
    outer, other = random_boxes(500, 13, 4, 2), random_boxes(500, 14, 4, 2)
    inner = Box(*(outer[0] + t * (outer[1] - outer[0]) for t in (0.25, 0.5)))
    for function in (lambda box: product_range(box, other), Box.absolute, variance_range):
        (low, high), (inner_low, inner_high) = function(outer), function(inner)
        rounding = 1e-9 * size(low, high)
        assert (low <= inner_low + rounding).all() and (inner_high <= high + rounding).all()


def test_a_factor_that_is_fixed_leaves_no_roundings_of_the_other():
    generator = torch.Generator().manual_seed(0)
    g = Box(-1e7 * torch.rand(100, generator=generator), 1e7 * torch.rand(100, generator=generator))
    t = torch.rand(100, generator=generator) + 0.1
    one, zero = torch.ones(100), torch.zeros(100)
    for a, b, c in planes(g, Box(one, one), Box(t, t + 1), ((zero, one), (zero, one))):
        assert bool((a == 1).all() and (b == 0).all() and (c == 0).all())


@pytest.mark.parametrize("sign", [0, 1, -1])
def test_product_ranges_lie_at_corners_and_move_with_them(sign):
    """Of factors of any sign, of one that is at least 0, and of one that is at most 0; with one row
    for many.
    """
    def boxes(generator: torch.Generator) -> list[Tensor]:
        g, d = torch.randn(2, 1, 7, generator=generator), torch.randn(2, 50, 7, generator=generator)
        return [end.double() for x in (g, sign * d.abs() if sign else d)
                for end in (x.amin(0), x.amax(0))]

    touching = [*random_boxes(300, 15, 2),
                *(sign * end.abs() if sign else end for end in random_boxes(300, 16, 2))]
    touching[2:] = torch.minimum(*touching[2:]), torch.maximum(*touching[2:])
    for gl, gu, dl, du in (boxes(torch.Generator().manual_seed(0)), touching):
        corners = torch.stack([g * d for g in (gl, gu) for d in (dl, du)])
        low, high = product_range((gl, gu), (dl, du))
        assert torch.equal(low, corners.amin(0)) and torch.equal(high, corners.amax(0))
    ends = [end.requires_grad_() for end in boxes(torch.Generator().manual_seed(1))]
    assert torch.autograd.gradcheck(lambda *e: product_range((e[0], e[1]), (e[2], e[3])), ends)
