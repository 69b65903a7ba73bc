"""Average and max pooling, and their gradients."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import Box
from .affine import Affine, BoundAffine
from .bound import (
    BoundOperator,
    Coefficient,
    both_sides,
    box_of,
    flat_functions,
    flat_rows,
    value_of,
    weighted_sum,
)
from .local import Local, met, spread
from .registry import Operator, register
from .windows import Comparison, Race, Windows


class BoundPooled(BoundOperator):
    """What depends on where windows of an input z have their maxima."""

    pooled: int
    """Which input z is."""
    rectified: bool
    """Whether a maximum below 0 is of no consequence: ReLU reads it, or what is sent back there is 0."""
    takes_local = True
    known: Comparison | None = None
    """What is known of differences within windows, set by the engine for the time of a call."""

    def __init__(self, attr: Any = None, inputs: Any = None, output_index: int = 0, options: Any = None) -> None:
        super().__init__(attr, inputs, output_index, options)
        self.pooling = {name: value for name, value in self.settings.items() if name != "rectified"}
        self.rectified = self.settings.get("rectified", False)

    def race(self, z: Box) -> Race:
        """Which positions may hold the maxima."""
        return Race.of(z, Windows(z.lower.shape[2:], **self.pooling), self.rectified, self.known)

    def open_positions(self, z: Box) -> Tensor:
        """Entries that compete for the maximum of some window, unless they are known exactly."""
        race = self.race(z)
        competing = race.candidates & race.undecided
        if self.known is not None:
            competing = competing & ~self.known.ignored
        return (race.windows.back(competing.to(z.lower.dtype)) > 0) & (z.upper > z.lower)


class BoundMaxPool(BoundPooled):
    """y = max over a window of z, which is z_p for the pivot p where no other position may hold the maximum.

    Lower plane: the position that is ahead in the middle. Upper planes, for any weights a_k in [0, 1] of candidates:

        y <= sum_k a_k z_k + max_j (u_j - a_j (u_j - l_j)) - sum_k a_k l_k                   for z_k in [l_k, u_k];
        y - z_p = max(0, max_k d_k) <= sum_k a_k d_k + max(0, max_j (U_j - a_j (U_j - L_j))) - sum_k a_k L_k

    for d_k = z_k - z_p in [L_k, U_k]. The weights that make the plane lowest in the middle of the box leave all but the
    two largest of the inner maximum's terms at their largest value, so that of two candidates the second plane is the
    chord of their difference. Whichever of the two planes is lower there is taken.

    Rectified, the bounds are of the maximum over those entries that the box of z leaves a chance to be positive:
    whatever that is instead of a y below 0, ReLU makes it 0.
    """

    pooled = 0

    def relaxed_inputs(self) -> list[int]:
        return [0]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        return self.open_positions(boxes[0])

    def bound_interval(self, *boxes: Box) -> Box:
        if not self.rectified:
            return boxes[0].map(self.forward)
        shape = self.forward(boxes[0].lower).shape
        return self.race(boxes[0]).range(boxes[0]).map(lambda side: side.reshape(shape))

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None, *nodes: Any) -> Any:
        z = box_of(nodes[0])
        race = self.race(z)
        index, count = race.few()
        at = Box(*(race.at(race.windows.of(side), index) for side in z))
        planes = _Planes(at, Box(*(race.at(side, index) for side in race.lead)), race.at(race.candidates, index),
                         race.at(race.pivot, index))
        only = planes.pivot
        change_above, change_below = ((plane - only) * count[..., None] for plane in (planes.above, planes.below))
        offset = planes.offset * count
        places = race.places[index].flatten(1)
        local = _LocalPool(race, index, change_above, change_below, offset, tuple(nodes[0].output_shape[2:]))

        def side(lower_side: bool) -> Any:
            def bound(A: Any) -> tuple[list[Coefficient | None], Tensor]:
                if isinstance(A, Local):
                    return local.bound(A, lower_side)
                flat = flat_functions(A)
                few = flat.gather(2, index.expand(len(A), -1, -1))
                up, down = few.clamp(min=0), few.clamp(max=0)
                up, down = (down, up) if lower_side else (up, down)
                pulled = flat.new_zeros(*A.shape[:2], z.lower[0].numel())
                put = pulled.scatter if race.windows.are_apart else pulled.scatter_add
                pulled = put(2, race.place.expand(len(A), -1, -1), flat)
                change = up[..., None] * change_above + down[..., None] * change_below
                pulled = pulled.scatter_add(2, places.expand(len(A), -1, -1), change.flatten(2))
                return [pulled.reshape(*A.shape[:2], *z.lower.shape[1:])], (up * offset).sum(2)

            return bound

        return both_sides(last_lower, last_upper, side(True), side(False))


class _LocalPool:
    """The relaxation of a max pooling for local coefficients; arguments as they are called there."""

    def __init__(self, race: Race, index: Tensor, change_above: Tensor, change_below: Tensor, offset: Tensor,
                 plane: tuple[int, int]) -> None:
        self.windows, self.plane = race.windows, plane
        only = torch.zeros_like(race.lead.lower).scatter(2, race.pivot, 1.0)
        above, below = (only + race.layer(index, change) if index.shape[1] else only
                        for change in (change_above, change_below))
        self.above, self.below = ([race.grid(weights[:, :, k]) for k in range(weights.shape[2])]
                                  for weights in (above, below))
        self.below = self.below if index.shape[1] else self.above
        self.offset = race.grid(race.layer(index, offset[..., None])[:, :, 0]) if index.shape[1] else None

    def bound(self, A: Local, lower_side: bool) -> tuple[list[Coefficient | None], Tensor]:
        """Coefficients of z, and the bias."""
        positive, negative = (self.below, self.above) if lower_side else (self.above, self.below)
        parts = [A.by_sign(*pair).values for pair in zip(positive, negative, strict=True)]
        pulled = spread(A, parts, self.windows.offsets, *self.windows.steps, self.plane, is_cut=True)
        if self.offset is None:
            return [pulled], A.values.new_zeros(A.shape[:2])
        side = A.clamp(max=0) if lower_side else A.clamp(min=0)
        return [pulled], side.weighted_sum(self.offset)


class _Planes:
    """Weights (B, M, K) of the positions of windows of which several may hold the maximum, and offsets (B, M).

    Args:
        z: of the entries, (B, M, K).
        lead: of their differences to the pivot.
        candidates: which may hold the maximum.
        pivot: (B, M, 1).
    """

    def __init__(self, z: Box, lead: Box, candidates: Tensor, pivot: Tensor) -> None:
        self.pivot = torch.zeros_like(z.lower).scatter(2, pivot, 1.0)
        ahead = lead.center.masked_fill(~candidates, -torch.inf).argmax(2, keepdim=True)
        self.below = torch.zeros_like(z.lower).scatter(2, ahead, 1.0)
        floor = z.lower.masked_fill(~candidates, -torch.inf).amax(2, keepdim=True)
        alone, height = _weights((z.upper - floor) * candidates, z.lower - floor)
        rival, gap = _weights(lead.upper * candidates, lead.lower.clamp(max=0))
        rest = 1 - rival.sum(2, keepdim=True)
        rival = rival + rest * self.pivot
        height = height + floor[..., 0] - (alone.sum(2, keepdim=True) * floor)[..., 0]
        middle = z.center
        is_lower = ((rival * middle).sum(2) + gap <= (alone * middle).sum(2) + height)
        self.above = torch.where(is_lower[..., None], rival, alone)
        self.offset = torch.where(is_lower, gap, height)


def _weights(upper: Tensor, lower: Tensor) -> tuple[Tensor, Tensor]:
    """Weights a and offset c of the plane above max(0, max_k d_k) that is lowest in the middle of a box.

    Args:
        upper: of d, (..., K); no d above 0 counts for nothing.
        lower: of d, at most as large.

    Returns:
        (..., K) and (...).
    """
    upper = upper.clamp(min=0)
    third = upper.topk(3, -1).values[..., 2:] if upper.shape[-1] > 2 else torch.zeros_like(upper[..., :1])
    width = torch.where(upper > 0, upper - lower, torch.ones_like(upper))
    weights = (upper - third).clamp(min=0) / width
    return weights, third[..., 0] - (weights * lower).sum(-1)


class BoundMaxPoolGradient(BoundPooled):
    """p = the upstream gradient of each window, put where the window has its maximum.

    With A_k the coefficients of a window's positions, sum_k A_k p_k = g * w, where w lies between the smallest and
    the largest A_k of those positions that may hold the maximum: one unknown factor a window, whatever its size.
    Rectified, g is 0 wherever the maximum is below 0, so that positions which cannot be positive receive nothing.
    """

    pooled = 1

    def relaxed_inputs(self) -> list[int]:
        return [0, 1]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        if index == 1:
            return self.open_positions(boxes[1])
        many = self.race(boxes[1]).undecided
        g = boxes[0]
        return many.reshape(g[0].shape) & (g[1] > g[0])

    def bound_interval(self, *boxes: Box, ties: bool = True) -> Box:
        """As for any operator; without `ties`, of entries that are known to be equal torch's choice has the maximum."""
        (gl, gu), z = boxes[0], boxes[1]
        race = self.race(z)
        windows, candidates = race.windows, race.candidates
        if not ties:
            lower, upper = (windows.of(side, -torch.inf) for side in z)
            known = (~candidates | (lower == upper)).all(2, keepdim=True)
            largest = lower == lower.amax(2, keepdim=True)
            candidates = torch.where(known, largest & (largest.cumsum(2) == 1), candidates)
        certain = candidates & (candidates.sum(2, keepdim=True) == 1)
        gl, gu = gl.flatten(2)[:, :, None], gu.flatten(2)[:, :, None]
        low = torch.where(certain, gl, gl.clamp(max=0)) * candidates
        high = torch.where(certain, gu, gu.clamp(min=0)) * candidates
        return Box(low, high).map(windows.back)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None, *nodes: Any) -> Any:
        g = box_of(nodes[0]).map(flat_rows)
        race = self.race(box_of(nodes[1]))
        index, _ = race.few()
        candidates = race.at(race.candidates, index)
        places = race.places[index].flatten(1)
        gl, gu = (side.gather(1, index) for side in g)
        crossing = (gl < 0) & (gu > 0)
        width = torch.where(crossing, gu - gl, torch.ones_like(gu))
        grids = [race.grid(race.candidates[:, :, k]) for k in range(race.windows.positions)]
        layers = box_of(nodes[0])

        def upper(A: Any) -> tuple[list[Coefficient | None], Tensor]:
            if isinstance(A, Local):
                return self._local_upper(A, race, grids, layers)
            flat = flat_functions(A)
            slope = flat.gather(2, race.place.expand(len(A), -1, -1))
            spread = flat.gather(2, places.expand(len(A), -1, -1)).unflatten(2, candidates.shape[1:])
            high = spread.masked_fill(~candidates, -torch.inf).amax(3)
            low = spread.masked_fill(~candidates, torch.inf).amin(3)
            # g * w is convex in g: at most high * g for g >= 0, low * g for g < 0, and the chord between.
            chord = torch.where(crossing, (high * gu - low * gl) / width, torch.where(gl >= 0, high, low))
            bias = torch.where(crossing, high * gu - chord * gu, torch.zeros_like(chord)).sum(2)
            slope = slope.scatter(2, index.expand(len(A), -1, -1), chord)
            slope = slope.reshape(*A.shape[:2], *nodes[0].output_shape[1:])
            if not nodes[0].perturbed:
                return [None, None], bias + weighted_sum(slope, value_of(nodes[0]))
            return [slope, None], bias

        def lower(A: Any) -> tuple[list[Coefficient | None], Tensor]:
            coefficients, bias = upper(-A)
            return [None if c is None else -c for c in coefficients], -bias

        return both_sides(last_lower, last_upper, lower if index.shape[1] else upper, upper)

    def _local_upper(self, A: Local, race: Race, grids: list[Tensor], layers: Box
                     ) -> tuple[list[Coefficient | None], Tensor]:
        """The upper side for local coefficients: candidates by position, and bounds of g, as layers."""
        windows, strides = race.windows, race.windows.steps[0]
        whole, places = met(A, windows.reach, *windows.steps, windows.output)
        counts = places.window
        parts = [whole[..., i:i + (counts[0] - 1) * strides[0] + 1:strides[0],
                       j:j + (counts[1] - 1) * strides[1] + 1:strides[1]] for i, j in windows.offsets]
        at = Local(parts[0], places)
        high, low = torch.full_like(at.values, -torch.inf), torch.full_like(at.values, torch.inf)
        for k, part in enumerate(parts):
            is_candidate = at.of(grids[k])
            high = torch.where(is_candidate, torch.maximum(high, part), high)
            low = torch.where(is_candidate, torch.minimum(low, part), low)
        gl, gu = (at.of(side) for side in layers)
        crossing = (gl < 0) & (gu > 0) & (high > low)
        width = torch.where(crossing, gu - gl, torch.ones_like(gu))
        chord = torch.where(crossing, (high * gu - low * gl) / width, torch.where(gl >= 0, high, low))
        bias = torch.where(crossing, high * gu - chord * gu, torch.zeros_like(chord)).flatten(2).sum(2)
        slope = at.with_values(chord)
        if not self.inputs[0].perturbed:
            return [None, None], bias + weighted_sum(slope, value_of(self.inputs[0]))
        return [slope, None], bias


def _max_pool(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int],
              ceil: bool, rectified: bool = False) -> Tensor:
    return F.max_pool2d(x, kernel, stride, padding, dilation, ceil)


def _max_pool_gradient(g: Tensor, x: Tensor, kernel: list[int], stride: list[int], padding: list[int],
                       dilation: list[int], ceil: bool, rectified: bool = False) -> Tensor:
    indices = F.max_pool2d(x, kernel, stride, padding, dilation, ceil, return_indices=True)[1]
    flat = torch.zeros_like(x).flatten(2).scatter_add(2, indices.flatten(2), g.flatten(2))
    return flat.reshape(x.shape)


def _average_pool(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil: bool,
                  count_include_pad: bool, divisor: int | None) -> Tensor:
    return F.avg_pool2d(x, kernel, stride, padding, ceil, count_include_pad, divisor)


def _average_pool_gradient(g: Tensor, size: list[int], kernel: list[int], stride: list[int], padding: list[int],
                           ceil: bool, count_include_pad: bool, divisor: int | None) -> Tensor:
    return torch.ops.aten.avg_pool2d_backward(g, g.new_empty(*g.shape[:2], *size), kernel, stride, padding, ceil,
                                              count_include_pad, divisor)


def _local_average(A: Local, kernel: list[int], stride: list[int], padding: list[int], of: Any, **settings: Any
                   ) -> Local:
    share = _share(A, of[1:], kernel, stride, padding, **settings)
    offsets = list(itertools.product(range(kernel[0]), range(kernel[1])))
    return spread(A, [(A * share).values] * len(offsets), offsets, stride, padding, tuple(of[1:]))


def _local_average_gradient(A: Local, size: list[int], kernel: list[int], stride: list[int], padding: list[int],
                            of: Any, **settings: Any) -> Local:
    whole, places = met(A, kernel, stride, padding, tuple(of[1:]))
    sums = F.avg_pool2d(whole.flatten(0, 2)[:, None], kernel, stride, divisor_override=1)
    pulled = Local(sums[:, 0].unflatten(0, A.shape[:3]), places)
    return pulled * _share(A, size, kernel, stride, padding, **settings)


def _share(A: Local, size: Sequence[int], kernel: list[int], stride: list[int], padding: list[int], ceil: bool,
           count_include_pad: bool, divisor: int | None) -> Tensor:
    """What an entry of a window counts in its average, (1, 1, H, W)."""
    ones = A.values.new_ones(1, 1, *size)
    return F.avg_pool2d(ones, kernel, stride, padding, ceil, count_include_pad, divisor) / F.avg_pool2d(
        ones, kernel, stride, padding, ceil, divisor_override=1)


ROWS = [
    Operator("average_pool", _average_pool, BoundAffine, "nn.AvgPool1d, nn.AvgPool2d",
             Affine(homogeneous=True, local=_local_average)),
    Operator("average_pool_gradient", _average_pool_gradient, BoundAffine, "nn.AvgPool1d, nn.AvgPool2d",
             Affine(homogeneous=True, local=_local_average_gradient)),
    Operator("max_pool", _max_pool, BoundMaxPool, "nn.MaxPool1d, nn.MaxPool2d"),
    Operator("max_pool_gradient", _max_pool_gradient, BoundMaxPoolGradient, "nn.MaxPool1d, nn.MaxPool2d"),
]
for row in ROWS:
    register(row)
