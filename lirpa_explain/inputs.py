"""What a function is called with, and where: tensors and surroundings that have values to bound."""

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from captum.attr import Attribution
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from .tensors import check_kind, plain

P = ParamSpec("P")
R = TypeVar("R")

DTYPES = (torch.float64, torch.float32)

MODES = ("FakeTensorMode", "FunctionalTensorMode", "ProxyTorchDispatchMode")
"""Modes in which tensors have no values."""


WHOLE = ("Whole numbers, such as token ids, cannot move. Certify an attribution at the layer that reads them, such as "
         "LayerIntegratedGradients(model, model.embedding) with perturb='layer', which puts the ball on the layer's "
         "output; or explain the embeddings, and pass ids that are held fixed as additional_forward_args. If the "
         "numbers are quantities, convert them with .float().")


def check_inputs(inputs: Any, *, finite: bool = True, moving: bool = True, what: str = "inputs") -> tuple[Tensor, ...]:
    """The inputs as a tuple of plain tensors (N, *S), of one floating-point type.

    Args:
        inputs: as the caller gave them.
        finite: whether NaN and infinite values are refused.
        moving: whether they are to be perturbed; else they may be of any types.
        what: their name, for messages.
    """
    check_surroundings()
    xs = inputs if isinstance(inputs, tuple) else (inputs,)
    if not xs or not all(isinstance(x, Tensor) for x in xs):
        raise TypeError(f"{what} must be a tensor or a tuple of tensors; given: {_classes(inputs)}.")
    for x in xs:
        check_kind(x, what)
        if moving and x.dtype not in DTYPES:
            advice = "Convert with .float()." if x.is_floating_point() else WHOLE
            raise TypeError(f"{what} must be float32 or float64; given: {x.dtype}. {advice}")
        if x.ndim == 0 or x.numel() == 0 or len(x) != len(xs[0]):
            raise ValueError(f"{what} must have at least one example and one feature, the examples in dimension 0 of "
                             f"every input; given shapes: {', '.join(str(tuple(x.shape)) for x in xs)}.")
        if finite and not bool(torch.isfinite(x).all()):
            raise ValueError(f"{what} contain NaN or infinite values; no ball around them can be certified.")
    if moving and len({x.dtype for x in xs}) > 1 or len({x.device for x in xs}) > 1:
        raise TypeError(f"all {what.lower()} must have one dtype and be on one device.")
    with torch.inference_mode(False):
        return tuple(plain(x).clone() if x.is_inference() else plain(x) for x in xs)


def _classes(inputs: Any) -> str:
    if not isinstance(inputs, tuple) or not inputs:
        return type(inputs).__name__
    return f"a tuple of {', '.join(type(x).__name__ for x in inputs)}"


def check_keywords(keywords: dict[str, Any]) -> None:
    """Refuse arguments of an attribution that have no values."""
    for name, value in keywords.items():
        if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in torch.utils._pytree.tree_leaves(value)):
            raise TypeError(f"{name} holds a tensor on the device meta, which has no values: make or load it on the "
                            "CPU or a GPU.")


def check_attribution(attribution: Any) -> None:
    """Refuse what has no attributions to speak of."""
    if not isinstance(attribution, Attribution):
        what = attribution.__name__ if isinstance(attribution, type) else type(attribution).__name__
        raise TypeError(f"attribution must be an object of one of Captum's classes, such as Saliency(model); given: "
                        f"{what}.")


def check_surroundings() -> None:
    """Refuse to run where tensors have no values of their own."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise ValueError("Bounds cannot be computed inside torch.func.vmap, grad, jvp or functionalize: call this "
                         "outside of them. It takes batches itself, and differentiable=True makes bounds that "
                         "torch.autograd.grad differentiates.")
    for mode in _get_current_dispatch_mode_stack():
        if type(mode).__name__ in MODES:
            raise ValueError(f"Bounds cannot be computed under {type(mode).__name__}, where tensors have no values: "
                             "call this outside of it.")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function as it is, also where torch.compile compiles the one that calls it."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:  # which is slow to import, and adds a filter of warnings
            return function(*args, **kwargs)
        return torch.compiler.disable(function)(*args, **kwargs)

    return called
