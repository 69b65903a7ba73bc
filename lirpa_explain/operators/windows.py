"""The windows of a pooling, and which of their positions may hold the maximum."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import Box
from ..rounding import JUMP, roundings
from .bound import flat_rows


class Windows:
    """The windows of a two-dimensional pooling, as a dimension of their own.

    `of(x)` has shape (B, C, K, L): K positions in each of L windows. `back(y)` is the transpose of
    `of`.
    """

    def __init__(self, size: torch.Size | tuple[int, ...], kernel: list[int], stride: list[int],
                 padding: list[int], dilation: list[int], ceil: bool = False) -> None:
        height, width = size
        self.size = height, width
        self.arguments = {"kernel_size": kernel, "dilation": dilation, "stride": stride}
        self.positions = kernel[0] * kernel[1]
        self.output = (self._count(height, kernel[0], stride[0], padding[0], dilation[0], ceil),
                       self._count(width, kernel[1], stride[1], padding[1], dilation[1], ceil))
        # Rows and columns added after the end, so that the last window is whole (negative: entries
        # no window reads).
        after = [(m - 1) * s + d * (k - 1) + 1 - n - p for m, s, d, k, n, p
                 in zip(self.output, stride, dilation, kernel, self.size, padding, strict=True)]
        self.pad = [padding[1], after[1], padding[0], after[0]]
        self.steps = stride, padding
        self.reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        rows, columns = (range(0, r, d) for r, d in zip(self.reach, dilation, strict=True))
        self.offsets = list(itertools.product(rows, columns))

    @staticmethod
    def _count(n: int, k: int, s: int, p: int, d: int, ceil: bool) -> int:
        span = n + 2 * p - d * (k - 1) - 1
        count = -(-span // s) + 1 if ceil else span // s + 1
        # With ceil, a window that would start beyond the input and its left padding is left out, as
        # torch does.
        return count - 1 if ceil and (count - 1) * s >= n + p else count

    @property
    def are_apart(self) -> bool:
        """Whether no two windows have an entry in common."""
        kernel, dilation, stride = (self.arguments[name]
                                    for name in ("kernel_size", "dilation", "stride"))
        return all(s > d * (k - 1) for k, d, s in zip(kernel, dilation, stride, strict=True))

    @cached_property
    def index(self) -> Tensor:
        """Place in a flat channel of each position of each window, (K, L); -1 if outside."""
        places = torch.arange(self.size[0] * self.size[1], dtype=torch.float64)
        places = places.reshape(1, 1, *self.size)
        return self.of(places, -1.0)[0, 0].long()

    def read(self, count: Sequence[int]) -> tuple[int, int]:
        """Rows and columns spanned by so many neighbouring windows in each dimension."""
        h, w = ((n - 1) * s + r for n, s, r in zip(count, self.steps[0], self.reach, strict=True))
        return h, w

    def places_in(self, count: Sequence[int]) -> Tensor:
        """Places, (K, h * w), of window positions in the flat entries that they all read."""
        _, width = self.read(count)
        rows, columns = (torch.arange(n) * s for n, s in zip(count, self.steps[0], strict=True))
        first = (rows[:, None] * width + columns).flatten()
        return torch.tensor([i * width + j for i, j in self.offsets])[:, None] + first

    def of(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """Entries of each window; positions outside the input are `fill`."""
        batch, channels = x.shape[:2]
        padded = F.pad(x, self.pad, value=fill)
        windows = F.unfold(padded, **self.arguments)  # type: ignore[arg-type]
        return windows.reshape(batch, channels, self.positions, -1)

    def back(self, y: Tensor) -> Tensor:
        """Sum of the windows' entries at each place of the input: (B, C, K, L) -> (B, C, H, W)."""
        padded = [self.size[0] + self.pad[2] + self.pad[3],
                  self.size[1] + self.pad[0] + self.pad[1]]
        folded = F.fold(y.flatten(1, 2), padded, **self.arguments)  # type: ignore[arg-type]
        return F.pad(folded, [-p for p in self.pad])


@dataclass(frozen=True)
class Race:
    """Window positions that may hold the maximum, and their lead over one of them, the pivot.

    Args:
        windows: of which pooling.
        pivot: (B, C, 1, L), a position; where only one may hold the maximum, that one.
        lead: of z_k - z_pivot, (B, C, K, L).
        candidates: which may hold the maximum, (B, C, K, L).
    """

    windows: Windows
    pivot: Tensor
    lead: Box
    candidates: Tensor

    @classmethod
    def of(cls, z: Box, windows: Windows, rectified: bool = False,
           known: Comparison | None = None) -> Race:
        """The race of entries that lie in boxes (B, C, H, W), with known differences if any.

        The pivot of what is known stays the pivot, unless it is certainly behind or takes no part.
        Where all entries of a window are 0, as behind ReLUs, no rounding can decide between them:
        torch takes the first.

        Args:
            z: the box.
            windows: of the pooling.
            rectified: whether a maximum below 0 is of no consequence: entries that are certainly
                negative then take no part, unless all of a window are.
            known: bounds of differences.
        """
        lower, upper = windows.of(z.lower, -torch.inf), windows.of(z.upper, -torch.inf)
        inside = upper > -torch.inf
        lower, upper = lower.masked_fill(~inside, 0.0), upper.masked_fill(~inside, 0.0)
        size = torch.maximum(lower.abs(), upper.abs()).amax(2, keepdim=True)
        margin = roundings(JUMP, lower.dtype) * size
        if rectified:
            positive = inside & (upper >= -margin)
            inside = torch.where(positive.any(2, keepdim=True), positive, inside)
        floor = lower.masked_fill(~inside, -torch.inf).amax(2, keepdim=True)
        candidates = inside & (upper >= floor - margin)
        entries = Box(lower, upper)
        middle = (lower + upper).masked_fill(~candidates, -torch.inf)
        first = _argmax(middle)
        pivot = first if known is None else torch.where(size == 0, first, known.pivot)
        only = torch.zeros_like(candidates).scatter(2, first, True)
        candidates = candidates & (only | (size > 0))
        lead = _lead(entries, pivot)
        if known is not None:
            lead = lead.intersect(known.lead)
        behind = lead.lower.masked_fill(~candidates, -torch.inf)
        first = _argmax(behind)
        is_behind = (behind.gather(2, first) > margin) | ~candidates.gather(2, pivot)
        pivot = torch.where(is_behind, first, pivot)
        by = Box(*(side.gather(2, pivot) for side in lead))
        moved = Box(lead.lower - by.upper, lead.upper - by.lower).intersect(_lead(entries, pivot))
        is_pivot = torch.zeros_like(candidates).scatter(2, pivot, True)
        lead = Box(*(torch.where(is_behind, new, old).masked_fill(is_pivot, 0.0)
                     for new, old in zip(moved, lead, strict=True)))
        return cls(windows, pivot, lead, candidates & (lead.upper >= -margin))

    def range(self, z: Box) -> Box:
        """Bounds of the maxima, (B, C, 1, L)."""
        return z.map(lambda side: self.windows.of(side).masked_fill(
            ~self.candidates, -torch.inf).amax(2, keepdim=True))

    def decided_where(self, mask: Tensor) -> Race:
        """The same with the pivots as the only candidates of some windows, (B, C, 1, L)."""
        only = torch.zeros_like(self.candidates).scatter(2, self.pivot, True)
        return replace(self, candidates=torch.where(mask, only, self.candidates))

    @cached_property
    def pivots(self) -> Tensor:
        """The pivots' positions, as a layer."""
        return self.grid(self.pivot[:, :, 0])

    @cached_property
    def open(self) -> Tensor:
        """The windows of which several may hold the maximum, as a layer."""
        return self.grid(self.undecided[:, :, 0])

    @cached_property
    def undecided(self) -> Tensor:
        """Windows of which several positions may hold the maximum, (B, C, 1, L)."""
        return self.candidates.sum(2, keepdim=True) > 1

    @property
    def rivals(self) -> Tensor:
        """Positions but the pivot that may hold the maximum, (B, C, K, L)."""
        return self.candidates.scatter(2, self.pivot, False)

    def pairs(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """For positions (B, M) in flat (C, K, L): flat input places of them and their pivots."""
        positions, count = self.candidates.shape[2:]
        window = index // (positions * count) * count + index % count
        places = self.places[window]
        first = places.gather(2, (index // count % positions)[..., None])[..., 0]
        pivot = self.pivot.flatten(1).gather(1, window)
        return first, places.gather(2, pivot[..., None])[..., 0]

    @cached_property
    def place(self) -> Tensor:
        """Where the pivots lie in the flattened input, (B, C * L)."""
        index = self.windows.index.to(self.pivot.device).expand(*self.pivot.shape[:2], -1, -1)
        return self._flat(index.gather(2, self.pivot))

    def few(self) -> tuple[Tensor, Tensor]:
        """Windows with several candidates, (B, M), M the most of any row; and which of these count.

        They index the flat windows (B, C * L); rows with fewer have others beside them, which do
        not count.
        """
        flat = flat_rows(self.undecided)
        most = int(flat.sum(1).max())
        count, index = flat.to(torch.int8).topk(most, 1)
        return index, count > 0

    def grid(self, x: Tensor) -> Tensor:
        """What each window has, (B, C, L), as a layer."""
        return x.unflatten(2, self.windows.output)

    def at(self, x: Tensor, index: Tensor) -> Tensor:
        """What windows (B, M) have at their positions, of (B, C, K, L): (B, M, K)."""
        flat = x.movedim(2, 3).flatten(1, 2)
        return flat.gather(1, index[..., None].expand(-1, -1, flat.shape[2]))

    @cached_property
    def places(self) -> Tensor:
        """Flat input place of each position, (C * L, K); outside ones borrow a neighbour's."""
        index = self.windows.index.to(self.pivot.device)
        index = torch.where(index < 0, index.amax(0, keepdim=True), index).clamp(min=0)
        area = self.windows.size[0] * self.windows.size[1]
        channels = torch.arange(self.pivot.shape[1], device=index.device) * area
        return (channels[:, None, None] + index.T).flatten(0, 1)

    def _flat(self, index: Tensor) -> Tensor:
        """Places (B, C, 1, L) of channels as places of the flattened input."""
        area = self.windows.size[0] * self.windows.size[1]
        channels = torch.arange(index.shape[1], device=index.device) * area
        return (index + channels[:, None, None]).flatten(1)


@dataclass(frozen=True)
class Comparison:
    """Bounds of the differences between entries of windows.

    Args:
        pivot: (B, C, 1, L), a position of each window.
        lead: of z_k - z_pivot, (B, C, K, L), infinite where nothing is known.
        ignored: windows whose maximum is of no consequence, (B, C, 1, L).
    """

    pivot: Tensor
    lead: Box
    ignored: Tensor


def _lead(entries: Box, pivot: Tensor) -> Box:
    """Bounds of z_k - z_pivot from those of both."""
    return Box(entries.lower - entries.upper.gather(2, pivot),
               entries.upper - entries.lower.gather(2, pivot))


def _argmax(x: Tensor) -> Tensor:
    """First position of the maximum along dimension 2 (kept); faster than torch for few."""
    largest, position = x[:, :, :1], torch.zeros_like(x[:, :, :1], dtype=torch.long)
    for k in range(1, x.shape[2]):
        is_larger = x[:, :, k:k + 1] > largest
        largest, position = (torch.where(is_larger, x[:, :, k:k + 1], largest),
                             position.masked_fill(is_larger, k))
    return position
