"""Ranges that hold by construction, such as that of a normalized value."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..boxes import Box
from .bound import BoundOperator, both_sides, box_of, flat_functions
from .expansion import Expansion
from .registry import Operator, register


class BoundKnown(BoundOperator):
    """A value that is known to lie in [low, high], whatever is known of its terms.

    It is itself a plane above and below. Where the bounds of its terms leave more room than is
    known, the ends of the known range are.
    """

    def relaxed_inputs(self) -> list[int]:
        return [0]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        lower, upper = boxes[0]
        return (lower < self.settings["low"]) | (upper > self.settings["high"])

    def bound_interval(self, *boxes: Box) -> Box:
        low, high = self.settings["low"], self.settings["high"]
        return boxes[0].map(lambda side: side.clamp(low, high))

    def dependence(self, *sizes: Any) -> Tensor:
        return self.forward(*sizes)

    def expansion(self, *at: Tensor) -> Expansion:
        low, high = self.settings["low"], self.settings["high"]
        itself = (box_of(self.inputs[0]).width <= high - low).to(at[0])

        def linear(change: Tensor) -> Tensor:
            return change * itself

        return Expansion(linear(at[0]) + (1 - itself) * (low + high) / 2, linear, linear,
                         (1 - itself) * (high - low) / 2)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        lower, upper = box_of(nodes[0])
        low, high = self.settings["low"], self.settings["high"]
        itself = (upper - lower <= high - low).to(lower.dtype)

        def side(for_positive: float,
                 for_negative: float) -> Callable[[Tensor], tuple[list[Tensor | None], Tensor]]:
            def bounds(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
                by_sign = A.clamp(min=0) * for_positive + A.clamp(max=0) * for_negative
                return [A * itself], flat_functions(by_sign * (1 - itself)).sum(2)

            return bounds

        return both_sides(last_lower, last_upper, side(low, high), side(high, low))


ROWS = [Operator("known", lambda x, low, high: x, BoundKnown, "nn.LayerNorm, nn.GroupNorm, "
                 "nn.InstanceNorm2d")]
for row in ROWS:
    register(row)
