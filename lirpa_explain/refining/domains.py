"""Domains: parts of a ball, each given by decisions on which side of a place some pre-activations
lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..boxes import Box

INPUT = "input"
"""The name under which inputs are cut: their boxes become smaller."""


class Decision(NamedTuple):
    """One pre-activation lies above a place (side 1), or below it (side -1).

    Args:
        node: the node's name; `INPUT` for the inputs themselves, flat over those that move.
        entry: of the flattened node.
        place: where it is cut; at a kink's own place 0.0 both sides are straight.
        side: 1 or -1.
    """

    node: str
    entry: int
    place: float
    side: int

    @property
    def other(self) -> Decision:
        """The other side."""
        return self._replace(side=-self.side)


@dataclass(eq=False)
class Domain:
    """All inputs of a row's ball at which every decision holds.

    Args:
        row: of the plan.
        decisions: what holds.
        whole: the domain of the whole ball, None if this is it.
        boxes: bounds of each node that a relaxation reads, by name: of the entries in
            `Domain.columns` of the whole ball's domain, or all of them there. Until a domain is
            bounded, those of a larger one.
        columns: for the whole ball: entries (M,) of each node of which domains can know more.
        read: of nodes that only functions that are asked for read, upstream gradients, which of
            these entries are bounded.
        since: the decisions by which it differs from the domain whose bounds are known; None: no
            bounds are known.
        otherwise: what splits it for a function that gains nothing by itself: whether there is such
            an input is open.
        is_empty: whether it is proven that there is no such input.
        is_bounded: whether `boxes` are its own.
    """

    row: int
    decisions: frozenset[Decision] = frozenset()
    whole: Domain | None = None
    boxes: dict[str, Box] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    read: dict[str, Tensor] = field(default_factory=dict)
    since: frozenset[Decision] | None = None
    otherwise: Decision | None = None
    is_empty: bool = False
    is_bounded: bool = False

    @property
    def key(self) -> tuple[int, frozenset[Decision]]:
        """Equal for equal sets of inputs."""
        return self.row, self.decisions

    def half(self, decision: Decision) -> Domain:
        """The part where a further decision holds."""
        boxes = {} if self.whole is None else self.boxes
        since = None if self.since is None else self.since | {decision}
        return Domain(self.row, self.decisions | {decision}, self.whole or self, boxes, since=since)

    def box(self, name: str) -> Box | None:
        """What is known of a node, (n,)."""
        whole = self.whole or self
        known = whole.boxes.get(name)
        if known is None or whole is self or name not in self.boxes:
            return known
        columns = whole.columns[name]
        return Box(*(side.index_copy(0, columns, part)
                     for side, part in zip(known, self.boxes[name], strict=True)))

    def is_read(self, name: str) -> Tensor | bool:
        """Which entries (n,) of a node are bounded already."""
        read = self.read.get(name) if self.is_bounded else None
        if read is None or self.whole is None:
            return False if read is None else read
        whole = self.whole.boxes[name].lower
        return torch.zeros_like(whole,
                                dtype=torch.bool).index_copy(0, self.whole.columns[name], read)

    def settle(self, boxes: dict[str, Box], is_open: dict[str, Tensor], read: dict[str, Tensor],
               is_empty: bool) -> None:
        """Keep own bounds (n,) of the nodes, which of them were wanted, and that there may be no
        input.
        """
        own = {name: self._kept(name, mask) for name, mask in read.items()}
        if self.is_bounded:
            for name, mask in own.items():
                self.read[name] = self.read[name] | mask
                new = self.boxes[name].intersect(self._kept_box(name, boxes[name]))
                self.boxes[name] = new.ordered()
            return
        if self.whole is None:
            self.columns = self.columns or {name: mask.nonzero()[:, 0]
                                            for name, mask in is_open.items()}
        self.boxes = {name: self._kept_box(name, box) for name, box in boxes.items()}
        self.read, self.since = own, frozenset()
        self.is_bounded, self.is_empty = True, self.is_empty or is_empty

    def _kept_box(self, name: str, box: Box) -> Box:
        return Box(self._kept(name, box.lower), self._kept(name, box.upper))

    def _kept(self, name: str, x: Tensor) -> Tensor:
        """Of what a node has, (n,), what is kept."""
        return x if self.whole is None else x[self.whole.columns[name]]


@dataclass(frozen=True)
class Limits:
    """The decisions on one node for each of B rows; rows with fewer than M have others with side 0.

    Args:
        entry: (B, M).
        place: (B, M).
        side: (B, M).
        is_new: (B, M), whether the bounds that are known do not know of it.
    """

    entry: Tensor
    place: Tensor
    side: Tensor
    is_new: Tensor

    @classmethod
    def of(cls, domains: Sequence[Domain], node: str, like: Tensor) -> Limits:
        """Those on a node of that name."""
        chosen = [sorted(d for d in domain.decisions if d.node == node) for domain in domains]
        most = max(map(len, chosen))
        filled = [[*ds, *[Decision(node, 0, 0.0, 0)] * (most - len(ds))] for ds in chosen]
        entry = torch.tensor([[d.entry for d in ds] for ds in filled],
                             device=like.device).reshape(len(filled), most)
        place, side = (torch.tensor([[float(v) for v in map(get, ds)] for ds in filled],
                                    dtype=like.dtype, device=like.device).reshape(entry.shape)
                       for get in (lambda d: d.place, lambda d: d.side))
        is_new = torch.tensor([[domain.since is None or d in domain.since for d in ds]
                               for domain, ds in zip(domains, filled, strict=True)],
                              dtype=torch.bool, device=like.device)
        return cls(entry.long(), place, side, is_new.reshape(entry.shape) & (side != 0))

    @property
    def count(self) -> int:
        """M."""
        return self.entry.shape[1]

    def box(self, size: int, reach: float = 0.0) -> Box:
        """What the decisions leave of each of so many entries, (B, size); shrunk by a reach."""
        inf = torch.inf
        low, high = (torch.where(self.side == side, self.place + side * reach, -side * inf)
                     for side in (1, -1))
        empty = low.new_zeros(len(low), size)
        return Box((empty - inf).scatter_reduce(1, self.entry, low, "amax"),
                   (empty + inf).scatter_reduce(1, self.entry, high, "amin"))

    def mask(self, size: int) -> Tensor:
        """Which of so many entries are decided, (B, size)."""
        found = self.side.new_zeros(len(self.side), size)
        return found.scatter_reduce(1, self.entry, self.side.abs(), "amax") > 0
