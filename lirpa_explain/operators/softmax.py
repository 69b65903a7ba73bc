"""Softmax along one dimension: its logarithm, and the weighted averages that its gradient
contains.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..relaxations.ranges import product_range
from ..relaxations.softmax import log_softmax_range, log_sum_exp_planes
from ..rounding import least
from .bound import BoundOperator, both_sides, box_of, flat_functions, value_of, weighted_sum
from .registry import Operator, register


class BoundLogSoftmax(BoundOperator):
    """l_i = x_i - L with L = log sum_j exp(x_j) between two planes, the same for all i."""

    def relaxed_inputs(self) -> list[int]:
        return [0]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        return boxes[0][1] > boxes[0][0]

    def bound_interval(self, *boxes: Box) -> Box:
        dim = self.settings["dim"]
        box = log_softmax_range(*boxes[0].map(lambda side: side.movedim(dim, -1)))
        return box.map(lambda side: side.movedim(-1, dim))

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        box = box_of(nodes[0])
        dim = self.settings["dim"] - box[0].ndim
        below, above = ([t.movedim(-1, dim) for t in plane]
                        for plane in log_sum_exp_planes(*[side.movedim(dim, -1) for side in box]))

        def side(for_positive: list[Tensor], for_negative: list[Tensor]
                 ) -> Callable[[Tensor], tuple[list[Tensor | None], Tensor]]:
            """Bound of A * (x - L) that uses one plane of L where A > 0 and the other where A <
            0.
            """

            def bound(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
                positive, negative = (A.clamp(min=0).sum(dim, keepdim=True),
                                      A.clamp(max=0).sum(dim, keepdim=True))
                offsets = positive * for_positive[1] + negative * for_negative[1]
                return ([A - positive * for_positive[0] - negative * for_negative[0]],
                        -flat_functions(offsets).sum(2))

            return bound

        return both_sides(last_lower, last_upper, side(above, below), side(below, above))


class BoundLogSumExp(BoundOperator):
    """L = log sum_j exp(x_j) along a dimension, between the planes of `log_sum_exp_planes`; it
    increases in all x_j.
    """

    def relaxed_inputs(self) -> list[int]:
        return [0]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        return boxes[0][1] > boxes[0][0]

    def bound_interval(self, *boxes: Box) -> Box:
        return boxes[0].map(self.forward)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        box = box_of(nodes[0])
        dim = self.settings["dim"] - box[0].ndim
        below, above = ([t.movedim(-1, dim) for t in plane]
                        for plane in log_sum_exp_planes(*[side.movedim(dim, -1) for side in box]))

        def side(for_positive: list[Tensor], for_negative: list[Tensor]
                 ) -> Callable[[Tensor], tuple[list[Tensor | None], Tensor]]:
            def bound(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
                positive, negative = A.clamp(min=0), A.clamp(max=0)
                offsets = positive * for_positive[1] + negative * for_negative[1]
                return ([positive * for_positive[0] + negative * for_negative[0]],
                        flat_functions(offsets).sum(2))

            return bound

        return both_sides(last_lower, last_upper, side(below, above), side(above, below))


class BoundWeightedCenter(BoundOperator):
    """h_i = sum_j p_j (g_i - g_j) = g_i sum_j p_j - sum_j p_j g_j.

    With the setting `total` the p_j are known to add up to it, whatever their intervals say.
    """

    def relaxed_inputs(self) -> list[int]:
        return [0, 1]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        lower, upper = boxes[1 - index]
        return (upper > lower).any(self.settings["dim"], keepdim=True).expand_as(lower)

    def bound_interval(self, *boxes: Box) -> Box:
        dim, total = self.settings["dim"], self.settings["total"]
        (gl, gu), (pl, pu) = ([side.movedim(dim, -1) for side in box] for box in boxes)
        other = ~torch.eye(gl.shape[-1], dtype=torch.bool, device=gl.device)
        # Differences g_i - g_j, at [..., i, j]; none between an entry and itself.
        low, high = ((gl[..., None] - gu[..., None, :]) * other,
                     (gu[..., None] - gl[..., None, :]) * other)
        pl, pu = pl[..., None, :], pu[..., None, :]
        if total is None:
            box = product_range(Box(pl, pu), Box(low, high)).map(lambda side: side.sum(-1))
        else:
            box = Box(-largest_average(-low, pl, pu, total), largest_average(high, pl, pu, total))
        return box.map(lambda side: side.movedim(-1, dim))

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        (center, g_radius), (p, p_radius) = (box_of(node).around for node in nodes)
        g = center
        dim, total = self.settings["dim"] - p.ndim, self.settings["total"]
        sums, sums_radius = p.sum(dim, keepdim=True), p_radius.sum(dim, keepdim=True)
        if total is not None:
            # h stays the same if all g_j are moved: to around 0, where p counts least.
            weights = p.clamp(min=least(p.dtype))
            g = g - (weights * g).sum(dim, keepdim=True) / weights.sum(dim, keepdim=True)
            sums, sums_radius = torch.full_like(sums, total), torch.zeros_like(sums)

        def bound(A: Tensor, side: int) -> tuple[list[Tensor | None], Tensor]:
            """Tangents of all products at the centres, and their errors, radius by radius."""
            added = A.sum(dim, keepdim=True)
            of_g, of_p = A * sums - added * p, -added * g
            if total is None:
                of_p = of_p + (A * g).sum(dim, keepdim=True)
            errors = A.abs() * sums_radius * g_radius + added.abs() * p_radius * g_radius
            # The tangent has the centre's value there; coefficients are of g and p themselves.
            moves = -of_g * center - of_p * p
            value = A * (g * sums) - added * (p * g)
            bias = flat_functions(moves + value + side * errors).sum(2)
            coefficients: list[Tensor | None] = []
            for coefficient, node in zip((of_g, of_p), nodes, strict=True):
                if not node.perturbed:
                    bias = bias + weighted_sum(coefficient, value_of(node))
                coefficients.append(coefficient if node.perturbed else None)
            return coefficients, bias

        return both_sides(last_lower, last_upper, functools.partial(bound, side=-1),
                          functools.partial(bound, side=1))


def largest_average(values: Tensor, low: Tensor, high: Tensor, total: float) -> Tensor:
    """Largest sum_j p_j v_j over p in [low, high] that add up to `total`; along the last dimension.

    What the lower bounds leave of the total goes to the largest values first, to each as much as
    its upper bound allows: exact.

    Example:
        >>> p = torch.tensor([0.2, 0.1, 0.]), torch.tensor([0.5, 0.6, 1.])
        >>> round(float(largest_average(torch.tensor([3., 2., 1.]), *p, 1.)), 6)
        2.5
    """
    values, order = values.sort(-1, descending=True)
    low, high = (side.expand_as(values).gather(-1, order) for side in (low, high))
    room = high - low
    rest = (total - low.sum(-1, keepdim=True)).clamp(min=0)
    given = torch.minimum((rest - (room.cumsum(-1) - room)).clamp(min=0), room)
    return ((low + given) * values).sum(-1)


def _weighted_center(g: Tensor, p: Tensor, dim: int, total: float | None) -> Tensor:
    return g * (p.sum(dim, keepdim=True) if total is None else total) - (p * g).sum(
        dim, keepdim=True)


ROWS = [
    Operator("log_softmax", lambda x, dim: x.log_softmax(dim), BoundLogSoftmax, "nn.LogSoftmax, "
             "nn.Softmax, attention", auto_lirpa="0.3: no linear bounds; 0.7.1: no gradient"),
    Operator("log_sum_exp", lambda x, dim: x.logsumexp(dim, keepdim=True), BoundLogSumExp,
             "torch.logsumexp"),
    Operator("weighted_center", _weighted_center, BoundWeightedCenter, "gradient of nn.Softmax and "
             "attention"),
]
for row in ROWS:
    register(row)
