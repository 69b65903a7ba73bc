"""A box, entry by entry, in whichever of two forms is at hand."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..boxes import Box


class Interval:
    """A box as its ends, or as centre and radius; the other form is computed when it is asked for.

    Args:
        ends: (lower, upper), (B, *S) each.
        around: (centre, radius); the radius (B, *S), or (1, *S) if it is the same for all rows, the
            centre a tensor or a function that computes it, called when it is asked for.

    Example:
        >>> import torch
        >>> interval = Interval(around=(torch.tensor([1.0, 2.0]), torch.tensor([0.5])))
        >>> interval.lower, interval.upper
        (tensor([0.5000, 1.5000]), tensor([1.5000, 2.5000]))
    """

    __slots__ = ("_ends", "_center", "_radius")

    def __init__(self, ends: Box | None = None,
                 around: tuple[Tensor | Callable[[], Tensor], Tensor] | None = None) -> None:
        self._ends = ends
        self._center: Tensor | Callable[[], Tensor] | None = None if around is None else around[0]
        self._radius: Tensor | None = None if around is None else around[1]

    @classmethod
    def point(cls, value: Tensor) -> Interval:
        """A value that does not move."""
        return cls(Box.point(value))

    @property
    def is_point(self) -> bool:
        """Whether it is known to be one value."""
        return self._ends is not None and self._ends.is_point

    @property
    def is_around(self) -> bool:
        """Whether its centre and radius are known."""
        return self._radius is not None

    @property
    def ends(self) -> Box:
        """Lower and upper end."""
        if self._ends is None:
            center, radius = self.around
            self._ends = Box(center - radius, center + radius)
        return self._ends

    @property
    def around(self) -> tuple[Tensor, Tensor]:
        """Centre and radius."""
        if self._radius is None or self._center is None:
            self._center, self._radius = self.ends.around
        if not isinstance(self._center, Tensor):
            self._center = self._center()
        return self._center, self._radius

    @property
    def radius(self) -> Tensor:
        """Half of the width, (B, *S) or (1, *S)."""
        return self.around[1] if self._radius is None else self._radius

    @property
    def lower(self) -> Tensor:
        """The lower end."""
        return self.ends[0]

    @property
    def upper(self) -> Tensor:
        """The upper end."""
        return self.ends[1]

    @property
    def width(self) -> Tensor:
        """Upper less lower end; the centre is not computed for it where all rows have radii of
        their own.
        """
        if self._radius is None:
            return self.ends.width
        return 2 * (self._radius
                    if len(self._radius) > 1 else self._radius.expand_as(self.around[0]))

    def rows(self, index: Tensor) -> Interval:
        """The intervals of these rows."""
        if self.is_around:
            center, radius = self.around
            return Interval(around=(center[index], radius if len(radius) == 1 else radius[index]))
        return Interval(self.ends.rows(index))

    def grouped_sum(self, size: int) -> Interval:
        """The sums of so many rows each, (B / size, *S)."""
        center, radius = (
            side.expand(len(self.around[0]), *side.shape[1:]).unflatten(0, (-1, size)).sum(1)
            for side in self.around)
        return Interval(around=(center, radius))

    def __add__(self, value: Tensor) -> Interval:
        """Moved by a value."""
        if self.is_around:
            center, radius = self.around
            center = center + value
            return Interval(around=(center, radius.expand(len(radius), *center.shape[1:])))
        return Interval(self.ends.map(lambda end: end + value))

    def __mul__(self, factor: Tensor) -> Interval:
        """Times a factor of any sign."""
        center, radius = self.around
        return Interval(around=(center * factor, radius * factor.abs()))
