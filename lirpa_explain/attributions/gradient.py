"""Attributions made of one gradient at the input."""

from typing import Any

from captum.attr import InputXGradient, Saliency
from torch import Tensor

from .plan import Plan, common_fields, register


@register(Saliency, "|grad f(x)|, or grad f(x) with abs=False")
def saliency(attribution: Saliency, inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> Plan:
    """Plan of Saliency."""
    return Plan(**common_fields(inputs, keywords), absolute=bool(keywords.get("abs", True)))


@register(InputXGradient, "x * grad f(x)")
def input_x_gradient(attribution: InputXGradient, inputs: tuple[Tensor, ...],
                     keywords: dict[str, Any]) -> Plan:
    """Plan of InputXGradient."""
    return Plan(**common_fields(inputs, keywords), multiply=True)
