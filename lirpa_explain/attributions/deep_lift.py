"""DeepLift: gradients in which the slope of each activation is the secant to its value at the
baseline.
"""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from captum._utils.common import ExpansionTypes, _expand_additional_forward_args, _expand_target
from captum.attr import (
    DeepLift,
    DeepLiftShap,
    LayerDeepLift,
    LayerDeepLiftShap,
    NeuronDeepLift,
    NeuronDeepLiftShap,
)
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..errors import UnsupportedAttribution
from ..graph.program import Program, Values, leaves
from ..graph.rescale import MIXING, Rule, rescaled
from ..operators.activations import LAYERS
from ..rounding import TOLERANCE
from .layer import Call, Layer, Tensors
from .neuron import Neuron
from .path import baseline_rows
from .plan import Plan, common_fields, extras_of, register
from .shap import drawn_baselines
from .unseen import warn_of_unseen


@register(DeepLift,
          "(x - b) * grad f(x) in which activations have the slope (s(z) - s(z_b)) / (z - z_b)")
def deep_lift(attribution: DeepLift, inputs: Tensors, keywords: dict[str, Any]) -> Plan:
    """Plan of DeepLift with the rescale rule, and for max pooling and softmax modules the rules for
    one example.
    """
    _refuse_mixed(DeepLift(attribution.model, attribution.multiplies_by_inputs, attribution.eps),
                  inputs, keywords)
    return Plan(**_fields(inputs, keywords), program=_program(attribution),
                multiply=attribution.multiplies_by_inputs)


@register(DeepLiftShap, "mean over baselines b of DeepLift")
def deep_lift_shap(attribution: DeepLiftShap, inputs: Tensors, keywords: dict[str, Any]) -> Plan:
    """Plan of DeepLiftShap: every example with every baseline."""
    return _over_baselines(deep_lift, attribution, inputs, keywords)


@register(LayerDeepLift, "(a(x) - a(b)) * grad_a f(x), slopes as in DeepLift")
def layer_deep_lift(attribution: LayerDeepLift, inputs: Tensors, keywords: dict[str, Any]) -> Plan:
    """Plan of LayerDeepLift."""
    layer, multiply = Layer(attribution, keywords), attribution.multiplies_by_inputs
    _refuse_mixed(LayerDeepLift(attribution.model, attribution.layer, multiply), inputs, keywords)

    def compute(call: Call, points: Values, cotangent: Tensor) -> Tensors:
        with _rescaled(attribution, call, points, layer.to_input):
            gradients, activations = layer.gradients(call, leaves(points["input"]), cotangent)
        if not multiply:
            return gradients
        start = layer.evaluate(call, points["baseline"])[1]
        return tuple(g * (a - b) for g, a, b in zip(gradients, activations, start, strict=True))

    program = layer.program("deep lift", ("input", "baseline"), compute, False, attribution.eps,
                            multiply)
    return Plan(**_fields(inputs, keywords), program=program)


@register(LayerDeepLiftShap, "mean over baselines b of LayerDeepLift")
def layer_deep_lift_shap(attribution: LayerDeepLiftShap, inputs: Tensors,
                         keywords: dict[str, Any]) -> Plan:
    """Plan of LayerDeepLiftShap."""
    return _over_baselines(layer_deep_lift, attribution, inputs, keywords)


@register(NeuronDeepLift, "DeepLift of a_n(x)")
def neuron_deep_lift(attribution: NeuronDeepLift, inputs: Tensors,
                     keywords: dict[str, Any]) -> Plan:
    """Plan of NeuronDeepLift."""
    multiply = attribution.multiplies_by_inputs
    _refuse_mixed(NeuronDeepLift(attribution.forward_func, attribution.layer, multiply), inputs,
                  keywords)
    whole = DeepLift(attribution.forward_func, multiply)
    return Plan(**_fields(inputs, keywords), program=_program(whole), multiply=multiply,
                function=Neuron(attribution, keywords))


@register(NeuronDeepLiftShap, "DeepLiftShap of a_n(x)")
def neuron_deep_lift_shap(attribution: NeuronDeepLiftShap, inputs: Tensors,
                          keywords: dict[str, Any]) -> Plan:
    """Plan of NeuronDeepLiftShap."""
    return _over_baselines(neuron_deep_lift, attribution, inputs, keywords)


def _program(attribution: DeepLift) -> Program:
    """The gradient by the rescale rule."""

    def compute(call: Callable[..., Tensor], points: Values, cotangent: Tensor) -> Tensors:
        zs = leaves(points["input"])
        with _rescaled(attribution, call, points):
            output = call(*zs)
        return torch.autograd.grad(output, zs, cotangent)

    return Program(("deep lift", attribution.eps), ("input", "baseline"), compute)


@contextlib.contextmanager
def _rescaled(attribution: DeepLift, call: Call, points: Values,
              to_layer_input: bool = True) -> Iterator[None]:
    """The model's backward pass by the rescale rule, for one forward pass."""

    def hooks(rule: Rule) -> AbstractContextManager[None]:
        return captum_hooks(attribution, rule, to_layer_input)

    with rescaled(attribution.model, lambda: call(*points["baseline"]), hooks, attribution.eps), \
            warn_of_unseen("DeepLift", tuple(LAYERS)):
        yield


@contextlib.contextmanager
def captum_hooks(attribution: DeepLift, rule: Rule, to_layer_input: bool = True) -> Iterator[None]:
    """Captum's own hooks of DeepLift, with another rule in place of Captum's, which needs the
    baselines in the batch.

    Args:
        attribution: whose hooks.
        rule: called where Captum calls its own.
        to_layer_input: Captum's `attribute_to_layer_input`; if False, a layer that is an activation
            keeps its gradient.
    """
    hooked = copy.copy(attribution)
    hooked.forward_handles, hooked.backward_handles = [], []
    for hook, replacement in {"_forward_pre_hook": _nothing, "_forward_hook": _nothing,
                              "_backward_hook": rule}.items():
        setattr(hooked, hook, replacement)
    try:
        for module in attribution.model.modules():
            hooked._register_hooks(module, to_layer_input)
        yield
    finally:
        hooked._remove_hooks([])


def _nothing(*arguments: Any) -> None:
    """A hook that does nothing."""


def _refuse_mixed(attribution: Any, inputs: Tensors, keywords: dict[str, Any]) -> None:
    """Refuse a batch whose examples Captum mixes.

    For softmax modules it subtracts the mean over the whole batch; for max pooling modules it takes
    the first example's gradient wherever an entry of another one equals its reference.

    Raises:
        UnsupportedAttribution: the attributions of the batch are not those of its examples.
    """
    rows = len(inputs[0])
    model = getattr(attribution, "model", attribution.forward_func)
    mixing = [f"{name} ({type(m).__name__})"
              for name, m in model.named_modules() if type(m) in MIXING]
    if rows == 1 or not mixing:
        return
    given = {k: v for k, v in keywords.items() if k != "return_convergence_delta"}

    def attribute(index: slice) -> list[Tensor]:
        own = {name: _row(value, index, rows) for name, value in given.items()}
        points = tuple(x.detach()[index].requires_grad_(x.is_floating_point()) for x in inputs)
        return tree_leaves(attribution.attribute(points, **own))

    together = attribute(slice(0, rows))
    alone = [torch.cat(parts)
             for parts in zip(*(attribute(slice(i, i + 1)) for i in range(rows)), strict=True)]
    if not all(torch.allclose(a, b, TOLERANCE[a.dtype], float(TOLERANCE[a.dtype] * b.abs().max()))
               for a, b in zip(together, alone, strict=True)):
        raise UnsupportedAttribution(
            f"DeepLift of a batch of {rows} by a model with the modules {', '.join(mixing)}: "
            "Captum's rules for them mix the rows of a batch, of which there is one for each "
            "baseline of each example. Certify one example at a time, with one baseline; or "
            "replace the modules, softmax by explaining the logits.")


def _row(value: Any, index: slice, rows: int) -> Any:
    """The rows of an argument that has as many as there are examples."""
    if isinstance(value, tuple):
        return tuple(_row(part, index, rows) for part in value)
    has_rows = isinstance(value, Tensor) and value.ndim > 0 or isinstance(value, list)
    return value[index] if has_rows and len(value) == rows else value


def _fields(inputs: Tensors, keywords: dict[str, Any]) -> dict[str, Any]:
    if keywords.get("custom_attribution_func") is not None:
        raise UnsupportedAttribution("DeepLift with a custom_attribution_func cannot be certified: "
                                     "the function may be anything. Leave it out.")
    return {**common_fields(inputs, keywords), "baselines": baseline_rows(inputs, keywords)}


def _over_baselines(planner: Callable[[Any, Tensors, dict[str, Any]], Plan], attribution: Any,
                    inputs: Tensors, keywords: dict[str, Any]) -> Plan:
    """The mean of a plan over the rows of the baselines, for each example."""
    given = drawn_baselines(inputs, keywords)
    count, samples = len(inputs[0]), len(given[0])
    rows = ExpansionTypes.repeat_interleave
    expanded = {
        **keywords, "baselines": tuple(b.repeat(count, *[1] * (b.ndim - 1)) for b in given),
        "additional_forward_args": _expand_additional_forward_args(
            extras_of(keywords), samples, expansion_type=rows),
    }
    if "target" in keywords:  # a neuron has none
        expanded["target"] = _expand_target(keywords["target"], samples, expansion_type=rows)
    points = tuple(x.repeat_interleave(samples, 0) for x in inputs)
    return dataclasses.replace(planner(attribution, points, expanded), samples=samples)
