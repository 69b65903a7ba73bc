"""Refuse to read values out of tensors that depend on the input: a trace would hold what was read as a constant."""

import traceback
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.overrides import TorchFunctionMode

from ..errors import UnsupportedOperation
from .origin import line_of

READOUTS = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__)
"""Functions that hand out a tensor's values past the trace. (`item` and `bool` are recorded, and refused there.)"""


class NoReadouts(TorchFunctionMode):
    """While it is active and something is recorded, values of inputs and parameters are not read out."""

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, unless it reads values out."""
        if function in READOUTS and _is_recorded(args[0]):
            raise UnsupportedOperation(
                f"The model reads values out of a tensor by {function.__name__}(){line_of(traceback.extract_stack())}: "
                "bounds for all inputs in a ball cannot follow values that were read at one of them. Compute with "
                "tensor operations instead."
            )
        return function(*args, **(kwargs or {}))


def _is_recorded(tensor: Tensor) -> bool:
    """Whether a tensor depends on an input of what is recorded, or on a parameter."""
    mode = get_proxy_mode()
    if mode is None:
        return False
    slot = get_proxy_slot(tensor, mode.tracer, None)
    return tensor.requires_grad if slot is None else _depends(slot.proxy.node)


def _depends(node: fx.Node) -> bool:
    seen, stack = {node}, [node]
    while stack:
        node = stack.pop()
        if node.op == "placeholder" or node.op == "get_attr" and str(node.target).startswith("_param_constant"):
            return True
        new = set(node.all_input_nodes) - seen
        seen |= new
        stack.extend(new)
    return False
