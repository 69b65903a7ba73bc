"""Layer-wise relevance propagation by Captum's epsilon rule, as the gradient of a model with other
activations.

The rule takes the relevance R of a layer's output z to its input a as `a * J^T (R / (z + eps
sign(z)))`, with J the layer's Jacobian and sign(0) = 1; activations hand it on unchanged. With u =
R / (z + eps sign(z)) the factor a of one layer and the quotient of the one before belong to the
same values: u = f * J^T u_next, where

    f = phi(z) / (z + eps sign(z))    for a layer's output z with the activation phi, or without any
    (phi(z) = z).

So layers keep their gradient, activations have the gradient f, and relevance starts with the
model's output itself, with phi that of its last activation. The first layers multiply by their
inputs.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES, SUPPORTED_NON_LINEAR_LAYERS
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn

from ..errors import UnsupportedAttribution
from ..operators import secant_gradient
from .rescale import with_forward

MOVES = ("View", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "T", "Squeeze", "Unsqueeze",
         "Clone", "Alias", "Select", "Slice", "Expand", "AsStrided", "Cat", "Stack")
"""Autograd nodes that move entries and change none."""

SCALES = ("Mul", "Div", "Neg")
"""Autograd nodes that, with one input that has a gradient, multiply entries by constants; allowed
behind the model."""


@dataclass
class Output:
    """What is known of a layer's output: its eps, and what follows it.

    Where the model's output is c z with a constant c, relevance starts with c and ends with a
    product with c z: the gradient that arrives counts twice. Where the relevance of the output
    itself is `asked` for, an activation hands that on, g phi(z), and what is before the layer is of
    no interest.
    """

    name: str
    eps: float
    to_activation: bool = False
    to_layer: bool = False
    scaled: bool = False
    asked: bool = False


@dataclass
class Place:
    """Where relevance is asked for: at the input of a layer, or its output.

    Args:
        layer: it.
        to_input: whether at its input.
    """

    layer: nn.Module
    to_input: bool
    value: Tensor | None = None
    source: Output | None = None
    is_first: bool = False

    def relevance(self, output: Tensor, cotangent: Tensor) -> Tensor:
        """That of an output of the model, computed while `relevance` was active.

        Raises:
            UnsupportedAttribution: the model does not call the layer.
        """
        if self.value is None:
            raise UnsupportedAttribution("LRP at a layer that the model does not call.")
        g, = torch.autograd.grad(output, self.value, cotangent)
        if self.source is not None and self.source.to_activation or self.is_first:
            return g
        return self.value * (g * g if self.source is not None and self.source.scaled else g)


@contextlib.contextmanager
def relevance(model: nn.Module, place: Place | None = None) -> Iterator[None]:
    """While it is active, the gradient of the model by its input is Captum's LRP: nothing is left
    to multiply it by.

    The cotangent must be 1 at one output of each example and 0 elsewhere.

    Args:
        model: a module whose leaves are layers with the epsilon rule, by default or as their
            attribute `rule`, or ReLU, Tanh and Dropout.
        place: where the relevance is asked for, if not at the input; it is given what it needs.

    Raises:
        UnsupportedAttribution: a layer has no rule or another one, is called more than once, is
            followed by a function that is no module, or feeds both an activation and a layer; or a
            Tanh follows a Dropout.

    Example:
        >>> model, x = (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)),
        ...             torch.ones(1, 2, requires_grad=True))
        >>> with relevance(model):
        ...     out = model(x)
        >>> torch.autograd.grad(out.sum(), x)[0].shape
        torch.Size([1, 2])
    """
    leaves = {m: name
              for name, m in model.named_modules() if m is not model and not list(m.children())}
    calls: set[nn.Module] = set()
    dropped: list[Tensor] = []
    forwards: dict[nn.Module, Callable[..., Any]] = {}
    for module, name in leaves.items():
        if type(module) in SUPPORTED_NON_LINEAR_LAYERS and not hasattr(module, "rule"):
            forwards[module] = _dropout(module, dropped) if isinstance(module, nn.Dropout) else \
                _activation(module, name, dropped)
        else:
            own = place if place is not None and place.layer is module else None
            forwards[module] = _layer(module, name, _epsilon(module, name), calls, own)

    def last(_: nn.Module, __: Any, output: Tensor) -> None:
        scaled: list[str] = []
        for source in _sources(output, "the model's output", scaled):
            if scaled and isinstance(source, str):
                raise UnsupportedAttribution("LRP of a model that multiplies the result of "
                                             f"{source} at its end.")
            if scaled and isinstance(source, Output):
                source.scaled = True

    handle = model.register_forward_hook(last)
    try:
        with with_forward(forwards):
            yield
    finally:
        handle.remove()


def _epsilon(module: nn.Module, name: str) -> float:
    """The eps of a layer's rule."""
    rule: Any = getattr(module, "rule", None)
    if rule is None and type(module) in SUPPORTED_LAYERS_WITH_RULES:
        rule = SUPPORTED_LAYERS_WITH_RULES[type(module)]()
    if type(rule) is not EpsilonRule or not rule.STABILITY_FACTOR > 0:
        raise UnsupportedAttribution(
            f"LRP of a model with the layer {name} ({type(module).__name__}): "
            + ("there is no rule for it" if rule is None else f"its rule is {type(rule).__name__}")
            + ". Bounds are there for EpsilonRule with a positive epsilon, on the layers that "
            "Captum gives it by default; ReLU, Tanh and Dropout need none.")
    return float(rule.STABILITY_FACTOR)


def _layer(module: nn.Module, name: str, eps: float, calls: set[nn.Module], place: Place | None
           ) -> Callable[..., Tensor]:
    compute = module.forward

    def enter(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        sources = _sources(x, name)
        if not sources:
            return _First.apply(x)
        for source in sources:
            if isinstance(source, Output):
                source.to_layer = True
                _refuse_both(source)
        return x

    def forward(*inputs: Any) -> Tensor:
        if module in calls:
            raise UnsupportedAttribution(f"LRP of a model that calls the layer {name} more than "
                                         "once.")
        calls.add(module)
        output = Output(name, eps, asked=place is not None and not place.to_input)
        if place is not None and place.to_input:
            if len(inputs) > 1:
                raise UnsupportedAttribution(f"LRP at the inputs of the layer {name}, which has "
                                             f"{len(inputs)} of them.")
            place.value, place.is_first = inputs[0], not _sources(inputs[0], name)
        result = _Layer.apply(compute(*map(enter, inputs)), output)
        if output.asked and place is not None:
            place.value, place.source = result, output
        return result

    return forward


def _dropout(module: nn.Module, dropped: list[Tensor]) -> Callable[[Tensor], Tensor]:
    compute = module.forward

    def forward(input: Tensor) -> Tensor:
        dropped.append(compute(input))
        return dropped[-1]

    return forward


def _activation(module: nn.Module, name: str, dropped: list[Tensor]) -> Callable[[Tensor], Tensor]:
    function = "kink" if isinstance(module, nn.ReLU) else "tanh"

    def forward(input: Tensor) -> Tensor:
        if function == "tanh" and any(input is tensor for tensor in dropped):
            raise UnsupportedAttribution(
                f"LRP of a model in which {name} (Tanh) follows a Dropout: Captum's hooks of both "
                "are on one tensor, and relevance is then multiplied by the derivative or not, by "
                "how many there are. Remove the Dropout.")
        sources = _sources(input, name)
        for source in sources:
            if isinstance(source, str):
                raise UnsupportedAttribution(
                    f"LRP of a model in which the activation {name} follows {source}, another one.")
            source.to_activation = True
            _refuse_both(source)
        eps = {source.eps for source in sources if isinstance(source, Output)}
        if len(eps) > 1:
            raise UnsupportedAttribution(f"LRP of a model in which {name} joins layers of "
                                         "different epsilons.")
        asked = any(source.asked for source in sources if isinstance(source, Output))
        return _Activation.apply(input, name, function, eps.pop() if eps else None, asked)

    return forward


def _refuse_both(output: Output) -> None:
    if output.to_activation and output.to_layer:
        raise UnsupportedAttribution(f"LRP of a model in which the layer {output.name} feeds both "
                                     "an activation and a layer.")


def _sources(x: Tensor, to: str, scaled: list[str] | None = None) -> list[Output | str]:
    """The layers' outputs, and the names of activations, whose entries a value consists of; none if
    it is an input.

    With a list `scaled`, products with constants are allowed and noted there.
    """
    found: list[Output | str] = []
    arithmetic, inputs = None, False
    stack: list[tuple[Any, Any]] = [(x.grad_fn, None)]
    seen = set()
    while stack:
        node, through = stack.pop()
        if node is None or (node, through) in seen:
            inputs |= node is None
            continue
        seen.add((node, through))
        if hasattr(node, "relevance_of"):
            found.append(node.relevance_of)
            arithmetic = arithmetic or through
            continue
        kind = str(node.name()).split("Backward")[0]
        if (scaled is not None and kind in SCALES
                and sum(n is not None for n, _ in node.next_functions) == 1):
            scaled.append(kind)
            stack += [(following, through)
                      for following, _ in node.next_functions if following is not None]
            continue
        if kind not in MOVES:
            through = through or node.name()
        stack += [(following, through) for following, _ in node.next_functions]
        inputs |= not node.next_functions
    if found and (arithmetic or inputs):
        names = ", ".join(source.name if isinstance(source, Output) else source for source in found)
        raise UnsupportedAttribution(f"LRP of a model that computes with {names} outside of a "
                                     f"module ({arithmetic or 'with an input'}) before {to}. Use "
                                     "modules, such as captum's Addition_Module for a sum.")
    return found


class _First(torch.autograd.Function):
    """A first layer's input: relevance is the gradient times it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.saved_tensors[0]


class _Layer(torch.autograd.Function):
    """A layer's output; the factor is there unless an activation has it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, output: Output) -> Tensor:
        ctx.save_for_backward(z)
        ctx.relevance_of = output
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        output, (z,), g = ctx.relevance_of, ctx.saved_tensors, gradients[0]
        if output.to_activation:
            return g, None
        return _stabilized(g * g if output.scaled else g, z, output.eps), None


class _Activation(torch.autograd.Function):
    """An activation with the factor as gradient; on an input, where no layer is before it, its
    result is that.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, name: str, function: str, eps: float | None,
                asked: bool) -> Tensor:
        ctx.save_for_backward(z)
        ctx.call = function, None if asked else eps
        ctx.relevance_of = name if eps is not None else f"{name}, on an input"
        return torch.relu(z) if function == "kink" else torch.tanh(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (function, eps), (z,), g = ctx.call, ctx.saved_tensors, gradients[0]
        if eps is not None and function == "kink":  # z / (z + eps) is the secant slope from -eps
            g = secant_gradient(g, z, torch.full_like(z, -eps), "kink", 0.0, slope=0.0)
        elif eps is not None:
            g = _stabilized(secant_gradient(g, z, torch.zeros_like(z), "tanh", 0.0), z, eps)
        elif eps is None:  # nothing before it multiplies by its result
            g = g * (torch.relu(z) if function == "kink" else torch.tanh(z))
        return g, None, None, None, None


def _stabilized(g: Tensor, z: Tensor, eps: float) -> Tensor:
    """`g z / (z + eps sign(z))`."""
    return torch.ops.lirpa_explain.activation_gradient(g, z, "stabilized", json.dumps({"eps": eps}))
