"""certify_monotone(): in which direction a model's output moves with some of its inputs, over a
whole domain.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import Saliency
from torch import Tensor

from .. import attributions
from ..bounding.settings import Bounding
from ..certifying.refinement import check_limits
from ..certifying.traces import Traces
from ..guards import isolated, no_training_layers
from ..inputs import uncompiled
from ..refining import clock
from ..refining.search import Limits as Stop
from ..refining.tree import Objective
from .over_box import middle, open_boxes, search_box


@dataclass(frozen=True, eq=False)
class Monotone:
    """What is certain of a model's derivatives over a box.

    Args:
        features: their numbers, (F,), in the flattened input.
        direction: (F,), int8: 1 where the output increases strictly everywhere, -1 where it
            decreases, 0 elsewhere.
        refuted: (F,), bool: whether derivatives of both signs, or 0, were found.
        lower: (F,), certified lower bounds of the derivatives over the box.
        upper: (F,), upper bounds.
        found_lower: (F,), the smallest derivative found.
        found_upper: (F,), the largest.
        open_low: for each feature, lower ends (P, D) of boxes that hold all inputs at which its
            derivative may be 0 or not of the sign that it has at the first inputs looked at; none
            where the direction is certain.
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
def certify_monotone(model: Any, low: Tensor, high: Tensor, features: Any = None, *,
                     target: Any = None, seconds: float | None = None, domains: int = 4096,
                     batch_size: int = 64, progress: bool = False) -> Monotone:
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
        TypeError: they are no tensors of floating-point numbers.
        ValueError: low exceeds high, their shapes differ, a feature is none of the input's, or a
            number that says when to stop is bad.
        UnsupportedOperation: the model contains an operation that has no bound operator.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sigmoid(),
        ...                             torch.nn.Linear(2, 1))
        >>> for parameter in model.parameters():
        ...     _ = parameter.data.fill_(1.0)
        >>> lx.certify_monotone(model, torch.zeros(2), torch.ones(2)).direction.tolist()
        [1, 1]
    """
    started, x = clock.now(), middle(low, high)
    check_limits(seconds, domains, batch_size)
    chosen = torch.as_tensor(range(low.numel()) if features is None else features).reshape(-1)
    if chosen.is_floating_point() or not bool(((chosen >= 0) & (chosen < low.numel())).all()):
        raise ValueError(f"features must be numbers from 0 to {low.numel() - 1}; given: "
                         f"{features!r:.80}.")
    saliency, keywords = Saliency(model), {"target": target, "abs": False}
    with torch.inference_mode(False), isolated(x[0].device,
                                               saliency), no_training_layers(), torch.no_grad():
        plan = attributions.make_plan(saliency, x, keywords)
        trace, _ = Traces(Bounding()).of(saliency, plan, x, keywords, explained=True)
        functions = [side * row for row in torch.eye(low.numel(), dtype=low.dtype)[chosen]
                     for side in (1.0, -1.0)]
        search = search_box(
            plan, trace.module, trace.engine, low, high, functions,
            lambda points: saliency.attribute(points.requires_grad_(), **keywords).flatten(1),
            Stop(seconds, domains, batch_size), progress)
        _plan_sides(search.objectives)
        search.run()
        return _result(chosen, search.objectives, low, high, clock.now() - started)


def _plan_sides(objectives: Sequence[Objective]) -> None:
    """Of both directions, only the one that what was found does not refute is worth proving."""
    for objective in objectives:
        if objective.found <= 0:
            objective.threshold = -math.inf


def _result(chosen: Tensor, objectives: Sequence[Objective], low: Tensor, high: Tensor,
            seconds: float) -> Monotone:
    """What is known of the derivatives, and where their directions are open."""
    ups, downs = objectives[::2], objectives[1::2]
    lower, upper = (torch.tensor([s * o.lower for o in side], dtype=low.dtype)
                    for s, side in ((1, ups), (-1, downs)))
    found = [torch.tensor([s * o.found for o in side], dtype=low.dtype)
             for s, side in ((1, ups), (-1, downs))]
    direction = (lower > 0).to(torch.int8) - (upper < 0).to(torch.int8)
    regions = []
    for up, down, way in zip(ups, downs, direction.tolist(), strict=True):
        regions.append(open_boxes(down if up.found <= 0 else up, low, high, bool(way)))
    return Monotone(chosen, direction, (found[0] <= 0) & (found[1] >= 0), lower, upper, found[0],
                    found[1], tuple(region[0] for region in regions),
                    tuple(region[1] for region in regions), seconds)

