"""What certificates over a whole box share: functions whose signs are decided by splitting it along
its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor

from ..attributions import Plan
from ..bounding.ball import make_balls
from ..bounding.compose import compose
from ..bounding.engine import Engine
from ..boxes import Box
from ..certifying.exit import check_numbers, end_error
from ..graph import GradientModule
from ..inputs import check_inputs
from ..operators.bound import flat_rows
from ..refining.domains import INPUT, Domain, Limits
from ..refining.problem import Problem
from ..refining.search import Limits as Stop
from ..refining.search import Search
from ..refining.tree import Objective, Tree

SAMPLES = 256
"""Points that are looked at first, half of them corners."""


def middle(low: Tensor, high: Tensor) -> tuple[Tensor, ...]:
    """The middle of the box low <= x <= high, as the one example (1, *S).

    Raises:
        TypeError: they are no tensors of floating-point numbers.
        ValueError: low exceeds high, or their shapes differ.
    """
    if not all(isinstance(end, Tensor) and end.is_floating_point() for end in (low, high)):
        raise TypeError("low and high must be tensors of floating-point numbers; given: "
                        f"{low!r:.60} and {high!r:.60}.")
    if low.shape != high.shape or not bool((low <= high).all()):
        raise ValueError("low and high must be of one shape, and low <= high; given: shapes "
                         f"{tuple(low.shape)} and {tuple(high.shape)}.")
    return check_inputs(((low + high) / 2)[None])


def search_box(plan: Plan, module: GradientModule, engine: Engine, low: Tensor, high: Tensor,
               functions: Sequence[Tensor], own: Callable[[Tensor], Tensor], stop: Stop,
               progress: bool) -> Search:
    """A search for the signs of functions over a box, which has looked at some points, not run yet.

    Args:
        plan: of one example, the middle of the box.
        module: what a row of it computes.
        engine: bounds of that module.
        low: (*S), lower ends.
        high: (*S), upper ends.
        functions: of its result, each (D,): is it above 0 everywhere?
        own: computes that result at points (P, *S) without the module, (P, D).
        stop: when to stop.
        progress: show a bar.

    Raises:
        SoundnessError: the module does not compute what it should.
    """
    box = PerturbationLpNorm(norm=math.inf, x_L=low[None], x_U=high[None])
    x, balls = plan.points, make_balls(plan.points, box)
    whole = compose(plan, module, engine, x, balls, "IBP", stop.batch)
    error = end_error(whole)[0]
    objectives = [Objective(0, f, [Tree(0, f)], [1.0], float(f.abs() @ error), threshold=0.0)
                  for f in functions]
    search = Search(Problem(plan, module, engine, x, balls, by_inputs=True), objectives, stop,
                    progress)
    points = _points(low, high)
    value = search.problem.values(0, (points,))
    terms = whole.box.size.nan_to_num(posinf=0) + value.abs()
    check_numbers(Box.point(value), own(points), terms,
                  "What was traced of the model, beside its own,")
    search.look(0, flat_rows(points))
    return search


def open_boxes(objective: Objective, low: Tensor, high: Tensor, is_decided: bool
               ) -> tuple[Tensor, Tensor]:
    """Ends, (P, D) each, of boxes that hold all inputs at which a function is not proven to be
    above 0.
    """
    grown, least = objective.trees[0].grown, objective.margin
    leaves = [domain for lower, _, domain, _ in grown.leaves if lower <= least]
    if is_decided:
        return low.reshape(1, -1)[:0], high.reshape(1, -1)[:0]
    is_known = grown.domains and grown.floor > least and all(leaf.decisions for leaf in leaves)
    if not is_known:
        return low.reshape(1, -1), high.reshape(1, -1)
    return _ends(leaves, low.flatten(), high.flatten())


def _ends(domains: list[Domain], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes of domains, flat."""
    if not domains:
        return low[None][:0], high[None][:0]
    cut = Limits.of(domains, INPUT, low[None]).box(len(low))
    return torch.maximum(cut.lower, low), torch.minimum(cut.upper, high)


def _points(low: Tensor, high: Tensor) -> Tensor:
    """Points of the box, (P, *S)."""
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(SAMPLES, *low.shape, generator=generator, dtype=torch.float64)
    share[::2] = share[::2].round()
    return torch.lerp(low, high, share.to(low))
