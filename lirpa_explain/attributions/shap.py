"""Gradients at random points between baselines and noisy inputs: GradientShap and what it is made
of.
"""

from typing import Any

import numpy as np
import torch
from captum.attr import GradientShap, NoiseTunnel
from captum.attr._core.gradient_shap import InputBaselineXGradient
from captum.attr._utils.common import _format_callable_baseline
from torch import Tensor

from .noise import noise_tunnel
from .path import baseline_rows
from .plan import Plan, common_fields, register

FORMULA = "mean over drawn u_j, e_j, b_j of (x + e_j - b_j) * grad f(b_j + u_j (x + e_j - b_j))"


@register(InputBaselineXGradient, "(x - b) * grad f(b + u (x - b)) for a drawn u")
def input_baseline_x_gradient(attribution: InputBaselineXGradient, inputs: tuple[Tensor, ...],
                              keywords: dict[str, Any]) -> Plan:
    """Plan of InputBaselineXGradient; draws from numpy's random generator as Captum does."""
    return Plan(**drawn_point(inputs, keywords), multiply=attribution.multiplies_by_inputs)


@register(GradientShap, FORMULA)
def gradient_shap(attribution: GradientShap, inputs: tuple[Tensor, ...],
                  keywords: dict[str, Any]) -> Plan:
    """Plan of GradientShap, which is a NoiseTunnel."""
    inner = InputBaselineXGradient(attribution.forward_func, attribution.multiplies_by_inputs)
    return tunnelled(inner, inputs, keywords)


def drawn_point(inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> dict[str, Any]:
    """The fields of a plan whose path is one drawn point for each sample."""
    coefficients = np.random.uniform(0.0, 1.0, inputs[0].shape[0])
    return {**common_fields(inputs, keywords), "baselines": baseline_rows(inputs, keywords),
            "scales": torch.tensor(coefficients, dtype=inputs[0].dtype)[:, None]}


def drawn_baselines(inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> tuple[Tensor, ...]:
    """Captum's `baselines` to draw from, each (M, *S), given as tensors or as a function, perhaps
    of the inputs.
    """
    return _format_callable_baseline(keywords["baselines"],
                                     inputs if len(inputs) > 1 else inputs[0])


def tunnelled(inner: Any, inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> Plan:
    """Plan of an attribution at drawn points, each sample with a baseline drawn from those
    given.
    """
    baselines = drawn_baselines(inputs, keywords)
    shared = "target", "additional_forward_args", "attribute_to_layer_input"
    passed: dict[str, Any] = {name: keywords[name] for name in shared if name in keywords}
    return noise_tunnel(NoiseTunnel(inner), inputs, {
        **passed, "nt_type": "smoothgrad", "nt_samples": keywords.get("n_samples", 5),
        "stdevs": keywords.get("stdevs", 0.0), "draw_baseline_from_distrib": True,
        "baselines": baselines})
