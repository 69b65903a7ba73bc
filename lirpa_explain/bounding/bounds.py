"""Bounds of an attribution for training: differentiable, and nothing computed that is not asked
for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..attributions import Plan
from ..boxes import Box
from ..graph import GradientModule
from .ball import Ball
from .compose import compose
from .engine import Engine
from .fold import INTERVALS, VALUES, fold_rows
from .interval import Interval
from .intervals import IntervalPass
from .parameters import Parameters
from .rows import PlanRows


class Bounds:
    """Bounds of an attribution, and its value, flat: all parts of an example side by side, (N, D).

    All are differentiable in the model's parameters unless grad mode was off, and each is computed
    when it is first asked for.

    Args:
        interval: lower and upper bounds.
        value: computes the attribution itself.
        split: cuts (N, D) into the attribution's parts.
    """

    def __init__(self, interval: Interval, value: Callable[[], Tensor],
                 split: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self._interval, self._value, self._split = interval, value, split

    @property
    def lower(self) -> Tensor:
        """Lower bounds, (N, D)."""
        return self._interval.lower

    @property
    def upper(self) -> Tensor:
        """Upper bounds, (N, D)."""
        return self._interval.upper

    @property
    def width(self) -> Tensor:
        """Upper less lower bounds, (N, D); cheaper than these."""
        return self._interval.width

    @property
    def center(self) -> Tensor:
        """Middle of lower and upper bounds, (N, D)."""
        return self._interval.around[0]

    @property
    def radius(self) -> Tensor:
        """Half of the width, (N, D), or (1, D) where it is the same for all."""
        return self._interval.radius

    @functools.cached_property
    def value(self) -> Tensor:
        """The attribution of the inputs themselves, (N, D)."""
        return self._value()

    def shaped(self, flat: Tensor) -> Tensor | tuple[Tensor, ...]:
        """One of these, (N, D), in the shape of the attribution; a tuple if it has several
        parts.
        """
        parts = self._split(flat)
        return parts if len(parts) > 1 else parts[0]


def interval_bounds(plan: Plan, module: GradientModule, intervals: IntervalPass,
                    inputs: tuple[Tensor, ...],
                    balls: tuple[Ball | None, ...], parameters: Parameters | None = None) -> Bounds:
    """Interval bounds of the attribution that a plan describes, of all rows at once.

    Args:
        plan: the attribution.
        module: what a row computes.
        intervals: bounds of that module.
        inputs: the examples, each (N, *S).
        balls: the ball of each input, None if it is fixed.
        parameters: those that move.

    Returns:
        Bounds of N attributions.
    """
    rows = PlanRows(plan, module, inputs, balls)
    values, sample = _all_rows(rows)
    example = None if sample is None else rows.example[sample]
    boxes = [input_interval(x, ball, example) for x, ball in zip(inputs, balls, strict=True)]
    for i, (x, ball) in enumerate(zip(inputs, balls, strict=True)
                                  if plan.partners is not None else ()):
        boxes.append(input_interval(x, ball,
                                    rows.partner(i) if sample is None else rows.partner(i)[sample]))
    box = fold_rows(rows, intervals(values, boxes, parameters), INTERVALS,
                    lambda: rows.multiplier()[0])
    return Bounds(box, lambda: _value(rows, module, values), module.split)


def linear_bounds(plan: Plan, module: GradientModule, engine: Engine, inputs: tuple[Tensor, ...],
                  balls: tuple[Ball | None, ...], method: str, batch_size: int,
                  parameters: Parameters | None = None) -> Bounds:
    """Bounds by the engine, `batch_size` rows at a time; other arguments as for
    `interval_bounds`.
    """
    composed = compose(plan, module, engine.over(parameters), inputs, balls, method, batch_size,
                       evaluate=False)
    rows = PlanRows(plan, module, inputs, balls)
    return Bounds(Interval(composed.box), lambda: _value(rows, module, _all_rows(rows)[0]),
                  module.split)


def input_interval(x: Tensor, ball: Ball | None, example: Tensor | None = None) -> Interval | None:
    """Where an input (N, *S) lies, for each example, or for rows of these examples, (B,); None if
    it is fixed.
    """
    if ball is None:
        return None
    box = Interval(Box(ball.low,
                       ball.high)) if ball.common is None else Interval(around=(x, ball.common))
    return box if example is None else box.rows(example)


def _all_rows(rows: PlanRows) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The module's inputs for all rows, and each row's sample; None if each example is one row."""
    samples, steps = len(rows.example), rows.plan.steps
    index = torch.arange(samples * steps, device=rows.example.device)
    values = rows.values(index // steps, index % steps)
    return values, None if rows.plan.samples == steps == 1 else index // steps


def _value(rows: PlanRows, module: GradientModule, values: tuple[Tensor, ...]) -> Tensor:
    """The attribution itself, (N, D)."""
    return fold_rows(rows, module(*values), VALUES, lambda: rows.multiplier()[1])
