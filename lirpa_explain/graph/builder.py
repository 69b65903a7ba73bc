"""What a trace is lowered to: values that have rows, values that do not, and the steps that compute them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedOperation
from .module import Step


@dataclass(frozen=True)
class Rows:
    """A value that depends on an input: dimension 0 is the batch.

    Args:
        name: its name in the module.
        shape: shape of one row in the module.
        merged: the trace has the first entry of `shape` merged with the batch, in its dimension 0 (a linear layer on
            (N, L, C) is traced on (N * L, C)); the module keeps them apart.
    """

    name: str
    shape: tuple[int, ...]
    merged: bool = False

    @property
    def ndim(self) -> int:
        """Number of dimensions in the trace."""
        return len(self.shape) + (not self.merged)

    def dim(self, dim: int) -> int:
        """Dimension in the module of dimension `dim` in the trace, which must not be the batch."""
        dim = dim % self.ndim
        if dim == 0:
            raise UnsupportedOperation("an operation along the batch dimension")
        return dim + self.merged


@dataclass(frozen=True)
class Live:
    """A value that depends on parameters and no input; it stays a function of the parameters."""

    name: str
    value: Tensor


@dataclass(frozen=True)
class Indices:
    """Where a max pooling of `of` found its maxima; the gradient finds them again from the same input."""

    of: Rows


@dataclass(frozen=True)
class Comparison:
    """Where a value lies between two numbers (None: no limit), or where it does not if `inside` is False.

    With `closed` the numbers themselves lie between.
    """

    of: Rows
    low: float | None
    high: float | None
    closed: bool
    inside: bool = True


class Builder:
    """Collects the steps and tensors of a module while its trace is lowered.

    Args:
        rows: batch size of the trace.
        dtype: floating-point type of the trace.
        device: where it ran.
    """

    def __init__(self, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rows = rows
        self.dtype = dtype
        self.device = device
        self.steps: list[Step] = []
        self.tensors: dict[str, Tensor] = {}
        self._named: dict[int, tuple[Tensor, str]] = {}

    def step(self, operator: str, *inputs: str, **settings: Any) -> str:
        """Append a call and return the name of its result."""
        name = f"v{len(self.steps)}"
        self.steps.append(Step(operator, inputs, name, settings))
        return name

    def emit(self, operator: str, x: Rows, *inputs: Any, shape: tuple[int, ...] | None = None, **settings: Any
             ) -> Rows:
        """Append a call whose first input has rows; `shape` is the shape of a row of the result, if it differs."""
        name = self.step(operator, *[self.name(i) for i in (x, *inputs)], **settings)
        return Rows(name, x.shape if shape is None else tuple(shape), x.merged)

    def reshape(self, x: Rows, shape: tuple[int, ...], merged: bool | None = None) -> Rows:
        """The same entries in rows of another shape."""
        merged = x.merged if merged is None else merged
        if shape == x.shape:
            return Rows(x.name, shape, merged)
        return Rows(self.step("reshape", x.name, shape=list(shape)), shape, merged)

    def live(self, target: str, *arguments: Any) -> Any:
        """Append an ATen operation on parameters; the result is one `Live`, or a tuple of them."""
        tensors = [a for a in arguments if isinstance(a, Live | Tensor)]
        described = [{"tensor": True} if isinstance(a, Live | Tensor) else a for a in arguments]
        packet, overload = target.split(".")
        with torch.no_grad():
            value = getattr(getattr(torch.ops.aten, packet), overload)(
                *[a.value if isinstance(a, Live) else a for a in arguments])

        def result(part: Tensor, **which: int) -> Live:
            names = map(self.name, tensors)
            return Live(self.step("unperturbed", *names, target=target, arguments=described, **which), part)

        return result(value) if isinstance(value, Tensor) else \
            tuple(result(part, output=i) for i, part in enumerate(value))

    def name(self, value: Any) -> str:
        """Name of a value; a tensor becomes a parameter or buffer of the module."""
        if isinstance(value, Rows | Live):
            return value.name
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value, dtype=self.dtype, device=self.device)
        if id(value) not in self._named:
            name = f"{'parameter' if isinstance(value, nn.Parameter) else 'constant'}{len(self.tensors)}"
            # Constants must own their memory: the parser misreads expanded ones.
            own = value if isinstance(value, nn.Parameter) or value.is_contiguous() else value.contiguous()
            self.tensors[name] = own
            self._named[id(value)] = value, name
        return self._named[id(value)][1]

    def operand(self, value: Any, x: Rows) -> Any:
        """A second operand of an operation entry by entry on x, in the form in which it broadcasts in the module.

        A constant with the trace's batch dimension must be the same for all rows, and loses it.
        """
        if isinstance(value, Rows):
            if value.merged != x.merged or value.ndim != x.ndim:
                raise UnsupportedOperation("two factors whose batch dimensions do not line up")
            return value
        tensor = value.value if isinstance(value, Live) else torch.as_tensor(value)
        if tensor.ndim < x.ndim or tensor.shape[0] == 1 and tensor.ndim == x.ndim:
            return value
        rows = tensor.reshape(self.rows, -1, *tensor.shape[1:]) if tensor.ndim == x.ndim \
            and tensor.shape[0] % self.rows == 0 else None
        if rows is None or isinstance(value, Live) or not torch.equal(rows, rows[:1].expand_as(rows)):
            raise UnsupportedOperation("a constant that differs from example to example of the batch")
        return rows[:1].clone() if x.merged else rows[:1, 0].clone()

    def producer(self, value: Rows) -> Step | None:
        """The step that computed a value; None if it is an input."""
        return next((step for step in self.steps if step.output == value.name), None)

    def used_tensors(self, names: set[str]) -> dict[str, Tensor]:
        """The tensors among these names."""
        return {name: tensor for name, tensor in self.tensors.items() if name in names}
