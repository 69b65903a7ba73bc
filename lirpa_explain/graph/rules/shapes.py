"""Rules of operations that move, repeat or add up entries."""

from dataclasses import replace
from typing import Any

import torch

from ...errors import UnsupportedOperation
from ..builder import Builder, Live, Rows
from .table import rule

aten = torch.ops.aten


@rule(aten.view.default, aten._unsafe_view.default, aten.reshape.default,
      aten._reshape_alias.default)
def _reshape(b: Builder, x: Rows, sizes: Any, *_: Any) -> Rows:
    return b.view(x, tuple(sizes))


@rule(aten.unsqueeze.default, aten.unsqueeze_.default)
def _unsqueeze(b: Builder, x: Rows, dim: int) -> Rows:
    return b.unsqueeze(x, dim % (x.ndim + 1))


@rule(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze_.dim, aten.squeeze_.dims)
def squeeze(b: Builder, x: Rows, dims: Any) -> Rows:
    """Lower the removal of those dimensions whose size is 1."""
    dims = [d % x.ndim for d in ([dims] if isinstance(dims, int) else dims)]
    drop = [d for d in dims if d != x.batch and x.shape[x.place(d)] == 1]
    return _without(b, x, drop)


def _without(b: Builder, x: Rows, dims: list[int]) -> Rows:
    """Take out these dimensions of the trace, each of size 1."""
    places = {x.place(d) for d in dims}
    shape = tuple(s for i, s in enumerate(x.shape) if i not in places)
    return b.reshape(x, shape, x.before - sum(d < x.batch for d in dims), x.outer, x.inner)


@rule(aten.squeeze.default)
def _squeeze_all(b: Builder, x: Rows) -> Rows:
    return squeeze(b, x, list(range(x.ndim)))


@rule(aten.expand.default)
def expand(b: Builder, x: Rows, sizes: Any, *, implicit: bool = False) -> Rows:
    """Lower a repetition along dimensions of size 1, or new ones before."""
    while x.ndim < len(sizes):
        x = b.unsqueeze(x, 0)
    shape = list(x.shape)
    for dim, size in enumerate(sizes):
        if size != -1 and dim != x.batch:
            shape[x.place(dim)] = size
    return x if tuple(shape) == x.shape else replace(x, name=b.step("expand", x.name, shape=shape),
                                                     shape=tuple(shape))


@rule(aten.repeat.default)
def _repeat(b: Builder, x: Rows, times: list[int]) -> Rows:
    while x.ndim < len(times):
        x = b.unsqueeze(x, 0)
    for dim, count in enumerate(times):
        if count == 1:
            continue
        at = x.dim(dim)
        shape = (*x.shape[: at - 1], count * x.shape[at - 1], *x.shape[at:])
        x = b.emit("concatenate", x, *[x] * (count - 1), shape=shape, dim=at)
    return x


@rule(aten.permute.default)
def _permute(b: Builder, x: Rows, dims: Any) -> Rows:
    return b.permute(x, [d % x.ndim for d in dims])


@rule(aten.transpose.int, aten.transpose_.default)
def transpose(b: Builder, x: Rows, first: int, second: int) -> Rows:
    """Swap two dimensions of the trace."""
    order = list(range(x.ndim))
    order[first], order[second] = order[second], order[first]
    return b.permute(x, order)


@rule(aten.t.default)
def _t(b: Builder, x: Rows) -> Rows:
    return transpose(b, x, 0, x.ndim - 1)


@rule(aten.cat.default)
def _cat(b: Builder, xs: list[Any], dim: int = 0) -> Rows:
    first = next(x for x in xs if isinstance(x, Rows))
    at = first.dim(dim)
    if any(isinstance(x, Rows) and not x.lines_up(first) for x in xs):
        raise UnsupportedOperation("a concatenation of tensors whose batch dimensions do not line "
                                   "up")
    parts = [x if isinstance(x, Rows) else b.operand(x, first) for x in xs]
    sizes = [(part.value if isinstance(part, Live) else part).shape[at - 1] for part in parts]
    shape = (*first.shape[: at - 1], sum(sizes), *first.shape[at:])
    if all(isinstance(part, Rows) for part in parts):
        return b.emit("concatenate", parts[0], *parts[1:], shape=shape, dim=at)
    return _cat_with_fixed(b, parts, sizes, shape, at)


def _cat_with_fixed(b: Builder, parts: list[Any], sizes: list[int], shape: tuple[int, ...],
                    at: int) -> Rows:
    """Each part with rows, and each parameter, put in its place among zeros, and one constant with
    the rest.
    """
    constant = torch.zeros(shape, dtype=b.dtype, device=b.device)
    total: Rows | None = None
    lives = []
    for i, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        start = sum(sizes[:i])
        if isinstance(part, Rows):
            placed = b.emit("place", part, shape=shape, size=shape[at - 1], dim=at, start=start,
                            step=1)
            total = placed if total is None else b.emit("add", total, placed)
        elif isinstance(part, Live):
            behind = [0, 0] * (len(shape) - at)
            lives.append(b.live("constant_pad_nd.default", part,
                                [*behind, start, shape[at - 1] - start - size]))
        else:
            constant.narrow(at - 1, start, size).copy_(part)
    assert total is not None
    for live in [*lives, *[constant] * bool(constant.any())]:
        total = b.emit("add", total, live)
    return total


@rule(aten.stack.default)
def _stack(b: Builder, xs: list[Any], dim: int = 0) -> Rows:
    first = next(x for x in xs if isinstance(x, Rows))
    dim = dim % (first.ndim + 1)
    return _cat(b, [_unsqueeze(b, x, dim) if isinstance(x, Rows)
                    else b.fixed(x, "unsqueeze.default", dim) for x in xs], dim)


@rule(aten.slice.Tensor)
def _slice(b: Builder, x: Rows, dim: int = 0, start: int | None = None, stop: int | None = None,
           step: int = 1) -> Rows:
    if (dim % x.ndim == x.batch and (start or 0) == 0
            and (stop is None or stop >= x.traced(b.rows)[x.batch]) and step == 1):
        return x
    at = x.dim(dim)
    start, stop, step = slice(start, stop, step).indices(x.shape[at - 1])
    shape = (*x.shape[: at - 1], len(range(start, stop, step)), *x.shape[at:])
    return b.emit("slice", x, shape=shape, dim=at, start=start, stop=stop, step=step)


@rule(aten.select.int)
def _select(b: Builder, x: Rows, dim: int, index: int) -> Rows:
    dim = dim % x.ndim
    index = index % x.shape[x.dim(dim) - 1]
    return _without(b, _slice(b, x, dim, index, index + 1), [dim])


def _place(b: Builder, g: Rows, size: int, at: int, start: int, step: int) -> Rows:
    shape = (*g.shape[: at - 1], size, *g.shape[at:])
    return b.emit("place", g, shape=shape, size=size, dim=at, start=start, step=step)


@rule(aten.slice_backward.default)
def _slice_backward(b: Builder, g: Rows, sizes: list[int], dim: int, start: int, stop: int,
                    step: int) -> Rows:
    if dim % g.ndim == g.batch and start == 0 and stop >= sizes[0] and step == 1:
        return g
    start = slice(start, stop, step).indices(sizes[dim])[0]
    return _place(b, g, sizes[dim], g.dim(dim), start, step)


@rule(aten.select_backward.default)
def _select_backward(b: Builder, g: Rows, sizes: list[int], dim: int, index: int) -> Rows:
    dim = dim % len(sizes)
    g = _unsqueeze(b, g, dim)
    return _place(b, g, sizes[dim], g.dim(dim), index % sizes[dim], 1)


@rule(aten.split.Tensor, aten.unsafe_split.Tensor)
def _split(b: Builder, x: Rows, size: int, dim: int = 0) -> list[Rows]:
    count = x.shape[x.dim(dim) - 1]
    return [_slice(b, x, dim, i, min(i + size, count)) for i in range(0, count, size)]


@rule(aten.split_with_sizes.default, aten.unsafe_split_with_sizes.default)
def _split_with_sizes(b: Builder, x: Rows, sizes: list[int], dim: int = 0) -> list[Rows]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [_slice(b, x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


@rule(aten.unbind.int)
def _unbind(b: Builder, x: Rows, dim: int = 0) -> list[Rows]:
    return [_select(b, x, dim, i) for i in range(x.shape[x.dim(dim) - 1])]


@rule(aten.constant_pad_nd.default)
def _constant_pad(b: Builder, x: Rows, pad: list[int], value: float = 0) -> Rows:
    if len(pad) > 2 * (x.ndim - 1 - x.batch):
        raise UnsupportedOperation("padding of the batch, or of a dimension before it")
    shape = list(x.shape)
    for i in range(len(pad) // 2):
        shape[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    result = b.emit("pad", x, shape=tuple(shape), pad=list(pad))
    if not value:
        return result
    inside = torch.zeros(x.shape, dtype=b.dtype, device=b.device)
    return b.emit("add", result, torch.nn.functional.pad(inside, list(pad), value=value))


def _reduce(b: Builder, operator: str, x: Rows, dims: Any, keepdim: bool) -> Rows:
    if not dims:
        raise UnsupportedOperation("a reduction over the whole batch; reduce the dimensions of an "
                                   "example")
    dims = [d % x.ndim for d in dims]
    at = sorted(x.dim(d) for d in dims)
    shape = tuple(1 if i + 1 in at else s
                  for i, s in enumerate(x.shape) if keepdim or i + 1 not in at)
    before = x.before if keepdim else x.before - sum(d < x.batch for d in dims)
    return b.emit(operator, x, shape=shape, before=before, dims=at, keepdim=keepdim)


@rule(aten.sum.dim_IntList)
def sum_over(b: Builder, x: Rows, dims: Any, keepdim: bool = False, *, dtype: Any = None) -> Rows:
    """Lower a sum over dimensions of the trace, of which the batch must not be one."""
    return _reduce(b, "sum", x, dims, keepdim)


@rule(aten.mean.dim)
def mean_over(b: Builder, x: Rows, dims: Any, keepdim: bool = False, *, dtype: Any = None) -> Rows:
    """Lower a mean over dimensions of the trace, of which the batch must not be one."""
    return _reduce(b, "mean", x, dims, keepdim)


@rule(aten.pixel_shuffle.default)
def _pixel_shuffle(b: Builder, x: Rows, factor: int) -> Rows:
    *outer, channels, height, width = x.traced(b.rows)
    x = b.view(x, (*outer, channels // factor ** 2, factor, factor, height, width))
    n = len(outer)
    x = b.permute(x, [*range(n), n, n + 3, n + 1, n + 4, n + 2])
    return b.view(x, (*outer, channels // factor ** 2, height * factor, width * factor))


@rule(aten.pixel_unshuffle.default)
def _pixel_unshuffle(b: Builder, x: Rows, factor: int) -> Rows:
    *outer, channels, height, width = x.traced(b.rows)
    x = b.view(x, (*outer, channels, height // factor, factor, width // factor, factor))
    n = len(outer)
    x = b.permute(x, [*range(n), n, n + 2, n + 4, n + 1, n + 3])
    return b.view(x, (*outer, channels * factor ** 2, height // factor, width // factor))
