"""Record a function together with its gradient as one graph of ATen operations."""

import contextlib
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.distributions import Distribution
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import CaptumWarning, LirpaExplainError, UnsupportedOperation
from .functional import functional, one_fake_mode
from .origin import line_of
from .readouts import NoReadouts, Reading, Readings
from .replacements import Replacements

_BRANCHES = ("The model decides by the values of its input what to compute (an `if`, a loop or "
             "`.item()` on a tensor); bounds for all inputs in a ball cannot follow one recorded "
             "branch. Rewrite the decision with tensor operations.")
_NO_GRADIENT = ("The output does not depend on every input through differentiable operations, so "
                "autograd has no gradient to bound. Leave out `detach` and `no_grad`, and inputs "
                "that the model does not use.")

REFUSED = {
    "data-dependent": _BRANCHES,
    "_local_scalar_dense": _BRANCHES,
    "does not require grad": _NO_GRADIENT,
    "appears to not have been used in the graph": _NO_GRADIENT,
}
"""What torch says while tracing, and what it means for the model."""


class Recording(NamedTuple):
    """A recorded graph: its results are followed by what was read of further arguments."""

    graph: fx.GraphModule
    results: int


def record(function: Callable[..., tuple[Tensor, ...]], tensors: tuple[Tensor, ...],
           arguments: range) -> Recording:
    """Record a function and the gradients it takes as one graph with these tensors as inputs.

    Args:
        function: maps the tensors to a tuple of tensors.
        tensors: example inputs.
        arguments: positions of those that never move, further arguments of the model: what is read
            of them is constant.

    Returns:
        The graph; writes in place are recorded as such.
    """
    readings = Readings(arguments)
    count = 0

    def enabled(*values: Tensor) -> tuple[Tensor, ...]:
        nonlocal count
        with torch.enable_grad(), Reading(readings), one_fake_mode():
            results = function(*values)
        count = len(results)
        return *results, *readings.tensors

    with _plainly(), _unvalidated(), _module_paths(), Replacements(), NoReadouts(readings):
        return Recording(make_fx(enabled, record_stack_traces=True)(*tensors), count)


def pure(recording: Recording, tensors: tuple[Tensor, ...]) -> Recording:
    """The recording without in-place writes, decomposed where an operation has no rule."""
    with _plainly():
        return recording._replace(graph=functional(recording.graph, tensors))


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Have torch call plain operations: fused attention and mkldnn kernels would be opaque."""
    with _no_warnings(), torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(
        SDPBackend.MATH), _named_reasons():
        yield


@contextlib.contextmanager
def _unvalidated() -> Iterator[None]:
    """Keep distributions from looking at their parameters' values, which computes nothing.

    Those of the inputs at hand were looked at when the model was called to see its output.
    """
    validated = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(validated)


@contextlib.contextmanager
def _named_reasons() -> Iterator[None]:
    """Say what torch's errors mean for the model."""
    try:
        yield
    except TypeError as error:
        if "Multiple dispatch" not in str(error):
            raise
        raise UnsupportedOperation(
            "The model holds tensors of a class of their own, such as auto_LiRPA's "
            "BoundedParameter, which cannot be traced. Keep the parameters plain, and give their "
            "perturbation to certify(..., parameters=...).") from error
    except RuntimeError as error:
        reason = next((reason for sign, reason in REFUSED.items() if sign in str(error)), None)
        if isinstance(error, torch.OutOfMemoryError | LirpaExplainError):
            raise
        line = line_of(traceback.extract_tb(error.__traceback__))
        words = reason or f"torch cannot record the model with its gradient: {error}"
        raise UnsupportedOperation(words + line) from error


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Hide torch's warning that hardware for mkldnn is missing; pass our own warnings on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", CaptumWarning)
        yield


@contextlib.contextmanager
def _module_paths() -> Iterator[None]:
    """Note on each recorded node which module it was called from, as `meta["module"]`."""
    stack: list[str] = []
    names: dict[nn.Module, str] = {}

    def entered(module: nn.Module, _: Any) -> None:
        if not stack:
            names.update({m: n or type(module).__name__ for n, m in module.named_modules()})
        stack.append(f"{names.get(module, '?')} ({type(module).__name__})")
        _mark("")

    def left(module: nn.Module, _: Any, __: Any) -> None:
        if stack:
            _mark(stack.pop())

    def _mark(path: str) -> None:
        mode = get_proxy_mode()
        if mode is None:
            return
        for node in reversed(mode.tracer.graph.nodes):
            if "module" in node.meta:
                break
            node.meta["module"] = path or (stack[-2] if len(stack) > 1 else "")

    handles = [nn.modules.module.register_module_forward_pre_hook(entered),
               nn.modules.module.register_module_forward_hook(left)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
