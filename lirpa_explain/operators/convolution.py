"""Convolutions and their input gradients, in one and two dimensions."""

from typing import Any

import torch
from torch import Tensor

from .affine import Affine, BoundAffine
from .local import Local, met
from .registry import Operator, register


def _convolution(x: Tensor, weight: Tensor, **settings: Any) -> Tensor:
    return torch.ops.aten.convolution(x, weight, None, transposed=False,
                                      output_padding=[0] * len(settings["stride"]), **settings)


def _convolution_gradient(g: Tensor, weight: Tensor, size: list[int], stride: list[int],
                          padding: list[int], dilation: list[int], groups: int) -> Tensor:
    """Transposed convolution whose output padding restores the input's `size`, which strides leave
    open.
    """
    is_traced = torch.jit.is_tracing()  # sizes are no numbers then
    if not is_traced and len(size) == 2 and groups == 1 and weight.shape[1] <= FEW_CHANNELS:
        patches = torch.bmm(weight.flatten(1).T.expand(len(g), -1, -1), g.flatten(2))
        return torch.ops.aten.col2im(patches, size, list(weight.shape[2:]), dilation, padding,
                                     stride)
    output_padding = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
                      for n, m, s, p, d, k in zip(size, g.shape[2:], stride, padding, dilation,
                                                  weight.shape[2:], strict=True)]
    return torch.ops.aten.convolution(g, weight, None, stride=stride, padding=padding,
                                      dilation=dilation,
                                      transposed=True, output_padding=output_padding, groups=groups)


def _transposed_convolution(A: Tensor, weight: Tensor, of: Any, **settings: Any) -> Tensor:
    return _convolution_gradient(A.flatten(0, 1), weight, of[1:],
                                 **settings).unflatten(0, A.shape[:2])


def _transposed_gradient(A: Tensor, weight: Tensor, size: list[int], of: Any,
                         **settings: Any) -> Tensor:
    return _convolution(A.flatten(0, 1), weight, **settings).unflatten(0, A.shape[:2])


def _local_convolution(A: Local, weight: Tensor, of: Any, stride: list[int], padding: list[int],
                       dilation: list[int], groups: int) -> Local:
    h, w = ((n - 1) * s + d * (k - 1) + 1
            for n, s, d, k in zip(A.window, stride, dilation, weight.shape[2:], strict=True))
    values = _convolution_gradient(A.cut().values.flatten(0, 1), weight, [h, w], stride, [0, 0],
                                   dilation, groups)
    places = A.places.scaled(stride, padding, (h, w), tuple(of[1:]))
    return Local(values.unflatten(0, A.shape[:2]), places, is_cut=False)


def _local_gradient(A: Local, weight: Tensor, size: list[int], of: Any, stride: list[int],
                    padding: list[int], dilation: list[int], groups: int) -> Local:
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    whole, places = met(A, reach, stride, padding, tuple(of[1:]))
    values = _convolution(whole.flatten(0, 1), weight, stride=stride, padding=[0, 0],
                          dilation=dilation, groups=groups)
    return Local(values.unflatten(0, A.shape[:2]), places)


FEW_CHANNELS = 3
"""Up to so many input channels (images), patches that are multiplied and added up are faster than
torch's transposed convolution."""

COVERS = "nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d"

ROWS = [
    Operator("convolution", _convolution, BoundAffine, COVERS,
             Affine(lambda x, w, **settings: _convolution(x, w.abs(), **settings),
                    _transposed_convolution, local=_local_convolution)),
    Operator("convolution_gradient", _convolution_gradient, BoundAffine, COVERS,
             Affine(lambda g, w, **settings: _convolution_gradient(g, w.abs(), **settings),
                    _transposed_gradient, local=_local_gradient),
             "0.3: padding 0 only; 0.7.1: no stride in patches mode"),
]
for row in ROWS:
    register(row)
