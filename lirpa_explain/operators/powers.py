"""Functions of one variable that softmax and the normalizations are made of.

Two of them are called on one side of 0 only. Beyond it they are continued by their tangent, so that they are convex
and finite wherever roundings put a bound.
"""

import torch
from torch import Tensor

from ..relaxations.univariate import Smooth
from .activation import BoundActivation, smooth
from .registry import Operator, register


def _exp(t: Tensor) -> Tensor:
    return t.clamp(max=0).exp() + t.clamp(min=0)


PROBABILITY = Smooth(_exp, lambda t: t.clamp(max=0).exp())


def inverse_root(epsilon: float) -> Smooth:
    """1 / sqrt(t + epsilon), for t >= 0."""
    def slope(t: Tensor) -> Tensor:
        return -0.5 * (t.clamp(min=0) + epsilon) ** -1.5

    return Smooth(lambda t: (t.clamp(min=0) + epsilon) ** -0.5 + t.clamp(max=0) * slope(torch.zeros_like(t)), slope)


ROWS = [
    Operator("probability", _exp, BoundActivation, "nn.Softmax, attention: exp of the logarithm of a probability",
             smooth(lambda: PROBABILITY)),
    Operator("inverse_root", lambda t, epsilon: inverse_root(epsilon).value(t), BoundActivation,
             "deviations of nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d", smooth(inverse_root)),
]
for row in ROWS:
    register(row)
