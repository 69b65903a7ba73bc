"""Where the windows of local coefficients lie, and what other layers and values have there.

Many functions have their windows at the same place, one for each channel: these are a group, and
what depends on the place alone is computed once for a group. The places of the lower and the upper
bounds' coefficients are the same objects, and so is what these have found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]

ALONE = 0.7
"""Groups as a share of functions, from which on each function is its own."""


class Entries(NamedTuple):
    """Some entries of the windows of functions, each tensor (n,).

    Args:
        function: which function, s * B + b.
        channel: which channel.
        within: where in the flattened window.
        row: the row of the batch.
        at: where in the flattened plane.
    """

    function: Tensor
    channel: Tensor
    within: Tensor
    row: Tensor
    at: Tensor

    def sums(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The sums of what entries have, (n,), for each function: (S, B)."""
        sums = x.new_zeros(shape[0] * shape[1]).index_add(0, self.function, x)
        return sums.reshape(shape[0], shape[1])

    def of(self, x: Tensor, channels: Tensor | None = None) -> Tensor:
        """What a value (B, X, H, W) has there, (n,), or in several channels each, (n, K)."""
        row = self.row if len(x) > 1 else torch.zeros_like(self.row)
        if channels is None:
            return x.flatten(2)[row, self.channel, self.at]
        return x.flatten(2)[row[:, None], channels, self.at[:, None]]


class Places:
    """Windows of one size in the plane of a layer, one for each of S functions and B rows.

    Args:
        first: row and column of the first entry of each group's window, (G, 2), integers of any
            sign.
        row: the row of the batch that a group is of, (G,).
        group: of each function, (S, B); None: they are alone, and in this order.
        shape: (S, B).
        window: (h, w).
        plane: (H, W).
    """

    def __init__(self, first: Tensor, row: Tensor, group: Tensor | None, shape: Pair, window: Pair,
                 plane: Pair) -> None:
        self.first, self.row, self.group, self.shape = first, row, group, shape
        self.window, self.plane = window, plane
        self._derived: dict[Any, Any] = {}
        self._found: dict[Any, tuple[tuple[Tensor, ...], Any]] = {}

    @classmethod
    def of(cls, first: Tensor, window: Pair, plane: Pair) -> Places:
        """Windows that begin at given entries, (S, B, 2)."""
        shape = first.shape[0], first.shape[1]
        row = torch.arange(shape[1], device=first.device).expand(shape)
        low, high = first.flatten(0, 1).amin(0), first.flatten(0, 1).amax(0)
        at, (height, width) = first - low, (high - low + 1).tolist()
        keys, group = torch.unique((row * height + at[..., 0]) * width + at[..., 1],
                                   return_inverse=True)
        if len(keys) > ALONE * group.numel():
            return cls(first.flatten(0, 1), row.flatten(), None, shape, window, plane)
        places = torch.stack([keys // width % height, keys % width], 1) + low
        return cls(places, keys // (height * width), group, shape, window, plane)

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
        rows, columns = ((at >= 0) & (at < size)
                         for at, size in zip(self.lines, self.plane, strict=True))
        mask = rows[..., None] & columns[..., None, :]
        return None if bool(mask.all()) else self.to_functions(mask[:, None])

    def find(self, x: Tensor) -> Tensor:
        """A value (B, C, H, W), or broadcast to it, in the windows: (S, B, C, h, w), 0 outside.

        Remembered until `forget`.
        """
        return self.remembered((x,), lambda x: self.to_functions(self._of_groups(x)), "values")

    def find_index(self, choice: Tensor, table: Tensor) -> Tensor:
        """Look a table (K, h * w) up at the choice (B, C, H, W) of each entry; remembered."""
        def found(choice: Tensor) -> Tensor:
            chosen = self._of_groups(choice).flatten(2)
            columns = torch.arange(table.shape[1], device=choice.device)
            return self.to_functions(table.to(choice.device)[chosen, columns])

        return self.remembered((choice,), found, "index")

    def entries(self, mask: Tensor) -> Entries:
        """The entries of all windows at which a mask (B, X, H, W) is true; remembered likewise."""
        return self.remembered((mask,), self._entries, "entries")

    def remembered(self, tensors: tuple[Tensor, ...], find: Callable[..., Any], kind: str) -> Any:
        """What `find` finds of tensors, in either order; computed once for each `kind`."""
        key = kind, frozenset(map(id, tensors))
        if key not in self._found:
            self._found[key] = tensors, find(*tensors)
        return self._found[key][1]

    def forget(self) -> None:
        """Let go of what was found for the node that is done with."""
        self._found.clear()

    def scaled(self, stride: Sequence[int], padding: Sequence[int], window: Pair,
               plane: Pair) -> Places:
        """Windows of another layer, which begin at first * stride - padding."""
        key = "scaled", tuple(stride), tuple(padding), window, plane
        return self._once(key, lambda: self._with(
            self.first * self.first.new_tensor(list(stride)) - self.first.new_tensor(list(padding)),
            window, plane))

    def met(self, reach: Sequence[int], stride: Sequence[int], padding: Sequence[int], outputs: Pair
            ) -> tuple[Places, Places]:
        """Outputs of a windowed map that meet these, and what they read; see `local.met`."""
        key = "met", tuple(reach), tuple(stride), tuple(padding), outputs
        return self._once(key, lambda: self._met(reach, stride, padding, outputs))

    def hull(self, other: Places) -> Places:
        """Windows that contain those of both."""
        return self._once(("hull", id(other)), lambda: (self._hull(other), other))[0]

    def move(self, values: Tensor, to: Places) -> Tensor:
        """Values (S, B, C, h, w) of these windows as those of `to`: 0 outside of these."""
        one, other = self._alike(to)
        shift = other.first - one.first
        for i, size in enumerate(to.window):
            old, by = values.shape[3 + i], shift[:, i]
            sizes = list(values.shape)
            sizes[3 + i] = size
            start = int(by[0])
            if bool(((by >= old) | (by <= -size)).all()):  # nothing in common
                values = values.new_zeros(sizes)
            elif bool((by == start).all()):
                pad = [0, 0, -start, start + size - old] if i == 0 else [-start, start + size - old]
                values = F.pad(values, pad) if any(pad) else values
            else:
                at = other.to_functions(by[:, None] + torch.arange(size, device=by.device))
                at = at[:, :, None, :, None] if i == 0 else at[:, :, None, None]
                is_inside = (at >= 0) & (at < old)
                values = values.gather(3 + i, at.clamp(0, old - 1).expand(sizes)) * is_inside
        return values

    def _of_groups(self, x: Tensor) -> Tensor:
        """What a value has in the windows of groups: (G, C, h, w)."""
        x = x.reshape(*[1] * (4 - x.ndim), *x.shape)
        x = x.expand(*x.shape[:2], *self.plane)
        low, high = self.first.amin(0).tolist(), self.first.amax(0).tolist()
        top, left = (max(0, -n) for n in low)
        bottom, right = (max(0, n + k - size)
                         for n, k, size in zip(high, self.window, self.plane, strict=True))
        h, w = self.window
        x = F.pad(x, (left, right, top, bottom)).unfold(2, h, 1).unfold(3, w, 1)
        row = self.row if len(x) > 1 else torch.zeros_like(self.row)
        return x[row, :, self.first[:, 0] + top, self.first[:, 1] + left]

    def _entries(self, mask: Tensor) -> Entries:
        group, channel, i, j = self._of_groups(mask).nonzero().T
        if self.group is None:
            function = group
        else:
            groups = self.group.flatten()
            counts = torch.bincount(group, minlength=len(self.first))
            own = counts[groups]
            function = torch.repeat_interleave(torch.arange(len(groups), device=groups.device), own)
            order = torch.arange(len(function), device=groups.device)
            order = order + ((counts.cumsum(0) - counts)[groups] - (own.cumsum(0) - own))[function]
            group, channel, i, j = (x[order] for x in (group, channel, i, j))
        at = (self.first[group, 0] + i) * self.plane[1] + self.first[group, 1] + j
        return Entries(function, channel, i * self.window[1] + j, self.row[group], at)

    def _met(self, reach: Sequence[int], stride: Sequence[int], padding: Sequence[int],
             outputs: Pair) -> tuple[Places, Places]:
        steps, before = self.first.new_tensor(list(stride)), self.first.new_tensor(list(padding))
        first = -(-(self.first + before + 1 - self.first.new_tensor(list(reach)))).div(
            steps, rounding_mode="floor")
        h, w = (min((n - 1 + k - 1) // s + 1, size)
                for n, k, s, size in zip(self.window, reach, stride, outputs, strict=True))
        last = self.first.new_tensor([outputs[0] - h, outputs[1] - w])
        first = torch.minimum(first.clamp(min=0), last)
        whole = (h - 1) * stride[0] + reach[0], (w - 1) * stride[1] + reach[1]
        read = self._with(first * steps - before, whole, self.plane)
        return self._with(first, (h, w), outputs), read

    def _hull(self, other: Places) -> Places:
        one, other = self._alike(other)
        first = torch.minimum(one.first, other.first)
        ends = torch.maximum(*(p.first + p.first.new_tensor(p.window)
                               for p in (one, other))) - first
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
