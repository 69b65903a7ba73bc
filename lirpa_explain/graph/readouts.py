"""What may be read out of tensors while a model is recorded: constants, and further arguments, but
no moving value.

A trace holds what was read as a constant. That is right for tensors that no input and no parameter
moves; where it was read from further arguments, such as lengths, the trace is right for examples of
which the same would be read.
"""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import (
    disable_proxy_modes_tracing,
    get_proxy_mode,
    get_proxy_slot,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import UnsupportedOperation
from .origin import line_of

READOUTS = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__)
"""Functions that hand out a tensor's values past the trace. (`item` and `bool` are recorded, and
refused there.)"""

READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Tags of operations whose result, or its shape, is made of a tensor's values."""



def reads(operation: Any) -> bool:
    """Whether an operation reads its tensors' values."""
    return operation is not torch.ops.aten.index.Tensor and not READS.isdisjoint(operation.tags)


MOVES, ARGUMENT = "moves", "argument"
"""What a tensor may depend on: an input or a parameter; a further argument."""


class Readings:
    """What was read of further arguments while something was recorded.

    Args:
        arguments: positions of the further arguments among the inputs of what is recorded.
    """

    def __init__(self, arguments: range) -> None:
        self.arguments = arguments
        self.tensors: list[Tensor] = []

    def allows(self, tensors: Sequence[Tensor]) -> bool:
        """Whether values of these tensors may be read; what is read of arguments is noted."""
        found = [self._sources(tensor) for tensor in tensors]
        if any(MOVES in sources for sources in found):
            return False
        self.tensors += [tensor for tensor, sources in zip(tensors, found, strict=True)
                         if ARGUMENT in sources]
        return True

    def _sources(self, tensor: Tensor) -> frozenset[str]:
        mode = get_proxy_mode()
        slot = None if mode is None else get_proxy_slot(tensor, mode.tracer, None)
        if slot is None:
            return frozenset({MOVES} if tensor.requires_grad else ())
        return self._sources_of(slot.proxy.node)

    def _sources_of(self, node: fx.Node) -> frozenset[str]:
        """What a node depends on; it is noted at each node on the way."""
        stack = [node]
        while stack:
            last = stack[-1]
            waiting = [source for source in last.all_input_nodes if "sources" not in source.meta]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            last.meta.setdefault("sources", self._own(last).union(
                *(s.meta["sources"] for s in last.all_input_nodes)))
        return node.meta["sources"]

    def _own(self, node: fx.Node) -> frozenset[str]:
        if node.op == "placeholder":
            inputs = [n for n in node.graph.nodes if n.op == "placeholder"]
            return frozenset({ARGUMENT if inputs.index(node) in self.arguments else MOVES})
        is_parameter = node.op == "get_attr" and str(node.target).startswith("_param_constant")
        return frozenset({MOVES} if is_parameter else ())


class Reading(TorchDispatchMode):
    """While it is active, operations that read constants and further arguments are evaluated and
    not recorded.
    """

    def __init__(self, readings: Readings) -> None:
        super().__init__()
        self.readings = readings

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not reads(func) or not tensors or not self.readings.allows(tensors):
            return func(*args, **kwargs)
        with disable_proxy_modes_tracing():
            return func(*args, **kwargs)


class NoReadouts(TorchFunctionMode):
    """While it is active and something is recorded, values of inputs and parameters are not read
    out.
    """

    def __init__(self, readings: Readings) -> None:
        super().__init__()
        self.readings = readings

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        """Call the function, unless it reads values out."""
        if (function in READOUTS and get_proxy_mode() is not None
                and not self.readings.allows(args[:1])):
            raise UnsupportedOperation(
                "The model reads values out of a tensor by "
                f"{function.__name__}(){line_of(traceback.extract_stack())}: bounds for all inputs "
                "in a ball cannot follow values that were read at one of them. Compute with tensor "
                "operations instead.")
        return function(*args, **(kwargs or {}))
