"""All that a report says beside numbers and names, as a table, so that it can be said in another
language.

`report(..., words={...})` replaces texts by their keys. Braces hold what is filled in, by the same
names.
"""

from __future__ import annotations

import string
from collections.abc import Mapping

WORDS: dict[str, str] = {
    "language": "en",
    "title": "Certificates of {attribution}",
    "lead": "How much of this explanation is certain, whatever small change the input suffers.",
    "verdict": "In short",
    "any linf change": "Whatever change of at most {radius}{unit} in each {feature}, in all of "
    "them at once",
    "any l2 change": "Whatever change of at most {radius}{unit} in all, as a Euclidean distance",
    "any l1 change": "Whatever change of at most {radius}{unit} in all, added up over the "
    "{features}",
    "any other change": "Whatever change within: {perturbation}",
    "with confidence": " (each example with probability {confidence} over what was drawn)",
    "of the range": " ({percent} % of the range from {low} to {high})",
    "top k": "the {k} most important {features} stay the {k} most important",
    "top 1": "the most important {feature} stays the most important",
    "sides": "every {feature} that counts keeps its direction, for or against the outcome",
    "smoothed sides": "every {feature} stays important or unimportant, as it is",
    "prediction": "the predicted class stays the same",
    "prediction and top": "both hold",
    "in so many": "In {certain} of {total} {examples}",
    "share of sides": "{percent} % of the {features} that count (attribution other than 0) keep "
    "it.",
    "share of smoothed sides": "{percent} % of the {features} do.",
    "refuted": "In {refuted} an attack found a change that breaks it; {open} {are} open: neither "
    "proven nor refuted.",
    "unsearched": "Where it is not proven, that is no proof that it fails: no attack was run.",
    "unrefuted": "Where it is not proven, that is no proof that it fails: an attack found no "
    "change that breaks it.",
    "all certain": "Proven for all.",
    "certain": "proven",
    "open": "open",
    "broken": "refuted",
    "limits": "What this does not say",
    "example": "example",
    "examples": "examples",
    "feature": "feature",
    "features": "features",
    "pixel": "pixel",
    "pixels": "pixels",
    "is": "is",
    "are": "are",
    "facts": "How it was computed",
    "attribution": "Attribution",
    "method": "Method",
    "perturbation": "Perturbation",
    "certified examples": "Examples",
    "so many features": "{count}, with {features} features each",
    "time": "Time",
    "seconds": "{seconds} s for all bounds",
    "versions": "Versions",
    "smoothed map": ", smoothed map",
    "integral": ", {kind} integral",
    "expectation": ", expectation",
    "holds": "The bounds hold, entry by entry, for every perturbation stated above, and say "
    "nothing of any other.",
    "sound": "They are sound and not exact: wide bounds mean an unstable explanation or a loose "
    "bound.",
    "fixed": "The output that is explained (the target), baselines and further arguments are held "
    "fixed.",
    "fixed alone": "The output that is explained (the target), baselines and further arguments are "
    "held fixed; nothing is said of whether the prediction itself changes.",
    "outward": "Everything was computed in {dtype}; the bounds are moved outward by a proven bound "
    "of all rounding errors, the model's own included.",
    "rounded": "Everything was computed in {dtype}; the bounds hold up to rounding errors.",
    "good": "Nothing is said of whether the attribution is a good explanation of the model.",
    "numbers": "Certified numbers",
    "a line each": "A line for each {row}; a click on a header sorts, and pointing at it says what "
    "the number is: a is any attribution within the bounds, v the nominal one.",
    "radius and example": "radius and example",
    "beside": "Beside a certified number stands what an attack found: the worst case lies between "
    "the two, so that equal numbers are exact.",
    "failures": "Not certified",
    "failed": "{count} further {examples} could not be certified, and nothing is said of them.",
    "reason": "reason",
    "against": "Against the radius",
    "means": "Means over the examples of what is certified; a is any attribution within the "
    "bounds, v the nominal one.",
    "means beside": "Means over the examples; the truth lies between what is certified and what an "
    "attack found.",
    "radius axis": "radius: largest change{unit}",
    "details": "Examples",
    "the first": "The first {shown} of {count}.",
    "one example": "Example {number}",
    "named": ": {name}",
    "target": ", target {target}",
    "at radius": "Radius {eps}{unit}",
    "picture": "attribution of example {number} and its bounds",
    "curve": "{name} against the radius",
    "list": "Features of example {number}",
    "pixel place": "channel, row, column",
    "nominal": "nominal",
    "lower": "lower",
    "upper": "upper",
    "sign": "sign",
    "importance": "importance",
    "positive": "positive",
    "negative": "negative",
    "important": "important",
    "unimportant": "unimportant",
    "zero": "zero",
    "yes": "yes",
    "no": "no",
    "listed": "Listed are the {count} features with the largest attribution.",
}
"""Key -> text. A translation has the same keys, and fills in no other names."""


class Words:
    """The texts of one report.

    Args:
        changed: texts in place of those of `WORDS`.

    Raises:
        ValueError: a key is none of `WORDS`, or a text fills in a name that there is not.

    Example:
        >>> Words({"in so many": "{certain} von {total}"})("in so many", certain=1, total=2,
        ...                                                examples="Beispiele")
        '1 von 2'
    """

    def __init__(self, changed: Mapping[str, str] | None = None) -> None:
        for key, text in (changed or {}).items():
            if key not in WORDS:
                raise ValueError(f"words has no key {key!r}; it may have {', '.join(WORDS)}.")
            if unknown := _names(text) - _names(WORDS[key]):
                raise ValueError(f"words[{key!r}] fills in {', '.join(sorted(unknown))}; it may "
                                 f"fill in {', '.join(sorted(_names(WORDS[key]))) or 'nothing'}.")
        self._texts = WORDS | dict(changed or {})

    def named(self, word: str) -> str:
        """The text for a word that a certificate brings along; that word, where there is none."""
        return self._texts.get(word, word)

    def __call__(self, key: str, **filled: object) -> str:
        """The text of a key, filled in."""
        return self._texts[key].format(**filled)

    def count(self, number: int, one: str, many: str) -> str:
        """The word for so many of something, from the keys of its singular and plural."""
        return self(one if number == 1 else many)


def _names(text: str) -> set[str]:
    """What a text fills in."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
