"""Functions of one variable that softmax and the normalizations are made of."""

import torch
from torch import Tensor

from ..relaxations.univariate import Smooth
from .activation import BoundActivation, Curve, smooth
from .registry import Operator, register

EXP = Smooth(torch.exp, torch.exp)
SQUARE = Smooth(torch.square, lambda t: 2 * t, extrema=(0.0,))


def inverse_root(epsilon: float) -> Smooth:
    """1 / sqrt(t + epsilon), and its value at 0 where t is negative."""
    return Smooth(lambda t: (t.clamp(min=0) + epsilon) ** -0.5, lambda t: -0.5 * (t.clamp(min=0) + epsilon) ** -1.5)


def _inverse_root(t: Tensor, epsilon: float) -> Tensor:
    return inverse_root(epsilon).value(t)


def _from_zero(of: Curve) -> Curve:
    """The same curve, of a variable that is never negative, whatever roundings did to its bounds."""
    return Curve(*[lambda lo, hi, f=f, **settings: f(lo.clamp(min=0), hi.clamp(min=0), **settings)
                   for f in (of.range, of.lines, of.open)])


ROWS = [
    Operator("exp", torch.exp, BoundActivation, "nn.Softmax, torch.exp", smooth(lambda: EXP)),
    Operator("square", torch.square, BoundActivation, "variances, x ** 2", smooth(lambda: SQUARE)),
    Operator("inverse_root", _inverse_root, BoundActivation, "deviations of nn.LayerNorm, nn.GroupNorm, nn.RMSNorm",
             _from_zero(smooth(inverse_root))),
]
for row in ROWS:
    register(row)
