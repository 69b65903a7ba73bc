"""How far the attribution can turn away from its nominal direction."""

from __future__ import annotations

import torch
from torch import Tensor

from lirpa_explain.certificates.metrics.angle import least_cosine
from lirpa_explain.certificates.metrics.registry import Metric, register

from ...rounding import DIRECTION, roundings


def cosine(lower: Tensor, upper: Tensor, nominal: Tensor) -> Tensor:
    """Cosine similarity with the nominal attribution: a lower bound of <a, v> / (|a| |v|), from -1
    to 1.

    Exact where negative; else below the minimum by a gap that falls with the number of features
    (see `angle`). 0 where v = 0, and no more than 0 where a = 0 is possible: the cosine with a zero
    vector is 0, as in torch.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.

    Returns:
        (N,).

    Source:
        Joo et al., Towards More Robust Interpretation via Local Gradient Alignment, AAAI 2023.

    Example:
        >>> v = torch.tensor([[1.0, 0.0]])
        >>> cosine(v, v + torch.tensor([[0.0, 1.0]]), v)
        tensor([0.7071])
    """
    return least_cosine(lower, upper, nominal).to(nominal)


def pearson(lower: Tensor, upper: Tensor, nominal: Tensor) -> Tensor:
    """Pearson correlation with the nominal attribution: a lower bound, from -1 to 1.

    The cosine of a - mean(a) and v - mean(v); exact where negative. 0 where v is constant (as with
    one feature), and no more than 0 where a constant a is possible.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.

    Returns:
        (N,).

    Source:
        Kindermans et al., The (Un)reliability of Saliency Methods, 2019; Adebayo et al., Sanity
        Checks, 2018.

    Example:
        >>> v = torch.tensor([[0.0, 1.0, 2.0]])
        >>> pearson(v, v, v)
        tensor([1.])
    """
    return least_cosine(lower, upper, nominal, centered=True).to(nominal)


def cosine_distance(lower: Tensor, upper: Tensor, nominal: Tensor) -> Tensor:
    """Normalised cosine distance of local gradient alignment: an upper bound of (1 - cos(a, v)) /
    2, from 0 to 1.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.

    Returns:
        (N,); 1/2 where v = 0.

    Source:
        Joo et al., Towards More Robust Interpretation via Local Gradient Alignment, AAAI 2023.

    Example:
        >>> v = torch.tensor([[1.0, 0.0]])
        >>> cosine_distance(v, v, v), cosine_distance(-v, v, v)
        (tensor([0.]), tensor([1.]))
    """
    return ((1 - least_cosine(lower, upper, nominal)) / 2).to(nominal)


def _cosine_at(a: Tensor, nominal: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(nominal, dim=1)
    return torch.where(lengths == 0, 0.0,
                       (a * nominal).sum(1) / torch.where(lengths == 0, 1.0, lengths))


def _pearson_at(a: Tensor, nominal: Tensor) -> Tensor:
    return _cosine_at(_centered(a), _centered(nominal))


def _centered(a: Tensor) -> Tensor:
    """Deviations from the mean; 0 where they are nothing but rounding."""
    deviation = a - a.mean(1, keepdim=True)
    rounding = roundings(DIRECTION, a.dtype) * a.shape[1] ** 0.5 * a.abs().amax(1, keepdim=True)
    kept = torch.linalg.vector_norm(deviation, dim=1, keepdim=True) > rounding
    return torch.where(kept, deviation, 0.0)


register(Metric("cosine", cosine, "lower", False, "[-1, 1]", "<a, v> / (|a| |v|)",
                "Joo et al. 2023", worst=-1, at=_cosine_at))
register(Metric("pearson", pearson, "lower", False, "[-1, 1]", "cosine of a - mean(a) and v - "
                "mean(v)", "Adebayo et al. 2018", worst=-1, at=_pearson_at))
register(Metric("cosine_distance", cosine_distance, "upper", False, "[0, 1]", "(1 - cos(a, v)) / 2",
                "Joo et al. 2023", worst=1, at=lambda a, nominal: (1 - _cosine_at(a, nominal)) / 2))
