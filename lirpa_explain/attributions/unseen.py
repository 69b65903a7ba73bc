"""Warnings where Captum computes something else than its documentation says: certified is what it
computes.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import CaptumWarning
from ..operators.activations import LAYERS


class _Calls(TorchFunctionMode):
    """Counts calls of functions, but for those that they make themselves."""

    def __init__(self, functions: tuple[Callable[..., Any], ...]) -> None:
        super().__init__()
        self.functions, self.count = functions, 0

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        self.count += function in self.functions
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def warn_of_unseen(name: str, kinds: tuple[type[nn.Module], ...]) -> Iterator[None]:
    """Warn if functions are called while it is active that hooks on modules of these kinds do not
    see.

    Args:
        name: the attribution's.
        kinds: keys of `LAYERS`.
    """
    calls = _Calls(tuple(function for kind in kinds for function in LAYERS[kind][1].functions))
    seen = 0

    def count(module: nn.Module, _: Any, __: Any) -> None:
        nonlocal seen
        seen += type(module) in kinds

    handle = nn.modules.module.register_module_forward_hook(count)
    try:
        with calls:
            yield
    finally:
        handle.remove()
    if calls.count > seen:
        modules = ", ".join(kind.__name__ for kind in kinds)
        warnings.warn(f"The model calls {calls.count - seen} activation(s) as functions, which "
                      f"Captum's {name} does not see: they keep their plain gradient. Use modules "
                      f"({modules}). Certified is what Captum computes.",
                      CaptumWarning, stacklevel=2)


def warn_of_trapezoid(steps: int) -> None:
    """Warn that Captum's trapezoid weights do not sum to 1."""
    warnings.warn(f"Captum's weights of riemann_trapezoid sum to {steps - 1}/{steps}: the "
                  "attribution is too small by that factor. Certified is what Captum computes; "
                  "take method='gausslegendre', or more n_steps.", CaptumWarning, stacklevel=2)
