"""Trace a function together with its gradient, and lower the trace to bound operators."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .. import operators
from ..errors import UnsupportedOperation
from .builder import Builder, Rows
from .lowering import lower
from .module import GradientModule, Step
from .whole import WholeFunctions

ROWS = 3
"""Batch size of the trace: the smallest in which the first, a middle and the last row differ."""

_BRANCHES = ("The model decides by the values of its input what to compute (an `if`, a loop or `.item()` on a tensor); "
             "bounds for all inputs in a ball cannot follow one recorded branch. Rewrite the decision with tensor "
             "operations.")
_NO_GRADIENT = ("The output does not depend on every input through differentiable operations, so autograd has no "
                "gradient to bound. Leave out `detach` and `no_grad`, and inputs that the model does not use.")

REFUSED = {
    "data-dependent": _BRANCHES,
    "_local_scalar_dense": _BRANCHES,
    "does not require grad": _NO_GRADIENT,
    "appears to not have been used in the graph": _NO_GRADIENT,
}
"""What torch says while tracing, and what it means for the model."""

OUTER: dict[str, tuple[str, dict[str, Any]]] = {
    "absolute": ("kink", {"slope": -1.0}),
    "square": ("power", {"exponent": 2}),
}
"""Outer maps by name: the operator and its settings."""


def capture(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], extras: tuple[Any, ...] = (), *,
            path: bool = False, multiply: bool = False, outer: str | None = None) -> GradientModule:
    """The gradient of `function(*inputs, *extras)` with respect to `inputs`, as a module of bound operators.

    Forward and backward pass are recorded by running them once (ATen operations, as autograd executes them), then
    each operation is translated by a table. Data-dependent control flow cannot be recorded and is refused.

    Args:
        function: maps tensors with a batch dimension to a tensor with a batch dimension; rows must be independent.
        inputs: example inputs, each (N, *S), N >= 1; any values.
        extras: further positional arguments. Tensors whose first dimension is N have rows and become inputs of the
            module; everything else is held constant.
        path: take the gradient at scale * x + shift, with scale (B, 1, ..., 1) and shift (B, *S) as inputs.
        multiply: multiply the gradient by x + offset, with offset (B, *S) as an input.
        outer: a key of `OUTER`: take absolute values, or squares, of the result.

    Returns:
        The module; see `GradientModule` for its inputs.

    Raises:
        UnsupportedOperation: an operation has no bound operator, rows are mixed, or the model is not differentiable.

    Example:
        >>> module = capture(lambda x: torch.tanh(2 * x).sum(1), (torch.ones(1, 2),))
        >>> print([step.operator for step in module.steps])
        ['scale', 'reshape', 'expand', 'tanh_gradient', 'scale']
    """
    example = tuple(_rows(x) for x in inputs)
    count = inputs[0].shape[0]
    row_like = [isinstance(e, Tensor) and e.ndim > 0 and e.shape[0] == count for e in extras]
    example_extras = [_rows(e) for e, has_rows in zip(extras, row_like, strict=True) if has_rows]

    def call(xs: tuple[Tensor, ...], rows: list[Tensor]) -> Tensor:
        remaining = iter(rows)
        return function(*xs, *(next(remaining) if has_rows else e
                               for e, has_rows in zip(extras, row_like, strict=True)))

    try:
        with torch.no_grad():
            output = call(example, example_extras)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedOperation(
            "The function must take any number of examples, and further tensor arguments with one row an example; with "
            f"{ROWS} examples it failed: {error}"
        ) from error
    if not isinstance(output, Tensor) or output.ndim == 0 or output.shape[0] != ROWS:
        raise UnsupportedOperation(
            f"The function must return one tensor whose first dimension is the batch; for {ROWS} rows it returned "
            f"{tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__}."
        )
    cotangent = torch.ones_like(output)
    graph = _trace(call, example, example_extras, cotangent)
    builder = Builder(ROWS, output.dtype, output.device)
    values = [Rows(f"x{i}", tuple(x.shape[1:])) for i, x in enumerate(example)]
    scales = [x.new_ones(ROWS, *[1] * (x.ndim - 1)) for x in example] if path else []
    shifts = [torch.zeros_like(x) for x in example] if path else []
    offsets = [torch.zeros_like(x) for x in example] if multiply else []
    named = [*zip([v.name for v in values], example, strict=True),
             *((f"scale{i}", scale) for i, scale in enumerate(scales)),
             *((f"shift{i}", shift) for i, shift in enumerate(shifts)),
             *((f"offset{i}", offset) for i, offset in enumerate(offsets)),
             *((f"argument{i}", e) for i, e in enumerate(example_extras)), ("cotangent", cotangent)]
    if path:
        values = [builder.emit("add", builder.emit("multiply", v, Rows(f"scale{i}", v.shape)),
                               Rows(f"shift{i}", v.shape)) for i, v in enumerate(values)]
    rest = [Rows(name, tuple(value.shape[1:])) for name, value in named[len(named) - len(example_extras) - 1:]]
    gradients = lower(graph, builder, [*values, *rest])
    if any(not g.leads or g.shape != v.shape for g, v in zip(gradients, values, strict=True)):
        raise UnsupportedOperation("The first dimension of the function's output is not the batch.")
    result = _side_by_side(builder, gradients)
    if multiply:
        factors = [builder.emit("add", Rows(f"x{i}", tuple(x.shape[1:])), Rows(f"offset{i}", tuple(x.shape[1:])))
                   for i, x in enumerate(example)]
        result = builder.emit("multiply", result, _side_by_side(builder, factors))
    if outer is not None:
        operator, settings = OUTER[outer]
        result = builder.emit(operator, result, **settings)
    steps = _needed(builder.steps, result.name)
    used = {name for step in steps for name in step.inputs} | {result.name}
    module = GradientModule([name for name, _ in named], steps, result.name, builder.used_tensors(used),
                            tuple(tuple(x.shape[1:]) for x in example), tuple(output.shape[1:]))
    _check_rows(module, [value for _, value in named])
    return module


def _side_by_side(builder: Builder, values: list[Rows]) -> Rows:
    """Values as one, each flattened."""
    flat = [builder.reshape(value, (math.prod(value.shape),)) for value in values]
    if len(flat) == 1:
        return flat[0]
    return builder.emit("concatenate", *flat, shape=(sum(part.shape[0] for part in flat),), dim=1)


def _rows(x: Tensor) -> Tensor:
    """ROWS rows of x, repeating the last if there are fewer."""
    index = torch.arange(ROWS, device=x.device).clamp(max=x.shape[0] - 1)
    return x.detach().as_subclass(Tensor)[index].clone()


def _trace(call: Callable[..., Tensor], inputs: tuple[Tensor, ...], extras: list[Tensor], cotangent: Tensor
           ) -> fx.GraphModule:
    """Record function and gradient as one graph; the order of its inputs: inputs, extras, cotangent."""
    count = len(inputs)

    def gradient(*tensors: Tensor) -> tuple[Tensor, ...]:
        xs = tuple(x.detach().requires_grad_() for x in tensors[:count])
        with torch.enable_grad():
            return torch.autograd.grad(call(xs, list(tensors[count:-1])), xs, tensors[-1])

    # Fused attention and mkldnn's kernels would be opaque single operations.
    with _no_warnings(), torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH), _module_paths(), \
            _SingleExamples(), WholeFunctions():
        try:
            return make_fx(gradient, record_stack_traces=True)(*inputs, *extras, cotangent)
        except TypeError as error:
            if "Multiple dispatch" not in str(error):
                raise
            raise UnsupportedOperation(
                "The model holds tensors of a class of their own, such as auto_LiRPA's BoundedParameter, which cannot "
                "be traced. Perturbed parameters are not supported: certify the model with plain parameters."
            ) from error
        except RuntimeError as error:
            reason = next((reason for sign, reason in REFUSED.items() if sign in str(error)), None)
            if reason is None:
                raise
            raise UnsupportedOperation(reason) from error


class _SingleExamples(TorchFunctionMode):
    """Functions that torch computes by merging the batch with the channels, replaced by equal ones that do not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.instance_norm:
            return _instance_norm(*args, **kwargs)
        if func is F.pad and (kwargs.get("mode") == "circular" or args[2:3] == ("circular",)):
            return _circular_pad(*args, **kwargs)
        return func(*args, **kwargs)


def _instance_norm(x: Tensor, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
                   use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    if use_input_stats:
        return F.group_norm(x, x.shape[1], weight, bias, eps)
    return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)


def _circular_pad(x: Tensor, pad: list[int], *_: Any, **__: Any) -> Tensor:
    for i in range(len(pad) // 2):
        index = torch.arange(-pad[2 * i], x.shape[-1 - i] + pad[2 * i + 1], device=x.device) % x.shape[-1 - i]
        x = x.index_select(x.ndim - 1 - i, index)
    return x


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Switching mkldnn off warns about hardware that is not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
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


def _needed(steps: list[Step], result: str) -> list[Step]:
    """The steps that the result depends on."""
    needed, kept = {result}, []
    for step in reversed(steps):
        if step.output in needed:
            needed.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def _check_rows(module: GradientModule, inputs: list[Tensor]) -> None:
    """Refuse a module that mixes rows: a NaN in one row must not reach another, whatever the operation.

    Each step is tested alone, because a comparison within the module could swallow a NaN.
    """
    values = dict(zip(module.input_names, inputs, strict=True))
    fixed = dict(module.named_parameters()) | dict(module.named_buffers())
    has_rows = set(values)
    with torch.no_grad():
        for step in module.steps:
            clean = [values[n] if n in values else fixed[n] for n in step.inputs]
            values[step.output] = operators.call(step.operator, *clean, **step.settings)
            if not has_rows.intersection(step.inputs):
                continue
            has_rows.add(step.output)
            for row in (0, ROWS - 1):
                dirty = [_with_nan(v, row) if n in has_rows else v for n, v in zip(step.inputs, clean, strict=True)]
                result = operators.call(step.operator, *dirty, **step.settings)
                others = [r for r in range(ROWS) if r != row]
                if result.shape[0] != ROWS or result.is_floating_point() and result[others].isnan().any():
                    raise UnsupportedOperation(
                        f"The model mixes the examples of a batch ({step}); each example must be computed from "
                        "itself alone."
                    )


def _with_nan(x: Tensor, row: int) -> Tensor:
    if not x.is_floating_point():
        return x
    x = torch.ones_like(x)  # not 0, where quotients and logarithms are not defined
    x[row] = torch.nan
    return x
