"""Sets of points for rows of flat inputs, and of the segments between them: a box, and an l2
ball.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..boxes import Box
from ..operators.bound import flat_rows
from ..rounding import REGION, roundings
from .ball import Ball


@dataclass(frozen=True)
class Region:
    """For each of B rows, all points that lie in a box and in an l2 ball. Flat: all inputs side by
    side.

    Args:
        low: smallest entries, (B, D).
        high: largest entries, (B, D).
        center: of the ball, (B, D).
        radius: of the ball, (B, 1).

    Example:
        >>> ball = Region.ball(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5]]))
        >>> ball.low, ball.difference(ball)[1]
        (tensor([[ 0.5000, -0.5000]]), tensor([[1., 1.]]))
    """

    low: Tensor
    high: Tensor
    center: Tensor
    radius: Tensor

    @classmethod
    def ball(cls, center: Tensor, radius: Tensor) -> Region:
        """An l2 ball, with the box around it."""
        return cls(center - radius, center + radius, center, radius)

    @classmethod
    def around(cls, low: Tensor, high: Tensor) -> Region:
        """A box, with the ball around it."""
        return cls(low, high, (low + high) / 2, (high - low).norm(dim=1, keepdim=True) / 2)

    @classmethod
    def of(cls, points: tuple[Tensor, ...], inputs: tuple[Tensor, ...],
           balls: tuple[Ball | None, ...], example: Tensor) -> Region:
        """The allowed perturbations of inputs, moved to given points.

        Args:
            points: (V, *S) for each input.
            inputs: (N, *S) for each input.
            balls: around the inputs; None for inputs held fixed.
            example: which input each point belongs to, (V,).
        """
        low: list[Tensor] = []
        high: list[Tensor] = []
        for point, x, ball in zip(points, inputs, balls, strict=True):
            for sides, side in ((low, None if ball is None else ball.low),
                                (high, None if ball is None else ball.high)):
                sides.append(flat_rows(point if side is None else point + (side - x)[example]))
        center = torch.cat([flat_rows(point) for point in points], 1)
        radii = [_radius(x, ball)[example] for x, ball in zip(inputs, balls, strict=True)]
        radius = torch.cat(radii, 1).norm(dim=1, keepdim=True)
        return cls(torch.cat(low, 1), torch.cat(high, 1), center, radius).outward()

    def rows(self, index: Tensor) -> Region:
        """The sets of these rows."""
        return Region(self.low[index], self.high[index], self.center[index], self.radius[index])

    def beside(self, other: Region) -> Region:
        """The rows of this one, then those of the other."""
        return Region(*(torch.cat([getattr(r, name) for r in (self, other)]) for name in
                        ("low", "high", "center", "radius")))

    def outward(self) -> Region:
        """A little more, so that rounding does not exclude a point."""
        more = roundings(REGION, self.low.dtype)
        slack = more * Box(self.low, self.high).size
        return Region(self.low - slack, self.high + slack, self.center,
                      self.radius * (1 + more) + more * self.center.norm(dim=1, keepdim=True))

    def cut(self, low: Tensor, high: Tensor) -> Region:
        """Only what lies between low and high, which broadcast; not empty."""
        box = Box(self.low, self.high).intersect(Box(low, high)).ordered()
        return Region(*box, self.center, self.radius)

    def mix(self, other: Region, share: Tensor) -> Region:
        """All s p + (1 - s) q for p in this set and q in the other; s in [0, 1], (B, 1)."""
        rest = 1 - share
        return Region(share * self.low + rest * other.low, share * self.high + rest * other.high,
                      share * self.center + rest * other.center,
                      share * self.radius + rest * other.radius)

    def difference(self, other: Region) -> Box:
        """Bounds of p - q for p in this set and q in the other, (B, D) each."""
        return Box(self.low - other.high, self.high - other.low)

    def is_cut(self) -> Tensor:
        """Where the ball reaches out of the box, (B,): there the box says something of its own."""
        slack = 1e-5 * self.radius
        return ((self.low > self.center - self.radius + slack)
                | (self.high < self.center + self.radius - slack)).any(1)


def _radius(x: Tensor, ball: Ball | None) -> Tensor:
    """Radius of an l2 ball around x, (N, 1), that contains a ball of whatever norm: |v|_2 <=
    |v|_1.
    """
    if ball is None:
        return flat_rows(x)[:, :1].new_zeros(len(x), 1)
    if ball.radius is not None:
        return ball.radius
    return flat_rows(Box(ball.low, ball.high).farthest(x)).norm(dim=1, keepdim=True)
