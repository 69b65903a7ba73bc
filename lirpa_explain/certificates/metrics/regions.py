"""How much of the attribution lies in a region, at least and at most."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lirpa_explain.boxes import Box
from lirpa_explain.certificates.box import absolute_box
from lirpa_explain.certificates.metrics.registry import Metric, register
from lirpa_explain.relaxations.ranges import linear_range


def mass_lower(lower: Tensor, upper: Tensor, nominal: Tensor, mask: Tensor,
               absolute: bool = False) -> Tensor:
    """Least mass inside a region: a lower bound of sum_i mask_i a_i, exact.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), not used.
        mask: (D,) or (N, D); bool, or weights of any sign.
        absolute: whether |a_i| is added up.

    Returns:
        (N,).

    Example:
        >>> a = torch.tensor([[1.0, -3.0, 5.0]])
        >>> mass_lower(a - 1, a + 1, a, torch.tensor([True, True, False]))
        tensor([-4.])
    """
    return _mass(lower, upper, nominal, mask, absolute)[0]


def mass_upper(lower: Tensor, upper: Tensor, nominal: Tensor, mask: Tensor,
               absolute: bool = False) -> Tensor:
    """Largest mass inside a region: an upper bound of sum_i mask_i a_i, exact.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), not used.
        mask: (D,) or (N, D); bool, or weights of any sign.
        absolute: whether |a_i| is added up.

    Returns:
        (N,).

    Example:
        >>> a = torch.tensor([[1.0, -3.0, 5.0]])
        >>> mass_upper(a - 1, a + 1, a, torch.tensor([True, True, False]), absolute=True)
        tensor([6.])
    """
    return _mass(lower, upper, nominal, mask, absolute)[1]


def share_lower(lower: Tensor, upper: Tensor, nominal: Tensor, mask: Tensor,
                part: str = "absolute") -> Tensor:
    """Least share of the attribution inside a region: a lower bound of sum_mask p_i / sum_all p_i,
    exact, 0 to 1.

    p is |a|, or max(a, 0), the positive relevance. The share of nothing is 0.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), not used.
        mask: (D,) or (N, D); bool, or 0 and 1.
        part: "absolute" or "positive".

    Returns:
        (N,).

    Raises:
        ValueError: another part, or a mask of other weights.

    Source:
        Arras et al., CLEVR-XAI, 2022 (relevance mass accuracy).

    Example:
        >>> a = torch.tensor([[4.0, 4.0]])
        >>> share_lower(a - 1, a + 1, a, torch.tensor([True, False]))
        tensor([0.3750])
    """
    inside, outside = _inside_and_outside(lower, upper, nominal, mask, part)
    return _quotient(inside[0], outside[1])


def share_upper(lower: Tensor, upper: Tensor, nominal: Tensor, mask: Tensor,
                part: str = "absolute") -> Tensor:
    """Largest share of the attribution that a perturbation can put in a region: an upper bound,
    exact, 0 to 1.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), not used.
        mask: (D,) or (N, D); bool, or 0 and 1.
        part: "absolute" or "positive", as of `share_lower`.

    Returns:
        (N,).

    Raises:
        ValueError: another part, or a mask of other weights.

    Source:
        Arras et al., CLEVR-XAI, 2022 (relevance mass accuracy).

    Example:
        >>> a = torch.tensor([[4.0, 4.0]])
        >>> share_upper(a - 1, a + 1, a, torch.tensor([True, False]))
        tensor([0.6250])
    """
    inside, outside = _inside_and_outside(lower, upper, nominal, mask, part)
    return _quotient(inside[1], outside[0])


def as_weights(mask: Tensor, nominal: Tensor, binary: bool) -> Tensor:
    """A mask as weights (N, D); `binary` allows 0 and 1 alone.

    Raises:
        ValueError: it has another shape, or other numbers than those.
    """
    if not isinstance(mask, Tensor) or mask.shape not in (nominal.shape, nominal.shape[1:]):
        given = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask must have one entry a feature, {tuple(nominal.shape[1:])} or "
                         f"{tuple(nominal.shape)}; given: {given}.")
    weights = mask.to(nominal).expand_as(nominal)
    if binary and not bool(((weights == 0) | (weights == 1)).all()):
        raise ValueError("mask must be a set of features here: bool, or 0 and 1.")
    return weights


def _mass(lower: Tensor, upper: Tensor, nominal: Tensor, mask: Tensor, absolute: bool) -> Box:
    box = absolute_box(lower, upper) if absolute else Box(lower, upper)
    return linear_range(as_weights(mask, nominal, binary=False)[:, None],
                        box).map(lambda side: side[:, 0])


def _inside_and_outside(lower: Tensor, upper: Tensor, nominal: Tensor, mask: Tensor, part: str
                        ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Smallest and largest sum of p inside the mask, and outside of it."""
    weights = as_weights(mask, nominal, binary=True)
    if part not in ("absolute", "positive"):
        raise ValueError(f"part is {part!r}; pass 'absolute' or 'positive'.")
    low, high = (absolute_box(lower, upper)
                 if part == "absolute" else (lower.clamp(min=0), upper.clamp(min=0)))
    return (((weights * low).sum(1), (weights * high).sum(1)),
            (((1 - weights) * low).sum(1), ((1 - weights) * high).sum(1)))


def _quotient(inside: Tensor, outside: Tensor) -> Tensor:
    return torch.where(inside == 0, 0.0, inside / torch.where(inside == 0, 1.0, inside + outside))


register(Metric("mass_lower", mass_lower, "lower", True, "any", "sum_i mask_i a_i, or of |a_i|", "",
                worst=-math.inf, features=("mask",)))
register(Metric("mass_upper", mass_upper, "upper", True, "any", "sum_i mask_i a_i, or of |a_i|", "",
                worst=math.inf, features=("mask",)))
register(Metric("share_lower", share_lower, "lower", True, "[0, 1]", "sum_mask p_i / sum_all p_i "
                "with p = |a| or max(a, 0)", "Arras et al. 2022", worst=0, features=("mask",)))
register(Metric("share_upper", share_upper, "upper", True, "[0, 1]", "sum_mask p_i / sum_all p_i "
                "with p = |a| or max(a, 0)", "Arras et al. 2022", worst=1, features=("mask",)))
