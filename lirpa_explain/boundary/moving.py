"""Where the nearest boundary point can be while the input moves, and the attributions that it can have then."""

import torch
from torch import Tensor

from ..attributions import Plan
from ..bounding.ball import Ball
from ..bounding.engine import Box, Engine
from ..bounding.region import Region
from ..bounding.segments import compose_segments
from ..errors import SoundnessError
from ..graph import GradientModule
from ..operators.bound import flat_rows
from .decision import Decision
from .margins import Margins

ROUNDS = 2
"""How often the region of each rival is made smaller."""


def nearest_regions(plan: Plan, ends: Region, batch_size: int) -> tuple[Region, Tensor, Tensor]:
    """Regions that contain every nearest boundary point b' of every x' in sets around the samples of a plan.

    Let b be the point found for x, d = |b - x|, e the l2 radius of the set around x, and S(x') the points of the data
    range where the decision is not that of x', or is tied.

    1. If x' has the class of x, then b is in S(x') and |b' - x'| <= |b - x'| <= d + e. If not, x itself is in S(x')
       and |b' - x'| <= |x - x'| <= e. So |b' - x'| <= d + e, and |b' - x| <= d + 2 e = R. Entry by entry, b' is no
       further than d + e from the entries that x' can have; and it is in the data range.
    2. At b' the class c of x does not win: if x' has class c, by the definition of S(x'). If x' has another class c',
       either b' = x', where c does not win, or the margin of c' is 0 at b' because the model is continuous and nothing
       nearer is in S(x'); then c' is at least tied with c there. So some rival j has f_c(b') - f_j(b') <= 0. CROWN's
       linear lower bound of that margin over the ball of radius R turns this into n . (b' - x) >= h, see
       `Margins.half_spaces`. With |b' - x| <= R and h >= 0, |b' - x - h n|^2 = |b' - x|^2 - 2 h n . (b' - x) + h^2
       <= R^2 - h^2: a smaller ball, for each rival that CROWN does not exclude.

    The ball within which no rival can win is no more than step 2 excludes on the way to the boundary; being a hole, it
    cannot tighten bounds over a convex set by itself.

    Args:
        plan: of a boundary attribution; its baselines are the points found.
        ends: the sets around its V samples.
        batch_size: most samples bounded at once.

    Returns:
        Regions, one for each branch (a sample and a rival that may win); the branches' samples (B,); and d + e for
        each branch, (B, 1).
    """
    assert plan.baselines is not None and plan.nearest is not None
    decision = Decision(plan.nearest.function, plan.points, plan.extras)
    boundary = torch.cat([flat_rows(b) for b in plan.baselines], 1)
    more = 1 + 64 * torch.finfo(boundary.dtype).eps
    reach = more * ((boundary - decision.x).norm(dim=1, keepdim=True) + ends.radius)
    radius = more * (reach + ends.radius)
    clip = plan.nearest.options.range(plan.points)
    caps, sample = _caps(Margins(decision, plan.points), radius, batch_size)
    if len(sample.unique()) < decision.count:
        raise SoundnessError("A boundary point was found where bound propagation excludes it. This is a defect: please "
                             "report the model and the input.")
    x, R = decision.x[sample], radius[sample]
    region = caps.cut(ends.low[sample] - reach[sample], ends.high[sample] + reach[sample])
    return region.cut(x - R, x + R).outward().cut(*clip), sample, reach[sample]


def _caps(margins: Margins, radius: Tensor, batch_size: int) -> tuple[Region, Tensor]:
    """Balls that contain what balls around all examples have in common with each rival's half-space, and whose.

    The bounds are tighter within the smaller ball, and make it smaller still.
    """
    every = torch.arange(len(radius), device=radius.device)
    count = margins.rivals.shape[1]
    example, rivals = every.repeat_interleave(count), margins.rivals.flatten(0, 1)[:, None]
    center, radius = margins.decision.x[example], radius[example]
    for _ in range(ROUNDS):
        rows = torch.arange(len(example), device=radius.device).split(batch_size)
        parts = [margins.half_spaces(example[i], center[i], radius[i], rivals[i]) for i in rows]
        normal, height, alive = (torch.cat(part)[:, 0] for part in zip(*parts, strict=True))
        height = height[:, None].clamp(min=0).minimum(radius)
        center, radius = center + height * normal, (radius.square() - height.square()).sqrt()
        example, rivals, center, radius = example[alive], rivals[alive], center[alive], radius[alive]
    return Region.ball(center, radius), example


def compose_moving(plan: Plan, module: GradientModule, engine: Engine, inputs: tuple[Tensor, ...],
                   balls: tuple[Ball | None, ...], method: str, batch_size: int, progress: bool = False) -> Box:
    """Bound a boundary attribution for every x' in the balls, at the nearest boundary point of x' itself.

    Args:
        plan: the attribution, with the boundary points found as baselines.
        module: gradient of the model, captured without a path.
        engine: bounds of that module.
        inputs: the examples, each (N, *S).
        balls: the ball of each input, None if it is fixed.
        method: a key of `engine.METHODS`.
        batch_size: most rows bounded at once.
        progress: show a bar.

    Returns:
        (lower, upper), each (N, D).
    """
    example = torch.arange(len(inputs[0]), device=inputs[0].device).repeat_interleave(plan.samples)
    ends = Region.of(plan.points, inputs, balls, example)
    starts, sample, reach = nearest_regions(plan, ends, batch_size)
    ends = ends.rows(sample)
    low, high = ends.difference(starts)
    factor = torch.maximum(low, -reach), torch.minimum(high, reach)
    return compose_segments(plan, module, engine, starts, ends, sample, factor, method, batch_size, progress)
