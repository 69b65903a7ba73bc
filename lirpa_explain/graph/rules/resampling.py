"""Rules of operations that are a fixed linear map along each of a few dimensions, and of their gradients.

The matrix is what torch's own operation makes of the unit vectors, so nothing about it is derived here.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UnsupportedOperation
from ..builder import Builder, Rows
from .arithmetic import add
from .table import rule

aten = torch.ops.aten

Map = Callable[[Tensor], Tensor]


def _along(b: Builder, x: Rows, at: int, function: Map, size: int | None = None) -> Rows:
    """Apply a linear function along dimension `at` of the module.

    Args:
        b: the builder.
        x: the value.
        at: the dimension.
        function: maps (m, n) to (m, n'), row by row.
        size: if given, apply the transpose of the function of `size` entries.
    """
    count = x.shape[at - 1] if size is None else size
    matrix = function(torch.eye(count, dtype=b.dtype, device=b.device)).detach()
    if torch.equal(matrix, torch.eye(count, dtype=b.dtype, device=b.device)):
        return x
    matrix = matrix if size is None else matrix.T.contiguous()
    shape = (*x.shape[: at - 1], matrix.shape[1], *x.shape[at:])
    return b.emit("along", x, b.constant(matrix), shape=shape, dim=at)


@rule(aten.roll.default)
def _roll(b: Builder, x: Rows, shifts: Any, dims: Any = ()) -> Rows:
    for shift, dim in zip(shifts, dims, strict=True):
        x = _along(b, x, x.dim(dim), functools.partial(torch.roll, shifts=shift, dims=1))
    return x


@rule(aten.flip.default)
def _flip(b: Builder, x: Rows, dims: Any) -> Rows:
    for dim in dims:
        x = _along(b, x, x.dim(dim), lambda u: u.flip(1))
    return x


@rule(aten.cumsum.default)
def _cumsum(b: Builder, x: Rows, dim: int, *, dtype: Any = None) -> Rows:
    return _along(b, x, x.dim(dim), lambda u: u.cumsum(1))


def _check_fixed(*indices: Any) -> None:
    if any(not isinstance(index, Tensor) for index in indices):
        raise UnsupportedOperation("indices that depend on the input")


@rule(aten.index_select.default)
def _index_select(b: Builder, x: Rows, dim: int, index: Any) -> Rows:
    _check_fixed(index)
    return _along(b, x, x.dim(dim), lambda u: u.index_select(1, index))


@rule(aten.index_add.default)
def _index_add(b: Builder, x: Any, dim: int, index: Any, g: Rows, *, alpha: float = 1) -> Rows:
    _check_fixed(index)
    sizes = x.traced(b.rows) if isinstance(x, Rows) else x.shape
    added = _along(b, g, g.dim(dim), lambda u: alpha * u.index_select(1, index), sizes[dim])
    return _onto(b, x, added)


def _onto(b: Builder, x: Any, added: Rows) -> Rows:
    return added if isinstance(x, Tensor) and not x.any() else add(b, x, added)


class _Indexed:
    """Dimensions side by side of the trace, and the fixed indices by which entries of them are picked.

    Args:
        sizes: shape, in the trace, of what is indexed.
        indices: one tensor or None for each of its first dimensions.
    """

    def __init__(self, sizes: Sequence[int], indices: list[Any]) -> None:
        _check_fixed(*[index for index in indices if index is not None])
        dims = [i for i, index in enumerate(indices) if index is not None]
        if dims != list(range(dims[0], dims[-1] + 1)):
            raise UnsupportedOperation("indices of dimensions that are not side by side")
        self.dim = dims[0]
        self.sizes = tuple(sizes[d] for d in dims)
        self.indices = tuple(indices[d].cpu() for d in dims)
        self.picked = tuple(torch.empty(self.sizes)[self.indices].shape)

    def pick(self, u: Tensor) -> Tensor:
        """(m, n) -> (m, n'), the indexed dimensions flattened before and after."""
        return u.reshape(-1, *self.sizes)[(slice(None), *self.indices)].flatten(1)

    def apply(self, b: Builder, x: Rows, transpose: bool = False) -> Rows:
        """Pick entries of x, or put those of x back and add them up."""
        old, new = (self.picked, self.sizes) if transpose else (self.sizes, self.picked)
        if self.dim <= x.batch < self.dim + len(old):
            raise UnsupportedOperation("indices of the batch dimension")
        early, at = self.dim < x.batch, x.place(self.dim)
        flat = b.reshape(x, (*x.shape[:at], math.prod(old), *x.shape[at + len(old):]),
                         x.before - early * (len(old) - 1), x.outer, x.inner)
        y = _along(b, flat, at + 1, self.pick, math.prod(new) if transpose else None)
        return b.reshape(y, (*y.shape[:at], *new, *y.shape[at + 1:]), y.before + early * (len(new) - 1), y.outer,
                         y.inner)


@rule(aten.index.Tensor)
def _index(b: Builder, x: Rows, indices: list[Any]) -> Rows:
    return _Indexed(x.traced(b.rows), indices).apply(b, x)


@rule(aten.index_put.default)
def _index_put(b: Builder, x: Any, indices: list[Any], g: Rows, accumulate: bool = False) -> Rows:
    if not accumulate or not isinstance(g, Rows):
        raise UnsupportedOperation("entries that are overwritten")
    sizes = x.traced(b.rows) if isinstance(x, Rows) else x.shape
    return _onto(b, x, _Indexed(sizes, indices).apply(b, g, transpose=True))


def _spatial(b: Builder, x: Rows, functions: Sequence[Map], sizes: Sequence[int] | None = None) -> Rows:
    """One function for each of the last dimensions; with `sizes` their transposes."""
    if len(functions) > x.ndim - 1 - x.batch:
        raise UnsupportedOperation("an operation along the batch dimension")
    first = len(x.shape) - len(functions)
    for i, function in enumerate(functions):
        x = _along(b, x, first + i + 1, function, None if sizes is None else sizes[i])
    return x


def _interpolation(operation: Any, spatial: int, sizes: Sequence[int], options: tuple[Any, ...]) -> list[Map]:
    """An interpolation along each of its dimensions, the others of size 1."""
    fixed, scales = options[: len(options) - spatial], options[len(options) - spatial:]

    def function(i: int) -> Map:
        shape, output, factors = [1] * spatial, [1] * spatial, [None] * spatial
        output[i], factors[i] = sizes[i], scales[i]
        return lambda u: operation(u.reshape(-1, 1, *shape[:i], u.shape[1], *shape[i + 1:]), output, *fixed,
                                   *factors).flatten(1)

    return [function(i) for i in range(spatial)]


def _add_interpolation(name: str, spatial: int, flags: int) -> None:
    operation, backward = getattr(aten, name).default, getattr(aten, f"{name}_backward").default

    def complete(options: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*options, *[None] * (flags + spatial - len(options)))

    @rule(operation)
    def _upsample(b: Builder, x: Rows, sizes: list[int], *options: Any, **named: Any) -> Rows:
        return _spatial(b, x, _interpolation(operation, spatial, sizes, complete((*options, *named.values()))))

    @rule(backward)
    def _upsample_backward(b: Builder, g: Rows, sizes: list[int], before: list[int], *options: Any, **named: Any
                           ) -> Rows:
        maps = _interpolation(operation, spatial, sizes, complete((*options, *named.values())))
        return _spatial(b, g, maps, before[2:])


for _name, _spatial_dims, _flags in (
        ("upsample_nearest1d", 1, 0), ("upsample_nearest2d", 2, 0), ("_upsample_nearest_exact1d", 1, 0),
        ("_upsample_nearest_exact2d", 2, 0), ("upsample_linear1d", 1, 1), ("upsample_bilinear2d", 2, 1),
        ("upsample_bicubic2d", 2, 1)):
    _add_interpolation(_name, _spatial_dims, _flags)


def _of_rows(function: Callable[..., Tensor], *arguments: Any) -> Map:
    """A function of (m, channels, n) as one of (m, n)."""
    return lambda u: function(u[:, None], *arguments)[:, 0]


def _adaptive(sizes: Sequence[int]) -> list[Map]:
    return [_of_rows(F.adaptive_avg_pool1d, size) for size in sizes]


@rule(aten._adaptive_avg_pool2d.default)
def _adaptive_average_pool(b: Builder, x: Rows, sizes: list[int]) -> Rows:
    return _spatial(b, x, _adaptive(sizes))


@rule(aten._adaptive_avg_pool2d_backward.default)
def _adaptive_average_pool_backward(b: Builder, g: Rows, x: Rows) -> Rows:
    return _spatial(b, g, _adaptive(g.shape[-2:]), x.shape[-2:])


def _padded(mode: str, pad: Sequence[int]) -> list[Map]:
    """Padding along the dimensions first to last; `pad` lists them last to first."""
    return [_of_rows(F.pad, list(pad[2 * i: 2 * i + 2]), mode) for i in reversed(range(len(pad) // 2))]


def _add_padding(name: str, mode: str) -> None:
    @rule(getattr(aten, name).default)
    def _pad(b: Builder, x: Rows, pad: list[int]) -> Rows:
        return _spatial(b, x, _padded(mode, pad))

    @rule(getattr(aten, f"{name}_backward").default)
    def _pad_backward(b: Builder, g: Rows, x: Rows, pad: list[int]) -> Rows:
        return _spatial(b, g, _padded(mode, pad), x.shape[-len(pad) // 2:])


for _spatial_dims in (1, 2):
    _add_padding(f"reflection_pad{_spatial_dims}d", "reflect")
    _add_padding(f"replication_pad{_spatial_dims}d", "replicate")
