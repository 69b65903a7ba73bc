"""Matrix products of two values that both depend on the input, as in attention."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..relaxations.product import Plane, planes
from ..relaxations.ranges import product_range
from .bound import BoundOperator, Box, both_sides, box_of, flat_functions, value_of
from .registry import Operator, register


class BoundMatrixProduct(BoundOperator):
    """p_ml = sum_k x_mk y_kl: the sum of the planes of its products.

    A coefficient of p_ml is that of all its products, so the planes are contracted with it over the entries of the
    result, and no coefficient of single products is ever made.
    """

    def relaxed_inputs(self) -> list[int]:
        return [0, 1]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        lower, upper = boxes[1 - index]
        other = (upper > lower).any(-1 if index == 0 else -2, keepdim=True).mT
        return (other.any(-2, keepdim=True) if index == 0 else other).expand_as(boxes[index][0])

    def _products(self, x: Box, y: Box) -> tuple[Box, Box]:
        """Boxes of the factors of all products: (B, *, M, K, 1) and (B, *, 1, K, L)."""
        return (x[0].unsqueeze(-1), x[1].unsqueeze(-1)), (y[0].unsqueeze(-3), y[1].unsqueeze(-3))

    def bound_interval(self, *boxes: Box) -> Box:
        lower, upper = product_range(*self._products(*boxes))
        return lower.sum(-2), upper.sum(-2)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None, *nodes: Any) -> Any:
        x, y = nodes
        if not x.perturbed or not y.perturbed:
            return self._linear(last_lower, last_upper, x, y)
        g, d = self._products(box_of(x), box_of(y))
        identity = torch.ones_like(d[0]), torch.zeros_like(d[0])
        lower, upper = planes(g, d, d, (identity, identity))

        def side(below: Plane, above: Plane) -> Callable[[Tensor], tuple[list[Tensor | None], Tensor]]:
            def bound(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
                positive, negative = A.clamp(min=0), A.clamp(max=0)
                of_x = [torch.einsum("s...ml,...mkl->s...mk", a, p[0]) for a, p in
                        ((positive, below), (negative, above))]
                of_y = [torch.einsum("s...ml,...mkl->s...kl", a, p[1]) for a, p in
                        ((positive, below), (negative, above))]
                constant = positive * below[2].sum(-2) + negative * above[2].sum(-2)
                return [of_x[0] + of_x[1], of_y[0] + of_y[1]], flat_functions(constant).sum(2)

            return bound

        return both_sides(last_lower, last_upper, side(lower, upper), side(upper, lower))

    def _linear(self, last_lower: Tensor | None, last_upper: Tensor | None, x: Any, y: Any) -> Any:
        """Exact coefficients where one factor is fixed."""

        def pull(A: Tensor) -> tuple[list[Tensor | None], float]:
            return [A @ value_of(y).mT if x.perturbed else None, value_of(x).mT @ A if y.perturbed else None], 0.0

        return both_sides(last_lower, last_upper, pull, pull)


ROWS = [Operator("matrix_product", torch.matmul, BoundMatrixProduct, "attention, torch.bmm of two values")]
for row in ROWS:
    register(row)
