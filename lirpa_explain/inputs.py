"""What a function is called with, and where: tensors and surroundings that have values to bound."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from .bounding.ball import plain

P = ParamSpec("P")
R = TypeVar("R")

DTYPES = (torch.float64, torch.float32)

MODES = ("FakeTensorMode", "FunctionalTensorMode", "ProxyTorchDispatchMode")
"""Modes in which tensors have no values."""

KINDS: tuple[tuple[Callable[[Tensor], bool], str, str], ...] = (
    (lambda x: x.is_nested, "a nested tensor",
     "Pad it: torch.nested.to_padded_tensor(x, 0.0); what tells the model where goes to additional_forward_args."),
    (lambda x: type(x).__name__ == "MaskedTensor", "a masked tensor",
     "Give x.to_tensor(0.0); a mask that the model reads goes to additional_forward_args."),
    (lambda x: x.is_meta, "a tensor on the device meta, which has no values", "Make or load it on the CPU or a GPU."),
    (lambda x: x.layout is not torch.strided, "a sparse tensor, or one in mkldnn's layout", "Give x.to_dense()."),
    (lambda x: x.is_complex(), "a complex tensor", "Give torch.view_as_real(x), and a model that takes it."),
    (lambda x: type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__,
     "a tensor of a class with operations of its own", "Give a plain tensor."),
)
"""Tensors that are no input: how to tell, what they are, and what to give instead."""


def check_inputs(inputs: Any, *, finite: bool = True) -> tuple[Tensor, ...]:
    """The inputs as a tuple of plain tensors (N, *S) of one floating-point type.

    Args:
        inputs: as the caller gave them.
        finite: whether NaN and infinite values are refused.
    """
    check_surroundings()
    xs = inputs if isinstance(inputs, tuple) else (inputs,)
    if not xs or not all(isinstance(x, Tensor) for x in xs):
        raise TypeError(f"inputs must be a tensor or a tuple of tensors; given: {_classes(inputs)}.")
    for x in xs:
        for is_one, words, advice in KINDS:
            if is_one(x):
                raise TypeError(f"inputs must be dense real tensors; given: {words} ({type(x).__name__}). {advice}")
        if x.dtype not in DTYPES:
            raise TypeError(f"inputs must be float32 or float64; given: {x.dtype}. Convert with .float().")
        if x.ndim == 0 or x.numel() == 0 or len(x) != len(xs[0]):
            raise ValueError("inputs must have at least one example and one feature, the examples in dimension 0 of "
                             f"every input; given shapes: {', '.join(str(tuple(x.shape)) for x in xs)}.")
        if finite and not bool(torch.isfinite(x).all()):
            raise ValueError("inputs contain NaN or infinite values; no ball around them can be certified.")
    if len({x.dtype for x in xs}) > 1 or len({x.device for x in xs}) > 1:
        raise TypeError("all inputs must have one dtype and be on one device.")
    with torch.inference_mode(False):
        return tuple(plain(x).clone() if x.is_inference() else plain(x) for x in xs)


def _classes(inputs: Any) -> str:
    if not isinstance(inputs, tuple) or not inputs:
        return type(inputs).__name__
    return f"a tuple of {', '.join(type(x).__name__ for x in inputs)}"


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
        return torch.compiler.disable(function)(*args, **kwargs)

    return called
