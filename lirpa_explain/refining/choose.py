"""Which decision to split a domain by, for a function at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

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
    |l| / (u - l)^2 of an interval [l, u] that a kink at 0 cuts. Others are cut in the middle.

    Args:
        bounded: what is known of the functions.
        domains: one a row.
        kinks: the nodes that can be cut by name, and whether that is at 0.
        inputs: whether inputs are cut, and nothing else; of functions that gain from none, the one
            cut least often.
    """
    kinks = {**kinks, INPUT: False}
    names = [INPUT] if inputs else sorted(bounded.gains.keys() - {INPUT})
    if not names:
        return [[None] * bounded.lower.shape[1] for _ in domains]
    if inputs:
        bounded = replace(bounded, gains={INPUT: _input_gains(bounded, domains)})
    boxes = {name: bounded.box if inputs else _stacked(domains, name) for name in names}
    scores = torch.cat([_score(bounded.gains[name], boxes[name], kinks[name]) for name in names], 2)
    best, places = scores.max(2)
    owner = [(name, j) for name in names for j in range(bounded.gains[name].shape[2])]
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
