"""What an attack differentiates in place of ranks and counts, which are piecewise constant.

Functions of attributions a and v = nominal, (N, D) each, give (N,) and grow as the metric gets
worse; their size means nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...rounding import least as least_number


def ranked(a: Tensor, nominal: Tensor, absolute: bool) -> tuple[Tensor, Tensor]:
    """What is ranked of both."""
    return (a.abs(), nominal.abs()) if absolute else (a, nominal)


def opposed(a: Tensor, nominal: Tensor) -> Tensor:
    """A count of flipped signs, smoothed: entries near 0 weigh most."""
    scale = nominal.abs().clamp(min=least_number(a.dtype, 0.5))
    return -torch.tanh(2 * a / scale * nominal.sign()).sum(1)


def disorder(a: Tensor, nominal: Tensor, absolute: bool = True) -> Tensor:
    """Smoothed count of pairs out of order, of those 1, 2, 4, ... places apart in the nominal's."""
    scores, reference = ranked(a, nominal, absolute)
    order = reference.argsort(1)
    scores, reference = scores.gather(1, order), reference.gather(1, order)
    result, gap = 0 * scores.sum(1), 1
    while gap < scores.shape[1]:
        result = result + opposed(scores[:, gap:] - scores[:, :-gap],
                                  reference[:, gap:] - reference[:, :-gap])
        gap *= 2
    return result


def margin(a: Tensor, nominal: Tensor, k: int, absolute: bool = True) -> Tensor:
    """By how much the strongest features outside of the top k exceed the weakest within."""
    scores, reference = ranked(a, nominal, absolute)
    top = reference.topk(k, 1).indices
    inside = torch.zeros_like(scores, dtype=torch.bool).scatter(1, top, True)
    count = min(k, scores.shape[1] - k)
    if count == 0:
        return 0 * scores.sum(1)
    within = scores.masked_fill(~inside, math.inf).topk(count, 1, largest=False).values
    without = scores.masked_fill(inside, -math.inf).topk(count, 1).values
    return (without - within).clamp(max=0).sum(1) + (without - within).amax(1)


def exceeding(a: Tensor, nominal: Tensor, threshold: float = 0.0) -> Tensor:
    """Smoothed count of the |a_i| above the threshold."""
    least = least_number(a.dtype, 0.5)
    scale = nominal.abs().mean(1, keepdim=True).clamp(min=least) / 4
    return torch.sigmoid((a.abs() - threshold) / scale).sum(1)


def intrusion(a: Tensor, nominal: Tensor, mask: Tensor, k: int, absolute: bool = False) -> Tensor:
    """By how much the strongest protected features exceed those whose places they would take."""
    protected = mask == 1
    scores = a.abs() if absolute else a
    floor = scores.detach().amin(1, keepdim=True)
    inside = torch.where(protected, scores, floor).topk(k, 1).values
    outside = torch.where(protected, floor, scores).topk(k, 1).values.flip(1)
    gaps = inside - outside
    return gaps.clamp(max=0).sum(1) + gaps[:, 0]


def intrusion_of_one(a: Tensor, nominal: Tensor, mask: Tensor, k: int = 5, absolute: bool = False
                     ) -> Tensor:
    """The same of the strongest protected feature alone."""
    protected = mask == 1
    scores = a.abs() if absolute else a
    floor = scores.detach().amin(1, keepdim=True)
    return (torch.where(protected, scores, floor).amax(1)
            - torch.where(protected, floor, scores).topk(k, 1).values[:, -1])


def misplaced(a: Tensor, nominal: Tensor, mask: Tensor, threshold: float = 0.5) -> Tensor:
    """Smoothed share of the features above the threshold that lie outside of the mask."""
    scale = nominal.abs().mean(1, keepdim=True).clamp(min=least_number(a.dtype, 0.5)) / 4
    above = torch.sigmoid((a - threshold) / scale)
    return ((mask == 0) * above).sum(1) / above.sum(1).clamp(min=least_number(a.dtype, 0.5))
