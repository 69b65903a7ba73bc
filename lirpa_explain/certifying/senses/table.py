"""Which keyword of `certify` chooses which sense."""

from collections.abc import Mapping
from typing import Any

from .expectation import Expectation
from .finite import FiniteSum
from .integral import Integral
from .nearest import NearestBoundary
from .sense import Sense

SENSES: dict[str, tuple[type[Sense], tuple[str, ...]]] = {
    "integral": (Integral, ()),
    "expectation": (Expectation, ("confidence",)),
    "boundary": (NearestBoundary, ()),
}
"""Keyword -> the sense that its value chooses, and further keywords of that sense."""


def sense_of(given: Mapping[str, Any]) -> Sense:
    """The sense that keywords of `certify` choose; None, or nothing, for the plain one.

    Args:
        given: values of keywords of `SENSES` and of their companions; or "sense", which is one
            itself.

    Raises:
        ValueError: several senses are chosen, or a value is none of its keyword's.

    Example:
        >>> sense_of({"integral": "exact", "confidence": 0.9})
        Integral(kind='exact')
    """
    if given.get("sense") is not None:
        others = [name for name in SENSES if given.get(name) is not None]
        if others or not isinstance(given["sense"], Sense):
            raise ValueError("sense must be a Sense, and goes with no other; given: "
                             f"{given['sense']!r}, {', '.join(others) or 'nothing else'}.")
        return given["sense"]
    chosen = [kind.of(given[name],
                      **{other: given[other] for other in companions if other in given})
              for name, (kind, companions) in SENSES.items() if given.get(name) is not None]
    senses = [sense for sense in chosen if not isinstance(sense, FiniteSum)]
    if len(senses) > 1:
        names = [name for name in SENSES if given.get(name) is not None]
        raise ValueError(f"{names[-1]} goes neither with {names[0]} nor with another sense: choose "
                         f"one of {', '.join(SENSES)}.")
    return next(iter((*senses, *chosen)), FiniteSum())
