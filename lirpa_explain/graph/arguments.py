"""Further arguments of a model: masks, ids, lengths, labels. They never move, so what is made of
them is computed.

A module has no steps for them. Where a value that moves meets one that is made of arguments alone,
that one is an input of the module, computed by running this part of the recorded graph on each
example's arguments by themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..errors import UnsupportedOperation
from .masks import finite


@dataclass(frozen=True)
class Given:
    """A value that depends on further arguments, and on no input or parameter; `value` is that of
    the trace.
    """

    node: fx.Node
    value: Any

    def leads(self, rows: int) -> bool:
        """Whether its first dimension is the batch, as far as its size says."""
        return isinstance(self.value, Tensor) and self.value.ndim > 0 and len(self.value) == rows


@dataclass(frozen=True)
class Entry:
    """An input of a module: `make` maps the values of these nodes to a tensor with rows."""

    nodes: tuple[fx.Node, ...]
    make: Callable[..., Tensor]


class Arguments:
    """The inputs of a module that are made of further arguments.

    Args:
        rows: batch size of the trace.
        dtype: floating-point type of the trace.
    """

    def __init__(self, rows: int, dtype: torch.dtype) -> None:
        self.size, self.dtype = rows, dtype
        self._entries: dict[Any, Entry] = {}
        self._compute: fx.GraphModule | None = None
        self._examples: list[Tensor] = []
        self._read: list[Tensor] = []

    @property
    def count(self) -> int:
        """Number of inputs."""
        return len(self._entries)

    def number(self, given: Given) -> int:
        """The input that holds a value as numbers: truth as 1 and 0, masks of -inf as finite
        ones.
        """

        def make(value: Tensor) -> Tensor:
            return finite(value.to(self.dtype))

        return self.add((given,), make, "number")

    def add(self, given: Sequence[Given], make: Callable[..., Tensor], key: Any) -> int:
        """An input made of values by a function of them; the number of one there is of that key and
        these values.
        """
        if not all(value.leads(self.size) for value in given):
            raise UnsupportedOperation("a value that is made of further arguments of several "
                                       "examples at once")
        nodes = tuple(value.node for value in given)
        self._entries.setdefault((key, nodes), Entry(nodes, make))
        return list(self._entries).index((key, nodes))

    def complete(self, graph: fx.GraphModule, arguments: range, examples: Sequence[Tensor],
                 read: Sequence[Any]) -> None:
        """Cut out of a graph what computes the inputs.

        Args:
            graph: what was lowered.
            arguments: positions of the further arguments among its inputs.
            examples: their values in the trace.
            read: what the model read of them.
        """
        given = [value for value in read if isinstance(value, Given)]
        wanted = [node for entry in self._entries.values() for node in entry.nodes] + [
            value.node for value in given]
        self._examples, self._read = list(examples), [value.value for value in given]
        self._compute = _part(graph, arguments, wanted)

    def rows(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """The inputs for rows with these arguments, each (B, ...)."""
        if not self._entries:
            return []
        found: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        keys = [_key(arguments, i) for i in range(len(arguments[0]))]
        for i, key in enumerate(keys):
            if key not in found:
                found[key] = self._row(arguments, i)
        return [torch.stack([found[key][0][k] for key in keys]) for k in range(self.count)]

    def same(self, arguments: Sequence[Tensor]) -> bool:
        """Whether the model would read of the arguments of all these rows what it read in the
        trace.
        """
        if not self._read:
            return True
        distinct = {_key(arguments, i): i for i in range(len(arguments[0]))}
        return all(torch.equal(a, b) for i in distinct.values()
                   for a, b in zip(self._row(arguments, i)[1], self._read, strict=True))

    def traced(self) -> list[Tensor]:
        """The inputs in the trace."""
        return self.rows(self._examples)

    def _row(self, arguments: Sequence[Tensor], i: int) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs of one row, and what the model reads there."""
        assert self._compute is not None
        same = [argument[i: i + 1].expand(self.size, *argument.shape[1:]) for argument in arguments]
        with torch.no_grad():
            values = list(self._compute(*same))
            inputs = []
            for entry in self._entries.values():
                own, values = values[: len(entry.nodes)], values[len(entry.nodes):]
                inputs.append(entry.make(*own)[0])
        return inputs, values


def has_rows(argument: Any, count: int) -> bool:
    """Whether a further argument is a tensor with a row for each of so many examples."""
    return isinstance(argument, Tensor) and argument.ndim > 0 and len(argument) == count


def _key(arguments: Sequence[Tensor], i: int) -> tuple[bytes, ...]:
    return tuple(argument[i].detach().cpu().contiguous().numpy().tobytes()
                 for argument in arguments)


def _part(graph: fx.GraphModule, arguments: range, wanted: Sequence[fx.Node]) -> fx.GraphModule:
    """What computes these nodes of a graph from some of its inputs."""
    needed, stack = set(wanted), list(wanted)
    while stack:
        new = set(stack.pop().all_input_nodes) - needed
        needed |= new
        stack += new
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node in graph.graph.nodes:
        if node in needed or node in [inputs[i] for i in arguments]:
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(tuple(copies[node] for node in wanted))
    return fx.GraphModule(graph, part)
