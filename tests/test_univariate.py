"""Lines and ranges of every function of one variable, against dense grids, finite differences and
torch itself.
"""

import math

import numpy
import pytest
import torch
from scipy.spatial import ConvexHull
from torch import Tensor

from lirpa_explain.operators import ACTIVATIONS as TABLE
from lirpa_explain.relaxations.declaration import Differentiable, Formula, Function, declare, line
from lirpa_explain.relaxations.functions import hardsigmoid, softplus
from lirpa_explain.relaxations.univariate import (
    _extremes,
    is_straight,
    line_family,
    lines,
    range_of,
)
from tests.cases import ACTIVATIONS, RARE, label_of
from tests.test_operators import FORWARD, vjp
from tests.tolerances import LINE

MORE = {  # settings that bend functions in other ways than those tried as operators
    "elu": [{"alpha": -0.5}, {"alpha": 3.0}],
    "hardshrink": [{"width": 2.0}],
    "power": [{"exponent": e} for e in (4.0, 5.0, -2.0, -3.0, -0.5, 1.5, 2.5)],
    "softplus": [{"beta": 3.0, "threshold": 5.0}],  # a visible jump: log(1 + exp(-5)) / 3 = 0.002
}
DECLARED: dict[str, tuple[Differentiable, str, dict]] = {
    f"{name}-{label_of(settings)}": (row.build(**settings), name, settings)
    for name, row in TABLE.items() if row.build is not None
    for settings in [*(settings for settings, *_ in ACTIVATIONS[name]), *MORE.get(name, [])]
}
DECLARED["snake"] = (declare(Formula(  # a trend and a period
                                     lambda t: t + torch.sin(t).square(),
                                     lambda t: 1 + torch.sin(2 * t), lambda t: 2 * torch.cos(2 * t),
                                     ((0.75 * math.pi,), (math.pi / 4, 0.75 * math.pi),
                                      (0.0, math.pi / 2))), period=math.pi, trend=1.0), "snake", {})
CASES: dict[str, Function] = {f"{name}/{part}": getattr(pair, part)
                              for name, (pair, *_) in DECLARED.items()
                              for part in ("function", "derivative")}
each_function = pytest.mark.parametrize("name", [pytest.param(
    name, marks=pytest.mark.slow) if name.split("-")[0] in RARE else name for name in CASES])

#: What grows beyond the largest number, or has a domain that ends.
GROW = ("exp", "power", "sinh", "cosh", "bell")

#: Area between line and function over that of the best line; where the search ends before the best
#: is found.
AREA = 1.02


def test_every_activation_is_tried():
    assert set(TABLE) == set(ACTIVATIONS) == set(FORWARD)


def value(name: str, t: Tensor) -> Tensor:
    """The function, or its derivative, as torch computes it."""
    key, part = name.split("/")
    pair, operator, settings = DECLARED[key]
    if operator not in FORWARD:
        return CASES[name].value(t)
    if part == "function":
        return FORWARD[operator](t, **({"alpha": 1.0, "scale": 1.0, "input_scale": 1.0} | settings
                                       if operator == "elu" else settings))
    full = ({"alpha": 1.0, "scale": 1.0, "input_scale": 1.0} | settings
            if operator == "elu" else settings)
    return vjp(lambda x: FORWARD[operator](x, **full), torch.ones_like(t), t)


def special(f: Function) -> list[float]:
    return sorted({0.0, *f.breaks,
                   *(x for piece in f.pieces for x in (*piece.turns, *piece.extrema))})


def defined(f: Function, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """Intervals moved into the domain, and away from poles."""
    if f.domain[0] != -math.inf and f.domain != (0.0, math.inf):
        low, high = (end + by for end, by in zip(f.domain, (1e-2, -1e-2), strict=True))
        if high == math.inf:
            return low + torch.minimum(lo.abs(), hi.abs()), low + torch.maximum(lo.abs(), hi.abs())
        return tuple(low + (high - low) * torch.sigmoid(end) for end in (lo, hi))
    if f.domain[0] == 0 or f.poles:
        lo, hi = torch.minimum(lo.abs(), hi.abs()), torch.maximum(lo.abs(), hi.abs())
        lo, hi = (lo + 1e-2, hi + 1e-2) if f.poles else (lo, hi)
    return lo, hi


def intervals(f: Function, count: int = 200, seed: int = 0, widest: float = 3.0,
              largest: float = 1e3) -> tuple[Tensor, Tensor]:
    """Narrow to wide intervals, some at breaks, turns and extrema, some that begin or end there,
    some of width 0.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, n: int = count) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)

    points = torch.tensor(special(f), dtype=torch.float64)
    centres = [uniform(-3, 3), uniform(-30, 30), points.repeat(count)[:count]]
    center = torch.cat([c + 10 ** uniform(-8, 0) * uniform(-1, 1) for c in centres])
    width, part = 10 ** uniform(-6, widest, 3 * count), uniform(0, 1, 3 * count)
    lo, hi = center - part * width, center + (1 - part) * width
    reach = uniform(0.5, 4, len(points))
    lo, hi = (torch.cat([end, center, points, *more]) for end, more in
              ((lo, (points, points - reach)), (hi, (points + reach, points))))
    if any(name.startswith(GROW) and f is g for name, g in CASES.items()):
        largest = 20.0
    return defined(f, lo.clamp(-largest, largest), hi.clamp(-largest, largest))


def apart(f: Function, lo: Tensor, hi: Tensor) -> Tensor:
    """Which intervals do not end at a break: there they reach both sides, and a grid sees one."""
    return torch.stack([((end - b).abs() > 1e-6 * (1 + abs(b))) for b in (*f.breaks, *f.poles)
                        for end in (lo, hi)] or [lo == lo]).all(0)


def grid(f: Function, lo: Tensor, hi: Tensor, count: int = 200) -> Tensor:
    """Points of every interval (P, N): evenly spaced, ends, and the special points and both sides
    of them.
    """
    steps = torch.linspace(0, 1, count, dtype=lo.dtype)[:, None]
    bends = torch.tensor(special(f), dtype=lo.dtype)[:, None]
    near = torch.cat([bends, bends - 1e-9, bends + 1e-9, bends * (1 + 3e-7)]).expand(-1, len(lo))
    return torch.cat([lo + (hi - lo) * steps, near, lo[None], hi[None]]).clamp(lo, hi)


def excess(k: Tensor, b: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """How far the line lies above the function, relative to the numbers added."""
    return (k * t + b - y) / (1 + y.abs() + (k * t).abs() + b.abs())


@each_function
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_lines_families_and_ranges_hold(name, dtype):
    f, tolerance = CASES[name], LINE[dtype]
    lo, hi = (end.to(dtype) for end in intervals(f))
    t = grid(f, lo, hi)
    y = value(name, t)
    low, high = range_of(f, lo, hi)
    assert ((low <= y + tolerance * (1 + y.abs())).all()
            and (y - tolerance * (1 + y.abs()) <= high).all())
    below, above = line_family(f, lo, hi)
    for line_, first, sign in zip((below, above), lines(f, lo, hi), (-1, 1), strict=True):
        assert line_[0].shape == line_[1].shape and line_[0].shape[1:] == lo.shape
        assert line_[0].isfinite().all() and line_[1].isfinite().all()
        for k, b in zip(*line_, strict=True):
            assert (sign * excess(k, b, t, y)).min() >= -tolerance
        assert ((line_[0][0] * lo + line_[1][0]) - (first[0] * lo + first[1])).abs().max() \
            <= 1e3 * tolerance * (1 + y.abs().max())


@each_function
def test_the_value_is_what_torch_computes(name):
    """Also at the breaks; and what it is there lies between the values of both sides."""
    f = CASES[name]
    t = torch.cat([torch.linspace(-40, 40, 10_001, dtype=torch.float64),
                   torch.tensor(special(f)).double()])
    t = t[(t >= f.domain[0]) & (t <= f.domain[1]) & ~torch.isin(t, t.new_tensor(f.poles))]
    torch.testing.assert_close(f.value(t), value(name, t), rtol=1e-10, atol=1e-14)
    breaks = torch.tensor([b for b in f.breaks if b not in f.poles], dtype=torch.float64)
    low, high = range_of(f, breaks, breaks)
    assert (low <= f.value(breaks)).all() and (f.value(breaks) <= high).all()


@each_function
def test_slopes_turns_and_extrema_are_all_there_are(name):
    """On every piece: the slope is the derivative, and signs change where it is declared."""
    f = CASES[name]
    for i, piece in enumerate(f.pieces):
        start, stop = max(f.part(i)[0], f.domain[0], -12.1), min(f.part(i)[1], f.domain[1], 12.1)
        if f.period:
            start, stop = piece.turns[0] - 0.1, piece.turns[0] + f.period - 0.1
        t = start + (stop - start) * torch.linspace(0.003, 0.997, 4_000, dtype=torch.float64)
        slope = piece.slope(t)
        torch.testing.assert_close(slope, vjp(lambda x, p=piece: p.value(x) + 0 * x,
                                              torch.ones_like(t), t), rtol=1e-7, atol=1e-12)
        for differences, declared in ((piece.value(t).diff(), piece.extrema),
                                      (slope.diff(), piece.turns)):
            # the rest is rounding
            clear = differences.abs() > 1e-13 * (1 + piece.value(t).abs().max())
            sign, at = differences[clear].sign(), ((t[1:] + t[:-1]) / 2)[clear]
            changes = ((at[1:] + at[:-1]) / 2)[sign[1:] != sign[:-1]]
            known = [x + copy * f.period for x in declared
                     for copy in (-1, 0, 1)] if f.period else declared
            for change in changes:
                assert min(abs(change - x) for x in known) < 0.02, change


def best_area(t: numpy.ndarray, y: numpy.ndarray) -> float:
    """Height at the middle of the interval of the concave envelope of the points, from their convex
    hull.
    """
    size = max(y.max() - y.min(), 1e-300)
    t, y = (t - t[0]) / (t[-1] - t[0]), (y - y.min()) / size
    hull = ConvexHull(numpy.stack([numpy.append(t, [0.0, 1.0]), numpy.append(y, [-1.0, -1.0])], 1))
    normal, offset = hull.equations[:, :2], hull.equations[:, 2]
    upper = normal[:, 1] > 1e-12
    return float((-(normal[upper, 0] * 0.5 + offset[upper]) / normal[upper, 1]).min()) * size


@each_function
def test_lines_are_almost_the_tightest(name):
    f = CASES[name]
    lo, hi = intervals(f, count=12, seed=1, widest=1.5)
    keep = (hi - lo > 1e-2) & apart(f, lo, hi)
    if f.period:
        keep &= hi - lo < 2 * f.period  # wider ones get the constant range, with the trend
    lo, hi = lo[keep], hi[keep]
    m, t = (lo + hi) / 2, grid(f, lo, hi, 1000).sort(0).values
    for sign, (k, b) in zip((-1, 1), lines(f, lo, hi), strict=True):
        y = sign * f.value(t)
        mean, base = torch.trapezoid(y, t, dim=0) / (hi - lo), y.amin(0)
        area = sign * (k * m + b) - mean
        best = base - mean + torch.tensor(
            [best_area(*column) for column in zip(t.T.numpy(), y.T.numpy(), strict=True)])
        resolved = 1e-4 * (y.amax(0) - base) + 1e-9  # of jumps, the grid sees one side
        assert (area <= AREA * best + resolved).all(), (area / best).max()


@each_function
def test_ranges_are_exact_and_nest(name):
    f = CASES[name]
    lo, hi = intervals(f, seed=2)
    low, high = range_of(f, lo, hi)
    y = f.value(grid(f, lo, hi, count=1000))
    near = (hi - lo < 5) if not f.period or not f.trend else hi - lo < f.period
    near &= apart(f, lo, hi)
    assert ((high - y.amax(0))[near] < 1e-2 * (1 + high.abs())[near]).all()
    assert ((y.amin(0) - low)[near] < 1e-2 * (1 + low.abs())[near]).all()
    for grow in (1e-9, 1e-3,
                 1.0) if f.domain[0] in (-math.inf, 0.0) and f.domain[1] == math.inf else ():
        wider_lo, wider_hi = lo - grow, hi + grow
        if f.domain[0] == 0 or f.poles:
            wider_lo = (lo * (1 - grow)).clamp(min=1e-9 if f.poles else 0)
        wider_low, wider_high = range_of(f, wider_lo, wider_hi)
        rounding = 1e-14 * (1 + torch.maximum(low.abs(), high.abs()))
        assert (wider_low <= low + rounding).all() and (high - rounding <= wider_high).all()


@each_function
def test_at_a_point_lines_pass_through_it(name):
    f = CASES[name]
    point = torch.cat([torch.linspace(-40, 40, 99, dtype=torch.float64),
                       torch.tensor(special(f)).double()])
    point = defined(f, point, point)[0]
    y = f.value(point)
    (kl, bl), (ku, bu) = lines(f, point, point)
    (fl, cl), (fu, cu) = line_family(f, point, point)
    low, high = range_of(f, point, point)
    scale_ = 1e-12 * (1 + y.abs() + (torch.maximum(kl.abs(), ku.abs()) * point).abs())
    for at_point, side in ((kl * point + bl, low), (ku * point + bu, high), (fl * point + cl, low),
                           (fu * point + cu, high)):
        assert ((at_point - side).abs() <= scale_).all()
    away = torch.ones_like(point, dtype=torch.bool)
    for b in f.breaks:
        away &= (point - b).abs() > 1e-9
    assert torch.equal(low[away], high[away]) and torch.equal(low[away], y[away])


@each_function
def test_gradients_equal_finite_differences(name):
    """Of the lines, at fixed points, by both ends, wherever the choice of the slope does not change
    near.
    """
    f = CASES[name]
    generator = torch.Generator().manual_seed(3)
    lo = 8 * torch.rand(200, generator=generator, dtype=torch.float64) - 6
    hi = lo + 0.1 + 5 * torch.rand(200, generator=generator, dtype=torch.float64)
    lo, hi = (end.requires_grad_() for end in defined(f, lo, hi))
    t = torch.lerp(lo, hi, torch.tensor([[0.0], [0.3], [1.0]]).double()).detach()

    def bounds(a: Tensor, b: Tensor) -> Tensor:
        (kl, bl), (ku, bu) = line_family(f, a, b)
        return torch.cat([k[:, None] * t + b[:, None] for k, b in ((kl, bl), (ku, bu))]).flatten(0,
                                                                                                 1)

    step = 1e-5
    by_difference = torch.stack([(bounds(lo + step, hi) - bounds(lo - step, hi)) / (2 * step),
                                 (bounds(lo, hi + step) - bounds(lo, hi - step)) / (2 * step)])
    rows = bounds(lo, hi)
    pairs = [torch.stack(torch.autograd.grad(row.sum(), (lo, hi), retain_graph=True))
             for row in rows]
    error = (torch.stack(pairs, dim=1) - by_difference).abs() / (1 + by_difference.abs())
    assert (error < 1e-5).double().mean() > 0.97, error.flatten().sort().values[-100:]


@each_function
def test_bounds_and_gradients_are_finite(name):
    """In the domain, for intervals as wide as they come."""
    f = CASES[name]
    lo, hi = intervals(f, count=50)
    if not name.startswith(GROW) and f.domain[0] == -math.inf:
        huge = torch.tensor([-1e30, -1e4, -1e4, 0.0, 1e4, 1e30, -1e30], dtype=torch.float64)
        lo, hi = (torch.cat([lo, huge]),
                  torch.cat([hi, huge.new_tensor([1e30, 1e4, 1e30, 1e30, 1e4, 1.1e30, -1e29])]))
    for dtype in (torch.float64, torch.float32):
        reach = 1e30 if dtype == torch.float64 else 1e15  # second derivatives contain squares of t
        ends = tuple(end.clamp(-reach, reach).to(dtype).requires_grad_() for end in (lo, hi))
        outputs = [*lines(f, *ends)[0], *lines(f, *ends)[1], *range_of(f, *ends)]
        for output in outputs:
            assert output.isfinite().all()
            if not (f.domain[0] == 0 and not f.poles):  # at 0 roots have none
                total = output.sum() + 0 * (ends[0] + ends[1]).sum()
                gradients = torch.autograd.grad(total, ends, retain_graph=True)
                assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(
    "name", [n for n in CASES if n.split("-")[0] in ("tanh", "sigmoid", "sin", "softsign", "gelu")
             and not n.startswith("gelu") or "gelu" in n and "derivative" in n])
def test_huge_intervals_cost_little_more_than_the_range(name):
    f = CASES[name]
    lo = torch.tensor([-1e4, -1e30, -1e4, -1e30, -1.0, -1e30], dtype=torch.float64)
    hi = torch.tensor([1e4, 1e30, 1e30, 1e4, 1e30, 1.0], dtype=torch.float64)
    (kl, bl), (ku, bu) = lines(f, lo, hi)
    low, high = range_of(f, lo, hi)
    m = (lo + hi) / 2
    assert (ku * m + bu <= high + 1e-3).all() and (low - 1e-3 <= kl * m + bl).all()


# Where nothing is generic


@pytest.mark.parametrize("name", ["log-/function", "log-/derivative", "power-0.5/function",
                                  "power--0.5/derivative",
                                  "power--1/function", "power--2/function"])
def test_where_a_function_is_not_defined_bounds_are_infinite(name):
    f = CASES[name]
    lo, hi = torch.tensor([-1.0, -2.0, 1.0], requires_grad=True), torch.tensor([1.0, 0.0, 2.0],
                                                                               requires_grad=True)
    low, high = range_of(f, lo, hi)
    (kl, bl), (ku, bu) = lines(f, lo, hi)
    for side, slope, offset, infinite in ((low, kl, bl, -math.inf), (high, ku, bu, math.inf)):
        assert ((side[:2] == infinite).all() and (offset[:2] == infinite).all()
                and (slope[:2] == 0).all())
        assert side[2].isfinite() and slope[2].isfinite() and offset[2].isfinite()
        for output in (side, slope, offset):
            gradients = torch.autograd.grad(output[2], (lo, hi), retain_graph=True,
                                            materialize_grads=True)
            assert all(g.isfinite().all() for g in gradients)


def test_beyond_the_largest_number_bounds_are_infinite():
    f = CASES["exp-/function"]
    low, high = range_of(f, torch.tensor([0.0]), torch.tensor([1000.0]))
    (kl, bl), (ku, bu) = lines(f, torch.tensor([0.0]), torch.tensor([1000.0]))
    assert low == 1 and high == math.inf and kl == ku == 0 and bl == 1 and bu == math.inf


def test_a_jump_is_hull_and_rounding_reaches_it():
    f = declare(line(0.0, -1.0), line(0.0, 1.0), breaks=(3.0,)).function
    near = torch.tensor([3.0, 3.0 - 1e-15, 3.0 + 1e-15, 3.1], dtype=torch.float64)
    low, high = range_of(f, near, near)
    assert low.tolist() == [-1.0, -1.0, -1.0, 1.0] and high.tolist() == [1.0] * 4
    (kl, bl), (ku, bu) = lines(f, near, near)
    assert torch.equal(kl * near + bl, low) and torch.equal(ku * near + bu, high)


def test_where_a_function_is_straight():
    f = CASES["hardswish-/function"]
    lo, hi = torch.tensor([-9.0, -4.0, 0.0, 3.0, 4.0]), torch.tensor([-4.0, -2.0, 1.0, 4.0, 4.0])
    assert is_straight(f, lo, hi).tolist() == [True, False, False, False, True]


def test_families_span_the_useful_lines():
    """Of a concave function: tangents at, or near, five places; mixtures reach the function from
    above anywhere.
    """
    f = CASES["log-/function"]
    lo, hi = torch.tensor(0.5, dtype=torch.float64), torch.tensor(4.0, dtype=torch.float64)
    _, (k, b) = line_family(f, lo, hi)
    for place in (0.0, 0.25, 0.5, 0.75, 1.0):
        t = torch.lerp(lo, hi, place)
        assert (k * t + b - t.log()).min() < 1e-9


def test_any_shape_and_negative_beta():
    f = CASES["tanh-/function"]
    lo = torch.rand(2, 3, 4)
    for ends in ((lo, lo + 1), (lo[0, 0, 0], lo[0, 0, 0]), (lo[:0], lo[:0])):
        for k, b in lines(f, *ends):
            assert k.shape == b.shape == ends[0].shape and k.dtype == b.dtype == torch.float32
    with pytest.raises(ValueError, match="beta > 0"):
        softplus(beta=-1.0)


@each_function
def test_ranges_by_shorter_ways_are_those_of_all_pieces(name):
    """Where a function is monotone, or some of its pieces are reached by no interval of a
    tensor.
    """
    f = CASES[name]
    generator = torch.Generator().manual_seed(5)
    for center, width in ((0.0, 5.0), (-3.0, 0.5), (3.0, 0.5), (25.0, 1.0)):
        lo = center + width * (2 * torch.rand(500, generator=generator, dtype=torch.float64) - 1)
        lo = torch.cat([lo, torch.tensor(special(f), dtype=torch.float64)])
        hi = lo + width * torch.rand(len(lo), generator=generator, dtype=torch.float64)
        for short, whole in zip(range_of(f, lo, hi), _extremes(f, lo, hi)[:2], strict=True):
            torch.testing.assert_close(short, whole, rtol=1e-14,
                                       atol=1e-14 if f.trend or f.period else 0.0, equal_nan=True)


def test_a_tiny_jump_downwards_is_in_the_range():
    """The softplus of torch falls by 2e-9 where it goes on as a line."""
    f = softplus().function
    assert f.monotone == 1
    lo = 20 - torch.tensor([0.0, 1e-10, 1e-9, 1e-8], dtype=torch.float64)
    hi = 20 + torch.tensor([1e-10, 1e-9, 3e-9, 1e-8], dtype=torch.float64)[:, None]
    lo, hi = torch.broadcast_tensors(lo, hi)
    low, high = range_of(f, lo, hi)
    for share in torch.linspace(0, 1, 101, dtype=torch.float64):
        y = torch.nn.functional.softplus(lo + share * (hi - lo))
        assert (low <= y).all() and (y <= high).all()


def test_what_is_monotone_and_what_kind_extrema_are():
    assert ([CASES[f"{name}/function"].monotone for name in ("tanh-", "exp-", "gelu-none", "sin-")]
            == [1, 1, 0, 0])
    assert CASES["logsigmoid-/derivative"].monotone == -1
    assert softplus(3.0, 5.0).function.monotone == 0  # a jump that can be seen
    assert (CASES["gelu-none/derivative"].kinds == ((-1, 1),)
            and CASES["tanhshrink-/function"].kinds == ((0,),))
    narrow = declare(Formula(lambda t: -(t - 0.05) ** 2, lambda t: 0.1 - 2 * t,
                             lambda t: torch.full_like(t, -2.0),
                             ((0.05,), (), ())), line(0.0, 0.0), line(1.0, -0.1), breaks=(0.0, 0.1))
    assert narrow.function.kinds[0] == (0,)  # outside of the piece


def test_pieces_are_known_by_what_they_are_on_their_own_interval():
    """A parabola that falls up to 1 and is used from 5 on, and one with its minimum inside of a
    short piece.
    """
    square = Formula(lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1),
                     lambda t: torch.full_like(t, 2.0))
    rising = declare(line(0.0, 0.0), square, breaks=(5.0,)).function
    wave = Formula(lambda t: -torch.cos(20 * t) / 20, lambda t: torch.sin(20 * t),
                   lambda t: 20 * torch.cos(20 * t), ((0.0,), (), ()))
    dip = declare(line(0.0, 0.0), wave, line(0.0, 0.0), breaks=(-0.05, 0.05)).function
    generator = torch.Generator().manual_seed(0)
    for f, start, stop in ((rising, 5.5, 7.0), (dip, -0.049, 0.049)):
        ends = start + (stop - start) * torch.rand(2, 200, generator=generator, dtype=torch.float64)
        lo, hi = ends.amin(0), ends.amax(0)
        low, high = range_of(f, lo, hi)
        y = f.value(lo + torch.linspace(0, 1, 201, dtype=torch.float64)[:, None] * (hi - lo))
        assert (low <= y + 1e-12).all() and (y <= high + 1e-12).all()
        assert (high - y.amax(0)).max() < 1e-3 and (y.amin(0) - low).max() < 1e-3


@pytest.mark.parametrize("beta", [1e2, 1e4, 1e8])
@pytest.mark.parametrize("part", ["function", "derivative"])
def test_steep_functions_are_bounded_where_they_bend(beta, part):
    """A softplus of large beta and its derivative are flat in floating point but for a small part
    of the line.
    """
    f = getattr(softplus(beta), part)
    generator = torch.Generator().manual_seed(0)
    for scale in (0.5, 5.0, 25.0, 1e3):
        ends = scale / beta * (2 * torch.rand(2, 300, generator=generator, dtype=torch.float64) - 1)
        lo, hi = ends.amin(0), ends.amax(0)
        (kl, bl), (ku, bu) = lines(f, lo, hi)
        low, high = range_of(f, lo, hi)
        t = lo + torch.linspace(0, 1, 301, dtype=torch.float64)[:, None] * (hi - lo)
        y, rounding = f.value(t), 1e-12 * (1 + hi.abs() * beta) * (1 / beta
                                                                   if part == "function" else 1)
        assert (kl * t + bl <= y + rounding).all() and (y <= ku * t + bu + rounding).all()
        assert (low <= y + rounding).all() and (y <= high + rounding).all()


def test_constants_are_torchs_whatever_the_default_type():
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    truth, = torch.autograd.grad(torch.nn.functional.hardsigmoid(x), x)
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        try:
            slope = hardsigmoid().derivative.value(x.detach())
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(slope, truth)
