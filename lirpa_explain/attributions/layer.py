"""Attributions that live on a layer: the perturbation stays on the input."""

from collections.abc import Callable
from typing import Any

import torch
from captum._utils.gradient import _forward_layer_distributed_eval
from captum.attr import (
    GuidedGradCam,
    InternalInfluence,
    LayerActivation,
    LayerAttribution,
    LayerConductance,
    LayerGradCam,
    LayerGradientShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)
from captum.attr._core.layer.layer_gradient_shap import LayerInputBaselineXGradient
from captum.attr._utils.approximation_methods import approximation_parameters
from torch import Tensor

from ..graph.program import Compute, Program, Values, leaves
from .path import baseline_rows, quadrature
from .plan import Plan, common_fields, register
from .rules import hooked_gradient
from .shap import drawn_point, tunnelled

Call = Callable[..., Tensor]
Tensors = tuple[Tensor, ...]


class Layer:
    """One or more layers of a model, as an attribution names them: their input or output is looked
    at.
    """

    def __init__(self, attribution: Any, keywords: dict[str, Any], suffix: str = "layer") -> None:
        self.layers = attribution.layer if isinstance(attribution.layer,
                                                      list) else [attribution.layer]
        self.to_input = bool(keywords.get(f"attribute_to_{suffix}_input", False))
        self.grad_kwargs = keywords.get("grad_kwargs") or {}
        self.key = (tuple(map(id, self.layers)), self.to_input, repr(self.grad_kwargs))

    def evaluate(self, call: Call, inputs: Tensors) -> tuple[Tensor, Tensors]:
        """The model's output, and the activations (B, *T) of the layers."""
        saved, output = _forward_layer_distributed_eval(
            call, inputs, self.layers, attribute_to_layer_input=self.to_input,
            forward_hook_with_return=True, require_layer_grads=True)
        return output, tuple(a for layer in self.layers for tensors in saved[layer].values()
                             for a in tensors)

    def gradients(self, call: Call, inputs: Tensors, cotangent: Tensor) -> tuple[Tensors, Tensors]:
        """Gradients with respect to the activations, and these."""
        output, activations = self.evaluate(call, inputs)
        return torch.autograd.grad(output, activations, cotangent, **self.grad_kwargs), activations

    def replaced(self, call: Call, inputs: Tensors, activations: Tensors) -> Tensor:
        """The model's output if the layers' activations were these."""
        rest = iter(activations)

        def replace(module: Any, given: Any, result: Any = None) -> Any:
            value = given if self.to_input else result
            return tuple(next(rest) for _ in value) if isinstance(value, tuple) else next(rest)

        register = "register_forward_pre_hook" if self.to_input else "register_forward_hook"
        handles = [getattr(layer, register)(replace) for layer in self.layers]
        try:
            return call(*inputs)
        finally:
            for handle in handles:
                handle.remove()

    def program(self, name: str, points: tuple[str, ...], compute: Compute, alpha: bool = False,
                *key: Any) -> Program:
        """A program at this layer."""
        return Program((name, self.key, *key), points, compute, alpha)


def _times(first: Tensors, second: Tensors) -> Tensors:
    return tuple(a * b for a, b in zip(first, second, strict=True))


def _minus(first: Tensors, second: Tensors) -> Tensors:
    return tuple(a - b for a, b in zip(first, second, strict=True))


@register(LayerActivation, "a(x)")
def layer_activation(attribution: LayerActivation, inputs: Tensors,
                     keywords: dict[str, Any]) -> Plan:
    """Plan of LayerActivation, in which there is no gradient at all."""
    layer = Layer(attribution, keywords)

    def compute(call: Call, points: Values, cotangent: Tensor) -> Tensors:
        return layer.evaluate(call, tuple(x.clone() for x in points["input"]))[1]

    return Plan(**common_fields(inputs, keywords),
                program=layer.program("activation", ("input",), compute))


@register(LayerGradientXActivation, "a(x) * grad_a f(x); no a(x) if multiply_by_inputs=False")
def layer_gradient_x_activation(attribution: LayerGradientXActivation, inputs: Tensors,
                                keywords: dict[str, Any]) -> Plan:
    """Plan of LayerGradientXActivation."""
    layer, multiply = Layer(attribution, keywords), attribution.multiplies_by_inputs

    def compute(call: Call, points: Values, cotangent: Tensor) -> Tensors:
        gradients, activations = layer.gradients(call, leaves(points["input"]), cotangent)
        return _times(gradients, activations) if multiply else gradients

    program = layer.program("gradient x activation", ("input",), compute, False, multiply)
    return Plan(**common_fields(inputs, keywords), program=program)


@register(LayerGradCam,
          "sum over channels c of mean(grad_a_c f(x)) * a_c(x); its relu if relu_attributions=True")
def layer_grad_cam(attribution: LayerGradCam, inputs: Tensors, keywords: dict[str, Any]) -> Plan:
    """Plan of LayerGradCam."""
    layer = Layer(attribution, keywords)
    settings = (bool(keywords.get("attr_dim_summation", True)),
                bool(keywords.get("relu_attributions", False)))

    def compute(call: Call, points: Values, cotangent: Tensor) -> Tensors:
        return _grad_cam(layer, call, leaves(points["input"]), cotangent, *settings)

    program = layer.program("grad cam", ("input",), compute, False, settings)
    return Plan(**common_fields(inputs, keywords), program=program)


def _grad_cam(layer: Layer, call: Call, inputs: Tensors, cotangent: Tensor, add: bool,
              relu: bool) -> Tensors:
    gradients, activations = layer.gradients(call, inputs, cotangent)
    weights = tuple(g.mean(tuple(range(2, g.ndim)), keepdim=True) if g.ndim > 2 else g
                    for g in gradients)
    result = tuple(a.sum(1, keepdim=True) if add else a for a in _times(weights, activations))
    return tuple(map(torch.relu, result)) if relu else result


@register(GuidedGradCam, "GuidedBackprop * relu(LayerGradCam) brought to the size of the input")
def guided_grad_cam(attribution: GuidedGradCam, inputs: Tensors, keywords: dict[str, Any]) -> Plan:
    """Plan of GuidedGradCam."""
    layer, mode = Layer(attribution.grad_cam, keywords), keywords.get("interpolate_mode", "nearest")
    guided = hooked_gradient(attribution.guided_backprop)

    def compute(call: Call, points: Values, cotangent: Tensor) -> Tensors:
        cam, = _grad_cam(layer, call, leaves(points["input"]), cotangent, True, True)
        return tuple(g * LayerAttribution.interpolate(cam, tuple(g.shape[2:]), mode)
                     for g in guided.compute(call, points, cotangent))

    program = layer.program("guided grad cam", ("input",), compute, False, mode)
    return Plan(**common_fields(inputs, keywords), program=program)


@register(InternalInfluence, "sum_k w_k grad_a f(b + s_k (x - b))")
def internal_influence(attribution: InternalInfluence, inputs: Tensors,
                       keywords: dict[str, Any]) -> Plan:
    """Plan of InternalInfluence."""
    layer = Layer(attribution, keywords)

    def compute(call: Call, points: Values, cotangent: Tensor) -> Tensors:
        return layer.gradients(call, leaves(points["path"]), cotangent)[0]

    return Plan(**quadrature(inputs, keywords),
                program=layer.program("influence", ("path",), compute))


@register(LayerConductance, "sum_k (a(x_k+1) - a(x_k)) * grad_a f(x_k) with x_k = b + s_k (x - b)")
def layer_conductance(attribution: LayerConductance, inputs: Tensors,
                      keywords: dict[str, Any]) -> Plan:
    """Plan of LayerConductance: differences of activations stand for the weights."""
    layer = Layer(attribution, keywords)
    _, scales = approximation_parameters(keywords.get("method", "gausslegendre"))
    places = torch.tensor(scales(keywords.get("n_steps", 50) + 1), dtype=torch.float64)

    def compute(call: Call, points: Values, cotangent: Tensor) -> Tensors:
        gradients, activations = layer.gradients(call, leaves(points["path"]), cotangent)
        following = layer.evaluate(call, leaves(points["next"]))[1]
        return _times(gradients, _minus(following, activations))

    program = layer.program("conductance", ("path", "next"), compute)
    return Plan(**common_fields(inputs, keywords), baselines=baseline_rows(inputs, keywords),
                scales=places[:-1], next_scales=places[1:], program=program)


@register(LayerIntegratedGradients, "(a(x) - a(b)) * sum_k w_k grad_a f at a(b) + s_k (a(x) - "
          "a(b)); no factor if multiply_by_inputs=False")
def layer_integrated_gradients(attribution: LayerIntegratedGradients, inputs: Tensors,
                               keywords: dict[str, Any]) -> Plan:
    """Plan of LayerIntegratedGradients, whose path is one of activations; what goes past the layer
    sees x.
    """
    layer, multiply = Layer(attribution, keywords), attribution.multiplies_by_inputs

    def compute(call: Call, points: Values, cotangent: Tensor) -> Tensors:
        xs = points["input"]
        start = layer.evaluate(call, points["baseline"])[1]
        steps = _minus(layer.evaluate(call, leaves(xs))[1], start)
        alpha, = points["alpha"]
        at = leaves(tuple(a + alpha.reshape(-1, *[1] * (a.ndim - 1)) * step
                          for a, step in zip(start, steps, strict=True)))
        gradients = torch.autograd.grad(layer.replaced(call, xs, at), at, cotangent,
                                        **layer.grad_kwargs)
        return _times(gradients, steps) if multiply else gradients

    program = layer.program("integrated gradients", ("input", "baseline"), compute, True, multiply)
    return Plan(**quadrature(inputs, keywords), program=program)


@register(LayerInputBaselineXGradient, "(a(x) - a(b)) * grad_a f(b + u (x - b)) for a drawn u")
def layer_input_baseline_x_gradient(attribution: LayerInputBaselineXGradient, inputs: Tensors,
                                    keywords: dict[str, Any]) -> Plan:
    """Plan of LayerInputBaselineXGradient; draws from numpy's random generator as Captum does."""
    layer, multiply = Layer(attribution, keywords), attribution.multiplies_by_inputs

    def compute(call: Call, points: Values, cotangent: Tensor) -> Tensors:
        gradients = layer.gradients(call, leaves(points["path"]), cotangent)[0]
        if not multiply:
            return gradients
        ends = (layer.evaluate(call, leaves(points[name]))[1] for name in ("noisy", "baseline"))
        return _times(gradients, _minus(*ends))

    points = ("path", "noisy", "baseline") if multiply else ("path",)
    program = layer.program("drawn point", points, compute, False, multiply)
    return Plan(**drawn_point(inputs, keywords), program=program)


@register(LayerGradientShap, "mean over drawn u_j, e_j, b_j of (a(x + e_j) - a(b_j)) * grad_a "
          "f(b_j + u_j (x + e_j - b_j))")
def layer_gradient_shap(attribution: LayerGradientShap, inputs: Tensors,
                        keywords: dict[str, Any]) -> Plan:
    """Plan of LayerGradientShap, which is a NoiseTunnel."""
    inner = LayerInputBaselineXGradient(attribution.forward_func, attribution.layer,
                                        attribution.device_ids, attribution.multiplies_by_inputs)
    return tunnelled(inner, inputs, keywords)
