"""Which features are important, those above a threshold, and where they lie."""

from __future__ import annotations

import torch
from torch import Tensor

from lirpa_explain.certificates.metrics.regions import as_weights
from lirpa_explain.certificates.metrics.registry import Metric, register
from lirpa_explain.certificates.metrics.surrogates import misplaced, opposed


def importance_agreement(lower: Tensor, upper: Tensor, nominal: Tensor, threshold: float = 0.5
                         ) -> Tensor:
    """Share of the features that are important, or not, as the nominal ones are: a lower bound.

    Important is what exceeds the threshold: 1/2 for smoothed maps, which say how often a feature is
    among the largest. Exact where the nominal lies between the bounds.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.
        threshold: of importance.

    Returns:
        (N,), from 0 to 1.

    Source:
        Anani et al., Pixel-level Certified Explanations via Randomized Smoothing, ICML 2025 (the
        share of certified pixels).

    Example:
        >>> v = torch.tensor([[0.9, 0.6, 0.1]])
        >>> importance_agreement(v - 0.2, v + 0.2, v)
        tensor([0.6667])
    """
    important = nominal > threshold
    same = ((lower > threshold) == important) & ((upper > threshold) == important)
    return same.to(nominal).mean(1)


def localisation(lower: Tensor, upper: Tensor, nominal: Tensor, mask: Tensor,
                 threshold: float = 0.5) -> Tensor:
    """Share of the important features that lie in a region: a lower bound, exact, from 0 to 1.

    At worst all features outside that may be important are, and only those inside that must be.
    The share of nothing is 0.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), not used.
        mask: (D,) or (N, D); bool, or 0 and 1.
        threshold: of importance.

    Returns:
        (N,).

    Raises:
        ValueError: a mask of another shape, or of other weights.

    Source:
        Böhle, Fritz and Schiele, Convolutional Dynamic Alignment Networks for Interpretable
        Classifications, CVPR 2021 (the grid pointing game), of features above a threshold.

    Example:
        >>> v = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
        >>> localisation(v - 0.15, v + 0.15, v, torch.tensor([True, True, False, False]))
        tensor([0.5000])
    """
    inside = as_weights(mask, nominal, binary=True)
    certain = (inside * (lower > threshold)).sum(1)
    possible = ((1 - inside) * (upper > threshold)).sum(1)
    return torch.where(certain == 0, 0.0, certain / (certain + possible).clamp(min=1))


register(Metric("importance_agreement", importance_agreement, "lower", True, "[0, 1]", "share of i "
                "with (a_i > t) = (v_i > t), t = threshold", "Anani et al. 2025",
                worst=0, takes_infinite=True, surrogate=lambda a, nominal, threshold=0.5: opposed(
                    a - threshold, nominal - threshold)))
register(Metric("localisation", localisation, "lower", True, "[0, 1]", "#{i in mask: a_i > t} / "
                "#{i: a_i > t}, t = threshold", "Böhle et al. 2021", worst=0,
                takes_infinite=True, features=("mask",), surrogate=misplaced))
