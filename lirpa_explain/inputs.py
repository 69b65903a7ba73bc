"""What a function is called with, and where: tensors and surroundings that have values to bound."""

import difflib
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from captum.attr import Attribution
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from .arrays import is_frame
from .errors import UnsupportedAttribution
from .tensors import check_kind, plain

P = ParamSpec("P")
R = TypeVar("R")

DTYPES = (torch.float64, torch.float32)

MODES = ("FakeTensorMode", "FunctionalTensorMode", "ProxyTorchDispatchMode")
"""Modes in which tensors have no values."""


WHOLE = ("Whole numbers, such as token ids, cannot move. Certify an attribution at the layer that "
         "reads them, such as LayerIntegratedGradients(model, model.embedding) with "
         "perturb='layer', which puts the ball on the layer's output; or explain the embeddings, "
         "and pass ids that are held fixed as additional_forward_args. If the numbers are "
         "quantities, convert them with .float().")


def check_inputs(inputs: Any, *, finite: bool = True, moving: bool = True,
                 what: str = "inputs") -> tuple[Tensor, ...]:
    """The inputs as a tuple of plain tensors (N, *S), of one floating-point type.

    Args:
        inputs: as the caller gave them.
        finite: whether NaN and infinite values are refused.
        moving: whether they are to be perturbed; else they may be of any types.
        what: their name, for messages.

    Raises:
        TypeError: they are no tensors, or of types that cannot be perturbed or differ.
        ValueError: they have no examples, differ in how many, or have entries that are not finite.
    """
    check_surroundings()
    xs = inputs if isinstance(inputs, tuple) else (inputs,)
    if not xs or not all(isinstance(x, Tensor) for x in xs):
        raise TypeError(f"{what} must be a tensor or a tuple of tensors; given: "
                        f"{_classes(inputs)}.")
    for x in xs:
        check_kind(x, what)
        if moving and x.dtype not in DTYPES:
            advice = "Convert with .float()." if x.is_floating_point() else WHOLE
            raise TypeError(f"{what} must be float32 or float64; given: {x.dtype}. {advice}")
        if x.ndim == 0 or x.numel() == 0 or len(x) != len(xs[0]):
            raise ValueError(f"{what} must have at least one example and one feature, the examples "
                             "in dimension 0 of every input; given shapes: "
                             f"{', '.join(str(tuple(x.shape)) for x in xs)}.")
        if finite and not bool(torch.isfinite(x).all()):
            raise ValueError(f"{what} contain NaN or infinite values; no ball around them can be "
                             "certified.")
    if moving and len({x.dtype for x in xs}) > 1 or len({x.device for x in xs}) > 1:
        raise TypeError(f"all {what.lower()} must have one dtype and be on one device.")
    with torch.inference_mode(False):
        return tuple(plain(x).clone() if x.is_inference() else plain(x) for x in xs)


def _classes(inputs: Any) -> str:
    if not isinstance(inputs, tuple) or not inputs:
        return type(inputs).__name__
    return f"a tuple of {', '.join(type(x).__name__ for x in inputs)}"


def check_keywords(keywords: dict[str, Any]) -> None:
    """Refuse arguments of an attribution that have no values.

    Raises:
        TypeError: one is on the device meta.
    """
    for name, value in keywords.items():
        if any(isinstance(leaf, Tensor) and leaf.is_meta
               for leaf in torch.utils._pytree.tree_leaves(value)):
            raise TypeError(f"{name} holds a tensor on the device meta, which has no values: make "
                            "or load it on the CPU or a GPU.")


INSTEAD: tuple[tuple[Callable[[Any], bool], Callable[[Any], str]], ...] = (
    (lambda a: isinstance(a, type), lambda a: f"the class {a.__name__}. Make an object of it: "
     f"{a.__name__}(model)"),
    (lambda a: isinstance(a, str), lambda a: f"the string {a!r:.40}. Import the class from "
     f"captum.attr, and pass an object of it: {a if a.isidentifier() else 'Saliency'}(model)"),
    (lambda a: isinstance(a, nn.Module), lambda a: f"a model, {type(a).__name__}. Say how it is to "
     "be explained: Saliency(model), or another class of captum.attr"),
    (lambda a: isinstance(getattr(a, "__self__", None), Attribution),
     lambda a: f"the method {a.__name__} of a {type(a.__self__).__name__}. Pass the object itself, "
     "and what its method takes as keywords"),
    (lambda a: isinstance(a, Tensor | np.ndarray | tuple) or is_frame(a),
     lambda a: f"a {type(a).__name__}. The attribution comes first, the inputs second"),
)
"""What is passed in place of a Captum object: how to tell, and what it is and what to write
instead."""


def check_explains(attribution: Any) -> None:
    """Refuse what is neither an object with a method `attribute` nor a function that explains.

    Raises:
        UnsupportedAttribution: it is neither.
    """
    words = next((say(attribution) for is_one, say in INSTEAD if is_one(attribution)), None)
    if words is None and not callable(getattr(attribution, "attribute", attribution)):
        words = type(attribution).__name__
    if words is not None:
        raise UnsupportedAttribution("attribution must be an object with a method attribute, such "
                                     "as Saliency(model), or a function of the inputs; given: "
                                     f"{words}.")


def check_attribution(attribution: Any) -> None:
    """Refuse what has no attributions to speak of.

    Raises:
        UnsupportedAttribution: it is no object of a class of Captum's.
    """
    if isinstance(attribution, Attribution):
        return
    words = next((say(attribution) for is_one, say in INSTEAD if is_one(attribution)),
                 type(attribution).__name__)
    raise UnsupportedAttribution("attribution must be an object of one of Captum's classes, such "
                                 f"as Saliency(model); given: {words}.")


def check_known(attribution: Attribution, keywords: dict[str, Any], own: Callable[..., Any],
                later: Callable[..., Any] | None = None) -> None:
    """Refuse keywords that neither a function of ours nor the attribution takes, and name those
    that are like them.

    Args:
        attribution: a Captum object.
        keywords: what is left for its `attribute`.
        own: the function that was called, or a class.
        later: a function that is called later, and takes further keywords.

    Raises:
        TypeError: there is one.
    """
    known = _keywords_of(attribution)
    if known is None:
        return
    ours = _own(own)
    name = type(attribution).__name__
    for keyword in keywords:
        if keyword not in known:
            near = difflib.get_close_matches(keyword, sorted(ours | known - {keyword}), 1)
            words = (f"did you mean {near[0]!r}?"
                     if near else f"{own.__name__} takes {', '.join(sorted(ours))}.")
            if later is not None and keyword in _own(later):
                words = f"give it to {later.__name__}."
            raise TypeError(f"Captum's {name}.attribute rejects these arguments: it has no "
                            f"{keyword!r}, nor has {own.__name__}; {words}")


def _own(function: Callable[..., Any]) -> set[str]:
    """The keywords of a function of ours that are its own."""
    return _parameters(function)[0] - {"self", "attribution", "inputs", "example_inputs"}


def _keywords_of(attribution: Any) -> set[str] | None:
    """All keywords of an attribution's `attribute`; None if it may take any."""
    names, takes_any = _parameters(attribution.attribute)
    if not takes_any:
        return names - {"self", "inputs"}
    inner = getattr(attribution, "attribution_method", None)
    further = None if inner is None else _keywords_of(inner)
    return None if further is None else names - {"self", "inputs", "kwargs"} | further


def _parameters(function: Callable[..., Any]) -> tuple[set[str], bool]:
    """The names of a function's parameters, and whether it takes further keywords."""
    parameters = inspect.signature(function).parameters.values()
    return ({p.name for p in parameters if p.kind is not p.VAR_KEYWORD},
            any(p.kind is p.VAR_KEYWORD for p in parameters))


def check_surroundings() -> None:
    """Refuse to run where tensors have no values of their own.

    Raises:
        ValueError: they have none: inside transformations of torch.func, and fake modes.
    """
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise ValueError("Bounds cannot be computed inside torch.func.vmap, grad, jvp or "
                         "functionalize: call this outside of them. It takes batches itself, and "
                         "differentiable=True makes bounds that torch.autograd.grad "
                         "differentiates.")
    for mode in _get_current_dispatch_mode_stack():
        if type(mode).__name__ in MODES:
            raise ValueError(f"Bounds cannot be computed under {type(mode).__name__}, where "
                             "tensors have no values: call this outside of it.")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function as it is, also where torch.compile compiles the one that calls it."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        # which is slow to import, and adds a filter of warnings
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        return torch.compiler.disable(function)(*args, **kwargs)

    return called
