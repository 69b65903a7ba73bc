"""Attributions made of gradients along a path from a baseline to the input."""

from typing import Any

import torch
from captum._utils.common import _format_baseline
from captum.attr import IntegratedGradients
from captum.attr._utils.approximation_methods import approximation_parameters
from torch import Tensor

from .plan import Plan, common_fields, register
from .unseen import warn_of_trapezoid


@register(IntegratedGradients,
          "(x - b) * sum_k w_k grad f(b + s_k (x - b)); no (x - b) if multiply_by_inputs=False")
def integrated_gradients(attribution: Any, inputs: tuple[Tensor, ...], keywords: dict[str, Any]
                         ) -> Plan:
    """Plan of IntegratedGradients."""
    return Plan(**quadrature(inputs, keywords), multiply=attribution.multiplies_by_inputs)


def quadrature(inputs: tuple[Tensor, ...], keywords: dict[str, Any],
               method: str = "gausslegendre") -> dict[str, Any]:
    """The fields of a plan that sums along a path: Captum's own quadrature, rounding included.

    Captum rounds the weights to float32 whatever the type of the input, and its trapezoid weights
    sum to (n_steps - 1) / n_steps; the plan has the same numbers.

    Args:
        inputs: the examples.
        keywords: keywords of `attribute`, of which `n_steps`, `method` and `baselines` are read.
        method: the class's default for `method`.
    """
    method, n_steps = keywords.get("method", method), keywords.get("n_steps", 50)
    weights, scales = approximation_parameters(method)
    if method == "riemann_trapezoid":
        warn_of_trapezoid(n_steps)
    return {**common_fields(inputs, keywords), "baselines": baseline_rows(inputs, keywords),
            "scales": torch.tensor(scales(n_steps), dtype=torch.float64),
            "weights": torch.tensor(weights(n_steps)).float()}


def baseline_rows(inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> tuple[Tensor, ...]:
    """Captum's `baselines` as one tensor (N, *S) or (1, *S) for each input."""
    return tuple(
        b.detach().to(x).broadcast_to(len(b), *x.shape[1:])
        if isinstance(b, Tensor) else torch.full_like(x[:1], b)
        for b, x in zip(_format_baseline(keywords.get("baselines"), inputs), inputs, strict=True))
