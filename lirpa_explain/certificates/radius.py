"""Bisection on the radius of a ball, between a certificate that has a property and one that has
not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Property = Callable[[Any], Tensor]
"""Maps a `Certificate` to whether it has the property, (N,), bool."""


@dataclass(frozen=True)
class Radius:
    """The radii between which certification of a property ends, one pair an example.

    Args:
        value: (N,), the largest radius tried at which the property is certified; 0 where it is at
            none.
        fails: (N,), the smallest radius tried above it at which it is not; inf where it is
            certified at the largest.
        holds: (N,), bool: whether the property is certified at `value`; False only where it is not
            even at radius 0.
        inside: the certificate at `value`.
        outside: the certificate at `fails`, or at the largest radius where that is inf.
    """

    value: Tensor
    fails: Tensor
    holds: Tensor
    inside: Any
    outside: Any


def bisect(certify: Callable[[Tensor], Any], like: Tensor, holds: Property, high: float,
           steps: int) -> Radius:
    """Find the largest radius at which a property is certified, for each example.

    Args:
        certify: maps radii (N,) to a certificate.
        like: (N, *S), of the type of the radii.
        holds: maps a certificate to a bool tensor (N,).
        high: the largest radius tried.
        steps: how often the interval is halved.

    Raises:
        ValueError: high is not above 0, steps is negative, or the property gives another shape.
        TypeError: the property gives no bool tensor.
    """
    if not (isinstance(high, int | float) and 0 < high < math.inf):
        raise ValueError(f"high is {high!r}; pass a finite number above 0, the largest radius to "
                         "try.")
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps is {steps!r}; pass an int of at least 0.")
    count = len(like)

    def check(certificate: Any) -> Tensor:
        answer = holds(certificate)
        if not isinstance(answer, Tensor) or answer.dtype != torch.bool:
            raise TypeError("The property gives "
                            f"{getattr(answer, 'dtype', type(answer).__name__)}; it must map a "
                            "certificate to a bool tensor, one entry an example.")
        if answer.shape != (count,):
            raise ValueError(f"The property gives the shape {tuple(answer.shape)}; it must give "
                             f"({count},).")
        return answer

    inner = torch.zeros(count, dtype=like.dtype, device=like.device)
    outer = torch.full_like(inner, high)
    at_zero, at_high = check(certify(inner)), check(certify(outer))
    at_high = at_high & at_zero
    for _ in range(steps):
        middle = (inner + outer) / 2
        certified = check(certify(middle))
        inner, outer = torch.where(certified, middle, inner), torch.where(certified, outer, middle)
    inner = torch.where(at_high, high, torch.where(at_zero, inner, 0.0))
    outer = torch.where(at_high, high, torch.where(at_zero, outer, 0.0))
    inside = certify(inner)
    return Radius(value=inner, fails=torch.where(at_high, math.inf, outer), holds=check(inside),
                  inside=inside, outside=certify(outer))


def broadcastable(eps: Tensor, x: Tensor) -> Tensor:
    """Radii (N,) so that they broadcast to an input (N, *S)."""
    return eps.to(x).reshape(-1, *(1,) * (x.ndim - 1))
