"""The balls that rows lie in, as one flat set, and the recording of linear bounds over it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from auto_LiRPA.perturbations import Perturbation
from torch import Tensor

from ..operators.bound import flat_rows
from ..rounding import RELAXED, roundings
from .functions import Functions

LARGEST = 8.0
"""For l1 balls: by which power of its size a coefficient weighs where the largest one counts."""


@dataclass(frozen=True)
class Part:
    """The balls of one input: |x - center|_norm <= 1 after division by `radius`, (B, D) or (B,
    1).
    """

    norm: float
    center: Tensor
    radius: Tensor

    @classmethod
    def of(cls, x: Tensor, ball: Any) -> Part:
        """The balls that a perturbation describes around x, (B, *S)."""
        x = flat_rows(x)
        if ball.norm == math.inf and ball.x_L is not None:
            low, high = flat_rows(ball.x_L), flat_rows(ball.x_U)
            return cls(math.inf, (low + high) / 2, (high - low) / 2)
        eps = torch.as_tensor(ball.eps, dtype=x.dtype, device=x.device).expand(len(x), -1)
        return cls(float(ball.norm), x, eps)

    def rows(self, index: Tensor) -> Part:
        """The balls of these rows."""
        return Part(self.norm, self.center[index], self.radius[index])

    def spread(self, a: Tensor) -> Tensor:
        """Max over the unit ball of a.y for scaled coefficients (..., D)."""
        return torch.linalg.vector_norm(a, ord={math.inf: 1, 1: math.inf}.get(self.norm, 2), dim=-1)

    def rest(self, whole: Tensor, some: Tensor) -> Tensor:
        """At most the spread of the other coefficients, where that of all is known, and that of
        some.
        """
        if self.norm == math.inf:
            return whole - some
        if self.norm == 2:
            return (whole.square() * (1 + roundings(RELAXED, whole.dtype))
                    - some.square()).clamp(min=0).sqrt()
        return whole

    def ends(self, a: Tensor) -> Tensor:
        """Where in the unit ball a.y is largest; for norm 1, where it is with all entries as large
        as the ball is.
        """
        if self.norm == 2:
            return a / torch.linalg.vector_norm(a, dim=-1, keepdim=True).clamp(
                min=torch.finfo(a.dtype).tiny)
        return a.sign()

    def curvature(self, a: Tensor) -> Tensor:
        """Q with spread(a) ~ sum q a^2, where another a' near has spread(a') <= (sum q a'^2 +
        spread(a)) / 2.

        For norm 1 that holds about, which is enough: multipliers may be any.
        """
        size = a.abs()
        floor = 1e-3 * size.mean(-1, keepdim=True) + torch.finfo(a.dtype).tiny ** 0.25
        if self.norm == math.inf:
            return 1 / torch.maximum(size, floor)
        if self.norm == 2:
            return 1 / (torch.linalg.vector_norm(a, dim=-1, keepdim=True) + floor).expand_as(a)
        most = size.amax(-1, keepdim=True) + floor
        weight = (size / most) ** LARGEST
        return weight / weight.sum(-1, keepdim=True).clamp(min=1e-3) / most


@dataclass(frozen=True)
class Ground:
    """Products of balls, B rows side by side, in flat coordinates of all inputs that move."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, values: tuple[Tensor, ...], balls: tuple[Perturbation | None, ...]) -> Ground:
        """The balls of an engine's inputs, of which some are held fixed."""
        return cls(tuple(Part.of(x, ball)
                         for x, ball in zip(values, balls, strict=False) if ball is not None))

    def rows(self, index: Tensor) -> Ground:
        """The balls of these rows."""
        return Ground(tuple(part.rows(index) for part in self.parts))

    def entries(self, index: Tensor) -> Ground:
        """About the same balls of some of the entries alone."""
        parts, start = [], 0
        for part in self.parts:
            size = part.center.shape[1]
            own = index[(index >= start) & (index < start + size)] - start
            radius = part.radius[:, own] if part.radius.shape[1] == size else part.radius
            parts.append(Part(part.norm, part.center[:, own], radius))
            start += size
        return Ground(tuple(parts))

    def read(self, functions: Functions) -> Ground:
        """The balls in the n inputs that each function depends on, B S rows.

        Raises:
            ValueError: there are several balls.
        """
        if len(self.parts) != 1:
            raise ValueError("functions of some inputs alone need balls of one input; given: "
                             f"{len(self.parts)}.")
        part, count = self.parts[0], functions.c.shape[1]
        radius = part.radius.repeat_interleave(count, 0) if part.radius.shape[1] == 1 else \
            functions.read(part.radius).flatten(0, 1)
        return Ground((Part(part.norm, functions.read(part.center).flatten(0, 1), radius),))

    def rest(self, whole: Tensor, some: Tensor) -> Tensor:
        """At most the spread of the other coefficients, for balls of one input."""
        return self.parts[0].rest(whole, some)

    @property
    def is_box(self) -> bool:
        """Whether all balls are boxes."""
        return all(part.norm == math.inf for part in self.parts)

    def ends(self, a: Tensor) -> Tensor:
        """Where in unit balls a.y is largest, for scaled coefficients (..., D)."""
        sides = zip(self.parts, a.split(self.sizes, -1), strict=True)
        return torch.cat([part.ends(side) for part, side in sides], -1)

    @property
    def center(self) -> Tensor:
        """(B, D)."""
        return torch.cat([part.center for part in self.parts], 1)

    @property
    def radius(self) -> Tensor:
        """(B, D): of the smallest box around."""
        return torch.cat([part.radius.expand_as(part.center) for part in self.parts], 1)

    @property
    def sizes(self) -> list[int]:
        """Entries of each part."""
        return [part.center.shape[1] for part in self.parts]

    def spread(self, a: Tensor) -> Tensor:
        """Max over unit balls of a.y, for scaled coefficients (..., D)."""
        sides = zip(self.parts, a.split(self.sizes, -1), strict=True)
        return torch.stack([part.spread(side) for part, side in sides]).sum(0)

    def curvature(self, a: Tensor) -> Tensor:
        """That of each part."""
        sides = zip(self.parts, a.split(self.sizes, -1), strict=True)
        return torch.cat([part.curvature(side) for part, side in sides], -1)
