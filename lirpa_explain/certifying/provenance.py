"""What a certificate says of where it comes from: the perturbation in words, and versions."""

from importlib import metadata

import torch

from ..bounding.where import Where
from ..version import AUTO_LIRPA_VERSION, __version__


def describe(where: Where, place: str, words: str) -> str:
    """The set that a certificate speaks of: each input's ball, where it lies, the parameters', what its sense adds."""
    balls = ["held fixed" if ball is None else ball.words for ball in where.balls]
    text = balls[0] if len(set(balls)) == 1 else "; ".join(f"input {i}: {ball}" for i, ball in enumerate(balls))
    parts = ["inputs held fixed" if set(balls) == {"held fixed"} else text]
    parts += [place] if place else []
    parts += [where.parameters.words] if where.parameters is not None else []
    parts += [words] if words else []
    return "; ".join(parts)


def versions() -> dict[str, str]:
    """The versions of all that computes a certificate."""
    return {"lirpa_explain": __version__, "auto_LiRPA": AUTO_LIRPA_VERSION, "captum": metadata.version("captum"),
            "torch": torch.__version__}
