"""Gathers from, and scatters to, places that depend on the input: those of maxima, and indices that
are computed.

At fixed places, and at those of further arguments, the same operations move entries: see `moves`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedOperation
from ..arguments import Given
from ..builder import Builder, Indices, Ranking, Rows
from . import moves  # noqa: F401  (its rules are those at fixed places)
from .arithmetic import add, multiply
from .order import entries, put
from .table import RULES, rule

aten = torch.ops.aten


def _lined_up(b: Builder, index: Indices, *others: Rows) -> Ranking:
    """The ranking of indices that are laid out as it left them, as are other values but for that
    dimension.
    """
    ranking, like = index.ranking, index.like
    if ranking is None or like is None:
        raise UnsupportedOperation("indices of a pooling")
    x, at = ranking.of, ranking.at
    shape = (*x.shape[: at - 1], len(ranking.ranks), *x.shape[at:])
    if like.shape != shape or not all(
        v.lines_up(replace(x, shape=v.shape)) and like.lines_up(replace(x, shape=shape))
        and (*v.shape[: at - 1], *v.shape[at:]) == (*x.shape[: at - 1], *x.shape[at:])
        for v in others):
        raise UnsupportedOperation("indices of a maximum at other places than those where it was "
                                   "found")
    return ranking


def _dim_of(x: Rows, dim: int, ranking: Ranking) -> None:
    if x.dim(dim) != ranking.at:
        raise UnsupportedOperation("indices of a maximum along another dimension")


def _is_nothing(x: Any) -> bool:
    return isinstance(x, Tensor) and not bool(x.any())


def scatter(b: Builder, x: Any, dim: int, index: Any, g: Any) -> Rows:
    """Lower a scatter at places that depend on the input."""
    if not _is_nothing(x) or not isinstance(g, Rows):
        raise UnsupportedOperation("a scatter into values, at places that depend on the input")
    if isinstance(index, Rows):
        at, size = g.dim(dim), x.shape[dim]
        return b.emit("put_at", g, b.operand(index, g),
                      shape=(*g.shape[: at - 1], size, *g.shape[at:]), dim=at, size=size)
    ranking = _lined_up(b, index, g)
    _dim_of(g, dim, ranking)
    return put(b, g, ranking)


def _scatter_value(b: Builder, x: Any, dim: int, index: Any, value: float) -> Rows:
    like = index.like if isinstance(index, Indices) else index
    return scatter(b, x, dim, index, add(b, multiply(b, like, 0.0), float(value)))


def gather(b: Builder, x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Rows:
    """Lower a gather from places that depend on the input."""
    if not isinstance(x, Rows):
        raise UnsupportedOperation("a gather from constants, at places that depend on the input")
    at = x.dim(dim)
    if isinstance(index, Rows):
        shape = (*x.shape[: at - 1], index.shape[at - 1], *x.shape[at:])
        return b.emit("pick_at", x, b.operand(index, x), shape=shape, dim=at, size=x.shape[at - 1])
    ranking = _lined_up(b, index, x)
    _dim_of(x, dim, ranking)
    if x == ranking.of:
        return entries(b, ranking)
    shape = (*x.shape[: at - 1], len(ranking.ranks), *x.shape[at:])
    return b.emit("pick_ranked", x, ranking.of, shape=shape, dim=at, ranks=list(ranking.ranks),
                  choice=list(ranking.choice))


MOVING: dict[Any, Callable[..., Rows]] = {
    aten.scatter.src: scatter,
    aten.scatter_add.default: scatter,
    aten.scatter.value: _scatter_value,
    aten.gather.default: gather,
}
"""Operations with indices as third argument -> what lowers them where those depend on the input."""


def _add_moving(target: Any) -> None:
    fixed = RULES[target]

    @rule(target, overwrite=True)
    def _at_places(b: Builder, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(args[2], Rows | Indices):
            return fixed(b, *args, **kwargs)
        return MOVING[target](b, *(b.given(a) if isinstance(a, Given) else a for a in args),
                              **kwargs)


for _target in MOVING:
    _add_moving(_target)
