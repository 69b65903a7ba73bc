"""The gradient of a function as a module: a straight list of operator calls."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .. import operators
from .arguments import Arguments, has_rows


@dataclass(frozen=True)
class Step:
    """One call: `output = operator(*inputs, **settings)`; values are known by name."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        arguments = [*self.inputs, *(f"{name}={value}" for name, value in self.settings.items())]
        return f"{self.output} = {self.operator}({', '.join(arguments)})"


class GradientModule(nn.Module):
    """Gradients of a function, and what is made of them, as a sequence of bound operators.

    `module(*inputs)` has shape (B, D): all results, flattened and side by side, where D is the
    number of their entries in one row. As `capture` makes it, these are the gradients with respect
    to all inputs of the function. `inputs` are named by `input_names`: the function's inputs x0,
    x1, ..., a scale and a shift for each of them if the module was captured with `path=True` (the
    gradient is then taken at scale * x + shift), an offset for each if it was captured with
    `multiply=True` (the gradient is then multiplied by x + offset), what `further` makes of other
    arguments of the function that have rows, and last the cotangent: what the function's output is
    multiplied by before it is differentiated, for each row.

    It is an ordinary module: it runs, moves to another device, and can be given to any auto_LiRPA
    `BoundedModule`. Its parameters are the very parameters of the function it was captured from.

    Args:
        input_names: names of the inputs, in order.
        steps: what is computed, in order.
        output: name of the result.
        tensors: parameters and constants by name.
        shapes: shape of one row of each result.
        cotangent_shape: shape of one row of the function's output.
        example: an example of each input, a few rows each.
        arguments: what makes those of its inputs that the model's further arguments go into.

    `transcript` is what the function reads of the whole batch that it was captured for, where it
    reads something else of its examples.
    """

    transcript: list[str] | None = None

    def __init__(self, input_names: Iterable[str], steps: Iterable[Step], output: str,
                 tensors: dict[str, Tensor],
                 shapes: tuple[tuple[int, ...], ...], cotangent_shape: tuple[int, ...],
                 example: tuple[Tensor, ...] = (), arguments: Arguments | None = None) -> None:
        super().__init__()
        self.input_names = tuple(input_names)
        self.steps = tuple(steps)
        self.output = output
        self.shapes = shapes
        self.cotangent_shape = cotangent_shape
        self.example = example
        self.arguments = arguments
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The results (B, D) at inputs with B rows.

        Raises:
            TypeError: there are not as many inputs as the module has.
        """
        if len(inputs) != len(self.input_names):
            raise TypeError(f"Expected the inputs {', '.join(self.input_names)}; {len(inputs)} "
                            "were given.")
        return self.run(lambda step,
                        *tensors: operators.call(step.operator, *tensors, **step.settings), inputs)

    def further(self, extras: Iterable[Any], count: int) -> tuple[Tensor, ...]:
        """The inputs made of further arguments: tensors among these with `count` rows."""
        if self.arguments is None:
            return ()
        return tuple(self.arguments.rows([e for e in extras if has_rows(e, count)]))

    def reads_the_same(self, extras: Iterable[Any], count: int) -> bool:
        """Whether each of `count` examples' further arguments give what the trace read."""
        with_rows = [extra for extra in extras if has_rows(extra, count)]
        return self.arguments is None or self.arguments.same(with_rows)

    def run(self, call: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        """The results (B, D) if `call(step, *tensors)` computes each step."""
        values = dict(zip(self.input_names, inputs, strict=True))
        values |= dict(self.named_parameters(recurse=False)) | dict(
            self.named_buffers(recurse=False))
        for step in self.steps:
            values[step.output] = call(step, *[values[n] for n in step.inputs])
        return values[self.output]

    def values(self, names: Collection[str], inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Values by name, of steps and of what they read; steps after all of these are left out."""
        missing, found = set(names), dict(zip(self.input_names, inputs, strict=True))
        found |= dict(self.named_parameters(recurse=False))
        found |= dict(self.named_buffers(recurse=False))
        for step in self.steps:
            missing -= found.keys()
            if not missing:
                break
            tensors = [found[n] for n in step.inputs]
            found[step.output] = operators.call(step.operator, *tensors, **step.settings)
        return {name: found[name] for name in names}

    def depends_on(self, names: Iterable[str]) -> bool:
        """Whether the result depends on any of these inputs."""
        reached = set(names)
        for step in self.steps:
            if reached.intersection(step.inputs):
                reached.add(step.output)
        return self.output in reached

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Cut (B, D) into the results, each (B, *T)."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes]
        return tuple(part.reshape(-1, *shape)
                     for part, shape in zip(flat.split(sizes, 1), self.shapes, strict=True))

    @property
    def size(self) -> int:
        """D, the number of entries of a row's results."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    def extra_repr(self) -> str:
        """The steps, one a line."""
        return "\n".join([f"inputs: {', '.join(self.input_names)}", *map(str, self.steps),
                          f"return {self.output}"])
