"""Interval bounds of a gradient module in one walk over its steps, fast enough for every step of a
training.

What `Engine` computes by method IBP, without auto_LiRPA's `BoundedModule`: each operator's own
interval rule, front to back. Affine operators keep centre and radius, so that ends are formed only
where an operator reads them. Bounds are not moved outward by roundings, as those of a certificate
are where a relaxation reads them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from auto_LiRPA.bound_op_map import bound_op_map
from torch import Tensor

from ..boxes import Box
from ..graph import GradientModule
from ..graph.module import Step
from ..operators.affine import BoundAffine
from ..operators.bound import BoundOperator, MovingParameter
from ..operators.registry import DOMAIN
from ..operators.unperturbed import BoundUnperturbed
from .interval import Interval
from .kinks import KINK_RULES
from .parameters import Parameters


class IntervalPass:
    """Interval bounds of a module's output, differentiable in its parameters.

    Args:
        module: the module; its parameters are read at every call.
    """

    def __init__(self, module: GradientModule) -> None:
        self.module = module
        self._bounds = {step.output: bound_operator(step) for step in module.steps}

    def __call__(self, inputs: Sequence[Tensor], perturbed: Sequence[Interval | None],
                 parameters: Parameters | None = None) -> Interval:
        """Bound the output.

        Args:
            inputs: values of the module's inputs, each with B rows.
            perturbed: where each of the first inputs lies; None, or left out at the end: it is
                fixed.
            parameters: those that move.

        Returns:
            Of shape (B, D).
        """
        return self._run(inputs, perturbed, self.module.steps, parameters)[self.module.output]

    def linear(self, inputs: Sequence[Tensor], perturbed: Sequence[Interval | None],
               functions: Tensor) -> Interval:
        """Bound linear functions of the output; a last layer is merged with them: C (W h + b) = (C
        W) h + C b.

        Args:
            inputs: as for calls.
            perturbed: likewise.
            functions: (B, K, D).

        Returns:
            Of shape (B, K).
        """
        steps = self.module.steps
        last = [step.operator for step in steps[-2:]]
        if last == ["matmul", "add"] and steps[-2].output == steps[-1].inputs[0]:
            values = self._run(inputs, perturbed, steps[:-2])
            (hidden, weight), bias = ([values[name] for name in steps[-2].inputs],
                                      values[steps[-1].inputs[1]])
            if hidden.lower.ndim == 2 and weight.is_point and bias.is_point:
                merged = functions @ weight.lower.mT  # (B, K, H)
                center, radius = (side.expand(len(merged), -1) for side in hidden.around)
                return Interval(
                    around=(torch.einsum("bkh,bh->bk", merged, center) + functions @ bias.lower,
                            torch.einsum("bkh,bh->bk", merged.abs(), radius)))
        center, radius = self(inputs, perturbed).around
        return Interval(
            around=(torch.einsum("bkd,bd->bk", functions, center),
                    torch.einsum("bkd,bd->bk", functions.abs(), radius.expand_as(center))))

    def _run(self, inputs: Sequence[Tensor], perturbed: Sequence[Interval | None],
             steps: Sequence[Step], parameters: Parameters | None = None) -> dict[str, Interval]:
        """The intervals of all values that some of the steps compute, by name."""
        values = {name: Interval.point(x)
                  for name, x in zip(self.module.input_names, inputs, strict=True)}
        values |= {name: box for name, box in zip(self.module.input_names, perturbed, strict=False)
                   if box is not None}
        for tensors in (self.module.named_parameters(recurse=False),
                        self.module.named_buffers(recurse=False)):
            values |= {name: Interval.point(tensor) for name, tensor in tensors}
        moving = {} if parameters is None else parameters.within(self.module)
        for step in steps:
            operator, boxes = self._bounds[step.output], [values[name] for name in step.inputs]
            if moving.keys().isdisjoint(step.inputs):
                values[step.output] = _bounded(operator, boxes)
                continue
            operator.inputs = [argument(box, moving.get(name))
                               for name, box in zip(step.inputs, boxes, strict=True)]
            if isinstance(operator,
                          BoundUnperturbed) and (function := operator.moving()) is not None:
                moving[step.output] = function
            values[step.output] = Interval(
                operator.interval_propagate(*[box.ends for box in boxes]))
        return values


@dataclass(frozen=True)
class _Argument:
    """What an operator asks of an input of its before it is bounded."""

    perturbed: bool
    forward_value: Tensor | None = None
    moving_parameter: MovingParameter | None = None
    from_input: bool = True


def argument(box: Interval | Box, moving: MovingParameter | None = None) -> _Argument:
    """What an operator asks of an input that lies in a box, or of a parameter that moves."""
    if moving is not None:
        return _Argument(False, None, moving)
    ends = box if isinstance(box, Box) else box.ends
    return _Argument(not ends.is_point, ends.lower if ends.is_point else None)


def bound_operator(step: Step) -> BoundOperator:
    """The bound operator of a step, which knows its settings and not its place in a graph."""
    return bound_op_map[f"{DOMAIN}::{step.operator}"]({"settings": json.dumps(step.settings)}, [],
                                                      0, {})


def _bounded(operator: BoundOperator, boxes: list[Interval]) -> Interval:
    """The interval of a result from those of the arguments."""
    moving = [box for box in boxes if not box.is_point]
    if not moving:
        return Interval.point(operator.forward(*[box.lower for box in boxes]))
    name, first = operator.operator.name, boxes[0]
    if len(moving) == 1 and name in ("add", "multiply"):
        value = boxes[0 if moving[0] is boxes[1] else 1].lower
        return moving[0] + value if name == "add" else moving[0] * value
    if isinstance(operator, BoundAffine) and moving == [first]:
        weights = [box.lower for box in boxes[1:]]
        if operator.traits.magnitude is not None:
            center, radius = first.around
            return Interval(around=(lambda: operator.forward(center, *weights),
                                    operator.magnitude(radius, *weights)))
        if operator.traits.homogeneous and len(boxes) == 1 and first.is_around:
            return Interval(around=(lambda: operator.forward(first.around[0]),
                                    operator.forward(first.radius)))
    if name in KINK_RULES and 0 <= operator.settings["slope"] <= 1:
        return KINK_RULES[name](*boxes, **operator.settings)
    operator.inputs = [argument(box) for box in boxes]
    return Interval(operator.interval_propagate(*[box.ends for box in boxes]))
