"""What a report says first: for each radius, in plain words, what is proven, refuted and open for
how many examples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..certificates import Certificate
from ..certificates.layout import flatten
from ..measures.prediction import Prediction
from .found import Reached, of_measure
from .words import Words

MOST = 5
"""So many features are asked about where the caller names no number."""


@dataclass(frozen=True)
class Verdict:
    """One property at one radius.

    Args:
        text: the property, for so many of the examples.
        more: what else there is to say of it.
        certain: for how many it is proven.
        refuted: for how many an attack found an input that breaks it.
        total: of how many.
    """

    text: str
    more: str
    certain: int
    refuted: int
    total: int

    @property
    def open(self) -> int:
        """For how many nothing is known."""
        return self.total - self.certain - self.refuted


@dataclass(frozen=True)
class AtRadius:
    """What is said of one radius."""

    title: str
    verdicts: list[Verdict]


@dataclass(frozen=True)
class Speaker:
    """Words for certificates of one kind.

    Args:
        words: the texts.
        image: whether features are pixels.
        unit: of the inputs.
    """

    words: Words
    image: bool = False
    unit: str = ""

    @property
    def nouns(self) -> dict[str, str]:
        """What a feature, and several, are called."""
        one, many = ("pixel", "pixels") if self.image else ("feature", "features")
        return {"feature": self.words(one), "features": self.words(many)}

    def at_radius(self, parts: Sequence[Certificate], k: int, prediction: Prediction | None,
                  sides: Sequence[Reached]) -> AtRadius:
        """What is said of the certificates of one radius.

        Args:
            parts: the certificates.
            k: how many of the most important features are asked about.
            prediction: what is certified of the prediction.
            sides: what attacks found.
        """
        stay = torch.cat([part.top_k_overlap(k).detach().cpu() for part in parts]) == k
        side = of_measure(sides, "top_k_overlap", {"k": k})
        broken = torch.zeros_like(stay) if side is None else side.found > 0
        top = self.words("top 1" if k == 1 else "top k", k=k, **self.nouns)
        verdicts = [self._verdict(top, stay, broken & ~stay, side is not None)]
        if (any(bool((flatten(part.lower) < 0).any()) for part in parts)
                or parts[0].meaning.threshold != 0):
            # sizes, such as |gradient|, have no direction
            verdicts.append(self._sides(parts, sides))
        if prediction is not None:
            same = prediction.certain.cpu()
            verdicts.insert(0, self._verdict(self.words("prediction"), same, torch.zeros_like(same),
                                             False))
            both = self._verdict(self.words("prediction and top"), same & stay, broken & ~stay,
                                 side is not None)
            verdicts.insert(2, both)
        title, confidence = (self.title(parts[0].perturbation),
                             parts[0].meaning.facts.get("confidence"))
        if confidence is not None:
            title += self.words("with confidence", confidence=f"{confidence:g}")
        return AtRadius(title, verdicts)

    def title(self, perturbation: str) -> str:
        """The ball in plain words."""
        found = re.fullmatch(
            r"(linf|l2|l1) ball, radius ([\d.e+-]+)(?:, within \[([\d.e+-]+), ([\d.e+-]+)\])?",
            perturbation)
        if found is None:
            return self.words("any other change", perturbation=perturbation)
        norm, radius, low, high = found.groups()
        share = ""
        if norm == "linf" and not self.unit and low is not None and float(high) > float(low):
            percent = 100 * float(radius) / (float(high) - float(low))
            share = self.words("of the range", percent=f"{percent:.3g}", low=low, high=high)
        unit = f" {self.unit}" if self.unit else ""
        return self.words(f"any {norm} change", radius=f"{float(radius):.4g}", unit=unit + share,
                          **self.nouns)

    def _verdict(self, text: str, certain: Tensor, refuted: Tensor, searched: bool,
                 more: str = "") -> Verdict:
        """Of a property that is proven, and refuted if that was searched for, for some examples
        (N,).
        """
        total, proven, broken = len(certain), int(certain.sum()), int(refuted.sum())
        start = self.words("in so many", certain=proven, total=total,
                           examples=self.words.count(total, "example", "examples"))
        rest = total - proven - broken
        if broken:
            said = self.words("refuted", refuted=broken, open=rest,
                              are=self.words.count(rest, "is", "are"))
        elif rest:
            said = self.words("unrefuted" if searched else "unsearched")
        else:
            said = self.words("all certain")
        return Verdict(f"{start} {text}.", f"{more} {said}".strip(), proven, broken, total)

    def _sides(self, parts: Sequence[Certificate], sides: Sequence[Reached]) -> Verdict:
        """Of the sides on which entries stay; entries whose attribution is 0 have no sign to
        keep.
        """
        certain, counts = (torch.cat(list(column))
                           for column in zip(*map(decided_sides, parts), strict=True))
        whole = (certain | ~counts).all(1)
        side = of_measure(sides, "sign", {})
        broken = torch.zeros_like(whole) if side is None else side.found > 0
        share = 100 * int((certain & counts).sum()) / max(1, int(counts.sum()))
        smoothed = "smoothed " if parts[0].meaning.kind == "smoothed" else ""
        more = self.words(f"share of {smoothed}sides", percent=percent_of(share), **self.nouns)
        return self._verdict(self.words(f"{smoothed}sides", **self.nouns), whole, broken & ~whole,
                             side is not None, more)


def decided_sides(certificate: Certificate) -> tuple[Tensor, Tensor]:
    """Which entries certainly stay on their side, and which have one: all but zeros of a signed
    attribution, (N, D).
    """
    lower, nominal, upper = (flatten(side).detach().cpu()
                             for side in (certificate.lower, certificate.nominal,
                                          certificate.upper))
    threshold = certificate.meaning.threshold
    counts = nominal != 0 if threshold == 0 else torch.ones_like(nominal, dtype=torch.bool)
    return (lower > threshold) | (upper < threshold), counts


def percent_of(share: float) -> str:
    """A share of a hundred, that is 100 only if it is all, and 0 only if it is nothing.

    Example:
        >>> percent_of(99.97), percent_of(100.0), percent_of(0.01)
        ('99.9', '100', '0.1')
    """
    rounded = min(max(share, 0.1), 99.9) if 0 < share < 100 else share
    return f"{rounded:.1f}".removesuffix(".0")
