"""Bounds of gradients averaged along segments whose both ends move, each in a set of its own."""

from dataclasses import replace
from typing import Any

import torch
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor
from tqdm import tqdm

from ..attributions import Plan
from ..boxes import Box
from ..graph import GradientModule
from .ball import Ball
from .engine import Engine
from .fold import BOXES, fold
from .region import Region


def compose_segments(plan: Plan, module: GradientModule, engine: Engine, starts: Region,
                     ends: Region, sample: Tensor,
                     factor: Box, method: str, batch_size: int, progress: bool = False) -> Box:
    """Bound an attribution whose path leads from any point of one set to any point of another.

    With s_k and w_k of the plan, a branch has the bounds of

        m * sum_k w_k grad f(s_k p + (1 - s_k) q)     for all p in its end, q in its start,

    and m in `factor` if the plan multiplies, else 1: the point of step k lies in the sum of the two
    sets, scaled by s_k and 1 - s_k. Of a sample's branches one holds, it is not known which: the
    sample has their hull.

    Args:
        plan: the attribution: weights, scales, targets and reduction; its points and baselines are
            not used.
        module: gradient of the model, captured without a path.
        engine: bounds of that module.
        starts: where the paths start, B branches.
        ends: where they end.
        sample: the sample that each branch belongs to, (B,); each sample has one.
        factor: bounds of m, (B, D) each.
        method: a key of `methods.METHODS`.
        batch_size: most rows bounded at once.
        progress: show a bar.

    Returns:
        (lower, upper), each (N, D).
    """
    scales = torch.ones(1) if plan.scales is None else plan.scales
    scales = scales.to(starts.low)
    weights = starts.low.new_ones(1) if plan.weights is None else plan.weights.to(starts.low)
    cotangent = plan.cotangent(module.cotangent_shape)
    extras = module.further(plan.extras, len(plan.points[0]))
    box = BOXES.zero(starts.low, *starts.low.shape)
    total = len(sample) * len(scales)
    with tqdm(total=total, disable=not progress, unit="gradient", leave=False) as bar:
        for index in torch.arange(total, device=sample.device).split(batch_size):
            branch, step = index // len(scales), index % len(scales)
            region = ends.rows(branch).mix(starts.rows(branch), scales[step][:, None])
            rest = *[e[sample[branch]] for e in extras], cotangent[sample[branch]]
            part = _gradients(module, engine, region, rest, method)
            BOXES.add(box, branch, BOXES.scaled(part, weights[step][:, None]))
            bar.update(len(index))
    # before the hull, since each branch has its own
    box = BOXES.times(box, factor) if plan.multiply else box
    return fold(replace(plan, multiply=False), _hulls(box, sample, len(plan.points[0])), BOXES,
                lambda: factor)


def _gradients(module: GradientModule, engine: Engine, region: Region, rest: tuple[Tensor, ...],
               method: str) -> Box:
    """Bounds of the gradient over regions: over their balls, and over the boxes of those where it
    says more.
    """
    def bounds(center: Tensor, balls: list[PerturbationLpNorm], rest: tuple[Any, ...]) -> Box:
        return Box(*engine((*module.split(center), *rest), tuple(balls), method))

    rows = torch.arange(len(region.low), device=region.low.device)
    parts = module.split(region.center)
    radius = region.radius
    balls = [Ball(2, p - _like(radius, p), p + _like(radius, p), radius, "").rows(rows)
             for p in parts]
    found = bounds(region.center, balls, rest)
    cut = region.is_cut().nonzero()[:, 0]
    if len(cut):
        box = region.rows(cut)
        sides = zip(module.split(box.low), module.split(box.high), strict=True)
        boxes = [PerturbationLpNorm(norm=torch.inf, x_L=low, x_U=high) for low, high in sides]
        middle = Box(box.low, box.high).nearest(box.center)
        better = found.rows(cut).intersect(bounds(middle, boxes, tuple(r[cut] for r in rest)))
        found = Box(*(side.index_copy(0, cut, new)
                      for side, new in zip(found, better, strict=True)))
    return found.ordered()


def _hulls(box: Box, sample: Tensor, count: int) -> Box:
    """The hull of the boxes (B, D) of each sample's branches: (V, D) each."""
    where = sample[:, None].expand_as(box[0])
    lower = box[0].new_full((count, box[0].shape[1]),
                            torch.inf).scatter_reduce(0, where, box[0], "amin")
    upper = box[1].new_full((count, box[1].shape[1]),
                            -torch.inf).scatter_reduce(0, where, box[1], "amax")
    return Box(lower, upper)


def _like(column: Tensor, x: Tensor) -> Tensor:
    """A column (B, 1) in a shape that broadcasts to x."""
    return column.reshape(len(column), *[1] * (x.ndim - 1))
