"""Where the mean of a random variable in [0, 1] lies, from independent samples, and how far
Gaussian noise moves it.
"""

import math

import torch
from torch import Tensor

from ..boxes import Box


def mean_interval(mean: Tensor, variance: Tensor, samples: int | Tensor,
                  error: float | Tensor) -> Box:
    """An interval that contains the mean of a variable in [0, 1], except with probability `error`.

    Each side is the better of two inequalities, each given a quarter of the error, a = error / 4:
    with m the samples' mean, V their variance and mu the true mean, P(n kl(m, mu) >= log(1 / a) and
    mu beyond m) <= a, and
    |mu - m| <= sqrt(2 V log(2 / a) / n) + 7 log(2 / a) / (3 (n - 1)) on either side with
    probability at least 1 - a.

    Args:
        mean: m, any shape, float64, from 0 to 1.
        variance: V, with divisor n - 1, of the same shape.
        samples: n, at least 1; a number, or a tensor that broadcasts with the mean.
        error: above 0 and below 1; likewise.

    Returns:
        (lower, upper), of that shape.

    Source:
        Hoeffding, Probability inequalities for sums of bounded random variables, 1963, Theorem 1;
        Maurer and Pontil, Empirical Bernstein bounds and sample variance penalization, 2009,
        Theorem 4.

    Example:
        >>> half = torch.full((1,), 0.5, dtype=torch.float64)
        >>> low, high = mean_interval(half, half / 2, samples=1000, error=0.001)
        >>> round(low.item(), 3), round(high.item(), 3)
        (0.436, 0.564)
        >>> low, high = mean_interval(half, 0 * half, samples=1000, error=0.001)
        >>> round(low.item(), 3), round(high.item(), 3)
        (0.479, 0.521)
    """
    n, share = (torch.as_tensor(number, dtype=mean.dtype, device=mean.device)
                for number in (samples, error / 4))
    box = _chernoff(mean, (1 / share).log() / n)
    logarithm = (2 / share).log()
    by = (2 * variance * logarithm / n).sqrt() + 7 * logarithm / (3 * (n - 1))
    by = torch.where(n > 1, by, math.inf)
    box = box.intersect(Box(mean - by, mean + by))
    return box


def shifted(mean: Tensor, distance: Tensor) -> Tensor:
    """Phi(Phi^-1(mean) + distance): the largest expectation, of a function in [0, 1] under Gaussian
    noise, so far away.

    Args:
        mean: the expectation here, from 0 to 1.
        distance: l2 distance in units of the noise's deviation; negative for the smallest
            expectation.

    Source:
        Salman et al., Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers,
        2019, Lemma 2.

    Example:
        >>> shifted(torch.tensor([0.0, 0.5, 1.0]), torch.tensor(1.0)).tolist()
        [0.0, 0.8413447141647339, 1.0]
    """
    return torch.special.ndtr(torch.special.ndtri(mean) + distance)


def _chernoff(mean: Tensor, limit: Tensor) -> Box:
    """The outermost mu below and above `mean` with kl(mean, mu) <= limit, rounded outward by
    bisection.
    """
    lower, inner_low = torch.zeros_like(mean), mean.clone()
    upper, inner_high = torch.ones_like(mean), mean.clone()
    for _ in range(60):
        middle = (lower + inner_low) / 2
        out = _divergence(mean, middle) > limit
        lower, inner_low = torch.where(out, middle, lower), torch.where(out, inner_low, middle)
        middle = (upper + inner_high) / 2
        out = _divergence(mean, middle) > limit
        upper, inner_high = torch.where(out, middle, upper), torch.where(out, inner_high, middle)
    return Box(lower, upper)


def _divergence(m: Tensor, mu: Tensor) -> Tensor:
    """kl(m, mu) = m log(m / mu) + (1 - m) log((1 - m) / (1 - mu))."""
    return torch.xlogy(m, m) - torch.xlogy(m, mu) + torch.xlogy(1 - m, 1 - m) - torch.xlogy(
        1 - m, 1 - mu)
