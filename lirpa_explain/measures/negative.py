"""certify_negative(): whether one of a model's outputs is negative, whichever, at every point of a
box.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attributions import Plan
from ..bounding.engine import Engine
from ..certifying.refinement import check_limits
from ..graph import capture_program
from ..graph.program import leaves, output
from ..guards import isolated, no_training_layers
from ..inputs import uncompiled
from ..refining import clock
from ..refining.search import Limits as Stop
from .over_box import middle, open_boxes, search_box


@dataclass(frozen=True, eq=False)
class Negative:
    """What is certain of the smallest output of a model over a box.

    Args:
        decided: 1 if it is negative everywhere, -1 if it is not at `point`, 0 if that is open.
        upper: a certified upper bound of it over the box.
        found: the largest value found.
        point: (*S), where.
        open_low: lower ends (P, *S) of boxes that hold all inputs at which it may be 0 or more;
            none where it is negative everywhere.
        open_high: upper ends, likewise.
        domains: how many boxes were bounded.
        seconds: how long it took.
    """

    decided: int
    upper: float
    found: float
    point: Tensor
    open_low: Tensor
    open_high: Tensor
    domains: int
    seconds: float


@uncompiled
def certify_negative(model: Callable[..., Tensor], low: Tensor, high: Tensor, *,
                     seconds: float | None = None, domains: int = 4096, batch_size: int = 64,
                     progress: bool = False) -> Negative:
    """Certify that at every point of the box low <= x <= high one of a model's outputs is negative.

    The box is split along its inputs until each part has an output whose upper bound is below 0, or
    a point is found at which none is negative. So an implication is certified as well: f(x) < 0
    wherever g(x) <= c is what the outputs f(x) and c - g(x) say. The model may compute
    derivatives, by `torch.autograd.grad(..., create_graph=True)`.

    Args:
        model: maps (N, *S) to outputs (N, ...), each row by itself.
        low: (*S), lower ends.
        high: (*S), upper ends.
        seconds: when to stop.
        domains: most boxes.
        batch_size: boxes bounded at once.
        progress: show a bar.

    Returns:
        A `Negative`; it says where that is open.

    Raises:
        TypeError: they are no tensors of floating-point numbers.
        ValueError: low exceeds high, their shapes differ, or a number that says when to stop is
            bad.
        UnsupportedOperation: the model contains an operation that has no bound operator.
        TrainingModeError: a layer is in training mode whose output is then random or depends on the
            batch.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> def conditions(x):  # where x0 x1 >= 1/2, the sum exceeds 1.4
        ...     return torch.stack([1.4 - x.sum(1), x[:, 0] * x[:, 1] - 0.5], 1)
        >>> lx.certify_negative(conditions, torch.zeros(2), torch.ones(2)).decided
        1
    """
    started, x = clock.now(), middle(low, high)
    check_limits(seconds, domains, batch_size)
    with torch.inference_mode(False), isolated(x[0].device,
                                               model), no_training_layers(), torch.no_grad():
        function, program = _smallest(model), output()
        module = capture_program(program, function, x)
        plan = Plan(points=x, targets=((1, None),), program=program)
        search = search_box(plan, module, Engine(module, module.example), low, high,
                            [x[0].new_ones(1)], function, Stop(seconds, domains, batch_size),
                            progress)
        search.run()
    objective, = search.objectives
    assert objective.point is not None
    point = search.points[objective.point][1][0]
    open_low, open_high = (side.reshape(-1, *low.shape)
                           for side in open_boxes(objective, low, high, objective.decided == 1))
    return Negative(objective.decided, -objective.lower, -objective.found, point, open_low,
                    open_high, objective.domains, clock.now() - started)


def _smallest(model: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """Minus the smallest of a model's outputs, (N, 1), of inputs that it may differentiate by."""

    def smallest(x: Tensor) -> Tensor:
        with torch.enable_grad():
            outputs = model(*leaves((x,)))
        return -outputs.reshape(len(outputs), -1).amin(1, keepdim=True)

    return smallest
