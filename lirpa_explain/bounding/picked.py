"""Entries of rows that are picked by masks, and their bounds put back in their places."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..boxes import Box
from ..operators.bound import flat_rows


def joined(sides: Sequence[Box], count: int) -> Box:
    """Bounds of functions (B, K) each, side by side; of those that are missing of so many,
    nothing.
    """
    lower, upper = (torch.cat(side, 1) for side in zip(*sides, strict=True))
    missing = count - lower.shape[1]
    return Box(torch.nn.functional.pad(lower, (0, missing), value=-math.inf),
               torch.nn.functional.pad(upper, (0, missing), value=math.inf)).or_nothing()


def with_entries(box: Box, index: Tensor, entries: Box, wanted: Tensor) -> Box:
    """A box (B, *S) with other entries (B, K) where they are wanted, (B, D): a batch gives what its
    rows give.
    """
    wanted = wanted.gather(1, index)
    flat = box.map(flat_rows)
    return Box(*(side.scatter(1, index, torch.where(wanted, new, side.gather(1, index))).reshape(
        box.lower.shape) for side, new in zip(flat, entries, strict=True)))


def first_true(mask: Tensor) -> Tensor:
    """Indices (B, K) of the true entries of each row, K the largest count; rows with fewer have
    others beside them.

    They ascend: where one row wants all entries, those of the others are in their places too, and
    may be kept.
    """
    counts = mask.sum(1)
    first = torch.argsort(mask.to(torch.int8), dim=1, descending=True,
                          stable=True)[:, : int(counts.max())]
    return first.sort(1).values
