"""Staircases such as floor and round, and what they leave of their argument; tangent, which has one
branch a period.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..relaxations import elementary, stairs, univariate
from ..relaxations.piecewise import Line
from .activation import BoundActivation, BoundActivationGradient, Curve
from .activations import Activation, Aten, add_activation
from .registry import Operator, register


def _rest(z: Tensor, divisor: float, kind: str) -> Tensor:
    return torch.fmod(z, divisor) if kind == "trunc" else torch.remainder(z, divisor)


STAIRS = Curve(stairs.stair_range, stairs.stair_lines, stairs.stair_open, stairs.stair_family)
REST = Curve(stairs.rest_range, stairs.rest_lines, stairs.rest_open, stairs.rest_family)

ROWS = [
    Operator("stairs", lambda z, kind: stairs.STAIRS[kind][0](z), BoundActivation, "torch.round, "
             "floor, ceil, trunc", STAIRS),
    Operator("remainder", _rest, BoundActivation, "torch.remainder, fmod, frac", REST),
]
for row in ROWS:
    register(row)


def _branch(lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An interval moved by a multiple of pi to the branch around 0; by how much."""
    by = torch.round((lo + hi) / (2 * math.pi)) * math.pi
    return lo - by, hi - by, by


def _on_branch(function: Callable[..., Any], f: Any) -> Callable[..., Any]:
    return lambda lo, hi: function(f, *_branch(lo, hi)[:2])


def _moved(function: Callable[..., Any], f: Any) -> Callable[..., Any]:
    """Lines of a function of period pi, from those on its branch."""

    def lines(lo: Tensor, hi: Tensor) -> tuple[Line, Line]:
        a, b, by = _branch(lo, hi)
        below, above = function(f, a, b)
        return (below[0], below[1] - below[0] * by), (above[0], above[1] - above[0] * by)

    return lines


def _curve(f: Any) -> Curve:
    return Curve(range=_on_branch(univariate.range_of, f), lines=_moved(univariate.lines, f),
                 open=lambda lo, hi: lo < hi, family=_moved(univariate.line_family, f))


_TANGENT = elementary.tangent()


def _slope(z: Tensor) -> Tensor:
    return 1 + torch.tan(z).square()


TAN = (Operator("tan", torch.tan, BoundActivation, "torch.tan", _curve(_TANGENT.function)),
       Operator("tan_gradient", lambda g, z: g * _slope(z), BoundActivationGradient, "torch.tan",
                _curve(_TANGENT.derivative)))
UNTOUCHED = {"secant": "Captum's DeepLift has no rule for it, and keeps its gradient",
             "build": "it has one branch a period, between poles"}

add_activation(Activation("tan", None, "torch.tan", aten=(Aten(("tan", "tan_")),), operators=TAN,
                          without=UNTOUCHED))
