"""Local coefficients: linear functions of a layer, each of which depends on a window of it only.

A neuron three convolutions deep depends on a 7 x 7 window of the image. Its coefficients are kept for that window, with
the window's place, and are pulled back so for as long as the window is much smaller than the layer; then they are made
dense.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

COVERED = 0.4
"""Share of a layer from which on coefficients of a window are made dense: these are handled faster, entry by entry."""


@dataclass(frozen=True)
class Local:
    """Coefficients of S functions of a layer (C, H, W) for each of B rows, 0 outside of a window.

    Args:
        values: (S, B, C, h, w), those of the windows; 0 where a window sticks out of the layer.
        place: row and column of each window's first entry in the layer, (S, B, 2), integers of any sign.
        plane: (H, W).

    Example:
        >>> A = Local.of_entries(torch.tensor([[[0], [3]]]), [2.0], (1, 2, 2), torch.zeros(()))
        >>> A.dense().tolist()
        [[[[[2.0, 0.0], [0.0, 0.0]]]], [[[[0.0, 0.0], [0.0, 2.0]]]]]
    """

    values: Tensor
    place: Tensor
    plane: tuple[int, int]

    @classmethod
    def of_entries(cls, index: Tensor, weights: Sequence[float], layer: Sequence[int], like: Tensor) -> Local:
        """Weighted sums of a few entries each.

        Args:
            index: (B, S, n), entries of the flattened layer; the same one may occur twice.
            weights: n of them.
            layer: (C, H, W).
            like: a tensor of the type of the coefficients.
        """
        channels, height, width = layer
        index = index.transpose(0, 1)
        at = torch.stack([index % (height * width) // width, index % width], 3)  # (S, B, n, 2)
        place = at.amin(2)
        within = at - place[:, :, None]
        h, w = (int(n) + 1 for n in within.flatten(0, 2).amax(0))
        values = like.new_zeros(*index.shape[:2], channels * h * w)
        flat = (index // (height * width) * h + within[..., 0]) * w + within[..., 1]
        values = values.scatter_add(2, flat, like.new_tensor(weights).expand(flat.shape))
        return cls(values.unflatten(2, (channels, h, w)), place, (height, width))

    @property
    def shape(self) -> torch.Size:
        """That of the dense coefficients, (S, B, C, H, W)."""
        return torch.Size((*self.values.shape[:3], *self.plane))

    @property
    def dtype(self) -> torch.dtype:
        """Of the coefficients."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.values.device

    @property
    def window(self) -> tuple[int, int]:
        """(h, w)."""
        return self.values.shape[3], self.values.shape[4]

    @property
    def covers(self) -> bool:
        """Whether the windows are so large that dense coefficients are handled faster."""
        return math.prod(self.window) >= COVERED * math.prod(self.plane)

    def with_values(self, values: Tensor) -> Local:
        """Others, of the same windows."""
        return replace(self, values=values)

    def dense(self) -> Tensor:
        """The coefficients of the whole layer."""
        (h, w), (height, width) = self.window, self.plane
        rows, columns = (self.place[..., i, None] + torch.arange(n, device=self.place.device)
                         for i, n in enumerate((h, w)))
        inside = ((rows >= 0) & (rows < height))[..., None] & ((columns >= 0) & (columns < width))[..., None, :]
        flat = rows.clamp(0, height - 1)[..., None] * width + columns.clamp(0, width - 1)[..., None, :]
        values = self.values * inside[:, :, None]
        index = flat[:, :, None].expand_as(values)
        dense = values.new_zeros(*values.shape[:3], height * width)
        return dense.scatter_add(3, index.flatten(3), values.flatten(3)).unflatten(3, self.plane)

    def of(self, x: Tensor) -> Tensor:
        """What a value (B, C, H, W), in which dimensions may be 1, has in the windows: (S, B, C, h, w), 0 outside."""
        (h, w), (height, width) = self.window, self.plane
        if x.ndim < 4:
            x = x.reshape(*[1] * (4 - x.ndim), *x.shape)
        if x.shape[2:] == (1, 1) and not self._sticks_out:
            return x
        x = x.expand(*x.shape[:2], height, width)
        low, high = self.place.flatten(0, 1).amin(0).tolist(), self.place.flatten(0, 1).amax(0).tolist()
        before = [max(0, -n) for n in low]
        after = [max(0, n + k - size) for n, k, size in zip(high, self.window, self.plane, strict=True)]
        x = F.pad(x, (before[1], after[1], before[0], after[0])).unfold(2, h, 1).unfold(3, w, 1)
        i, j = self.place[..., 0] + before[0], self.place[..., 1] + before[1]
        rows = torch.arange(len(x), device=i.device).expand(i.shape) if len(x) > 1 else torch.zeros_like(i)
        return x[rows, :, i, j]

    @property
    def _sticks_out(self) -> bool:
        """Whether a window reaches beyond the layer."""
        limit = self.place.new_tensor([n - k for n, k in zip(self.plane, self.window, strict=True)])
        return bool(((self.place < 0) | (self.place > limit)).any())

    def cut(self) -> Local:
        """The same, 0 beyond the layer."""
        if not self._sticks_out:
            return self
        inside = []
        for i, (n, size) in enumerate(zip(self.window, self.plane, strict=True)):
            at = self.place[..., i, None] + torch.arange(n, device=self.place.device)
            inside.append((at >= 0) & (at < size))
        mask = inside[0][..., None] & inside[1][..., None, :]
        return self.with_values(self.values * mask[:, :, None])

    def moved(self, place: Tensor, window: tuple[int, int]) -> Local:
        """The same functions, 0 outside of other windows at other places."""
        values, shift = self.values, place - self.place
        for i, size in enumerate(window):
            old, by = values.shape[3 + i], shift[..., i]
            first = int(by.flatten()[0])
            if bool((by == first).all()):
                pad = [0, 0, -first, first + size - old] if i == 0 else [-first, first + size - old]
                values = F.pad(values, pad)
                continue
            at = by[..., None] + torch.arange(size, device=by.device)
            inside = (at >= 0) & (at < old)
            shape = (*at.shape[:2], 1, size, 1) if i == 0 else (*at.shape[:2], 1, 1, size)
            expanded = (-1, -1, values.shape[2], -1, values.shape[4]) if i == 0 else (-1, -1, *values.shape[2:4], -1)
            index = at.clamp(0, old - 1).reshape(shape).expand(expanded)
            values = values.gather(3 + i, index) * inside.reshape(shape)
        return Local(values, place, self.plane)

    def __add__(self, other: Local | Tensor) -> Local | Tensor:
        """The sum, in windows that contain those of both."""
        if isinstance(other, Tensor):
            return self.dense() + other
        if torch.equal(self.place, other.place) and self.window == other.window:
            return self.with_values(self.values + other.values)
        place = torch.minimum(self.place, other.place)
        ends = torch.stack([A.place + A.place.new_tensor(A.window) for A in (self, other)]).amax(0) - place
        h, w = ends.flatten(0, 1).amax(0).tolist()
        first, second = (A.moved(place, (h, w)) for A in (self, other))
        return first.with_values(first.values + second.values)

    def __radd__(self, other: Tensor) -> Tensor:
        return other + self.dense()

    def __neg__(self) -> Local:
        return self.with_values(-self.values)

    def __mul__(self, factor: Tensor | float) -> Local:
        """Entry by entry, by a number or a value (B, C, H, W)."""
        return self.with_values(self.values * (self.of(factor) if isinstance(factor, Tensor) else factor))

    def clamp(self, min: float | None = None, max: float | None = None) -> Local:
        """Its values, at least `min` and at most `max`, one of which is 0."""
        return self.with_values(self.values.clamp(min, max))

    def abs(self) -> Local:
        """Absolute values."""
        return self.with_values(self.values.abs())

    def detach(self) -> Local:
        """Without a graph."""
        return self.with_values(self.values.detach())

    def weighted_sum(self, x: Tensor) -> Tensor:
        """Sum over a row's entries of the coefficients times a value (B, C, H, W): (S, B)."""
        if x.ndim < 4:
            x = x.reshape(*[1] * (4 - x.ndim), *x.shape)
        if x.shape[2:] == (1, 1):
            return (self.values.sum((3, 4)) * x[..., 0, 0]).sum(2)
        return (self.values * self.of(x)).flatten(2).sum(2)


def spread(local: Local, parts: Sequence[Tensor], offsets: Sequence[tuple[int, int]], stride: Sequence[int],
           padding: Sequence[int], plane: tuple[int, int]) -> Local:
    """Coefficients of a layer that a map by windows reads, from those of its outputs: the transpose of the map.

    Output m reads entry m * stride - padding + offset_k with a factor that is in part k already.

    Args:
        local: the coefficients of the outputs.
        parts: for each position of a window, coefficients of the outputs times what it counts, (S, B, C, h, w).
        offsets: where these positions are.
        stride: from one window to the next.
        padding: before the layer.
        plane: (H, W) of the layer.
    """
    reach = [max(offset[i] for offset in offsets) for i in range(2)]
    sizes = [(n - 1) * s + r + 1 for n, s, r in zip(local.window, stride, reach, strict=True)]
    values = parts[0].new_zeros(*parts[0].shape[:3], *sizes)
    for part, offset in zip(parts, offsets, strict=True):
        rows, columns = (slice(o, o + (n - 1) * s + 1, s) for o, n, s in zip(offset, local.window, stride, strict=True))
        values[..., rows, columns] += part
    place = local.place * local.place.new_tensor(list(stride)) - local.place.new_tensor(list(padding))
    return Local(values, place, plane).cut()


def met(local: Local, reach: Sequence[int], stride: Sequence[int], padding: Sequence[int],
        outputs: tuple[int, int]) -> tuple[Local, Tensor]:
    """Coefficients of a layer that a map by windows reads, in the windows of those outputs that meet them.

    Output m of the map reads entries m * stride - padding + 0, ..., reach - 1. The first output that a window of
    coefficients meets is found for each function, and the window moved to where that output's begins.

    Args:
        local: the coefficients.
        reach: extent of a window of the map, by dimension.
        stride: from one window of the map to the next.
        padding: before the layer.
        outputs: how many outputs there are in each dimension.

    Returns:
        Coefficients for whole windows, and the first output for each function, (S, B, 2).
    """
    low = local.place.new_tensor([p - k + 1 for p, k in zip(padding, reach, strict=True)])
    steps, before = local.place.new_tensor(list(stride)), local.place.new_tensor(list(padding))
    first = -(-(local.place + low)).div(steps, rounding_mode="floor")
    counts = [min((n - 1 + k - 1) // s + 1, size)
              for n, k, s, size in zip(local.window, reach, stride, outputs, strict=True)]
    ends = local.place.new_tensor([size - n for size, n in zip(outputs, counts, strict=True)])
    first = torch.minimum(first.clamp(min=0), ends)
    window = tuple((n - 1) * s + k for n, s, k in zip(counts, stride, reach, strict=True))
    return local.moved(first * steps - before, window), first  # type: ignore[arg-type]
