"""Rules of operations that move, repeat or add up entries."""

import math
from typing import Any

import torch

from ...errors import UnsupportedOperation
from ..builder import Builder, Live, Rows
from .table import rule

aten = torch.ops.aten


def _view(b: Builder, x: Rows, shape: tuple[int, ...]) -> Rows:
    """Reshape to a shape of the trace, whose first dimension must be the batch, or the batch and more."""
    total = b.rows * math.prod(x.shape)
    shape = tuple(total // -math.prod(shape) if s == -1 else s for s in shape)
    if not shape or shape[0] % b.rows:
        raise UnsupportedOperation(f"a reshape to {tuple(shape)}, which splits the examples of a batch")
    if shape[0] == b.rows:
        return b.reshape(x, shape[1:], merged=False)
    return b.reshape(x, (shape[0] // b.rows, *shape[1:]), merged=True)


@rule(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten._reshape_alias.default)
def _reshape(b: Builder, x: Rows, shape: Any, *_: Any) -> Rows:
    return _view(b, x, tuple(shape))


@rule(aten.unsqueeze.default)
def _unsqueeze(b: Builder, x: Rows, dim: int) -> Rows:
    dim = dim % (x.ndim + 1)
    if dim == 0:
        raise UnsupportedOperation("a new dimension before the batch")
    at = dim - 1 + x.merged
    return b.reshape(x, (*x.shape[:at], 1, *x.shape[at:]))


@rule(aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(b: Builder, x: Rows, dims: Any) -> Rows:
    dims = [dims] if isinstance(dims, int) else dims
    drop = {x.dim(d) - 1 for d in dims if d % x.ndim and x.shape[x.dim(d) - 1] == 1}
    return b.reshape(x, tuple(s for i, s in enumerate(x.shape) if i not in drop))


@rule(aten.squeeze.default)
def _squeeze_all(b: Builder, x: Rows) -> Rows:
    return _squeeze(b, x, [d for d in range(1, x.ndim)])


@rule(aten.expand.default)
def _expand(b: Builder, x: Rows, sizes: Any, *, implicit: bool = False) -> Rows:
    if len(sizes) != x.ndim or x.merged:
        raise UnsupportedOperation("an expansion by a dimension before the batch")
    shape = tuple(old if new == -1 else new for old, new in zip(x.shape, sizes[1:], strict=True))
    return x if shape == x.shape else Rows(b.step("expand", x.name, shape=list(shape)), shape)


@rule(aten.permute.default)
def _permute(b: Builder, x: Rows, dims: Any) -> Rows:
    dims = [d % x.ndim for d in dims]
    if dims[0] != 0:
        raise UnsupportedOperation("a permutation that moves the batch dimension")
    order = [0, 1] * x.merged + [0] * (not x.merged) + [x.dim(d) for d in dims[1:]]
    return b.emit("permute", x, shape=tuple(x.shape[d - 1] for d in order[1:]), dims=order)


@rule(aten.transpose.int)
def _transpose(b: Builder, x: Rows, first: int, second: int) -> Rows:
    order = list(range(x.ndim))
    order[first], order[second] = order[second], order[first]
    return _permute(b, x, order)


@rule(aten.t.default)
def _t(b: Builder, x: Rows) -> Rows:
    return _transpose(b, x, 0, x.ndim - 1)


@rule(aten.cat.default)
def _cat(b: Builder, xs: list[Any], dim: int = 0) -> Rows:
    first = next(x for x in xs if isinstance(x, Rows))
    at = first.dim(dim)
    parts = [x if isinstance(x, Rows) else b.operand(x, first) for x in xs]
    if any(isinstance(part, Live) for part in parts):
        raise UnsupportedOperation("a concatenation with a parameter")
    if any(isinstance(part, Rows) and (part.ndim, part.merged) != (first.ndim, first.merged) for part in parts):
        raise UnsupportedOperation("a concatenation of tensors whose batch dimensions do not line up")
    sizes = [part.shape[at - 1] if isinstance(part, Rows) else part.shape[at] for part in parts]
    shape = (*first.shape[: at - 1], sum(sizes), *first.shape[at:])
    if all(isinstance(part, Rows) for part in parts):
        return b.emit("concatenate", parts[0], *parts[1:], shape=shape, dim=at)
    return _cat_with_constants(b, parts, sizes, shape, at)


def _cat_with_constants(b: Builder, parts: list[Any], sizes: list[int], shape: tuple[int, ...], at: int) -> Rows:
    """Each part with rows put in its place among zeros, and one constant with the rest."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    constant = torch.zeros(1, *shape, dtype=b.dtype, device=b.device)
    total: Rows | None = None
    for part, start, size in zip(parts, starts, sizes, strict=True):
        if isinstance(part, Rows):
            placed = b.emit("place", part, shape=shape, size=shape[at - 1], dim=at, start=start, step=1)
            total = placed if total is None else b.emit("add", total, placed)
        else:
            constant.narrow(at, start, size).copy_(part)
    assert total is not None
    return b.emit("add", total, constant) if bool(constant.any()) else total


@rule(aten.stack.default)
def _stack(b: Builder, xs: list[Any], dim: int = 0) -> Rows:
    first = next(x for x in xs if isinstance(x, Rows))
    dim = dim % (first.ndim + 1)
    if any(isinstance(x, Live) for x in xs):
        raise UnsupportedOperation("a stack with a parameter")
    return _cat(b, [_unsqueeze(b, x, dim) if isinstance(x, Rows) else x.unsqueeze(dim) for x in xs], dim)


@rule(aten.slice.Tensor)
def _slice(b: Builder, x: Rows, dim: int = 0, start: int | None = None, stop: int | None = None, step: int = 1) -> Rows:
    if dim % x.ndim == 0 and (start or 0) == 0 and (stop is None or stop >= b.rows) and step == 1:
        return x
    at = x.dim(dim)
    start, stop, step = slice(start, stop, step).indices(x.shape[at - 1])
    shape = (*x.shape[: at - 1], len(range(start, stop, step)), *x.shape[at:])
    return b.emit("slice", x, shape=shape, dim=at, start=start, stop=stop, step=step)


@rule(aten.select.int)
def _select(b: Builder, x: Rows, dim: int, index: int) -> Rows:
    at = x.dim(dim) - 1
    index = index % x.shape[at]
    return b.reshape(_slice(b, x, dim, index, index + 1), x.shape[:at] + x.shape[at + 1:])


def _place(b: Builder, g: Rows, size: int, at: int, start: int, step: int) -> Rows:
    shape = (*g.shape[: at - 1], size, *g.shape[at:])
    return b.emit("place", g, shape=shape, size=size, dim=at, start=start, step=step)


@rule(aten.slice_backward.default)
def _slice_backward(b: Builder, g: Rows, sizes: list[int], dim: int, start: int, stop: int, step: int) -> Rows:
    if dim % g.ndim == 0 and start == 0 and stop >= sizes[0] and step == 1:
        return g
    start = slice(start, stop, step).indices(sizes[dim])[0]
    return _place(b, g, sizes[dim], g.dim(dim), start, step)


@rule(aten.select_backward.default)
def _select_backward(b: Builder, g: Rows, sizes: list[int], dim: int, index: int) -> Rows:
    dim = dim % len(sizes)
    g = _unsqueeze(b, g, dim)
    return _place(b, g, sizes[dim], g.dim(dim), index % sizes[dim], 1)


@rule(aten.split.Tensor)
def _split(b: Builder, x: Rows, size: int, dim: int = 0) -> list[Rows]:
    count = x.shape[x.dim(dim) - 1]
    return [_slice(b, x, dim, i, min(i + size, count)) for i in range(0, count, size)]


@rule(aten.split_with_sizes.default)
def _split_with_sizes(b: Builder, x: Rows, sizes: list[int], dim: int = 0) -> list[Rows]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [_slice(b, x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


@rule(aten.unbind.int)
def _unbind(b: Builder, x: Rows, dim: int = 0) -> list[Rows]:
    return [_select(b, x, dim, i) for i in range(x.shape[x.dim(dim) - 1])]


@rule(aten.constant_pad_nd.default)
def _constant_pad(b: Builder, x: Rows, pad: list[int], value: float = 0) -> Rows:
    if value or len(pad) > 2 * len(x.shape):
        raise UnsupportedOperation("padding by anything but 0, or of the batch")
    shape = list(x.shape)
    for i in range(len(pad) // 2):
        shape[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    return b.emit("pad", x, shape=tuple(shape), pad=list(pad))


def _reduce(b: Builder, operator: str, x: Rows, dims: Any, keepdim: bool) -> Rows:
    if not dims:
        raise UnsupportedOperation("a reduction over the whole batch; reduce the dimensions of an example")
    at = sorted(x.dim(d) for d in dims)
    shape = tuple(1 if i + 1 in at else s for i, s in enumerate(x.shape) if keepdim or i + 1 not in at)
    return b.emit(operator, x, shape=shape, dims=at, keepdim=keepdim)


@rule(aten.sum.dim_IntList)
def _sum(b: Builder, x: Rows, dims: Any, keepdim: bool = False, *, dtype: Any = None) -> Rows:
    return _reduce(b, "sum", x, dims, keepdim)


@rule(aten.mean.dim)
def _mean(b: Builder, x: Rows, dims: Any, keepdim: bool = False, *, dtype: Any = None) -> Rows:
    return _reduce(b, "mean", x, dims, keepdim)
