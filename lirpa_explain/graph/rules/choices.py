"""Rules of choices by comparisons, and of comparisons used as numbers."""

from dataclasses import replace
from typing import Any

import torch

from ...errors import UnsupportedOperation
from ..builder import Builder, Comparison, Indices, Live, Rows, Ties
from ..masks import finite
from .arithmetic import add, broadcast, multiply, subtract
from .comparisons import as_number, difference_of, negation
from .directions import zero_at_zero
from .order import count_ties, larger, parts_of_larger, shared, smaller
from .table import PASS_THROUGH, RULES, rule

aten = torch.ops.aten


def _side(b: Builder, x: Any) -> Any:
    """One of the values that are chosen between, as numbers."""
    if isinstance(x, Comparison):
        return as_number(b, x)
    return x if isinstance(x, Rows | Live) else finite(torch.as_tensor(x, dtype=b.dtype))


@rule(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def _where(b: Builder, mask: Any, x: Any, y: Any) -> Rows:
    """Lower `x where mask, else y`."""
    x, y = _side(b, x), _side(b, y)
    if isinstance(mask, torch.Tensor):
        mask = mask.to(b.dtype)
        return add(b, _times_mask(b, mask, x), _times_mask(b, 1 - mask, y))
    if isinstance(mask, Rows):  # made of further arguments: 1 or 0
        return add(b, _times_mask(b, mask, x), _times_mask(b, subtract(b, 1.0, mask), y))
    if isinstance(mask, Live):
        mask = b.in_its_type(mask)
        chosen = [multiply(b, part, side) for side, part in ((x, mask), (y, b.live(
            "rsub.Scalar", mask, 1))) if not _is_zero(side)]
        return add(b, *chosen) if len(chosen) == 2 else chosen[0]
    if not isinstance(mask, Comparison):
        raise UnsupportedOperation("a choice that is not a comparison of a value")
    if _is_zero(y):
        return multiply(b, mask.of, 0.0) if _is_zero(x) else _masked(b, x, mask)
    if _is_zero(x):
        return _masked(b, y, negation(mask))
    if not isinstance(x, Rows | Live) and not isinstance(y, Rows | Live):
        return add(b, _masked(b, torch.as_tensor(x, dtype=b.dtype)
                              - torch.as_tensor(y, dtype=b.dtype), mask), y)
    larger = _larger(b, mask, x, y)
    return _choose(b, mask, x, y) if larger is None else larger


@rule(aten.masked_fill.Scalar, aten.masked_fill_.Scalar, aten.masked_fill.Tensor,
      aten.masked_fill_.Tensor)
def _masked_fill(b: Builder, x: Any, mask: Any, value: Any) -> Rows:
    return _where(b, mask, value, x)


def _times_mask(b: Builder, mask: Any, x: Any) -> Any:
    """A value times 1 or 0; numbers stay numbers."""
    if isinstance(mask, Rows) or isinstance(x, Rows | Live):
        return multiply(b, mask, x)
    return mask * x


def _is_zero(x: Any) -> bool:
    return not isinstance(x, Rows | Live) and not bool(torch.as_tensor(x).any())


def _settings(mask: Comparison) -> dict[str, Any]:
    return {"low": mask.low, "high": mask.high, "closed": mask.closed, "inside": mask.inside}


def _choose(b: Builder, mask: Comparison, x: Any, y: Any) -> Rows:
    """X where the mask is true, y elsewhere; one of both has rows, or is a parameter."""
    if not isinstance(x, Rows) and not isinstance(y, Rows):
        return add(b, _masked(b, x, mask), _masked(b, y, negation(mask)))
    z = mask.of
    for value in (x, y, x):
        z = b.line_up(z, value)[0]
    x, y = (b.operand(v if isinstance(v, Rows | Live)
                      else torch.as_tensor(v, dtype=b.dtype, device=b.device), z) for v in (x, y))
    t = subtract(b, x, y)
    name = b.step("choose", *map(b.name, (x, y, t, z)), **_settings(mask))
    result = replace(z, name=name, shape=tuple(torch.broadcast_shapes(z.shape, t.shape)))
    if _is_half(b, x, y) and mask.inside and mask.low == mask.high == 0:
        b.notes["halved", name] = y, z
    return result


def _is_half(b: Builder, x: Any, y: Any) -> bool:
    """Whether x is y / 2."""
    step = b.producer(x) if isinstance(x, Rows) and isinstance(y, Rows) else None
    if step is None or step.inputs[0] != y.name:
        return False
    return step.operator == "scale" and step.settings["factor"] == 0.5 \
        or step.operator == "divide" and bool((b.tensors[step.inputs[1]] == 2).all())


def _larger(b: Builder, mask: Comparison, x: Any, y: Any) -> Rows | None:
    """The larger, or the smaller, of two values that are compared; None if it is neither."""
    pair = difference_of(b, mask.of)
    if (pair is None or not mask.inside or (mask.low is None) == (mask.high is None)
            or 0.0 not in (mask.low, mask.high)):
        return None
    for (u, v), rises in ((pair, mask.high is None), (pair[::-1], mask.low is None)):
        if u is x and v is y or isinstance(u, Rows) and isinstance(v, Rows) and u == x and v == y:
            return larger(b, u, v) if rises else smaller(b, u, v)
    return None


def _masked(b: Builder, x: Any, mask: Comparison) -> Rows:
    """X where the mask is true, 0 elsewhere."""
    if zero_at_zero(b, x, mask):
        return x
    special = shared(b, x, mask) if isinstance(mask, Ties) else _part_of_larger(b, x, mask)
    if special is not None:
        return special
    window, z = _settings(mask), mask.of
    if isinstance(x, Live):
        return multiply(b, b.emit("window", z, **window), x)
    if isinstance(x, Rows):
        return _selected(b, x, mask)
    # of a number, torch would make one of single precision
    constant = torch.as_tensor(x, dtype=b.dtype)
    number = b.emit("window", z, **window)
    return multiply(b, number, float(constant) if constant.numel() == 1 else constant)


def _selected(b: Builder, x: Rows, mask: Comparison) -> Rows:
    """What has rows where the mask is true; if the rest of it goes elsewhere, as what is left."""
    x, z = b.line_up(x, mask.of)
    shape, other = broadcast(x, z), negation(mask)
    counterpart = b.made("select", x.name, z.name, **_settings(other))
    if counterpart is not None and shape == x.shape:
        return b.emit("rest", x, replace(x, name=counterpart), z, **_settings(mask))
    return b.emit("select", x, z, shape=shape, **_settings(mask))


def _part_of_larger(b: Builder, x: Any, mask: Comparison) -> Rows | None:
    """The gradient of maximum, of which torch halves ties and takes out one side."""
    note = b.notes.get(("halved", x.name)) if isinstance(x, Rows) else None
    if (note is None or note[1] != mask.of or not mask.inside
            or (mask.low, mask.high) not in ((0.0, None), (None, 0.0))):
        return None
    g, t = note
    return parts_of_larger(b, g, t, 0.5)[int(mask.low is None)]


READ = {aten.logical_and.default, aten.logical_and_.default, aten.bitwise_and.Tensor,
        aten.bitwise_and_.Tensor, aten.logical_or.default, aten.logical_or_.default,
        aten.bitwise_or.Tensor, aten.bitwise_or_.Tensor, aten.logical_xor.default,
        aten.logical_xor_.default, aten.bitwise_xor.Tensor, aten.bitwise_xor_.Tensor,
        aten.logical_not.default, aten.logical_not_.default, aten.bitwise_not.default,
        aten.where.self, aten.any.dim, aten.any.dims, aten.all.dim, aten.all.dims,
        aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar, aten.masked_fill.Scalar,
        aten.masked_fill_.Scalar, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}
"""Operations whose rules read comparisons."""

AT_PLACES = {
    aten.scatter.src, aten.scatter.value, aten.scatter_add.default, aten.gather.default,
    aten.max_pool2d_with_indices_backward.default, aten.adaptive_max_pool2d_backward.default,
    aten.max_pool3d_with_indices_backward.default, aten.adaptive_max_pool3d_backward.default}
"""Operations whose rules read where maxima were found."""

MOVE = {
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten._reshape_alias.default,
    aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default,
    aten.expand.default,
    aten.permute.default, aten.transpose.int, aten.t.default, aten.slice.Tensor, aten.select.int}
"""Operations that move entries: what is moved is compared."""

MULTIPLY = {aten.mul.Tensor, aten.mul_.Tensor, aten.mul.Scalar}

EXACT = {*MOVE, aten._to_copy.default, aten.cat.default, aten.stack.default}
"""Operations whose results on 1 and 0 are the same in every type."""


def lower_with_comparisons(b: Builder, target: Any, args: Any, kwargs: Any) -> Any:
    """Lower an operation on comparisons or places of maxima, as such if it reads these.

    To use comparisons as numbers is sound: autograd gives them no gradient, and their jumps are
    within the window's bounds.

    Raises:
        UnsupportedOperation: The operation has no rule.
    """
    if target in READ | AT_PLACES:
        return RULES[target](b, *args, **kwargs)
    if (target in PASS_THROUGH
            or target is aten._to_copy.default and kwargs.get("dtype") is torch.bool):
        return args[0]
    if any(isinstance(a, Indices)
           for a in torch.utils._pytree.tree_leaves((list(args), dict(kwargs)))):
        return _move_places(b, target, args, kwargs)
    if target in MOVE:
        return Comparison(RULES[target](b, args[0].of, *args[1:], **kwargs), args[0].low,
                          args[0].high, args[0].closed, args[0].inside)
    if target is aten._to_copy.default:
        return as_number(b, args[0])
    if target in MULTIPLY:
        mask, other = args[:2] if isinstance(args[0], Comparison) else args[1::-1]
        other = as_number(b, other) if isinstance(other, Comparison) else other
        return multiply(b, mask.of, 0.0) if _is_zero(other) else _masked(b, other, mask)
    if target not in RULES:
        raise UnsupportedOperation("there is no bound operator for it")
    if target is aten.sum.dim_IntList and isinstance(args[0], Ties):
        count = count_ties(b, *args)
        if count is not None:
            return count
    numbers = torch.utils._pytree.tree_map(lambda a: as_number(b, a) if isinstance(a, Comparison)
                                           else a, (list(args), dict(kwargs)))
    return RULES[target](b, *numbers[0], **numbers[1])


def _move_places(b: Builder, target: Any, args: Any, kwargs: Any) -> Indices:
    """Where maxima are, laid out in another way that keeps their order."""
    index = args[0]
    if target not in MOVE or not isinstance(index, Indices) or index.like is None:
        raise UnsupportedOperation("it computes with the place of a maximum")
    moved = RULES[target](b, index.like, *args[1:], **kwargs)
    repeated = _repeated(b, index, moved) if target is aten.expand.default else None
    if repeated is not None:
        return repeated
    step = b.producer(moved)
    if moved.name != index.like.name and (step is None or step.operator != "reshape"):
        raise UnsupportedOperation("it takes some of the places of maxima from others")
    return replace(index, like=moved)


def _repeated(b: Builder, index: Indices, like: Rows) -> Indices | None:
    """Places repeated along new last dimensions, of entries repeated likewise; None if not so.

    They choose whole vectors, as `x.gather(1, place[..., None].expand(-1, -1, n))` does.
    """
    ranking, before = index.ranking, index.like
    if ranking is None or before is None:
        return None
    of, at = ranking.of, ranking.at
    found = *of.shape[: at - 1], len(ranking.ranks), *of.shape[at:]
    ones, added = before.shape[len(found):], like.shape[len(found):]
    if before.shape != (*found, *ones) or set(ones) != {1} or like.shape[: len(found)] != found:
        return None
    of = b.reshape(of, (*of.shape, *ones), of.before, of.outer, of.inner)
    shape = *of.shape[: len(found)], *added
    of = replace(of, name=b.step("expand", of.name, shape=list(shape)), shape=shape)
    return replace(index, ranking=replace(ranking, of=of), like=like)
