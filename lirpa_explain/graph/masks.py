"""Numbers that stand for infinity in masks."""

from typing import Any

from torch import Tensor

MASKED = -1e30
"""What stands for -inf, or the least number of a type: intervals of those have no width, and nothing is left of it in
a softmax either."""


def finite(value: Any) -> Any:
    """A constant, a number or a tensor, in which what is below `MASKED` is that; anything else as it is.

    Example:
        >>> import torch
        >>> finite(torch.tensor([0.0, -torch.inf, torch.finfo(torch.float32).min])).tolist(), finite(-torch.inf)
        ([0.0, -1.0000000150474662e+30, -1.0000000150474662e+30], -1e+30)
    """
    if isinstance(value, float):
        return max(value, MASKED)
    return value.clamp(min=MASKED) if isinstance(value, Tensor) and value.is_floating_point() else value
