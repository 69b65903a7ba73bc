"""Matrix products of two values that both depend on the input, as in attention."""

import functools
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..relaxations.ranges import product_range
from .bound import BoundOperator, both_sides, box_of, value_of, weighted_sum
from .expansion import Expansion, reach
from .registry import Operator, register


class BoundMatrixProduct(BoundOperator):
    """p_ml = sum_k x_mk y_kl.

    With centres c, d and radii r, s of the boxes each product differs from its tangent c y + d x -
    c d by (x - c) (y - d), at most r s. Tangents and errors of all products are matrix products
    themselves.
    """

    def relaxed_inputs(self) -> list[int]:
        return [0, 1]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        lower, upper = boxes[1 - index]
        other = (upper > lower).any(-1 if index == 0 else -2, keepdim=True).mT
        return other.expand_as(boxes[index][0])

    def bound_interval(self, *boxes: Box) -> Box:
        x, y = (boxes[0].map(lambda side: side.unsqueeze(-1)),
                boxes[1].map(lambda side: side.unsqueeze(-3)))
        # of all products: (B, *, M, K, L)
        return product_range(x, y).map(lambda side: side.sum(-2))

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        x, y = nodes
        if not x.perturbed or not y.perturbed:
            return self._linear(last_lower, last_upper, x, y)
        (c, r), (d, s) = (box_of(node).around for node in nodes)
        at_center, error = c @ d, r @ s

        def bound(A: Tensor, side: int) -> tuple[list[Tensor | None], Tensor]:
            reach = weighted_sum(A.abs(), error)
            return [A @ d.mT, c.mT @ A], side * reach - weighted_sum(A, at_center)

        return both_sides(last_lower, last_upper, functools.partial(bound, side=-1),
                          functools.partial(bound, side=1))

    def dependence(self, *sizes: Tensor | None) -> Tensor:
        return products(sizes[0], self.live(0), sizes[1], self.live(1))

    def expansion(self, *at: Tensor) -> Expansion:
        x, y = at

        def linear(dx: Tensor | None, dy: Tensor | None) -> Tensor:
            return products(dx, x, dy, y)

        def magnitude(dx: Tensor | None, dy: Tensor | None) -> Tensor:
            return products(dx, x.abs(), dy, y.abs())

        if not all(node.perturbed for node in self.inputs):
            return Expansion(x @ y, linear, magnitude)
        r, s = (reach(box_of(node), value) for node, value in zip(self.inputs, at, strict=True))
        return Expansion(x @ y, linear, magnitude, r @ s)

    def _linear(self, last_lower: Tensor | None, last_upper: Tensor | None, x: Any, y: Any) -> Any:
        """Exact coefficients where one factor is fixed."""

        def pull(A: Tensor) -> tuple[list[Tensor | None], float]:
            return [A @ value_of(y).mT if x.perturbed else None,
                    value_of(x).mT @ A if y.perturbed else None], 0.0

        return both_sides(last_lower, last_upper, pull, pull)


def products(dx: Tensor | None, x: Tensor, dy: Tensor | None, y: Tensor) -> Tensor:
    """The linear change dx @ y + x @ dy of a product; None is no change."""
    parts = [] if dx is None else [dx @ y]
    parts += [] if dy is None else [x @ dy]
    return functools.reduce(torch.add, parts)


ROWS = [Operator("matrix_product", torch.matmul, BoundMatrixProduct, "attention, torch.bmm of two "
                 "values")]
for row in ROWS:
    register(row)
