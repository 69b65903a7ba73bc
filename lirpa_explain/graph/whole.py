"""Functions that torch composes of several operations, recorded as one: bounds of the whole are tighter."""

from collections.abc import Callable
from typing import Any

from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..operators import activation

WHOLE = {F.softsign: "softsign", F.tanhshrink: "tanhshrink"}
"""torch's function -> name of the operator."""


class WholeFunctions(TorchFunctionMode):
    """While it is active, each function of `WHOLE` is one operation with one gradient operation."""

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, or the operator in its place."""
        name = WHOLE.get(function)
        if name is None:
            return function(*args, **(kwargs or {}))
        return activation((*args, *dict(kwargs or {}).values())[0], name)
