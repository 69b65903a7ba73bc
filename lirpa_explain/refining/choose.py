"""Which decision to split a domain by, for a function at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..boxes import Box
from .domains import INPUT, Decision, Domain
from .within import Bounded

EVEN = 0.25
"""To which power it counts how evenly a pre-activation's interval is cut."""

NARROW = 1e-7
"""Width of an interval, relative to its ends, below which it is not cut again."""


def decisions(bounded: Bounded, domains: Sequence[Domain], kinks: Mapping[str, bool],
              inputs: bool = False) -> list[list[Decision | None]]:
    """The most promising decision for each domain, of B, and each of K functions; None where there
    is none.

    An entry promises what a function can gain from knowing it, times how evenly it can be cut: 4 u
    |l| / (u - l)^2 of an interval [l, u] that a kink at 0 cuts. Others are cut in the middle. A
    function that gains from none has the decision by which the domain's own half-spaces gain most.

    Args:
        bounded: what is known of the functions.
        domains: one a row; `otherwise` is set where it is known.
        kinks: the nodes that can be cut by name, and whether that is at 0.
        inputs: whether inputs are cut, and nothing else; of functions that gain from none, the one
            cut least often.
    """
    kinks = {**kinks, INPUT: False}
    if inputs:
        return _best({INPUT: _input_gains(bounded, domains)}, {INPUT: bounded.box}, kinks)
    boxes = {name: _stacked(domains, name)
             for name in sorted(bounded.gains.keys() | bounded.behind.keys()) if name != INPUT}
    if bounded.behind:
        behind = {name: gain[:, None] for name, gain in bounded.behind.items()}
        for domain, found in zip(domains, _best(behind, boxes, kinks), strict=True):
            domain.otherwise = found[0]
    gains = {name: gain for name, gain in bounded.gains.items() if name != INPUT}
    if not gains:
        return [[domain.otherwise] * bounded.lower.shape[1] for domain in domains]
    return [[domain.otherwise if decision is None else decision for decision in chosen]
            for domain, chosen in zip(domains, _best(gains, boxes, kinks), strict=True)]


def _best(gains: Mapping[str, Tensor], boxes: Mapping[str, Box], kinks: Mapping[str, bool]
          ) -> list[list[Decision | None]]:
    """The decisions that promise most, by gains (B, K, n) of the entries of nodes; None where none
    does.
    """
    names = sorted(gains)
    scores = torch.cat([_score(gains[name], boxes[name], kinks[name]) for name in names], 2)
    best, places = scores.max(2)
    owner = [(name, j) for name in names for j in range(gains[name].shape[2])]
    chosen: list[list[Decision | None]] = []
    for i, (values, at) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
        found: list[Decision | None] = []
        for value, place in zip(values, at, strict=True):
            name, entry = owner[place]
            middle = 0.0 if kinks[name] else float(sum(side[i, entry] for side in boxes[name]) / 2)
            found.append(Decision(name, entry, middle, 1) if value > 0 else None)
        chosen.append(found)
    return chosen


def _input_gains(bounded: Bounded, domains: Sequence[Domain]) -> Tensor:
    """What functions gain from inputs, (B, K, D); where that is nothing, more for those cut less
    often.
    """
    gains = bounded.gains.get(INPUT, torch.zeros_like(bounded.at))
    counts = gains.new_zeros(len(domains), gains.shape[2])
    for row, domain in zip(counts, domains, strict=True):
        for decision in domain.decisions:
            row[decision.entry] += 1
    return torch.where((gains > 0).any(2, keepdim=True), gains, 1 / (1 + counts)[:, None])


def _stacked(domains: Sequence[Domain], name: str) -> Box:
    known = [box for domain in domains if (box := domain.box(name)) is not None]
    return Box(*(torch.stack(side) for side in zip(*known, strict=True)))


def _score(gain: Tensor, box: Box, is_kink: bool) -> Tensor:
    """What each entry of a node promises, (B, K, n)."""
    lower, upper = box
    width = (upper - lower).clamp(min=torch.finfo(gain.dtype).tiny ** 0.5)
    if not is_kink:
        return gain * (width > NARROW * torch.maximum(lower.abs(), upper.abs()))[:, None]
    return gain * (-4 * lower * upper / width.square()).clamp(min=0).pow(EVEN)[:, None]
