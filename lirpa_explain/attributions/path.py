"""Attributions made of gradients along a path from a baseline to the input."""

from typing import Any

import torch
from captum._utils.common import _format_baseline
from captum.attr import IntegratedGradients
from captum.attr._utils.approximation_methods import approximation_parameters
from torch import Tensor

from .plan import Plan, common_fields, register


@register(IntegratedGradients, "(x - b) * sum_k w_k grad f(b + s_k (x - b)); no (x - b) if multiply_by_inputs=False")
def integrated_gradients(attribution: Any, inputs: tuple[Tensor, ...], keywords: dict[str, Any]
                         ) -> Plan:
    """Plan of IntegratedGradients: Captum's own quadrature, rounding included.

    Captum rounds the weights to float32 whatever the type of the input, and its trapezoid weights sum to
    (n_steps - 1) / n_steps; the plan has the same numbers.
    """
    weights, scales = approximation_parameters(keywords.get("method", "gausslegendre"))
    n_steps = keywords.get("n_steps", 50)
    baselines = tuple(
        b.detach().to(x).broadcast_to(len(b), *x.shape[1:]) if isinstance(b, Tensor) else torch.full_like(x[:1], b)
        for b, x in zip(_format_baseline(keywords.get("baselines"), inputs), inputs, strict=True)
    )
    return Plan(**common_fields(inputs, keywords), baselines=baselines,
                scales=torch.tensor(scales(n_steps), dtype=torch.float64),
                weights=torch.tensor(weights(n_steps)).float(), multiply=attribution.multiplies_by_inputs)
