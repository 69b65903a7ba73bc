"""Entries by their rank: which may have it, and planes around the value that has it; along the last
dimension.

Ranks count from 0, the largest. All tensors are (*S, n) where nothing else is said.
"""

import torch
from torch import Tensor

from ..boxes import Box
from ..rounding import JUMP, roundings

Plane = tuple[Tensor, Tensor]


def rank_range(box: Box) -> tuple[Tensor, Tensor]:
    """The lowest and the highest rank that each entry may have.

    An entry comes after those that are surely larger, and before those that are surely smaller.
    Entries within some roundings of each other may have either order.

    Args:
        box: where the entries lie; -inf stands for none.

    Returns:
        (first, last), integers (*S, n), 0 <= first <= last < n.

    Example:
        >>> first, last = rank_range(Box(torch.tensor([0.0, 1.0, 5.0]),
        ...                              torch.tensor([2.0, 3.0, 6.0])))
        >>> first.tolist(), last.tolist()
        ([1, 1, 0], [2, 2, 0])
    """
    lower, upper = (side.detach().contiguous() for side in box)
    margin = (roundings(JUMP, lower.dtype)
              * box.size.detach().masked_fill(upper == -torch.inf, 0).amax(-1, keepdim=True))
    n = lower.shape[-1]
    first = n - torch.searchsorted(lower.sort(-1).values, upper + margin, right=True)
    last = n - 1 - torch.searchsorted(upper.sort(-1).values, lower - margin)
    return first, last


def may_have(box: Box, ranks: Tensor) -> Tensor:
    """Which entries may have each of some ranks.

    Args:
        box: where the entries lie; -inf stands for none.
        ranks: integers (R,).

    Returns:
        bool, (*S, R, n); true somewhere for each rank, if not all entries are none.
    """
    first, last = (side[..., None, :] for side in rank_range(box))
    return (first <= ranks[:, None]) & (ranks[:, None] <= last) & (
        box.upper > -torch.inf)[..., None, :]


def ranked_planes(box: Box, ranks: Tensor) -> tuple[Plane, Plane]:
    """Planes below and above the values of some ranks.

    Among c entries that may have a rank, of which q precede it, the value is at most the largest of
    any c - q of them, and at least the smallest of any q + 1: `largest_plane` of those with the
    smallest upper, the largest lower ends. Exact where only one entry may have the rank.

    Args:
        box: where the entries lie; -inf stands for none.
        ranks: integers (R,).

    Returns:
        (slopes, offsets) of the planes below and above, (*S, R, n) and (*S, R).

    Example:
        >>> box = Box(torch.tensor([0.0, 0.0, 5.0]), torch.tensor([1.0, 1.0, 6.0]))
        >>> (below, low), (above, high) = ranked_planes(box, torch.tensor([0, 1]))
        >>> above.tolist(), high.tolist()
        ([[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]], [0.0, 0.5])
    """
    possible = may_have(box, ranks)
    before = (rank_range(box)[1][..., None, :] < ranks[:, None]).sum(-1, keepdim=True)
    before = ranks[:, None] - before
    lower, upper = (side[..., None, :].expand(possible.shape) for side in box)
    least = _drop(possible, upper, before)
    greatest = possible & ~_drop(possible, lower, before + 1)
    slopes, offsets = largest_plane(Box(-upper, -lower), greatest)
    return (slopes, -offsets), largest_plane(Box(lower, upper), least)


def _drop(mask: Tensor, values: Tensor, count: Tensor) -> Tensor:
    """A mask without the so many of its entries that have the largest values."""
    if not bool(count.any()):
        return mask
    order = values.masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(mask.shape[-1], device=mask.device).expand_as(order)
    place = torch.empty_like(order).scatter_(-1, order, places)
    return mask & (place >= count)


def largest_plane(box: Box, mask: Tensor) -> Plane:
    """A plane above the largest of the entries of a mask.

    With slopes a_k in [0, 1] the best constant is M - sum_k a_k l_k, M = max_k (u_k - a_k (u_k -
    l_k)), so that a_k = max(0, u_k - M) / (u_k - l_k) for a level M >= max_k l_k. In the middle of
    the box that is lowest for M from the third largest u_k to the second; of these that which makes
    the slopes add up to 1 is taken, or comes nearest to it: of two entries it is the plane of x_2 +
    relu(x_1 - x_2). Exact where the mask has one entry.

    Args:
        box: where the entries lie.
        mask: which entries count, bool; at least one of each row.

    Returns:
        slopes (*S, n), offset (*S).

    Example:
        >>> slopes, offset = largest_plane(Box(torch.zeros(2), torch.ones(2)),
        ...                                torch.ones(2, dtype=torch.bool))
        >>> slopes.tolist(), offset.item()
        ([0.5, 0.5], 0.5)
    """
    lower, upper = box
    single = mask.sum(-1) == 1
    highest, at = upper.masked_fill(~mask, -torch.inf).topk(min(3, mask.shape[-1]), -1)
    floor = lower.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
    width = torch.where(mask, upper - lower, 0.0)
    level = floor
    if highest.shape[-1] > 1:
        (u, v), (w, z) = highest[..., :2].unbind(-1), width.gather(-1, at[..., :2]).unbind(-1)
        total = torch.where((w + z > 0) & ~single, w + z, 1.0)
        u, v = torch.where(single, 0.0, u), torch.where(single, 0.0, v)
        level = torch.minimum(v, u - w * ((u - v + z) / total))[..., None]
        third = highest[..., 2:] if highest.shape[-1] > 2 else floor
        level = torch.maximum(level, torch.maximum(floor, third))
    rise = torch.where(mask, (upper - level).clamp(min=0), 0.0)
    slopes = torch.where(width > 0, (rise / torch.where(width > 0, width, 1.0)).clamp(max=1), 0.0)
    offset = level[..., 0] - (slopes * torch.where(mask, lower, 0.0)).sum(-1)
    return (torch.where(single[..., None], mask.to(slopes.dtype), slopes),
            torch.where(single, 0.0, offset))
