"""Bounds of an attribution from bounds of the gradients it sums.

Each point of each path of each sample is one row for the engine. Rows are bounded a chunk at a time and added into
their sample at once, so memory grows with the chunk and not with the number of steps.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor
from tqdm import tqdm

from .. import rounding
from ..attributions import Plan
from ..boxes import Box
from ..graph import GradientModule
from ..operators.bound import flat_rows
from ..relaxations.ranges import product_range, variance_range
from ..rounding import FAR_PROBES, LAST, OWN, unit
from .ball import Ball
from .engine import Engine
from .errors import Reach, value_and_error
from .integral import Stretch

SHIFTS = frozenset({"shift", "next_shift", "noise", "offset"})
"""Inputs of a row, of `graph.program.POINTS`, that are sums of what Captum adds up in another order."""


@dataclass(frozen=True)
class Composed:
    """What composing the rows of a plan gives, flat over all inputs: each tensor is (N, D).

    Args:
        lower: lower bound of the attribution.
        upper: upper bound.
        value: the attribution itself, by the gradient module.
        error: about how far roundings may have moved the value; see `errors.value_and_error`.
        margin: the same, or that where all inputs are as large as they can be, whichever is more; None: the same.
    """

    lower: Tensor
    upper: Tensor
    value: Tensor
    error: Tensor
    margin: Tensor | None = None

    @property
    def box(self) -> Box:
        """The bounds."""
        return Box(self.lower, self.upper)


def compose(plan: Plan, module: GradientModule, engine: Engine | Reach, inputs: tuple[Tensor, ...],
            balls: tuple[Ball | None, ...], method: str, batch_size: int, progress: bool = False,
            rounded: bool = False, evaluate: bool = True) -> Composed:
    """Bound the attribution that a plan describes.

    Args:
        plan: the attribution.
        module: what a row computes, captured of `plan.row_program()`.
        engine: bounds of that module.
        inputs: the examples, each (N, *S).
        balls: the ball of each input, None if it is fixed.
        method: a key of `engine.METHODS`.
        batch_size: most rows bounded at once.
        progress: show a bar.
        rounded: whether the bounds shall be of what is computed in floating point; `engine` then bounds that too.
        evaluate: whether value and error are wanted; else they are 0.

    Returns:
        Bounds, value and error of the attribution.
    """
    rows = Rows(plan, module, inputs, balls, rounded)
    lower, upper, size, value, error, far = (inputs[0].new_zeros(len(plan.points[0]), module.size) for _ in range(6))
    for sample, values, perturbations, weight in rows.chunks(batch_size, progress):
        part = Box(*engine(values, perturbations, method)).scaled(weight)
        lower.index_add_(0, sample, part.lower)
        upper.index_add_(0, sample, part.upper)
        with torch.no_grad():
            size.index_add_(0, sample, part.size)
            if evaluate:
                off, last = rows.errors(values, sample), LAST * unit(error.dtype)
                gradient, moved = value_and_error(module, values, off)
                value.index_add_(0, sample, gradient * weight)
                error.index_add_(0, sample, (moved + last * gradient.abs()) * weight.abs())
                if rows.moves and not rounded:
                    gradient, moved = value_and_error(module, rows.farthest(values, sample), off, FAR_PROBES)
                    far.index_add_(0, sample, (moved + last * gradient.abs()) * weight.abs())
    box = moved_out(Box(lower, upper), size, plan.steps) if rounded else Box(lower, upper)
    composed = _finish(plan, rows, box, value, error)
    return dataclasses.replace(composed, margin=_finish(plan, rows, box, value, torch.maximum(error, far), True).error)


def moved_out(box: Box, size: Tensor, count: int) -> Box:
    """Bounds moved outward by what a sum of so many terms, of these sizes together, may round."""
    return box.outward(rounding.rounded(size.detach(), OWN + count))


def compose_functions(plan: Plan, module: GradientModule, engine: Engine, inputs: tuple[Tensor, ...],
                      balls: tuple[Ball | None, ...], method: str, batch_size: int, functions: Tensor,
                      progress: bool = False, rounded: bool = False) -> tuple[Box, Tensor]:
    """Bound linear functions of the attribution, each row's as a whole, and evaluate them.

    Args:
        plan: the attribution, for which `plan.is_row_linear`.
        module: captured with the plan's multiplier and outer map.
        engine: bounds of that module.
        inputs: the examples, each (N, *S).
        balls: the ball of each input, None if it is fixed.
        method: a key of `engine.METHODS`.
        batch_size: most rows bounded at once.
        functions: (N, K, D).
        progress: show a bar.
        rounded: as for `compose`.

    Returns:
        (lower, upper) and the value at the inputs, each (N, K).
    """
    rows = Rows(plan, module, inputs, balls, rounded)
    lower, upper, size, value = (inputs[0].new_zeros(len(inputs[0]), functions.shape[1]) for _ in range(4))
    for sample, values, perturbations, weight in rows.chunks(batch_size, progress):
        example = rows.example[sample]
        part = Box(*engine(values, perturbations, method, functions[example])).scaled(weight)
        lower.index_add_(0, example, part.lower)
        upper.index_add_(0, example, part.upper)
        with torch.no_grad():
            size.index_add_(0, example, part.size)
            value.index_add_(0, example, torch.einsum("bkd,bd->bk", functions[example], module(*values)) * weight)
    box = moved_out(Box(lower, upper), size, plan.steps * plan.samples) if rounded else Box(lower, upper)
    return box.map(lambda side: side / plan.samples), value / plan.samples


def sample_bounds(plan: Plan, module: GradientModule, engine: Engine, inputs: tuple[Tensor, ...],
                  balls: tuple[Ball | None, ...], method: str, batch_size: int, progress: bool = False
                  ) -> Iterator[tuple[Tensor, Tensor, Box]]:
    """Each sample by itself of those that a plan without a multiplier is the mean of.

    Yields:
        Their examples (B,), values (B, D) and, over the balls, bounds (B, D).
    """
    rows = Rows(plan, module, inputs, balls)

    def outer(box: Box) -> Box:
        if plan.outer is None:
            return box
        return box.absolute() if plan.outer == "absolute" else box.square()

    for row, values, perturbations, weight in rows.chunks(max(1, batch_size // plan.steps) * plan.steps, progress):
        value, low, high = (terms.reshape(-1, plan.steps, terms.shape[1]).sum(1) for terms in (
            module(*values) * weight, *Box(*engine(values, perturbations, method)).scaled(weight)))
        yield rows.example[row[::plan.steps]], outer(Box.point(value)).upper, outer(Box(low, high))


class Rows:
    """The rows of a plan: (sample, step) pairs in order, as inputs of the engine."""

    def __init__(self, plan: Plan, module: GradientModule, inputs: tuple[Tensor, ...],
                 balls: tuple[Ball | None, ...], rounded: bool = False) -> None:
        self.plan, self.inputs, self.balls, self.names = plan, inputs, balls, module.input_names
        self.rounded = rounded
        self.example = torch.arange(len(inputs[0]), device=inputs[0].device).repeat_interleave(plan.samples)
        self.cotangent = plan.cotangent(module.cotangent_shape)
        self.extras = [e for e in plan.extras if isinstance(e, Tensor) and e.ndim and len(e) == len(self.example)]
        self.weights = inputs[0].new_ones(plan.steps) if plan.weights is None else plan.weights.to(inputs[0])

    def chunks(self, size: int, progress: bool) -> Iterator[tuple[Tensor, tuple[Tensor, ...], tuple[Any, ...], Tensor]]:
        """All rows, so many at a time; see `take`."""
        total = len(self.example) * self.plan.steps
        with tqdm(total=total, disable=not progress, unit="gradient", leave=False) as bar:
            for index in torch.arange(total, device=self.example.device).split(size):
                yield self.take(index)
                bar.update(len(index))

    def take(self, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Any, ...], Tensor]:
        """Sample of each row, the engine's inputs and perturbations for them, and their weights (B, 1)."""
        sample, step = index // self.plan.steps, index % self.plan.steps
        values = self.values(sample, step)
        return sample, values, self._perturbations(sample, step, values), self.weights[step][:, None]

    def values(self, sample: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """The engine's inputs for rows of these samples and steps."""
        return tuple(value for name, group in itertools.groupby(self.names, _stem)
                     for value in self._tensors(name, len(list(group)), sample, step))

    def _perturbations(self, sample: Tensor, step: Tensor, values: tuple[Tensor, ...]) -> tuple[Any, ...]:
        example = self.example[sample]
        perturbations: list[Any] = [None if ball is None else ball.rows(example) for ball in self.balls]
        if self.plan.ends is not None:
            ends = self.plan.ends.to(self.inputs[0])
            perturbations += [None] * (self.names.index("alpha") - len(perturbations))
            perturbations.append(Stretch(ends[step], ends[step + 1]))
        if not self.rounded:
            return tuple(perturbations)
        perturbations += [None] * (len(values) - len(perturbations))
        errors = [torch.zeros_like(x) if error is None else error
                  for x, error in zip(values, self.errors(values, sample), strict=True)]
        return tuple(PerturbationLpNorm(norm=math.inf, x_L=x - error, x_U=x + error) if p is None else p
                     for p, x, error in zip(perturbations, values, errors, strict=True))

    @property
    def moves(self) -> bool:
        """Whether some input is more than a point."""
        return any(ball is not None and bool((ball.high > ball.low).any()) for ball in self.balls)

    def farthest(self, values: tuple[Tensor, ...], sample: Tensor) -> tuple[Tensor, ...]:
        """The engine's inputs where each entry of the perturbed ones is as large as it can be."""
        example = self.example[sample]
        ends = [None if ball is None else torch.where(-ball.low > ball.high, ball.low, ball.high)[example]
                for ball in self.balls]
        return tuple(value if end is None else end for value, end in itertools.zip_longest(values, ends))

    def errors(self, values: tuple[Tensor, ...], sample: Tensor) -> list[Tensor | None]:
        """How far each of the engine's inputs may be off: Captum computes points in an order of its own."""
        found: list[Tensor | None] = []
        for name, value in zip(self.names, values, strict=True):
            stem = _stem(name)
            if stem not in SHIFTS:
                found.append(None)
                continue
            i = int(name.removeprefix(stem))
            size = value.abs() + self._largest(i)[self.example[sample]]
            size = size if self.plan.baselines is None else size + self.baseline(i)[sample].abs()
            found.append(LAST * unit(size.dtype) * size)
        return found

    def _largest(self, i: int) -> Tensor:
        """Largest size of each entry of input i."""
        ball = self.balls[i]
        return self.inputs[i].abs() if ball is None else Box(ball.low, ball.high).size

    def _tensors(self, name: str, count: int, sample: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """The engine's inputs of one kind for these rows."""
        if name == "cotangent":
            return (self.cotangent[sample],)
        if name == "argument":
            return tuple(e[sample] for e in self.extras)
        if name == "alpha":
            return (self._scale(self.plan.scales, sample, step),)
        return tuple(self._tensor(name, i, sample, step) for i in range(count))

    def _tensor(self, name: str, i: int, sample: Tensor, step: Tensor) -> Tensor:
        """One tensor of the rows for input i, of those that `graph.program.POINTS` names."""
        if name == "x":
            return self.inputs[i][self.example[sample]]
        if name == "baseline":
            return self.baseline(i)[sample]
        noise = self.plan.points[i][sample] - self.inputs[i][self.example[sample]]
        if name == "noise":
            return noise
        if name == "offset":
            return noise if self.plan.baselines is None else noise - self.baseline(i)[sample]
        scales = self.plan.next_scales if name.startswith("next_") else self.plan.scales
        scale = self._scale(scales, sample, step).reshape(-1, *[1] * (noise.ndim - 1))
        if name.endswith("scale"):
            return scale
        shift = scale * noise
        return shift if self.plan.baselines is None else shift + (1 - scale) * self.baseline(i)[sample]

    def _scale(self, scales: Tensor | None, sample: Tensor, step: Tensor) -> Tensor:
        """Place of each row on its path, (B,)."""
        if scales is None:
            return self.inputs[0].new_ones(len(sample))
        return scales.to(self.inputs[0])[step] if scales.ndim == 1 else scales.to(self.inputs[0])[sample, step]

    def baseline(self, i: int) -> Tensor:
        """Baseline of input i for each sample."""
        assert self.plan.baselines is not None
        return self.plan.baselines[i].expand(len(self.example), *self.inputs[i].shape[1:])

    def multiplier(self) -> tuple[Box, Tensor]:
        """Bounds and value of x + e_j - b_j over the ball, flat: (V, D)."""
        low, high, value = [], [], []
        every = torch.arange(len(self.example), device=self.example.device)
        for i, (x, ball) in enumerate(zip(self.inputs, self.balls, strict=True)):
            offset = self._tensor("offset", i, every, every)
            center = x[self.example]
            sides = Box.point(center) if ball is None else Box(ball.low, ball.high).rows(self.example)
            low.append(flat_rows(sides.lower + offset))
            high.append(flat_rows(sides.upper + offset))
            value.append(flat_rows(center + offset))
        return Box(torch.cat(low, 1), torch.cat(high, 1)), torch.cat(value, 1)

    def multiplier_size(self) -> Tensor:
        """The sizes of the multiplier's terms, (V, D)."""
        every = torch.arange(len(self.example), device=self.example.device)
        sizes = [self._largest(i)[self.example] + self._tensor("offset", i, every, every).abs()
                 for i in range(len(self.inputs))]
        if self.plan.baselines is not None:
            sizes = [size + self.baseline(i).abs() for i, size in enumerate(sizes)]
        return torch.cat([flat_rows(size) for size in sizes], 1)


def _stem(name: str) -> str:
    """Name of an input of the engine without its number."""
    return name.rstrip("0123456789")


def _finish(plan: Plan, rows: Rows, box: Box, value: Tensor, error: Tensor, far: bool = False) -> Composed:
    """Multiplier, outer map and reduction, on the sums of all samples; `far`: errors with the largest multiplier."""
    few = LAST * unit(value.dtype)
    if plan.multiply:
        factor, factor_value = rows.multiplier()
        if rows.rounded:
            factor = factor.outward(rounding.rounded(rows.multiplier_size(), OWN))
        size = box.size * factor.size
        box = product_range(box, factor).or_nothing()  # infinite bounds times 0
        box = moved_out(box, size, 1) if rows.rounded else box
        largest = rows.multiplier_size()
        error = error * (largest if far else factor_value.abs()) + value.abs() * few * largest
        value = value * factor_value
    reduced = reduce_samples(plan, box).or_nothing()
    if rows.rounded and (plan.samples > 1 or plan.reduction != "mean"):
        size = box.size.reshape(-1, plan.samples, value.shape[1])
        size = size if plan.reduction == "mean" else 2 * size.square()
        reduced = moved_out(reduced, size.mean(1), plan.samples)
    return Composed(*reduced, reduce_value(plan, value), _reduced_error(plan, value, error + few * value.abs()))


def _reduced_error(plan: Plan, value: Tensor, error: Tensor) -> Tensor:
    """Error (N, D) of a plan's attribution from values and errors of its samples, (V, D)."""
    value, error = (x.reshape(-1, plan.samples, x.shape[1]) for x in (value, error))
    if plan.reduction == "mean":
        return error.mean(1)
    squares = (error * (2 * value.abs() + error)).mean(1)
    return squares if plan.reduction == "mean of squares" else squares + 2 * value.abs().mean(1) * error.mean(1)


def reduce_value(plan: Plan, value: Tensor) -> Tensor:
    """A plan's attribution (N, D) from the values of its samples, (V, D): outer map and reduction."""
    value = value.abs() if plan.absolute else value
    value = value.reshape(-1, plan.samples, value.shape[1])
    if plan.reduction == "mean":
        return value.mean(1)
    squares = value.square().mean(1)
    return squares if plan.reduction == "mean of squares" else squares - value.mean(1).square()


def reduce_samples(plan: Plan, box: Box) -> Box:
    """Bounds (N, D) of a plan's attribution from those of its samples, (V, D)."""
    box = box.absolute() if plan.absolute else box
    box = box.map(lambda side: side.reshape(-1, plan.samples, side.shape[1]))
    if plan.reduction == "variance":
        return variance_range(box)
    return (box if plan.reduction == "mean" else box.square()).map(lambda side: side.mean(1))
