"""Which features are the k largest, for every point of a box and every way of breaking ties.

The box of row n holds every point a with lower[n] <= a <= upper[n] in each of its D features.
All functions take (N, D) tensors on one device and need O(N D) memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def certain_top_k(lower: Tensor, upper: Tensor, k: int) -> Tensor:
    """Return which features are among the k largest at every point of the box, however ties are
    broken.

    Feature i is certain when fewer than k other features j have upper_j >= lower_i.

    Args:
        lower: (N, D).
        upper: (N, D), upper >= lower.
        k: How many features are the largest, 1 <= k <= D.

    Returns:
        (N, D), bool; at most k features of a row are True.

    Example:
        >>> certain_top_k(torch.tensor([[5.0, 2.0, 0.0]]), torch.tensor([[6.0, 4.0, 3.0]]), k=1)
        tensor([[ True, False, False]])
    """
    if k == upper.shape[1]:
        return torch.ones_like(upper, dtype=torch.bool)
    # upper_i >= lower_i too, so "fewer than k others" is "at most k in all": the (k+1)-th largest
    # is smaller.
    rival = upper.topk(k + 1).values[:, -1:]  # (N, 1)
    return lower > rival


def top_k_overlap(lower: Tensor, upper: Tensor, nominal: Tensor, k: int) -> Tensor:
    """Return how many of the nominal's k largest features stay among the k largest in the worst
    case.

    With T the nominal's top k (where it ties, torch.topk's choice): the minimum of
    |top k of a, intersected with T| over all points a of the box and all ways of breaking ties.
    m features of T can be replaced exactly when the m-th largest upper outside T reaches the m-th
    smallest lower inside T: raise the ones, lower the others.

    Args:
        lower: (N, D).
        upper: (N, D), upper >= lower.
        nominal: (N, D), inside the box (the result is exact there, a lower bound elsewhere).
        k: How many features are the largest, 1 <= k <= D.

    Returns:
        (N,), int64, from 0 to k.

    Example:
        >>> nominal = torch.tensor([[5.0, 3.0, 2.0]])
        >>> top_k_overlap(nominal - 1, nominal + 1, nominal, k=2)
        tensor([1])
    """
    replaceable = min(k, upper.shape[1] - k)
    top = nominal.topk(k).indices  # (N, k)
    # (N, replaceable), ascending
    weakest = lower.gather(1, top).topk(replaceable, largest=False).values
    # (N, replaceable), descending
    rivals = upper.scatter(1, top, -math.inf).topk(replaceable).values
    # The one row ascends and the other descends, so the True entries come first and their count is
    # m.
    return k - (rivals >= weakest).sum(dim=1)


def check_k(k: int, features: int) -> None:
    """Raise unless k is a number of features, from 1 to `features`.

    Raises:
        TypeError: it is no integer.
        ValueError: it is out of that range.
    """
    if not isinstance(k, int) or isinstance(k, bool):
        raise TypeError(f"k is {k!r}, a {type(k).__name__}; pass an int, a number of features.")
    if not 1 <= k <= features:
        raise ValueError(f"k is {k}, but an example has {features} features; pass 1 <= k <= "
                         f"{features}.")
