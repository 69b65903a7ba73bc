"""Vectors divided by their own length, or by something larger."""

import torch
from torch import Tensor

from ..boxes import Box
from ..relaxations import univariate
from ..relaxations.declaration import Formula, Function, declare, line
from ..relaxations.ranges import product_range
from ..rounding import least
from .activation import BoundActivation, BoundProduct, Curve
from .planes import Mixture, Plane
from .registry import Operator, register


def shortest(dtype: torch.dtype) -> float:
    """The length below which a vector has no direction here: the square of its inverse must not
    overflow.
    """
    return least(dtype, 0.25)


def inverse(dtype: torch.dtype) -> Function:
    """1 / t, and constant below the shortest length."""
    start = shortest(dtype)
    formula = Formula(torch.reciprocal, lambda t: -t.pow(-2), lambda t: 2 * t.pow(-3))
    return declare(line(0.0, 1 / start), formula, breaks=(start,)).function


def _inverse_length(length: Tensor) -> Tensor:
    return length.clamp(min=shortest(length.dtype)).reciprocal()


INVERSE = Curve(range=lambda lo, hi: univariate.range_of(inverse(lo.dtype), lo, hi),
                lines=lambda lo, hi: univariate.lines(inverse(lo.dtype), lo, hi),
                open=lambda lo, hi: hi > lo,
                family=lambda lo, hi: univariate.line_family(inverse(lo.dtype), lo, hi))


class BoundDirection(BoundProduct):
    """y = x s with s at most 1 / |x|, where |x| is over one dimension: |y| <= |x_i| / |x| <= 1,
    whatever s.

    Planes of the product where they are lower in the middle than the range; where x may be 0, only
    the range.
    """

    def factor(self, t: Box) -> tuple[Box, tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
        identity = torch.ones_like(t[0]), torch.zeros_like(t[0])
        return t, (identity, identity)

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        return boxes[index].upper > boxes[index].lower

    def bound_interval(self, *boxes: Box) -> Box:
        x, s = boxes
        product = product_range(x, s)
        return Box(torch.maximum(product.lower, -self._share(x.negated())),
                   torch.minimum(product.upper, self._share(x))).ordered()

    def _share(self, x: Box) -> Tensor:
        """Upper bound of x_i / |x|: at the upper end of x_i, with all others as near to 0 as they
        come.
        """
        dim = self.settings["dim"]
        nearest = x.absolute().lower.square()
        others = (nearest.sum(dim, keepdim=True) - nearest).clamp(min=0)
        high = x.upper.clamp(min=0)
        square = high.square() + others
        safe = square > least(square.dtype)  # 0 has no derivative, and what underflows no digits
        length = torch.where(safe, square, 1.0).sqrt()
        return torch.where(safe, high / length, (high > 0).to(high)).clamp(max=1)

    def planes(self, *boxes: Box) -> tuple[Plane, Plane]:
        x, s = boxes
        range_ = self.bound_interval(x, s)
        known = s.upper < 0.5 / shortest(s.upper.dtype)
        sides = []
        for plane, end, sign in zip(super().planes(x, s), range_, (-1, 1), strict=True):
            middle = plane[0] * x.center + plane[1] * s.center + plane[2]
            use = known & (sign * (middle - end) <= 0)
            sides.append((*(torch.where(use, part, 0.0) for part in plane[:2]),
                          torch.where(use, plane[2], end)))
        return sides[0], sides[1]

    def start_mixture(self, functions: int) -> Mixture | None:
        """There is nothing to choose."""
        return None


ROWS = [
    Operator("inverse_length", _inverse_length, BoundActivation, "F.normalize, gradient of norms",
             INVERSE),
    Operator("direction", lambda x, s, dim: x * s, BoundDirection,
             "F.normalize, F.cosine_similarity, gradient of norms"),
]
for row in ROWS:
    register(row)
