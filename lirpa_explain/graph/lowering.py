"""From a trace to steps: which rule lowers which ATen operation, and what happens without one.

Values that depend on parameters alone stay live, so that they can be trained and perturbed; what depends on neither
inputs nor parameters is folded.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import TrainingModeError, UnsupportedOperation
from .builder import Builder, Comparison, Indices, Live, Rows
from .origin import base_name, where
from .rules import EXACT, MULTIPLY, PASS_THROUGH, RULES, VALUE_FREE, lower_with_comparisons


def lower(graph: fx.GraphModule, builder: Builder, inputs: list[Rows]) -> list[Any]:
    """Lower a trace, appending to `builder`.

    Args:
        graph: the trace.
        builder: where steps are appended.
        inputs: the values of the trace's placeholders, in order.

    Returns:
        The values of the trace's outputs.

    Raises:
        UnsupportedOperation: an operation has no rule, or its rule refuses these arguments.
        TrainingModeError: an operation is random or uses statistics of the batch.
    """
    _refuse_random(graph)
    _refuse_overwrites(graph)
    values: dict[fx.Node, Any] = {}
    placeholders = iter(inputs)
    needed = _needed(graph)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(placeholders)
        elif node not in needed:
            continue
        elif node.op == "get_attr":
            tensor = getattr(graph, str(node.target))
            is_live = isinstance(tensor, nn.Parameter) or tensor.requires_grad
            values[node] = Live(builder.name(tensor), tensor) if is_live else tensor
        elif node.op == "call_function":
            values[node] = _call(node, values, builder)
        elif node.op == "output":
            return [values[n] for n in torch.utils._pytree.tree_leaves(node.args)]
    raise UnsupportedOperation("The trace has no output.")


def _needed(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose values the outputs depend on; the others stay in the graph, to say where things came from."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        if node.op == "output" or any(user in needed and user.target not in VALUE_FREE for user in node.users):
            needed.add(node)
    return needed


def _refuse_random(graph: fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and not _is_evaluated(node):
            raise TrainingModeError(
                f"The model draws random numbers (aten.{base_name(node)}{where(node)}): its attribution is not one "
                "function of the input. Call model.eval(), or take the noise out of the model."
            )


def _is_evaluated(node: fx.Node) -> bool:
    """Whether a random operation is not random, because it is told not to be training."""
    return "rrelu" in base_name(node) and not (node.args[4:5] == (True,) or node.kwargs.get("training"))


def _refuse_overwrites(graph: fx.GraphModule) -> None:
    """Refuse to overwrite a tensor that is visible under another name, or is used afterwards under its old one.

    The trace records an in-place operation as a new value: right only where nothing else looks at the same memory.
    """
    position = {node: i for i, node in enumerate(graph.graph.nodes)}
    for node in graph.graph.nodes:
        for target in _arguments(node, written=True):
            if _is_evaluated(node) and target is node.args[1]:
                continue  # the noise, which is not drawn
            names = [n for n in position if n.op == "get_attr" == target.op and n.target == target.target] or [target]
            others = [user for name in names for user in name.users if user is not node]
            if target.op == "placeholder" or _arguments(target, written=False) or any(
                    _arguments(user, written=False) or position[user] > position[node] for user in others):
                raise UnsupportedOperation(
                    f"The model overwrites a tensor that is used elsewhere (aten.{base_name(node)}{where(node)}); use "
                    "the out-of-place form."
                )


def _arguments(node: fx.Node, written: bool) -> list[fx.Node]:
    """The arguments that a node overwrites, or else those that its result is a view of."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return []
    return [value for value, argument in zip(node.args, schema.arguments, strict=False)
            if isinstance(value, fx.Node) and argument.alias_info is not None
            and argument.alias_info.is_write == written]


def _call(node: fx.Node, values: dict[fx.Node, Any], builder: Builder) -> Any:
    if node.target in VALUE_FREE:
        return _without_values(node)
    args: Any = fx.node.map_arg(node.args, values.__getitem__)
    kwargs: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
    if node.target is operator.getitem:
        return args[0][args[1]]
    leaves = torch.utils._pytree.tree_leaves((list(args), dict(kwargs)))
    if not any(isinstance(leaf, Rows | Live | Indices | Comparison) for leaf in leaves):
        return node.target(*args, **kwargs)  # type: ignore[operator]
    try:
        if any(isinstance(leaf, Comparison | Indices) for leaf in leaves):
            return _in_full_precision(node, lower_with_comparisons(builder, node.target, args, kwargs), builder)
        if not any(isinstance(leaf, Rows | Indices | Comparison) for leaf in leaves):
            return _live(node, args, kwargs, builder)
        if node.target in PASS_THROUGH:
            return args[0]
        if node.target not in RULES:
            raise UnsupportedOperation("there is no bound operator for it")
        return _in_full_precision(node, RULES[node.target](builder, *args, **kwargs), builder)
    except UnsupportedOperation as error:
        raise UnsupportedOperation(
            f"The model, or its gradient, contains aten.{base_name(node)}{where(node)}: {error}. Replace it in the "
            "model, or teach the package: lirpa_explain.operators.register(Operator(...)) adds a bound operator, "
            f"and @lirpa_explain.graph.rules.rule(torch.ops.{node.target}) the rule that lowers to it."
        ) from None


def _in_full_precision(node: fx.Node, result: Any, builder: Builder) -> Any:
    """Refuse arithmetic of comparisons whose results the model rounds, or cuts to few bits, and bounds would not."""
    first = result[0] if isinstance(result, tuple | list) and result else result
    if isinstance(first, Rows) and node.target not in EXACT:
        traced = node.meta["val"]
        dtype = (traced[0] if isinstance(traced, tuple | list) else traced).dtype
        is_exact = dtype in (builder.dtype, torch.int64, torch.int32) or dtype is torch.bool and node.target in MULTIPLY
        if not is_exact:
            raise UnsupportedOperation(f"it computes in {dtype} and not in {builder.dtype}, which gives other numbers; "
                                       f"convert comparisons to {builder.dtype} before computing with them")
    return result


def _live(node: fx.Node, args: Any, kwargs: Any, builder: Builder) -> Any:
    """An operation on parameters alone."""
    if node.target in PASS_THROUGH:
        return args[0]
    if kwargs or any(isinstance(a, list | tuple) and any(isinstance(i, Live | Tensor) for i in a) for a in args):
        raise UnsupportedOperation("it combines parameters in a way that cannot be kept live")
    return builder.live(str(node.target).removeprefix("aten."), *[list(a) if isinstance(a, tuple) else a for a in args])


def _without_values(node: fx.Node) -> Tensor:
    """An operation that reads nothing but shapes, evaluated on zeros of those that were traced."""

    def stand_in(argument: fx.Node) -> Tensor:
        traced = argument.meta["val"]
        return torch.zeros(traced.shape, dtype=traced.dtype, device=traced.device)

    args: Any = fx.node.map_arg(node.args, stand_in)
    kwargs: Any = fx.node.map_arg(node.kwargs, stand_in)
    result = node.target(*args, **kwargs)  # type: ignore[operator]
    return result.fill_(torch.nan) if "empty" in base_name(node) else result  # to be overwritten before it is read
