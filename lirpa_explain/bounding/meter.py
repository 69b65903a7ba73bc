"""Bytes of tensors that are alive, counted as they come and go."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .resident import give_back, resident

SMALL, LARGE = 2 ** 12, 2 ** 20
"""Bytes of a tensor that counts, and of one at which it is looked how much is held for nothing."""


def _convolved(result: Any, x: Tensor, weight: Tensor, *others: Any) -> int:
    """What a convolution works in: its patches, or, in single precision, other layouts of what it
    reads and makes.
    """
    if x.dtype == torch.float32 or others[4]:  # transposed: one example after the other
        return _bytes(x) + _bytes(result)
    return _bytes(result) // weight.shape[0] * weight[0].numel()


WITHIN: Mapping[Any, Callable[..., int]] = {torch.ops.aten.convolution.default: _convolved}
"""Bytes that some operations take for as long as they run, beside their results, on a CPU."""


class Meter(TorchDispatchMode):
    """Counts the tensors that operations make within it, for as long as these are alive.

    Memory that is not handed on, such as what operations work in, is not seen, but where `WITHIN`
    says how much it is.

    Args:
        held: bytes that the C library may keep of freed memory before it is told to give them back;
            None: as it likes.

    Example:
        >>> with Meter() as meter:
        ...     one = torch.zeros(2 ** 20)
        ...     two = one + 1
        ...     del one
        >>> meter.live >> 20, meter.peak >> 20
        (4, 8)
    """

    def __init__(self, held: int | None = None) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._held, self._start = held, 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __enter__(self) -> Meter:
        super().__enter__()
        give_back()
        self._start = resident()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._known.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(x, Tensor) and x.numel() * x.element_size() >= SMALL:
                self._see(x)
        within = WITHIN.get(func)
        self.peak = max(self.peak, self.live + (0 if within is None else within(result, *args)))
        return result

    def restart(self) -> int:
        """Bytes alive, which the peak starts from once more."""
        self.peak = self.live
        return self.live

    def _see(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def gone(_: Any, known: dict[int, Any] = self._known) -> None:
            if known.pop(key, None) is not None:
                self.live -= size

        self._known[key] = weakref.ref(storage, gone)
        self.live += size
        if (self._held is not None and size >= LARGE
                and resident() - self._start - self.live > self._held):
            give_back()
            # what is left of it is held by others
            self._start = max(self._start, resident() - self.live)


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()
