"""Attributions of a neuron: those of the input, for a function that is one neuron of a layer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from captum._utils.common import _verify_select_neuron
from captum.attr import (
    NeuronConductance,
    NeuronDeconvolution,
    NeuronGradient,
    NeuronGradientShap,
    NeuronGuidedBackprop,
    NeuronIntegratedGradients,
)
from torch import Tensor

from ..graph.program import Program, Values, leaves
from .layer import Layer
from .path import integrated_gradients, quadrature
from .plan import Plan, common_fields, register
from .rules import hooked_gradient
from .shap import gradient_shap


class Neuron:
    """A neuron of a layer, or a function of its neurons, as a function of the model's inputs and
    further arguments.
    """

    def __init__(self, attribution: Any, keywords: dict[str, Any]) -> None:
        self.forward = attribution.forward_func
        self.layer = Layer(attribution, keywords, "neuron")
        self.selector = keywords["neuron_selector"]
        self.key = (self.layer.key,
                    id(self.selector) if callable(self.selector) else repr(self.selector))

    def __call__(self, *arguments: Any) -> Tensor:
        """The neuron, (B,)."""
        return self.of(self.layer.evaluate(self.forward, arguments)[1])

    def of(self, activations: tuple[Tensor, ...]) -> Tensor:
        """The neuron among the activations of its layer, (B,)."""
        return _verify_select_neuron(activations, self.selector)


def _of_neuron(plan: Plan, attribution: Any, keywords: dict[str, Any],
               program: Program | None = None) -> Plan:
    return dataclasses.replace(plan, function=Neuron(attribution, keywords), program=program)


@register(NeuronGradient, "grad a_n(x) for a neuron n of a layer")
def neuron_gradient(attribution: NeuronGradient, inputs: tuple[Tensor, ...],
                    keywords: dict[str, Any]) -> Plan:
    """Plan of NeuronGradient."""
    return _of_neuron(Plan(**common_fields(inputs, keywords)), attribution, keywords)


@register(NeuronGuidedBackprop, "GuidedBackprop of a_n(x)")
def neuron_guided_backprop(attribution: NeuronGuidedBackprop, inputs: tuple[Tensor, ...],
                           keywords: dict[str, Any]) -> Plan:
    """Plan of NeuronGuidedBackprop."""
    program = hooked_gradient(attribution.guided_backprop)
    return _of_neuron(Plan(**common_fields(inputs, keywords)), attribution, keywords, program)


@register(NeuronDeconvolution, "Deconvolution of a_n(x)")
def neuron_deconvolution(attribution: NeuronDeconvolution, inputs: tuple[Tensor, ...],
                         keywords: dict[str, Any]) -> Plan:
    """Plan of NeuronDeconvolution."""
    program = hooked_gradient(attribution.deconv)
    return _of_neuron(Plan(**common_fields(inputs, keywords)), attribution, keywords, program)


@register(NeuronIntegratedGradients, "IntegratedGradients of a_n(x)")
def neuron_integrated_gradients(attribution: NeuronIntegratedGradients, inputs: tuple[Tensor, ...],
                                keywords: dict[str, Any]) -> Plan:
    """Plan of NeuronIntegratedGradients."""
    return _of_neuron(integrated_gradients(attribution, inputs, keywords), attribution, keywords)


@register(NeuronGradientShap, "GradientShap of a_n(x)")
def neuron_gradient_shap(attribution: NeuronGradientShap, inputs: tuple[Tensor, ...],
                         keywords: dict[str, Any]) -> Plan:
    """Plan of NeuronGradientShap."""
    return _of_neuron(gradient_shap(attribution, inputs, keywords), attribution, keywords)


@register(NeuronConductance, "(x - b) * sum_k w_k (d f / d a_n) grad a_n at b + s_k (x - b); no (x "
          "- b) if multiply_by_inputs=False")
def neuron_conductance(attribution: NeuronConductance, inputs: tuple[Tensor, ...],
                       keywords: dict[str, Any]) -> Plan:
    """Plan of NeuronConductance, whose default quadrature is the trapezoid."""
    neuron = Neuron(attribution, keywords)

    def compute(call: Callable[..., Tensor], points: Values,
                cotangent: Tensor) -> tuple[Tensor, ...]:
        zs = leaves(points["path"])
        output, activations = neuron.layer.evaluate(call, zs)
        above = torch.autograd.grad(output, activations, cotangent, retain_graph=True,
                                    **neuron.layer.grad_kwargs)
        return torch.autograd.grad(neuron.of(activations), zs, neuron.of(above))

    program = Program(("neuron conductance", neuron.key), ("path",), compute)
    return Plan(**quadrature(inputs, keywords, "riemann_trapezoid"), program=program,
                multiply=attribution.multiplies_by_inputs)
