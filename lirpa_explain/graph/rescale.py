"""DeepLift's rescale rule: the gradient of an activation module becomes the secant slope from its
reference input.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedAttribution
from ..operators import reference_gradient, secant_gradient
from ..operators.activations import LAYERS

POOLS = (nn.MaxPool1d, nn.MaxPool2d)
MIXING = (*POOLS, nn.Softmax)
"""Module types with rules of their own, in which Captum mixes the examples of a batch: not those of
one example."""

REFUSED = (nn.MaxPool3d,)
"""Module types for which Captum has rules that have no bound."""

Rule = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Maps (module, gradient at what it was fed with, gradient at its result) to what is handed back in
place of the former."""


@contextlib.contextmanager
def rescaled(model: nn.Module, reference: Callable[[], Any],
             hooks: Callable[[Rule], AbstractContextManager[None]],
             eps: float = 1e-10) -> Iterator[None]:
    """While it is active, the model's backward pass is that of Captum's DeepLift.

    Each activation module hands back `g (phi(z) - phi(z0)) / (z - z0)`, with z0 what `reference`
    has fed to it and g what the hooks hand to the rule. Max pooling and softmax modules have rules
    of their own, see `operators.reference`, which are here those that Captum has for one example.
    Functions that are not called through such a module keep their own gradient.

    Args:
        model: the model.
        reference: runs the model on the baselines, with as many rows as the inputs will have, once.
        hooks: has a rule called in the backward pass of each activation module while it is active:
            Captum's own hooks, so that what they see where activations stand directly behind each
            other is what Captum's DeepLift sees.
        eps: where |z - z0| is less, the derivative is taken.

    Raises:
        UnsupportedAttribution: the model calls a three-dimensional max pooling module, an
            activation module more than once, or one that the reference did not reach; or something
            else reads what an activation module is fed with.
    """
    calls = _Calls(model, eps)
    with with_forward({m: calls.noted(m) for m in calls.names}), torch.no_grad():
        reference()
    with with_forward({m: calls.replaced(m) for m in calls.names}), hooks(calls.rule):
        yield


class _Calls:
    """The calls of a model's activation modules: what they are fed with, and the rule of their
    gradients.
    """

    def __init__(self, model: nn.Module, eps: float) -> None:
        self.eps = eps
        self.names = {m: name or type(m).__name__ for name, m in model.named_modules()
                      if type(m) in (*LAYERS, *MIXING, *REFUSED) and not m._backward_hooks}
        self._references: dict[nn.Module, Tensor] = {}
        self._inputs: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._plain: dict[nn.Module, Tensor] = {}
        self._results: dict[nn.Module, Tensor] = {}
        self._next: dict[nn.Module, nn.Module] = {}
        self._upstream: dict[nn.Module, Tensor] = {}

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
            self._look_behind(module, input)
            result = self._evaluate(module, input)
            if input.requires_grad:
                input.register_hook(lambda gradient: self._plain.update({module: gradient}))
                self._results[module] = result
            return result

        return forward

    def rule(self, module: nn.Module, total: Tensor, upstream: Tensor) -> Tensor:
        """What an activation module hands back; `total` is the gradient at what it is fed with, by
        all who read it.
        """
        if total is not self._plain.pop(module):
            raise _shared(self.names[module])
        z, z0 = self._inputs[module]
        self._upstream[module] = upstream
        if type(module) in MIXING:
            return self._mixing(module, total, upstream, z, z0)
        row, layer = LAYERS[type(module)]
        return secant_gradient(upstream, z, z0, row.name, self.eps, **layer.settings(module))

    def _mixing(self, module: Any, total: Tensor, upstream: Tensor, z: Tensor,
                z0: Tensor) -> Tensor:
        """What a max pooling or softmax module hands back."""
        name = f"{self.names[module]} ({type(module).__name__})"
        if isinstance(module, nn.Softmax):
            return softmax_rule(module, total, upstream, z, z0, eps=self.eps, module=name)
        follower = self._next.get(module)
        if follower is None:
            return pool_rule(module, total, upstream, upstream, z, z0, eps=self.eps, module=name)
        # Captum's hooks see the gradient before the follower's rule, of the input and of the
        # reference each its own.
        with torch.enable_grad():
            reference = self._inputs[follower][1].detach().requires_grad_()
            of_reference, = torch.autograd.grad(self._evaluate(follower, reference), reference,
                                                self._upstream[follower])
        return pool_rule(module, total, upstream, of_reference, z, z0, eps=self.eps, module=name)

    def _evaluate(self, module: nn.Module, input: Tensor) -> Tensor:
        """An activation module's function, out of place."""
        if type(module) not in LAYERS:
            return type(module).forward(module, input)
        _, layer = LAYERS[type(module)]
        return layer.forward(input, **layer.settings(module))

    def _look_behind(self, module: nn.Module, input: Tensor) -> None:
        """Note which module another stands directly behind, and refuse pairs of which Captum's rule
        is none.

        Where |z - z0| < eps Captum takes the gradient that has passed the second activation's rule,
        and not the one before it that it takes elsewhere. Both are the plain one if |phi(z) -
        phi(z0)| < eps as well.
        """
        before = {id(part) for part, _ in getattr(input.grad_fn, "next_functions", ())} | {
            id(input.grad_fn)}
        for first, result in self._results.items():
            if id(result.grad_fn) not in before:
                continue
            if type(first) in MIXING:  # whose rules are told both gradients
                self._next[first] = module
                continue
            _, layer = LAYERS[type(first)]
            if layer.steepest(**layer.settings(first)) > 1:
                raise _steep(self.names[first], first, ", whose slope exceeds 1")
            if isinstance(module, nn.Softmax):
                raise _steep(self.names[first], first, ", which is a softmax")


def _reused(name: str) -> UnsupportedAttribution:
    return UnsupportedAttribution(
        f"DeepLift of a model that calls the module {name} more than once, or not for the "
        "baselines: the rescale rule needs one module for each call of an activation.")


def _shared(name: str) -> UnsupportedAttribution:
    return UnsupportedAttribution(
        f"DeepLift of a model in which not only the activation module {name} reads its input, but "
        "another operation too (such as x + act(x), or x * act(x)): Captum's hook on that input "
        "replaces the gradient of both by that of the module alone. Give the module an input of "
        "its own, for instance act(x.clone()).")


def _steep(name: str, module: nn.Module, words: str) -> UnsupportedAttribution:
    return UnsupportedAttribution(
        f"DeepLift of a model in which an activation stands directly behind {name} "
        f"({module}){words}: Captum's rule for such pairs depends on roundings there. Use slopes "
        "of at most 1, or put another operation between.")


def _refused(name: str, module: nn.Module) -> UnsupportedAttribution:
    return UnsupportedAttribution(
        f"DeepLift of a model with the module {name} ({type(module).__name__}): Captum's rule for "
        "it has no bound. Replace it, for instance by average pooling; a function such as "
        "torch.nn.functional.max_pool3d keeps its plain gradient, as in Captum.")


def pool_rule(pool: nn.MaxPool1d | nn.MaxPool2d, total: Tensor, upstream: Tensor,
              of_reference: Tensor, z: Tensor, z0: Tensor, **given: Any) -> Tensor:
    """What a max pooling module hands back for one example.

    Args:
        pool: the module.
        total: the gradient at what it is fed with, which is taken where |z - z0| < eps.
        upstream: the gradient at its result.
        of_reference: the same for the reference.
        z: what it is fed with.
        z0: the same for the reference.
        **given: `eps`, and the module's name.
    """
    if isinstance(pool, nn.MaxPool1d):
        parts = (x.unsqueeze(2) for x in (total, upstream, of_reference, z, z0))
        total, upstream, of_reference, z, z0 = parts
    kernel, stride, padding, dilation = (
        _sides(pool, name) for name in ("kernel_size", "stride", "padding", "dilation"))
    settings = {**given, "kernel": kernel, "stride": stride, "padding": padding,
                "ceil": pool.ceil_mode}
    if any(s < k or d > 1 for s, k, d in zip(stride, kernel, dilation, strict=True)):
        settings["overlaps"] = True

    def spread(gradient: Tensor) -> Tensor:
        """That of each window, at all its entries."""
        return torch.ops.aten.avg_pool2d_backward(gradient, z, kernel, stride, padding,
                                                  pool.ceil_mode, True, 1)

    if upstream is of_reference:
        result = reference_gradient(spread(upstream), total, z, z0, "max_pool", **settings)
    else:
        result = reference_gradient(
            spread(upstream), total, z, z0, "max_pool_above", **settings) + reference_gradient(
                spread(of_reference), torch.zeros_like(total), z, z0, "max_pool_below", **settings)
    return result.squeeze(2) if isinstance(pool, nn.MaxPool1d) else result


def _sides(pool: Any, name: str) -> list[int]:
    """A setting of a pooling module as two numbers; of one dimension, the other is left alone."""
    value = getattr(pool, name)
    if isinstance(pool, nn.MaxPool1d):
        return [0 if name == "padding" else 1, *(value if isinstance(value, tuple) else (value,))]
    return list(value) if isinstance(value, tuple) else [value, value]


def softmax_rule(softmax: nn.Softmax, total: Tensor, upstream: Tensor, z: Tensor, z0: Tensor,
                 **given: Any) -> Tensor:
    """What a softmax module hands back for one example: u less the mean of all u, the reference's
    among them.

    Args:
        softmax: the module.
        total: the gradient at what it is fed with, which u is where |z - z0| < eps.
        upstream: the gradient at its result, for the reference too.
        z: what it is fed with.
        z0: the same for the reference.
        **given: `eps`, and the module's name.
    """
    of_torch = 0 if z.ndim in (0, 1, 3) else 1
    dim = of_torch if softmax.dim is None else softmax.dim % z.ndim
    y0 = z0.softmax(dim)
    total0 = y0 * (upstream - (upstream * y0).sum(dim, keepdim=True))
    u, u0 = (reference_gradient(upstream, t, z, z0, "softmax", dim=dim, **given)
             for t in (total, total0))
    every = tuple(range(1, z.ndim))
    return u - (u.mean(every, keepdim=True) + u0.mean(every, keepdim=True)) / 2


@contextlib.contextmanager
def with_forward(forwards: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """While it is active, modules compute these functions."""
    own = {module: module.__dict__["forward"]
           for module in forwards if "forward" in module.__dict__}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)
            if module in own:
                module.__dict__["forward"] = own[module]
