"""What a caller asks to be refined, as functions of the attribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..boxes import Box


@dataclass(frozen=True)
class Wanted:
    """Linear functions of which bounds are to be refined.

    Args:
        functions: (N, K, D); an example with fewer has others that are 0.
        count: (N,), how many each example has, the most wanted first.
        decides: whether all that is asked is whether each exceeds 0 everywhere.
    """

    functions: Tensor
    count: Tensor
    decides: bool


def signs(box: Box, nominal: Tensor) -> Wanted:
    """The entries whose sign is open, times the sign that they have, the largest first."""
    is_open = (box.lower <= 0) & (box.upper >= 0) & (nominal != 0)
    order = (nominal.abs() * is_open).argsort(dim=1, descending=True, stable=True)
    return entries(order, is_open.sum(1), nominal.sign(), decides=True)


def widths(box: Box, nominal: Tensor) -> Wanted:
    """All entries that have a width, the widest first."""
    order = box.width.argsort(dim=1, descending=True, stable=True)
    return entries(order, (box.width > 0).sum(1), torch.ones_like(nominal), decides=False)


def entries(order: Tensor, count: Tensor, sign: Tensor, decides: bool) -> Wanted:
    """The first entries of each example in some order (N, D), times signs (N, D)."""
    most = max(1, int(count.max()))
    order = order[:, :most]
    functions = sign.new_zeros(len(order), most, sign.shape[1])
    has = torch.arange(most, device=order.device) < count[:, None]
    functions.scatter_(2, order[..., None], (sign.gather(1, order) * has)[..., None])
    return Wanted(functions, count, decides)


def rivals(reach: Tensor, box: Box, nominal: Tensor, k: int, absolute: bool) -> Wanted:
    """S a_i - a_o, and s a_i + a_o for absolute values, of pairs of which it is open whether o may
    exceed i.

    Args:
        reach: (N, k, D), whether o may reach the i-th largest, as `certificates.refine.rivals`
            says.
        box: bounds, (N, D) each.
        nominal: (N, D).
        k: how many are the largest.
        absolute: whether absolute values are ranked.
    """
    top = (nominal.abs() if absolute else nominal).topk(k).indices
    sign = torch.where(box.lower > 0, 1.0,
                       torch.where(box.upper < 0, -1.0, nominal.sign())).to(nominal)
    found = []
    for n in range(len(nominal)):
        rows = []
        for i, o in reach[n].nonzero().tolist():
            for other in (-1.0, 1.0) if absolute else (-1.0,):
                function = torch.zeros_like(nominal[n])
                function[top[n, i]] = sign[n, top[n, i]] if absolute else 1.0
                function[o] = other
                rows.append(function)
        found.append(torch.stack(rows) if rows else nominal.new_zeros(0, nominal.shape[1]))
    return padded(found)


def padded(found: list[Tensor], decides: bool = True) -> Wanted:
    """Functions (K_n, D) of each example, of which some have fewer."""
    most = max(1, *(len(f) for f in found))
    filled = [torch.cat([f, f.new_zeros(most - len(f), f.shape[1])]) for f in found]
    return Wanted(torch.stack(filled), torch.tensor([len(f) for f in found]), decides)


def given(functions: Tensor, decides: bool) -> Wanted:
    """A caller's own functions, (N, K, D)."""
    return Wanted(functions, torch.full((len(functions),), functions.shape[1]), decides)


def chosen(mask: Tensor, nominal: Tensor) -> Wanted:
    """Entries that a caller chose: a bool mask (N, D)."""
    order = (~mask).to(torch.int8).argsort(dim=1, stable=True)
    return entries(order, mask.sum(1), torch.ones_like(nominal), decides=False)
