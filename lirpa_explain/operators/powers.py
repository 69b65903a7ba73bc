"""Functions of one variable that softmax and the normalizations are made of.

Two of them are called on one side of 0 only. Beyond it they are continued by their tangent, so that they are convex
and finite wherever roundings put a bound.
"""

import torch
from torch import Tensor

from ..relaxations.declaration import Function, Piece
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


ROWS = [
    Operator("probability", _exp, BoundActivation, "nn.Softmax, attention: exp of the logarithm of a probability",
             curve(lambda: PROBABILITY)),
    Operator("inverse_root", lambda t, epsilon: inverse_root(epsilon).value(t), BoundActivation,
             "deviations of nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d", curve(inverse_root)),
]
for row in ROWS:
    register(row)
