"""From an attribution to a map in [0, 1]: which entries are among an example's largest."""

from __future__ import annotations

import torch
from torch import Tensor


def steps(a: Tensor, kept: list[int], absolute: bool) -> Tensor:
    """How many of the levels each entry reaches: h = steps / len(kept), from 0 to 1.

    An entry reaches the level of k entries if it is among the k largest however ties are broken:
    if it exceeds the (k + 1)-th largest. So no entry of a constant map does, and nothing depends
    on how a device breaks ties.

    Args:
        a: (M, D), attributions, an example a row.
        kept: the numbers k, growing, each at least 1 and below D.
        absolute: whether |a| is ranked.

    Returns:
        (M, D), int64, from 0 to len(kept).

    Source:
        Levine, Singla and Feizi, Certifiably Robust Interpretation in Deep Learning, 2019
        (sparsified SmoothGrad); Anani, Lorenz, Fritz and Schiele, Pixel-level Certified
        Explanations via Randomized Smoothing, ICML 2025 (top-K% sparsification).

    Example:
        >>> steps(torch.tensor([[3.0, -5.0, 1.0, 1.0]]), kept=[1, 2], absolute=True)
        tensor([[1, 2, 0, 0]])
        >>> steps(torch.zeros(1, 3), kept=[1], absolute=True)
        tensor([[0, 0, 0]])
    """
    values = a.abs() if absolute else a
    largest = values.topk(max(kept) + 1, dim=1).values
    total = torch.zeros_like(values, dtype=torch.int64)
    for k in kept:
        total += values > largest[:, k: k + 1]
    return total


def entries(parts: tuple[Tensor, ...], sum_channels: bool) -> tuple[Tensor, ...]:
    """The parts of an attribution, (M, *S) each, as they are ranked.

    Args:
        parts: one tensor for each input.
        sum_channels: whether the channels of (M, C, ...) are summed, into (M, ...).

    Raises:
        ValueError: channels are to be summed and there are none.
    """
    if not sum_channels:
        return parts
    for part in parts:
        if part.ndim < 3:
            raise ValueError(f"sum_channels=True sums dimension 1 of attributions (N, C, ...); "
                             f"this one has the shape {tuple(part.shape)}.")
    return tuple(part.sum(1) for part in parts)
