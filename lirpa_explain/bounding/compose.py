"""Bounds of an attribution from bounds of the gradients it sums.

Each point of each path of each sample is one row for the engine. Rows are bounded a chunk at a time
and added into their sample at once, so memory grows with the chunk and not with the number of
steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..attributions import Plan
from ..boxes import Box
from ..errors import MemoryLimitTooSmall
from ..graph import GradientModule
from ..relaxations.ranges import linear_range
from ..rounding import FAR_PROBES, PROBES
from .ball import Ball
from .engine import Engine
from .errors import Reach, value_and_error
from .fold import BOXES, ERRORS, OUTWARD, VALUES, Rounded, Sized, fold, moved_out, outer
from .joint import Joint
from .rows import PlanRows

T = TypeVar("T")


@dataclass(frozen=True)
class Composed:
    """What composing the rows of a plan gives, flat over all inputs: each tensor is (N, D).

    Args:
        lower: lower bound of the attribution.
        upper: upper bound.
        value: the attribution itself, by the gradient module.
        error: about how far roundings may have moved the value; see `errors.value_and_error`.
        margin: the same, or that where all inputs are as large as they can be, whichever is more;
            None: the same.
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
        method: a key of `methods.METHODS`.
        batch_size: most rows bounded at once.
        progress: show a bar.
        rounded: whether the bounds shall be of what is computed in floating point; `engine` then
            bounds that too.
        evaluate: whether value and error are wanted; else they are 0.

    Returns:
        Bounds, value and error of the attribution.

    Raises:
        MemoryLimitTooSmall: there is a limit of memory that not even one row at a time keeps.
    """
    rows = PlanRows(plan, module, inputs, balls, rounded)
    return _with_fewer_rows(lambda size: _composed(rows, module, engine, method, size, progress,
                                                   evaluate), batch_size)


def _with_fewer_rows(bound: Callable[[int], T], batch_size: int) -> T:
    """What is bounded so many rows at a time, or fewer where memory is short."""
    while True:
        try:
            return bound(batch_size)
        except MemoryLimitTooSmall as error:
            if error.rows == 1:
                raise
            batch_size = error.rows // 2


def _composed(rows: PlanRows, module: GradientModule, engine: Engine | Reach, method: str,
              batch_size: int, progress: bool, evaluate: bool) -> Composed:
    """Bounds, value and error of the attribution of a plan's rows, so many at a time; see
    `compose`.
    """
    plan, inputs, rounded = rows.plan, rows.inputs, rows.rounded
    like, shape = inputs[0], (len(plan.points[0]), module.size)
    joint = _joint(plan, engine, inputs, rows.balls, method, rounded)
    box, size = BOXES.zero(like, *shape), VALUES.zero(like, *shape)
    near, far = ERRORS.zero(like, *shape), ERRORS.zero(like, *shape)

    def probe(values: tuple[Tensor, ...], off: list[Tensor | None], weight: Tensor,
              count: int) -> Rounded:
        return ERRORS.scaled(Rounded(*value_and_error(module, values, off, count)), weight)

    for sample, values, perturbations, weight in rows.chunks(batch_size, progress):
        part = BOXES.scaled(_bounds(engine, values, perturbations, method, joint, rows.moving),
                            weight)
        BOXES.add(box, sample, part)
        with torch.no_grad():
            VALUES.add(size, sample, part.size)
            if evaluate:
                off = rows.errors(values, sample)
                ERRORS.add(near, sample, probe(values, off, weight, PROBES))
                if rows.moves and not rounded:
                    ERRORS.add(far, sample,
                               probe(rows.farthest(values, sample), off, weight, FAR_PROBES))
    if rounded:
        box = fold(plan, Sized(moved_out(box, size, plan.steps), size), OUTWARD,
                   rows.outward_multiplier).box
    else:
        box = fold(plan, box, BOXES, lambda: rows.multiplier()[0])
        if joint is not None and plan.combination is not None:
            box = box.intersect(joint.box.map(plan.combination.entries)).ordered()
    value, error = fold(plan, near, ERRORS, rows.rounded_multiplier)
    far = Rounded(near.value, torch.maximum(near.error, far.error))
    return Composed(*box, value, error, fold(plan, far, ERRORS, rows.farthest_multiplier).error)


def _joint(plan: Plan, engine: Engine | Reach, inputs: tuple[Tensor, ...],
           balls: tuple[Ball | None, ...], method: str, rounded: bool) -> Joint | None:
    """Where linear bounds of a plan's outputs are joined; None where it combines none, or there are
    no such bounds.
    """
    if (plan.combination is None or rounded or not isinstance(engine, Engine)
            or not engine.joins(method)):
        return None
    return Joint(plan.combination.weights, inputs, balls, partners=plan.partners)


def _bounds(engine: Engine | Reach, values: tuple[Tensor, ...], perturbations: tuple[Any, ...],
            method: str, joint: Joint | None, count: int) -> Box:
    """Bounds of rows, whose linear bounds in the first `count` inputs are handed to `joint`."""
    if joint is None or not isinstance(engine, Engine):
        return Box(*engine(values, perturbations, method))
    box, forms = engine.forms(values, perturbations, method, count)
    joint.add(forms)
    return box


def _combined_functions(
    rows: PlanRows, module: GradientModule, engine: Engine, method: str, batch_size: int,
    functions: Tensor, examples: Tensor | None, progress: bool) -> tuple[Box, Tensor]:
    """Of a plan that combines outputs: functions of it are other combinations of these."""
    combination = rows.plan.combination
    assert combination is not None
    every = torch.arange(len(rows.inputs[0]), device=functions.device)
    weights = combination.of_examples(examples).gathered(functions)
    joint = Joint(weights, rows.inputs, rows.balls, examples,
                  rows.plan.partners) if engine.joins(method) else None
    parts = []
    for _, values, perturbations, _ in rows.chunks(batch_size, progress,
                                                   every if examples is None else examples):
        box = _bounds(engine, values, perturbations, method, joint, rows.moving)
        with torch.no_grad():
            parts.append((*box, module(*values)))
    lower, upper, outputs = (torch.cat(part).reshape(len(functions), -1)
                             for part in zip(*parts, strict=True))
    box = linear_range(weights, Box(lower, upper)).or_nothing()
    value = torch.einsum("nkj,nj->nk", weights, outputs)
    return box if joint is None else box.intersect(joint.box).ordered(), value


def compose_functions(
    plan: Plan, module: GradientModule, engine: Engine, inputs: tuple[Tensor, ...],
    balls: tuple[Ball | None, ...], method: str, batch_size: int, functions: Tensor,
    progress: bool = False, rounded: bool = False,
    examples: Tensor | None = None) -> tuple[Box, Tensor]:
    """Bound linear functions of the attribution, each row's as a whole, and evaluate them.

    Args:
        plan: the attribution, for which `plan.is_row_linear`.
        module: captured with the plan's multiplier and outer map.
        engine: bounds of that module.
        inputs: the examples, each (N, *S).
        balls: the ball of each input, None if it is fixed.
        method: a key of `methods.METHODS`.
        batch_size: most rows bounded at once.
        functions: (N, K, D); (B, K, D) for B examples that are chosen.
        progress: show a bar.
        rounded: as for `compose`.
        examples: (B,), which examples the functions are of, in any order; default: all.

    Returns:
        (lower, upper) and the value at the inputs, each (N, K), or (B, K).
    """
    rows = PlanRows(plan, module, inputs, balls, rounded)
    bound = _row_functions if plan.combination is None else _combined_functions
    return _with_fewer_rows(lambda size: bound(rows, module, engine, method, size, functions,
                                               examples, progress), batch_size)


def _row_functions(
    rows: PlanRows, module: GradientModule, engine: Engine, method: str, batch_size: int,
    functions: Tensor, examples: Tensor | None, progress: bool) -> tuple[Box, Tensor]:
    """Of a plan that sums rows, each of whose functions is bounded as a whole."""
    plan, like, shape = rows.plan, rows.inputs[0], functions.shape[:2]
    box, size, value = (BOXES.zero(like, *shape), VALUES.zero(like, *shape),
                        VALUES.zero(like, *shape))
    owner = torch.arange(len(functions),
                         device=like.device).repeat_interleave(plan.samples * plan.steps)
    chunks = rows.chunks(batch_size, progress, examples) if len(functions) else ()
    for own, (_, values, perturbations, weight) in zip(owner.split(batch_size), chunks,
                                                       strict=False):
        part = BOXES.scaled(Box(*engine(values, perturbations, method, functions[own])), weight)
        BOXES.add(box, own, part)
        with torch.no_grad():
            VALUES.add(size, own, part.size)
            VALUES.add(value, own,
                       torch.einsum("bkd,bd->bk", functions[own], module(*values)) * weight)
    box = moved_out(box, size, plan.steps * plan.samples) if rows.rounded else box
    return box.map(lambda side: side / plan.samples), value / plan.samples


def sample_bounds(plan: Plan, module: GradientModule, engine: Engine, inputs: tuple[Tensor, ...],
                  balls: tuple[Ball | None, ...], method: str, batch_size: int,
                  progress: bool = False) -> Iterator[tuple[Tensor, Tensor, Box]]:
    """Each sample by itself of those that a plan without a multiplier is the mean of.

    Yields:
        Their examples (B,), values (B, D) and, over the balls, bounds (B, D).
    """
    rows = PlanRows(plan, module, inputs, balls)
    for row, values, perturbations, weight in rows.chunks(
        max(1, batch_size // plan.steps) * plan.steps, progress):
        value = VALUES.grouped(VALUES.scaled(module(*values), weight), plan.steps)
        box = BOXES.grouped(BOXES.scaled(Box(*engine(values, perturbations, method)), weight),
                            plan.steps)
        yield rows.example[row[::plan.steps]], outer(plan, value, VALUES), outer(plan, box, BOXES)
