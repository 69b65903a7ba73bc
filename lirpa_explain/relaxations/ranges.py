"""Ranges of products, linear functions and variances over boxes, with gradients where training
needs them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..boxes import Box
from ..rounding import JUMP, roundings


def product_range(g: Box, d: Box) -> Box:
    """Range of the product of two independent factors, once differentiable.

    Example:
        >>> low, high = product_range(Box(torch.tensor(-1.), torch.tensor(2.)),
        ...                           Box(torch.tensor(0.), torch.tensor(3.)))
        >>> float(low), float(high)
        (-3.0, 6.0)
    """
    rule = _ScaledRange if bool((d[0] >= 0).all()) else _ProductRange
    return Box(*rule.apply(*g, *d))


# Both rules are written out, because in training by intervals smooth nets spend most of their time
# in them and in `univariate.range_of`.


class _ScaledRange(torch.autograd.Function):
    """For d >= 0: the lower end is gl * (dl if gl >= 0 else du), the upper one gu * (du if gu >= 0
    else dl).
    """

    @staticmethod
    def forward(ctx: Any, gl: Tensor, gu: Tensor, dl: Tensor, du: Tensor) -> tuple[Tensor, Tensor]:
        at_low, at_high = torch.where(gl >= 0, dl, du), torch.where(gu >= 0, du, dl)
        ctx.save_for_backward(gl, gu, at_low, at_high)
        ctx.shapes = [end.shape for end in (gl, gu, dl, du)]
        return gl * at_low, gu * at_high

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, low: Tensor, high: Tensor) -> tuple[Tensor | None, ...]:
        gl, gu, at_low, at_high = ctx.saved_tensors
        gradients = [low * at_low, high * at_high]
        if any(ctx.needs_input_grad[2:]):
            gradients += [(low * gl.clamp(min=0)).addcmul_(high, gu.clamp(max=0)),
                          (low * gl.clamp(max=0)).addcmul_(high, gu.clamp(min=0))]
        return tuple(part.sum_to_size(shape) for part, shape in zip(
            gradients, ctx.shapes, strict=False)) + (None,) * (4 - len(gradients))


class _ProductRange(torch.autograd.Function):
    """For d of any sign."""

    @staticmethod
    def forward(ctx: Any, gl: Tensor, gu: Tensor, dl: Tensor, du: Tensor) -> tuple[Tensor, Tensor]:
        low, *at_low = _least_product(gl, gu, dl, du)
        minus_high, *at_high = _least_product(-gu, -gl, dl, du)
        ctx.save_for_backward(*at_low, *at_high)
        ctx.shapes = [end.shape for end in (gl, gu, dl, du)]
        return low, -minus_high

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, low: Tensor, high: Tensor) -> tuple[Tensor, ...]:
        g, d, at_dl, at_gu, minus_g, d_high, high_at_dl, high_at_gl = ctx.saved_tensors
        to_g, to_d, high_to_g, high_to_d = low * d, low * g, high * d_high, -high * minus_g
        ends = (_split(~at_gu, to_g, high_at_gl, high_to_g)
                + _split(at_dl, to_d, high_at_dl, high_to_d))
        return tuple(end.sum_to_size(shape) for end, shape in zip(ends, ctx.shapes, strict=True))


def _least_product(gl: Tensor, gu: Tensor, dl: Tensor,
                   du: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The least product, with the g and d whose product it is, whether that is dl, and whether it
    is gu.

    It lies at gl or gu, and there at the end of d that the sign asks for.
    """
    rises, above = gl >= 0, gu >= 0
    d, other = torch.where(rises, dl, du), torch.where(above, dl, du)
    first, second = gl * d, gu * other
    at_gu = second < first
    return (torch.minimum(first, second), torch.where(at_gu, gu, gl), torch.where(at_gu, other, d),
            torch.where(at_gu, above, rises), at_gu)


def _split(at_lower: Tensor, a: Tensor, b_at_lower: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of what two gradients give to the lower and to the upper end."""
    return (torch.where(at_lower, a, 0.0) + torch.where(b_at_lower, b, 0.0),
            torch.where(at_lower, 0.0, a) + torch.where(b_at_lower, 0.0, b))


def linear_range(functions: Tensor, box: Box) -> Box:
    """Range of linear functions (B, K, D) over boxes (B, D): each side (B, K).

    Example:
        >>> box = Box(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 3.0]]))
        >>> low, high = linear_range(torch.tensor([[[1.0, -1.0]]]), box)
        >>> low.item(), high.item()
        (-3.0, 0.0)
    """
    positive, negative = functions.clamp(min=0), functions.clamp(max=0)
    lower, upper = (torch.einsum("bkd,bd->bk", positive, box[i])
                    + torch.einsum("bkd,bd->bk", negative, box[1 - i]) for i in (0, 1))
    return Box(lower, upper)


def variance_range(box: Box, iterations: int = 60) -> Box:
    """Bounds of the (biased) variance over dimension 1 of a box (N, J, D).

    With v(c) = mean_j (a_j - c)^2 the variance is the smallest v(c) over c. Its minimum over the
    box is therefore min_c mean_j dist(c, [l_j, u_j])^2, exact, and its maximum is at most min_c
    mean_j max(|l_j - c|, |u_j - c|)^2. Both are convex in c and minimised by bisection on their
    derivative; the lower bound is taken below its tangents, so that a minimum found only nearly is
    not exceeded.

    Example:
        >>> low, high = variance_range(Box(torch.tensor([[[0.0], [2.0]]]),
        ...                                torch.tensor([[[1.0], [3.0]]])))
        >>> round(low.item(), 6), round(high.item(), 6)
        (0.25, 2.25)
    """
    lower, upper = box

    def residual(c: Tensor, nearest: bool) -> Tensor:
        """Distance c - a_j for the nearest, or the farthest, a_j of each interval; its mean is half
        the derivative.
        """
        if nearest:
            return c - box.nearest(c)
        return torch.where(c - lower > upper - c, c - lower, c - upper)

    def bracket(nearest: bool) -> Box:
        with torch.no_grad():
            left, right = lower.amin(1, keepdim=True), upper.amax(1, keepdim=True)
            for _ in range(iterations):
                middle = (left + right) / 2
                rising = residual(middle, nearest).mean(1, keepdim=True) > 0
                left, right = torch.where(rising, left, middle), torch.where(rising, middle, right)
        return Box(left, right)

    left, right = bracket(nearest=True)
    at_left = residual(left, True)
    low = (at_left.square().mean(1) + 2 * at_left.mean(1) * (right - left)[:, 0]).clamp(min=0)
    left, right = bracket(nearest=False)
    # Where the minimum lies at a kink, the middle of an interval, it moves with that interval.
    middles = box.center
    nearest = middles.gather(1, (middles - left).abs().argmin(1, keepdim=True))
    margin = roundings(JUMP / 2, left.dtype) * torch.maximum(left.abs(), right.abs())
    c = torch.where((left - margin <= nearest) & (nearest <= right + margin), nearest, left)
    high = residual(c, False).square().mean(1)
    return Box(low, high)
