"""Extremes of linear functions over balls cut by half-spaces, from below, by duality.

For multipliers m >= 0 and half-spaces G x + h >= 0 that hold in a domain,

    min { a.x : x in ball, G x + h >= 0 }  >=  min { (a - m G).x : x in ball } - m.h

so any multipliers give a sound bound. In coordinates in which the ball is a unit ball, the right
side is

    -|a - m G|_* - m.h + (a.center)

with the dual norm: concave in m, and nearly smooth where the ball has many dimensions. It is
climbed by reweighting: |t| <= (t^2 / w + w) / 2, whose right side is a quadratic function of as
many variables as there are half-spaces.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..rounding import RELAXED, roundings
from .ground import Ground

ROUNDS = 8
"""Reweightings."""

STRIDE = 1.9
"""Times the way to that function's minimum that is gone: it lies above what is minimised."""

THIN = 4
"""Of so many entries one is looked at in each reweighting, another each time: multipliers may be
any."""

ENOUGH = 64
"""Entries that are looked at at least."""

SWEEPS = 3
"""Times that each quadratic function is minimised along every multiplier."""


@dataclass(frozen=True)
class Cuts:
    """Half-spaces G x + h >= 0, M for each of B rows; a row with fewer has others that hold
    everywhere.

    Args:
        G: (B, M, D).
        h: (B, M), with roundings of the half-spaces' own added.
    """

    G: Tensor
    h: Tensor

    @classmethod
    def none(cls, like: Tensor) -> Cuts:
        """No half-spaces of balls with centres (B, D)."""
        return cls(like.new_zeros(len(like), 0, like.shape[1]), like.new_zeros(len(like), 0))

    @property
    def count(self) -> int:
        """M."""
        return self.h.shape[1]

    def and_also(self, G: Tensor, h: Tensor) -> Cuts:
        """These and further ones."""
        return Cuts(torch.cat([self.G, G], 1), torch.cat([self.h, h], 1))


@torch.no_grad()
def least(ground: Ground, A: Tensor, c: Tensor, cuts: Cuts, rounds: int = ROUNDS) -> Tensor:
    """Lower bounds of A x + c over balls cut by half-spaces.

    Args:
        ground: the balls of B rows.
        A: (B, S, D), coefficients of S functions.
        c: (B, S), their constants.
        cuts: the half-spaces of each row.
        rounds: reweightings; more come nearer to the extreme.

    Returns:
        (B, S), moved outward by roundings; never below the bound over the whole balls by more than
        these.
    """
    center, radius = ground.center, ground.radius
    at_center = torch.einsum("bsd,bd->bs", A, center) + c
    scaled = A * radius[:, None]
    size = torch.einsum("bsd,bd->bs", A.abs(), center.abs() + radius) + c.abs()
    share = roundings(RELAXED, A.dtype)
    spread = ground.spread(scaled)
    plain = at_center - spread - share * size
    if not cuts.count or not bool(spread.any()):
        return plain
    G = cuts.G * radius[:, None]
    h = torch.einsum("bmd,bd->bm", cuts.G, center) + cuts.h
    m = multipliers(ground, scaled, G, h, rounds)
    sizes = torch.einsum("bmd,bd->bm", cuts.G.abs(), center.abs() + radius) + cuts.h.abs()
    size = size + torch.einsum("bsm,bm->bs", m, sizes)
    left = ground.spread(torch.baddbmm(scaled, m, G, alpha=-1))
    cut = at_center - left - torch.einsum("bsm,bm->bs", m, h) - share * size
    return torch.fmax(plain, cut)


def multipliers(ground: Ground, A: Tensor, G: Tensor, h: Tensor, rounds: int) -> Tensor:
    """Multipliers (B, S, M) that nearly maximise -|A - m G|_* - m.h, for scaled A (B, S, D) and G
    (B, M, D).
    """
    dtype = A.dtype
    A, G, h = A.float(), G.float(), h.float()
    rows, functions, entries = A.shape
    count = G.shape[1]
    first, second = torch.triu_indices(count, count, device=A.device)
    place = torch.empty(count, count, dtype=torch.long, device=A.device)
    place[first, second] = place[second, first] = torch.arange(len(first), device=A.device)
    thin = max(1, min(THIN, entries // ENOUGH))
    m = A.new_zeros(rows, functions, count)
    for i in range(rounds):
        some = torch.arange(i % thin, entries, thin, device=A.device)
        few, part, ground_part = G[..., some], A[..., some], ground.entries(some)
        q = ground_part.curvature(part - m @ few) * (entries / len(some))
        H = q @ (few[:, first] * few[:, second]).mT
        target = (q * part) @ few.mT - h[:, None]
        m = (m + STRIDE * (_descend(H[..., place], target, m) - m)).clamp(min=0)
    return m.to(dtype).nan_to_num(0.0, 0.0, 0.0)


def _descend(H: Tensor, target: Tensor, m: Tensor) -> Tensor:
    """Minimise m H m / 2 - target.m over m >= 0, one multiplier after the other."""
    count = m.shape[-1]
    diagonal = [H[..., i, i].clamp(min=torch.finfo(H.dtype).tiny ** 0.5) for i in range(count)]
    slope = (target - (H @ m[..., None])[..., 0]).permute(2, 0, 1).contiguous()
    H, m = H.permute(2, 3, 0, 1).contiguous(), m.permute(2, 0, 1).contiguous()
    for _ in range(SWEEPS):
        for i in range(count):
            new = (m[i] + slope[i] / diagonal[i]).clamp(min=0)
            slope -= H[i] * (new - m[i])
            m[i] = new
    return m.permute(1, 2, 0)
