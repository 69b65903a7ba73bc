"""Where the windows of local coefficients lie, and what other layers and values have there.

Many functions have their windows at the same place, one for each channel: these are a group, and what depends on the
place alone is computed once for a group. The places of the lower and the upper bounds' coefficients are the same
objects, and so is what these have found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]

ALONE = 0.7
"""Groups as a share of functions, from which on each function is its own."""


class Places:
    """Windows of one size in the plane of a layer, one for each of S functions and B rows.

    Args:
        first: row and column of the first entry of each group's window, (G, 2), integers of any sign.
        row: the row of the batch that a group is of, (G,).
        group: of each function, (S, B); None: they are alone, and in this order.
        shape: (S, B).
        window: (h, w).
        plane: (H, W).
    """

    def __init__(self, first: Tensor, row: Tensor, group: Tensor | None, shape: Pair, window: Pair, plane: Pair
                 ) -> None:
        self.first, self.row, self.group, self.shape = first, row, group, shape
        self.window, self.plane = window, plane
        self._derived: dict[Any, Any] = {}
        self._found: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, first: Tensor, window: Pair, plane: Pair) -> Places:
        """Windows that begin at given entries, (S, B, 2)."""
        shape = first.shape[0], first.shape[1]
        row = torch.arange(shape[1], device=first.device).expand(shape)
        keys, group = torch.unique(torch.cat([row[..., None], first], 2).flatten(0, 1), dim=0, return_inverse=True)
        if len(keys) > ALONE * group.numel():
            return cls(first.flatten(0, 1), row.flatten(), None, shape, window, plane)
        return cls(keys[:, 1:], keys[:, 0], group.reshape(shape), shape, window, plane)

    def to_functions(self, x: Tensor) -> Tensor:
        """What each group has, (G, ...), for each function: (S, B, ...)."""
        x = x if self.group is None else x.index_select(0, self.group.flatten())
        return x.unflatten(0, self.shape)

    @cached_property
    def lines(self) -> tuple[Tensor, Tensor]:
        """Rows (G, h) and columns (G, w) of the entries of each group's window."""
        rows, columns = (self.first[:, i, None] + torch.arange(n, device=self.first.device)
                         for i, n in enumerate(self.window))
        return rows, columns

    @cached_property
    def inside(self) -> Tensor | None:
        """Which entries of the windows lie in the layer, (S, B, 1, h, w); None: all of them."""
        rows, columns = ((at >= 0) & (at < size) for at, size in zip(self.lines, self.plane, strict=True))
        mask = rows[..., None] & columns[..., None, :]
        return None if bool(mask.all()) else self.to_functions(mask[:, None])

    def find(self, x: Tensor) -> Tensor:
        """What a value (B, C, H, W), in which dimensions may be 1, has in the windows: (S, B, C, h, w), 0 outside.

        Remembered until `forget`.
        """
        known = self._found.get(id(x))
        if known is None:
            known = self._found[id(x)] = x, self._of(x)
        return known[1]

    def forget(self) -> None:
        """Let go of what was found for the node that is done with."""
        self._found.clear()

    def scaled(self, stride: Sequence[int], padding: Sequence[int], window: Pair, plane: Pair) -> Places:
        """Windows of another layer, which begin at first * stride - padding."""
        key = "scaled", tuple(stride), tuple(padding), window, plane
        return self._once(key, lambda: self._with(
            self.first * self.first.new_tensor(list(stride)) - self.first.new_tensor(list(padding)), window, plane))

    def met(self, reach: Sequence[int], stride: Sequence[int], padding: Sequence[int], outputs: Pair
            ) -> tuple[Places, Places]:
        """Those outputs of a map by windows that meet these, and all entries that they read; see `local.met`."""
        key = "met", tuple(reach), tuple(stride), tuple(padding), outputs
        return self._once(key, lambda: self._met(reach, stride, padding, outputs))

    def hull(self, other: Places) -> Places:
        """Windows that contain those of both."""
        return self._once(("hull", id(other)), lambda: (self._hull(other), other))[0]

    def move(self, values: Tensor, to: Places) -> Tensor:
        """Values (S, B, C, h, w) of these windows, for others of the same functions, 0 outside of these."""
        one, other = self._alike(to)
        shift = other.first - one.first
        for i, size in enumerate(to.window):
            old, by = values.shape[3 + i], shift[:, i]
            start = int(by[0])
            if bool((by == start).all()):
                pad = [0, 0, -start, start + size - old] if i == 0 else [-start, start + size - old]
                values = F.pad(values, pad) if any(pad) else values
                continue
            at = other.to_functions(by[:, None] + torch.arange(size, device=by.device))
            at = at[:, :, None, :, None] if i == 0 else at[:, :, None, None]
            sizes = list(values.shape)
            sizes[3 + i] = size
            values = values.gather(3 + i, at.clamp(0, old - 1).expand(sizes)) * ((at >= 0) & (at < old))
        return values

    def _of(self, x: Tensor) -> Tensor:
        """`find` for the first time."""
        x = x.reshape(*[1] * (4 - x.ndim), *x.shape)
        x = x.expand(*x.shape[:2], *self.plane)
        low, high = self.first.amin(0).tolist(), self.first.amax(0).tolist()
        top, left = (max(0, -n) for n in low)
        bottom, right = (max(0, n + k - size) for n, k, size in zip(high, self.window, self.plane, strict=True))
        h, w = self.window
        x = F.pad(x, (left, right, top, bottom)).unfold(2, h, 1).unfold(3, w, 1)
        row = self.row if len(x) > 1 else torch.zeros_like(self.row)
        return self.to_functions(x[row, :, self.first[:, 0] + top, self.first[:, 1] + left])

    def _met(self, reach: Sequence[int], stride: Sequence[int], padding: Sequence[int], outputs: Pair
             ) -> tuple[Places, Places]:
        steps, before = self.first.new_tensor(list(stride)), self.first.new_tensor(list(padding))
        first = -(-(self.first + before + 1 - self.first.new_tensor(list(reach)))).div(steps, rounding_mode="floor")
        h, w = (min((n - 1 + k - 1) // s + 1, size)
                for n, k, s, size in zip(self.window, reach, stride, outputs, strict=True))
        last = self.first.new_tensor([outputs[0] - h, outputs[1] - w])
        first = torch.minimum(first.clamp(min=0), last)
        whole = (h - 1) * stride[0] + reach[0], (w - 1) * stride[1] + reach[1]
        return self._with(first, (h, w), outputs), self._with(first * steps - before, whole, self.plane)

    def _hull(self, other: Places) -> Places:
        one, other = self._alike(other)
        first = torch.minimum(one.first, other.first)
        ends = torch.maximum(*(p.first + p.first.new_tensor(p.window) for p in (one, other))) - first
        h, w = ends.amax(0).tolist()
        return one._with(first, (h, w), self.plane)

    def _alike(self, other: Places) -> tuple[Places, Places]:
        """Both with the same groups."""
        if self.group is other.group:
            return self, other
        return self._alone(), other._alone()

    def _alone(self) -> Places:
        """The same without groups."""
        if self.group is None:
            return self
        index = self.group.flatten()
        return Places(self.first[index], self.row[index], None, self.shape, self.window, self.plane)

    def _with(self, first: Tensor, window: Pair, plane: Pair) -> Places:
        return Places(first, self.row, self.group, self.shape, window, plane)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What is made of these places, the first time that it is asked for."""
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]
