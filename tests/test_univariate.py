"""Lines and ranges of functions of one variable, against dense grids, finite differences and torch itself."""

import math

import numpy
import pytest
import torch
from torch.nn import functional as F

from lirpa_explain.relaxations.univariate import (
    FUNCTIONS,
    SIGMOID,
    SIGMOID_SLOPE,
    TANH,
    TANH_SLOPE,
    Smooth,
    lines,
    range_of,
    softplus,
    softplus_slope,
)

CASES = {
    **FUNCTIONS,
    "softplus_3_5": softplus(beta=3.0, threshold=5.0),  # a visible jump: log(1 + exp(-5)) / 3 = 0.002
    "softplus_slope_3_5": softplus_slope(beta=3.0, threshold=5.0),
    "sine": Smooth(  # several pieces of either kind; only for intervals within [-3.5 pi, 3.5 pi]
        torch.sin,
        torch.cos,
        turns=tuple(i * math.pi for i in range(-3, 4)),
        extrema=tuple((i + 0.5) * math.pi for i in range(-3, 3)),
    ),
}
TORCH = {  # what the functions stand for, as torch computes it
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "softplus_3_5": lambda t: F.softplus(t, 3.0, 5.0),
    "sine": torch.sin,
}
TORCH |= {
    f"{name}_slope": lambda t, function=function: torch.func.grad(lambda x: function(x).sum())(t)
    for name, function in TORCH.items()
}
TORCH["softplus_slope_3_5"] = TORCH["softplus_3_5_slope"]
SMOOTH = [name for name in CASES if not name.endswith("3_5")]


@pytest.fixture(params=CASES)
def name(request) -> str:
    return request.param


def intervals(f: Smooth, count: int = 300, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Narrow to wide intervals, some at turns, extrema and the switch, some ending at 0, some of width 0."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)

    switch = (x for x in (f.exact_below, f.linear_above) if x < math.inf)
    special = [0.0, *f.turns, *f.extrema, *switch]
    centres = [uniform(-3, 3), uniform(-30, 30), torch.tensor(special).double().repeat(count)[:count]]
    center = torch.cat([c + 10 ** uniform(-8, 0) * uniform(-1, 1) for c in centres])
    width = torch.cat([10 ** uniform(-6, 3) for _ in centres])
    part = torch.cat([uniform(0, 1) for _ in centres])
    lo, hi = center - part * width, center + (1 - part) * width
    points = torch.tensor(special, dtype=torch.float64)
    zero, one = torch.zeros(1, dtype=torch.float64), uniform(0, 4)
    lo = torch.cat([lo, center, points, zero.expand_as(one), -one, points, points - 1])
    hi = torch.cat([hi, center, points, one, zero.expand_as(one), points + 1, points])
    if f is CASES["sine"]:
        lo, hi = lo.clamp(-9, 9), hi.clamp(-9, 9)
    return lo, hi


def grid(f: Smooth, lo: torch.Tensor, hi: torch.Tensor, count: int = 200) -> torch.Tensor:
    """Points of every interval (P, N): evenly spaced, where functions bend, midpoints and ends."""
    steps = torch.linspace(0, 1, count, dtype=lo.dtype)[:, None]
    bends = torch.linspace(-9, 9, count, dtype=lo.dtype)[:, None]
    even, ends = lo + (hi - lo) * steps, torch.stack([lo, (lo + hi) / 2, hi])
    return torch.cat([even, bends.expand(-1, len(lo)), ends]).clamp(lo, hi)


def excess(k: torch.Tensor, b: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How far the line lies above the function, relative to the numbers added."""
    return (k * t + b - y) / (1 + y.abs() + (k * t).abs() + b.abs())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_lines_and_range_hold(name, dtype, tolerance):
    f = CASES[name]
    lo, hi = (end.to(dtype) for end in intervals(f))
    t = grid(f, lo, hi)
    y = TORCH[name](t)
    (kl, bl), (ku, bu) = lines(f, lo, hi)
    assert excess(ku, bu, t, y).min() >= -tolerance
    assert excess(kl, bl, t, y).max() <= tolerance
    low, high = range_of(f, lo, hi)
    assert (low <= y + tolerance * (1 + y.abs())).all() and (y - tolerance * (1 + y.abs()) <= high).all()


def test_value_is_what_torch_computes(name):
    f = CASES[name]
    t = torch.linspace(-40, 40, 100_001, dtype=torch.float64)
    y, v = TORCH[name](t), f.value(t)
    below, above = t < f.exact_below, t > f.linear_above
    torch.testing.assert_close(v[below], y[below], rtol=1e-12, atol=1e-15)
    assert torch.equal(y[above], f.tail[0] * t[above] + f.tail[1])
    assert ((v - y).abs() <= f.error + 1e-14).all()


def test_slope_is_the_derivative(name):
    f = CASES[name]
    t = torch.linspace(-30, 30, 10_001, dtype=torch.float64)
    slope = f.slope(t)
    torch.testing.assert_close(slope, torch.func.grad(lambda x: f.value(x).sum())(t), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(slope, (f.value(t + 1e-5) - f.value(t - 1e-5)) / 2e-5, rtol=0, atol=1e-8)


def test_turns_and_extrema_are_all_there_are(name):
    f = CASES[name]
    t = torch.linspace(-10.9, 10.9, 4_000, dtype=torch.float64)  # even count: no point at 0
    for differences, expected in ((f.value(t).diff(), f.extrema), (f.slope(t).diff(), f.turns)):
        clear = differences.abs() > 1e-14  # the rest is rounding
        sign, at = differences[clear].sign(), ((t[1:] + t[:-1]) / 2)[clear]
        changes = ((at[1:] + at[:-1]) / 2)[sign[1:] != sign[:-1]]
        torch.testing.assert_close(changes, changes.new_tensor(expected), rtol=0, atol=0.01)


def envelope_at_midpoint(t: numpy.ndarray, y: numpy.ndarray) -> float:
    """The concave envelope of the points at the middle of the interval: the highest chord over it."""
    m = (t[0] + t[-1]) / 2
    left, right = t <= m, t >= m
    a, b, fa, fb = t[left][:, None], t[right][None], y[left][:, None], y[right][None]
    with numpy.errstate(invalid="ignore"):
        chords = fa + (fb - fa) * (m - a) / (b - a)
    return numpy.nanmax(chords)


@pytest.mark.parametrize("name", [name for name in CASES if name != "sine"])  # its best lines may touch twice
def test_lines_are_almost_the_tightest(name):
    """Area between line and function, compared with that of the best line, which supports the envelope."""
    f = CASES[name]
    lo, hi = intervals(f, count=60, seed=1)
    wide = (hi - lo > 1e-2) & ((hi < f.exact_below) | (f.error < 1e-8))
    lo, hi = lo[wide], hi[wide]
    m, worst = (lo + hi) / 2, 0.0
    t = grid(f, lo, hi).sort(0).values
    for sign, (k, b) in zip((-1, 1), lines(f, lo, hi), strict=True):
        y = sign * f.value(t)
        mean = torch.trapezoid(y, t, dim=0) / (hi - lo)
        line = sign * (k * m + b) - mean
        columns = zip(t.T.numpy(), y.T.numpy(), strict=True)
        best = torch.tensor([envelope_at_midpoint(*column) for column in columns])
        # 1e-8: the grid resolves no more, and f.error may be in the line
        ratio = (line - 1e-8) / (best - mean).clamp(min=1e-12)
        worst = max(worst, ratio.max().item())
    print(f"{name}: {worst:.5f}")
    assert worst <= 1.02


def test_ranges_are_exact_and_nest(name):
    f = CASES[name]
    lo, hi = intervals(f, seed=2)
    low, high = range_of(f, lo, hi)
    y = TORCH[name](grid(f, lo, hi, count=1000))
    near = (hi - lo < 20) & ((hi < f.exact_below) | (lo > f.linear_above))
    assert ((high - y.amax(0))[near] < 1e-4).all() and ((y.amin(0) - low)[near] < 1e-4).all()
    for grow in (1e-9, 1e-3, 1.0):
        wider_low, wider_high = range_of(f, lo - grow, hi + grow)
        assert (wider_low <= low + 1e-15).all() and (high - 1e-15 <= wider_high).all()


def test_width_zero_gives_the_tangent(name):
    f = CASES[name]
    point = torch.cat([torch.linspace(-40, 40, 999), torch.tensor([0.0, *f.turns, *f.extrema])]).double()
    point = point[(point < f.exact_below) | (point > f.linear_above)]
    (kl, bl), (ku, bu) = lines(f, point, point)
    assert torch.equal(kl, ku) and torch.equal(bl, bu)
    torch.testing.assert_close(kl * point + bl, TORCH[name](point), rtol=1e-13, atol=1e-13)
    smooth = point < f.exact_below
    torch.testing.assert_close(kl[smooth], f.slope(point)[smooth], rtol=0, atol=0)
    low, high = range_of(f, point, point)
    assert torch.equal(low, high)


@pytest.mark.parametrize("build", [softplus, softplus_slope])
def test_the_switch_of_softplus_costs_almost_nothing(build):
    f = build()
    lo = torch.tensor([20.0, 20.00001, 20.0001, 35.0], dtype=torch.float64)
    for hi in (lo, lo + 1, lo + 10):
        (kl, bl), (ku, bu) = lines(f, lo, hi)
        for t in (lo, hi):
            assert ((ku - kl) * t + bu - bl < 1e-8).all()


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_equal_finite_differences(name):
    """Of both lines at a fixed point, by both ends, wherever the choice of the slope does not change near."""
    f = CASES[name]
    generator = torch.Generator().manual_seed(3)
    lo = 8 * torch.rand(400, generator=generator, dtype=torch.float64) - 6
    hi = lo + 0.1 + 5 * torch.rand(400, generator=generator, dtype=torch.float64)
    lo.requires_grad_()
    hi.requires_grad_()
    t = torch.lerp(lo, hi, torch.tensor([[0.0], [0.3], [1.0]]).double()).detach()

    def bounds(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        (kl, bl), (ku, bu) = lines(f, a, b)
        return torch.stack([kl * t + bl, ku * t + bu]).flatten(0, 1)  # (6, N)

    step = 1e-5
    by_difference = torch.stack([
        (bounds(lo + step, hi) - bounds(lo - step, hi)) / (2 * step),
        (bounds(lo, hi + step) - bounds(lo, hi - step)) / (2 * step),
    ])
    rows = bounds(lo, hi)
    pairs = [torch.stack(torch.autograd.grad(row.sum(), (lo, hi), retain_graph=True)) for row in rows]
    by_autograd = torch.stack(pairs, dim=1)
    error = (by_autograd - by_difference).abs()
    assert (error < 1e-6).double().mean() > 0.99  # the rest: the choice changes within the step


def test_gradients_are_finite(name):
    f = CASES[name]
    lo, hi = intervals(f)
    if name != "sine":
        lo = torch.cat([lo, lo.new_tensor([-1e30, -1e4, -1e4, 0.0, 1e4])])
        hi = torch.cat([hi, hi.new_tensor([1e30, 1e4, 1e30, 1e30, 1e4])])
    for dtype in (torch.float64, torch.float32):
        ends = lo.to(dtype).requires_grad_(), hi.to(dtype).requires_grad_()
        (kl, bl), (ku, bu) = lines(f, *ends)
        low, high = range_of(f, *ends)
        for output in (kl, bl, ku, bu, low, high):
            assert output.isfinite().all()
            assert all(g.isfinite().all() for g in torch.autograd.grad(output.sum(), ends, retain_graph=True))


@pytest.mark.parametrize("f", [TANH, TANH_SLOPE, SIGMOID, SIGMOID_SLOPE])
def test_huge_intervals_cost_little_more_than_the_range(f):
    lo = torch.tensor([-1e4, -1e30, -1e4, -1e30, -1.0, -1e30], dtype=torch.float64)
    hi = torch.tensor([1e4, 1e30, 1e30, 1e4, 1e30, 1.0], dtype=torch.float64)
    (kl, bl), (ku, bu) = lines(f, lo, hi)
    low, high = range_of(f, lo, hi)
    m = (lo + hi) / 2
    assert (ku * m + bu <= high + 1e-3).all() and (low - 1e-3 <= kl * m + bl).all()


def test_any_shape_and_negative_beta():
    lo = torch.rand(2, 3, 4)
    (kl, bl), (ku, bu) = lines(TANH, lo, lo + 1)
    assert {(x.shape, x.dtype) for x in (kl, bl, ku, bu)} == {(lo.shape, torch.float32)}
    assert {x.dtype for line in lines(softplus(), lo, 30 + lo) for x in line} == {torch.float32}
    assert lines(TANH, lo[0, 0, 0], lo[0, 0, 0])[0][0].shape == ()
    assert lines(SIGMOID_SLOPE, lo[:0], lo[:0])[0][0].shape == (0, 3, 4)
    with pytest.raises(ValueError, match="beta > 0"):
        softplus(beta=-1.0)
