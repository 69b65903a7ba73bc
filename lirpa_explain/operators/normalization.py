"""Batch normalization in eval mode (affine per channel), and the variance of an example."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..relaxations.ranges import variance_range
from .affine import Affine, BoundAffine
from .bound import BoundOperator, both_sides, box_of, flat_functions
from .expansion import Expansion, reach
from .registry import Operator, register


def _scale(weight: Tensor, variance: Tensor, epsilon: float, ndim: int) -> Tensor:
    """Factor weight / sqrt(variance + epsilon) of channels, for tensors of `ndim` dimensions."""
    return (weight * torch.rsqrt(variance + epsilon)).reshape(1, -1, *[1] * (ndim - 2))


def _normalize(x: Tensor, weight: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    return x * _scale(weight, variance, epsilon, x.ndim)


class BoundVariance(BoundOperator):
    """v = mean_i (x_i - mean(x))^2, over some dimensions.

    v is convex, so its tangent at the centre lies below it. With the centre's mean m and the radii
    r it is at most mean_i (x_i - m)^2, which exceeds that same tangent by mean_i r_i^2 at most.
    """

    def relaxed_inputs(self) -> list[int]:
        return [0]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        return boxes[0][1] > boxes[0][0]

    def bound_interval(self, *boxes: Box) -> Box:
        dims, sizes = self.settings["dims"], boxes[0][0].shape
        others = [d for d in range(len(sizes)) if d not in dims]
        shape = [1 if d in dims else size for d, size in enumerate(sizes)]
        entries = boxes[0].map(lambda side: side.permute(*others, *dims).flatten(
            len(others))[..., None].flatten(0, -3))
        return variance_range(entries).map(lambda side: side.reshape(shape))

    def dependence(self, *sizes: Any) -> Tensor:
        return sizes[0].sum(self.settings["dims"], keepdim=True)

    def expansion(self, *at: Tensor) -> Expansion:
        x, dims = at[0], self.settings["dims"]
        slope = 2 * (x - x.mean(dims, keepdim=True))
        half = reach(box_of(self.inputs[0]), x).square().mean(dims, keepdim=True) / 2
        return Expansion(self.forward(x) + half,
                         lambda change: (slope * change).mean(dims, keepdim=True),
                         lambda size: (slope.abs() * size).mean(dims, keepdim=True), half)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        low, high = box_of(nodes[0])
        dims = self.settings["dims"]
        center = (low + high) / 2
        value = self.forward(center)
        slope = 2 * (center - center.mean(dims, keepdim=True)) / (low.numel() / value.numel())
        at_zero = value - (slope * center).sum(dims, keepdim=True)
        spread = ((high - low) / 2).square().mean(dims, keepdim=True)

        def side(for_positive: Tensor,
                 for_negative: Tensor) -> Callable[[Tensor], tuple[list[Tensor | None], Tensor]]:
            return lambda A: ([A * slope], flat_functions(
                A.clamp(min=0) * for_positive + A.clamp(max=0) * for_negative).sum(2))

        return both_sides(last_lower, last_upper, side(at_zero, at_zero + spread),
                          side(at_zero + spread, at_zero))


def _variance(x: Tensor, dims: list[int]) -> Tensor:
    return (x - x.mean(dims, keepdim=True)).square().mean(dims, keepdim=True)


ROWS = [
    Operator("normalize", _normalize, BoundAffine, "nn.BatchNorm1d, nn.BatchNorm2d in eval mode",
             Affine(lambda x, w, variance, epsilon: _normalize(x, w.abs(), variance, epsilon),
                    local=lambda A, w, variance, epsilon, of: A.with_values(
                        A.values * _scale(w, variance, epsilon, 4)))),
    Operator("variance", _variance, BoundVariance, "nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d",
             auto_lirpa="0.3: nn.LayerNorm has a wrong value; 0.7.1: no gradient"),
]
for row in ROWS:
    register(row)
