"""The three certificates of Robust Explanation Constraints for Neural Networks, and protected
features.

Wicker, Heo, Costabello and Weller, ICLR 2023: an explanation that cannot be moved at all
(untargeted), that cannot be made to rest on given features (targeted, fairness), or to look like a
given map (targeted, region).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lirpa_explain.boxes import Box
from lirpa_explain.certificates.box import absolute_box
from lirpa_explain.certificates.metrics.regions import as_weights
from lirpa_explain.certificates.metrics.registry import Metric, register
from lirpa_explain.certificates.metrics.surrogates import intrusion, intrusion_of_one
from lirpa_explain.certificates.ranking import check_k


def protected_top_k(lower: Tensor, upper: Tensor, nominal: Tensor, mask: Tensor, k: int,
                    absolute: bool = False) -> Tensor:
    """How many protected features can be among the k largest: an upper bound, exact, from 0 to k.

    Over all points of the box and all ways of breaking ties: the protected features at their upper
    ends, the others at their lower ones. 0 is the certificate that the top k never contains a
    protected feature.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), not used.
        mask: (D,) or (N, D); which features are protected: bool, or 0 and 1.
        k: from 1 to D.
        absolute: whether to rank absolute values.

    Returns:
        (N,), int64.

    Raises:
        ValueError: k is out of range, or the mask has other weights.
        TypeError: k is not an int.

    Source:
        Wicker et al., ICLR 2023.

    Example:
        >>> a = torch.tensor([[5.0, 3.0, 1.0]])
        >>> protected_top_k(a - 1, a + 1, a, torch.tensor([False, False, True]), k=2)
        tensor([1])
    """
    check_k(k, nominal.shape[1])
    protected = as_weights(mask, nominal, binary=True) == 1
    low, high = absolute_box(lower, upper) if absolute else (lower, upper)
    inside = torch.where(protected, high, -math.inf).topk(k).values
    outside = torch.where(protected, -math.inf, low).topk(k).values.flip(1)
    # The m best protected ones come in if the m-th is not below the (k - m + 1)-th of the others.
    count = torch.arange(1, k + 1, device=low.device)
    return ((inside >= outside) & (count <= protected.sum(1, keepdim=True))).sum(1)


def targeted_fairness(lower: Tensor, upper: Tensor, nominal: Tensor, mask: Tensor, k: int = 5,
                      absolute: bool = False) -> Tensor:
    """Whether no protected feature can be among the k largest: 1 if certain, else 0; a lower bound,
    exact.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), not used.
        mask: (D,) or (N, D); which features are protected.
        k: from 1 to D; the paper uses 5.
        absolute: whether to rank absolute values; the paper ranks signed ones.

    Returns:
        (N,), 0 or 1.

    Raises:
        ValueError: as `protected_top_k`.
        TypeError: as `protected_top_k`.

    Source:
        Wicker et al., ICLR 2023: top-k of (v_L with v_U at the protected features), intersected
        with these, is empty.

    Example:
        >>> a = torch.tensor([[5.0, 3.0, 1.0]])
        >>> targeted_fairness(a - 0.5, a + 0.5, a, torch.tensor([False, False, True]), k=2)
        tensor([1.])
    """
    return (protected_top_k(lower, upper, nominal, mask, k, absolute) == 0).to(nominal)


def targeted_region(lower: Tensor, upper: Tensor, nominal: Tensor, channels: int = 1) -> Tensor:
    """Largest mean square change of a map: an upper bound of mean_p (sum_c |a_cp - v_cp|)^2, exact,
    at least 0.

    The paper calls an explanation certified where this is at most 0.03.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.
        channels: how many channels c the features have, one after the other; D is a multiple of it.

    Returns:
        (N,).

    Raises:
        ValueError: D is not a multiple of `channels`.

    Source:
        Wicker et al., ICLR 2023, experiments on MedMNIST: delta = max(v_U - v, v - v_L), summed
        over channels.

    Example:
        >>> v = torch.zeros(1, 4)
        >>> targeted_region(v - 1, v + 0.5, v, channels=2)
        tensor([4.])
    """
    if not isinstance(channels, int) or channels < 1 or nominal.shape[1] % channels:
        raise ValueError(f"channels is {channels!r}, but an example has {nominal.shape[1]} "
                         "features; pass a divisor.")
    change = Box(lower, upper).farthest(nominal)
    return change.reshape(len(change), channels, -1).sum(1).square().mean(1)


def untargeted(lower: Tensor, upper: Tensor, nominal: Tensor) -> Tensor:
    """Mean width: an upper bound of the mean difference of any two explanations, mean |a - a'|,
    exact, at least 0.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), not used.

    Returns:
        (N,).

    Source:
        Wicker et al., ICLR 2023: delta = mean(v_U - v_L).

    Example:
        >>> v = torch.zeros(1, 2)
        >>> untargeted(v - 1, v + torch.tensor([[0.0, 2.0]]), v)
        tensor([2.])
    """
    return (upper - lower).mean(1)


_SOURCE = "Wicker et al. 2023"
register(Metric("protected_top_k", protected_top_k, "upper", True, "0 to k", "protected features "
                "in a's top k", _SOURCE,
                worst=math.inf, takes_infinite=True, features=("mask",), surrogate=intrusion))
register(Metric("targeted_fairness", targeted_fairness, "lower", True, "0 or 1", "1 if a's top k "
                "has no protected feature, else 0", _SOURCE, worst=0, takes_infinite=True,
                features=("mask",), surrogate=intrusion_of_one))
register(Metric("targeted_region", targeted_region, "upper", True, "[0, inf)", "mean_p (sum_c "
                "|a_cp - v_cp|)^2", _SOURCE, worst=math.inf))
register(Metric("untargeted", untargeted, "upper", True, "[0, inf)", "mean |a - a'|, a and a' any "
                "two points",
                _SOURCE, worst=math.inf, at=lambda a, nominal: (a - nominal).abs().mean(1)))
