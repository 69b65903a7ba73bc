"""Where the centre of mass of an attribution can be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lirpa_explain.certificates.box import absolute_box
from lirpa_explain.certificates.metrics.registry import Metric, register


def center_of_mass(lower: Tensor, upper: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The range of each coordinate of the centre of mass of |a|: sum_i |a_i| p_i / sum_i |a_i|;
    exact.

    One coordinate is largest when all mass beyond some position is largest and all before it
    smallest. The centre of nothing (a = 0) is the middle.

    Args:
        lower: (N, D), finite.
        upper: (N, D), finite, upper >= lower.
        shape: the grid whose places p are, for instance (height, width); D is a multiple of its
            size, and what comes before, such as channels, is added up.

    Returns:
        (low, high), (N, len(shape)) each, in places counted from 0.

    Raises:
        ValueError: D is not a multiple of the size of the grid.

    Example:
        >>> low, high = center_of_mass(torch.tensor([[1.0, 0.0, 1.0]]),
        ...                            torch.tensor([[1.0, 0.0, 3.0]]), shape=(3,))
        >>> low.tolist(), high.tolist()
        ([[1.0]], [[1.5]])
    """
    shape = tuple(shape)
    if not shape or min(shape) < 1 or lower.shape[1] % math.prod(shape):
        raise ValueError(f"shape is {shape}, but an example has {lower.shape[1]} features; pass "
                         "the sizes of a grid that these are the places of, such as (height, "
                         "width).")
    low, high = (end.double().reshape(-1, lower.shape[1] // math.prod(shape), *shape).sum(1)
                 for end in absolute_box(lower, upper))
    lows, highs = [], []
    for axis in range(len(shape)):
        others = tuple(1 + other for other in range(len(shape)) if other != axis)
        least, most = (end.sum(others) if others else end for end in (low, high))  # (N, P)
        highs.append(_farthest(least, most))
        lows.append(shape[axis] - 1 - _farthest(least.flip(1), most.flip(1)))
    return torch.stack(lows, 1).to(lower), torch.stack(highs, 1).to(lower)


def center_shift(lower: Tensor, upper: Tensor, nominal: Tensor, shape: tuple[int, ...]) -> Tensor:
    """How far the centre of mass of |a| can move from that of |v|: an upper bound of their
    distance, at least 0.

    The farthest corner of the box of `center_of_mass`; exact in one dimension.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.
        shape: as of `center_of_mass`.

    Returns:
        (N,), in places of the grid.

    Raises:
        ValueError: D is not a multiple of the size of the grid.

    Example:
        >>> v = torch.tensor([[1.0, 0.0, 1.0]])
        >>> center_shift(v, v + torch.tensor([[0.0, 0.0, 2.0]]), v, shape=(3,))
        tensor([0.5000])
    """
    low, high = center_of_mass(lower, upper, shape)
    at, _ = center_of_mass(nominal, nominal, shape)
    return torch.linalg.vector_norm(torch.maximum(high - at, at - low).clamp(min=0), dim=1)


def _farthest(least: Tensor, most: Tensor) -> Tensor:
    """The largest mean place of masses between least and most, (N, P) each."""
    size = least.shape[1]
    place = torch.arange(size, dtype=least.dtype, device=least.device)
    zero = least.new_zeros(len(least), 1)

    def sums(least: Tensor, most: Tensor) -> Tensor:
        """Prefix sums of `least` up to t plus suffix sums of `most` from t, for every split t =
        0..P.
        """
        before = torch.cat([zero, least.cumsum(1)], dim=1)
        beyond = torch.cat([most.flip(1).cumsum(1).flip(1), zero], dim=1)
        return before + beyond

    mass, moment = sums(least, most), sums(least * place, most * place)
    middle = (size - 1) / 2
    mean = torch.where(mass > 0, moment / torch.where(mass > 0, mass, 1.0), -math.inf).amax(1)
    can_vanish = least.sum(1) == 0
    return torch.where(can_vanish, mean.clamp(min=middle), mean)


register(Metric("center_shift", center_shift, "upper", False, "[0, inf)",
                "distance of the centres of mass of |a| and |v|", "", worst=math.inf))
