"""Interval rules of operators with one kink, from centre and radius to these, with gradients
written out.

In training on large layers a step spends half of its time between the products, and more of that in
asking for memory than in computing. So these rules work in place where they can, and keep what
others keep too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..rounding import JUMP, roundings
from .interval import Interval

leaky_relu_backward = torch.ops.aten.leaky_relu_backward


class _Kink(torch.autograd.Function):
    """Centre and radius of z where z >= 0 and slope * z elsewhere, from those of z; slope >= 0."""

    @staticmethod
    def forward(ctx: Any, center: Tensor, radius: Tensor, slope: float) -> tuple[Tensor, Tensor]:
        lower, upper = (F.leaky_relu_(side, slope) for side in (center - radius, center + radius))
        middle = lower.lerp_(upper, 0.5)
        half = upper.sub_(middle)
        ctx.save_for_backward(middle, half)  # which others keep too
        ctx.slope, ctx.shape = slope, radius.shape
        return middle, half

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, None]:
        middle, half = ctx.saved_tensors
        sides = _scaled(center - radius, center + radius, middle - half, middle + half, ctx.slope)
        return sides[0], sides[1].sum_to_size(ctx.shape), None


class _KinkGradient(torch.autograd.Function):
    """Centre and radius of g d from those of g, for d anywhere between the slopes of a kink at both
    ends of z.

    These are 1 where an end of z is above 0, and `slope` elsewhere. The lower end is that of g
    times the slope at the lower end of z if it is positive, at the upper one if it is negative; the
    upper end likewise. This is a symmetric map of centre and radius, and so its own transpose.
    """

    @staticmethod
    def forward(ctx: Any, center: Tensor, radius: Tensor, z: Tensor, reach: Tensor, slope: float
                ) -> tuple[Tensor, Tensor]:
        lower, upper = center - radius, center + radius
        at_lower, at_upper = lower.sign(), upper.sign()
        # roundings must not hide that an interval reaches 0
        beyond = 1 + roundings(2 * JUMP, z.dtype)
        torch.addcmul(z, at_lower, reach, value=-beyond, out=at_lower)
        torch.addcmul(z, at_upper, reach, value=beyond, out=at_upper)
        ctx.save_for_backward(at_lower, at_upper)
        ctx.slope, ctx.shapes = slope, (center.shape, radius.shape)
        return _scaled(lower, upper, at_lower, at_upper, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, center: Tensor,
                 radius: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        at_lower, at_upper = ctx.saved_tensors
        sides = _scaled(center - radius, center + radius, at_lower, at_upper, ctx.slope)
        return (sides[0].sum_to_size(ctx.shapes[0]), sides[1].sum_to_size(ctx.shapes[1]), None,
                None, None)


def _scaled(lower: Tensor, upper: Tensor, at_lower: Tensor, at_upper: Tensor, slope: float
            ) -> tuple[Tensor, Tensor]:
    """Centre and radius of ends that are scaled: by 1 where another tensor is above 0, by slope
    elsewhere; in place.
    """
    for end, at in ((lower, at_lower), (upper, at_upper)):
        leaky_relu_backward.grad_input(end, at, slope, False, grad_input=end)
    middle = lower.lerp_(upper, 0.5)
    return middle, upper.sub_(middle)


def kink(z: Interval, slope: float) -> Interval:
    """Interval of leaky_relu(z), which is z where z >= 0 and slope * z elsewhere, from that of
    z.
    """
    return Interval(around=_Kink.apply(*z.around, slope))


def kink_gradient(g: Interval, z: Interval, slope: float) -> Interval:
    """Of g where z > 0, slope * g elsewhere."""
    (center, radius), at, reach = g.around, z.around[0].detach(), z.around[1].detach()
    center = center.expand(torch.broadcast_shapes(center.shape, at.shape))
    return Interval(around=_KinkGradient.apply(center, radius, at, reach, slope))


KINK_RULES: dict[str, Callable[..., Interval]] = {"kink": kink, "kink_gradient": kink_gradient}
"""The rules by operator, for slopes from 0 to 1."""
