"""Ranges of simple functions over boxes: what interval arithmetic needs beyond adding.

A box is a pair (lower, upper) of tensors; every point between them, entry by entry, belongs to it.
"""

import torch
from torch import Tensor

Box = tuple[Tensor, Tensor]


def product_range(g: Box, d: Box) -> Box:
    """Range of the product of two independent factors.

    Example:
        >>> low, high = product_range((torch.tensor(-1.), torch.tensor(2.)), (torch.tensor(0.), torch.tensor(3.)))
        >>> float(low), float(high)
        (-3.0, 6.0)
    """
    corners = torch.stack(torch.broadcast_tensors(g[0] * d[0], g[0] * d[1], g[1] * d[0], g[1] * d[1]))
    return corners.amin(0), corners.amax(0)


def linear_range(functions: Tensor, box: Box) -> Box:
    """Range of linear functions (B, K, D) over boxes (B, D): each side (B, K).

    Example:
        >>> box = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 3.0]])
        >>> low, high = linear_range(torch.tensor([[[1.0, -1.0]]]), box)
        >>> low.item(), high.item()
        (-3.0, 0.0)
    """
    positive, negative = functions.clamp(min=0), functions.clamp(max=0)
    lower, upper = (torch.einsum("bkd,bd->bk", positive, box[i]) + torch.einsum("bkd,bd->bk", negative, box[1 - i])
                    for i in (0, 1))
    return lower, upper


def absolute_range(box: Box) -> Box:
    """Range of |a| for a in a box.

    Example:
        >>> low, high = absolute_range((torch.tensor([-2.0, 1.0]), torch.tensor([1.0, 2.0])))
        >>> low.tolist(), high.tolist()
        ([0.0, 1.0], [2.0, 2.0])
    """
    return torch.maximum(box[0], -box[1]).clamp(min=0), torch.maximum(-box[0], box[1])


def variance_range(box: Box, iterations: int = 60) -> Box:
    """Bounds of the (biased) variance over dimension 1 of a box (N, J, D).

    With v(c) = mean_j (a_j - c)^2 the variance is the smallest v(c) over c. Its minimum over the box is therefore
    min_c mean_j dist(c, [l_j, u_j])^2, exact, and its maximum is at most min_c mean_j max(|l_j - c|, |u_j - c|)^2.
    Both are convex in c and minimised by bisection on their derivative; the lower bound is taken below its tangents,
    so that a minimum found only nearly is not exceeded.

    Example:
        >>> low, high = variance_range((torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [3.0]]])))
        >>> round(low.item(), 6), round(high.item(), 6)
        (0.25, 2.25)
    """
    lower, upper = box

    def residual(c: Tensor, nearest: bool) -> Tensor:
        """Distance c - a_j for the nearest, or the farthest, a_j of each interval; its mean is half the derivative."""
        if nearest:
            return c - torch.minimum(torch.maximum(c, lower), upper)
        return torch.where(c - lower > upper - c, c - lower, c - upper)

    def bracket(nearest: bool) -> Box:
        with torch.no_grad():
            left, right = lower.amin(1, keepdim=True), upper.amax(1, keepdim=True)
            for _ in range(iterations):
                middle = (left + right) / 2
                rising = residual(middle, nearest).mean(1, keepdim=True) > 0
                left, right = torch.where(rising, left, middle), torch.where(rising, middle, right)
        return left, right

    left, right = bracket(nearest=True)
    at_left = residual(left, True)
    low = (at_left.square().mean(1) + 2 * at_left.mean(1) * (right - left)[:, 0]).clamp(min=0)
    left, right = bracket(nearest=False)
    # Where the minimum lies at a kink, the middle of an interval, it moves with that interval.
    middles = (lower + upper) / 2
    nearest = middles.gather(1, (middles - left).abs().argmin(1, keepdim=True))
    margin = 8 * torch.finfo(left.dtype).eps * torch.maximum(left.abs(), right.abs())
    c = torch.where((left - margin <= nearest) & (nearest <= right + margin), nearest, left)
    high = residual(c, False).square().mean(1)
    return low, high
