"""Lines and ranges of every function of one variable around the inflection points of it and of its
derivative.

auto_LiRPA 0.7.1 takes wrong lines there. The points are found from the function that torch
computes, not from what is declared about it, and every interval is compared with a dense grid.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lirpa_explain.operators import OPERATORS
from lirpa_explain.operators.activation import Curve
from lirpa_explain.operators.activations import secant_of
from lirpa_explain.relaxations.secant import secant_family, secant_lines, secant_range
from tests import cases
from tests.test_operators import FORWARD, TRUTH, vjp

STEP = 2.0**-9
"""Of the differences by which inflection points are found."""
REACH = 8.0
RADII = torch.tensor([1e-9, 1e-6, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3], dtype=torch.float64)
SHIFTS = torch.linspace(-1.25, 1.25, 11, dtype=torch.float64)
"""Of the middle of an interval from the point, in radii: from ending before it to beginning behind
it."""
GRID = torch.linspace(-1, 1, 41, dtype=torch.float64)[:, None]

Scalar = Callable[[Tensor], Tensor]


def bends(function: Scalar, low: float = -REACH, high: float = REACH) -> Tensor:
    """Where second differences of a function change sign: its inflection points, kinks and
    jumps.
    """

    def second(t: Tensor) -> Tensor:
        y = function(t + torch.tensor([[-STEP], [0.0], [STEP]], dtype=torch.float64))
        difference = y[0] - 2 * y[1] + y[2]
        return torch.where(difference.abs() > 1e-13 * (1 + y.abs().amax(0)), difference, 0.0).sign()

    t = torch.arange(low + 0.3 * STEP, high, STEP, dtype=torch.float64)
    signs = second(t)
    clear = signs != 0
    t, signs = t[clear], signs[clear]
    change = signs[1:] != signs[:-1]
    left, right, sign = t[:-1][change], t[1:][change], signs[:-1][change]
    for _ in range(20):
        middle = (left + right) / 2
        before = second(middle) == sign
        left, right = torch.where(before, middle, left), torch.where(before, right, middle)
    return (left + right) / 2


def intervals(points: Tensor, low: float = -math.inf) -> tuple[Tensor, Tensor, Tensor]:
    """(lower ends, upper ends, grids (P, N)) of intervals of all radii around all points, right of
    `low`.
    """
    radius, shift, point = (x.flatten()
                            for x in torch.meshgrid(RADII, SHIFTS, points, indexing="ij"))
    middle = point + shift * radius
    keep = middle - radius > low
    lo, hi = (middle - radius)[keep], (middle + radius)[keep]
    return lo, hi, (middle[keep] + GRID * radius[keep]).clamp(lo, hi)


def assert_bounded(t: Tensor, y: Tensor, box: tuple[Tensor, Tensor], sides: tuple,
                   rounding: Tensor | float) -> None:
    """The numbers y at points t (P, N) lie in the ranges (N) and between the lines, (N) or (K,
    N).
    """
    size = 1 + y.abs()
    assert (box[0] - rounding * size <= y).all() and (y <= box[1] + rounding * size).all()
    for sign, (k, b) in zip((-1, 1), sides, strict=True):
        line = k.reshape(-1, 1, t.shape[1]) * t + b.reshape(-1, 1, t.shape[1])
        nothing = line == sign * math.inf
        assert (nothing | (sign * (line - y) >= -rounding * (size + line.abs()))).all()


# Functions and their gradients

SETTINGS: dict[str, list[dict]] = {
    name: [settings for settings, *_ in rows] for name, rows in cases.ACTIVATIONS.items()}
SETTINGS |= {f"{name}_gradient": rows for name, rows in SETTINGS.items()}
SETTINGS |= {"select": SETTINGS["window"], "stabilized_gradient": [{"eps": 1e-3}, {"eps": 0.1}],
             "probability": [{}], "inverse_root": [{"epsilon": 1e-3}, {"epsilon": 0.1}]}
for _case in cases.CASES:  # others that are bounded as functions of one variable
    if (isinstance(OPERATORS[_case.operator].traits, Curve)
            and _case.operator not in cases.ACTIVATIONS
            and _case.operator.removesuffix("_gradient") not in cases.ACTIVATIONS
            and _case.settings not in SETTINGS.get(_case.operator, [])):
        SETTINGS.setdefault(_case.operator, []).append(_case.settings)
ROWS = [(name, settings) for name, rows in SETTINGS.items() for settings in rows]


def truth(name: str, settings: dict) -> Scalar:
    """The function that a row stands for, as torch computes it: that of z, or the factor of g."""
    if name.endswith("_gradient") or name == "select":
        return lambda t: TRUTH[name](torch.ones_like(t), t, **settings)
    return lambda t: TRUTH[name](t, **settings)


def test_every_function_of_one_variable_is_swept():
    assert {name for name, row in OPERATORS.items() if isinstance(row.traits, Curve)} == set(
        SETTINGS)


@pytest.mark.parametrize(("name", "settings"), ROWS,
                         ids=[f"{name}-{cases.label_of(s)}" for name, s in ROWS])
def test_lines_and_ranges_around_inflections(name, settings):
    """Those of the function, of its derivative, and of the derivative of that."""
    function, curve = truth(name, settings), OPERATORS[name].traits
    low = (2 * STEP if (name.removesuffix("_gradient"), cases.label_of(settings)) in cases.POSITIVE
           else -REACH)

    def slope(t: Tensor) -> Tensor:
        return vjp(lambda z: function(z) + 0 * z, torch.ones_like(t), t)

    points = torch.cat([bends(function, low),
                        bends(slope, low)]) if name in FORWARD else bends(function, low)
    if not len(points):
        points = torch.tensor([0.5, 2.0], dtype=torch.float64)  # straight, or bent one way only
    lo, hi, t = intervals(points, 0.0 if low > 0 else -math.inf)
    defined = (function(t).abs() < 1e4).all(0)  # within the domain, and not next to a pole
    assert defined.any()
    lo, hi, t = lo[defined], hi[defined], t[:, defined]
    box, y = curve.range(lo, hi, **settings), function(t)
    # what rounding the argument does
    steep = 1e-15 * (t * slope(t)).abs().nan_to_num(0, 0, 0) / (1 + y.abs())
    for sides in (curve.lines, curve.family):
        assert_bounded(t, y, box, sides(lo, hi, **settings), 1e-12 + steep)


# Secant slopes

REFERENCES = torch.tensor([-3.0, -1.5, -0.66, 0.0, 0.3, 1.32], dtype=torch.float64)


@pytest.mark.parametrize(("name", "settings"), [row[:2] for row in cases.SECANTS],
                         ids=[f"{row[0]}-{cases.label_of(row[1])}" for row in cases.SECANTS])
def test_secant_lines_and_ranges_around_inflections(name, settings):
    """Inflection points of the slope from each reference, the reference itself, and those of the
    derivative.
    """
    derivative = truth(f"{name}_gradient", settings)

    def slope(z: Tensor, z0: Tensor) -> Tensor:
        apart = z != z0
        rise = FORWARD[name](z, **settings) - FORWARD[name](z0, **settings)
        return torch.where(apart, rise / torch.where(apart, z - z0, 1.0), derivative(z))

    problems = []
    for z0 in REFERENCES:
        away = [bends(lambda z, z0=z0: slope(z, z0), *side)
                for side in ((-REACH, z0 - 0.5), (z0 + 0.5, REACH))]
        ends = intervals(torch.cat([*away, z0[None], bends(derivative)]))
        problems.append((*ends, z0.expand_as(ends[0])))
    lo, hi, t, z0 = (torch.cat(parts, -1) for parts in zip(*problems, strict=True))
    cancelled = 1e-15 * (1 + t.abs() + z0.abs()) / (t - z0).abs().clamp(min=1e-300)
    f = secant_of(name, **settings)
    for sides in (secant_lines, secant_family):
        assert_bounded(t, slope(t, z0), secant_range(f, lo, hi, z0, 0.0), sides(f, lo, hi, z0, 0.0),
                       1e-12 + cancelled)
