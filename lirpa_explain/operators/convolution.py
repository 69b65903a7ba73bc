"""Convolutions and their input gradients, in one and two dimensions."""

from typing import Any

import torch
from torch import Tensor

from .affine import BoundAffine, Weighted
from .registry import Operator, register


def _convolution(x: Tensor, weight: Tensor, **settings: Any) -> Tensor:
    return torch.ops.aten.convolution(x, weight, None, transposed=False,
                                      output_padding=[0] * len(settings["stride"]), **settings)


def _convolution_gradient(g: Tensor, weight: Tensor, size: list[int], stride: list[int], padding: list[int],
                          dilation: list[int], groups: int) -> Tensor:
    """Transposed convolution whose output padding restores the input's `size`, which strides leave open."""
    output_padding = [
        n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
        for n, m, s, p, d, k in zip(size, g.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True)
    ]
    return torch.ops.aten.convolution(g, weight, None, stride=stride, padding=padding, dilation=dilation,
                                      transposed=True, output_padding=output_padding, groups=groups)


COVERS = "nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d"

ROWS = [
    Operator("convolution", _convolution, BoundAffine, COVERS,
             Weighted(lambda x, w, **settings: _convolution(x, w.abs(), **settings))),
    Operator("convolution_gradient", _convolution_gradient, BoundAffine, COVERS,
             Weighted(lambda g, w, **settings: _convolution_gradient(g, w.abs(), **settings)),
             "0.3: padding 0 only; 0.7.1: no stride in patches mode"),
]
for row in ROWS:
    register(row)
