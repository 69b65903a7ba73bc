"""Layer-wise relevance propagation by Captum's epsilon rule."""

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import LRP, LayerLRP
from torch import Tensor

from ..graph.program import Program, Values, leaves
from ..graph.relevance import Place, relevance
from .layer import Layer
from .plan import Plan, common_fields, register


@register(LRP, "x * grad f(x) in which activations have the slope s(z) / (z + e sign(z)): the "
          "epsilon rule")
def lrp(attribution: LRP, inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> Plan:
    """Plan of LRP with EpsilonRule, its default."""

    def compute(call: Callable[..., Tensor], points: Values,
                cotangent: Tensor) -> tuple[Tensor, ...]:
        zs = leaves(points["input"])
        with relevance(attribution.model):
            output = call(*zs)
        return torch.autograd.grad(output, zs, cotangent)

    return Plan(**common_fields(inputs, keywords),
                program=Program(("relevance",), ("input",), compute))


@register(LayerLRP, "a(x) * grad_a f(x) at a layer, by the epsilon rule of LRP")
def layer_lrp(attribution: LayerLRP, inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> Plan:
    """Plan of LayerLRP at one or more layers, each of which has a rule."""
    layer = Layer(attribution, keywords)

    def compute(call: Callable[..., Tensor], points: Values,
                cotangent: Tensor) -> tuple[Tensor, ...]:
        found = []
        for module in layer.layers:
            place, zs = Place(module, layer.to_input), leaves(points["input"])
            with relevance(attribution.model, place):
                output = call(*zs)
            found.append(place.relevance(output, cotangent))
        return tuple(found)

    return Plan(**common_fields(inputs, keywords),
                program=layer.program("layer relevance", ("input",), compute))
