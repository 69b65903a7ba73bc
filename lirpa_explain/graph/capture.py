"""Trace a function together with its gradient, and lower the trace to bound operators."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import operators
from ..errors import LirpaExplainError, UnsupportedOperation
from ..guards import isolated
from ..inputs import check_inputs, uncompiled
from ..tensors import check_kind
from .arguments import has_rows
from .builder import Builder, Rows
from .commute import pooled_first
from .lowering import lower
from .module import GradientModule, Step
from .program import POINTS, Program, gradient, input_names, multiplied
from .repeats import check_repeats
from .trace import pure, record
from .transcripts import rows_that_read_alike, transcript

TRACED_ROWS = 3
"""Batch size of the trace: the smallest in which the first, a middle and the last row differ."""

OUTER: dict[str, tuple[str, dict[str, Any]]] = {
    "absolute": ("kink", {"slope": -1.0}),
    "square": ("power", {"exponent": 2}),
}
"""Outer maps by name: the operator and its settings."""


@uncompiled
def capture(function: Callable[..., Tensor], inputs: tuple[Tensor, ...],
            extras: tuple[Any, ...] = (), *,
            path: bool = False, multiply: bool = False, outer: str | None = None) -> GradientModule:
    """The gradient of `function(*inputs, *extras)` with respect to `inputs`, as a module of bound
    operators.

    Forward and backward pass are recorded by running them once (ATen operations, as autograd
    executes them), then each operation is translated by a table. Data-dependent control flow cannot
    be recorded and is refused.

    Args:
        function: maps tensors with a batch dimension to a tensor with a batch dimension; rows must
            be independent.
        inputs: example inputs, each (N, *S), N >= 1; any values.
        extras: further positional arguments. Tensors whose first dimension is N have rows and
            become inputs of the module; everything else is held constant.
        path: take the gradient at scale * x + shift, with scale (B, 1, ..., 1) and shift (B, *S) as
            inputs.
        multiply: multiply the gradient by x + offset, with offset (B, *S) as an input.
        outer: a key of `OUTER`: take absolute values, or squares, of the result.

    Returns:
        The module; see `GradientModule` for its inputs.

    Raises:
        UnsupportedOperation: an operation has no bound operator, rows are mixed, or the model is
            not differentiable.

    Example:
        >>> module = capture(lambda x: torch.tanh(2 * x).sum(1), (torch.ones(1, 2),))
        >>> print([step.operator for step in module.steps])
        ['scale', 'reshape', 'expand', 'tanh_gradient', 'scale']
    """
    inputs = check_inputs(tuple(inputs), finite=False)
    program = gradient("path" if path else "input")
    return capture_program(multiplied(program) if multiply else program, function, inputs, extras,
                           outer=outer)


def capture_program(program: Program, function: Callable[..., Tensor], inputs: tuple[Tensor, ...],
                    extras: tuple[Any, ...] = (), *, outer: str | None = None) -> GradientModule:
    """What a program computes of a function, as a module of bound operators.

    Args:
        program: what is computed for each row.
        function: as for `capture`, and so all others.
        inputs: example inputs.
        extras: further positional arguments of the function.
        outer: a key of `OUTER`.

    Returns:
        The module. Its inputs are x0, x1, ...; the tensors that the program's points read, such as
        scale0, scale1, shift0, shift1; alpha if the program reads it; argument0, ...; cotangent if
        the program differentiates.
    """
    rows = [min(i, len(inputs[0]) - 1) for i in range(TRACED_ROWS)]
    module = _captured(program, function, inputs, extras, outer, rows)
    if module.reads_the_same(extras, len(inputs[0])):
        return module
    with isolated(inputs[0].device, function):
        alike = rows_that_read_alike(function, inputs, extras, TRACED_ROWS)
        if alike is None:
            raise UnsupportedOperation(
                "The model reads additional_forward_args, as by an `if`, .item() or tolist(), and "
                "goes on differently for the examples of this batch. Certify those apart that it "
                "treats differently, for instance one at a time.")
        transcribed = transcript(function, inputs, extras)
    module = module if alike == rows else _captured(program, function, inputs, extras, outer, alike)
    module.transcript = transcribed
    return module


def reads_alike(module: GradientModule, function: Callable[..., Tensor], inputs: tuple[Tensor, ...],
                extras: tuple[Any, ...]) -> bool:
    """Whether a function reads of these further arguments what it read when the module of it was
    captured.

    It may read that of each example, or of the whole batch.
    """
    if module.reads_the_same(extras, len(inputs[0])):
        return True
    if module.transcript is None:
        return False
    with isolated(inputs[0].device, function):
        return transcript(function, inputs, extras) == module.transcript


def _captured(program: Program, function: Callable[..., Tensor], inputs: tuple[Tensor, ...],
              extras: tuple[Any, ...], outer: str | None, rows: list[int]) -> GradientModule:
    """The module made of these rows of the example inputs."""
    example = tuple(_rows(x, rows) for x in inputs)
    row_like = [has_rows(e, len(inputs[0])) for e in extras]
    arguments = [_rows(e, rows) for e, has_rows in zip(extras, row_like, strict=True) if has_rows]

    def call(rows: tuple[Tensor, ...], *xs: Tensor) -> Tensor:
        remaining = iter(rows)
        return function(*xs, *(next(remaining) if has_rows else e
                               for e, has_rows in zip(extras, row_like, strict=True)))

    with isolated(inputs[0].device, function):
        call, output = _batched(call, example, arguments)
    _refuse_conversion(example[0], output)
    groups = {
        "x": example,
        **{name: tuple(tensor.example(x) for x in example)
           for name, tensor in program.tensors().items()},
        **({"alpha": (example[0].new_ones(TRACED_ROWS),)} if program.alpha else {}),
        "argument": tuple(arguments),
        **({"cotangent": (torch.ones_like(output),)} if program.differentiates else {}),
    }

    def compute(*tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        given = {name: tuple(next(rest) for _ in group) for name, group in groups.items()}
        points = {name: tuple(map(POINTS[name].function, given["x"],
                                  *(given[t] for t in POINTS[name].tensors)))
                  for name in program.points}
        if program.alpha:
            points["alpha"] = given["alpha"]
        return program.compute(functools.partial(call, given["argument"]), points,
                               *given.get("cotangent", (None,)))

    flat = tuple(tensor for group in groups.values() for tensor in group)
    named = {kind: dict(zip(input_names(kind, len(group)), group, strict=False))
             for kind, group in groups.items()}
    values: list[Rows | Tensor] = [
        tensor if kind == "argument" else Rows(name, tuple(tensor.shape[1:]))
        for kind, group in named.items() for name, tensor in group.items()]
    given = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
    positions = range(given[0], given[-1] + 1) if given else range(0)
    with isolated(inputs[0].device, function):
        recording = record(compute, flat, positions)
    with isolated(inputs[0].device, function):  # which restores what the model has written
        recording = pure(recording, flat)
    builder = Builder(TRACED_ROWS, output.dtype, output.device)
    lowered = lower(recording.graph, builder, values)
    results, read = lowered[: recording.results], lowered[recording.results:]
    if not all(isinstance(result, Rows) and result.leads for result in results):
        raise UnsupportedOperation("The first dimension of the function's output is not the batch.")
    with isolated(inputs[0].device, function):
        check_repeats(lambda: _output(call, example, arguments), output)
    builder.arguments.complete(recording.graph, positions, arguments, read)
    named["argument"] = {f"argument{i}": tensor
                         for i, tensor in enumerate(builder.arguments.traced())}
    return _module(builder, results, named, outer, tuple(output.shape[1:]))


def _module(builder: Builder, results: list[Rows], named: dict[str, dict[str, Tensor]],
            outer: str | None, cotangent_shape: tuple[int, ...]) -> GradientModule:
    """The module of what was built, with examples of its inputs by kind and name."""
    examples = {name: tensor for group in named.values() for name, tensor in group.items()}
    final = _side_by_side(builder, results)
    if outer is not None:
        operator, settings = OUTER[outer]
        final = builder.emit(operator, final, **settings)
    if final.name in examples:  # auto_LiRPA has no bounds of an input in a ball other than a box
        final = builder.emit("scale", final, factor=1.0)
    steps = pooled_first(_needed(builder.steps, final.name), final.name)
    used = {name for step in steps for name in step.inputs} | {final.name}
    module = GradientModule(examples, steps, final.name, builder.used_tensors(used),
                            tuple(result.shape for result in results), cotangent_shape,
                            tuple(examples.values()), builder.arguments)
    _check_rows(module)
    return module


def _batched(call: Callable[..., Tensor], example: tuple[Tensor, ...], arguments: list[Tensor]
             ) -> tuple[Callable[..., Tensor], Tensor]:
    """The function for any number of examples, and its output for TRACED_ROWS.

    One that takes one example only, as where it reshapes to (1, -1), is mapped over examples.
    """
    def each(rows: tuple[Tensor, ...], *xs: Tensor) -> Tensor:
        def one(row: tuple[Tensor, ...], *x: Tensor) -> Tensor:
            result = call(tuple(r[None] for r in row), *(x_[None] for x_ in x))
            if len(result) != 1:
                raise UnsupportedOperation(f"For one example it returned {len(result)} rows.")
            return result[0]

        return torch.func.vmap(one)(rows, *xs)

    try:
        return call, _output(call, example, arguments)
    except UnsupportedOperation:
        try:
            return each, _output(each, example, arguments)
        except UnsupportedOperation:
            pass
        raise


def _refuse_conversion(x: Tensor, output: Tensor) -> None:
    if output.dtype != x.dtype:
        raise UnsupportedOperation(
            f"The model's output is {output.dtype} and its inputs are {x.dtype}: it converts them, "
            f"and bounds are there for computations in one type. Give inputs in {output.dtype}, or "
            "convert the model.")


def _output(call: Callable[..., Tensor], example: tuple[Tensor, ...],
            arguments: list[Tensor]) -> Tensor:
    """The function's output for TRACED_ROWS rows, of which it must return one tensor with as
    many.
    """
    try:
        with torch.enable_grad():  # which the function may need for gradients of its own
            output = call(tuple(arguments), *(x.clone() for x in example))
    except (torch.OutOfMemoryError, LirpaExplainError):
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
            ValueError) as error:
        raise UnsupportedOperation(
            "The function must take any number of examples, and further tensor arguments with one "
            f"row an example; with {TRACED_ROWS} examples it failed: {error}. Make what holds a "
            "batch size from that of the input, x.shape[0].") from error
    if isinstance(output, Tensor):
        check_kind(output, "The function's output")
    if not isinstance(output, Tensor) or output.ndim == 0 or output.shape[0] != TRACED_ROWS:
        raise UnsupportedOperation(
            "The function must return one tensor whose first dimension is the batch; for "
            f"{TRACED_ROWS} rows it returned "
            f"{tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__}.")
    return output.detach()


def _side_by_side(builder: Builder, values: list[Rows]) -> Rows:
    """Values as one, each flattened."""
    flat = [builder.reshape(value, (math.prod(value.shape),)) for value in values]
    if len(flat) == 1:
        return flat[0]
    return builder.emit("concatenate", *flat, shape=(sum(part.shape[0] for part in flat),), dim=1)


def _rows(x: Tensor, rows: list[int]) -> Tensor:
    return x.detach().as_subclass(Tensor)[torch.tensor(rows, device=x.device)].clone()


def _needed(steps: list[Step], result: str) -> list[Step]:
    """The steps that the result depends on."""
    needed, kept = {result}, []
    for step in reversed(steps):
        if step.output in needed:
            needed.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def _check_rows(module: GradientModule) -> None:
    """Refuse a module that mixes rows: a NaN in one row must not reach another, whatever the
    operation.

    Each step is tested alone, because a comparison within the module could swallow a NaN. What is
    made of further arguments, such as indices, is made for each row alone, and stays as it is.
    """
    values = dict(zip(module.input_names, module.example, strict=True))
    fixed = dict(module.named_parameters()) | dict(module.named_buffers())
    has_rows = set(values) - set(input_names("argument",
                                             module.arguments.count if module.arguments else 0))
    with torch.no_grad():
        for step in module.steps:
            clean = [values[n] if n in values else fixed[n] for n in step.inputs]
            values[step.output] = operators.call(step.operator, *clean, **step.settings)
            if not has_rows.intersection(step.inputs):
                continue
            has_rows.add(step.output)
            for row in (0, TRACED_ROWS - 1):
                dirty = [_with_nan(v, row) if n in has_rows else v
                         for n, v in zip(step.inputs, clean, strict=True)]
                result = operators.call(step.operator, *dirty, **step.settings)
                others = [r for r in range(TRACED_ROWS) if r != row]
                if (result.shape[0] != TRACED_ROWS
                        or result.is_floating_point() and result[others].isnan().any()):
                    raise UnsupportedOperation(f"The model mixes the examples of a batch ({step}); "
                                               "each example must be computed from itself alone.")


def _with_nan(x: Tensor, row: int) -> Tensor:
    if not x.is_floating_point():
        return x
    x = torch.ones_like(x)  # not 0, where quotients and logarithms are not defined
    x[row] = torch.nan
    return x
