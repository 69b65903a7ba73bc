"""First-order expansions: an operator's linear part near given values of its inputs, and how far
this may be off anywhere in their boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..boxes import Box


@dataclass(frozen=True)
class Expansion:
    """f(x) = value + linear(x - at) + e with |e| <= error, for all x in the inputs' boxes.

    Args:
        value: (B, *output).
        linear: of changes of all inputs, (d, *S) each, None for one that does not change; (d,
            *output).
        magnitude: likewise, by how much the linear part changes at most if the inputs' entries
            change by these sizes.
        error: (B, *output); None: the operator is its linear part.
    """

    value: Tensor
    linear: Callable[..., Tensor]
    magnitude: Callable[..., Tensor]
    error: Tensor | None = None


def reach(box: Box, at: Tensor) -> Tensor:
    """How far the points of a box are from a value at most, entry by entry."""
    return torch.maximum(box.upper - at, at - box.lower)
