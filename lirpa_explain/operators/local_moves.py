"""Local coefficients pulled back through what moves entries: slices, padding, repetition."""

from typing import Any

import torch

from .bound import Coefficient
from .local import Local, met, spread


def local_slice(A: Local, dim: int, start: int, stop: int, step: int, of: Any) -> Coefficient:
    """Channels that are left out are 0; a window of every other pixel has zeros between."""
    if dim == 1:
        values = A.values.new_zeros(*A.values.shape[:2], of[0], *A.window)
        values[:, :, start:stop:step] = A.values
        return A.with_values(values)
    strides, starts = _by_dimension(dim, step, 1), _by_dimension(dim, start, 0)
    return spread(A, [A.cut().values], [(0, 0)], strides, (-starts[0], -starts[1]), tuple(of[1:]))


def local_place(A: Local, size: int, dim: int, start: int, step: int, of: Any) -> Coefficient:
    """Of putting a value on a slice of zeros: what those places have."""
    if dim == 1:
        return A.with_values(A.values[:, :, start:size:step][:, :, :of[0]])
    strides, starts = _by_dimension(dim, step, 1), _by_dimension(dim, start, 0)
    whole, places = met(A, (1, 1), strides, (-starts[0], -starts[1]), tuple(of[1:]))
    return Local(whole[..., ::strides[0], ::strides[1]], places)


def _by_dimension(dim: int, value: int, otherwise: int) -> tuple[int, int]:
    """A number for one of the two last dimensions, and another for the other."""
    return (value, otherwise) if dim == 2 else (otherwise, value)


def local_pad(A: Local, pad: list[int], of: Any) -> Coefficient:
    """Of padding by zeros, or by negative numbers of entries."""
    left, _, top, _, front, back = (*pad, *[0] * (6 - len(pad)))
    A = A.cut()
    values = A.values[:, :, max(0, front):A.values.shape[2] - max(0, back)]
    if front < 0 or back < 0:
        values = torch.nn.functional.pad(values, (0, 0, 0, 0, max(0, -front), max(0, -back)))
    return Local(values, A.places.scaled((1, 1), (top, left), A.window, tuple(of[1:])),
                 is_cut=False)


def local_expand(A: Local, shape: Any, of: Any) -> Coefficient:
    """Of repetition: sums over what an entry was repeated for."""
    if tuple(of[1:]) == (1, 1):
        summed = A.cut().values.sum((3, 4), keepdim=True)
        return summed.sum(2, keepdim=True) if of[0] == 1 else summed
    dims = [i + 2 for i, (size, n) in enumerate(zip(A.shape[2:], of, strict=True))
            if n == 1 and size != 1]
    return A.dense().sum(dims, keepdim=True) if dims else A
