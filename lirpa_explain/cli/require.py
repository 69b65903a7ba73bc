"""Properties asked for with --require, and whether they are certified."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..certificates.metrics import lookup
from ..reporting.table import Measure, Table
from .values import call

PREDICTION = "prediction"
"""The requirement that the predicted class is certain."""

COMPARISONS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    ">=": (operator.ge, "lower"), "<=": (operator.le, "upper")}
"""How a number is compared, and the side from which a metric must be bounded for that to be
certified."""


@dataclass(frozen=True)
class Requirement:
    """A property of each example.

    Args:
        text: as it was written.
        measure: the metric; None for the prediction.
        comparison: a key of `COMPARISONS`.
        bound: what the metric is compared with.
    """

    text: str
    measure: Measure | None = None
    comparison: str = ">="
    bound: float = 1

    def failing(self, table: Table) -> dict[float, list[int]]:
        """The examples that do not have the property, by radius; every radius is a key."""
        values = table.column(PREDICTION if self.measure is None else self.measure.label).values
        holds, _ = COMPARISONS[self.comparison]
        examples: dict[float, list[int]] = {eps: [] for eps in table.column("eps").values}
        for example, eps, value in zip(table.column("example").values, table.column("eps").values,
                                       values, strict=True):
            if not holds(value, self.bound):
                examples[eps].append(example)
        return examples


def requirement(text: str) -> Requirement:
    """Read `METRIC[:SETTING=VALUE,...] >= NUMBER`, the same with <=, or `prediction`.

    Raises:
        ValueError: the text is not of that form, or asks for what the metric's bound cannot
            certify.

    Example:
        >>> requirement("cosine >= 0.9").bound
        0.9
    """
    if text.strip() == PREDICTION:
        return Requirement(text.strip())
    match = re.fullmatch(r"\s*(.+?)\s*(>=|<=)\s*(\S+)\s*", text)
    if match is None:
        raise ValueError(f"--require {text!r} is not of the form 'METRIC >= NUMBER', 'METRIC <= "
                         f"NUMBER' or '{PREDICTION}'.")
    measure = Measure(*call(match[1]))
    _, side = COMPARISONS[match[2]]
    if lookup(measure.name).direction != side:
        other = next(sign for sign, (_, direction) in COMPARISONS.items() if direction != side)
        raise ValueError(f"--require {text!r} cannot be certified: {measure.name} is bounded from "
                         f"{'above' if side == 'lower' else 'below'} only; ask for {measure.name} "
                         f"{other} NUMBER.")
    try:
        return Requirement(" ".join(text.split()), measure, match[2], float(match[3]))
    except ValueError as error:
        raise ValueError(
            f"--require {text!r} compares with {match[3]!r}, which is not a number.") from error


def complaints(requirements: Sequence[Requirement], table: Table, share: float) -> list[str]:
    """A line for each requirement and radius at which it is certified for too few of the
    examples.
    """
    lines = []
    count = 1 + max(table.column("example").values)
    for wanted in requirements:
        for eps, examples in wanted.failing(table).items():
            if count - len(examples) < share * count:
                shown = ", ".join(map(str, examples[:20])) + ", ..." * (len(examples) > 20)
                lines.append(f"{wanted.text} is not certified at eps {eps:g} for {len(examples)} "
                             f"of {count} examples: {shown}")
    return lines
