"""Operators that pick entries of a row, or put them somewhere and add them up, as indices say."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..boxes import Box
from .affine import Affine, BoundAffine
from .bound import BoundOperator, both_sides, box_of, flat_functions, flat_rows, weighted_sum
from .registry import Operator, register


def pick(x: Tensor, index: Tensor, shape: Sequence[int], gaps: bool) -> Tensor:
    """Entries of each row.

    Args:
        x: (B, *S).
        index: places in a row of x, flat, of all entries of a row of the result: (n,), or (B, n);
            -1: the entry is 0.
        shape: of a row of the result, n entries.
        gaps: whether some places are -1.

    Returns:
        (B, *shape).

    Example:
        >>> import torch
        >>> pick(torch.tensor([[1.0, 2.0]]), torch.tensor([1, -1, 0]), [3], True)
        tensor([[2., 0., 1.]])
    """
    return _taken(flat_rows(x), index.long(), gaps).reshape(x.shape[0], *shape)


def put(x: Tensor, index: Tensor, shape: Sequence[int], gaps: bool) -> Tensor:
    """Sums of entries of each row: the transpose of `pick`.

    Args:
        x: (B, *S).
        index: where each entry of a row of x, flat, is added: places in a row of the result, flat;
            (m,), or (B, m); -1: nowhere.
        shape: of a row of the result.
        gaps: whether some places are -1.

    Returns:
        (B, *shape).

    Example:
        >>> import torch
        >>> put(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([1, -1, 1]), [2], True)
        tensor([[0., 5.]])
    """
    return _added(flat_rows(x), index.long(), math.prod(shape), gaps).reshape(x.shape[0], *shape)


def _taken(flat: Tensor, index: Tensor, gaps: bool) -> Tensor:
    """(..., B, N) -> (..., B, n)."""
    places = index.clamp(min=0)
    taken = flat.index_select(-1, places) if index.ndim == 1 else \
        flat.gather(-1, places.expand(*flat.shape[:-1], index.shape[-1]))
    return taken * (index >= 0) if gaps else taken


def _added(flat: Tensor, index: Tensor, size: int, gaps: bool) -> Tensor:
    """(..., B, m) -> (..., B, size)."""
    flat, places = flat * (index >= 0) if gaps else flat, index.clamp(min=0)
    zeros = flat.new_zeros(*flat.shape[:-1], size)
    return zeros.index_add(-1, places, flat) if index.ndim == 1 else \
        zeros.scatter_add(-1, places.expand(flat.shape), flat)


def _pick_back(A: Tensor, index: Tensor, shape: Any, gaps: bool, of: tuple[int, ...]) -> Tensor:
    return _added(flat_functions(A), index.long(), math.prod(of), gaps).reshape(*A.shape[:2], *of)


def _put_back(A: Tensor, index: Tensor, shape: Any, gaps: bool, of: tuple[int, ...]) -> Tensor:
    return _taken(flat_functions(A), index.long(), gaps).reshape(*A.shape[:2], *of)


class BoundLookup(BoundOperator):
    """Rows of a table, by ids that do not move."""

    takes_parameters = True

    def bound_interval(self, *boxes: Box) -> Box:
        return Box(*boxes[1].map(lambda side: self.forward(boxes[0].lower, side)))

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        box = self.bound_interval(box_of(nodes[0]), box_of(nodes[1]))
        center, radius = box.around

        def side(sign: int) -> Any:
            return lambda A: ([None, None],
                              weighted_sum(A, center) + sign * weighted_sum(A.abs(), radius))

        return both_sides(last_lower, last_upper, side(-1), side(1))


def _lookup(ids: Tensor, table: Tensor) -> Tensor:
    """Rows (B, *S, *T) of a table (V, *T), by ids (B, *S)."""
    return table[ids.long().clamp(0, table.shape[0] - 1)]


ROWS = [
    Operator("pick", pick, BoundAffine, "gather, indices, unfold, flip, roll, tril, as_strided, "
             "x[:, i] = y", Affine(pick, _pick_back, bilinear=False)),
    Operator("put", put, BoundAffine, "scatter_add, index_add, gradient of indices and of unfold",
             Affine(put, _put_back, bilinear=False)),
    Operator("lookup", _lookup, BoundLookup, "nn.Embedding of ids that are further arguments"),
]
for row in ROWS:
    register(row)
