"""Bounds of max pooling and of its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..boxes import Box
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
from .expansion import Expansion
from .local import Local, met
from .places import Entries
from .windows import Comparison, Race, Windows

T = TypeVar("T")


class BoundPooled(BoundOperator):
    """What depends on where windows of an input z have their maxima."""

    pooled: int
    """Which input z is."""
    rectified: bool
    """Whether a maximum below 0 is of no consequence: ReLU reads it, or what is sent back there is
    0."""
    takes_local = True
    known: Comparison | None = None
    """What is known of differences within windows, set by the engine for the time of a call."""

    def __init__(self, attr: Any = None, inputs: Any = None, output_index: int = 0,
                 options: Any = None) -> None:
        super().__init__(attr, inputs, output_index, options)
        self.pooling = {name: value for name, value in self.settings.items() if name != "rectified"}
        self.rectified = self.settings.get("rectified", False)
        self._relaxed: tuple[list[Any], Any] = [], None

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

    def forget(self) -> None:
        """Let go of what holds for one call of the engine."""
        self.known, self._relaxed = None, ([], None)

    def relaxed(self, make: Callable[[], T], *tensors: Tensor | None) -> T:
        """A relaxation, remembered for as long as what it is made of are the same tensors."""
        key = [torch.is_grad_enabled(), self.known, *tensors]
        if (len(key) != len(self._relaxed[0])
                or any(a is not b for a, b in zip(key, self._relaxed[0], strict=True))):
            self._relaxed = key, make()
        return self._relaxed[1]


class BoundMaxPool(BoundPooled):
    """y = max over a window of z: z_p for the pivot p if nothing else may be the maximum.

    Lower plane: the position that is ahead in the middle. Upper planes, for any weights a_k in [0,
    1] of candidates:

        y <= sum_k a_k z_k + max_j (u_j - a_j (u_j - l_j)) - sum_k a_k l_k                   for z_k
        in [l_k, u_k]; y - z_p = max(0, max_k d_k) <= sum_k a_k d_k + max(0, max_j (U_j - a_j (U_j -
        L_j))) - sum_k a_k L_k

    for d_k = z_k - z_p in [L_k, U_k]. The weights that make the plane lowest in the middle of the
    box leave all but the two largest of the inner maximum's terms at their largest value, so that
    of two candidates the second plane is the chord of their difference. Whichever of the two planes
    is lower there is taken.

    Rectified, the bounds are of the maximum over those entries that the box of z leaves a chance to
    be positive: whatever that is instead of a y below 0, ReLU makes it 0.
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

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        z = box_of(nodes[0])
        largest = self.upper if self.rectified and isinstance(self.upper, Tensor) else None
        planes = self.relaxed(lambda: _Planes(z, self._read(self.race(z), largest)), *z, largest)

        def side(lower_side: bool) -> Any:
            def bound(A: Any) -> tuple[list[Coefficient | None], Tensor]:
                return (planes.local(A, lower_side)
                        if isinstance(A, Local) else planes.dense(A, lower_side))

            return bound

        return both_sides(last_lower, last_upper, side(True), side(False))

    def expansion(self, *at: Tensor) -> Expansion:
        """The pivots, and half of by how much another position may lead them."""
        race, shape = self.race(box_of(self.inputs[0])), self.output_shape[1:]

        def pivots(x: Tensor) -> Tensor:
            return x.flatten(1).gather(1, race.place.expand(len(x), -1)).reshape(-1, *shape)

        lead = race.lead.upper.masked_fill(~race.candidates, 0.0).clamp(min=0).amax(2)
        half = lead.reshape(1, *shape) / 2
        return Expansion(pivots(at[0]) + half, pivots, pivots, half)

    @staticmethod
    def _read(race: Race, largest: Tensor | None) -> Race:
        """A race of which only maxima that ReLU reads matter: coefficients of others are 0."""
        if largest is None:
            return race
        return race.decided_where(largest.reshape(race.undecided.shape) < 0)


class _Planes:
    """Planes around the maxima: the pivot, but for windows with several candidates.

    Args:
        z: the box.
        race: of all windows.
    """

    def __init__(self, z: Box, race: Race) -> None:
        self.race, self.layer = race, z.lower.shape[1:]
        self.index, count = race.few()
        at = Box(*(race.at(race.windows.of(side), self.index) for side in z))
        lead = Box(*(race.at(side, self.index) for side in race.lead))
        candidates, pivot = race.at(race.candidates, self.index), race.at(race.pivot, self.index)
        only = torch.zeros_like(at.lower).scatter(2, pivot, 1.0)
        below, above, offset = _planes(at, lead, candidates, only)
        self.below, self.above = ((below - only) * count[..., None],
                                  (above - only) * count[..., None])
        self.offset = offset * count

    def dense(self, A: Tensor, lower_side: bool) -> tuple[list[Coefficient | None], Tensor]:
        """Coefficients of z, and the bias."""
        race, flat = self.race, flat_functions(A)
        few = flat.gather(2, self.index.expand(len(A), -1, -1))
        up, down = few.clamp(min=0), few.clamp(max=0)
        up, down = (down, up) if lower_side else (up, down)
        pulled = flat.new_zeros(*A.shape[:2], self.layer.numel())
        put = pulled.scatter if race.windows.are_apart else pulled.scatter_add
        pulled = put(2, race.place.expand(len(A), -1, -1), flat)
        change = up[..., None] * self.above + down[..., None] * self.below
        at = race.places[self.index].flatten(1).expand(len(A), -1, -1)
        pulled = pulled.scatter_add(2, at, change.flatten(2))
        return [pulled.reshape(*A.shape[:2], *self.layer)], (up * self.offset).sum(2)

    def local(self, A: Local, lower_side: bool) -> tuple[list[Coefficient | None], Tensor]:
        """The same for local coefficients."""
        race, windows, places = self.race, self.race.windows, A.places
        values = A.cut().values.flatten(3)
        moved = places.scaled(*windows.steps, windows.read(A.window), windows.size)
        pulled = values.new_zeros(*values.shape[:3], moved.window[0] * moved.window[1])
        put = pulled.scatter if windows.are_apart else pulled.scatter_add
        pulled = put(3, places.find_index(race.pivots, windows.places_in(A.window)), values)
        if not self.index.shape[1]:
            return [Local(pulled.unflatten(3, moved.window), moved)], values.new_zeros(A.shape[:2])
        entries = places.entries(race.open)
        few, flat = values.flatten()[A.index(entries)], self.flat_index(entries)
        up, down = few.clamp(min=0), few.clamp(max=0)
        up, down = (down, up) if lower_side else (up, down)
        change = up[:, None] * self._by_window(self.above)[flat] + down[:, None] * self._by_window(
            self.below)[flat]
        at = windows.places_in(A.window).to(A.device)[:, entries.within].T
        index = (entries.function * values.shape[2]
                 + entries.channel)[:, None] * pulled.shape[3] + at
        pulled = pulled.flatten().index_add(0, index.flatten(),
                                            change.flatten()).reshape(pulled.shape)
        bias = entries.sums(up * self.offset.flatten()[flat], A.shape)
        return [Local(pulled.unflatten(3, moved.window), moved)], bias

    @staticmethod
    def _by_window(weights: Tensor) -> Tensor:
        return weights.flatten(0, 1)

    def flat_index(self, entries: Entries) -> Tensor:
        """Which of the windows (B, M), flattened, entries are."""
        rows, count = self.index.shape
        channels, height, width = self.race.pivots.shape[1:]
        numbers = self.index.new_zeros(rows, channels * height * width)
        numbers = numbers.scatter(
            1, self.index, torch.arange(rows * count, device=numbers.device).reshape(rows, count))
        return entries.of(numbers.reshape(rows, channels, height, width))


def _planes(z: Box, lead: Box, candidates: Tensor, only: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (B, M, K) of positions below and above maxima, and the offset above, (B, M).

    Args:
        z: of the entries, (B, M, K).
        lead: of their differences to the pivot.
        candidates: which may hold the maximum.
        only: 1 at the pivot.
    """
    ahead = lead.center.masked_fill(~candidates, -torch.inf).argmax(2, keepdim=True)
    floor = z.lower.masked_fill(~candidates, -torch.inf).amax(2, keepdim=True)
    alone, height = _weights((z.upper - floor) * candidates, z.lower - floor)
    rival, gap = _weights(lead.upper * candidates, lead.lower.clamp(max=0))
    rival = rival + (1 - rival.sum(2, keepdim=True)) * only
    height = height + floor[..., 0] - (alone.sum(2, keepdim=True) * floor)[..., 0]
    is_lower = (rival * z.center).sum(2) + gap <= (alone * z.center).sum(2) + height
    above = torch.where(is_lower[..., None], rival, alone)
    return torch.zeros_like(only).scatter(2, ahead, 1.0), above, torch.where(is_lower, gap, height)


def _weights(upper: Tensor, lower: Tensor) -> tuple[Tensor, Tensor]:
    """Weights a and offset c of the plane above max(0, max_k d_k) lowest in a box's middle.

    Args:
        upper: of d, (..., K); no d above 0 counts for nothing.
        lower: of d, at most as large.

    Returns:
        (..., K) and (...).
    """
    upper = upper.clamp(min=0)
    third = (upper.topk(3, -1).values[..., 2:]
             if upper.shape[-1] > 2 else torch.zeros_like(upper[..., :1]))
    width = torch.where(upper > 0, upper - lower, torch.ones_like(upper))
    weights = (upper - third).clamp(min=0) / width
    return weights, third[..., 0] - (weights * lower).sum(-1)


class BoundMaxPoolGradient(BoundPooled):
    """p = the upstream gradient of each window, put where the window has its maximum.

    With A_k the coefficients of a window's positions, sum_k A_k p_k = g * w, where w lies between
    the smallest and the largest A_k of those positions that may hold the maximum: one unknown
    factor a window, whatever its size. Rectified, g is 0 wherever the maximum is below 0, so that
    positions which cannot be positive receive nothing.
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
        """As for any operator; without `ties`, torch's own choice counts among equal entries."""
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

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        g, z = box_of(nodes[0]), box_of(nodes[1])
        routes = self.relaxed(lambda: _Routes(g, self.race(z)), *g, *z)

        def upper(A: Any) -> tuple[list[Coefficient | None], Tensor]:
            slope, bias = routes.local(A) if isinstance(A, Local) else routes.dense(A)
            if not nodes[0].perturbed:
                return [None, None], bias + weighted_sum(slope, value_of(nodes[0]))
            return [slope, None], bias

        def lower(A: Any) -> tuple[list[Coefficient | None], Tensor]:
            coefficients, bias = upper(-A)
            return [None if c is None else -c for c in coefficients], -bias

        return both_sides(last_lower, last_upper, lower if routes.index.shape[1] else upper, upper)


class _Routes:
    """The relaxation above: what only goes to a pivot, and windows with several candidates.

    Args:
        g: bounds of what is sent back.
        race: of all windows.
    """

    def __init__(self, g: Box, race: Race) -> None:
        is_sent = ((g.lower != 0) | (g.upper != 0)).reshape(race.undecided.shape)
        self.race = race = race.decided_where(~is_sent)
        self.index, _ = race.few()
        self.g, self.few = g, g.map(lambda side: flat_rows(side).gather(1, self.index))
        self.candidates = race.at(race.candidates, self.index)
        self.shape = g.lower.shape[1:]

    def dense(self, A: Tensor) -> tuple[Coefficient, Tensor]:
        """Coefficients of g above, and the bias."""
        flat = flat_functions(A)
        slope = flat.gather(2, self.race.place.expand(len(A), -1, -1))
        at = self.race.places[self.index].flatten(1).expand(len(A), -1, -1)
        chord, offset = _chord(flat.gather(2, at).unflatten(2, self.candidates.shape[1:]),
                               self.candidates, *self.few)
        slope = slope.scatter(2, self.index.expand(len(A), -1, -1), chord)
        return slope.reshape(*A.shape[:2], *self.shape), offset.sum(2)

    def local(self, A: Local) -> tuple[Coefficient, Tensor]:
        """The same for local coefficients."""
        race, windows = self.race, self.race.windows
        whole, places = met(A, windows.reach, *windows.steps, windows.output)
        flat, table = whole.flatten(3), windows.places_in(places.window).to(A.device)
        slopes = flat.gather(3, places.find_index(race.pivots, table))
        slope = Local(slopes.unflatten(3, places.window), places)
        if not self.index.shape[1]:
            return slope, flat.new_zeros(A.shape[:2])
        entries = places.entries(race.open)
        base = (entries.function * flat.shape[2] + entries.channel)[:, None] * flat.shape[3]
        positions = torch.arange(windows.positions, device=A.device)
        channel = entries.channel[:, None] * windows.positions + positions
        candidates = entries.of(race.grid(race.candidates.flatten(1, 2)), channel)
        chord, offset = _chord(flat.flatten()[base + table[:, entries.within].T], candidates,
                               *(entries.of(side) for side in self.g))
        values = slopes.flatten().index_put((slope.index(entries),), chord)
        return slope.with_values(values.reshape(slope.values.shape)), entries.sums(offset, A.shape)


def _chord(spread: Tensor, candidates: Tensor, gl: Tensor, gu: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of the line above g * w, g in [gl, gu], w between candidates' coefficients.

    g * w is convex in g: at most high * g for g >= 0, low * g for g < 0, and the chord between.

    Args:
        spread: the coefficients, (..., K).
        candidates: which count.
        gl: lower bounds of g.
        gu: upper bounds.
    """
    high = spread.masked_fill(~candidates, -torch.inf).amax(-1)
    low = spread.masked_fill(~candidates, torch.inf).amin(-1)
    crossing = (gl < 0) & (gu > 0)
    width = torch.where(crossing, gu - gl, torch.ones_like(gu))
    slope = torch.where(crossing, (high * gu - low * gl) / width, torch.where(gl >= 0, high, low))
    return slope, torch.where(crossing, high * gu - slope * gu, torch.zeros_like(slope))
