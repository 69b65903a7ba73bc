"""Refuse what is no fixed function of its inputs: it draws random numbers past torch, or changes
with each call.
"""

import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TrainingModeError, UnsupportedOperation

TOLERANCE = 1e-5
"""Largest difference, relative to the largest output, between two calls on the same inputs: on some
devices sums are added up in a new order each time."""


REPEATS = 16
"""Further calls of a function that draws random numbers: they may be of no consequence."""


def check_repeats(repeat: Callable[[], Tensor], output: Tensor) -> None:
    """Call a function again, and compare.

    Random operations of torch show in a trace; those of numpy and Python move the state of their
    generators.

    Args:
        repeat: calls it on the same inputs.
        output: what it returned before.

    Raises:
        TrainingModeError: it drew from numpy's generator or Python's, and returned something else.
        UnsupportedOperation: it returned something else without.

    Example:
        >>> check_repeats(lambda: torch.ones(2), torch.ones(2))
    """
    drawn = _drawn_so_far()
    again = repeat()
    draws = _drawn_so_far() != drawn
    others = [again, *(repeat() for _ in range(REPEATS if draws else 0))]
    tolerance = TOLERANCE * float(output.abs().max())
    if all(torch.allclose(output, other, rtol=0, atol=tolerance, equal_nan=True)
           for other in others):
        return
    if draws:
        raise TrainingModeError("The model draws random numbers, from numpy's generator or "
                                "Python's: its attribution is not one function of the input. Call "
                                "model.eval(), or take the noise out of the model.")
    raise UnsupportedOperation(
        "The function returned something else when it was called again with the same inputs, so it "
        "is not a fixed function of them: it draws random numbers, or changes with each call.")


def _drawn_so_far() -> tuple[bytes, Any]:
    """State of the generators whose draws no trace shows."""
    return pickle.dumps(np.random.get_state()), random.getstate()
