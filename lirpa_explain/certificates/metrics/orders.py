"""What becomes of the order of the features: pairs, ranks and rank correlations.

Ranked are absolute values unless absolute=False. Infinite bounds are bounds like others here. Where
the nominal value lies outside the bounds, as Captum's sum may lie outside those of an integral, the
box is widened to hold it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lirpa_explain.boxes import Box
from lirpa_explain.certificates import ranking
from lirpa_explain.certificates.box import absolute_box
from lirpa_explain.certificates.metrics.registry import Metric, register
from lirpa_explain.certificates.metrics.surrogates import disorder, margin, ranked


def rank_intervals(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The ranks that each feature can have, the largest having rank 1, however ties are broken;
    exact.

    Args:
        lower: (N, D).
        upper: (N, D), upper >= lower.

    Returns:
        (best, worst), (N, D) each, int64, from 1 to D.

    Example:
        >>> best, worst = rank_intervals(torch.tensor([[5.0, 2.0, 0.0]]),
        ...                              torch.tensor([[6.0, 4.0, 3.0]]))
        >>> best.tolist(), worst.tolist()
        ([[1, 2, 2]], [[1, 3, 3]])
    """
    features = lower.shape[1]
    best = 1 + features - _count(lower, upper, including=True)
    # The feature itself has upper >= lower, hence no 1 + here.
    worst = features - _count(upper, lower, including=False)
    return best, worst


def certain_pairs(lower: Tensor, upper: Tensor) -> Tensor:
    """Which pairs keep their order: whether a_i > a_j at every point of the box; exact.

    Args:
        lower: (N, D).
        upper: (N, D), upper >= lower.

    Returns:
        (N, D, D), bool, [n, i, j] for a_i > a_j; it takes D^2 bytes an example.

    Example:
        >>> certain_pairs(torch.tensor([[5.0, 2.0]]), torch.tensor([[6.0, 4.0]])).tolist()
        [[[False, True], [False, False]]]
    """
    return lower[:, :, None] > upper[:, None, :]


def pair_order(lower: Tensor, upper: Tensor, nominal: Tensor, absolute: bool = True) -> Tensor:
    """Share of pairs i < j that the attribution orders strictly, as v does: a lower bound, from 0
    to 1.

    Each pair is decided alone; 1 with one feature, which has no pairs.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.
        absolute: whether to rank absolute values.

    Returns:
        (N,).

    Source:
        Kendall, A New Measure of Rank Correlation, 1938.

    Example:
        >>> v = torch.tensor([[5.0, 3.0, 2.0]])
        >>> pair_order(torch.tensor([[5.0, 2.0, 0.0]]), torch.tensor([[6.0, 4.0, 3.0]]), v)
        tensor([0.6667])
    """
    low, high, _ = _ranked(lower, upper, nominal, absolute)
    return _share(_count(high, low, including=False).sum(1), low).to(nominal)


def kendall(lower: Tensor, upper: Tensor, nominal: Tensor, absolute: bool = True) -> Tensor:
    """Kendall's tau-a with the nominal attribution: a lower bound, from -1 to 1.

    tau = sum over pairs i < j of sign(a_i - a_j) sign(v_i - v_j), divided by their number; each
    pair takes its smallest term: certainly concordant pairs count 1, certain ties 0, and the rest
    of those that v orders -1. tau-a and tau-b are the same where there are no ties. 1 with one
    feature.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.
        absolute: whether to rank absolute values.

    Returns:
        (N,).

    Source:
        Kendall, A New Measure of Rank Correlation, 1938.

    Example:
        >>> kendall(torch.tensor([[5.0, 2.0, 0.0]]), torch.tensor([[6.0, 4.0, 3.0]]),
        ...         torch.tensor([[5.0, 3.0, 2.0]]))
        tensor([0.3333])
    """
    low, high, v = _ranked(lower, upper, nominal, absolute)
    concordant = _count(high, low, including=False).sum(1)
    touching = _ties(low, high)
    # Of the pairs whose intervals touch in a point, those that v ties too; each feature of width 0
    # ties with itself.
    tied = _ties(torch.where(low == v, v, -math.inf), torch.where(high == v, v, math.inf))
    ordered = (v.shape[1] ** 2 - _ties(v, v)) // 2
    return _share(concordant - (ordered - concordant - (touching - tied)), low).to(nominal)


def spearman(lower: Tensor, upper: Tensor, nominal: Tensor, absolute: bool = True) -> Tensor:
    """Spearman's rho with the nominal attribution: a lower bound, from -1 to 1.

    rho = 1 - 6 sum_i (r_i(a) - r_i(v))^2 / (D (D^2 - 1)) with mid-ranks r, which is the correlation
    of the ranks where there are no ties. From the interval of mid-ranks that each feature can have:
    the sum of squares is at most the sum of the largest, and at most K + sum r(v)^2 - 2 min <r(a),
    r(v)> where ranks sum to what they must, K being the sum of the squares of 1..D. 1 with one
    feature.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.
        absolute: whether to rank absolute values.

    Returns:
        (N,).

    Source:
        Spearman, The Proof and Measurement of Association between Two Things, 1904.

    Example:
        >>> spearman(torch.tensor([[5.0, 2.0, 0.0]]), torch.tensor([[6.0, 4.0, 3.0]]),
        ...          torch.tensor([[5.0, 3.0, 2.0]]))
        tensor([0.5000])
    """
    low, high, v = _ranked(lower, upper, nominal, absolute)
    size = v.shape[1]
    if size == 1:
        return torch.ones_like(nominal[:, 0])
    best, worst = mid_ranks(low, high)
    at, _ = mid_ranks(v, v)
    squares = torch.maximum(at - best, worst - at).square().sum(1)
    order = at.argsort(dim=1)
    room = (worst - best).gather(1, order)
    left = size * (size + 1) / 2 - best.sum(1, keepdim=True) - (room.cumsum(1) - room)
    given = torch.minimum(left.clamp(min=0), room)  # the ranks that remain go to the smallest r(v)
    product = (at * best).sum(1) + (at.gather(1, order) * given).sum(1)
    longest = size * (size + 1) * (2 * size + 1) / 6 + at.square().sum(1) - 2 * product
    return (1 - 6 * torch.minimum(squares, longest) / (size * (size**2 - 1))).clamp(min=-1).to(
        nominal)


def top_k_overlap(lower: Tensor, upper: Tensor, nominal: Tensor, k: int,
                  absolute: bool = True) -> Tensor:
    """How many of the nominal's k largest features stay among the k largest: a lower bound, exact,
    from 0 to k.

    Over all points of the box and all ways of breaking ties; `Certificate.top_k_overlap` is the
    same.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.
        k: from 1 to D.
        absolute: whether to rank absolute values.

    Returns:
        (N,), int64.

    Raises:
        ValueError: k is out of range.
        TypeError: k is not an int.

    Source:
        Ghorbani et al., Interpretation of Neural Networks is Fragile, 2019.

    Example:
        >>> top_k_overlap(torch.tensor([[4.0, 2.0, 1.0]]), torch.tensor([[6.0, 4.0, 3.0]]),
        ...               torch.tensor([[5.0, 3.0, 2.0]]), k=2)
        tensor([1])
    """
    ranking.check_k(k, nominal.shape[1])
    low, high, v = _ranked(lower, upper, nominal, absolute)
    return ranking.top_k_overlap(low, high, v, k)


def _ranked(lower: Tensor, upper: Tensor, nominal: Tensor,
            absolute: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What is ranked: the box, made to hold the nominal, and the nominal."""
    lower, upper = Box(lower, upper).hull(Box.point(nominal))
    return (*absolute_box(lower, upper), nominal.abs()) if absolute else (lower, upper, nominal)


def _count(values: Tensor, thresholds: Tensor, including: bool) -> Tensor:
    """How many of the values of a row are below each threshold, or not above it, (N, D)."""
    return torch.searchsorted(values.detach().sort(1).values, thresholds.detach().contiguous(),
                              right=including)


def _ties(one: Tensor, other: Tensor) -> Tensor:
    """The number of pairs (i, j), i = j too, with one_i == other_j, (N,)."""
    return (_count(other, one, including=True) - _count(other, one, including=False)).sum(1)


def mid_ranks(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest mid-rank of each feature, float64: larger features count 1, equal ones
    1/2.
    """
    size, fixed = lower.shape[1], (lower == upper).double()

    def rank(mine: Tensor, others: Tensor, self_counts: Tensor) -> Tensor:
        below, not_above = (_count(others, mine, including=False),
                            _count(others, mine, including=True))
        return 1 + (size - not_above) + (not_above - below) / 2 - self_counts

    return rank(upper, lower, fixed / 2), rank(lower, upper, 1 - fixed / 2)


def _share(count: Tensor, like: Tensor) -> Tensor:
    pairs = like.shape[1] * (like.shape[1] - 1) // 2
    return count.double() / pairs if pairs else torch.ones_like(count, dtype=torch.float64)


# At a point. Bounds of ranks are of boxes made to hold the nominal too, and so are more than these.


def _pairs(a: Tensor, nominal: Tensor, count: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over pairs of a function of sign(a_i - a_j) sign(v_i - v_j); a row at a time takes 8 D^2
    bytes.
    """
    size = a.shape[1]
    if size == 1:
        return torch.ones_like(a[:, 0])
    rows = [count((one[:, None] - one).sign() * (v[:, None] - v).sign())
            for one, v in zip(a, nominal, strict=True)]
    return torch.stack(rows).to(a) / (size * (size - 1))


def _kendall_at(a: Tensor, nominal: Tensor, absolute: bool = True) -> Tensor:
    return _pairs(*ranked(a, nominal, absolute), torch.sum)


def _pair_order_at(a: Tensor, nominal: Tensor, absolute: bool = True) -> Tensor:
    return _pairs(*ranked(a, nominal, absolute), lambda products: (products > 0).sum())


def _spearman_at(a: Tensor, nominal: Tensor, absolute: bool = True) -> Tensor:
    ranks, reference = (mid_ranks(scores, scores)[0] for scores in ranked(a, nominal, absolute))
    size = a.shape[1]
    return (1 - 6 * (ranks - reference).square().sum(1) / max(1, size * (size**2 - 1))).to(a)


def _top_k_overlap_at(a: Tensor, nominal: Tensor, k: int, absolute: bool = True) -> Tensor:
    ranking.check_k(k, a.shape[1])
    scores, reference = ranked(a, nominal, absolute)
    return ranking.top_k_overlap(scores, scores, reference, k).to(a)


register(Metric("top_k_overlap", top_k_overlap, "lower", True, "0 to k", "features of v's top k in "
                "a's top k", "Ghorbani et al. 2019",
                worst=0, takes_infinite=True, at=_top_k_overlap_at, surrogate=margin))
register(Metric("pair_order", pair_order, "lower", False, "[0, 1]", "share of pairs i < j that a "
                "orders as v does", "Kendall 1938", worst=0, takes_infinite=True, at=_pair_order_at,
                surrogate=disorder))
register(Metric("kendall", kendall, "lower", False, "[-1, 1]", "mean over i < j of sign(a_i - a_j) "
                "sign(v_i - v_j)", "Kendall 1938, tau-a",
                worst=-1, takes_infinite=True, at=_kendall_at, surrogate=disorder))
register(Metric("spearman", spearman, "lower", False, "[-1, 1]", "1 - 6 sum (rank_i(a) - "
                "rank_i(v))^2 / (D (D^2 - 1)), mid-ranks", "Spearman 1904", worst=-1,
                takes_infinite=True, at=_spearman_at, surrogate=disorder))
