"""Functions of one variable that softmax, the normalizations and norms are made of.

Three of them are called on one side of 0 only. Beyond it they are continued by their tangent, so
that they are convex and finite wherever roundings put a bound.
"""

import torch
from torch import Tensor

from ..relaxations.declaration import Formula, Function, Piece, declare, line
from .activation import BoundActivation
from .activations import curve
from .registry import Operator, register


def _exp(t: Tensor) -> Tensor:
    return t.clamp(max=0).exp() + t.clamp(min=0)


PROBABILITY = Function((Piece(_exp, lambda t: t.clamp(max=0).exp()),))


def inverse_root(epsilon: float) -> Function:
    """1 / sqrt(t + epsilon), for t >= 0."""
    def slope(t: Tensor) -> Tensor:
        return -0.5 * (t.clamp(min=0) + epsilon) ** -1.5

    def value(t: Tensor) -> Tensor:
        return (t.clamp(min=0) + epsilon) ** -0.5 + t.clamp(max=0) * slope(torch.zeros_like(t))

    return Function((Piece(value, slope),))


def root() -> Function:
    """sqrt(t), for t >= 0; 0 below."""
    formula = Formula(lambda t: t.clamp(min=0).sqrt(), lambda t: 0.5 * t.clamp(min=0).rsqrt(),
                      lambda t: -0.25 * t.clamp(min=0).pow(-1.5))
    return declare(line(0.0, 0.0), formula, breaks=(0.0,)).function


ROWS = [
    Operator("root", lambda t: t.clamp(min=0).sqrt(), BoundActivation, "the length of a vector",
             curve(root)),
    Operator("probability", _exp, BoundActivation, "nn.Softmax, attention: exp of the logarithm of "
             "a probability", curve(lambda: PROBABILITY)),
    Operator("inverse_root", lambda t, epsilon: inverse_root(epsilon).value(t), BoundActivation,
             "deviations of nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d", curve(inverse_root)),
]
for row in ROWS:
    register(row)
