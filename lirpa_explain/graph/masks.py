"""Numbers that stand for infinity in masks."""

from torch import Tensor

MASKED = -1e30
"""What stands for -inf, or the least number of a type: intervals of those have no width, and
nothing is left of it in a softmax either."""


def finite(value: Tensor) -> Tensor:
    """A constant in which what is below `MASKED` is that.

    Example:
        >>> import torch
        >>> finite(torch.tensor([0.0, -torch.inf, torch.finfo(torch.float32).min])).tolist()
        [0.0, -1.0000000150474662e+30, -1.0000000150474662e+30]
    """
    return value.clamp(min=MASKED) if value.is_floating_point() else value
