"""Bounds of an attribution from bounds of the gradients it sums.

Each point of each path of each sample is one row for the engine. Rows are bounded a chunk at a time and added into
their sample at once, so memory grows with the chunk and not with the number of steps.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..attributions import Plan
from ..graph import GradientModule
from ..operators.bound import flat_rows
from ..relaxations.ranges import absolute_range, product_range, variance_range
from .ball import Ball
from .engine import Box, Engine


@dataclass(frozen=True)
class Composed:
    """What composing the rows of a plan gives, flat over all inputs: each tensor is (N, D).

    Args:
        lower: lower bound of the attribution.
        upper: upper bound.
        value: the attribution itself, by the gradient module.
        magnitude: sum of the absolute values of all terms, the scale of rounding errors.
    """

    lower: Tensor
    upper: Tensor
    value: Tensor
    magnitude: Tensor


def compose(plan: Plan, module: GradientModule, engine: Engine, inputs: tuple[Tensor, ...],
            balls: tuple[Ball | None, ...], method: str, batch_size: int, progress: bool = False) -> Composed:
    """Bound the attribution that a plan describes.

    Args:
        plan: the attribution.
        module: gradient of the model, captured with `path=True` unless `plan.is_plain`.
        engine: bounds of that module.
        inputs: the examples, each (N, *S).
        balls: the ball of each input, None if it is fixed.
        method: a key of `engine.METHODS`.
        batch_size: most rows bounded at once.
        progress: show a bar.

    Returns:
        Bounds, value and scale of the attribution.
    """
    rows = _Rows(plan, module, inputs, balls)
    samples = len(plan.points[0])
    size = sum(x[0].numel() for x in inputs)
    lower, upper, value, magnitude = (inputs[0].new_zeros(samples, size) for _ in range(4))
    chunks = torch.arange(samples * plan.steps, device=inputs[0].device).split(batch_size)
    with tqdm(total=samples * plan.steps, disable=not progress, unit="gradient", leave=False) as bar:
        for index in chunks:
            sample, values, perturbations, weight = rows.take(index)
            low, high = engine(values, perturbations, method)
            with torch.no_grad():
                gradient = module(*values)
            ordered = (low * weight, high * weight) if bool((weight >= 0).all()) else \
                (torch.minimum(low * weight, high * weight), torch.maximum(low * weight, high * weight))
            lower.index_add_(0, sample, ordered[0])
            upper.index_add_(0, sample, ordered[1])
            value.index_add_(0, sample, gradient * weight)
            magnitude.index_add_(0, sample, (gradient * weight).abs())
            bar.update(len(index))
    return _finish(plan, rows, (lower, upper), value, magnitude)


class _Rows:
    """The rows of a plan: (sample, step) pairs in order, as inputs of the engine."""

    def __init__(self, plan: Plan, module: GradientModule, inputs: tuple[Tensor, ...],
                 balls: tuple[Ball | None, ...]) -> None:
        self.plan, self.inputs, self.balls = plan, inputs, balls
        self.example = torch.arange(len(inputs[0]), device=inputs[0].device).repeat_interleave(plan.samples)
        self.cotangent = plan.cotangent(module.cotangent_shape)
        self.extras = [e for e in plan.extras if isinstance(e, Tensor) and e.ndim and len(e) == len(self.example)]
        self.scales = None if plan.scales is None else plan.scales.to(inputs[0])
        self.weights = inputs[0].new_ones(1) if plan.weights is None else plan.weights.to(inputs[0])

    def take(self, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Any, ...], Tensor]:
        """Sample of each row, the engine's inputs and perturbations for them, and their weights (B, 1)."""
        sample, step = index // self.plan.steps, index % self.plan.steps
        example = self.example[sample]
        xs = tuple(x[example] for x in self.inputs)
        maps = () if self.plan.is_plain else self._maps(sample, example, step)
        values = (*xs, *maps, *[e[sample] for e in self.extras], self.cotangent[sample])
        perturbations = tuple(None if ball is None else ball.rows(example) for ball in self.balls)
        return sample, values, perturbations, self.weights[step][:, None]

    def _maps(self, sample: Tensor, example: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """Scale and shift of each row for each input: scale * (x + noise) + (1 - scale) * baseline."""
        scales, shifts = [], []
        for i, (x, point) in enumerate(zip(self.inputs, self.plan.points, strict=True)):
            column = (len(step), *[1] * (x.ndim - 1))
            scale = x.new_ones(column) if self.scales is None else self.scales[step].reshape(column)
            shift = scale * (point[sample] - x[example])
            if self.plan.baselines is not None:
                shift = shift + (1 - scale) * self.baseline(i)[sample]
            scales.append(scale)
            shifts.append(shift)
        return (*scales, *shifts)

    def baseline(self, i: int) -> Tensor:
        """Baseline of input i for each sample."""
        assert self.plan.baselines is not None
        return self.plan.baselines[i].expand(len(self.example), *self.inputs[i].shape[1:])

    def multiplier(self) -> tuple[Box, Tensor]:
        """Bounds and value of x + e_j - b_j over the ball, flat: (V, D)."""
        low, high, value = [], [], []
        for i, (x, point, ball) in enumerate(zip(self.inputs, self.plan.points, self.balls, strict=True)):
            center = x[self.example]
            offset = point - center if self.plan.baselines is None else point - center - self.baseline(i)
            sides = (center, center) if ball is None else (ball.low[self.example], ball.high[self.example])
            low.append(flat_rows(sides[0] + offset))
            high.append(flat_rows(sides[1] + offset))
            value.append(flat_rows(center + offset))
        return (torch.cat(low, 1), torch.cat(high, 1)), torch.cat(value, 1)


def _finish(plan: Plan, rows: _Rows, box: Box, value: Tensor, magnitude: Tensor) -> Composed:
    """Multiplier, outer map and reduction, on the sums of all samples."""
    if plan.multiply:
        factor, factor_value = rows.multiplier()
        box = product_range(box, factor)
        value, magnitude = value * factor_value, magnitude * factor_value.abs()
    if plan.absolute:
        box, value = absolute_range(box), value.abs()
    shape = (-1, plan.samples, value.shape[1])
    lower, upper, value, magnitude = (t.reshape(shape) for t in (*box, value, magnitude))
    if plan.reduction == "mean":
        return Composed(lower.mean(1), upper.mean(1), value.mean(1), magnitude.mean(1))
    squares = tuple(side.square() for side in absolute_range((lower, upper)))
    if plan.reduction == "mean of squares":
        return Composed(squares[0].mean(1), squares[1].mean(1), value.square().mean(1), magnitude.square().mean(1))
    low, high = variance_range((lower, upper))
    return Composed(low, high, value.square().mean(1) - value.mean(1).square(), magnitude.square().mean(1))
