"""Signs that stay and how few features matter."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lirpa_explain.certificates.box import absolute_box
from lirpa_explain.certificates.metrics.registry import Metric, register
from lirpa_explain.certificates.metrics.surrogates import exceeding, opposed


def sign_agreement(lower: Tensor, upper: Tensor, nominal: Tensor) -> Tensor:
    """Share of the features that have the nominal's sign (-1, 0 or 1): a lower bound, exact, from 0
    to 1.

    Exact where the nominal lies between the bounds.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.

    Returns:
        (N,).

    Source:
        Krishna et al., The Disagreement Problem in Explainable Machine Learning, 2022 (sign
        agreement, k = D).

    Example:
        >>> v = torch.tensor([[1.0, -3.0]])
        >>> sign_agreement(v - 2, v + 2, v)
        tensor([0.5000])
    """
    same = (lower.sign() == nominal.sign()) & (upper.sign() == nominal.sign())
    return same.to(nominal).mean(1)


def effective_complexity(lower: Tensor, upper: Tensor, nominal: Tensor,
                         threshold: float = 0.0) -> Tensor:
    """Number of features that may matter: an upper bound of #{i: |a_i| > threshold}, exact, from 0
    to D.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), not used.
        threshold: at least 0.

    Returns:
        (N,), int64.

    Raises:
        ValueError: a negative threshold.

    Source:
        Nguyen and Martinez, On Quantitative Aspects of Model Interpretability, 2020.

    Example:
        >>> v = torch.tensor([[1.0, -3.0, 0.0]])
        >>> effective_complexity(v - 0.5, v + 0.5, v, threshold=1)
        tensor([2])
    """
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold!r}; pass a number of at least 0.")
    return (absolute_box(lower, upper)[1] > threshold).sum(1)


def gini(lower: Tensor, upper: Tensor, nominal: Tensor) -> Tensor:
    """Sparsity: a lower bound of the Gini index of |a|, exact, from 0 (all alike) to 1 - 1 / D (one
    feature alone).

    G = sum over i < j of ||a_i| - |a_j|| / (D sum |a_i|), and 0 for a = 0. G >= t means that a
    convex function is not negative; it is smallest at clip(c) for some level c: what is above it
    goes down, what is below goes up. Between the ends of intervals, G of clip(c) is a quotient of
    linear functions of c, so that one of the ends is the level.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), not used.

    Returns:
        (N,).

    Source:
        Chalasani et al., Concise Explanations of Neural Networks using Adversarial Training, 2020;
        Hurley and Rickard, Comparing Measures of Sparsity, 2009.

    Example:
        >>> gini(torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 4.0]]), torch.tensor([[0.0, 4.0]]))
        tensor([0.2500])
    """
    low, high = (end.double() for end in absolute_box(lower, upper))
    level = torch.cat([low, high], dim=1)  # (N, 2 D) levels c
    # those with high < c are at high, with low > c at low
    below, above = high.sort(1).values, low.sort(1).values
    under = torch.searchsorted(below, level.contiguous())
    over = torch.searchsorted(above, level.contiguous(), right=True)
    features = low.shape[1]
    few, many, mid = under.double(), features - over.double(), over.double() - under
    sum_low, spread_low = _prefix(below, under)
    total_high, spread_all = (above.sum(1, keepdim=True),
                              _prefix(above, torch.full_like(over, features))[1])
    head, spread_head = _prefix(above, over)
    sum_high = total_high - head
    spread_high = spread_all - spread_head - (over * sum_high - many * head)
    spread = (spread_low + spread_high + (few * sum_high - many * sum_low)
              + mid * ((few - many) * level - sum_low + sum_high))
    total = sum_low + sum_high + mid * level
    index = torch.where(total > 0, spread / (features * torch.where(total > 0, total, 1.0)), 0.0)
    return index.amin(1).clamp(0, 1).to(nominal)


def _prefix(ascending: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Sum, and sum of the differences of all pairs, of the first `count` entries of sorted rows."""
    position = torch.arange(ascending.shape[1], dtype=ascending.dtype, device=ascending.device)
    zero = ascending.new_zeros(len(ascending), 1)
    sums = torch.cat([zero, ascending.cumsum(1)], dim=1)
    spread = torch.cat([zero, (position * ascending - sums[:, :-1]).cumsum(1)], dim=1)
    return sums.gather(1, count), spread.gather(1, count)


def _gini_at(a: Tensor, nominal: Tensor) -> Tensor:
    """sum_i (2 i - D - 1) |a|_(i) / (D sum |a|), |a|_(i) ascending: the sum over pairs, sorted."""
    sizes = a.abs().sort(1).values
    size = a.shape[1]
    weights = 2 * torch.arange(1, size + 1, device=a.device) - size - 1
    total = size * sizes.sum(1)
    return torch.where(total > 0, (weights * sizes).sum(1) / torch.where(total > 0, total, 1.0),
                       0.0)


register(Metric("sign_agreement", sign_agreement, "lower", True, "[0, 1]", "share of i with "
                "sign(a_i) = sign(v_i)",
                "Krishna et al. 2022", worst=0, takes_infinite=True, surrogate=opposed))
register(Metric("effective_complexity", effective_complexity, "upper", True, "0 to D",
                "#{i: |a_i| > threshold}", "Nguyen and Martinez 2020", worst=math.inf,
                takes_infinite=True, surrogate=exceeding))
register(Metric("gini", gini, "lower", True, "[0, 1)", "sum over i < j of ||a_i| - |a_j|| / (D sum "
                "|a_i|)", "Chalasani et al. 2020", worst=0, at=_gini_at))
