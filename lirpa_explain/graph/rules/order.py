"""Rules of maxima and minima, of sorting, and of what is done at the places where those were
found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedOperation
from ...operators.order import CHOICES
from ..builder import Builder, Indices, Live, Ranking, Rows, Ties
from .arithmetic import broadcast, negative, subtract
from .shapes import sum_over
from .table import RULES, rule

aten = torch.ops.aten


# The larger of two values


def larger(b: Builder, x: Any, y: Any) -> Rows:
    """Lower max(x, y)."""
    if not isinstance(x, Rows):
        x, y = y, x
    x, y = b.line_up(x, y if isinstance(y, Rows | Live)
                     else torch.as_tensor(y, dtype=b.dtype, device=b.device))
    return b.emit("larger", x, y, subtract(b, x, y), shape=broadcast(x, y))


def smaller(b: Builder, x: Any, y: Any) -> Rows:
    """Lower min(x, y)."""
    return negative(b, larger(b, *(negative(b, v) for v in (x, y))))


rule(aten.maximum.default, aten.max.other, aten.fmax.default)(larger)
rule(aten.minimum.default, aten.min.other, aten.fmin.default)(smaller)


@rule(aten.clamp.Tensor, aten.clamp_.Tensor)
def _clamp(b: Builder, x: Any, low: Any = None, high: Any = None) -> Rows:
    if _is_number(low) and _is_number(high):
        low, high = (None if end is None else float(end) for end in (low, high))
        return b.emit("clamp", x, low=low, high=high)
    x = x if low is None else larger(b, x, low)
    return x if high is None else smaller(b, x, high)


@rule(aten.clamp_min.Tensor, aten.clamp_min_.Tensor)
def _clamp_min(b: Builder, x: Any, low: Any) -> Rows:
    return _clamp(b, x, low)


@rule(aten.clamp_max.Tensor, aten.clamp_max_.Tensor)
def _clamp_max(b: Builder, x: Any, high: Any) -> Rows:
    return _clamp(b, x, None, high)


def _is_number(end: Any) -> bool:
    return end is None or isinstance(end, Tensor) and end.numel() == 1


def parts_of_larger(b: Builder, g: Rows, t: Rows, tie: float) -> tuple[Rows, Rows]:
    """What of g goes to u and to v in the gradient of max(u, v), t = u - v; at a tie the share
    `tie` goes to u.
    """
    first = b.emit("larger_gradient", b.operand(g, t), t, tie=tie)
    return first, b.emit("rest", g, first, t, low=None, high=0.0, closed=True, inside=True)


# Entries by their rank


@dataclass(frozen=True)
class Reduced:
    """Dimensions of the trace that are reduced, as one.

    Args:
        x: the value.
        dims: of the trace.
    """

    x: Rows
    dims: tuple[int, ...]

    @property
    def _order(self) -> list[int]:
        return [d for d in range(self.x.ndim) if d not in self.dims] + list(self.dims)

    def flat(self, b: Builder, y: Rows | None = None) -> tuple[Rows, int]:
        """The value, or another of sizes 1 there, with the dimensions made one; and that dimension
        of the trace.
        """
        y = self.x if y is None else y
        if len(self.dims) == 1:
            return y, self.dims[0]
        y = b.permute(y, self._order)
        kept = y.traced(b.rows)[: y.ndim - len(self.dims)]
        return b.view(y, (*kept, -1)), len(kept)

    def back(self, b: Builder, y: Rows) -> Rows:
        """The inverse, for a value or its reduction."""
        if len(self.dims) == 1:
            return y
        sizes = b.permute(self.x, self._order).traced(b.rows)
        reduced = [1] * len(self.dims) if y.shape[-1] == 1 else sizes[-len(self.dims):]
        y = b.view(y, (*sizes[: -len(self.dims)], *reduced))
        return b.permute(y, [self._order.index(d) for d in range(self.x.ndim)])


def _ranked(b: Builder, x: Rows, dims: Sequence[int], ranks: Sequence[int], choice: Sequence[Any],
            keepdim: bool) -> tuple[Rows, Indices]:
    """Entries of some ranks, counted from the end if negative, and where they are."""
    if not dims:
        raise UnsupportedOperation("a maximum over the whole batch; reduce the dimensions of an "
                                   "example")
    reduced = Reduced(x, tuple(d % x.ndim for d in dims))
    for d in reduced.dims:
        x.dim(d)  # none may be the batch
    flat, dim = reduced.flat(b)
    ranking = Ranking(flat, flat.dim(dim), tuple(ranks), tuple(choice))
    y = entries(b, ranking)
    b.notes["ranked", y.name] = reduced, ranking
    values = reduced.back(b, y)
    if not keepdim:
        values = RULES[aten.squeeze.dims](b, values, list(reduced.dims))
    return values, Indices(x, ranking, values)


def _pair(b: Builder, ranking: Ranking) -> tuple[Rows, Rows, Rows]:
    """Of two entries those whose larger one is asked for, negated if it is the smaller one, and
    their difference.
    """
    x, at = ranking.of, ranking.at
    shape = (*x.shape[: at - 1], 1, *x.shape[at:])
    u, v = (b.emit("slice", x, shape=shape, dim=at, start=i, stop=i + 1, step=1) for i in (0, 1))
    if not _is_largest(ranking):
        u, v = negative(b, u), negative(b, v)
    return u, v, subtract(b, u, v)


def _is_largest(ranking: Ranking) -> bool:
    """Whether of two entries the larger is asked for."""
    return ranking.ranks[0] % 2 == 0


def _is_pair(ranking: Ranking) -> bool:
    return ranking.of.shape[ranking.at - 1] == 2 and len(ranking.ranks) == 1


def entries(b: Builder, ranking: Ranking) -> Rows:
    """The entries of a ranking."""
    x, at = ranking.of, ranking.at
    if x.shape[at - 1] == 1:
        return b.emit("scale", x, factor=1.0)
    if _is_pair(ranking):
        largest = larger(b, *_pair(b, ranking)[:2])
        return largest if _is_largest(ranking) else negative(b, largest)
    shape = (*x.shape[: at - 1], len(ranking.ranks), *x.shape[at:])
    return b.emit("ranked", x, shape=shape, dim=at, ranks=list(ranking.ranks))


def put(b: Builder, g: Rows, ranking: Ranking) -> Rows:
    """What comes in for the entries of a ranking, put where they are."""
    x, at = ranking.of, ranking.at
    if x.shape[at - 1] == 1:
        return g
    if not _is_pair(ranking):
        return b.emit("ranked_gradient", g, x, shape=x.shape, dim=at, ranks=list(ranking.ranks),
                      choice=list(ranking.choice))
    tie = 0.5 if ranking.choice[0] == "share" else _first_of_equals(ranking)
    parts = parts_of_larger(b, g, _pair(b, ranking)[2], tie)
    return b.emit("concatenate", *parts, shape=x.shape, dim=at)


def _first_of_equals(ranking: Ranking) -> float:
    """1 if torch takes the first of two equal entries for that of a rank, 0 if the second."""
    index = CHOICES[ranking.choice[0]](torch.zeros(2), 0, *ranking.choice[1:])
    return float(index[0] == 0)


@rule(aten.max.dim)
def _max(b: Builder, x: Rows, dim: int, keepdim: bool = False) -> tuple[Rows, Indices]:
    return _ranked(b, x, [dim], [0], ["max"], keepdim)


@rule(aten.min.dim)
def _min(b: Builder, x: Rows, dim: int, keepdim: bool = False) -> tuple[Rows, Indices]:
    return _ranked(b, x, [dim], [-1], ["min"], keepdim)


@rule(aten.amax.default)
def _amax(b: Builder, x: Rows, dims: Any = (), keepdim: bool = False) -> Rows:
    return _ranked(b, x, [dims] if isinstance(dims, int) else dims, [0], ["share"], keepdim)[0]


@rule(aten.amin.default)
def _amin(b: Builder, x: Rows, dims: Any = (), keepdim: bool = False) -> Rows:
    return _ranked(b, x, [dims] if isinstance(dims, int) else dims, [-1], ["share"], keepdim)[0]


@rule(aten.aminmax.default)
def _aminmax(b: Builder, x: Rows, *, dim: int | None = None,
             keepdim: bool = False) -> tuple[Rows, Rows]:
    dims = [] if dim is None else [dim]
    return _amin(b, x, dims, keepdim), _amax(b, x, dims, keepdim)


@rule(aten.max.default, aten.min.default)
def _of_all(b: Builder, x: Rows) -> Rows:
    return _amax(b, x)


@rule(aten.argmax.default)
def _argmax(b: Builder, x: Rows, dim: int | None = None, keepdim: bool = False) -> Indices:
    return _ranked(b, x, [] if dim is None else [dim], [0], ["max"], keepdim)[1]


@rule(aten.argmin.default)
def _argmin(b: Builder, x: Rows, dim: int | None = None, keepdim: bool = False) -> Indices:
    return _ranked(b, x, [] if dim is None else [dim], [-1], ["min"], keepdim)[1]


@rule(aten.topk.default)
def _topk(b: Builder, x: Rows, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
          ) -> tuple[Rows, Indices]:
    if not sorted:
        raise UnsupportedOperation("topk with sorted=False, whose order is not said; leave it out")
    ranks = range(k) if largest else range(-1, -k - 1, -1)
    return _ranked(b, x, [dim], list(ranks), ["topk", k, largest], True)


@rule(aten.sort.default)
def _sort(b: Builder, x: Rows, dim: int = -1, descending: bool = False) -> tuple[Rows, Indices]:
    return _sort_stable(b, x, stable=False, dim=dim, descending=descending)


@rule(aten.sort.stable)
def _sort_stable(b: Builder, x: Rows, *, stable: bool | None, dim: int = -1,
                 descending: bool = False) -> tuple[Rows, Indices]:
    ranks = list(range(x.shape[x.dim(dim) - 1]))
    return _ranked(b, x, [dim], ranks if descending else ranks[::-1],
                   ["sort", descending, bool(stable)], True)


@rule(aten.kthvalue.default)
def _kthvalue(b: Builder, x: Rows, k: int, dim: int = -1,
              keepdim: bool = False) -> tuple[Rows, Indices]:
    return _ranked(b, x, [dim], [-k], ["kthvalue", k], keepdim)


@rule(aten.median.dim)
def _median(b: Builder, x: Rows, dim: int, keepdim: bool = False) -> tuple[Rows, Indices]:
    """Of an even number the lower one of the two in the middle."""
    return _ranked(b, x, [dim], [x.shape[x.dim(dim) - 1] // 2], ["median"], keepdim)


# Gradients that are shared by entries which tie


def count_ties(b: Builder, ties: Ties, dims: Any, keepdim: bool = False) -> Rows | None:
    """How many entries tie, with a note of it; None if the sum is over others than those that are
    compared.
    """
    if ties.source is None or {d % ties.source.ndim for d in dims} != set(ties.dims) or not keepdim:
        return None
    count = sum_over(b, b.emit("window", ties.of, low=0.0, high=0.0, closed=True, inside=True),
                     dims, True)
    b.notes["count", count.name] = ties
    return count


def shared(b: Builder, x: Any, ties: Any) -> Rows | None:
    """An upstream gradient divided by how many entries tie, times where they do; None if it is not
    that.
    """
    if not isinstance(ties, Ties) or not isinstance(x, Rows):
        return None
    g, same = b.notes.get(("quotient", x.name), (None, None))
    if same != ties or not isinstance(g, Rows):
        return None
    reduced, ranking = b.notes["ranked", ties.result]
    return reduced.back(b, put(b, reduced.flat(b, g)[0], replace(ranking, choice=("share",))))
