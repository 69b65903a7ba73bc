"""Elementary and special functions of one variable, declared as data: more rows of `functions`."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from .declaration import Differentiable, Formula, declare, line

# Exponential and hyperbolic functions


def expm1() -> Differentiable:
    """`exp(t) - 1`."""
    return declare(Formula(torch.expm1, torch.exp, torch.exp))


def exponential(base: float) -> Differentiable:
    """`base ** t`.

    Raises:
        ValueError: `base` is not positive.
    """
    if not base > 0:
        raise ValueError("A power with a variable exponent is bounded for a base > 0 only, got "
                         f"{base}")
    rate = math.log(base)

    def value(t: Tensor) -> Tensor:
        return torch.pow(base, t)

    return declare(Formula(value, lambda t: rate * value(t), lambda t: rate**2 * value(t)))


def sinh() -> Differentiable:
    """Hyperbolic sine."""
    return declare(Formula(torch.sinh, torch.cosh, torch.sinh, ((), (0.0,), ())))


def cosh() -> Differentiable:
    """Hyperbolic cosine."""
    return declare(Formula(torch.cosh, torch.sinh, torch.cosh, ((0.0,), (), (0.0,))))


# Inverse functions


def atan() -> Differentiable:
    """Arc tangent."""
    third = 1 / math.sqrt(3)
    return declare(Formula(torch.atan, lambda t: (1 + t.square()).reciprocal(),
                           lambda t: -2 * t / (1 + t.square()).square(),
                           ((), (0.0,), (-third, third))))


def asinh() -> Differentiable:
    """Inverse hyperbolic sine."""
    half = math.sqrt(0.5)
    return declare(Formula(torch.asinh, lambda t: (1 + t.square()).rsqrt(),
                           lambda t: -t * (1 + t.square()).pow(-1.5), ((), (0.0,), (-half, half))))


def asin() -> Differentiable:
    """Arc sine; its slope is infinite at -1 and 1."""
    declared = declare(Formula(torch.asin, lambda t: (1 - t.square()).rsqrt(),
                               lambda t: t * (1 - t.square()).pow(-1.5),
                               ((), (0.0,), ())), domain=(-1.0, 1.0))
    return replace(declared, derivative=replace(declared.derivative, poles=(-1.0, 1.0)))


def acosh() -> Differentiable:
    """Inverse hyperbolic cosine; its slope is infinite at 1."""
    declared = declare(Formula(torch.acosh, lambda t: (t.square() - 1).rsqrt(),
                               lambda t: -t * (t.square() - 1).pow(-1.5)), domain=(1.0, math.inf))
    return replace(declared, derivative=replace(declared.derivative, poles=(1.0,)))


def atanh() -> Differentiable:
    """Inverse hyperbolic tangent."""
    return declare(Formula(torch.atanh, lambda t: (1 - t.square()).reciprocal(),
                           lambda t: 2 * t / (1 - t.square()).square(), ((), (0.0,), ())),
                   domain=(-1.0, 1.0), poles=(-1.0, 1.0))


def logit(eps: float | None = None) -> Differentiable:
    """`log(t / (1 - t))`; with `eps`, t is at least `eps` and at most `1 - eps`."""
    formula = Formula(torch.logit, lambda t: (t * (1 - t)).reciprocal(),
                      lambda t: (2 * t - 1) / (t * (1 - t)).square(), ((), (0.5,), ()))
    if eps is None:
        return declare(formula, domain=(0.0, 1.0), poles=(0.0, 1.0))
    low, slope = math.log(eps / (1 - eps)), 1 / (eps * (1 - eps))
    return declare(line(0.0, low), formula, line(0.0, -low), breaks=(eps, 1 - eps),
                   slopes=(slope, slope))


# Bells


def erf(rate: float = 1.0) -> Differentiable:
    """The error function of `sqrt(rate) t`."""
    root, half = math.sqrt(rate), math.sqrt(0.5 / rate)
    far = 1e3 / root  # where its slope is 0 in float64

    def first(t: Tensor) -> Tensor:
        return 2 * root / math.sqrt(math.pi) * torch.exp(-rate * t.square())

    return declare(Formula(lambda t: torch.erf(root * t), first,
                           lambda t: -2 * rate * t.clamp(-far, far) * first(t),
                           ((), (0.0,), (-half, half))))


def gaussian(rate: float = 1.0) -> Differentiable:
    """`exp(-rate t ** 2)`.

    Raises:
        ValueError: `rate` is not positive.
    """
    if not rate > 0:
        raise ValueError(f"A Gaussian is bounded for a rate > 0 only, got {rate}")
    half, third = math.sqrt(0.5 / rate), math.sqrt(1.5 / rate)
    far = 1e3 / math.sqrt(rate)  # where it is 0 in float64

    def value(t: Tensor) -> Tensor:
        return torch.exp(-rate * t.square())

    def second(t: Tensor) -> Tensor:
        t = t.clamp(-far, far)
        return 2 * rate * (2 * rate * t.square() - 1) * value(t)

    return declare(Formula(value, lambda t: -2 * rate * t.clamp(-far, far) * value(t), second,
                           ((0.0,), (-half, half), (-third, 0.0, third))))


def bell(exponent: float, offset: float) -> Differentiable:
    """`(offset + t ** 2) ** exponent` for a positive offset, such as `sqrt(1 + t ** 2)` and `1 / (1
    + t ** 2)`.

    Raises:
        ValueError: `offset` is not positive.
    """
    if not offset > 0:
        raise ValueError("(offset + t ** 2) ** exponent is bounded for an offset > 0 only, got "
                         f"{offset}")
    n, c = exponent, offset
    bends = n < 0.5 and n != 0
    turn, third = (math.sqrt(k * c / (1 - 2 * n)) if bends else 0.0 for k in (1, 3))

    def base(t: Tensor) -> Tensor:
        return c + t.square()

    return declare(Formula(
        lambda t: base(t).pow(n), lambda t: 2 * n * t * base(t).pow(n - 1),
        lambda t: 2 * n * base(t).pow(n - 2) * (c + (2 * n - 1) * t.square()),
        ((0.0,), (-turn, turn) if bends else (), (-third, 0.0, third) if bends else (0.0,))))


def entropy() -> Differentiable:
    """`-t log(t)`, 0 at 0, where its slope is infinite."""
    declared = declare(Formula(torch.special.entr, lambda t: -t.log() - 1,
                               lambda t: -t.reciprocal(),
                               ((math.exp(-1),), (), ())), domain=(0.0, math.inf))
    return replace(declared, derivative=replace(declared.derivative, poles=(0.0,)))


# Tangent


def tangent() -> Differentiable:
    """Tangent between the poles on both sides of 0."""
    def secant2(t: Tensor) -> Tensor:
        return 1 + torch.tan(t).square()

    pole = math.pi / 2
    return declare(Formula(torch.tan, secant2, lambda t: 2 * torch.tan(t) * secant2(t),
                           ((), (0.0,), ())), domain=(-pole, pole), poles=(-pole, pole))
