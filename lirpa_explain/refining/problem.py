"""The rows of a plan, bounded within domains and evaluated at points."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from ..attributions import Plan
from ..bounding.ball import Ball
from ..bounding.engine import Engine
from ..bounding.methods import lookup
from ..bounding.rows import PlanRows
from ..graph import GradientModule
from ..operators.bound import flat_rows
from .asked import AskedDomains
from .cuts import Cuts
from .domains import INPUT, Decision, Domain
from .ground import Ground
from .inputs import pieces, smaller
from .inside import inside, is_empty
from .within import Bounded, Reads

KEPT = 20000
"""Bounded domains that are remembered for other functions; the oldest go first."""


FEW, FEW_OF_KINKS = 6, 2
"""Entries of inputs up to which boxes are split by them, for smooth models and for those made of
kinks."""

GRID = 32
"""Pieces that such a box is cut into at first."""


class Problem:
    """What is refined: each row of a plan with its ball, its domains, and its values.

    Args:
        plan: the attribution, for which `plan.is_row_linear`.
        module: captured with the plan's multiplier and outer map.
        engine: bounds of that module.
        inputs: the examples, each (N, *S).
        balls: the ball of each input, None if it is fixed.
        by_inputs: whether boxes of inputs are split, and not pre-activations; None: where that is
            better.
    """

    def __init__(self, plan: Plan, module: GradientModule, engine: Engine,
                 inputs: tuple[Tensor, ...],
                 balls: tuple[Ball | None, ...], by_inputs: bool | None = None) -> None:
        self.by_inputs = by_inputs
        self.plan, self.module, self.inputs, self.balls = plan, module, inputs, balls
        self.rows = PlanRows(plan, module, inputs, balls)
        self.schedule = AskedDomains(engine.network, lookup("CROWN"), engine.memory, engine.options)
        self.known: OrderedDict[tuple[int, frozenset[Decision]], Domain] = OrderedDict()
        self.kinks: dict[str, bool] = {}
        self.feels_inputs = False

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.rows.example) * self.plan.steps

    def rows_of(self, example: int) -> list[int]:
        """The rows of an example."""
        each = self.plan.samples * self.plan.steps
        return list(range(example * each, (example + 1) * each))

    def weight(self, row: int) -> float:
        """With which a row counts in the attribution."""
        return float(self.rows.weights[row % self.plan.steps]) / self.plan.samples

    def whole(self, row: int) -> Domain:
        """The domain of a row's whole ball."""
        return self._remembered(Domain(row))

    @property
    def splits_inputs(self) -> bool:
        """Whether balls are split by their inputs and not by pre-activations: boxes of few
        dimensions.
        """
        if self.by_inputs is not None:
            return self.by_inputs
        ground = self.schedule.ground
        most = FEW_OF_KINKS if all(self.kinks.values()) else FEW
        return sum(ground.sizes) <= most and all(part.norm == math.inf for part in ground.parts)

    def grid(self, row: int) -> list[Domain]:
        """Boxes of the inputs that a row's box is first split into."""
        whole, (_, values, balls, _) = self.whole(row), self.rows.take(torch.tensor([row]))
        ground = Ground.of(values, balls)
        return [self._remembered(Domain(row, decisions, whole))
                for decisions in pieces(ground.center[0], ground.radius[0], GRID)]

    def example(self, row: int) -> int:
        """The example that a row belongs to."""
        return row // (self.plan.samples * self.plan.steps)

    def halves(self, domain: Domain, decision: Decision) -> tuple[Domain, Domain]:
        """The parts of a domain below and above a place."""
        below, above = (self._remembered(domain.half(decision._replace(side=side)))
                        for side in (-1, 1))
        return below, above

    def bound(self, domains: Sequence[Domain], functions: Tensor, rounds: int,
              reads: Reads | None = None) -> Bounded:
        """Lower bounds of functions (B, K, D) on domains, which are bounded themselves if they are
        not yet.

        All must be bounded already, or none; `reads` is as of `WithinDomains.run`.
        """
        _, values, balls, _ = self.rows.take(
            torch.tensor([domain.row for domain in domains], device=functions.device))
        if any(d.node == INPUT for domain in domains for d in domain.decisions):
            values, balls = smaller(values, balls, domains)
        bounded = self.schedule.run(values, balls, domains, functions, rounds, reads)
        assert bounded is not None
        self.kinks = self.schedule.kinks
        self.feels_inputs = self.feels_inputs or bool(bounded.at.any())
        return bounded

    @property
    def cuts(self) -> Cuts:
        """The half-spaces of the domains bounded last."""
        return self.schedule.cuts

    @torch.no_grad()
    def values(self, row: int, points: tuple[Tensor, ...]) -> Tensor:
        """What a row computes at points, each (P, *S): (P, D)."""
        index = torch.full((len(points[0]),), row, device=points[0].device)
        _, values, _, _ = self.rows.take(index)
        return self.module(*points, *values[len(points):])

    def nodes(self, row: int, points: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """What pre-activations that can be cut are at points, each (P, *S), as a row computes them:
        (P, n) by node.
        """
        index = torch.full((len(points[0]),), row, device=points[0].device)
        _, values, _, _ = self.rows.take(index)
        names = {name: self.schedule.network.values[name] for name in self.kinks}
        found = self.module.values(names.values(), (*points, *values[len(points):]))
        return {name: flat_rows(found[value]) for name, value in names.items()}

    def attributions(self, example: int, points: tuple[Tensor, ...]) -> Tensor:
        """The attribution of an example at points, each (P, *S): (P, D)."""
        return sum((self.weight(row) * self.values(row, points) for row in self.rows_of(example)),
                   torch.zeros((), device=points[0].device))

    def point(self, example: int, flat: Tensor) -> tuple[Tensor, ...]:
        """Points (P, M) of the inputs that move, drawn into the balls, as points (P, *S) of all
        inputs.
        """
        parts, start = [], 0
        for x, ball in zip(self.inputs, self.balls, strict=True):
            own = x[example:example + 1].expand(len(flat), *x.shape[1:])
            if ball is not None:
                size = math.prod(x.shape[1:])
                moved = flat[:, start:start + size].reshape(own.shape)
                own = moved.clamp(ball.low[example], ball.high[example])
                if ball.radius is not None:
                    own = _drawn_in(own, x[example], ball.norm, float(ball.radius[example]))
                start += size
            parts.append(own)
        return tuple(parts)

    def flat(self, example: int, point: tuple[Tensor, ...] | None = None) -> Tensor:
        """The inputs of an example that move, or those of a point with parts (*S), as one vector
        (M,).
        """
        parts = tuple(x[example] for x in self.inputs) if point is None else point
        return torch.cat([part.flatten() for part, ball in zip(parts, self.balls, strict=True)
                          if ball is not None])

    def drawn(self, example: int, flat: Tensor) -> Tensor:
        """Points (P, M) of the inputs that move, drawn into the balls."""
        parts = self.point(example, flat)
        return torch.cat([flat_rows(p) for p, ball in zip(parts, self.balls, strict=True)
                          if ball is not None], 1)

    def _remembered(self, domain: Domain) -> Domain:
        """The domain of equal decisions that is known already, or this one."""
        found = self.known.setdefault(domain.key, domain)
        self.known.move_to_end(domain.key)
        while len(self.known) > KEPT:
            self.known.popitem(last=False)
        return found


def point_in(problem: Problem, domain: Domain, row: int) -> Tensor | None:
    """A point (M,) of a domain, of the batch bounded last; None if there is none, or none is known.

    Args:
        problem: that bounded it.
        domain: which is marked as empty where that is proven.
        row: of the batch.
    """
    ground, cuts = problem.schedule.ground, problem.cuts
    found = inside(ground, cuts, row)
    if found is not None and found.slack < 0 and found.multipliers is not None:
        domain.is_empty = domain.is_empty or is_empty(ground, cuts, row, found.multipliers)
        return None
    return None if found is None else found.point


def _drawn_in(points: Tensor, center: Tensor, norm: float, radius: float) -> Tensor:
    """Points drawn towards the centre of a ball of norm 1 or 2 until they lie in it."""
    away = points - center
    length = torch.linalg.vector_norm(flat_rows(away), ord=norm, dim=1)
    share = (radius * (1 - 1e-12) / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1)
    return center + away * share.reshape(-1, *[1] * (points.ndim - 1))
