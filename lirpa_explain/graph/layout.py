"""Where the batch lies in a traced tensor, found from which example each entry belongs to."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .builder import Rows


class Places(NamedTuple):
    """Some entries of a traced tensor: their coordinates in each dimension, and the examples they
    belong to.
    """

    coordinates: Sequence[Tensor]
    rows: Tensor


def codes(x: Rows, rows: int) -> Tensor:
    """For each entry of a traced tensor, its flat place (example, place in its row) in the
    module.
    """
    count = int(torch.Size(x.shape).numel())
    return torch.arange(rows * count).reshape(rows,
                                              *x.shape).movedim(0, x.before).reshape(x.traced(rows))


def rows_of(traced: Tensor, x: Rows, rows: int) -> Tensor:
    """A tensor of the shape that x has in the trace, as (rows, entries of a row in the module)."""
    split = (*x.shape[: x.before], rows, *x.shape[x.before:])
    return traced.reshape(split).movedim(x.before, 0).reshape(rows, -1)


def layout_of(sizes: Sequence[int], places: Places, rows: int) -> Rows | None:
    """How a traced tensor of this shape holds its rows, as one without a name; None if no dimension
    is the batch.
    """
    for d, size in enumerate(sizes):
        if size % rows:
            continue
        merged, at = size // rows, places.coordinates[d]
        head, tail = tuple(sizes[:d]), tuple(sizes[d + 1:])
        if merged == 1 and torch.equal(at, places.rows):
            return Rows("", (*head, *tail), d)
        if merged > 1 and torch.equal(at % rows, places.rows):
            return Rows("", (*head, merged, *tail), d + 1, outer=True)
        if merged > 1 and torch.equal(at // merged, places.rows):
            return Rows("", (*head, merged, *tail), d, inner=True)
    return None
