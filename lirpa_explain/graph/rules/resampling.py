"""Rules of operations that are a fixed linear map along each of a few dimensions, and of their
gradients.

The matrix is what torch's own operation makes of the unit vectors, so nothing about it is derived
here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UnsupportedOperation
from ..builder import Builder, Rows
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


@rule(aten.cumsum.default)
def _cumsum(b: Builder, x: Rows, dim: int, *, dtype: Any = None) -> Rows:
    return _along(b, x, x.dim(dim), lambda u: u.cumsum(1))


def _spatial(b: Builder, x: Rows, functions: Sequence[Map],
             sizes: Sequence[int] | None = None) -> Rows:
    """One function for each of the last dimensions; with `sizes` their transposes."""
    if len(functions) > x.ndim - 1 - x.batch:
        raise UnsupportedOperation("an operation along the batch dimension")
    first = len(x.shape) - len(functions)
    for i, function in enumerate(functions):
        x = _along(b, x, first + i + 1, function, None if sizes is None else sizes[i])
    return x


def _interpolation(operation: Any, spatial: int, sizes: Sequence[int],
                   options: tuple[Any, ...]) -> list[Map]:
    """An interpolation along each of its dimensions, the same for both entries of the others."""
    fixed, scales = options[: len(options) - spatial], options[len(options) - spatial:]

    def function(i: int) -> Map:
        output, factors = [2] * spatial, [None] * spatial
        output[i], factors[i] = sizes[i], scales[i]

        def along(u: Tensor) -> Tensor:
            shape = [2] * spatial
            shape[i] = u.shape[1]
            lines = u.reshape(len(u), 1, *[1] * i, -1,
                              *[1] * (spatial - 1 - i)).expand(len(u), 1, *shape)
            result = operation(lines.contiguous(), output, *fixed, *factors)[:, 0]
            return result.movedim(i + 1, 1).flatten(2)[..., 0] if spatial > 1 else result

        return along

    return [function(i) for i in range(spatial)]


def _add_interpolation(name: str, spatial: int, flags: int) -> None:
    operation, backward = getattr(aten, name).default, getattr(aten, f"{name}_backward").default

    def complete(options: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*options, *[None] * (flags + spatial - len(options)))

    @rule(operation)
    def _upsample(b: Builder, x: Rows, sizes: list[int], *options: Any, **named: Any) -> Rows:
        return _spatial(b, x, _interpolation(operation, spatial, sizes,
                                             complete((*options, *named.values()))))

    @rule(backward)
    def _upsample_backward(b: Builder, g: Rows, sizes: list[int], before: list[int], *options: Any,
                           **named: Any) -> Rows:
        maps = _interpolation(operation, spatial, sizes, complete((*options, *named.values())))
        return _spatial(b, g, maps, before[2:])


for _name, _spatial_dims, _flags in (
    ("upsample_nearest1d", 1, 0), ("upsample_nearest2d", 2, 0), ("_upsample_nearest_exact1d", 1, 0),
    ("_upsample_nearest_exact2d", 2, 0), ("upsample_linear1d", 1, 1), ("upsample_bilinear2d", 2, 1),
    ("upsample_bicubic2d", 2, 1), ("_upsample_bilinear2d_aa", 2, 1),
    ("_upsample_bicubic2d_aa", 2, 1), ("upsample_nearest3d", 3, 0),
    ("_upsample_nearest_exact3d", 3, 0), ("upsample_trilinear3d", 3, 1)):
    _add_interpolation(_name, _spatial_dims, _flags)


def _of_rows(function: Callable[..., Tensor], *arguments: Any) -> Map:
    """A function of (m, channels, n) as one of (m, n)."""
    return lambda u: function(u[:, None], *arguments)[:, 0]


def _adaptive(sizes: Sequence[int]) -> list[Map]:
    return [_of_rows(F.adaptive_avg_pool1d, size) for size in sizes]


@rule(aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default)
def _adaptive_average_pool(b: Builder, x: Rows, sizes: list[int]) -> Rows:
    return _spatial(b, x, _adaptive(sizes))


@rule(aten._adaptive_avg_pool2d_backward.default, aten._adaptive_avg_pool3d_backward.default)
def _adaptive_average_pool_backward(b: Builder, g: Rows, x: Rows) -> Rows:
    count = len(x.shape) - 1
    return _spatial(b, g, _adaptive(g.shape[-count:]), x.shape[-count:])


def _averages(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil: bool,
              padded: bool) -> list[Map]:
    """Averages over windows along each of three dimensions: counts of entries are products of
    theirs.
    """
    sides = [list(side) * (3 // len(side)) for side in (kernel, stride or kernel, padding)]
    return [_of_rows(F.avg_pool1d, *numbers, ceil, padded) for numbers in zip(*sides, strict=True)]


@rule(aten.avg_pool3d.default)
def _average_pool_3d(b: Builder, x: Rows, kernel: list[int], stride: Sequence[int] = (),
                     padding: Sequence[int] = (0,),
                     ceil: bool = False, padded: bool = True, divisor: int | None = None) -> Rows:
    _refuse_divisor(divisor)
    return _spatial(b, x, _averages(kernel, stride, padding, ceil, padded))


@rule(aten.avg_pool3d_backward.default)
def _average_pool_3d_backward(
    b: Builder, g: Rows, x: Rows, kernel: list[int], stride: Sequence[int],
    padding: Sequence[int], ceil: bool, padded: bool, divisor: int | None) -> Rows:
    _refuse_divisor(divisor)
    return _spatial(b, g, _averages(kernel, stride, padding, ceil, padded), x.shape[-3:])


def _refuse_divisor(divisor: int | None) -> None:
    if divisor is not None:
        raise UnsupportedOperation("a pooling of volumes with a divisor of its own")


def _padded(mode: str, pad: Sequence[int]) -> list[Map]:
    """Padding along the dimensions first to last; `pad` lists them last to first."""
    return [_of_rows(F.pad, list(pad[2 * i: 2 * i + 2]), mode)
            for i in reversed(range(len(pad) // 2))]


def _add_padding(name: str, mode: str) -> None:
    @rule(getattr(aten, name).default)
    def _pad(b: Builder, x: Rows, pad: list[int]) -> Rows:
        return _spatial(b, x, _padded(mode, pad))

    @rule(getattr(aten, f"{name}_backward").default)
    def _pad_backward(b: Builder, g: Rows, x: Rows, pad: list[int]) -> Rows:
        return _spatial(b, g, _padded(mode, pad), x.shape[-len(pad) // 2:])


for _spatial_dims in (1, 2, 3):
    _add_padding(f"reflection_pad{_spatial_dims}d", "reflect")
    _add_padding(f"replication_pad{_spatial_dims}d", "replicate")
