"""Where the expectations of an example's entries lie, all at once, given draws of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..bounding.confidence import mean_interval
from ..boxes import Box
from ..extras import imported
from .settings import GUESSES, MOST_GUESSES, Smoothing
from .tally import Tally

MARGIN = 1e-9
"""By so much, relatively and absolutely, a threshold is raised, lest a rounding decide."""


def need_scipy() -> Any:
    """scipy.special.

    Raises:
        ImportError: it is missing.
    """
    imported("scipy", "smoothed", "smoothed certificates, for quantiles of the beta distribution")
    from scipy import special

    return special


def ends(tally: Tally, levels: int, error: Tensor) -> Box:
    """Bounds of every entry's expectation, each of which is wrong with probability `error` at most.

    Of one level they are Clopper and Pearson's, B^-1(error; k, n - k + 1) and
    B^-1(1 - error; k + 1, n - k) for k of n draws; of several, the better of Hoeffding's
    inequality and the empirical one of Bernstein.

    Args:
        tally: of the draws.
        levels: of the map.
        error: (N, 1), above 0.

    Returns:
        lower and upper, (N, D) each, float64.

    Source:
        Clopper and Pearson, The Use of Confidence or Fiducial Limits, 1934; Maurer and Pontil,
        Empirical Bernstein Bounds and Sample Variance Penalization, 2009.

    Example:
        >>> tally = Tally(torch.tensor([[100, 100, 100]]))  # 100 draws of one entry, all 1
        >>> lower, upper = ends(tally, 1, torch.full((1, 1), 0.001, dtype=torch.float64))
        >>> round(lower.item(), 6) == round(0.001 ** 0.01, 6), upper.item()
        (True, 1.0)
    """
    n = tally.draws[:, None].double()
    if levels > 1:
        box = mean_interval(tally.mean(levels), tally.variance(levels), n.clamp(min=1), 2 * error)
        lower, upper = box.lower.clamp(min=0), box.upper.clamp(max=1)
    else:
        k = tally.sums.double()
        lower = torch.where(k > 0, _beta(k.clamp(min=1), n - k + 1, error, False), 0.0)
        upper = torch.where(k < n, _beta(k + 1, (n - k).clamp(min=1), error, True), 1.0)
    none = n == 0
    return Box(torch.where(none, 0.0, lower), torch.where(none, 1.0, upper))


def _beta(a: Tensor, b: Tensor, error: Tensor, from_above: bool) -> Tensor:
    """The point below, or above, which a beta variable lies with that probability."""
    special = need_scipy()
    a, b, error = torch.broadcast_tensors(a, b, error.double())
    find = special.betainccinv if from_above else special.betaincinv
    return torch.from_numpy(find(a.numpy(), b.numpy(), error.numpy()))


def holm(bound: Callable[[Tensor], Tensor], threshold: float, error: Tensor, entries: int
         ) -> Tensor:
    """Lower bounds of all entries of an example at once, from Holm's test of each against a
    threshold.

    Those for which the test is won have the threshold as their bound; the others the bound that
    each has alone at the error divided by how many they are. All hold together: with T the entries
    not above the threshold, it is enough that those of T hold at the error / |T|, for then none of
    T is ever among those that win.

    Args:
        bound: maps an error (N, 1) to lower bounds (N, D) of which each is wrong with that
            probability.
        threshold: what is tested.
        error: (N, 1), the probability that some bound of an example is wrong.
        entries: D.

    Returns:
        (N, D).

    Source:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979; Strassburger and Bretz,
        Compatible Simultaneous Lower Confidence Bounds for the Holm Procedure, 2008.
    """
    won = torch.zeros(len(error), entries, dtype=torch.bool)
    while True:
        left = (entries - won.sum(1, keepdim=True)).clamp(min=1)
        lower = bound(error / left)
        more = won | (lower > threshold)
        if bool((more == won).all()):
            return torch.where(won, threshold, lower)
        won = more


def expectations(settings: Smoothing, guess: Tally, fresh: Tally, error: Tensor) -> Box:
    """Bounds of every entry's expectation, all of which hold with probability 1 - error at least.

    Without a radius of interest, both ends of each of D entries take error / (2 D). With one, half
    of the error goes to Holm's test of each entry being on the side that the first draws guess,
    by as much as that radius needs, decided by the other draws.

    Args:
        settings: of the map.
        guess: of the first draws.
        fresh: of the others.
        error: (N,), above 0.

    Returns:
        lower and upper, (N, D) each, float64.
    """
    entries, levels = guess.entries, settings.levels
    total, error = guess + fresh, error[:, None].double()
    if settings.radius is None:
        return ends(total, levels, error / (2 * entries))
    box = ends(total, levels, error / (4 * entries))
    important = guess.mean(levels) > 0.5

    def on_its_side(level: Tensor) -> Tensor:
        alone = ends(fresh, levels, level)
        return torch.where(important, alone.lower, 1 - alone.upper)

    least = holm(on_its_side, threshold(settings), error / 2, entries)
    lower = torch.where(important, torch.maximum(box.lower, least), box.lower)
    upper = torch.where(important, box.upper, torch.minimum(box.upper, 1 - least))
    return Box(lower, upper).ordered()


def threshold(settings: Smoothing) -> float:
    """What an entry's expectation must exceed to stay above 1/2 within the radius of interest."""
    distance = (settings.radius or 0.0) / settings.sigma
    return torch.special.ndtr(torch.tensor(distance * (1 + MARGIN) + MARGIN,
                                           dtype=torch.float64)).item()


def samples_needed(settings: Smoothing, entries: int, share: float) -> int:
    """The fewest draws, the guessing ones included, after which something can be decided.

    Args:
        settings: of the map.
        entries: D.
        share: of the error, spent when the draws are looked at.
    """
    parts = 2 * entries
    error = torch.full((1, 1), (1 - settings.confidence) * share / parts, dtype=torch.float64)
    least = threshold(settings)

    def decides(draws: int) -> bool:
        tally = Tally(draws * torch.tensor([[1, settings.levels, settings.levels**2]]))
        return bool(ends(tally, settings.levels, error).lower > least)

    high = 1
    while not decides(high):
        high *= 2
        if high > 2**40:
            return high
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    if settings.radius is None:
        return high
    return high + min(math.ceil(high / (GUESSES - 1)), MOST_GUESSES)


def shift(box: Box, distance: Tensor) -> Box:
    """Bounds of the smoothed map at every point so far away, in units of the noise's deviation.

    Phi(Phi^-1(p) - d) and Phi(Phi^-1(p) + d).

    Args:
        box: bounds of p, (N, D) each.
        distance: d, (N, 1), at least 0.

    Source:
        Cohen, Rosenfeld and Kolter, Certified Adversarial Robustness via Randomized Smoothing,
        2019; Salman et al., Provably Robust Deep Learning via Adversarially Trained Smoothed
        Classifiers, 2019, Lemma 2.
    """
    low, high = scores(box)
    return Box(torch.special.ndtr(low - distance), torch.special.ndtr(high + distance))


def scores(box: Box) -> Box:
    """Phi^-1 of both ends."""
    return box.map(torch.special.ndtri)
