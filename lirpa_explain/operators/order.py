"""Entries by their rank in a group: the largest, the k-th largest, all in order; gradients, and
picks, by rank.

Ranks count from 0, the largest, or down from -1, the smallest.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..relaxations.order import largest_plane, may_have, rank_range, ranked_planes
from .bound import BoundOperator, both_sides, box_of, flat_functions, value_of, weighted_sum
from .groups import Along, Windows
from .registry import Operator, register

Groups = Along | Windows
Plane = tuple[Tensor, Tensor]


def _groups(x: Tensor, settings: dict[str, Any]) -> Groups:
    """The groups of a value (B, *S) that an operator's settings speak of."""
    if "windows" in settings:
        return Windows(settings["sizes"], settings["windows"])
    return Along(settings["dim"] - x.ndim)


class BoundGroups(BoundOperator):
    """An operator on groups; ranks are those of a setting, or only the largest."""

    def groups(self, x: Tensor) -> Groups:
        """Of a value of the input that is grouped."""
        return _groups(x, self.settings)

    def ranks(self, x: Tensor) -> Tensor:
        """The ranks that are asked for, (R,)."""
        if "ranks" not in self.settings:
            return torch.zeros(1, dtype=torch.long, device=x.device)
        return torch.tensor(self.settings["ranks"], device=x.device) % x.shape[self.settings["dim"]]

    def boxes_of_groups(self, box: Box) -> Box:
        """Where the entries of each group lie; at -inf where there is none."""
        groups = self.groups(box.lower)
        return box.map(partial(groups.of, fill=-torch.inf))

    def possible(self, box: Box) -> Tensor:
        """Which entries of each group may be an output's, (B, ..., R, n), from the box of what
        decides it.
        """
        return may_have(self.boxes_of_groups(box), self.ranks(box.lower))

    def competing(self, box: Box) -> Tensor:
        """Which entries of what decides it may be an output's beside others, and are not known
        exactly.
        """
        possible = self.possible(box)
        several = (possible & (possible.sum(-1, keepdim=True) > 1)).any(-2)
        return (self.groups(box.lower).back(several.to(box.lower.dtype)) > 0) & (
            box.upper > box.lower)


class BoundRanked(BoundGroups):
    """y = the entries of some ranks of each group, between planes."""

    def relaxed_inputs(self) -> list[int]:
        return [0]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        return self.competing(boxes[0])

    def bound_interval(self, *boxes: Box) -> Box:
        return boxes[0].map(self.forward)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        box = box_of(nodes[0])
        groups = self.groups(box.lower)
        planes = ranked_planes(self.boxes_of_groups(box), self.ranks(box.lower))
        return between(last_lower, last_upper, groups, planes, (0, 1))


def between(last_lower: Tensor | None, last_upper: Tensor | None, groups: Groups,
            planes: tuple[Plane, Plane], at: tuple[int, int], fixed: Tensor | None = None) -> Any:
    """`bound_linear` of an operator whose R results of each group lie between planes in its n
    entries.

    Args:
        last_lower: coefficients (S, B, *output).
        last_upper: likewise.
        groups: the groups.
        planes: slopes (B, ..., R, n) and offsets (B, ..., R), below and above.
        at: which input is grouped, and of how many.
        fixed: its value, if it does not move.
    """
    (low, low_offset), (high, high_offset) = planes

    def bound(A: Tensor, upper: bool) -> tuple[list[Tensor | None], Tensor]:
        A = groups.split(A)
        above, below = ((A.clamp(min=0), A.clamp(max=0))
                        if upper else (A.clamp(max=0), A.clamp(min=0)))
        if A.shape[-1] == 1:  # many small matrix products are slow
            pulled = groups.back(above * high[..., 0, :] + below * low[..., 0, :])
        else:
            pulled = groups.back(
                (above[..., None, :] @ high + below[..., None, :] @ low)[..., 0, :])
        bias = flat_functions(above * high_offset + below * low_offset).sum(2)
        coefficients: list[Tensor | None] = [None] * at[1]
        if fixed is None:
            coefficients[at[0]] = pulled
        else:
            bias = bias + weighted_sum(pulled, fixed)
        return coefficients, bias

    exact = low is high
    upper_side = partial(bound, upper=True)
    return both_sides(last_lower, last_upper, upper_side if exact else partial(bound, upper=False),
                      upper_side)


class BoundPut(BoundGroups):
    """p = what comes in for each output of a group, put where the output is from: sum_i A_i p_i =
    sum_r g_r w_r.

    w_r lies between the smallest and the largest A_i of the entries that may be output r: one
    unknown factor an output, however many entries there are, and even where g_r is shared by
    several of them.
    """

    decided_by = 1

    def relaxed_inputs(self) -> list[int]:
        return [0, 1]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        if index == 1:
            return self.competing(boxes[1])
        several = self.possible(boxes[1]).sum(-1) > 1
        lower, upper = boxes[0]
        return self.groups(boxes[1].lower).join(several).reshape(lower.shape) & (upper > lower)

    def bound_interval(self, *boxes: Box, ties: bool = True) -> Box:
        """As for any operator; without `ties`, among entries that are known the operator's own
        choice is made.
        """
        groups = self.groups(boxes[1].lower)
        g = boxes[0].map(groups.split)
        box = self.put_range(g, boxes[1])
        if not ties:
            box = self.chosen(g, boxes[1], box)
        return box.map(groups.back)

    def chosen(self, g: Box, decides: Box, box: Box) -> Box:
        """A range of each group, (B, ..., n), with that of the operator's own choice where all
        entries are known.
        """
        entries = self.boxes_of_groups(decides)
        known = (entries.lower == entries.upper).all(-1, keepdim=True)
        choice = {"ranks": [0], "choice": ["max"]} | self.settings
        exact = g.map(lambda side: _ranked_gradient(side, entries.lower, -1, choice["ranks"],
                                                    choice["choice"]))
        return Box(*(torch.where(known, a, b) for a, b in zip(exact, box, strict=True)))

    def put_range(self, g: Box, decides: Box) -> Box:
        """Range of what each entry of each group gets: an entry has at most one rank, and surely
        one of some.
        """
        grouped = self.boxes_of_groups(decides)
        possible = self.possible(decides)
        first, last = rank_range(grouped)
        surely = possible.sum(-2) > last - first
        low = torch.where(possible, g.lower[..., None], torch.inf).amin(-2)
        high = torch.where(possible, g.upper[..., None], -torch.inf).amax(-2)
        some = possible.any(-2)
        low, high = torch.where(some, low, 0.0), torch.where(some, high, 0.0)
        return Box(torch.where(surely, low, low.clamp(max=0)),
                   torch.where(surely, high, high.clamp(min=0)))

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        g, decides = box_of(nodes[0]), box_of(nodes[1])
        groups, possible = self.groups(decides.lower), self.possible(decides)
        gl, gu = (groups.split(side) for side in g)
        crossing = (gl < 0) & (gu > 0)
        width = torch.where(crossing, gu - gl, torch.ones_like(gu))

        def upper(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
            spread = groups.of(A)[..., None, :]
            high = torch.where(possible, spread, -torch.inf).amax(-1)
            low = torch.where(possible, spread, torch.inf).amin(-1)
            # g * w is convex in g: at most high * g for g >= 0, low * g for g < 0, and the chord
            # between.
            slope = torch.where(crossing, (high * gu - low * gl) / width,
                                torch.where(gl >= 0, high, low))
            bias = flat_functions(torch.where(crossing, high * gu - slope * gu, 0.0)).sum(2)
            slope = groups.join(slope)
            if not nodes[0].perturbed:
                return [None, None], bias + weighted_sum(slope, value_of(nodes[0]))
            return [slope, None], bias

        def lower(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
            coefficients, bias = upper(-A)
            return [None if c is None else -c for c in coefficients], -bias

        exact = bool((possible.sum(-1) == 1).all())
        return both_sides(last_lower, last_upper, upper if exact else lower, upper)


class BoundPick(BoundGroups):
    """y = the entries of a value at places that another value decides, between planes of those that
    may be there.
    """

    decided_by = 1

    def relaxed_inputs(self) -> list[int]:
        return [0, 1]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        if index == 1:
            return self.competing(boxes[1])
        several = self.possible(boxes[1])
        several = (several & (several.sum(-1, keepdim=True) > 1)).any(-2)
        groups = self.groups(boxes[0].lower)
        return (groups.back(several.to(boxes[0].lower.dtype)) > 0) & (
            boxes[0].upper > boxes[0].lower)

    def bound_interval(self, *boxes: Box) -> Box:
        possible, groups = self.possible(boxes[1]), self.groups(boxes[0].lower)
        lower, upper = (groups.of(side)[..., None, :] for side in boxes[0])
        return Box(torch.where(possible, lower, torch.inf).amin(-1),
                   torch.where(possible, upper, -torch.inf).amax(-1)).map(groups.join)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        box, possible = box_of(nodes[0]), self.possible(box_of(nodes[1]))
        groups = self.groups(box.lower)
        lower, upper = (groups.of(side)[..., None, :].expand(possible.shape) for side in box)
        slopes, offsets = largest_plane(Box(-upper, -lower), possible)
        return between(last_lower, last_upper, groups,
                       ((slopes, -offsets), largest_plane(Box(lower, upper), possible)),
                       (0, 2), None if nodes[0].perturbed else value_of(nodes[0]))


class ByIndex:
    """What decides are indices along a dimension, as floating-point numbers."""

    settings: dict[str, Any]
    count: Callable[..., int]

    def possible(self, box: Box) -> Tensor:
        """Which entries an index may mean, (B, ..., R, n)."""
        size = self.settings["size"]
        index = box.map(
            lambda side: Along(self.settings["dim"] - side.ndim).of(side).clamp(0, size - 1))
        places = torch.arange(size, device=box.lower.device)
        return (places >= index.lower[..., None] - 0.5) & (places <= index.upper[..., None] + 0.5)

    def competing(self, box: Box) -> Tensor:
        """Indices that are not known."""
        several = self.possible(box).sum(-1) > 1
        return Along(self.settings["dim"] - box.lower.ndim).back(several)


class BoundPickAt(ByIndex, BoundPick):
    """y = the entries of a value at indices that move."""


class BoundPutAt(ByIndex, BoundPut):
    """p = what comes in for each index, put there and added up."""

    def chosen(self, g: Box, decides: Box, box: Box) -> Box:
        """There is nothing to choose."""
        return box

    def put_range(self, g: Box, decides: Box) -> Box:
        possible = self.possible(decides)
        certain = possible.sum(-1, keepdim=True) == 1
        low, high = g.lower[..., None], g.upper[..., None]
        return Box((torch.where(certain, low, low.clamp(max=0)) * possible).sum(-2),
                   (torch.where(certain, high, high.clamp(min=0)) * possible).sum(-2))


CHOICES: dict[str, Callable[..., Tensor]] = {
    "max": lambda x, dim: x.max(dim, keepdim=True)[1],
    "min": lambda x, dim: x.min(dim, keepdim=True)[1],
    "sort": lambda x, dim, descending,
    stable: x.sort(dim=dim, descending=descending, stable=stable)[1],
    "topk": lambda x, dim, k, largest: x.topk(k, dim, largest)[1],
    "kthvalue": lambda x, dim, k: x.kthvalue(k, dim, keepdim=True)[1],
    "median": lambda x, dim: x.median(dim, keepdim=True)[1],
}
"""torch's operations by which entries get their ranks: where entries are tied, each makes its own
choice."""


def _places(x: Tensor, dim: int, choice: list[Any]) -> Tensor:
    return CHOICES[choice[0]](x, dim, *choice[1:])


def _ranked(x: Tensor, dim: int, ranks: list[int]) -> Tensor:
    if ranks in ([0], [-1]):
        return x.amax(dim, keepdim=True) if ranks == [0] else x.amin(dim, keepdim=True)
    return x.sort(dim, descending=True)[0].movedim(dim, -1)[..., ranks].movedim(-1, dim)


def _ranked_gradient(g: Tensor, x: Tensor, dim: int, ranks: list[int], choice: list[Any]) -> Tensor:
    if choice[0] == "share":
        tied = x == _ranked(x, dim, ranks)
        return g / tied.sum(dim, keepdim=True) * tied
    return torch.zeros_like(x).scatter(dim, _places(x, dim, choice), g)


def _window_max(x: Tensor, sizes: list[int], windows: list[list[list[int]]]) -> Tensor:
    groups = Windows(sizes, windows)
    return groups.join(groups.of(x, -torch.inf).amax(-1, keepdim=True))


def _window_max_gradient(g: Tensor, x: Tensor, sizes: list[int],
                         windows: list[list[list[int]]]) -> Tensor:
    groups = Windows(sizes, windows)
    entries = groups.of(x, -torch.inf)
    chosen = CHOICES["max"](entries, -1)
    return groups.back(torch.zeros_like(entries).scatter(-1, chosen, groups.split(g)))


def _pick_ranked(y: Tensor, x: Tensor, dim: int, ranks: list[int], choice: list[Any]) -> Tensor:
    return y.gather(dim, _places(x, dim, choice))


def _index(index: Tensor) -> Tensor:
    return index.nan_to_num().round().long()


def _pick_at(y: Tensor, index: Tensor, dim: int, size: int) -> Tensor:
    return y.gather(dim, _index(index).clamp(0, size - 1))


def _put_at(g: Tensor, index: Tensor, dim: int, size: int) -> Tensor:
    shape = list(g.shape)
    shape[dim] = size
    return g.new_zeros(shape).scatter_add(dim, _index(index).clamp(0, size - 1), g)


ROWS = [
    Operator("ranked", _ranked, BoundRanked, "max, min, amax, amin, sort, topk, kthvalue, median, "
             "along a dimension"),
    Operator("ranked_gradient", _ranked_gradient, BoundPut, "gradient of max, sort, topk and their "
             "like"),
    Operator("window_max", _window_max, BoundRanked, "nn.MaxPool3d, nn.AdaptiveMaxPool1d, 2d, 3d"),
    Operator("window_max_gradient", _window_max_gradient, BoundPut, "nn.MaxPool3d, "
             "nn.AdaptiveMaxPool1d, 2d, 3d"),
    Operator("pick_ranked", _pick_ranked, BoundPick, "gather by the indices of max, sort, topk"),
    Operator("pick_at", _pick_at, BoundPickAt, "gather by indices that are computed"),
    Operator("put_at", _put_at, BoundPutAt, "gradient of gather by indices that are computed"),
]
for row in ROWS:
    register(row)
