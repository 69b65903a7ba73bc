"""Random calls of Captum's attributions on random architectures, and how they are certified."""

import contextlib
import copy
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum import attr
from captum._utils.models.linear_model import SkLearnLinearRegression
from captum.attr import NoiseTunnel
from torch import Tensor

import lirpa_explain as lx
from tests.fuzz_models import Architecture, draw_architecture
from tests.fuzz_operations import KINDS_OF_IDS, LONGEST
from tests.test_captum import parts, seeded

KINDS = sorted(lx.ATTRIBUTIONS, key=lambda kind: kind.__name__)
METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized")
NORMS = (math.inf, math.inf, 2, 1)
RADII = (0.0, 1e-6, 0.003, 0.03, 0.1, 0.3)
SEARCH = lx.BoundarySearch(pgd_steps=5, cw_steps=5, restarts=1, polish_steps=2)
LEVEL = {"DeepLift": 1, "LRP": 2, "Guided": 1, "Deconvolution": 1}
"""Of most nets for classes with rules of their own: which layers those know."""


@dataclass
class Problem:
    """One call of `attribute`, and how it is certified."""

    architecture: Architecture
    attribution: Any
    inputs: Any
    keywords: dict[str, Any]
    method: str
    norm: float
    eps: float
    draws: bool = False
    at: Callable[[Any], Any] | None = None
    """The attribution at another point, if it is not that of a new call there."""

    def value(self, point: Any) -> Any:
        """Captum's attribution at a point, on the same random numbers."""
        return (self.at or self.call)(point)

    def call(self, point: Any) -> Any:
        xs = tuple(x.detach().clone().requires_grad_() for x in parts(point))
        return seeded(self.attribution.attribute, xs if isinstance(point, tuple) else xs[0],
                      **copy.deepcopy(self.keywords))

    def certify(self, inputs: Any, eps: float,
                keywords: dict[str, Any] | None = None) -> lx.Certificate:
        given = dict(copy.deepcopy(self.keywords if keywords is None else keywords))
        quadrature = given.pop("method", None)
        return seeded(lx.certify, self.attribution, inputs, eps=eps, norm=self.norm,
                      method=self.method, quadrature=quadrature, iterations=3, **given)

    def __str__(self) -> str:
        keywords = {name: f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else value
                    for name, value in self.keywords.items()}
        kind = parts(self.inputs)[0]
        layer = getattr(self.attribution, "layer", None)
        return (f"{lx.attributions.name_of(self.attribution)} {self.method} norm {self.norm} eps "
                f"{self.eps} {kind.dtype} batch {len(kind)}, weights {self.architecture.weights}, "
                f"{keywords}\n{self.architecture.model}"
                + (f"\nat {layer}" if layer is not None else ""))


# The table of keywords

Draw = random.Random


def _baselines(draw: Draw, inputs: Any, many: bool = False) -> dict[str, Any]:
    """Rows to draw from if there are many; else none, a number, one row or a row for each
    example.
    """
    xs = parts(inputs)
    if not many and draw.random() < 0.4:
        return draw.choice(({}, {"baselines": 0.3}))
    rows = 2 if many else draw.choice((1, len(xs[0])))
    tensors = tuple(torch.randn(rows, *x.shape[1:], dtype=x.dtype) for x in xs)
    return {"baselines": tensors if isinstance(inputs, tuple) else tensors[0]}


def _path(draw: Draw, inputs: Any) -> dict[str, Any]:
    method = draw.choice(("gausslegendre", "riemann_trapezoid", "riemann_middle", "riemann_left"))
    return {"n_steps": draw.choice((2, 3)), "method": method, **_baselines(draw, inputs)}


def _drawn(draw: Draw, inputs: Any) -> dict[str, Any]:
    return {"n_samples": 2, "stdevs": draw.choice((0.0, 0.2)),
            **_baselines(draw, inputs, many=True)}


def _features(draw: Draw, inputs: Any, count: int = 3) -> dict[str, Any]:
    """Every entry belongs to one of a few features, which several inputs share."""
    masks = tuple(torch.randint(count, (1, *x.shape[1:])) for x in parts(inputs))
    masks[0].view(-1)[0] = 0
    return {"feature_mask": masks if isinstance(inputs, tuple) else masks[0],
            **_baselines(draw, inputs)}


def _perhaps_features(draw: Draw, inputs: Any) -> dict[str, Any]:
    return _features(draw, inputs, 4) if draw.random() < 0.5 else _baselines(draw, inputs)


def _by_present_features(original: Any, perturbed: Any, present: Tensor, **keywords: Any) -> float:
    return 1 + float(present.double().mean())


def _windows(draw: Draw, inputs: Any) -> dict[str, Any]:
    """Windows of Occlusion that overlap where the stride is 1."""
    shapes = tuple(tuple(draw.randint(1, size) for size in x.shape[1:]) for x in parts(inputs))
    strides = tuple(tuple(draw.randint(1, size) for size in shape) for shape in shapes)
    several = isinstance(inputs, tuple)
    return {"sliding_window_shapes": shapes if several else shapes[0],
            "strides": strides if several else strides[0], **_baselines(draw, inputs)}


KEYWORDS: dict[str, Callable[[Draw, Any], dict[str, Any]]] = {
    "Saliency": lambda draw, inputs: {"abs": draw.random() < 0.5},
    "BoundaryIntegratedGradients": lambda draw, inputs: {"n_steps": 2},
    "LayerGradCam": lambda draw, inputs: {"relu_attributions": draw.random() < 0.5},
    **dict.fromkeys(("IntegratedGradients", "InternalInfluence", "LayerConductance",
                     "LayerIntegratedGradients",
                     "NeuronIntegratedGradients", "NeuronConductance"), _path),
    **dict.fromkeys(("InputBaselineXGradient", "LayerInputBaselineXGradient"), lambda draw,
                    inputs: {"baselines": tuple(torch.randn_like(x) for x in parts(inputs))}),
    **dict.fromkeys(("GradientShap", "LayerGradientShap", "NeuronGradientShap"), _drawn),
    **dict.fromkeys(("DeepLift", "LayerDeepLift", "NeuronDeepLift"), _baselines),
    **dict.fromkeys(("FeatureAblation", "KernelShap"), _perhaps_features),
    **dict.fromkeys(("Lime", "ShapleyValueSampling"),
                    lambda draw, inputs: {"n_samples": 5, **_perhaps_features(draw, inputs)}),
    **dict.fromkeys(("ShapleyValues", "FeaturePermutation"), _features),
    "Occlusion": _windows,
    **dict.fromkeys(("DeepLiftShap", "LayerDeepLiftShap", "NeuronDeepLiftShap"),
                    lambda draw, inputs: _baselines(draw, inputs, True)),
}
"""What each class's `attribute` takes beside the target, the layer, the neuron and further
arguments."""
DRAWING = ("FeaturePermutation", "GradientShap", "InputBaselineXGradient", "KernelShap", "Lime",
           "NoiseTunnel", "ShapleyValueSampling")


def _target(draw: Draw, head: str, rows: int) -> Any:
    if head in ("column", "scalar"):
        return None if head == "scalar" else draw.choice((None, 0))
    one = (lambda: (draw.randrange(2),
                    draw.randrange(2))) if head == "planes" else lambda: draw.randrange(3)
    return one() if draw.random() < 0.5 else [one() for _ in range(rows)]


def _neuron(draw: Draw, layer: Any, model: Any, inputs: tuple, to_input: bool) -> Any:
    shape: list[tuple[int, ...]] = []
    register = "register_forward_pre_hook" if to_input else "register_forward_hook"
    handle = getattr(layer, register)(lambda *given: shape.append(parts(given[-1])[0].shape[1:]))
    with torch.no_grad(), contextlib.suppress(RuntimeError):  # of models that take no batch of one
        model(*inputs)
    handle.remove()
    index = tuple(draw.randrange(size) for size in shape[0]) if shape else (0,)
    return index if len(index) > 1 else draw.choice((index, index[0]))


def draw_problem(seed: int, which: int) -> Problem:
    """The problem of a seed: one of its architecture's attributions, all of which come around in
    turn.
    """
    draw = Draw(f"{seed}-{which}")
    torch.manual_seed(draw.randrange(2**31))
    kind = KINDS[(2 * seed + which) % len(KINDS)]
    inner = draw.choice([k for k in KINDS if k is not NoiseTunnel]) if kind is NoiseTunnel else kind
    name = inner.__name__
    level = max(level for word, level in {"": 0, **LEVEL}.items() if word in name)
    architecture = draw_architecture(draw, level if draw.random() < 0.8 else draw.choice((0, 1)))
    dtype = draw.choice((torch.float64, torch.float32))
    model, rows = architecture.model.to(dtype), draw.choice((1, 2, 3))
    xs = tuple(torch.randn(rows, *shape, dtype=dtype) for shape in architecture.shapes)
    inputs = xs if len(xs) > 1 or draw.random() < 0.1 else xs[0]
    extras = torch.randn(rows, 1,
                         dtype=dtype) if architecture.extras == "rows" else architecture.extras
    further = () if isinstance(extras, tuple) else (extras,)
    if model.takes_ids:
        further += (torch.randint(KINDS_OF_IDS, (rows, LONGEST)),)
    keywords = {"additional_forward_args": further} if further else {}
    forward_args = (*xs, *further)
    layer = draw.choice([*model.steps, *[model.head] * (not name.startswith("Neuron"))])
    to_input = draw.random() < 0.3
    if name.startswith("Neuron"):
        keywords["neuron_selector"] = _neuron(draw, layer, model, forward_args, to_input)
        keywords.update({"attribute_to_neuron_input": True} if to_input else {})
    if not name.startswith("Neuron") or name == "NeuronConductance":
        target = _target(draw, architecture.head, rows)
        keywords.update({} if name == "LayerActivation" else {"target": target})
    if name.startswith(("Layer", "Internal")) and to_input:
        keywords["attribute_to_layer_input"] = True
    keywords.update(KEYWORDS.get(name, lambda draw, inputs: {})(draw, inputs))
    attribution = _attribution(inner, model, layer)
    if kind is NoiseTunnel:
        attribution = NoiseTunnel(attribution)
        keywords.update({"nt_samples": 2, "stdevs": 0.1,
                         "nt_type": draw.choice(("smoothgrad", "smoothgrad_sq", "vargrad"))})
    problem = Problem(
        architecture, attribution, inputs, keywords, draw.choice(METHODS), draw.choice(NORMS),
        draw.choice(RADII), draws=kind is NoiseTunnel or any(word in name for word in DRAWING))
    return problem


def _attribution(kind: Any, model: Any, layer: Any) -> Any:
    if kind.__name__.startswith("Boundary"):
        return kind(model, search=SEARCH)
    if kind is attr.Lime:
        return kind(model, interpretable_model=SkLearnLinearRegression(),
                    similarity_func=_by_present_features)
    at_layer = (kind.__name__.startswith(("Layer", "Neuron", "Internal"))
                or kind is attr.GuidedGradCam)
    return kind(model, layer) if at_layer else kind(model)
