"""Batch normalization in eval mode: an affine map of each channel."""

import torch
from torch import Tensor

from .affine import BoundAffine, Weighted
from .registry import Operator, register


def _scale(weight: Tensor, variance: Tensor, epsilon: float, ndim: int) -> Tensor:
    """The factor weight / sqrt(variance + epsilon), shaped to multiply the channels of an `ndim`-dimensional tensor."""
    return (weight * torch.rsqrt(variance + epsilon)).reshape(1, -1, *[1] * (ndim - 2))


def _normalize(x: Tensor, weight: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    return x * _scale(weight, variance, epsilon, x.ndim)


ROWS = [
    Operator("normalize", _normalize, BoundAffine, "nn.BatchNorm1d, nn.BatchNorm2d in eval mode",
             Weighted(lambda x, w, variance, epsilon: _normalize(x, w.abs(), variance, epsilon))),
]
for row in ROWS:
    register(row)
