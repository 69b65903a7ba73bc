"""The table of losses: what training makes small, from bounds of an attribution.

Functions take `Bounds` (lower, upper, center, radius, width, value: (N, D), computed only if read)
and give (N,), and are 0 or least where the explanation is certified. v stands for the nominal
attribution, l and u for its bounds.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..bounding.bounds import Bounds
from ..certificates.box import absolute_box
from ..certificates.metrics import evaluate
from ..certificates.metrics import lookup as metric_row
from ..certificates.metrics.paper import targeted_region
from ..certificates.ranking import check_k
from ..registration import Table, empty


@dataclass(frozen=True)
class Loss:
    """One row of the table.

    Args:
        name: its key.
        function: `function(bounds, **settings) -> (N,)`.
        formula: the number, for people.
        reads: which of "lower", "upper" and "value" it depends on.
        zero: what a loss of 0 certifies, for people; empty if nothing but that the bounds meet.
        source: where it comes from.
        features: settings that are shaped like the attribution, or like one example of it.
    """

    name: str
    function: Callable[..., Tensor]
    formula: str
    reads: tuple[str, ...]
    zero: str = ""
    source: str = ""
    features: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of what the function takes beside the bounds."""
        return tuple(inspect.signature(self.function).parameters)[1:]


LOSSES: Table[str, Loss] = Table("loss", "lirpa_explain.training.register_loss(Loss(...))",
                                 lambda name, row: empty(row, "formula", "reads"))

SMALL = 1e-6
"""What is added to sizes of which a logarithm is taken."""


def register(loss: Loss, *, overwrite: bool = False) -> Loss:
    """Add a loss to the table.

    Args:
        loss: the new row.
        overwrite: replace a row of that name.

    Returns:
        The row.

    Raises:
        ValueError: the name is taken and `overwrite` is False.
    """
    return LOSSES.add(loss.name, loss, overwrite=overwrite)


def width(bounds: Bounds) -> Tensor:
    """Mean width of the bounds, mean_i (u_i - l_i), at least 0. Summed over a batch it is the
    regulariser of the paper.

    Args:
        bounds: of N attributions.

    Returns:
        (N,).

    Source:
        Wicker et al., Robust Explanation Constraints for Neural Networks, ICLR 2023.
    """
    return bounds.width.mean(1)


def relative_width(bounds: Bounds, detach: bool = False) -> Tensor:
    """Mean width of the bounds beside the mean size of the attribution, at least 0.

    Args:
        bounds: of N attributions.
        detach: whether that size is a constant for the gradient. If not, it also grows.

    Returns:
        (N,).
    """
    return bounds.width.mean(1) / _scale(bounds, detach)


def metric(bounds: Bounds, name: str, **settings: Any) -> Tensor:
    """The certified bound of a metric; minus that bound where the metric is bounded from below.

    Args:
        bounds: of N attributions.
        name: a key of `lirpa_explain.METRICS` that has a derivative.
        **settings: of the metric.

    Returns:
        (N,).

    Raises:
        ValueError: there is no such metric, or it has no derivative: a count, or a share of
            entries.
    """
    row = metric_row(name)
    number = evaluate(name, bounds.lower, bounds.upper, bounds.value, **settings)
    if torch.is_grad_enabled() and bounds.lower.requires_grad and not number.requires_grad:
        raise ValueError(f"The metric {name!r} has no derivative, so it cannot be trained; a loss "
                         f"of its own may stand for it: there are {', '.join(LOSSES)}.")
    return number if row.direction == "upper" else -number


def signs(bounds: Bounds, margin: float = 0.1, detach: bool = True) -> Tensor:
    """By how much signs fail to be certain: mean_i relu(margin - m_i), m_i = (l_i if v_i > 0, else
    -u_i) / mean |v|.

    Args:
        bounds: of N attributions.
        margin: how far from 0 each entry is to be kept, relative to the mean size; at least 0.
        detach: whether that size is a constant for the gradient.

    Returns:
        (N,); entries that are 0 have no sign, and count with m_i = -(u_i - l_i).
    """
    sign = bounds.value.detach().sign()
    # several times as fast as torch.where
    away = sign * bounds.center - (2 - sign.abs()) * bounds.radius
    return (margin - away / _scale(bounds, detach)[:, None]).relu().mean(1)


def top_k(bounds: Bounds, k: int, margin: float = 0.1, absolute: bool = True,
          detach: bool = True) -> Tensor:
    """By how much the k largest features fail to be certain to stay so.

    relu(margin - (min over the top k of v of l_i - max over the others of u_j) / mean |v|).

    Args:
        bounds: of N attributions.
        k: from 1 to D.
        margin: the gap that is wanted, relative to the mean size; at least 0.
        absolute: whether to rank |v|.
        detach: whether the mean size is a constant for the gradient.

    Returns:
        (N,).

    Raises:
        ValueError: k is out of range.
    """
    check_k(k, bounds.lower.shape[1])
    low, high = (absolute_box(bounds.lower, bounds.upper)
                 if absolute else (bounds.lower, bounds.upper))
    value = bounds.value.abs() if absolute else bounds.value
    inside = torch.zeros_like(value,
                              dtype=torch.bool).scatter(1, value.topk(k, dim=1).indices, True)
    least, largest = (low.masked_fill(~inside, math.inf).amin(1),
                      high.masked_fill(inside, -math.inf).amax(1))
    return (margin - (least - largest) / _scale(bounds, detach)).relu()


def protected(bounds: Bounds, mask: Tensor, k: int, margin: float = 0.1, absolute: bool = True,
              detach: bool = True) -> Tensor:
    """By how much protected features fail to be certain to stay out of the k largest.

    relu(margin - (k-th largest l_i of the others - largest u_j of the protected) / mean |v|).

    Args:
        bounds: of N attributions.
        mask: (D,) or (N, D), which features are protected.
        k: from 1 to the number of the others.
        margin: the gap that is wanted, relative to the mean size; at least 0.
        absolute: whether to rank |a|.
        detach: whether the mean size is a constant for the gradient.

    Returns:
        (N,).

    Raises:
        ValueError: k is out of range.

    Source:
        Wicker et al., ICLR 2023: the certificate of targeted fairness.
    """
    kth, largest = _rivals(bounds, mask, k, absolute)
    return (margin - (kth - largest) / _scale(bounds, detach)).relu()


def protected_ratio(bounds: Bounds, mask: Tensor, k: int, margin: float = 0.3) -> Tensor:
    """By how many times the sizes of protected features fail to stay below the k largest.

    relu(margin + log(largest u of the protected) - log(k-th largest l of the others)), l and u ends
    of |v|. The ratio stays as it is when explanations shrink, so that a net gains nothing from
    small ones, and grows however far the bounds are from certain.

    Args:
        bounds: of N attributions.
        mask: (D,) or (N, D), which features are protected.
        k: from 1 to the number of the others.
        margin: the logarithm of the ratio that is wanted, at least 0.

    Returns:
        (N,).

    Raises:
        ValueError: k is out of range.
    """
    kth, largest = _rivals(bounds, mask, k, absolute=True)
    largest = largest.clamp(min=0)  # -inf where nothing is protected
    return (margin + torch.log(largest + SMALL) - torch.log(kth + SMALL)).relu()


def _rivals(bounds: Bounds, mask: Tensor, k: int, absolute: bool) -> tuple[Tensor, Tensor]:
    """K-th largest lower end among features that are not protected, and largest upper end of those
    that are, (N,).
    """
    is_protected = mask.to(bounds.lower.device).bool().expand_as(bounds.lower)
    check_k(k, int((~is_protected).sum(1).min()))
    low, high = (absolute_box(bounds.lower, bounds.upper)
                 if absolute else (bounds.lower, bounds.upper))
    kth = low.masked_fill(is_protected, -math.inf).topk(k, dim=1).values[:, -1]
    return kth, high.masked_fill(~is_protected, -math.inf).amax(1)


def region(bounds: Bounds, mask: Tensor) -> Tensor:
    """The largest share of |a| that can lie outside of a region, in [0, 1].

    Args:
        bounds: of N attributions.
        mask: (D,) or (N, D), the region.

    Returns:
        (N,); 0 where there is no mass at all.
    """
    inside = mask.to(bounds.lower.device).bool().expand_as(bounds.lower)
    low, high = absolute_box(bounds.lower, bounds.upper)
    outside, kept = (high * ~inside).sum(1), (low * inside).sum(1)
    total = outside + kept
    return outside / torch.where(total > 0, total, 1.0)


def _distance(name: str) -> Callable[..., Tensor]:
    """The loss that is the certified bound of a metric without settings."""

    def distance(bounds: Bounds) -> Tensor:
        return metric(bounds, name)

    return distance


def squared_change(bounds: Bounds, channels: int = 1) -> Tensor:
    """Mean over pixels of (sum over channels of max(u - v, v - l))^2, at least 0.

    Args:
        bounds: of N attributions.
        channels: of the attribution, its slowest dimension.

    Returns:
        (N,).

    Source:
        Wicker et al., ICLR 2023: certified if at most 0.03.
    """
    return targeted_region(bounds.lower, bounds.upper, bounds.value, channels)


def _scale(bounds: Bounds, detach: bool) -> Tensor:
    """Mean size of each attribution, (N,); 1 where it vanishes."""
    size = bounds.value.detach().abs().mean(1) if detach else bounds.value.abs().mean(1)
    return torch.where(size > 0, size, 1.0)


BOTH, ALL = ("lower", "upper"), ("lower", "upper", "value")
for _loss in (
    Loss("width", width, "mean_i (u_i - l_i)", BOTH, source="Wicker et al. 2023"),
    Loss("relative_width", relative_width, "mean_i (u_i - l_i) / mean |v|", ALL),
    Loss("metric", metric, "a metric's certified bound, or minus it if that is from below", ALL,
         features=("mask",)),
    Loss("signs", signs, "mean_i relu(margin - (l_i if v_i > 0, else -u_i) / mean |v|)", ALL,
         "all signs"),
    Loss("top_k", top_k, "relu(margin - (min_top l - max_rest u) / mean |v|)", ALL,
         "the k largest features"),
    Loss("protected", protected, "relu(margin - (k-th largest l of the others - max_protected u) / "
         "mean |v|)", ALL,
         "no protected feature among the k largest", "Wicker et al. 2023", ("mask",)),
    Loss("protected_ratio", protected_ratio, "relu(margin + log(max_protected u / k-th largest l "
         "of the others))", BOTH, "no protected feature among the k largest", features=("mask",)),
    Loss("region", region, "largest share of |a| outside of a region", BOTH, "no mass outside",
         features=("mask",)),
    Loss("squared_change", squared_change, "mean over pixels of max(u - v, v - l)^2", ALL,
         source="Wicker et al. 2023"),
    Loss("l1", _distance("l1"), "largest |a - v|_1", ALL),
    Loss("l2", _distance("l2"), "largest |a - v|_2", ALL),
    Loss("linf", _distance("linf"), "largest |a - v|_inf", ALL),
):
    register(_loss)
