"""Bounds of the logarithm of a softmax, l_i = x_i - log sum_j exp(x_j), over a box, along the last
dimension.

l_i rises with x_i and falls with every other entry, so its range is taken at two corners. It is
concave in x: planes above are tangents, planes below replace every exp by its chord.
"""

import torch
from torch import Tensor

from ..boxes import Box
from ..rounding import lowest
from ..rounding import narrow as narrow_width

Plane = tuple[Tensor, Tensor]


def log_softmax_range(lo: Tensor, hi: Tensor) -> Box:
    """Smallest and largest value of l_i for x in [lo, hi]: exact, and at most 0.

    l_i = -log(1 + exp(log sum_{j != i} exp(x_j) - x_i)), in which no entry appears twice.

    Example:
        >>> low, high = log_softmax_range(torch.tensor([0., -1.]), torch.tensor([0., 1.]))
        >>> torch.allclose(high[1], torch.tensor([0., 1.]).log_softmax(0)[1])
        True
    """
    zero = torch.zeros_like(lo)
    return Box(-torch.logaddexp(zero, _log_sum_of_others(hi) - lo),
               -torch.logaddexp(zero, _log_sum_of_others(lo) - hi))


def _log_sum_of_others(x: Tensor) -> Tensor:
    """Return log sum_{j != i} exp(x_j), without subtracting what was added."""
    nothing = torch.full_like(x[..., :1], lowest(x.dtype))
    before = torch.cat([nothing, x[..., :-1].logcumsumexp(-1)], -1)
    after = torch.cat([x[..., 1:].flip(-1).logcumsumexp(-1).flip(-1), nothing], -1)
    return torch.logaddexp(before, after)


def log_sum_exp_planes(lo: Tensor, hi: Tensor) -> tuple[Plane, Plane]:
    """Planes below and above log sum_j exp(x_j): slopes of the shape of `lo`, offsets with last
    dimension 1.

    Below: the tangent at the centre. Above: with the chords of exp, the logarithm of a linear
        function, and its
    tangent; either of x as it is or of the differences to the entry largest at the centre,
    whichever is lower there.

    Source:
        Wei et al., Convex bounds on the softmax function with applications to robustness
        verification, 2023 (arXiv:2303.01713) bound softmax by its logarithm in the first way; the
        second is the module's own.

    Example:
        >>> lo, hi = torch.tensor([0., -1.]), torch.tensor([2., 1.])
        >>> (p, low), (q, high) = log_sum_exp_planes(lo, hi)
        >>> x = torch.tensor([1.5, -0.5])
        >>> bool((p @ x + low <= x.logsumexp(0)).all() and (x.logsumexp(0) <= q @ x + high).all())
        True
    """
    center = (lo + hi) / 2
    logs = center.log_softmax(-1)
    p = logs.exp()
    lower = p, -(p * logs).sum(-1, keepdim=True)

    q, height = _chords(lo, hi)
    largest = center.argmax(-1, keepdim=True)
    pivot = torch.zeros_like(lo).scatter(-1, largest, 1.0)
    moving = 1 - pivot
    relative, relative_height = _chords(moving * (lo - hi.gather(-1, largest)),
                                        moving * (hi - lo.gather(-1, largest)))
    relative = relative + pivot * (1 - relative.sum(-1, keepdim=True))
    relative_height = relative_height + center.gather(-1, largest)
    better = relative_height < height
    q, height = torch.where(better, relative, q), torch.where(better, relative_height, height)
    return lower, (q, height - (q * center).sum(-1, keepdim=True))


def _chords(lo: Tensor, hi: Tensor) -> Plane:
    """A plane above log sum_j exp(x_j), by its slopes and its height at the centre."""
    top, center, width = hi.amax(-1, keepdim=True), (lo + hi) / 2, hi - lo
    at_lo, at_hi = (lo - top).exp(), (hi - top).exp()
    narrow = width <= narrow_width(lo.dtype, 1 / 3)
    slope = torch.where(narrow, (center - top).exp(),
                        (at_hi - at_lo) / torch.where(narrow, 1.0, width))
    # A line above a convex function need only be above it at both ends.
    height = torch.maximum(at_lo + slope * width / 2, at_hi - slope * width / 2)
    total = height.sum(-1, keepdim=True)
    return slope / total, top + total.log()
