"""Functions of one variable, and the product of an upstream gradient with their derivative.

The forward operator is y = phi(z); the gradient operator is p = g * phi'(z), with g the upstream gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..relaxations import univariate
from ..relaxations.product import Plane, planes
from ..relaxations.ranges import product_range
from .bound import BoundOperator, Box, both_sides, box_of, signed, signed_sum, value_of, weighted_sum

Line = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Curve:
    """How a function of one variable is bounded on [lo, hi]: each field is a function of (lo, hi, **settings).

    Args:
        range: (lowest value, highest value).
        lines: (line below, line above).
        open: where a smaller interval would give tighter lines or a smaller range.
    """

    range: Callable[..., Box]
    lines: Callable[..., tuple[Line, Line]]
    open: Callable[..., Tensor]


def smooth(build: Callable[..., univariate.Smooth]) -> Curve:
    """The curve of a smooth function, which `build(**settings)` returns."""
    return Curve(
        range=lambda lo, hi, **settings: univariate.range_of(build(**settings), lo, hi),
        lines=lambda lo, hi, **settings: univariate.lines(build(**settings), lo, hi),
        open=lambda lo, hi, **settings: hi > lo,
    )


class BoundActivation(BoundOperator):
    """y = phi(z); traits: the `Curve` of phi."""

    def relaxed_inputs(self) -> list[int]:
        return [0]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        return self.operator.traits.open(*boxes[0], **self.settings)

    def bound_interval(self, *boxes: Box) -> Box:
        return self.operator.traits.range(*boxes[0], **self.settings)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None, *nodes: Any) -> Any:
        lower, upper = self.operator.traits.lines(*box_of(nodes[0]), **self.settings)

        def side(below: Line, above: Line) -> Callable[[Tensor], tuple[list[Tensor | None], Tensor]]:
            """Bound of A * phi(z) that uses line `below` where A > 0 and `above` where A < 0."""
            return lambda A: ([signed(A, below[0], above[0])], signed_sum(A, below[1], above[1]))

        return both_sides(last_lower, last_upper, side(lower, upper), side(upper, lower))


class BoundProduct(BoundOperator):
    """p = g * d(t), with planes from the bounds of g and the lines around d."""

    def factor(self, t: Box) -> tuple[Box, tuple[Line, Line]]:
        """Range of d on t, and lines below and above it."""
        raise NotImplementedError

    def relaxed_inputs(self) -> list[int]:
        return [0, 1]

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None, *nodes: Any) -> Any:
        g, t = box_of(nodes[0]), box_of(nodes[1])
        d, lines = self.factor(t)
        lower, upper = planes(g, d, t, lines)

        def side(below: Plane, above: Plane) -> Callable[[Tensor], tuple[list[Tensor | None], Tensor]]:
            """Bound of A * p that uses plane `below` where A > 0 and `above` where A < 0."""

            def bound(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
                bias = signed_sum(A, below[2], above[2])
                coefficients: list[Tensor | None] = []
                for i, node in enumerate(nodes):
                    if not below[i].any() and not above[i].any():
                        coefficients.append(None)
                        continue
                    coefficient = signed(A, below[i], above[i])
                    if not node.perturbed:
                        bias = bias + weighted_sum(coefficient, value_of(node))
                    coefficients.append(_to_shape(coefficient, node) if node.perturbed else None)
                return coefficients, bias

            return bound

        return both_sides(last_lower, last_upper, side(lower, upper), side(upper, lower))


def _to_shape(coefficient: Tensor, node: Any) -> Tensor:
    """Sum a coefficient (S, B, *output) over the dimensions along which the node's value was broadcast."""
    shape = node.output_shape[1:]
    missing = coefficient.ndim - 2 - len(shape)
    if missing:
        raise ValueError(f"A factor of shape {tuple(node.output_shape)} lacks {missing} dimensions of the product.")
    dims = [i + 2 for i, size in enumerate(shape) if size == 1 and coefficient.shape[i + 2] != 1]
    return coefficient.sum(dims, keepdim=True) if dims else coefficient


class BoundActivationGradient(BoundProduct):
    """p = g * phi'(z); traits: the `Curve` of phi'."""

    def factor(self, t: Box) -> tuple[Box, tuple[Line, Line]]:
        curve = self.operator.traits
        return curve.range(*t, **self.settings), curve.lines(*t, **self.settings)

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        is_open = self.operator.traits.open(*boxes[1], **self.settings)
        return is_open if index == 1 else is_open & (boxes[0][1] > boxes[0][0])

    def bound_interval(self, *boxes: Box) -> Box:
        g, z = boxes[0], boxes[1]
        return product_range(g, self.operator.traits.range(*z, **self.settings))


class BoundMultiply(BoundProduct):
    """p = x * y, entry by entry, either or both perturbed."""

    def factor(self, t: Box) -> tuple[Box, tuple[Line, Line]]:
        identity = torch.ones_like(t[0]), torch.zeros_like(t[0])
        return t, (identity, identity)

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        return torch.full_like(boxes[index][0], self.inputs[1 - index].perturbed, dtype=torch.bool)

    def bound_interval(self, *boxes: Box) -> Box:
        return product_range(boxes[0], boxes[1])

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None, *nodes: Any) -> Any:
        if all(node.perturbed for node in nodes):
            return super().bound_linear(last_lower, last_upper, *nodes)
        moving = 0 if nodes[0].perturbed else 1
        weight = value_of(nodes[1 - moving])

        def linear(A: Tensor) -> tuple[list[Tensor | None], float]:
            coefficients: list[Tensor | None] = [None, None]
            coefficients[moving] = _to_shape(A * weight, nodes[moving])
            return coefficients, 0.0

        return both_sides(last_lower, last_upper, linear, linear)
