"""What a trace is lowered to: values with and without rows, and the steps between them."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import UnsupportedOperation
from ..operators.unperturbed import TENSOR, call_aten
from .arguments import Arguments, Given
from .module import Step


@dataclass(frozen=True)
class Rows:
    """A value that depends on an input; the batch is dimension 0 in the module, any in the trace.

    The trace's tensor is the module's with the batch moved behind the first `before` dimensions of
    a row, and merged with a neighbour where `outer` or `inner` say so: (T, N, C) has `before` = 1;
    a linear layer on (N, L, C) is traced on (N * L, C), which has `inner`, and on (T, N, C) on (T *
    N, C), which has `before` = 1 and `outer`.

    Args:
        name: its name in the module.
        shape: shape of one row in the module.
        before: number of dimensions of a row that come before the batch in the trace.
        outer: the last of them is merged with the batch, which runs faster.
        inner: the first dimension of a row after the batch is merged with it; the batch runs
            slower.
    """

    name: str
    shape: tuple[int, ...]
    before: int = 0
    outer: bool = False
    inner: bool = False

    @property
    def ndim(self) -> int:
        """Number of dimensions in the trace."""
        return len(self.shape) + 1 - self.outer - self.inner

    @property
    def batch(self) -> int:
        """The dimension of the trace that holds the batch."""
        return self.before - self.outer

    @property
    def merged(self) -> tuple[int, int]:
        """Sizes that the trace has merged with the batch: before it and after it."""
        outer = self.shape[self.before - 1] if self.outer else 1
        return outer, self.shape[self.before] if self.inner else 1

    @property
    def leads(self) -> bool:
        """Whether the batch is dimension 0 of the trace, and nothing else is."""
        return self.before == 0 and not self.inner

    def place(self, dim: int) -> int:
        """Index in `shape` of the trace's dimension `dim`, or of a new one; never the batch."""
        return dim if dim <= self.batch else dim - 1 + self.outer + self.inner

    def dim(self, dim: int) -> int:
        """Dimension in the module of dimension `dim` in the trace, which must not be the batch.

        Raises:
            UnsupportedOperation: It is the batch dimension.
        """
        dim = dim % self.ndim
        if dim == self.batch:
            raise UnsupportedOperation("an operation along the batch dimension")
        return self.place(dim) + 1

    def traced(self, rows: int) -> tuple[int, ...]:
        """Shape in the trace."""
        outer, inner = self.merged
        return (*self.shape[: self.batch], outer * rows * inner,
                *self.shape[self.before + self.inner:])

    def lines_up(self, other: "Rows") -> bool:
        """Whether the batch is at the same place of two traced tensors."""
        return (self.ndim, self.before, self.outer, self.inner, self.merged) == \
            (other.ndim, other.before, other.outer, other.inner, other.merged)


@dataclass(frozen=True)
class Live:
    """A value that depends on parameters and no input; it stays a function of the parameters."""

    name: str
    value: Tensor


@dataclass(frozen=True)
class Ranking:
    """Entries of some ranks along a dimension; the largest has rank 0, the smallest -1.

    Args:
        of: whose entries.
        at: the dimension in the module.
        ranks: in the order of the result.
        choice: how torch chooses among equal entries: see `operators.order.CHOICES`.
    """

    of: Rows
    at: int
    ranks: tuple[int, ...]
    choice: tuple[Any, ...]


@dataclass(frozen=True)
class Indices:
    """Places of maxima, or other ranks, of `of`; gradients find them again from that input.

    Args:
        of: the input.
        ranking: what was looked for; None for the windows of a pooling.
        like: the entries there, laid out as the indices are.
    """

    of: Rows
    ranking: Ranking | None = None
    like: Rows | None = None


@dataclass(frozen=True)
class Comparison:
    """Where a value lies between two numbers (None: no limit); not there if `inside` is False.

    With `closed` the numbers themselves lie between.
    """

    of: Rows
    low: float | None
    high: float | None
    closed: bool
    inside: bool = True


@dataclass(frozen=True)
class Ties(Comparison):
    """Which entries equal the largest, or another rank, of theirs; `of` is how much they are more.

    Args:
        source: the entries.
        dims: dimensions of the trace, over which the rank is.
        result: name of the entries of that rank.
    """

    source: Rows | None = None
    dims: tuple[int, ...] = ()
    result: str = ""


class Builder:
    """Collects the steps and tensors of a module while its trace is lowered.

    Args:
        rows: batch size of the trace.
        dtype: floating-point type of the trace.
        device: where it ran.

    `strides` are those, in the trace, of the first operand of what is lowered.
    """

    def __init__(self, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rows = rows
        self.dtype = dtype
        self.device = device
        self.strides: tuple[int, ...] = ()
        self.steps: list[Step] = []
        self.tensors: dict[str, Tensor] = {}
        self.arguments = Arguments(rows, dtype)
        self._constants: dict[tuple[tuple[int, ...], bytes], Tensor] = {}
        self._made: dict[tuple[str, tuple[str, ...], str], str] = {}
        self._named: dict[int, tuple[Tensor, str]] = {}
        self.notes: dict[tuple[str, str], Any] = {}
        """What rules tell later ones of a value: (kind of note, its name) -> the note."""

    def made(self, operator: str, *inputs: str, **settings: Any) -> str | None:
        """Name of the result of a call that has been appended; None if it has not."""
        return self._made.get((operator, inputs, json.dumps(settings)))

    def given(self, value: Given) -> Rows:
        """A value made of further arguments as an input of the module."""
        return Rows(f"argument{self.arguments.number(value)}", tuple(value.value.shape[1:]))

    def step(self, operator: str, *inputs: str, **settings: Any) -> str:
        """Append a call and return its result's name; equal calls share one result."""
        key = operator, inputs, json.dumps(settings)
        if key not in self._made:
            self._made[key] = f"v{len(self.steps)}"
            self.steps.append(Step(operator, inputs, self._made[key], settings))
        return self._made[key]

    def emit(self, operator: str, x: Any, *inputs: Any, shape: tuple[int, ...] | None = None,
             before: int | None = None, **settings: Any) -> Rows:
        """Append a call with rows as input; `shape` and `before`: the result's, if not x's."""
        if not isinstance(x, Rows):
            x = self._as_rows(x, inputs)
        name = self.step(operator, *[self.name(i) for i in (x, *inputs)], **settings)
        return replace(x, name=name, shape=x.shape if shape is None else tuple(shape),
                       before=x.before if before is None else before)

    def _as_rows(self, value: Any, inputs: tuple[Any, ...]) -> Rows:
        """Rows that all hold a first input, such as a gradient that the model takes of a sum."""
        like = next((i for i in inputs if isinstance(i, Rows)), None)
        if like is None:
            raise UnsupportedOperation("it is taken of values that do not depend on the input")
        return self.emit("add", self.emit("scale", like, factor=0.0), self.operand(value, like))

    def reshape(self, x: Rows, shape: tuple[int, ...], before: int = 0, outer: bool = False,
                inner: bool = False) -> Rows:
        """The same entries, in the same order, in rows of another shape."""
        name = x.name if shape == x.shape else self.step("reshape", x.name, shape=list(shape))
        return Rows(name, shape, before, outer, inner)

    def view(self, x: Rows, sizes: tuple[int, ...]) -> Rows:
        """Reshape to a shape of the trace, whose batch may be merged with whole other dimensions.

        Entries ahead of the batch and behind it keep their order, so that is found by counting
        them.

        Raises:
            UnsupportedOperation: The shape splits the examples of a batch.
        """
        ahead, behind = math.prod(x.shape[: x.before]), math.prod(x.shape[x.before:])
        if -1 in sizes:
            rest = -math.prod(sizes)
            sizes = tuple(ahead * self.rows * behind // rest if s == -1 else s for s in sizes)
        for at in range(len(sizes)):
            first, last = math.prod(sizes[:at]), math.prod(sizes[at + 1:])
            if first and last and ahead % first == 0 and behind % last == 0:
                outer, inner = ahead // first, behind // last
                shape = (*sizes[:at], *[outer] * (outer > 1), *[inner] * (inner > 1),
                         *sizes[at + 1:])
                return self.reshape(x, shape, at + (outer > 1), outer > 1, inner > 1)
        raise UnsupportedOperation(f"a reshape to {tuple(sizes)}, which splits the examples of a "
                                   "batch")

    def unsqueeze(self, x: Rows, dim: int) -> Rows:
        """A new dimension of size 1 of the trace; `dim` counts from the front."""
        at = x.place(dim)
        return self.reshape(x, (*x.shape[:at], 1, *x.shape[at:]), x.before + (dim <= x.batch),
                            x.outer, x.inner)

    def permute(self, x: Rows, dims: list[int]) -> Rows:
        """Another order of the trace's dimensions."""
        parts = [[x.place(d)] for d in range(x.ndim)]
        parts[x.batch] = [x.before - 1] * x.outer + [x.before] * x.inner
        order = [p for d in dims for p in parts[d]]
        before = sum(len(parts[d]) for d in dims[: dims.index(x.batch)]) + x.outer
        result = replace(x, shape=tuple(x.shape[p] for p in order), before=before)
        if order == sorted(order):
            return result
        return replace(result, name=self.step("permute", x.name, dims=[0, *[p + 1 for p in order]]))

    def live(self, target: str, *arguments: Any, **keywords: Any) -> Any:
        """Append an ATen operation on parameters; the result is one `Live`, or a tuple of them."""
        tensors = [a for a in tree_leaves((arguments, keywords)) if isinstance(a, Live | Tensor)]
        described, named = tree_map(lambda a: dict(TENSOR) if isinstance(a, Live | Tensor) else a,
                                    (list(arguments), keywords))
        # copies that made it possible are not recorded
        if target in ("view.default", "_unsafe_view.default"):
            target = "reshape.default"
        with torch.no_grad():
            value = call_aten(*[t.value if isinstance(t, Live) else t for t in tensors],
                              target=target, arguments=described, keywords=named)
        settings = {"target": target, "arguments": described,
                    **({"keywords": named} if named else {})}

        def result(part: Tensor, **which: int) -> Live:
            return Live(self.step("unperturbed", *map(self.name, tensors), **settings, **which),
                        part)

        return result(value) if isinstance(value, Tensor) else \
            tuple(result(part, output=i) for i, part in enumerate(value))

    def name(self, value: Any) -> str:
        """Name of a value; a tensor becomes a parameter or buffer of the module."""
        if isinstance(value, Rows | Live):
            return value.name
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value, dtype=self.dtype, device=self.device)
        if id(value) not in self._named:
            kind = "parameter" if isinstance(value, nn.Parameter) else "constant"
            name = f"{kind}{len(self.tensors)}"
            # Constants must own their memory: the parser misreads expanded ones.
            own = (value if isinstance(value, nn.Parameter) or value.is_contiguous()
                   else value.contiguous())
            self.tensors[name] = own
            self._named[id(value)] = value, name
        return self._named[id(value)][1]

    def line_up(self, x: Rows, y: Any) -> tuple[Rows, Any]:
        """Two factors of an entrywise operation, brought to shapes that broadcast in the module."""
        ndim = (y.ndim if isinstance(y, Rows)
                else (y.value if isinstance(y, Live) else torch.as_tensor(y)).ndim)
        while x.ndim < ndim:
            x = self.unsqueeze(x, 0)
        return x, self.operand(self.in_its_type(y), x)

    def in_its_type(self, value: Any) -> Any:
        """A constant, or what parameters make, in the type of the trace, to which torch promotes it
        beside a value.
        """
        if isinstance(value, Live) and value.value.dtype != self.dtype:
            ones = torch.ones([1] * value.value.ndim, dtype=self.dtype, device=self.device)
            return self.live("mul.Tensor", value, ones)
        return value.to(self.dtype) if isinstance(value, Tensor) else value

    def constant(self, value: Tensor) -> Tensor:
        """The same tensor for all constants of these entries."""
        key = tuple(value.shape), value.cpu().numpy().tobytes()
        return self._constants.setdefault(key, value)

    def operand(self, value: Any, x: Rows) -> Any:
        """A second operand of an entrywise operation on x, in the form that broadcasts to it.

        A constant with the trace's batch dimension must be the same for all rows, and loses it.

        Raises:
            UnsupportedOperation: Batch dimensions do not line up, or a constant differs between
                examples.
        """
        if isinstance(value, Rows):
            while value.ndim < x.ndim:
                value = self.unsqueeze(value, 0)
            if not value.lines_up(x):
                raise UnsupportedOperation("two factors whose batch dimensions do not line up")
            return value
        tensor = value.value if isinstance(value, Live) else torch.as_tensor(value)
        at = x.batch - x.ndim + tensor.ndim
        if at < 0:
            return value
        sizes, merged = tuple(tensor.shape), [
            s for s, is_merged in zip(x.merged, (x.outer, x.inner), strict=True) if is_merged]
        if sizes[at] == 1:
            return self.fixed(value, "reshape.default",
                              (*sizes[:at], *[1] * len(merged), *sizes[at + 1:]))
        if sizes[at] != math.prod(merged) * self.rows:
            raise UnsupportedOperation("a constant that differs from example to example of the "
                                       "batch")
        split = (*sizes[:at], x.merged[0], self.rows, x.merged[1], *sizes[at + 1:])
        rows = tensor.reshape(split)
        if not torch.equal(rows, rows.narrow(at + 1, 0, 1).expand_as(rows)):
            raise UnsupportedOperation("a constant that differs from example to example of the "
                                       "batch")
        first = self.fixed(self.fixed(value, "reshape.default", split), "select.int", at + 1, 0)
        return self.fixed(first, "reshape.default", (*sizes[:at], *merged, *sizes[at + 1:]))

    def fixed(self, value: Any, target: str, *arguments: Any) -> Any:
        """An ATen operation on a value without rows."""
        arguments = tuple(list(a) if isinstance(a, tuple) else a for a in arguments)
        if isinstance(value, Live):
            has_shape = arguments == (list(value.value.shape),)
            return value if has_shape else self.live(target, value, *arguments)
        packet, overload = target.split(".")
        return getattr(getattr(torch.ops.aten, packet),
                       overload)(torch.as_tensor(value), *arguments).clone()

    def producer(self, value: Rows) -> Step | None:
        """The step that computed a value; None if it is an input."""
        return next((step for step in self.steps if step.output == value.name), None)

    def unreshaped(self, value: Rows) -> str:
        """Name of a value with the same entries in the same order, before it was reshaped."""
        step = self.producer(value)
        while step is not None and step.operator == "reshape":
            value = replace(value, name=step.inputs[0])
            step = self.producer(value)
        return value.name

    def used_tensors(self, names: set[str]) -> dict[str, Tensor]:
        """The tensors among these names."""
        return {name: tensor for name, tensor in self.tensors.items() if name in names}
