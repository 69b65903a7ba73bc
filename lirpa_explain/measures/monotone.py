"""certify_monotone(): in which direction a model's output moves with some of its inputs, over a whole domain."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import Saliency
from torch import Tensor

from .. import attributions
from ..bounding.settings import Bounding
from ..bounding.where import Where
from ..certifying.traces import Traces
from ..guards import isolated, no_training_layers
from ..inputs import check_inputs, uncompiled
from ..operators.bound import flat_rows
from ..refining.domains import INPUT, Domain, Limits
from ..refining.problem import Problem
from ..refining.search import Limits as Stop
from ..refining.search import Search
from ..refining.tree import Objective, Tree

SAMPLES = 256
"""Points at which derivatives are looked at first, half of them corners."""


@dataclass(frozen=True, eq=False)
class Monotone:
    """What is certain of a model's derivatives over a box.

    Args:
        features: their numbers, (F,), in the flattened input.
        direction: (F,), int8: 1 where the output increases strictly everywhere, -1 where it decreases, 0 elsewhere.
        refuted: (F,), bool: whether derivatives of both signs, or 0, were found.
        lower: (F,), certified lower bounds of the derivatives over the box.
        upper: (F,), upper bounds.
        found_lower: (F,), the smallest derivative found.
        found_upper: (F,), the largest.
        open_low: for each feature, lower ends (P, D) of boxes that hold all inputs at which its derivative may be 0 or
            not of the sign that it has at the first inputs looked at; none where the direction is certain.
        open_high: upper ends, likewise.
        seconds: how long it took.
    """

    features: Tensor
    direction: Tensor
    refuted: Tensor
    lower: Tensor
    upper: Tensor
    found_lower: Tensor
    found_upper: Tensor
    open_low: tuple[Tensor, ...]
    open_high: tuple[Tensor, ...]
    seconds: float


@uncompiled
def certify_monotone(model: Any, low: Tensor, high: Tensor, features: Any = None, *, target: Any = None,
                     seconds: float | None = None, domains: int = 4096, batch_size: int = 64, progress: bool = False
                     ) -> Monotone:
    """Certify the signs of derivatives of a model's output over the box low <= x <= high.

    The box is split along its inputs until the sign of each derivative is decided.

    Args:
        model: maps (N, *S) to an output for each row.
        low: (*S), lower ends.
        high: (*S), upper ends.
        features: numbers in the flattened input; None for all.
        target: which output, as for Captum; None if there is one.
        seconds: when to stop.
        domains: most boxes for each feature.
        batch_size: boxes bounded at once.
        progress: show a bar.

    Returns:
        A `Monotone`; it says where a direction is open.

    Raises:
        ValueError: low exceeds high, their shapes differ, or a feature is none of the input's.
        UnsupportedOperation: the model contains an operation that has no bound operator.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sigmoid(), torch.nn.Linear(2, 1))
        >>> for parameter in model.parameters():
        ...     _ = parameter.data.fill_(1.0)
        >>> lx.certify_monotone(model, torch.zeros(2), torch.ones(2)).direction.tolist()
        [1, 1]
    """
    from ..refining import clock

    started = clock.now()
    if low.shape != high.shape or not bool((low <= high).all()):
        raise ValueError(f"low and high must be of one shape, and low <= high; given: shapes {tuple(low.shape)} and "
                         f"{tuple(high.shape)}.")
    chosen = torch.as_tensor(range(low.numel()) if features is None else features).reshape(-1)
    if chosen.is_floating_point() or not bool(((chosen >= 0) & (chosen < low.numel())).all()):
        raise ValueError(f"features must be numbers from 0 to {low.numel() - 1}; given: {features!r:.80}.")
    x = check_inputs(((low + high) / 2)[None])
    saliency, keywords = Saliency(model), {"target": target, "abs": False}
    with torch.inference_mode(False), isolated(x[0].device, saliency), no_training_layers(), torch.no_grad():
        plan = attributions.make_plan(saliency, x, keywords)
        trace, _ = Traces(Bounding()).of(saliency, plan, x, keywords, explained=True)
        where = Where.of(model, x[0], eps=((high - low) / 2)[None])
        problem = Problem(plan, trace.module, trace.engine, x, where.balls, by_inputs=True)
        objectives = [Objective(0, side * row, [Tree(0, side * row)], [1.0], threshold=0.0)
                      for row in torch.eye(low.numel(), dtype=low.dtype)[chosen] for side in (1.0, -1.0)]
        search = Search(problem, objectives, Stop(seconds, domains, batch_size), progress)
        search.look(0, _points(low, high))
        _plan_sides(objectives)
        search.run()
        return _result(chosen, objectives, low, high, clock.now() - started)


def _points(low: Tensor, high: Tensor) -> Tensor:
    """Points of the box, (P, D)."""
    share = torch.rand(SAMPLES, low.numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share[::2] = share[::2].round()
    return low.flatten() + share.to(low) * (high - low).flatten()


def _plan_sides(objectives: list[Objective]) -> None:
    """Of both directions, only the one that what was found does not refute is worth proving."""
    for objective in objectives:
        if objective.found <= 0:
            objective.threshold = -math.inf


def _result(chosen: Tensor, objectives: list[Objective], low: Tensor, high: Tensor, seconds: float) -> Monotone:
    """What is known of the derivatives, and where their directions are open."""
    ups, downs = objectives[::2], objectives[1::2]
    lower, upper = (torch.tensor([s * o.lower for o in side], dtype=low.dtype) for s, side in ((1, ups), (-1, downs)))
    found = [torch.tensor([s * o.found for o in side], dtype=low.dtype) for s, side in ((1, ups), (-1, downs))]
    direction = (lower > 0).to(torch.int8) - (upper < 0).to(torch.int8)
    regions = []
    for up, down, way in zip(ups, downs, direction.tolist(), strict=True):
        tree = (down if up.found <= 0 else up).trees[0]
        leaves = [leaf[2] for leaf in tree.leaves if leaf[0] <= 0]
        known = tree.domains and tree.grown.floor > 0 and all(leaf.decisions for leaf in leaves)
        regions.append(_whole(low, high, bool(way)) if way or not known else _boxes(leaves, low, high))
    return Monotone(chosen, direction, (found[0] <= 0) & (found[1] >= 0), lower, upper, found[0], found[1],
                    tuple(region[0] for region in regions), tuple(region[1] for region in regions), seconds)


def _boxes(leaves: list[Domain], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes of domains, flat."""
    if not leaves:
        return low.reshape(1, -1)[:0], high.reshape(1, -1)[:0]
    cut = Limits.of(leaves, INPUT, flat_rows(low[None])).box(low.numel())
    return torch.maximum(cut.lower, low.flatten()), torch.minimum(cut.upper, high.flatten())


def _whole(low: Tensor, high: Tensor, is_decided: bool) -> tuple[Tensor, Tensor]:
    """No box, or all of it."""
    count = 0 if is_decided else 1
    return low.reshape(1, -1)[:count], high.reshape(1, -1)[:count]
