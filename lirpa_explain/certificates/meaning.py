"""What the bounds of a certificate are bounds of: the attribution itself, or something that it
stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

FINITE = ("The nominal value is Captum's, at the unperturbed input; finite sums, drawn noise and "
          "drawn points are part of the attribution and stay as they were.")


FACT = "fact."
"""What names of facts begin with in a saved certificate."""


@dataclass(frozen=True)
class Meaning:
    """The sense in which a certificate holds.

    Args:
        kind: Its name, such as "attribution", "integral" or "expectation".
        title: What a line about the certificate says of it after the attribution's name.
        says: What the bounds and the nominal value are, in a sentence or two for the report.
        is_nominal: Whether the bounded is what Captum computes, so that an attack can evaluate it
            at other inputs.
        facts: What else is known in this sense, by name: numbers, words, and tensors with a row for
            each example.
        threshold: What an entry is compared with to say on which side it certainly is.
        above: The word for an entry that is certainly above the threshold.
        below: The word for one that is certainly below.
    """

    kind: str = "attribution"
    title: str = ""
    says: str = FINITE
    is_nominal: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    threshold: float = 0.0
    above: str = "positive"
    below: str = "negative"

    def certain(self, lower: Tensor, upper: Tensor, nominal: Tensor) -> str:
        """Return how many entries are certainly on a side, for the line of a certificate: of bounds
        (N, D).
        """
        above, below = lower > self.threshold, upper < self.threshold
        if self.threshold == 0:
            nonzero = nominal != 0
            share = ((above | below) & nonzero).sum().item() / max(1, nonzero.sum().item())
            return f"signs         {share:.1%} of the entries that are not 0 certified"
        shares = (side.double().mean().item() for side in (above, below))
        return "certain       " + ", ".join(
            f"{share:.1%} {word}"
            for share, word in zip(shares, (self.above, self.below), strict=True))


def fact(name: str, words: str) -> Any:
    """Return a property of certificates: what its meaning knows under a name; None in another
    sense.
    """
    return property(lambda certificate: certificate.meaning.facts.get(name), doc=words)


def packed(meaning: Meaning) -> dict[str, Any]:
    """Return a meaning as fields of a saved certificate."""
    words = {entry.name: getattr(meaning, entry.name)
             for entry in fields(Meaning) if entry.name != "facts"}
    return {"meaning": words} | {f"{FACT}{name}": value for name, value in meaning.facts.items()}


def unpacked(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a certificate from those that were saved."""
    facts = {name.removeprefix(FACT): value
             for name, value in values.items() if name.startswith(FACT)}
    rest = {name: value for name, value in values.items() if not name.startswith(FACT)}
    return rest | {"meaning": Meaning(**values["meaning"], facts=facts)}
