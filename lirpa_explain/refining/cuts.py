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

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..rounding import RELAXED, roundings
from .functions import Functions, taken
from .ground import Ground

ROUNDS = 8
"""Reweightings."""

FEW_ROUNDS = 3
"""The same for functions of a few inputs each, where few half-spaces are felt."""

STRIDE = 1.9
"""Times the way to that function's minimum that is gone: it lies above what is minimised."""

THIN = 4
"""Of so many entries one is looked at in each reweighting, another each time: multipliers may be
any."""

ENOUGH = 64
"""Entries that are looked at at least."""

TOGETHER = 2 ** 21
"""Most coefficients of half-spaces that are looked at at once, for each function in the inputs that
it depends on."""

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

    def size(self, ground: Ground) -> Tensor:
        """Sizes of what is added up for a half-space's value, (B, M)."""
        reach = ground.center.abs() + ground.radius
        return torch.einsum("bmd,bd->bm", self.G.abs(), reach) + self.h.abs()

    def of(self, mask: Tensor) -> Cuts:
        """Those that a mask (B, M) is true for."""
        order = mask.to(torch.int8).topk(int(mask.sum(1).max()), 1).indices
        G, h, mask = taken(self.G, order), self.h.gather(1, order), mask.gather(1, order)
        return Cuts(G * mask[..., None], torch.where(mask, h, torch.ones_like(h)))

    def and_also(self, G: Tensor, h: Tensor) -> Cuts:
        """These and further ones."""
        return Cuts(torch.cat([self.G, G], 1), torch.cat([self.h, h], 1))


@torch.no_grad()
def least(ground: Ground, functions: Functions, cuts: Cuts, rounds: int = ROUNDS) -> Tensor:
    """Lower bounds of linear functions over balls cut by half-spaces.

    Args:
        ground: the balls of B rows.
        functions: S for each of them.
        cuts: the half-spaces of each row.
        rounds: reweightings; more come nearer to the extreme.

    Returns:
        (B, S), moved outward by roundings; never below the bound over the whole balls by more than
        these.
    """
    if functions.index is None:
        return _least(ground, functions.A, functions.c, cuts, rounds)
    index = functions.index.flatten(0, 1)
    if not functions.A.shape[2]:
        return functions.c - roundings(RELAXED, functions.c.dtype) * functions.c.abs()
    A, c = functions.A.flatten(0, 1)[:, None], functions.c.flatten()[:, None]
    windows = ground.read(functions)
    found = _least(windows, A, c, Cuts.none(windows.center), rounds)
    if cuts.count:
        for some, own in _felt(ground, functions, index, cuts):
            cut = _least(windows.rows(some), A[some], c[some], own, min(rounds, FEW_ROUNDS))
            found[some] = torch.fmax(found[some], cut)
    return found.reshape(functions.c.shape)


def _least(ground: Ground, A: Tensor, c: Tensor, cuts: Cuts, rounds: int) -> Tensor:
    """Lower bounds of functions with coefficients A (B, S, D) and constants c (B, S)."""
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
    size = size + torch.einsum("bsm,bm->bs", m, cuts.size(ground))
    left = ground.spread(torch.baddbmm(scaled, m, G, alpha=-1))
    cut = at_center - left - torch.einsum("bsm,bm->bs", m, h) - share * size
    return torch.fmax(plain, cut)


def _felt(ground: Ground, functions: Functions, index: Tensor, cuts: Cuts
          ) -> Iterator[tuple[Tensor, Cuts]]:
    """Which functions of inputs `index` (B S, n) feel half-spaces, and these, some at a time.

    What the other inputs add to a half-space is at most its extreme over the ball. That leaves a
    half-space of the function's own inputs; where it holds all over them, or even at the function's
    least value, nothing is gained.
    """
    scaled, windows = cuts.G * ground.radius[:, None], ground.read(functions)
    A, spread = functions.A.flatten(0, 1), ground.spread(scaled)
    middle = torch.einsum("bmd,bd->bm", cuts.G, ground.center) + cuts.h
    middle = middle + roundings(RELAXED, middle.dtype) * cuts.size(ground)
    most = middle + spread
    depth = scaled.abs() * (2 / most.clamp(min=torch.finfo(most.dtype).tiny ** 0.5))[..., None]
    some = (functions.read(depth.amax(1)).sum(2) > 1).flatten().nonzero()[:, 0]
    padded = torch.nn.functional.pad(cuts.G, (0, 1))
    each = torch.arange(cuts.count, device=A.device)
    for part in some.split(max(1, TOGETHER // (cuts.count * A.shape[1]))):
        row, own = part // functions.c.shape[1], windows.rows(part)
        G = padded[row[:, None, None], each[:, None], index[part][:, None]]  # (P, M, n)
        reach = own.spread(G * own.radius[:, None])
        h = middle[row] + own.rest(spread[row], reach) - torch.einsum("pmn,pn->pm", G, own.center)
        at_least = own.center - own.radius * own.ends(A[part] * own.radius)
        feels = (torch.einsum("pmn,pn->pm", G, at_least) + h < 0).any(1)
        if feels.any():
            yield part[feels], Cuts(G[feels], h[feels]).of((2 * reach > most[row])[feels])


def multipliers(ground: Ground, A: Tensor, G: Tensor, h: Tensor, rounds: int) -> Tensor:
    """Multipliers (B, S, M) that nearly maximise -|A - m G|_* - m.h, for scaled A (B, S, D) and G
    (B, M, D).
    """
    dtype = A.dtype
    A, G, h = A.float(), G.float(), h.float()
    rows, functions, entries = A.shape
    products = _own_products if functions == 1 else _shared_products
    thin = max(1, min(THIN, entries // ENOUGH))
    m = A.new_zeros(rows, functions, G.shape[1])
    for i in range(rounds):
        some = torch.arange(i % thin, entries, thin, device=A.device)
        few, part, ground_part = G[..., some], A[..., some], ground.entries(some)
        q = ground_part.curvature(part - m @ few) * (entries / len(some))
        target = (q * part) @ few.mT - h[:, None]
        m = (m + STRIDE * (_descend(products(q, few), target, m) - m)).clamp(min=0)
    return m.to(dtype).nan_to_num(0.0, 0.0, 0.0)


def _own_products(q: Tensor, G: Tensor) -> Tensor:
    """Sum_d q_d G_id G_jd of one function a row: q (B, 1, D) and G (B, M, D) -> (B, 1, M, M)."""
    return ((G * q) @ G.mT)[:, None]


def _shared_products(q: Tensor, G: Tensor) -> Tensor:
    """The same of S functions, by way of the products of half-spaces: q (B, S, D) -> (B, S, M,
    M).
    """
    count = G.shape[1]
    first, second = torch.triu_indices(count, count, device=G.device)
    place = torch.empty(count, count, dtype=torch.long, device=G.device)
    place[first, second] = place[second, first] = torch.arange(len(first), device=G.device)
    return (q @ (G[:, first] * G[:, second]).mT)[..., place]


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
