"""Layer attributions as attributions of the function that a model is of its layer's output.

With h = a(x) the layer's output and g the model from there on, f(x) = g(a(x), x), a layer
attribution reads the inputs x through h alone, and through what goes past the layer, which stays as
it is. It is thus Captum's own attribution of g at the layer that hands on h, with a(b) as the
baselines and x among the further arguments:

    LayerIntegratedGradients(f, layer).attribute(x, baselines=b)
        = LayerIntegratedGradients(g, g.values).attribute(a(x), baselines=a(b),
        additional_forward_args=x)

The right side is a function of h, which can be perturbed where x cannot, as token ids.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum._utils.common import ExpansionTypes, _expand_additional_forward_args, _format_baseline
from captum.attr import (
    IntegratedGradients,
    LayerActivation,
    LayerDeepLift,
    LayerDeepLiftShap,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)
from captum.attr._utils.common import _tensorize_baseline
from torch import Tensor, nn

from ..errors import UnsupportedAttribution
from ..explained import from_layer
from .layer import Layer, Tensors
from .plan import extras_of, name_of
from .shap import drawn_baselines

Rebuild = Callable[[Any, nn.Module, nn.Module], Any]


def _with_eps(deep_lift: Any, eps: float) -> Any:
    """An attribution with the guard of another, which Captum's constructors at layers do not
    take.
    """
    deep_lift.eps = eps
    return deep_lift


AT_LAYER: dict[type, Rebuild] = {
    LayerActivation: lambda a, g, at: LayerActivation(g, at),
    LayerGradCam: lambda a, g, at: LayerGradCam(g, at),
    LayerGradientXActivation: lambda a, g, at: LayerGradientXActivation(
        g, at, multiply_by_inputs=a.multiplies_by_inputs),
    LayerIntegratedGradients: lambda a, g, at: LayerIntegratedGradients(
        g, at, multiply_by_inputs=a.multiplies_by_inputs),
    LayerDeepLift: lambda a, g, at: _with_eps(LayerDeepLift(g, at, a.multiplies_by_inputs), a.eps),
    LayerDeepLiftShap: lambda a, g,
    at: _with_eps(LayerDeepLiftShap(g, at, a.multiplies_by_inputs), a.eps),
}
"""The same attribution of another model, at another layer of it. The others have no place here:
their paths and noise run through the inputs, and the layer's output has another value at each of
their points."""

AT_LAYER_ALONE = ("attribute_to_layer_input", "grad_kwargs")
"""Keywords that attributions to inputs do not have."""


@dataclass(frozen=True)
class AtLayer:
    """A layer attribution as one of a function of the layer's output.

    Args:
        attribution: it.
        values: the layer's output h at the inputs, a tensor, or a tuple where there are several.
        keywords: of its `attribute`.
    """

    attribution: Any
    values: Tensor | Tensors
    keywords: dict[str, Any]


def supports(attribution: Any) -> bool:
    """Whether an attribution can be one of its layer's output."""
    return type(attribution) in AT_LAYER


class FromLayer:
    """What makes a layer attribution one of its layer's output; models are made once.

    Args:
        attribution: of a class in `AT_LAYER`.

    Raises:
        UnsupportedAttribution: it is of another class.
    """

    def __init__(self, attribution: Any) -> None:
        if not supports(attribution):
            raise UnsupportedAttribution(
                f"perturb='layer' puts the ball on a layer's output, which {name_of(attribution)} "
                "does not read the inputs through alone. It goes with "
                f"{', '.join(kind.__name__ for kind in AT_LAYER)}. For any other attribution, "
                "explain lirpa_explain.from_layer(model, layer), a function of that output.")
        self.attribution = attribution
        self._models: dict[tuple[bool, int], nn.Module] = {}

    @property
    def words(self) -> str:
        """The layer, for people."""
        layers = self.attribution.layer if isinstance(self.attribution.layer,
                                                      list) else [self.attribution.layer]
        names = {m: n for n, m in self.attribution.forward_func.named_modules()} \
            if isinstance(self.attribution.forward_func, nn.Module) else {}
        kinds = [type(layer).__name__ for layer in layers]
        return ", ".join(f"{names[layer]} ({kind})" if layer in names else kind
                         for layer, kind in zip(layers, kinds, strict=True))

    def of(self, inputs: Tensors, keywords: dict[str, Any], as_input: bool = False) -> AtLayer:
        """The attribution of the layer's output that has Captum's value at the inputs.

        Args:
            inputs: of the model, each (N, *S).
            keywords: of the layer attribution's `attribute`.
            as_input: whether it shall be one to inputs, which of those here IntegratedGradients
                alone has.
        """
        layer, extras = Layer(self.attribution, keywords), extras_of(keywords)
        forward = self.attribution.forward_func

        def evaluate(points: Tensors, further: tuple[Any, ...]) -> Tensors:
            with torch.enable_grad():
                values = layer.evaluate(lambda *xs: forward(*xs, *further), points)[1]
            return tuple(v.detach().clone() for v in values)

        values = evaluate(inputs, extras)
        changed = {k: v for k, v in keywords.items() if k != "attribute_to_layer_input"}
        changed["additional_forward_args"] = (*inputs, *extras)
        if isinstance(self.attribution, LayerDeepLiftShap):
            changed["baselines"] = _common(evaluate, drawn_baselines(inputs, keywords), extras,
                                           len(inputs[0]))
        elif "baselines" in keywords or isinstance(self.attribution,
                                                   LayerIntegratedGradients | LayerDeepLift):
            baselines = _tensorize_baseline(inputs,
                                            _format_baseline(keywords.get("baselines"), inputs))
            changed["baselines"] = evaluate(baselines, extras)
        key = layer.to_input, len(values)
        if key not in self._models:
            self._models[key] = from_layer(forward, layer.layers, *key)
        model: Any = self._models[key]
        if as_input and isinstance(self.attribution, LayerIntegratedGradients):
            attribution: Any = IntegratedGradients(model, self.attribution.multiplies_by_inputs)
            changed = {k: v for k, v in changed.items() if k not in AT_LAYER_ALONE}
        else:
            attribution = AT_LAYER[type(self.attribution)](self.attribution, model, model.values)
        return AtLayer(attribution, values if len(values) > 1 else values[0], changed)


def _common(evaluate: Callable[[Tensors, tuple[Any, ...]], Tensors], baselines: Tensors,
            extras: tuple[Any, ...], count: int) -> Tensors:
    """The layer's output at baselines (M, *S), which must not depend on which of the N examples
    they are used for.
    """
    samples, rows = len(baselines[0]), ExpansionTypes.repeat_interleave
    pairs = tuple(b.repeat(count, *[1] * (b.ndim - 1)) for b in baselines)
    values = evaluate(pairs,
                      _expand_additional_forward_args(extras, samples, expansion_type=rows) or ())
    split = tuple(v.unflatten(0, (count, samples)) for v in values)
    if not all(torch.equal(v, v[:1].expand_as(v)) for v in split):
        raise UnsupportedAttribution(
            "The layer's output at the baselines differs with the examples' "
            "additional_forward_args, so that LayerDeepLiftShap has no baselines at the layer for "
            "all of them: certify one example at a time.")
    return tuple(v[0] for v in split)
