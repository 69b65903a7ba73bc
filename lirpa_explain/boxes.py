"""The pair (lower, upper) that everything here is about, and the arithmetic of such pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Box(NamedTuple):
    """All points between two tensors, entry by entry; a plain pair that unpacks like one.

    Args:
        lower: lower ends, any shape.
        upper: upper ends, of the same shape, or of one that broadcasts with it.

    Example:
        >>> low, high = Box(torch.tensor(-1.0), torch.tensor(2.0)).absolute()
        >>> low.item(), high.item()
        (0.0, 2.0)
    """

    lower: Tensor
    upper: Tensor

    @classmethod
    def point(cls, value: Tensor) -> Box:
        """The box of one value, whose ends are the same tensor.

        Example:
            >>> Box.point(torch.ones(2)).is_point
            True
        """
        return cls(value, value)

    @property
    def is_point(self) -> bool:
        """Whether it is known to be one value: its ends are the same tensor."""
        return self.lower is self.upper

    @property
    def width(self) -> Tensor:
        """Upper less lower end.

        Example:
            >>> Box(torch.tensor(-1.0), torch.tensor(2.0)).width.item()
            3.0
        """
        return self.upper - self.lower

    @property
    def center(self) -> Tensor:
        """The middle.

        Example:
            >>> Box(torch.tensor(-1.0), torch.tensor(2.0)).center.item()
            0.5
        """
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        """Half of the width.

        Example:
            >>> Box(torch.tensor(-1.0), torch.tensor(2.0)).radius.item()
            1.5
        """
        return (self.upper - self.lower) / 2

    @property
    def around(self) -> tuple[Tensor, Tensor]:
        """Centre and radius."""
        return self.center, self.radius

    @property
    def size(self) -> Tensor:
        """The largest absolute value.

        Example:
            >>> Box(torch.tensor(-3.0), torch.tensor(2.0)).size.item()
            3.0
        """
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def map(self, function: Callable[[Tensor], Tensor]) -> Box:
        """The range of a function that increases in every entry, or moves entries: its values at
        both ends.

        Example:
            >>> Box(torch.tensor(0.0), torch.tensor(2.0)).map(torch.square)
            Box(lower=tensor(0.), upper=tensor(4.))
        """
        return Box(function(self.lower), function(self.upper))

    def rows(self, index: Tensor) -> Box:
        """The boxes of these rows.

        Example:
            >>> Box(torch.zeros(3), torch.arange(3.0)).rows(torch.tensor([2])).upper
            tensor([2.])
        """
        return Box(self.lower[index], self.upper[index])

    def ordered(self) -> Box:
        """The same with ends in order, where roundings or a negative factor have crossed them.

        Example:
            >>> Box(torch.tensor(2.0), torch.tensor(1.0)).ordered()
            Box(lower=tensor(1.), upper=tensor(2.))
        """
        return Box(torch.minimum(self.lower, self.upper), torch.maximum(self.lower, self.upper))

    def or_nothing(self) -> Box:
        """The same with infinite ends for NaN, which overflow leaves, and which bounds nothing.

        Example:
            >>> Box(torch.tensor(torch.nan), torch.tensor(1.0)).or_nothing().lower
            tensor(-inf)
        """
        lower, upper = self
        if bool(torch.isfinite(lower).all()) and bool(torch.isfinite(upper).all()):
            return self
        return Box(torch.where(lower.isnan(), -torch.inf, lower),
                   torch.where(upper.isnan(), torch.inf, upper))

    def intersect(self, other: Box) -> Box:
        """What lies in both; the ends may cross where nothing does, or by roundings: see `ordered`.

        Example:
            >>> zero = torch.tensor(0.0)
            >>> Box(zero, zero + 2).intersect(Box(zero + 1, zero + 3))
            Box(lower=tensor(1.), upper=tensor(2.))
        """
        return Box(torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper))

    def hull(self, other: Box) -> Box:
        """The smallest box around both.

        Example:
            >>> zero = torch.tensor(0.0)
            >>> Box(zero, zero + 2).hull(Box.point(zero + 3))
            Box(lower=tensor(0.), upper=tensor(3.))
        """
        return Box(torch.minimum(self.lower, other.lower), torch.maximum(self.upper, other.upper))

    def negated(self) -> Box:
        """All -a.

        Example:
            >>> Box(torch.tensor(-1.0), torch.tensor(2.0)).negated()
            Box(lower=tensor(-2.), upper=tensor(1.))
        """
        return Box(-self.upper, -self.lower)

    def absolute(self) -> Box:
        """All |a|.

        Example:
            >>> Box(torch.tensor([-2.0, 1.0]), torch.tensor([1.0, 2.0])).absolute()
            Box(lower=tensor([0., 1.]), upper=tensor([2., 2.]))
        """
        return Box(torch.maximum(self.lower, -self.upper).clamp(min=0),
                   torch.maximum(-self.lower, self.upper))

    def square(self) -> Box:
        """All a^2.

        Example:
            >>> Box(torch.tensor([-2.0, 1.0]), torch.tensor([1.0, 2.0])).square()
            Box(lower=tensor([0., 1.]), upper=tensor([4., 4.]))
        """
        return self.absolute().map(torch.square)

    def scaled(self, weight: Tensor) -> Box:
        """All of a known weight of any sign, which broadcasts, times a; infinite where that is 0
        times infinity.

        Example:
            >>> Box(torch.tensor(-1.0), torch.tensor(2.0)).scaled(torch.tensor(-2.0))
            Box(lower=tensor(-4.), upper=tensor(2.))
        """
        sides = Box(self.lower * weight, self.upper * weight).or_nothing()
        return sides if bool((weight >= 0).all()) else sides.ordered()

    def of_type(self, dtype: torch.dtype) -> Box:
        """The smallest box in another floating-point type that contains this one.

        Example:
            >>> box = Box.point(torch.tensor(0.1, dtype=torch.float64)).of_type(torch.float32)
            >>> bool((box.lower.double() <= 0.1) & (0.1 <= box.upper.double())), box.lower.dtype
            (True, torch.float32)
        """
        if self.lower.dtype == dtype:
            return self
        lower, upper = self.lower.to(dtype), self.upper.to(dtype)
        far = torch.full_like(lower, torch.inf)
        return Box(torch.where(lower > self.lower, torch.nextafter(lower, -far), lower),
                   torch.where(upper < self.upper, torch.nextafter(upper, far), upper))

    def outward(self, error: Tensor) -> Box:
        """Moved outward by an error; what cannot be bounded becomes infinite.

        Example:
            >>> Box(torch.tensor(-1.0), torch.tensor(2.0)).outward(torch.tensor(0.5))
            Box(lower=tensor(-1.5000), upper=tensor(2.5000))
        """
        limits = {"neginf": -torch.inf, "posinf": torch.inf}
        return Box((self.lower - error).nan_to_num(nan=-torch.inf, **limits),
                   (self.upper + error).nan_to_num(nan=torch.inf, **limits))

    def contains(self, value: Tensor) -> Tensor:
        """Whether a value lies within, entry by entry; NaN does not.

        Example:
            >>> Box(torch.tensor(-1.0), torch.tensor(2.0)).contains(torch.tensor([0.0, 3.0]))
            tensor([ True, False])
        """
        return (self.lower <= value) & (value <= self.upper)

    def outside(self, value: Tensor) -> Tensor:
        """By how much a value lies outside; at most 0 within.

        Example:
            >>> Box(torch.tensor(-1.0), torch.tensor(2.0)).outside(torch.tensor([0.0, 3.0]))
            tensor([-1.,  1.])
        """
        return torch.maximum(self.lower - value, value - self.upper)

    def farthest(self, value: Tensor) -> Tensor:
        """The largest distance of a point of the box from a value within.

        Example:
            >>> Box(torch.tensor(-1.0), torch.tensor(2.0)).farthest(torch.tensor(0.0))
            tensor(2.)
        """
        return torch.maximum(self.upper - value, value - self.lower)

    def nearest(self, value: Tensor) -> Tensor:
        """The point of the box that is nearest to a value.

        Example:
            >>> Box(torch.tensor(-1.0), torch.tensor(2.0)).nearest(torch.tensor([0.0, 3.0]))
            tensor([0., 2.])
        """
        return torch.minimum(torch.maximum(value, self.lower), self.upper)
