"""From a trace to steps: which rule lowers which ATen operation, and what happens without one.

Values that depend on parameters alone stay live, so that they can be trained and perturbed; what
depends on neither inputs nor parameters is folded.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import TrainingModeError, UnsupportedOperation
from .arguments import Given
from .builder import Builder, Comparison, Indices, Live, Rows
from .origin import base_name, where
from .refusals import refusal_of
from .rules import EXACT, MOVE, MULTIPLY, OF_GIVEN, PASS_THROUGH, RULES, lower_with_comparisons


def lower(graph: fx.GraphModule, builder: Builder, inputs: list[Rows | Tensor]) -> list[Any]:
    """Lower a trace, appending to `builder`.

    Args:
        graph: the trace.
        builder: where steps are appended.
        inputs: the values of the trace's placeholders, in order; tensors are further arguments.

    Returns:
        The values of the trace's outputs.

    Raises:
        UnsupportedOperation: an operation has no rule, or its rule refuses these arguments.
        TrainingModeError: an operation is random or uses statistics of the batch.
    """
    _refuse_random(graph)
    _refuse_anywhere(graph)
    values: dict[fx.Node, Any] = {}
    placeholders = iter(inputs)
    needed = _needed(graph)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            value = next(placeholders)
            values[node] = Given(node, value) if isinstance(value, Tensor) else value
        elif node not in needed:
            continue
        elif node.op == "get_attr":
            tensor = getattr(graph, str(node.target))
            is_live = isinstance(tensor, nn.Parameter) or tensor.requires_grad
            values[node] = Live(builder.name(tensor), tensor) if is_live else tensor
        elif node.op == "call_function":
            values[node] = _call(node, values, builder)
        elif node.op == "output":
            return [values[n] for n in tree_leaves(node.args)]
    raise UnsupportedOperation("The trace has no output.")


def _needed(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose values the outputs depend on; the others stay in the graph, to say where
    things came from.
    """
    needed: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        if node.op == "output" or any(user in needed for user in node.users):
            needed.add(node)
    return needed


def _refuse_random(graph: fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        if (torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
                and not _is_evaluated(node)):
            raise TrainingModeError(
                f"The model draws random numbers (aten.{base_name(node)}{where(node)}): its "
                "attribution is not one function of the input. Call model.eval(), or take the "
                "noise out of the model.")


def _refuse_anywhere(graph: fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        refused = refusal_of(base_name(node))
        if refused is not None and refused.anywhere:
            raise UnsupportedOperation(f"The model contains aten.{base_name(node)}{where(node)}, "
                                       f"of {refused.words}.")


def _is_evaluated(node: fx.Node) -> bool:
    """Whether a random operation is not random, because it is told not to be training."""
    return "rrelu" in base_name(node) and not (node.args[4:5] == (True,)
                                               or node.kwargs.get("training"))


def _call(node: fx.Node, values: dict[fx.Node, Any], builder: Builder) -> Any:
    args: Any = fx.node.map_arg(node.args, values.__getitem__)
    kwargs: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
    if node.target is operator.getitem and not isinstance(args[0], Given):
        return args[0][args[1]]
    leaves = tree_leaves((list(args), dict(kwargs)))
    moving = any(isinstance(leaf, Rows | Live | Indices | Comparison) for leaf in leaves)
    given = any(isinstance(leaf, Given) for leaf in leaves)
    if not moving and not given:
        return node.target(*args, **kwargs)  # type: ignore[operator]
    try:
        if not moving and _leads_still(node, args, kwargs, builder):
            value = node.target(*_values(args), **_values(kwargs))  # type: ignore[operator]
            return Given(node, value)
        if node.target not in OF_GIVEN:
            args, kwargs = _as_inputs(args, builder), _as_inputs(kwargs, builder)
            leaves = tree_leaves((list(args), dict(kwargs)))
        if any(isinstance(leaf, Comparison | Indices) for leaf in leaves):
            return _in_full_precision(
                node, lower_with_comparisons(builder, node.target, args, kwargs), builder)
        if not any(isinstance(leaf, Rows | Indices | Comparison | Given) for leaf in leaves):
            return _live(node, args, kwargs, builder)
        if node.target in PASS_THROUGH:
            return args[0]
        if node.target not in RULES:
            refused = refusal_of(base_name(node))
            raise UnsupportedOperation("there is no bound operator for it"
                                       if refused is None else refused.words)
        builder.strides = _strides(node)
        return _in_full_precision(node, RULES[node.target](builder, *args, **kwargs), builder)
    except UnsupportedOperation as error:
        raise UnsupportedOperation("The model, or its gradient, contains "
                                   f"aten.{base_name(node)}{where(node)}: {error}. Replace it in "
                                   "the model, or teach the package: "
                                   "lirpa_explain.operators.register(Operator(...)) adds a bound "
                                   "operator, and "
                                   f"@lirpa_explain.graph.rules.rule(torch.ops.{node.target}) the "
                                   "rule that lowers to it.") from None


def _strides(node: fx.Node) -> tuple[int, ...]:
    """Strides of the first operand in the trace."""
    first = (node.args[0].meta.get("val")
             if node.args and isinstance(node.args[0], fx.Node) else None)
    return tuple(first.stride()) if isinstance(first, Tensor) else ()


def _values(arguments: Any) -> Any:
    """The values in the trace of what is made of further arguments."""
    return tree_map(lambda leaf: leaf.value if isinstance(leaf, Given) else leaf, arguments)


def _as_inputs(arguments: Any, builder: Builder) -> Any:
    """What is made of further arguments, as inputs of the module."""
    return tree_map(lambda leaf: builder.given(leaf) if isinstance(leaf, Given) else leaf,
                    arguments)


def _leads_still(node: fx.Node, args: Any, kwargs: Any, builder: Builder) -> bool:
    """Whether the batch is the first dimension of what becomes of further arguments.

    Their rows are found by it; what another arrangement is made of becomes an input of the module
    before.
    """
    if node.target not in MOVE or not args[0].leads(builder.rows):
        return True
    scratch = Builder(builder.rows, builder.dtype, builder.device)
    moved = RULES[node.target](scratch, Rows("x", tuple(args[0].value.shape[1:])), *args[1:],
                               **kwargs)
    return moved.leads


def _in_full_precision(node: fx.Node, result: Any, builder: Builder) -> Any:
    """Refuse arithmetic of comparisons whose results the model rounds, or cuts to few bits, and
    bounds would not.
    """
    first = result[0] if isinstance(result, tuple | list) and result else result
    if isinstance(first, Rows) and node.target not in EXACT:
        traced = node.meta["val"]
        dtype = (traced[0] if isinstance(traced, tuple | list) else traced).dtype
        is_exact = (dtype in (builder.dtype, torch.int64, torch.int32)
                    or dtype is torch.bool and node.target in MULTIPLY)
        if not is_exact:
            raise UnsupportedOperation(f"it computes in {dtype} and not in {builder.dtype}, which "
                                       "gives other numbers; convert comparisons to "
                                       f"{builder.dtype} before computing with them")
    return result


def _live(node: fx.Node, args: Any, kwargs: Any, builder: Builder) -> Any:
    """An operation on parameters alone."""
    if node.target in PASS_THROUGH:
        return args[0]
    target, kwargs = (str(node.target).removeprefix("aten."),
                      {k: v for k, v in kwargs.items() if v is not None})
    plain = [leaf
             for leaf in tree_leaves((list(args), kwargs)) if not isinstance(leaf, Live | Tensor)]
    if not isinstance(node.meta["val"], Tensor | tuple | list) or not all(
            isinstance(leaf, int | float | str | None) for leaf in plain):
        raise UnsupportedOperation("it combines parameters in a way that cannot be kept live")
    return builder.live(target, *_lists(args), **kwargs)


def _lists(arguments: Any) -> Any:
    """Tuples, and the lists of a graph, as plain lists."""
    return [_lists(a) if isinstance(a, tuple | list) else a for a in arguments]
