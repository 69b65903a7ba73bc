"""DeepLift's rescale rule: the gradient of an activation module becomes the secant slope from its reference input."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UnsupportedAttribution
from ..operators import secant_gradient

RESCALED: dict[type[nn.Module], Callable[[Any], tuple[str, dict[str, float]]]] = {
    nn.ReLU: lambda m: ("kink", {"slope": 0.0}),
    nn.LeakyReLU: lambda m: ("kink", {"slope": float(m.negative_slope)}),
    nn.ELU: lambda m: ("elu", {"alpha": float(m.alpha), "scale": 1.0, "input_scale": 1.0}),
    nn.Sigmoid: lambda m: ("sigmoid", {}),
    nn.Tanh: lambda m: ("tanh", {}),
    nn.Softplus: lambda m: ("softplus", {"beta": float(m.beta), "threshold": float(m.threshold)}),
}
"""Module types that Captum's DeepLift rescales, exactly these and no subclasses -> function and settings."""

REFUSED = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.Softmax)
"""Module types for which Captum has rules that mix the examples of a batch."""

FORWARD: dict[str, Callable[..., Tensor]] = {
    "kink": lambda z, slope: torch.relu(z) if slope == 0 else F.leaky_relu(z, slope),
    "elu": lambda z, alpha, scale, input_scale: F.elu(z, alpha),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
}


@contextlib.contextmanager
def rescaled(model: nn.Module, reference: Callable[[], Any], eps: float = 1e-10) -> Iterator[None]:
    """While it is active, the model's backward pass is that of Captum's DeepLift.

    At each activation module `g phi'(z)` is replaced by `g (phi(z) - phi(z0)) / (z - z0)`, with z0 what `reference`
    has fed to it. Functions that are not called through such a module keep their own gradient, as in Captum.

    Args:
        model: the model.
        reference: runs the model on the baselines, with as many rows as the inputs will have, once.
        eps: where |z - z0| is less, the derivative is taken.

    Raises:
        UnsupportedAttribution: the model calls a max pooling or softmax module, for which Captum has other rules,
            an activation module more than once, or one that the reference did not reach.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> x, b = torch.ones(1, 2, requires_grad=True), torch.zeros(1, 2)
        >>> with rescaled(model, lambda: model(b)):
        ...     out = model(x)
        >>> gradient, = torch.autograd.grad(out.sum(), x)
        >>> torch.allclose(((x - b) * gradient).sum(), (model(x) - model(b)).sum(), atol=1e-6)
        True
    """
    modules = {m: name or type(m).__name__ for name, m in model.named_modules()
               if type(m) in (*RESCALED, *REFUSED) and not m._backward_hooks}
    references: dict[nn.Module, Tensor] = {}

    def noted(module: nn.Module) -> Callable[[Tensor], Tensor]:
        """The module's function out of place, that notes what it is given."""

        def forward(input: Tensor) -> Tensor:
            if type(module) in REFUSED:
                raise _refused(modules[module], module)
            if module in references:
                raise _reused(modules[module])
            references[module] = input
            function, settings = RESCALED[type(module)](module)
            return FORWARD[function](input, **settings)

        return forward

    with with_forward({m: noted(m) for m in modules}), torch.no_grad():
        reference()

    def replaced(module: nn.Module) -> Callable[[Tensor], Tensor]:
        """The module's function with the other gradient, once."""

        def forward(input: Tensor) -> Tensor:
            if module not in references:
                raise _reused(modules[module])
            function, settings = RESCALED[type(module)](module)
            return _Rescaled.apply(input, references.pop(module), function, settings, eps)

        return forward

    with with_forward({m: replaced(m) for m in modules}):
        yield


def _reused(name: str) -> UnsupportedAttribution:
    return UnsupportedAttribution(
        f"DeepLift of a model that calls the module {name} more than once, or not for the baselines: the rescale rule "
        "needs one module for each call of an activation."
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


class _Rescaled(torch.autograd.Function):
    """An activation whose gradient is the secant slope from z0."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, z0: Tensor, function: str, settings: dict[str, float], eps: float) -> Tensor:
        ctx.save_for_backward(z, z0)
        ctx.call = function, settings, eps
        return FORWARD[function](z, **settings)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (z, z0), (function, settings, eps) = ctx.saved_tensors, ctx.call
        return secant_gradient(gradients[0], z, z0, function, eps, **settings), None, None, None, None
