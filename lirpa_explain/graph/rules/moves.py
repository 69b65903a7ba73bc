"""Rules of operations that pick entries of tensors, or put them somewhere and add them up.

Where entries go is asked of torch itself, by running the operation on numbered entries; nothing
about it is derived here. Indices are constants of the trace, or made of further arguments and then
read anew for each example.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ...errors import UnsupportedOperation
from ..arguments import Given
from ..builder import Builder, Live, Rows
from ..layout import Places, codes, layout_of, rows_of
from ..masks import finite
from .arithmetic import add
from .shapes import expand
from .table import OF_GIVEN, rule

aten = torch.ops.aten

PICKS: dict[Any, tuple[int, ...]] = {
    **dict.fromkeys((aten.gather.default, aten.index_select.default, aten.index.Tensor,
                     aten.take.default, aten.unfold.default, aten.diagonal.default,
                     aten.flip.default, aten.roll.default, aten.rot90.default, aten.tril.default,
                     aten.triu.default, aten.im2col.default, aten.native_channel_shuffle.default,
                     aten.scatter.value, aten.index_fill.int_Scalar), (0,)),
    **dict.fromkeys((aten.slice_scatter.default, aten.select_scatter.default,
                     aten.diagonal_scatter.default), (0, 1)),
    **dict.fromkeys((aten.scatter.src, aten.index_copy.default), (0, 3)),
}
"""Operations each entry of whose result is an entry of an operand, or a constant -> positions of
operands."""

STRIDED: dict[Any, tuple[int, ...]] = {aten.as_strided.default: (0,),
                                       aten.as_strided_scatter.default: (0, 1)}
"""The same, by places in memory."""

PUTS: dict[Any, tuple[int, ...]] = {
    **dict.fromkeys((aten.unfold_backward.default, aten.diagonal_backward.default,
                     aten.col2im.default, aten.index_select_backward.default), (0,)),
    **dict.fromkeys((aten.scatter_add.default, aten.index_add.default), (0, 3)),
}
"""Operations that add each entry of the last operand to one entry of the result, or of the first
operand -> positions of operands."""


@dataclass(frozen=True)
class Call:
    """An operation with its arguments: tensors that move among them, and what is made of further
    arguments.
    """

    target: Any
    leaves: Sequence[Any]
    spec: Any

    @classmethod
    def of(cls, target: Any, args: Any, kwargs: Any) -> "Call":
        """Of an operation with these arguments."""
        return cls(target, *tree_flatten((args, kwargs)))

    @property
    def operands(self) -> list[Rows]:
        """The tensors that move."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Rows)]

    @property
    def given(self) -> list[Given]:
        """What is made of further arguments."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Given)]

    def run(self, operands: Sequence[Tensor], given: Sequence[Tensor]) -> Tensor:
        """The result for these operands and arguments, in float64."""
        own = [iter(operands), iter(given)]

        def value(leaf: Any) -> Any:
            if isinstance(leaf, Rows):
                return next(own[0])
            if isinstance(leaf, Given):
                return next(own[1])
            return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

        args, kwargs = tree_unflatten([value(leaf) for leaf in self.leaves], self.spec)
        return self.target(*args, **kwargs)


def _lower(b: Builder, call: Call, places: Callable[..., tuple[list[Tensor], Tensor, Rows]],
           operator: str) -> Any:
    """Lower an operation that moves entries.

    Args:
        b: the builder.
        call: the operation.
        places: `places(call, given, rows)` returns where in the rows of the operands, or of the
            result, entries are, (rows, n) for each operand; the constant part of the result in the
            trace; and its layout.
        operator: "pick" or "put".
    """
    values = [given.value for given in call.given]
    found, constant, layout = places(call, values, b.rows)
    total: Rows | None = None
    for k, (operand, index) in enumerate(zip(call.operands, found, strict=True)):
        if bool((index < 0).all()) and not values:
            continue
        name, gaps = _index(b, call, places, k, index), bool(values) or bool((index < 0).any())
        moved = replace(layout, name=b.step(operator, operand.name, name, shape=list(layout.shape),
                                            gaps=gaps))
        total = moved if total is None else add(b, total, moved)
    if total is None:
        return constant.to(b.dtype)
    if not constant.any():
        return total
    return add(b, total, _constant(b, call, places, constant, layout))


def _index(b: Builder, call: Call, places: Any, k: int, index: Tensor) -> str:
    """Name of the tensor that holds where the entries of an operand are."""
    if call.given:
        def make(*given: Tensor) -> Tensor:
            return places(call, given, b.rows)[0][k].to(b.dtype)

        return f"argument{b.arguments.add(call.given, make, object())}"
    if not torch.equal(index, index[:1].expand_as(index)):
        raise UnsupportedOperation("indices that differ from example to example of the batch; give "
                                   "them to the model as a further argument "
                                   "(additional_forward_args) with a row for each example")
    return b.name(b.constant(index[0].to(b.device)))


def _constant(b: Builder, call: Call, places: Any, constant: Tensor, layout: Rows) -> Any:
    """The constant part of a result."""
    if not call.given:
        return b.operand(finite(constant.to(b.dtype)), layout)

    def make(*given: Tensor) -> Tensor:
        rows = rows_of(places(call, given, b.rows)[1], layout, b.rows)
        return finite(rows.to(b.dtype)).reshape(b.rows, *layout.shape)

    return replace(layout, name=f"argument{b.arguments.add(call.given, make, object())}")


def picked(call: Call, given: Sequence[Tensor], rows: int) -> tuple[list[Tensor], Tensor, Rows]:
    """Which entry of which operand each entry of a result is."""
    numbered, starts, start = [], [], 1
    for x in call.operands:
        numbered.append((codes(x, rows) + start).double())
        starts.append(start)
        start += numbered[-1].numel()
    constant = call.run([torch.zeros_like(n) for n in numbered], given)
    moving = call.run([2 * n for n in numbered], given) - call.run(numbered, given)
    source = moving.nan_to_num(nan=0.0).long()
    parts = []
    row = torch.full_like(source, -1)
    for x, first in zip(call.operands, starts, strict=True):
        count = max(int(torch.Size(x.shape).numel()), 1)  # an empty operand has none
        local = source - first
        own = (local >= 0) & (local < codes(x, rows).numel())
        row = torch.where(own, local // count, row)
        parts.append(torch.where(own, local % count, -1))
    layout = _found(layout_of(source.shape,
                              Places((row >= 0).nonzero(as_tuple=True), row[row >= 0]), rows))
    return [rows_of(part, layout, rows) for part in parts], constant, layout


def added(call: Call, given: Sequence[Tensor], rows: int) -> tuple[list[Tensor], Tensor, Rows]:
    """Which entry of a result each entry of the operand is added to."""
    x, = call.operands
    with torch.enable_grad():
        probe = torch.zeros(x.traced(rows), dtype=torch.float64, requires_grad=True)
        result = call.run([probe], given)
        numbers = torch.arange(result.numel(), dtype=torch.float64).reshape(result.shape) + 1
        target = torch.autograd.grad(result, probe, numbers)[0].long() - 1
    count = int(torch.Size(x.shape).numel())
    row, there = codes(x, rows) // max(count, 1), target >= 0
    layout = _found(layout_of(result.shape, Places(torch.unravel_index(target[there], result.shape),
                                                   row[there]), rows))
    size = int(torch.Size(layout.shape).numel())
    place = torch.where(there, (codes(layout, rows).flatten() % size)[target.clamp(min=0)], -1)
    return [rows_of(place, x, rows)], result.detach(), layout


def _found(layout: Rows | None) -> Rows:
    if layout is None:
        raise UnsupportedOperation("it moves entries between the examples of a batch")
    return layout


def _operands(b: Builder, args: Sequence[Any], positions: tuple[int, ...]) -> tuple[Any, ...]:
    """Arguments whose parameters at these positions are values that move, as the others there
    are.
    """
    moving = [i for i, arg in enumerate(args)
              if any(isinstance(leaf, Rows) for leaf in tree_leaves(arg))]
    if not set(moving) <= set(positions):
        raise UnsupportedOperation("indices that depend on the input")
    live = [i for i, arg in enumerate(args)
            if any(isinstance(leaf, Live) for leaf in tree_leaves(arg))]
    if live and not (moving and set(live) <= set(positions)):
        raise UnsupportedOperation("entries of parameters by indices that differ from example to "
                                   "example")
    return tuple(_spread(b, arg, args[moving[0]]) if i in live else arg
                 for i, arg in enumerate(args))


def _spread(b: Builder, value: Live, like: Rows) -> Rows:
    """A parameter's entries as a value with rows; in the trace its first dimension is the batch."""
    shape = tuple(value.value.shape[1:])
    size = int(torch.Size(shape).numel())
    nothing = b.constant(torch.full((size,), -1, device=b.device))
    zeros = Rows(b.step("pick", like.name, b.name(nothing), shape=list(shape), gaps=True), shape)
    return add(b, zeros, value)


def _add_pick(target: Any, positions: tuple[int, ...]) -> None:
    @rule(target)
    def _pick(b: Builder, *args: Any, **kwargs: Any) -> Any:
        return _lower(b, Call.of(target, _operands(b, args, positions), kwargs), picked, "pick")


def _add_strided(target: Any, positions: tuple[int, ...]) -> None:
    @rule(target)
    def _strided(b: Builder, *args: Any) -> Any:
        strides = b.strides

        def by_memory(x: Tensor, *rest: Any) -> Any:
            return target(torch.empty_strided(x.shape, strides, dtype=x.dtype,
                                              device=x.device).copy_(x), *rest)

        return _lower(b, Call.of(by_memory, _operands(b, args, positions), {}), picked, "pick")


def _add_put(target: Any, positions: tuple[int, ...]) -> None:
    @rule(target)
    def _put(b: Builder, *args: Any, alpha: float = 1, **kwargs: Any) -> Any:
        there, *rest = _operands(b, args, positions)
        if len(positions) == 1:
            return _lower(b, Call.of(target, (there, *rest), kwargs), added, "put")
        return _put_onto(b, target, there, rest, kwargs, positions[-1], alpha)


def _put_onto(b: Builder, target: Any, there: Any, rest: list[Any], kwargs: Any, last: int,
              alpha: float = 1) -> Any:
    """Entries that are added to what is there."""
    if not isinstance(rest[last - 1], Rows):
        raise UnsupportedOperation("constants that are added to entries")
    sizes = there.traced(b.rows) if isinstance(there, Rows) else there.shape
    call = Call.of(target, (torch.zeros(sizes, dtype=torch.float64), *rest), kwargs)
    moved = _lower(b, call, added, "put")
    moved = moved if alpha == 1 else b.emit("scale", moved, factor=float(alpha))
    return moved if isinstance(there, Tensor) and not there.any() else add(b, moved, there)


for _targets, _add in ((PICKS, _add_pick), (STRIDED, _add_strided), (PUTS, _add_put)):
    for _target, _positions in _targets.items():
        _add(_target, _positions)
OF_GIVEN.update(PICKS, STRIDED, PUTS, (aten.index_put.default, aten.embedding.default))


@rule(aten.index_put.default)
def _index_put(b: Builder, x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    args = _operands(b, (x, indices, values), (0, 2))
    if accumulate:
        return _put_onto(b, aten.index_put.default, args[0], [*args[1:], True], {}, 2)
    return _lower(b, Call.of(aten.index_put.default, args, {}), picked, "pick")


@rule(aten.copy.default)
def _copy(b: Builder, x: Any, source: Any, non_blocking: bool = False) -> Any:
    """Lower what is written over all of x."""
    sizes = x.traced(b.rows) if isinstance(x,
                                           Rows) else (x.value if isinstance(x, Live) else x).shape
    if isinstance(source, Live):
        return b.live("expand.default", source, list(sizes))
    if not isinstance(source, Rows):
        return torch.as_tensor(source).expand(sizes)
    return expand(b, source, list(sizes))


@rule(aten.embedding.default)
def _embedding(b: Builder, table: Any, ids: Any, *_: Any) -> Rows:
    """Lower rows of a table by ids that are further arguments."""
    if not isinstance(table, Live) or not isinstance(ids, Given):
        raise UnsupportedOperation("an embedding of ids that depend on the input; give them as a "
                                   "further argument (additional_forward_args), or explain the "
                                   "embedding (perturb its output)")
    rows = b.given(ids)
    return b.emit("lookup", rows, table, shape=(*rows.shape, *table.value.shape[1:]))
