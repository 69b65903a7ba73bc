"""Attributions that mask features and look at the output: which masks Captum makes is found by
running it.

The masks depend on shapes and settings alone, so Captum's own class is run on inputs of ones with
baselines of zeros, and a function that notes what it is called with: these are the masks.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from captum._utils.common import _format_baseline
from captum.attr import (
    FeatureAblation,
    LayerFeatureAblation,
    NeuronFeatureAblation,
    Occlusion,
    ShapleyValues,
    ShapleyValueSampling,
)
from torch import Tensor

from ..errors import in_the_name_of
from .combination import Combination, Masked, combined, distinct
from .layer import Layer
from .neuron import Neuron
from .plan import Plan, extras_of, register

Tensors = tuple[Tensor, ...]

IGNORED = ("inputs", "baselines", "target", "additional_forward_args", "perturbations_per_eval",
           "show_progress")
"""Keywords on which the masks do not depend."""

IN_ORDER: tuple[Any, ...] = (FeatureAblation, Occlusion)
"""Classes whose masks come in the same order however many are evaluated at once."""

AT_ONCE = 64
"""Masks that are recorded at once, of these."""


class Recorder:
    """A function that notes its inputs, side by side, and returns a number for each example."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Zeros, (N,)."""
        self.seen.append(torch.cat([x.detach().reshape(len(x), -1) for x in inputs], 1))
        return inputs[0].new_zeros(len(inputs[0]))

    def rows(self, count: int) -> Tensor:
        """What the calls were given of each of N examples, (N, J, D); a call may have had several
        copies of all.
        """
        return torch.stack([part for seen in self.seen for part in seen.split(count)], 1)


def recorded(kind: Callable[[Any], Any], tensors: Tensors, keywords: dict[str, Any]) -> Tensor:
    """The masks (N, J, D) that an attribution of a class makes of tensors (N, *T)."""
    recorder, ones = Recorder(), tuple(torch.ones_like(x) for x in tensors)
    settings = {name: value for name, value in keywords.items() if name not in IGNORED}
    settings |= {"perturbations_per_eval": AT_ONCE} if kind in IN_ORDER else {}
    many = len(ones) > 1 or isinstance(settings.get("feature_mask"), tuple) or isinstance(
        settings.get("strides"), tuple) and isinstance(settings["strides"][0], tuple) or any(
            isinstance(part, tuple) for part in settings.get("sliding_window_shapes", ()))
    name = getattr(kind, "__name__", "attribution")
    with in_the_name_of(f"Captum's {name}.attribute rejects these arguments"):
        kind(recorder).attribute(ones if many else ones[0], **settings)
    return recorder.rows(len(tensors[0]))


def baselines_of(tensors: Tensors, given: Any) -> Tensors:
    """Captum's `baselines` as one tensor (N, *T) for each that is masked."""
    return tuple((b.detach().to(x)
                  if isinstance(b, Tensor) else torch.full_like(x[:1], b)).broadcast_to(x.shape)
                 for b, x in zip(_format_baseline(given, tensors), tensors, strict=True))


def ablated(masks: Tensor, averaged: bool) -> tuple[Tensor, Tensor]:
    """Weights of sum_j a_j (f(x) - f(x without j)), a_j 1 where window j ablates; averaged over the
    windows.

    Args:
        masks: (N, J, D), the first of them of ones.
        averaged: whether each entry's sum is divided by the number of its windows.
    """
    away = (1 - masks).transpose(1, 2)
    weights = -away
    weights[:, :, 0] += away.sum(2)
    if averaged:
        weights = weights / away.sum(2, keepdim=True).clamp(min=1)
    return distinct(shared(weights))


def shared(rows: Tensor) -> Tensor:
    """What is the same for all examples, once."""
    return rows[:1] if bool((rows == rows[:1]).all()) else rows


@register(FeatureAblation, "f(x) - f(x with the feature's entries replaced by b)")
def feature_ablation(attribution: FeatureAblation, inputs: Tensors,
                     keywords: dict[str, Any]) -> Plan:
    """Plan of FeatureAblation."""
    function = Masked(attribution.forward_func, len(inputs), len(inputs))
    masks = recorded(FeatureAblation, inputs, keywords)
    return _ablation(function, inputs, inputs, masks, keywords.get("baselines"), keywords)


@register(Occlusion, "mean over the windows that hold an entry of f(x) - f(x with the window's "
          "entries replaced by b)")
def occlusion(attribution: Occlusion, inputs: Tensors, keywords: dict[str, Any]) -> Plan:
    """Plan of Occlusion, whose result Captum rounds to float32."""
    function = Masked(attribution.forward_func, len(inputs), len(inputs))
    masks = recorded(Occlusion, inputs, keywords)
    return _ablation(function, inputs, inputs, masks, keywords.get("baselines"), keywords,
                     averaged=True)


@register(NeuronFeatureAblation, "FeatureAblation of a_n(x)")
def neuron_feature_ablation(attribution: NeuronFeatureAblation, inputs: Tensors,
                            keywords: dict[str, Any]) -> Plan:
    """Plan of NeuronFeatureAblation."""
    neuron = Neuron(attribution, keywords)
    function = Masked(neuron, len(inputs), len(inputs), key=neuron.key)
    masks = recorded(FeatureAblation, inputs, {"feature_mask": keywords.get("feature_mask")})
    known = {name: value for name, value in keywords.items() if name != "target"}
    return _ablation(function, inputs, inputs, masks, keywords.get("baselines"), known)


@register(LayerFeatureAblation, "f(x) - f(x with the feature's entries of a(x) replaced by b)")
def layer_feature_ablation(attribution: LayerFeatureAblation, inputs: Tensors,
                           keywords: dict[str, Any]) -> Plan:
    """Plan of LayerFeatureAblation: what goes past the layer sees x."""
    layer = Layer(attribution, keywords)
    given = *(x.clone() for x in inputs), *extras_of(keywords)  # models write into inputs
    with torch.no_grad():
        at = tuple(a.detach() for a in layer.evaluate(attribution.forward_func, given)[1])
    function = Masked(attribution.forward_func, len(inputs), len(at), layer)
    masks = recorded(FeatureAblation, at, {"feature_mask": keywords.get("layer_mask")})
    return _ablation(function, inputs, at, masks, keywords.get("layer_baselines"), keywords)


def _ablation(function: Masked, inputs: Tensors, tensors: Tensors, masks: Tensor, baselines: Any,
              keywords: dict[str, Any], averaged: bool = False) -> Plan:
    weights, index = ablated(masks, averaged)
    windows = masks.shape[1] if averaged else 1
    combination = Combination(weights, index, torch.float32 if averaged else inputs[0].dtype,
                              windows + 3)
    return combined(inputs, keywords, function, shared(masks), baselines_of(tensors, baselines),
                    combination)


def marginal(masks: Tensor, permutations: int) -> tuple[Tensor, Tensor]:
    """Weights of the mean over permutations of f(with a feature) - f(before it came).

    Args:
        masks: (N, 1 + permutations * F, D): no feature, then those of each permutation as they
            come.
        permutations: how many there are.
    """
    count, total, size = masks.shape
    features = (total - 1) // permutations
    weights = masks.new_zeros(count, size, total)
    for j in range(1, total):
        before = j - 1 if (j - 1) % features else 0
        came = masks[:, j] - masks[:, before]
        weights[:, :, j] += came
        weights[:, :, before] -= came
    return distinct(shared(weights / permutations))


def _shapley(attribution: Any, kind: type[Any], inputs: Tensors, keywords: dict[str, Any],
             permutations: Callable[[int], int]) -> Plan:
    masks = recorded(kind, inputs, keywords)
    count = permutations(masks.shape[1] - 1)
    weights, index = marginal(masks, count)
    combination = Combination(weights, index, torch.float32, count + 3)
    function = Masked(attribution.forward_func, len(inputs), len(inputs))
    return combined(inputs, keywords, function, shared(masks),
                    baselines_of(inputs, keywords.get("baselines")), combination)


@register(ShapleyValueSampling,
          "mean over drawn permutations of f(with a feature) - f(before it came), others being b")
def shapley_value_sampling(attribution: ShapleyValueSampling, inputs: Tensors,
                           keywords: dict[str, Any]) -> Plan:
    """Plan of ShapleyValueSampling; draws permutations from torch's generator as Captum does."""
    return _shapley(attribution, ShapleyValueSampling, inputs, keywords,
                    lambda _: keywords.get("n_samples", 25))


@register(ShapleyValues,
          "mean over all permutations of f(with a feature) - f(before it came), others being b")
def shapley_values(attribution: ShapleyValues, inputs: Tensors, keywords: dict[str, Any]) -> Plan:
    """Plan of ShapleyValues: with F features there are F! permutations, and 2^F masks."""
    return _shapley(attribution, ShapleyValues, inputs, keywords, lambda evaluations: next(
        math.factorial(f) for f in itertools.count(1) if f * math.factorial(f) >= evaluations))
