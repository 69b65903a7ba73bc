"""What a certificate says of where it comes from: the perturbation in words, and versions."""

import itertools
from collections.abc import Sequence
from importlib import metadata

import torch

from ..bounding.ball import Ball
from ..bounding.where import Where
from ..version import AUTO_LIRPA_VERSION, __version__


def describe(where: Where, place: str, words: str,
             columns: tuple[Sequence[str] | None, ...] = ()) -> str:
    """The set that a certificate speaks of: each input's ball, where it lies, the parameters', what
    its sense adds.

    Args:
        where: the set.
        place: where its balls lie, in words; "" for the inputs.
        words: of its sense.
        columns: for each input, the names of its features; None where they have none.
    """
    balls = [_of_ball(*pair) for pair in itertools.zip_longest(where.balls, columns)]
    text = (balls[0] if len(set(balls)) == 1
            else "; ".join(f"input {i}: {ball}" for i, ball in enumerate(balls)))
    parts = ["inputs held fixed" if set(balls) == {"held fixed"} else text]
    parts += [place] if place else []
    parts += [where.parameters.words] if where.parameters is not None else []
    parts += [words] if words else []
    return "; ".join(parts)


def _of_ball(ball: Ball | None, names: Sequence[str] | None) -> str:
    if ball is None:
        return "held fixed"
    return ball.words if names is None or ball.named is None else ball.named(names)


def versions() -> dict[str, str]:
    """The versions of all that computes a certificate."""
    return {"lirpa_explain": __version__, "auto_LiRPA": AUTO_LIRPA_VERSION,
            "captum": metadata.version("captum"), "torch": torch.__version__}
