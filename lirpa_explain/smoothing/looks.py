"""When the draws are looked at, and how much of the error each look may spend.

What is said after several numbers of draws is wrong if one of these statements is: so the errors of
all looks that may ever happen add up to what is allowed, and nothing that was seen of the draws may
choose how many there are. Nine tenths go to the looks of the first call, in equal parts; half of
the rest to a look where that call is interrupted before anything was said; and the other half, in
shares 1/2, 1/6, 1/12, ..., to looks at twice as many draws, at twice these, and so on. Later
interruptions make no look: what was said before stands.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

PLANNED = 0.9
"""The share of the error that the looks of the first call spend."""

INTERRUPTED = DOUBLED = (1 - PLANNED) / 2
"""The shares of an interruption of that call, and of all doublings together."""

EARLY = (4, 2)
"""With a radius of interest, the draws are looked at after these parts of them as well."""


@dataclass(frozen=True)
class Looks:
    """What is still to come.

    Args:
        pending: pairs of a number of draws and the share of the error that is spent there.
        doublings: how often the number of draws was doubled.
        said: whether something was said of the draws.

    Example:
        >>> looks = Looks.planned(1000, early=True)
        >>> [draws for draws, _ in looks.pending]
        [250, 500, 1000]
        >>> later = Looks().doubled(1000, 2)
        >>> later.pending[0][0], round(later.pending[0][1], 5)
        (4000, 0.00833)
    """

    pending: tuple[tuple[int, float], ...] = ()
    doublings: int = 0
    said: bool = False

    @classmethod
    def planned(cls, samples: int, early: bool, least: int = 1) -> Looks:
        """The looks of a call.

        Args:
            samples: draws of an example.
            early: whether there is something to stop for before all are drawn.
            least: with fewer draws nothing can be decided.
        """
        draws = [samples // part for part in EARLY if early and samples // part >= least]
        draws = [*draws, samples]
        return cls(tuple((count, PLANNED / len(draws)) for count in draws))

    def after_one(self) -> Looks:
        """The same after the next look."""
        return dataclasses.replace(self, pending=self.pending[1:])

    def after_saying(self) -> Looks:
        """The same once something was said of the draws."""
        return dataclasses.replace(self, said=True)

    def doubled(self, draws: int, times: int) -> Looks:
        """The same with a look at twice as many draws, so many times doubled.

        Its share goes by how many draws there are then, and not by how many looks there were.
        """
        count = self.doublings + times
        share = DOUBLED / (count * (count + 1))
        return dataclasses.replace(self, pending=((draws * 2**times, share),), doublings=count)

    def packed(self) -> dict[str, Any]:
        """As a saved certificate's header holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def unpacked(cls, words: dict[str, Any]) -> Looks:
        """From `packed`."""
        pending = tuple((int(draws), float(share)) for draws, share in words["pending"])
        return cls(pending, int(words["doublings"]), bool(words["said"]))
