"""Average and max pooling, and their gradients."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .affine import Affine, BoundAffine
from .local import Local, met, spread
from .max_pooling import BoundMaxPool, BoundMaxPoolGradient
from .registry import Operator, register


def _max_pool(x: Tensor, kernel: list[int], stride: list[int], padding: list[int],
              dilation: list[int], ceil: bool, rectified: bool = False) -> Tensor:
    return F.max_pool2d(x, kernel, stride, padding, dilation, ceil)


def _max_pool_gradient(g: Tensor, x: Tensor, kernel: list[int], stride: list[int],
                       padding: list[int],
                       dilation: list[int], ceil: bool, rectified: bool = False) -> Tensor:
    indices = F.max_pool2d(x, kernel, stride, padding, dilation, ceil, return_indices=True)[1]
    flat = torch.zeros_like(x).flatten(2).scatter_add(2, indices.flatten(2), g.flatten(2))
    return flat.reshape(x.shape)


def _average_pool(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil: bool,
                  count_include_pad: bool, divisor: int | None) -> Tensor:
    return F.avg_pool2d(x, kernel, stride, padding, ceil, count_include_pad, divisor)


def _average_pool_gradient(g: Tensor, size: list[int], kernel: list[int], stride: list[int],
                           padding: list[int],
                           ceil: bool, count_include_pad: bool, divisor: int | None) -> Tensor:
    return torch.ops.aten.avg_pool2d_backward(g, g.new_empty(*g.shape[:2], *size), kernel, stride,
                                              padding, ceil, count_include_pad, divisor)


def _local_average(A: Local, kernel: list[int], stride: list[int], padding: list[int], of: Any,
                   **settings: Any) -> Local:
    share = _share(A, of[1:], kernel, stride, padding, **settings)
    offsets = list(itertools.product(range(kernel[0]), range(kernel[1])))
    return spread(A, [(A * share).values] * len(offsets), offsets, stride, padding, tuple(of[1:]))


def _local_average_gradient(A: Local, size: list[int], kernel: list[int], stride: list[int],
                            padding: list[int], of: Any, **settings: Any) -> Local:
    whole, places = met(A, kernel, stride, padding, tuple(of[1:]))
    sums = F.avg_pool2d(whole.flatten(0, 2)[:, None], kernel, stride, divisor_override=1)
    pulled = Local(sums[:, 0].unflatten(0, A.shape[:3]), places)
    return pulled * _share(A, size, kernel, stride, padding, **settings)


def _share(A: Local, size: Sequence[int], kernel: list[int], stride: list[int], padding: list[int],
           ceil: bool, count_include_pad: bool, divisor: int | None) -> Tensor:
    """What an entry of a window counts in its average, (1, 1, H, W)."""
    ones = A.values.new_ones(1, 1, *size)
    return (F.avg_pool2d(ones, kernel, stride, padding, ceil, count_include_pad, divisor)
            / F.avg_pool2d(ones, kernel, stride, padding, ceil, divisor_override=1))


ROWS = [
    Operator("average_pool", _average_pool, BoundAffine, "nn.AvgPool1d, nn.AvgPool2d",
             Affine(homogeneous=True, local=_local_average)),
    Operator("average_pool_gradient", _average_pool_gradient, BoundAffine,
             "nn.AvgPool1d, nn.AvgPool2d", Affine(homogeneous=True, local=_local_average_gradient)),
    Operator("max_pool", _max_pool, BoundMaxPool, "nn.MaxPool1d, nn.MaxPool2d"),
    Operator("max_pool_gradient", _max_pool_gradient, BoundMaxPoolGradient,
             "nn.MaxPool1d, nn.MaxPool2d"),
]
for row in ROWS:
    register(row)
