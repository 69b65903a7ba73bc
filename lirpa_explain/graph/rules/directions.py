"""Vectors that are divided by their own length.

They are bounded as directions: within -1 and 1, also near 0, where torch's gradient of a length is
0 at 0 itself, and of length 1 everywhere else.
"""

from dataclasses import replace
from typing import Any

from ..builder import Builder, Comparison, Rows


def direction(b: Builder, x: Any, length: Any) -> Rows | None:
    """X divided by its own length, or by something larger; None if it is not that."""
    if not isinstance(x, Rows) or not isinstance(length, Rows):
        return None
    short = _unexpanded(b, length)
    note = b.notes.get(("norm", _made_of(b, short)))
    if note is None or note[0] != x:
        return None
    at = x.dim(note[1])
    if short.ndim != x.ndim or short.shape != (*x.shape[: at - 1], 1, *x.shape[at:]):
        return None
    result = b.emit("direction", x, b.emit("inverse_length", short), dim=at)
    b.notes["direction", result.name] = short
    return result


def zero_at_zero(b: Builder, x: Any, mask: Comparison) -> bool:
    """Whether a direction is set to 0 where its length is, as it is anyway; `mask` is where it is
    kept.
    """
    length = b.notes.get(("direction", x.name)) if isinstance(x, Rows) else None
    return (length is not None and mask.low == mask.high == 0 and not mask.inside
            and length.name == mask.of.name)


def _unexpanded(b: Builder, length: Rows) -> Rows:
    """A length, or at least so much, before it was repeated along the vector."""
    step = b.producer(length)
    if step is None or step.operator != "expand":
        return length
    source = replace(length, name=step.inputs[0])
    name = source.name
    while (step := b.producer(source)) is not None and step.operator == "clamp":
        source = replace(source, name=step.inputs[0])
    note = b.notes.get(("norm", source.name))
    return length if note is None else replace(note[2], name=name)


def _made_of(b: Builder, x: Rows) -> str:
    """Name of a length before it was reshaped, and made at least some number."""
    step = b.producer(x)
    while step is not None and (step.operator == "reshape" or step.operator == "clamp" and
                                step.settings["high"] is None):
        x = replace(x, name=step.inputs[0])
        step = b.producer(x)
    return x.name
