"""Local coefficients: linear functions of a layer, each of which depends on a window of it only.

A neuron three convolutions deep depends on a 7 x 7 window of the image. Its coefficients are kept
for that window, with the window's place, and are pulled back so for as long as the window is much
smaller than the layer; then they are made dense.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .places import Entries, Pair, Places

COVERED = 0.4
"""Share of a layer from which on coefficients of a window are made dense: these are handled faster,
entry by entry."""

WHERE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "different": torch.ne,
    "not 0": lambda one, other: (one != 0) | (other != 0),
}
"""Which entries of two values differ from the others."""

FEW = 0.05
"""Share of a layer up to which entries that differ from the others are worked on one by one."""


@dataclass(frozen=True)
class Local:
    """Coefficients of S functions of a layer (C, H, W) for each of B rows, 0 outside of a window.

    Args:
        values: (S, B, C, h, w), those of the windows.
        places: where these are.
        is_cut: whether values are 0 where a window sticks out of the layer; else they count for
            nothing there.

    Example:
        >>> A = Local.of_entries(torch.tensor([[[0], [3]]]), [2.0], (1, 2, 2), torch.zeros(()))
        >>> A.dense().tolist()
        [[[[[2.0, 0.0], [0.0, 0.0]]]], [[[[0.0, 0.0], [0.0, 2.0]]]]]
    """

    values: Tensor
    places: Places
    is_cut: bool = True

    @classmethod
    def of_entries(cls, index: Tensor, weights: Sequence[float], layer: Sequence[int],
                   like: Tensor) -> Local:
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
        first = at.amin(2)
        within = at - first[:, :, None]
        h, w = (int(n) + 1 for n in within.flatten(0, 2).amax(0))
        values = like.new_zeros(*index.shape[:2], channels * h * w)
        flat = (index // (height * width) * h + within[..., 0]) * w + within[..., 1]
        values = values.scatter_add(2, flat, like.new_tensor(weights).expand(flat.shape))
        return cls(values.unflatten(2, (channels, h, w)), Places.of(first, (h, w), (height, width)))

    @property
    def shape(self) -> torch.Size:
        """That of the dense coefficients, (S, B, C, H, W)."""
        return torch.Size((*self.values.shape[:3], *self.places.plane))

    @property
    def dtype(self) -> torch.dtype:
        """Of the coefficients."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.values.device

    @property
    def window(self) -> Pair:
        """(h, w)."""
        return self.places.window

    @property
    def covers(self) -> bool:
        """Whether the windows are so large that dense coefficients are handled faster."""
        return math.prod(self.window) >= COVERED * math.prod(self.places.plane)

    def with_values(self, values: Tensor, is_cut: bool | None = None) -> Local:
        """Others, of the same windows."""
        return Local(values, self.places, self.is_cut if is_cut is None else is_cut)

    def dense(self) -> Tensor:
        """The coefficients of the whole layer."""
        values, (height, width) = self.cut().values, self.places.plane
        dense = values.new_zeros(*values.shape[:3], height * width)
        dense = dense.scatter_add(3, self._at()[:, :, None].expand_as(values).flatten(3),
                                  values.flatten(3))
        return dense.unflatten(3, (height, width))

    def flat(self) -> tuple[Tensor, Tensor]:
        """Which entries of the flattened layer each function depends on, and their coefficients,
        (S, B, n) each.

        Beyond the layer, whose size is C H W, the entry is C H W, and its coefficient 0.
        """
        values, size = self.cut().values, math.prod(self.places.plane)
        channels = torch.arange(values.shape[2], device=values.device)[:, None, None] * size
        index = self._at()[:, :, None] + channels
        if self.places.inside is not None:
            index = torch.where(self.places.inside, index, values.shape[2] * size)
        return index.flatten(2), values.flatten(2)

    def _at(self) -> Tensor:
        """Where in the flattened plane the entries of windows are, (S, B, h, w); some other place
        if beyond it.
        """
        rows, columns = (at.clamp(0, size - 1)
                         for at, size in zip(self.places.lines, self.places.plane, strict=True))
        return self.places.to_functions(rows[..., None] * self.places.plane[1]
                                        + columns[..., None, :])

    def of(self, x: Tensor) -> Tensor:
        """What a value (B, C, H, W), in which dimensions may be 1, has in the windows: (S, B, C, h,
        w), 0 outside.
        """
        return self.places.find(x)

    def cut(self) -> Local:
        """The same, 0 beyond the layer."""
        if self.is_cut or self.places.inside is None:
            return self if self.is_cut else self.with_values(self.values, True)
        return self.with_values(self.values * self.places.inside, True)

    def moved(self, places: Places) -> Local:
        """The same functions, 0 outside of other windows."""
        return Local(self.places.move(self.cut().values, places), places)

    def __add__(self, other: Local | Tensor) -> Local | Tensor:
        """The sum, in windows that contain those of both."""
        if isinstance(other, Tensor):
            return self.dense() + other
        if self.places is other.places:
            return self.with_values(self.values + other.values, self.is_cut and other.is_cut)
        both = self.places.hull(other.places)
        return Local(self.moved(both).values + other.moved(both).values, both)

    def __radd__(self, other: Tensor) -> Tensor:
        return other + self.dense()

    def __neg__(self) -> Local:
        return self.with_values(-self.values)

    def __mul__(self, factor: Tensor | float) -> Local:
        """Entry by entry, by a number or a value (B, C, H, W)."""
        if isinstance(factor, Tensor):
            return self.with_values(self.values * self.of(factor), True)
        return self.with_values(self.values * factor)

    def by_sign(self, positive: Tensor, negative: Tensor) -> Local:
        """Times one value where the coefficients are above 0, and another elsewhere; each (B, C, H,
        W).
        """
        if positive is negative:
            return self * positive
        entries = self._entries("different", positive, negative)
        A = self.values
        if entries is None:
            up, down = self.of(positive), self.of(negative)
            return self.with_values(torch.addcmul(A.clamp(min=0) * up, A.clamp(max=0), down), True)
        result = (self * positive).values.flatten()
        index = self.index(entries)
        few = A.flatten()[index]
        up, down = (entries.of(self._whole(x)) for x in (positive, negative))
        few = few * torch.where(few > 0, up, down)
        return self.with_values(result.index_put_((index,), few).reshape(A.shape), True)

    def sum_by_sign(self, positive: Tensor, negative: Tensor) -> Tensor:
        """The sum over a row's entries of `by_sign`: (S, B)."""
        entries = self._entries("not 0", positive, negative)
        if entries is None:
            return self.clamp(min=0).weighted_sum(positive) + self.clamp(max=0).weighted_sum(
                negative)
        few = self.values.flatten()[self.index(entries)]
        up, down = (entries.of(self._whole(x)) for x in (positive, negative))
        return entries.sums(few * torch.where(few > 0, up, down), self.shape)

    def _entries(self, kind: str, one: Tensor, other: Tensor) -> Entries | None:
        """Entries at which two values, (B, C, H, W), are different, or not both 0; None if they are
        many.
        """
        mask = self.places.remembered((one, other), lambda p, n: self._whole(WHERE[kind](p, n)),
                                      kind)
        return None if mask.sum() > FEW * mask.numel() else self.places.entries(mask)

    def _whole(self, x: Tensor) -> Tensor:
        """A value for the whole plane of the layer."""
        x = x.reshape(*[1] * (4 - x.ndim), *x.shape)
        return x.expand(-1, self.values.shape[2], *self.places.plane)

    def index(self, entries: Entries) -> Tensor:
        """Where entries are in the flattened values."""
        size = self.window[0] * self.window[1]
        return (entries.function * self.values.shape[2] + entries.channel) * size + entries.within

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
        x = x.reshape(*[1] * (4 - x.ndim), *x.shape)
        if x.shape[2:] == (1, 1):
            return (self.cut().values.sum((3, 4)) * x[..., 0, 0]).sum(2)
        return torch.einsum("sbd,sbd->sb", self.values.flatten(2),
                            self.of(x).expand_as(self.values).flatten(2))


def spread(local: Local, parts: Sequence[Tensor], offsets: Sequence[Pair], stride: Sequence[int],
           padding: Sequence[int], plane: Pair, is_cut: bool = False) -> Local:
    """Coefficients of a layer that a map by windows reads, from those of its outputs: the transpose
    of the map.

    Output m reads entry m * stride - padding + offset_k with a factor that is in part k already.

    Args:
        local: the coefficients of the outputs.
        parts: for each position of a window, coefficients of the outputs times what it counts, (S,
            B, C, h, w).
        offsets: where these positions are.
        stride: from one window to the next.
        padding: before the layer.
        plane: (H, W) of the layer.
        is_cut: whether positions beyond the layer count nothing.
    """
    reach = [max(offset[i] for offset in offsets) for i in range(2)]
    h, w = ((n - 1) * s + r + 1 for n, s, r in zip(local.window, stride, reach, strict=True))
    values = parts[0].new_zeros(*parts[0].shape[:3], h, w)
    for part, offset in zip(parts, offsets, strict=True):
        rows, columns = (slice(o, o + (n - 1) * s + 1, s)
                         for o, n, s in zip(offset, local.window, stride, strict=True))
        values[..., rows, columns] += part
    return Local(values, local.places.scaled(stride, padding, (h, w), plane), is_cut)


def met(local: Local, reach: Sequence[int], stride: Sequence[int], padding: Sequence[int],
        outputs: Pair) -> tuple[Tensor, Places]:
    """Coefficients of a layer that a map by windows reads, where those of its outputs begin that
    meet their windows.

    Output m of the map reads entries m * stride - padding + 0, ..., reach - 1.

    Args:
        local: the coefficients.
        reach: extent of a window of the map, by dimension.
        stride: from one window of the map to the next.
        padding: before the layer.
        outputs: how many outputs there are in each dimension.

    Returns:
        Values for whole windows of the map, (S, B, C, ...), and the places of the outputs'
        coefficients.
    """
    first, whole = local.places.met(reach, stride, padding, outputs)
    return local.moved(whole).values, first
