"""radius(): how large a ball may be for a property of the explanation to be certified."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .certificates import Certificate
from .certifier import Certifier


@dataclass(frozen=True)
class Radius:
    """The radii between which certification of a property ends, one pair an example.

    Args:
        value: (N,), the largest radius tried at which the property is certified; 0 where it is at none.
        fails: (N,), the smallest radius tried above it at which it is not; inf where it is certified at the largest.
        holds: (N,), bool: whether the property is certified at `value`; False only where it is not even at radius 0.
        inside: the certificate at `value`.
        outside: the certificate at `fails`, or at the largest radius where that is inf.
    """

    value: Tensor
    fails: Tensor
    holds: Tensor
    inside: Certificate
    outside: Certificate


def radius(certifier: Certifier, inputs: Tensor | tuple[Tensor, ...], holds: Callable[[Certificate], Tensor], *,
           high: float, steps: int = 10, **settings: Any) -> Radius:
    """Find the largest eps at which a property is certified, for each example, by bisection.

    After `steps` halvings the radius is known to high / 2^steps. What is certified at `value` is certified there,
    whatever the property; that no larger radius has it is a matter of bounds growing with the ball, which they do but
    for rounding and the choice of relaxations. The radius is one of the bounds and not of the explanation: a tighter
    method may certify a larger one.

    Args:
        certifier: of the attribution.
        inputs: as of `Certifier.certify`: a tensor (N, *S), or a tuple, whose balls all have that radius.
        holds: maps a certificate to a bool tensor (N,), such as `lambda c: c.top_k_overlap(5) == 5`.
        high: the largest radius tried.
        steps: how often the interval is halved.
        **settings: of `Certifier.certify`, such as `norm`, `clip` or `method`, except `eps` and `perturbation`.

    Returns:
        A `Radius`, with the certificates on both sides.

    Raises:
        ValueError: high is not above 0, steps is negative, or the property gives another shape.
        TypeError: the property gives no bool tensor, or a setting that is not free.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> certifier = lx.Certifier(Saliency(model), target=0)
        >>> found = lx.radius(certifier, torch.rand(3, 4), lambda c: c.metric("cosine") > 0.9, high=1.0)
        >>> bool((found.inside.metric("cosine") > 0.9).all()), bool((found.value < found.fails).all())
        (True, True)
    """
    if not (isinstance(high, int | float) and 0 < high < math.inf):
        raise ValueError(f"high is {high!r}; pass a finite number above 0, the largest radius to try.")
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps is {steps!r}; pass an int of at least 0.")
    if taken := {"eps", "perturbation"} & set(settings):
        raise TypeError(f"{', '.join(sorted(taken))} cannot be given: radius() chooses the radius itself.")
    first = inputs[0] if isinstance(inputs, tuple) else inputs

    def certify(eps: Tensor) -> Certificate:
        if not isinstance(inputs, tuple):
            return certifier.certify(inputs, eps=_shaped(eps, inputs), **settings)
        return certifier.certify(inputs, eps=tuple(_shaped(eps, x) for x in inputs), **settings)

    def check(certificate: Certificate) -> Tensor:
        answer = holds(certificate)
        if not isinstance(answer, Tensor) or answer.dtype != torch.bool:
            raise TypeError(f"The property gives {getattr(answer, 'dtype', type(answer).__name__)}; it must map a "
                            "certificate to a bool tensor, one entry an example.")
        if answer.shape != (len(first),):
            raise ValueError(f"The property gives the shape {tuple(answer.shape)}; it must give ({len(first)},).")
        return answer

    inner = torch.zeros(len(first), dtype=first.dtype, device=first.device)
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
    return Radius(value=inner, fails=torch.where(at_high, math.inf, outer), holds=check(inside), inside=inside,
                  outside=certify(outer))


def _shaped(eps: Tensor, x: Tensor) -> Tensor:
    """Radii (N,) so that they broadcast to an input."""
    return eps.to(x).reshape(-1, *(1,) * (x.ndim - 1))
