"""Questions about every point of a box, answered exactly, one row of a batch at a time.

The box of row n holds every point a with lower[n] <= a <= upper[n] in each of its D features.
All functions take (N, D) tensors on one device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lirpa_explain.boxes import Box


def ordered_box(lower: Tensor, upper: Tensor) -> Box:
    """Return a box that contains the given one and whose ends are in order and never NaN.

    Rounding can cross the ends of a box of width 0, and overflow can leave NaN, which bounds
    nothing.

    Args:
        lower: (N, D).
        upper: (N, D).

    Returns:
        lower and upper, (N, D) each, with lower <= upper; infinite where a bound was NaN.

    Example:
        >>> ordered_box(torch.tensor([[2.0, math.nan]]), torch.tensor([[1.0, 5.0]]))
        Box(lower=tensor([[1., -inf]]), upper=tensor([[2., inf]]))
    """
    unknown = lower.isnan() | upper.isnan()
    box = Box(lower, upper).ordered()
    return Box(box.lower.masked_fill(unknown, -math.inf), box.upper.masked_fill(unknown, math.inf))


def absolute_box(lower: Tensor, upper: Tensor) -> Box:
    """Return the smallest box that contains |a| for every point a of the box.

    Args:
        lower: (N, D).
        upper: (N, D), upper >= lower.

    Returns:
        The lower and the upper ends of |a|, (N, D) each.

    Example:
        >>> absolute_box(torch.tensor([[-3.0, -2.0, 1.0]]), torch.tensor([[-1.0, 1.0, 2.0]]))
        Box(lower=tensor([[1., 0., 1.]]), upper=tensor([[3., 2., 2.]]))
    """
    return Box(lower, upper).absolute()


def signs(lower: Tensor, upper: Tensor) -> Tensor:
    """Return the sign that each feature keeps all over the box.

    Args:
        lower: (N, D).
        upper: (N, D), upper >= lower.

    Returns:
        (N, D), int8: +1 where lower > 0, -1 where upper < 0, and 0 where the value is or may be 0.

    Example:
        >>> signs(torch.tensor([[-3.0, -2.0, 1.0, 0.0]]), torch.tensor([[-1.0, 1.0, 2.0, 0.0]]))
        tensor([[-1,  0,  1,  0]], dtype=torch.int8)
    """
    return (lower > 0).to(torch.int8) - (upper < 0).to(torch.int8)


def max_change(lower: Tensor, upper: Tensor, nominal: Tensor, norm: float) -> Tensor:
    """Return the largest distance of a point of the box from the nominal point.

    max over a in the box of |a - nominal|_norm. It is attained at a corner, because the features
    move independently: each goes to the end that is farther away.

    Args:
        lower: (N, D).
        upper: (N, D), upper >= lower.
        nominal: (N, D), inside the box.
        norm: The order of the norm: 1, 2 or math.inf.

    Returns:
        (N,), differentiable in all three tensors.

    Example:
        >>> nominal = torch.tensor([[1.0, 2.0]])
        >>> max_change(nominal - 1, nominal + torch.tensor([[3.0, 0.0]]), nominal, norm=1)
        tensor([4.])
    """
    return torch.linalg.vector_norm(Box(lower, upper).farthest(nominal), ord=norm, dim=1)


def contains(lower: Tensor, upper: Tensor, point: Tensor, rtol: float) -> Tensor:
    """Return whether a point lies inside the box, up to a tolerance.

    The tolerance is rtol times the largest finite |bound| of the row: attributions are sums, so the
    rounding of a small feature is that of the large terms it came from.

    Args:
        lower: (N, D).
        upper: (N, D), upper >= lower.
        point: (N, D).
        rtol: The tolerance, relative, at least 0.

    Returns:
        (N,), bool; False wherever the point or a bound is NaN.

    Example:
        >>> contains(torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([[1.1], [math.nan]]),
        ...          rtol=0.2)
        tensor([ True, False])
    """
    # An infinite bound must neither excuse the other features nor turn the tolerance into NaN.
    bounds = torch.cat([lower, upper], dim=1).nan_to_num(nan=0, posinf=0, neginf=0)  # (N, 2 D)
    slack = rtol * bounds.abs().amax(dim=1, keepdim=True)  # (N, 1)
    return ((lower - slack <= point) & (point <= upper + slack)).all(dim=1)
