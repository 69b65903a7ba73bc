"""What a smoothed map is, and how surely it is known: the numbers that a caller chooses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

GUESSES = 10
"""One in so many draws guesses which side each entry is on, where Holm's test needs that."""

MOST_GUESSES = 30
"""No more draws than these do: entries that so many get wrong are not the ones that are decided."""

MOST_SHOWN = 8
"""Numbers of entries that a message lists."""


@dataclass(frozen=True)
class Smoothing:
    """The settings of a smoothed certificate.

    The smoothed map is s(x) = E h(x + e) for e ~ N(0, sigma^2 I), where h is the sparsified
    attribution: 1 for the `keep` share of entries that are largest, 0 for the others, in `levels`
    equal steps.

    Args:
        sigma: deviation of the noise, in units of the input.
        keep: share of an example's entries that are important, above 0 and below 1.
        levels: L: entries among the largest keep / L count 1, those of the next such share
            (L - 1) / L, and so on.
        absolute: whether |a| is ranked, or a itself.
        sum_channels: whether an image's channels, (N, C, ...), are summed first: one entry a pixel.
        confidence: probability, for each example, that all that is said of it holds.
        radius: an l2 radius of interest; None for all alike.
        nt_samples: draws of each example.
        seed: of the draws.

    Raises:
        TypeError: a number is of another type.
        ValueError: a number is out of range.

    Example:
        >>> Smoothing(sigma=0.25, keep=0.2).kept(1024)
        [205]
    """

    sigma: float
    keep: float = 0.2
    levels: int = 1
    absolute: bool = True
    sum_channels: bool = False
    confidence: float = 0.999
    radius: float | None = None
    nt_samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        _number("sigma", self.sigma, "a finite number above 0, the deviation of the noise in units "
                "of the input", lambda v: 0 < v < math.inf)
        _number("keep", self.keep, "a number between 0 and 1, the share of the entries that count "
                "as important, such as 0.2", lambda v: 0 < v < 1)
        _number("confidence", self.confidence, "a number between 0 and 1, such as 0.999",
                lambda v: 0 < v < 1)
        if self.radius is not None:
            _number("radius", self.radius, "a finite number of at least 0, an l2 radius, or None",
                    lambda v: 0 <= v < math.inf)
        _integer("levels", self.levels, 1)
        _integer("nt_samples", self.nt_samples, 1)
        _integer("seed", self.seed, 0, 2**64 - 1)
        for name in ("absolute", "sum_channels"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False; given: {getattr(self, name)!r}.")

    @property
    def guesses(self) -> int:
        """So many first draws guess the side of each entry; 0 where no radius is of interest."""
        if self.radius is None:
            return 0
        return min(max(1, self.nt_samples // GUESSES), MOST_GUESSES)

    def kept(self, entries: int) -> list[int]:
        """How many entries of an example are among the largest at each level, in growing numbers.

        Args:
            entries: D, of an example.

        Raises:
            ValueError: that is none, all, or fewer than there are levels.
        """
        counts = [round(self.keep * entries * level / self.levels)
                  for level in range(1, self.levels + 1)]
        if counts[-1] < 1 or counts[-1] >= entries or len({0, *counts}) <= self.levels:
            shown = ", ".join(map(str, counts[:MOST_SHOWN])) + ", ..." * (len(counts) > MOST_SHOWN)
            raise ValueError(
                f"keep={self.keep} of {entries} entries in levels={self.levels} makes "
                f"{shown} important entries; pass a keep and levels for "
                f"which each level has one more at least, and fewer than {entries} in all.")
        return counts


def _number(name: str, value: Any, allowed: str, holds: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {allowed}; given: a {type(value).__name__}.")
    if not holds(value):
        raise ValueError(f"{name} must be {allowed}; given: {value!r}.")


def _integer(name: str, value: Any, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int; given: a {type(value).__name__}.")
    if value < least or most is not None and value > most:
        upper = f" and at most {most}" if most is not None else ""
        raise ValueError(f"{name} must be at least {least}{upper}; given: {value}.")
