"""What bounds of differences decide where the box cannot: the box forgets that features move
together.

`bound` maps linear functions (N, K, D) of the features to bounds of them, each (N, K).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Bounder = Callable[[Tensor], tuple[Tensor, Tensor]]

FUNCTIONS = 512
"""Most functions handed over at once: each is as long as an example."""


def entries(bound: Bounder, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of the features whose sign is open, bounded again: (N, D) each, nowhere wider."""
    is_open = ((lower <= 0) & (upper >= 0) & (lower < upper)).any(0).nonzero()[:, 0]
    if len(is_open) == 0:
        return lower, upper
    functions = torch.eye(lower.shape[1], dtype=lower.dtype, device=lower.device)[is_open]
    low, high = bound(functions.expand(len(lower), -1, -1))
    return (lower.index_copy(1, is_open, torch.maximum(lower[:, is_open], low)),
            upper.index_copy(1, is_open, torch.minimum(upper[:, is_open], high)))


def rivals(bound: Bounder, lower: Tensor, upper: Tensor, nominal: Tensor, k: int,
           absolute: bool) -> Tensor:
    """Which features outside the nominal's k largest may be as large as which of the k.

    Feature o cannot reach feature i if a_i - a_o > 0 is certain; for absolute values, where the
    sign s of a_i is certain, if s a_i - a_o > 0 and s a_i + a_o > 0 both are.

    Args:
        bound: bounds of linear functions of the features.
        lower: (N, D), of the signed features.
        upper: (N, D).
        nominal: (N, D), what is ranked, so absolute values if `absolute`.
        k: how many features are the largest.
        absolute: whether absolute values are ranked.

    Returns:
        (N, k, D), bool: whether feature o may reach the i-th largest; False for o among the k
        largest themselves.
    """
    top = nominal.topk(k).indices
    sign = torch.where(lower.gather(1, top) > 0, 1.0,
                       torch.where(upper.gather(1, top) < 0, -1.0, 0.0)).to(lower)
    if not absolute:
        sign = torch.ones_like(sign)
    outside = torch.ones_like(nominal, dtype=torch.bool).scatter(1, top, False)
    beyond = _decided(bound, lower, upper, top, sign, -1.0, outside)
    if absolute:
        beyond = beyond & _decided(bound, lower, upper, top, sign, 1.0,
                                   outside) & (sign != 0)[..., None]
    return outside[:, None] & ~beyond


def _decided(bound: Bounder, lower: Tensor, upper: Tensor, top: Tensor, sign: Tensor, other: float,
             outside: Tensor) -> Tensor:
    """Where sign * a_i + other * a_o > 0 is certain, (N, k, D): by the box, else by bounds of that
    very function.
    """
    floor = torch.where(sign > 0, lower.gather(1, top), -upper.gather(1, top))
    decided = floor[..., None] + torch.where(torch.tensor(other > 0), lower, -upper)[:, None] > 0
    wanted = ~decided & outside[:, None] & (sign != 0)[..., None]
    counts = wanted.flatten(1).sum(1)
    if not counts.any():
        return decided
    rows, k, size = wanted.shape
    index = wanted.flatten(1).to(torch.int8).argsort(dim=1, descending=True,
                                                     stable=True)[:, : int(counts.max())]
    proven = torch.zeros_like(wanted.flatten(1))
    for part in index.split(FUNCTIONS, 1):
        first, second = part // size, part % size
        functions = lower.new_zeros(rows, part.shape[1], size)
        functions.scatter_(2, top.gather(1, first)[..., None], sign.gather(1, first)[..., None])
        functions.scatter_add_(2, second[..., None],
                               torch.full_like(second[..., None], other, dtype=lower.dtype))
        proven.scatter_(1, part, bound(functions)[0] > 0)
    return decided | proven.reshape(wanted.shape) & wanted


def certain_top_k(reach: Tensor, nominal: Tensor, k: int) -> Tensor:
    """Features among the k largest that no other feature can reach, (N, D): `reach` is that of
    `rivals`.

    To leave the k largest, a feature must be reached by one from outside.
    """
    top = nominal.topk(k).indices
    return torch.zeros_like(nominal, dtype=torch.bool).scatter(1, top, ~reach.any(2))


def least_overlap(reach: Tensor, k: int) -> Tensor:
    """A lower bound of how many of the k largest stay, (N,): `reach` is that of `rivals`.

    If t of them leave, t others come, and each that comes reaches each that leaves. So there are t
    that leave, each reached by at least t of those that come, and the reverse; the largest t for
    which taking away all that have fewer leaves t of both is an upper bound.
    """
    rows = reach.shape[0]
    overlap = torch.full((rows,), k, dtype=torch.int64, device=reach.device)
    for t in range(1, k + 1):
        remaining = reach
        for _ in range(k + 1):
            leaving = remaining.sum(2) >= t
            coming = (remaining & leaving[..., None]).sum(1) >= t
            remaining = remaining & leaving[..., None] & coming[:, None]
        possible = (remaining.any(2).sum(1) >= t) & (remaining.any(1).sum(1) >= t)
        overlap = torch.where(possible, torch.full_like(overlap, k - t), overlap)
    return overlap


MASSES = ("mass_lower", "mass_upper")
"""Metrics that are sums over entries, of values or absolute values: what propagation can bound as a
whole."""


def mass(bound: Bounder | None, name: str, value: Tensor, mask: Tensor | None) -> Tensor:
    """A bound of sum_i mask_i a_i, by propagation as well.

    Args:
        bound: of functions of what is summed; None if there is none.
        name: one of `MASSES`.
        value: what the box gives, (N,).
        mask: weights, (N, D).

    Raises:
        ValueError: the metric is another one, or nothing more is known than the box.
    """
    if name not in MASSES or mask is None:
        raise ValueError(f"refine='spec' is for the metrics {', '.join(MASSES)}; given: {name!r}. "
                         "Refine the certificate itself for others: certificate.refine('METRIC >= "
                         "NUMBER').")
    if bound is None:
        raise ValueError("Sums of |a| of this attribution are known from the box alone: it is a "
                         "sum over a path or over samples. Leave refine out.")
    lower, upper = bound(mask[:, None])
    return (torch.maximum(value, lower[:, 0])
            if name == "mass_lower" else torch.minimum(value, upper[:, 0]))
