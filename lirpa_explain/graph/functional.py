"""A recorded graph of pure functions: no in-place writes, what has no rule taken apart.

Writes become new values of all that looks at the same memory (`torch.func.functionalize`), and an
operation without a rule becomes those that torch's own table of decompositions makes of it.
"""

import contextlib
import operator
from collections.abc import Callable, Container, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from .rules import PASS_THROUGH, RULES

aten = torch.ops.aten

ORIGIN = ("module", "stack_trace")
"""What a node says of where it came from."""

FILLS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((aten.zeros_like.default, aten.new_zeros.default), lambda *_: 0),
    **dict.fromkeys((aten.ones_like.default, aten.new_ones.default), lambda *_: 1),
    aten.full_like.default: lambda _, value: value,
    aten.new_full.default: lambda _, __, value: value,
    **dict.fromkeys((aten.empty_like.default, aten.new_empty.default,
                     aten.new_empty_strided.default),
                    lambda *_: torch.nan),  # to be overwritten before it is read
}
"""Operations that read nothing of a tensor but its shape -> what they fill another one with."""


def functional(graph: fx.GraphModule, tensors: tuple[Tensor, ...]) -> fx.GraphModule:
    """The same graph without in-place writes, of operations with rules as far as possible.

    Args:
        graph: of ATen operations.
        tensors: example inputs.

    Returns:
        Another graph, or the same if it is one already; its nodes say where in the model they come
        from as those of the first do.
    """
    decompositions = {target: function for target, function in _decompositions().items()
                      if not (target in RULES or target in PASS_THROUGH or target in FILLS)}
    if all(_stays(node, decompositions) for node in graph.graph.nodes):
        _fill(graph)
        return graph

    def again(*values: Tensor) -> Any:
        with one_fake_mode():
            return _Again(graph).run(*values)

    with torch.no_grad():
        result = make_fx(functionalize(again), decomposition_table=decompositions)(*tensors)
    _fill(result)
    return result


def _stays(node: fx.Node, decompositions: Container[Any]) -> bool:
    """Whether a node writes nothing in place and is not taken apart."""
    if node.op != "call_function":
        return node.op in ("placeholder", "get_attr", "output")
    schema = getattr(node.target, "_schema", None)
    return node.target is operator.getitem or (
        schema is not None and not schema.is_mutable and node.target not in decompositions)


@contextlib.contextmanager
def one_fake_mode() -> Iterator[None]:
    """Within a function that is recorded, let all nodes note their shapes in one fake mode.

    Torch makes one for each node otherwise, which takes as long as all else of the recording.
    """
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        yield


def _fill(graph: fx.GraphModule) -> None:
    """Cut the ties between tensors of constants and those whose shapes they have."""
    for node in list(graph.graph.nodes):
        if node.target not in FILLS:
            continue
        made, value = node.meta["val"], FILLS[node.target](*node.args)
        value = 0 if value is torch.nan and not made.dtype.is_floating_point else value
        with graph.graph.inserting_before(node):
            constant = graph.graph.call_function(aten.full.default, (list(made.shape), value),
                                                 {"dtype": made.dtype, "device": made.device})
        constant.meta |= node.meta
        node.replace_all_uses_with(constant)
        graph.graph.erase_node(node)


@lru_cache(maxsize=1)
def _decompositions() -> dict[Any, Callable[..., Any]]:
    return dict(core_aten_decompositions())


class _Again(fx.Interpreter):
    """Runs a graph while another is recorded of it."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self._owned: dict[int, Tensor] = {}
        self._written = _written_constants(graph)

    def run_node(self, n: fx.Node) -> Any:
        """Compute a node, and pass its origin on to the nodes recorded for it."""
        mode = get_proxy_mode()
        assert mode is not None
        nodes = mode.tracer.graph.nodes
        last = next(iter(reversed(nodes)), None)
        result = super().run_node(n)
        for node in reversed(nodes):
            if node is last:
                break
            node.meta |= {key: n.meta[key] for key in ORIGIN if key in n.meta}
        return result

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A tensor that the graph holds; one that it writes to is copied, once, so that it may."""
        tensor = super().get_attr(target, args, kwargs)
        if target not in self._written:
            return tensor
        return self._owned.setdefault(id(tensor), tensor.clone())


def _written_constants(graph: fx.GraphModule) -> set[Any]:
    """Names of the tensors that a graph holds and writes to, itself or through a view."""
    written = set()
    for node in graph.graph.nodes:
        for source in arguments(node, written=True):
            stack = [source]
            while stack:
                source = stack.pop()
                stack += [*arguments(source, written=False), *arguments(source, written=True)]
                if source.op == "get_attr":
                    written.add(source.target)
    held = {id(getattr(graph, str(name))) for name in written}
    return {node.target for node in graph.graph.nodes if node.op == "get_attr"
            and id(getattr(graph, str(node.target))) in held}


def arguments(node: fx.Node, written: bool) -> list[fx.Node]:
    """The arguments that a node overwrites, or else those that its result is a view of."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return []
    return [value for value, argument in zip(node.args, schema.arguments, strict=False)
            if isinstance(value, fx.Node) and argument.alias_info is not None
            and argument.alias_info.is_write == written]
