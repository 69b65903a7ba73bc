"""Bounds of an attribution from bounds of the gradients it sums.

Each point of each path of each sample is one row for the engine. Rows are bounded a chunk at a time and added into
their sample at once, so memory grows with the chunk and not with the number of steps.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rounding
from ..attributions import Plan
from ..boxes import Box
from ..graph import GradientModule
from ..relaxations.ranges import product_range, variance_range
from ..rounding import FAR_PROBES, LAST, OWN, unit
from .ball import Ball
from .engine import Engine
from .errors import Reach, value_and_error
from .rows import Rows


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
