"""What a function reads out of its tensors when it is called with a whole batch, as by an `if` or
by tolist().
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .arguments import has_rows
from .readouts import READOUTS, reads

MOST = 64
"""Most sets of rows that are tried."""


def transcript(function: Callable[..., Any], xs: Sequence[Tensor],
               extras: Sequence[Any]) -> list[str]:
    """All values that a function reads, in order.

    Example:
        >>> transcript(lambda x: x * 2 if x.sum() > 1 else x, (torch.ones(3),), ())
        ['True']
    """
    log: list[str] = []
    with torch.enable_grad(), _Operations(log), _Functions(log):
        function(*(x.clone() for x in xs), *extras)
    return log


def rows_that_read_alike(function: Callable[..., Any], xs: Sequence[Tensor], extras: Sequence[Any],
                         size: int) -> list[int] | None:
    """So many rows of a batch of which a function reads what it reads of the whole; None if none
    were found.

    Args:
        function: takes the inputs and the further arguments.
        xs: inputs, each (N, *S).
        extras: further arguments.
        size: number of rows.
    """
    count, whole = len(xs[0]), transcript(function, xs, extras)
    kinds: dict[tuple[str, ...], int] = {}
    for i in range(count):
        kinds.setdefault(tuple(_of(function, xs, extras, [i])), i)
    first = [min(i, count - 1) for i in range(size)]
    tries = itertools.chain([first],
                            itertools.combinations_with_replacement(sorted(kinds.values()), size))
    return next((list(rows) for rows in itertools.islice(tries, MOST)
                 if _of(function, xs, extras, rows) == whole), None)


def _of(function: Callable[..., Any], xs: Sequence[Tensor], extras: Sequence[Any],
        rows: Sequence[int]) -> list[str]:
    """What is read of these rows."""
    index, count = torch.tensor(rows, device=xs[0].device), len(xs[0])
    return transcript(function, [x[index] for x in xs],
                      [e[index.to(e.device)] if has_rows(e, count) else e for e in extras])


def _written(values: Any) -> str:
    return str(tree_map(lambda leaf: leaf.tolist() if isinstance(leaf, Tensor) else leaf, values))


class _Operations(TorchDispatchMode):
    """Notes what is read by operations."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation."""
        result = func(*args, **(kwargs or {}))
        if reads(func) and any(isinstance(leaf, Tensor) for leaf in tree_leaves(args)):
            self.log.append(_written(result))
        return result


class _Functions(TorchFunctionMode):
    """Notes what is read past operations."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        """Call the function."""
        if function in READOUTS:
            self.log.append(_written(args[0]))
        return function(*args, **(kwargs or {}))
