"""The table of methods of bounding: what each bounds by intervals, and what by linear bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..registration import Table, empty

if TYPE_CHECKING:
    from .schedule import Schedule

KINDS = ("intervals", "linear")


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        name: its key.
        words: what it bounds how, in one line.
        within: by what it bounds the values within that a relaxation reads: "intervals", or also
            "linear" bounds of the entries that a relaxation can still gain from.
        result: by what it bounds the result, likewise.
        chosen: whether the planes of relaxations are chosen by descent for each function that is
            bounded linearly.
        tensors: coefficient tensors alive at once, about: what a limit of memory in bytes is
            divided by.
        schedule: a subclass of `schedule.Schedule`, for a method that does more than these words
            say; None: that class itself.

    Raises:
        ValueError: a field is none of its kind, or planes are chosen and nothing is bounded by
            them.

    Example:
        >>> Method("mine", "linear bounds within", within="linear", result="intervals").is_linear
        True
    """

    name: str
    words: str
    within: Literal["intervals", "linear"]
    result: Literal["intervals", "linear"]
    chosen: bool = False
    tensors: int = 16
    schedule: type[Schedule] | None = None

    def __post_init__(self) -> None:
        for field in ("within", "result"):
            if (kind := getattr(self, field)) not in KINDS:
                raise ValueError(f"{field} must be one of {', '.join(KINDS)}; given: {kind!r}.")
        if self.chosen and not self.is_linear:
            raise ValueError(f"The method {self.name!r} chooses planes and bounds nothing by them; "
                             "let within or result be \"linear\", or chosen be False.")
        if isinstance(self.tensors, bool) or not isinstance(self.tensors, int) or self.tensors < 1:
            raise ValueError(f"tensors must be an integer of at least 1; given: {self.tensors!r}.")

    @property
    def is_linear_within(self) -> bool:
        """Whether there are linear bounds of what a relaxation reads."""
        return self.within == "linear"

    @property
    def has_linear_result(self) -> bool:
        """Whether there are linear bounds of the result."""
        return self.result == "linear"

    @property
    def is_linear(self) -> bool:
        """Whether there are linear bounds of anything."""
        return self.is_linear_within or self.has_linear_result

    @property
    def is_interval_pass(self) -> bool:
        """Whether `intervals.IntervalPass` computes the same, but for roundings."""
        return not self.is_linear and self.schedule is None

    @property
    def gains_by_functions(self) -> bool:
        """Whether a function of the result, bounded as a whole, can be narrower than that function
        of the bounds.
        """
        return self.has_linear_result or self.schedule is not None


METHODS: Table[str, Method] = Table(
    "method of bounding", "lirpa_explain.bounding.methods.register(Method(...))", lambda name,
    row: empty(row, "words"))
"""From a name to how bounds are computed."""

for row in (
    Method("IBP", "interval bounds throughout", within="intervals", result="intervals"),
    Method("CROWN-IBP", "linear bounds of the result, interval bounds of everything within",
           within="intervals", result="linear"),
    Method("CROWN", "linear bounds of the result and of everything within that a relaxation reads",
           within="linear", result="linear"),
    Method("CROWN-Optimized",
           "as CROWN, with the planes of every relaxation chosen for each function that is bounded",
           within="linear", result="linear", chosen=True, tensors=64),
):
    METHODS.add(row.name, row)


def register(method: Method, *, overwrite: bool = False) -> Method:
    """Add a method to the table.

    Args:
        method: the new row.
        overwrite: replace a row of that name.

    Returns:
        The row, for the caller to keep.

    Raises:
        ValueError: the name is taken and `overwrite` is False.

    Example:
        >>> row = register(Method("within", "linear bounds within only", within="linear",
        ...                       result="intervals"))
        >>> list(METHODS)[-1], METHODS.pop("within") is row
        ('within', True)
    """
    return METHODS.add(method.name, method, overwrite=overwrite)


def lookup(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    return METHODS[name]
