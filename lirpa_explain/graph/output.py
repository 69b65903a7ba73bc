"""A function itself, without its gradient, as a module of bound operators."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..errors import UnsupportedOperation
from .builder import Builder, Rows
from .capture import ROWS, _check_rows, _needed, _numbered, _output, _rows
from .lowering import lower
from .module import GradientModule
from .trace import record_output


def capture_output(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], extras: tuple[Any, ...] = ()
                   ) -> GradientModule:
    """The output of `function(*inputs, *extras)`, flattened (B, D), as a module of the operators gradients are made of.

    Args:
        function: as for `capture`.
        inputs: example inputs, each (N, *S).
        extras: further positional arguments, as for `capture`.

    Returns:
        A module whose inputs are those of the function that have rows.

    Raises:
        UnsupportedOperation: an operation has no bound operator, or rows are mixed.

    Example:
        >>> import torch
        >>> module = capture_output(lambda x: torch.tanh(2 * x), (torch.ones(1, 2),))
        >>> print([step.operator for step in module.steps])
        ['scale', 'tanh']
    """
    example = tuple(_rows(x) for x in inputs)
    count = inputs[0].shape[0]
    row_like = [isinstance(e, Tensor) and e.ndim > 0 and e.shape[0] == count for e in extras]
    example_extras = [_rows(e) for e, has_rows in zip(extras, row_like, strict=True) if has_rows]

    def call(xs: tuple[Tensor, ...], rows: list[Tensor]) -> Tensor:
        remaining = iter(rows)
        return function(*xs, *(next(remaining) if has_rows else e
                               for e, has_rows in zip(extras, row_like, strict=True)))

    output = _output(call, example, example_extras)
    named = {**_numbered("x", example), **_numbered("argument", example_extras)}
    builder = Builder(ROWS, output.dtype, output.device)
    graph = record_output(call, example, example_extras)
    result, = lower(graph, builder, [Rows(name, tuple(tensor.shape[1:])) for name, tensor in named.items()])
    if not isinstance(result, Rows) or not result.leads:
        raise UnsupportedOperation("The first dimension of the function's output is not the batch, or it is constant.")
    result = builder.reshape(result, (math.prod(result.shape),))
    steps = _needed(builder.steps, result.name)
    used = {name for step in steps for name in step.inputs} | {result.name}
    module = GradientModule(named, steps, result.name, builder.used_tensors(used),
                            tuple(tuple(x.shape[1:]) for x in example), tuple(output.shape[1:]))
    _check_rows(module, list(named.values()))
    return module
