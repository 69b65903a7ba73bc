"""DeepLift's rescale rule: the gradient of an activation module becomes the secant slope from its reference input."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedAttribution
from ..operators import secant_gradient
from ..operators.activations import LAYERS

REFUSED = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.Softmax)
"""Module types for which Captum has rules that mix the examples of a batch."""

Rule = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Maps (module, gradient at what it was fed with, gradient at its result) to what is handed back in place of the
former."""


@contextlib.contextmanager
def rescaled(model: nn.Module, reference: Callable[[], Any], hooks: Callable[[Rule], AbstractContextManager[None]],
             eps: float = 1e-10) -> Iterator[None]:
    """While it is active, the model's backward pass is that of Captum's DeepLift.

    Each activation module hands back `g (phi(z) - phi(z0)) / (z - z0)`, with z0 what `reference` has fed to it and g
    what the hooks hand to the rule. Functions that are not called through such a module keep their own gradient.

    Args:
        model: the model.
        reference: runs the model on the baselines, with as many rows as the inputs will have, once.
        hooks: has a rule called in the backward pass of each activation module while it is active: Captum's own hooks,
            so that what they see where activations stand directly behind each other is what Captum's DeepLift sees.
        eps: where |z - z0| is less, the derivative is taken.

    Raises:
        UnsupportedAttribution: the model calls a max pooling or softmax module, for which Captum has other rules, an
            activation module more than once, or one that the reference did not reach; or something else reads what
            an activation module is fed with.
    """
    calls = _Calls(model, eps)
    with with_forward({m: calls.noted(m) for m in calls.names}), torch.no_grad():
        reference()
    with with_forward({m: calls.replaced(m) for m in calls.names}), hooks(calls.rule):
        yield


class _Calls:
    """The calls of a model's activation modules: what they are fed with, and the rule of their gradients."""

    def __init__(self, model: nn.Module, eps: float) -> None:
        self.eps = eps
        self.names = {m: name or type(m).__name__ for name, m in model.named_modules()
                      if type(m) in (*LAYERS, *REFUSED) and not m._backward_hooks}
        self._references: dict[nn.Module, Tensor] = {}
        self._inputs: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._plain: dict[nn.Module, Tensor] = {}
        self._results: dict[nn.Module, Tensor] = {}

    def noted(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """The module's function out of place, that notes the reference."""

        def forward(input: Tensor) -> Tensor:
            if type(module) in REFUSED:
                raise _refused(self.names[module], module)
            if module in self._references:
                raise _reused(self.names[module])
            self._references[module] = input
            return self._evaluate(module, input)

        return forward

    def replaced(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """The module's function out of place, once, that notes what the rule needs."""

        def forward(input: Tensor) -> Tensor:
            if module not in self._references:
                raise _reused(self.names[module])
            self._inputs[module] = input.detach(), self._references.pop(module)
            self._refuse_steep(input)
            result = self._evaluate(module, input)
            if input.requires_grad:
                input.register_hook(lambda gradient: self._plain.update({module: gradient}))
                self._results[module] = result
            return result

        return forward

    def rule(self, module: nn.Module, total: Tensor, upstream: Tensor) -> Tensor:
        """What an activation module hands back; `total` is the gradient at what it is fed with, by all who read it."""
        if total is not self._plain.pop(module):
            raise _shared(self.names[module])
        row, layer = LAYERS[type(module)]
        z, z0 = self._inputs[module]
        return secant_gradient(upstream, z, z0, row.name, self.eps, **layer.settings(module))

    def _evaluate(self, module: nn.Module, input: Tensor) -> Tensor:
        """An activation module's function, out of place."""
        _, layer = LAYERS[type(module)]
        return layer.forward(input, **layer.settings(module))

    def _refuse_steep(self, input: Tensor) -> None:
        """Refuse an activation behind another one that may be steeper than 1.

        Where |z - z0| < eps Captum takes the gradient that has passed the second activation's rule, and not the one
        before it that it takes elsewhere. Both are the plain one if |phi(z) - phi(z0)| < eps as well.
        """
        before = {id(part) for part, _ in getattr(input.grad_fn, "next_functions", ())} | {id(input.grad_fn)}
        for module, result in self._results.items():
            _, layer = LAYERS[type(module)]
            if id(result.grad_fn) in before and layer.steepest(**layer.settings(module)) > 1:
                raise UnsupportedAttribution(
                    f"DeepLift of a model in which an activation stands directly behind {self.names[module]} "
                    f"({module}), whose slope exceeds 1: Captum's rule for such pairs depends on roundings there. Use "
                    "slopes of at most 1, or put another operation between."
                )


def _reused(name: str) -> UnsupportedAttribution:
    return UnsupportedAttribution(
        f"DeepLift of a model that calls the module {name} more than once, or not for the baselines: the rescale rule "
        "needs one module for each call of an activation."
    )


def _shared(name: str) -> UnsupportedAttribution:
    return UnsupportedAttribution(
        f"DeepLift of a model in which not only the activation module {name} reads its input, but another operation "
        "too (such as x + act(x), or x * act(x)): Captum's hook on that input replaces the gradient of both by that "
        "of the module alone. Give the module an input of its own, for instance act(x.clone())."
    )


def _refused(name: str, module: nn.Module) -> UnsupportedAttribution:
    return UnsupportedAttribution(
        f"DeepLift of a model with the module {name} ({type(module).__name__}): Captum's rule for it mixes the "
        "examples of a batch and has no bound. Replace it, for instance by average pooling, or explain the logits; a "
        "function such as torch.nn.functional.max_pool2d keeps its plain gradient, as in Captum."
    )


@contextlib.contextmanager
def with_forward(forwards: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """While it is active, modules compute these functions."""
    own = {module: module.__dict__["forward"] for module in forwards if "forward" in module.__dict__}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)
            if module in own:
                module.__dict__["forward"] = own[module]
