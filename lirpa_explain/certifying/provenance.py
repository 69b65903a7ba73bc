"""What a certificate says of where it comes from: the perturbation in words, and versions."""

from importlib import metadata

import torch

from ..attributions import Plan
from ..bounding.ball import Ball
from ..bounding.parameters import Parameters
from ..version import AUTO_LIRPA_VERSION, __version__


def describe(balls: tuple[Ball | None, ...], plan: Plan, parameters: Parameters | None) -> str:
    """The set that a certificate speaks of: each input's ball, the parameters', and the boundary points'."""
    words = ["held fixed" if ball is None else ball.words for ball in balls]
    text = words[0] if len(set(words)) == 1 else "; ".join(f"input {i}: {word}" for i, word in enumerate(words))
    text = "inputs held fixed" if set(words) == {"held fixed"} else text
    if parameters is not None:
        text = f"{text}; {parameters.words}"
    if plan.nearest is None:
        return text
    return f"{text}; boundary point " + ("of each x' itself" if plan.moving else "fixed")


def versions() -> dict[str, str]:
    """The versions of all that computes a certificate."""
    return {"lirpa_explain": __version__, "auto_LiRPA": AUTO_LIRPA_VERSION, "captum": metadata.version("captum"),
            "torch": torch.__version__}
