"""The expected attribution under Gaussian noise, of which a NoiseTunnel's value is the mean of some
samples.

For noise e with deviation sigma in each entry, and an attribution a(x + e) with values in [l, u]
entry by entry,

    p(x) = (E a(x + e) - l) / (u - l)

lies between confidence bounds from n samples, and Phi^-1(p) changes by at most |x' - x|_2 / sigma:
so for all x' with
|x' - x|_2 <= r at once

    l + (u - l) Phi(Phi^-1(p_low) - r / sigma)  <=  E a(x' + e)  <=  l + (u - l) Phi(Phi^-1(p_high)
    + r / sigma).

Where the ball is small, propagation bounds the change more tightly: with l_j <= a(x' + e_j) <= u_j
over the ball, the mean of the l_j, which are independent samples as well, estimates a lower bound
of E a(x' + e) for all x' at once.

The range [l, u] is certified by bound propagation: over all inputs, and over a box that the noise
leaves with probability `LEAVING` at most. Values beyond the second count as its ends in p; what
that neglects is less than that probability times the distance to the ends of the first, and is
added.

Sources: Salman et al., Provably Robust Deep Learning via Adversarially Trained Smoothed
    Classifiers, 2019, Lemma 2
(the change of Phi^-1(p)); Levine, Singla and Feizi, Certifiably Robust Interpretation in Deep
Learning, 2019 (smoothed saliency maps).
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from captum.attr import NoiseTunnel
from torch import Tensor

from ..attributions import Plan
from ..attributions.plan import name_of
from ..boxes import Box
from ..errors import UnsupportedAttribution
from ..operators.bound import flat_rows
from ..rounding import roundings
from .ball import Ball
from .confidence import mean_interval, shifted

PROPAGATED = "gaussian-propagated"

EXPECTATIONS = {
    "gaussian": "the change over the ball is bounded by the smoothing alone",
    PROPAGATED: "it is bounded by propagation at every sample too, as slowly as for the drawn "
    "noise",
}

LEAVING = 1e-8
"""Probability with which the noise may leave the box of the tighter range."""

FAR = {torch.float64: (1e50, 1e100), torch.float32: (1e8, 1e16)}
"""Two radii of a box that stands for all inputs: bounds that differ between them have no limit."""

SATURATED = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Largest such difference, relative to the bounds."""


def check_has_expectation(attribution: Any, plan: Plan, keywords: dict[str, Any]) -> None:
    """Refuse what is not the expectation of something bounded under noise.

    Raises:
        UnsupportedAttribution: the attribution is no mean of bounded samples.
    """
    reason = ""
    if type(attribution) is not NoiseTunnel:
        reason = "only a NoiseTunnel has one"
    elif plan.reduction == "variance":
        reason = "a variance is no mean of samples; take smoothgrad or smoothgrad_sq"
    elif (keywords.get("draw_baseline_from_distrib")
              or plan.scales is not None and plan.scales.ndim > 1):
        reason = "it draws more than Gaussian noise at the inputs"
    elif plan.multiply:
        reason = ("it is multiplied by the noisy input, which is unbounded; take Saliency, or "
                  "IntegratedGradients with multiply_by_inputs=False")
    if reason:
        raise UnsupportedAttribution(f"{name_of(attribution)} has no certified expectation: "
                                     f"{reason}.")


def one_sample(plan: Plan, inputs: tuple[Tensor, ...]) -> Plan:
    """The plan of a single sample of each example, at the input itself."""
    rows = len(plan.points[0])

    def first(value: Any) -> Any:
        return (value[::plan.samples]
                if isinstance(value, Tensor) and value.ndim and len(value) == rows else value)

    return dataclasses.replace(
        plan, points=inputs, samples=1, targets=plan.targets[::plan.samples],
        extras=tuple(map(first, plan.extras)),
        baselines=None if plan.baselines is None else tuple(map(first, plan.baselines)))


def deviations(keywords: dict[str, Any], count: int) -> list[float]:
    """Captum's `stdevs`, one for each input."""
    given = keywords.get("stdevs", 1.0)
    return list(given) if isinstance(given, tuple) else [given] * count


def shift_of(inputs: tuple[Tensor, ...], balls: tuple[Ball | None, ...],
             sigmas: list[float]) -> Tensor:
    """Largest |x' - x|_2 over the ball in units of the noise, (N, 1).

    Raises:
        ValueError: an input moves that has no noise.
    """
    squares = torch.zeros(len(inputs[0]), 1, dtype=torch.float64, device=inputs[0].device)
    for x, ball, sigma in zip(inputs, balls, sigmas, strict=True):
        if ball is None:
            continue
        if ball.radius is None:
            farthest = torch.maximum((x - ball.low).abs(), (ball.high - x).abs())
            radius = flat_rows(farthest).double().norm(dim=1, keepdim=True)
        else:
            radius = ball.radius.double()
        if not sigma and bool((radius > 0).any()):
            raise ValueError("An input is perturbed that has no noise (stdevs is 0 there): only "
                             "noise smooths; hold that input fixed.")
        squares += (radius / (sigma or 1.0)).square()
    return squares.sqrt()


def certified_range(bound: Callable[[tuple[Ball | None, ...], str | None], Box],
                    inputs: tuple[Tensor, ...],
                    balls: tuple[Ball | None, ...], sigmas: list[float]) -> tuple[Box, Box]:
    """Range of a sample over the box that noise leaves with probability `LEAVING`, and over all
    inputs: (N, D) each.

    Args:
        bound: `bound(balls, method)` bounds one sample over balls; method None is the caller's.
        inputs: the examples.
        balls: their perturbations.
        sigmas: deviation of the noise in each input.

    Raises:
        UnsupportedAttribution: a sample is not bounded over all inputs.
    """
    near, far = (bound(tuple(Ball(math.inf, x - radius, x + radius, None, "") if sigma else None
                             for x, sigma in zip(inputs, sigmas, strict=True)), "IBP")
                 for radius in FAR[inputs[0].dtype])
    tolerance = SATURATED[inputs[0].dtype]
    for small, large in zip(near, far, strict=True):
        if (not bool(torch.isfinite(large).all())
                or bool(((large - small).abs() > tolerance * (1 + large.abs())).any())):
            raise UnsupportedAttribution(
                "The attribution is not bounded over all inputs, so no mean of samples says where "
                "its expectation lies: somewhere the model's gradient grows with its input "
                "(products of values, squares, exp), or it cannot be shown not to. Certify the "
                "drawn noise instead: leave expectation out.")
    entries = sum(x[0].numel() for x, sigma in zip(inputs, sigmas, strict=True) if sigma)
    reach = -float(
        torch.special.ndtri(torch.tensor(LEAVING / (2 * max(entries, 1)), dtype=torch.float64)))
    boxes = []
    for x, ball, sigma in zip(inputs, balls, sigmas, strict=True):
        low, high = (x, x) if ball is None else (ball.low, ball.high)
        boxes.append(Ball(math.inf, low - reach * sigma, high + reach * sigma, None, "")
                     if sigma else None)
    return bound(tuple(boxes), None).intersect(far), far


@dataclasses.dataclass(frozen=True)
class Samples:
    """What is kept of the samples, each (N, D).

    Args:
        value: their mean.
        magnitude: the mean of their sizes.
        shares: of the values, of their lower and of their upper bounds over the ball: the mean of
            where they lie in the range, from 0 at its lower end to 1, and the variance of that with
            divisor n - 1.
        within: whether all samples lie in the range over all inputs, ().
    """

    value: Tensor
    magnitude: Tensor
    shares: tuple[tuple[Tensor, Tensor], ...]
    within: Tensor


def summarise(chunks: Iterable[tuple[Tensor, Tensor, Box]], near: Box, far: Box,
              count: int) -> Samples:
    """Moments of the samples.

    Args:
        chunks: example of each sample (B,), its value (B, D) and its bounds, (B, D) each, one after
            the other.
        near: range in which samples are counted, (N, D) each.
        far: range in which they all lie.
        count: samples of each example.

    Returns:
        Their moments, and whether they all lie there.
    """
    within = torch.ones((), dtype=torch.bool, device=near[0].device)
    low, high, floor, ceiling = (side.double() for side in (*near, *far))
    width = high - low
    slack = SATURATED[near[0].dtype] * (1e-30 + Box(floor, ceiling).size.amax(1, keepdim=True))
    value, magnitude = torch.zeros_like(low), torch.zeros_like(low)
    means, squares = ([torch.zeros_like(low) for _ in range(3)] for _ in range(2))
    for example, sample, bounds in chunks:
        exact = sample.double()
        if bool(((exact < (floor - slack)[example]) | (exact > (ceiling + slack)[example])).any()):
            within.fill_(False)
        value.index_add_(0, example, exact / count)
        magnitude.index_add_(0, example, exact.abs() / count)
        for mean, square, part in zip(means, squares, (sample, *bounds), strict=True):
            share = torch.where(width[example] > 0, (part - low[example]) / width[example],
                                0.0).clamp(0, 1)
            mean.index_add_(0, example, share / count)
            square.index_add_(0, example, share.square() / count)
    rounding = roundings(1, torch.float64)
    shares = [(mean.clamp(0, 1),
               (square - mean.square()).clamp(min=0) * (count / max(1, count - 1)) + rounding)
              for mean, square in zip(means, squares, strict=True)]
    return Samples(value, magnitude, tuple(shares), within)


def expectation_bounds(samples: Samples, near: Box, far: Box, count: int, confidence: float,
                       shift: Tensor, propagated: bool) -> Box:
    """Bounds of the expectation at every input of the ball, for all entries of an example at once.

    Args:
        samples: their moments.
        near: range in which they were counted, (N, D) each.
        far: range in which they all lie.
        count: samples of each example.
        confidence: probability, for each example, that all of its bounds hold.
        shift: largest l2 distance in units of the noise, (N, 1).
        propagated: whether the samples' bounds hold over the ball; the error is then shared by both
            ways.

    Returns:
        (lower, upper), each (N, D), of the type of `near`.
    """
    low, high, floor, ceiling = (side.double() for side in (*near, *far))
    error = (1 - confidence) / low.shape[1] / (2 if propagated else 1)
    values, lowers, uppers = samples.shares
    mean = mean_interval(*values, count, error)
    box = Box(
        low + (high - low) * shifted(mean.lower.clamp(0, 1), -shift) - LEAVING * (low - floor),
        low + (high - low) * shifted(mean.upper.clamp(0, 1), shift) + LEAVING * (ceiling - high))
    if propagated:
        below, above = mean_interval(*lowers, count,
                                     error)[0], mean_interval(*uppers, count, error)[1]
        box = box.intersect(Box(low + (high - low) * below - LEAVING * (high - floor),
                                low + (high - low) * above + LEAVING * (ceiling - low)))
    return box.intersect(Box(floor, ceiling)).map(lambda end: end.to(near.lower))
