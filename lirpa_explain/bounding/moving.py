"""Where the nearest boundary point can be while the input moves, and the attributions that it can
have then.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attributions import Plan
from ..boxes import Box
from ..decision.decision import Decision
from ..graph import GradientModule
from ..operators.bound import flat_rows
from ..rounding import REGION, SQUARES, roundings
from .ball import Ball
from .engine import Engine
from .margins import Margins
from .region import Region
from .segments import compose_segments

ROUNDS = 2
"""How often the region of each rival is made smaller: bounds are tighter within the smaller
ball."""


@dataclass(frozen=True)
class Moving:
    """The sense of a certificate in which every x' has its own nearest boundary point.

    Meant are the x' of the ball that lie in the search's clip: others are no data, and have no
    boundary attribution.

    Args:
        pieces: a power of 2: into so many pieces the region of each rival is cut at most, and those
            without a boundary point are dropped. Tighter and slower; of use for inputs of few
            dimensions.

    Raises:
        ValueError: `pieces` is something else.

    Example:
        >>> Moving(pieces=16)
        Moving(pieces=16)
    """

    pieces: int = 1

    def __post_init__(self) -> None:
        if (isinstance(self.pieces, bool) or not isinstance(self.pieces, int)
                or self.pieces.bit_count() != 1 or self.pieces < 1):
            raise ValueError(f"pieces must be a power of 2, at least 1; given: {self.pieces!r}.")


def nearest_regions(plan: Plan, ends: Region, batch_size: int,
                    moving: Moving) -> tuple[Region, Tensor, Tensor]:
    """Regions that contain every nearest boundary point b' of every x' in sets around the samples
    of a plan.

    Let b be the point found for x, d = |b - x|, e the l2 radius of the set around x, and S(x') the
    points of the data range where the decision is not that of x', or is tied. x and x' are in the
    data range, a box.

    1. If x' has the class of x, then b is in S(x') and |b' - x'| <= |b - x'| <= d + e. If not, x
       itself is in S(x') and |b' - x'| <= |x - x'| <= e. So |b' - x'| <= d + e, and |b' - x| <= d +
       2 e = R. Entry by entry, b' is no further than d + e from the entries that x' can have; and
       it is in the data range.
    2. At b' the class c of x does not win: if x' has class c, by the definition of S(x'). If x' has
       another class c', either b' = x', where c does not win, or the margin of c' is 0 at b'
       because the model is continuous and nothing nearer is in S(x'); then c' is at least tied with
       c there. So some rival j has f_c(b') - f_j(b') <= 0. CROWN's linear lower bound of that
       margin over the ball of radius R turns this into n . (b' - x) >= h, see
       `Margins.half_spaces`. With |b' - x| <= R and h >= 0, |b' - x - h n|^2 = |b' - x|^2 - 2 h n .
       (b' - x) + h^2 <= R^2 - h^2: a smaller ball, for each rival that CROWN does not exclude.
    3. With `Moving(pieces)`, regions are cut in pieces; those are dropped in which CROWN proves
       that the rival does not win, so all within the ball that is certified to hold no boundary
       point, and those out of reach. (A hole in a convex set cannot tighten bounds over the whole
       of it.)

    Args:
        plan: of a boundary attribution; its baselines are the points found.
        ends: the sets around its V samples.
        batch_size: most samples bounded at once.
        moving: into how many pieces regions are cut.

    Returns:
        Regions, one or more for each sample and each rival that may win; the samples of these
        branches, (B,); and d + e for each branch, (B, 1).
    """
    assert plan.baselines is not None and plan.nearest is not None
    decision = Decision(plan.nearest.function, plan.points, plan.extras)
    boundary = torch.cat([flat_rows(b) for b in plan.baselines], 1)
    more = 1 + roundings(REGION, boundary.dtype)
    reach = more * ((boundary - decision.x).norm(dim=1, keepdim=True) + ends.radius)
    radius = more * (reach + ends.radius)
    clip = plan.nearest.options.range(plan.points)
    x = decision.x
    start = Region.ball(x, radius).cut(ends.low - reach, ends.high + reach).outward().cut(*clip)
    margins = Margins(decision, plan.points)
    count = margins.rivals.shape[1]
    sample = torch.arange(decision.count, device=x.device).repeat_interleave(count)
    branches = _Branches(start.rows(sample), sample, margins.rivals.flatten(0, 1)[:, None])
    for _ in range(ROUNDS):
        branches = branches.capped(margins, batch_size)
    for _ in range(moving.pieces.bit_length() - 1):
        branches = branches.halved(x, radius).capped(margins, batch_size)
    return branches.region.outward().cut(*clip), branches.sample, reach[branches.sample]


@dataclass(frozen=True)
class _Branches:
    """Where a rival of a sample may win: B regions, the samples (B,), and the rivals' margins (B,
    1, K).
    """

    region: Region
    sample: Tensor
    rivals: Tensor

    def where(self, mask: Tensor) -> "_Branches":
        """Some of the branches."""
        return _Branches(self.region.rows(mask), self.sample[mask], self.rivals[mask])

    def capped(self, margins: Margins, batch_size: int) -> "_Branches":
        """Balls that contain what the balls have in common with the half-spaces; branches that are
        empty are gone.
        """
        if not len(self.sample):
            return self
        rows = torch.arange(len(self.sample), device=self.sample.device).split(batch_size)
        center, radius = self.region.center, self.region.radius
        parts = [margins.half_spaces(self.sample[i], center[i], radius[i], self.rivals[i])
                 for i in rows]
        normal, height, alive = (torch.cat(part)[:, 0] for part in zip(*parts, strict=True))
        height = height[:, None].clamp(min=0).minimum(radius)
        # The difference of squares rounds as if it were as large as they are.
        rest = radius.square() * (1 + roundings(SQUARES, radius.dtype)) - height.square()
        center, radius = center + height * normal, rest.sqrt()
        box = Box(self.region.low,
                  self.region.high).intersect(Box(center - radius, center + radius))
        alive = alive & (box.lower - box.upper <= 1e-5 * self.region.radius).all(1)
        region = Region(*box.ordered(), center, radius).outward()
        return _Branches(region, self.sample, self.rivals).where(alive)

    def halved(self, x: Tensor, radius: Tensor) -> "_Branches":
        """Each branch cut in two across its longest side, but for what lies outside of the balls
        around samples x.
        """
        region, (x, radius) = self.region, (x[self.sample], radius[self.sample])
        side = (region.high - region.low).argmax(1, keepdim=True)
        middle = (region.low + region.high) / 2
        halves = []
        for low, high in ((region.low, region.high.scatter(1, side, middle.gather(1, side))),
                          (region.low.scatter(1, side, middle.gather(1, side)), region.high)):
            half = Region.around(low, high)
            smaller = half.radius < region.radius
            half = Region(low, high, torch.where(smaller, half.center, region.center),
                          torch.minimum(half.radius, region.radius))
            nearest = Box(low, high).nearest(x)
            reached = (nearest - x).norm(dim=1, keepdim=True) <= radius * (1 + 1e-5)
            halves.append(_Branches(half, self.sample, self.rivals).where(reached[:, 0]))
        first, second = halves
        return _Branches(first.region.beside(second.region),
                         torch.cat([first.sample, second.sample]),
                         torch.cat([first.rivals, second.rivals]))


def compose_moving(plan: Plan, module: GradientModule, engine: Engine, inputs: tuple[Tensor, ...],
                   balls: tuple[Ball | None, ...], method: str, batch_size: int, moving: Moving,
                   progress: bool = False) -> tuple[Box, Tensor]:
    """Bound a boundary attribution for every x' in the balls, at the nearest boundary point of x'
    itself.

    Args:
        plan: the attribution, with the boundary points found as baselines.
        module: gradient of the model, captured without a path.
        engine: bounds of that module.
        inputs: the examples, each (N, *S).
        balls: the ball of each input, None if it is fixed.
        method: a key of `methods.METHODS`.
        batch_size: most rows bounded at once.
        moving: how hard to enclose the boundary points.
        progress: show a bar.

    Returns:
        (lower, upper), each (N, D); and whether each sample has a region at all, (V,), as it must.
    """
    example = torch.arange(len(inputs[0]), device=inputs[0].device).repeat_interleave(plan.samples)
    ends = Region.of(plan.points, inputs, balls, example)
    starts, sample, reach = nearest_regions(plan, ends, batch_size, moving)
    has_region = torch.zeros_like(example, dtype=torch.bool).index_fill(0, sample, True)
    if not bool(has_region.all()):
        nothing = inputs[0].new_full((len(inputs[0]), module.size), torch.nan)
        return Box.point(nothing), has_region
    ends = ends.rows(sample)
    factor = ends.difference(starts).intersect(Box(-reach, reach))
    box = compose_segments(plan, module, engine, starts, ends, sample, factor, method, batch_size,
                           progress)
    return box, has_region
