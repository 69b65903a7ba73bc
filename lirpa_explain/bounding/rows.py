"""The rows of a plan: what the engine is given for each point of each path of each sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor
from tqdm import tqdm

from ..attributions import Plan
from ..boxes import Box
from ..graph import GradientModule
from ..graph.program import KINDS, input_names, offset
from ..operators.bound import flat_rows
from ..rounding import LAST, OWN, rounded, unit
from .ball import Ball
from .integral import Stretch


class Multiplier(NamedTuple):
    """The multiplier of each sample as it rounds: its value, sizes of its terms, by what errors
    grow; (V, D) each.
    """

    value: Tensor
    terms: Tensor
    growth: Tensor


class PlanRows:
    """The rows of a plan: (sample, step) pairs in order, as inputs of the engine."""

    def __init__(self, plan: Plan, module: GradientModule, inputs: tuple[Tensor, ...],
                 balls: tuple[Ball | None, ...], rounded: bool = False) -> None:
        self.plan, self.inputs, self.balls, self.names = plan, inputs, balls, module.input_names
        self.rounded = rounded
        known = {name: (tensor, i) for kind, tensor in KINDS.items()
                 for i, name in enumerate(input_names(kind, max(len(inputs), len(self.names))))}
        self._kinds = [known[name] for name in self.names]
        self.example = torch.arange(len(inputs[0]),
                                    device=inputs[0].device).repeat_interleave(plan.samples)
        self.cotangent = plan.cotangent(module.cotangent_shape)
        self.arguments = module.further(plan.extras, len(self.example))
        self.weights = (inputs[0].new_ones(plan.steps)
                        if plan.weights is None else plan.weights.to(inputs[0]))

    def chunks(self, size: int, progress: bool, chosen: Tensor | None = None
               ) -> Iterator[tuple[Tensor, tuple[Tensor, ...], tuple[Any, ...], Tensor]]:
        """All rows, or those of chosen examples (B,) in their order, so many at a time; see
        `take`.
        """
        every = torch.arange(len(self.example) * self.plan.steps, device=self.example.device)
        if chosen is not None:
            every = every.reshape(len(self.inputs[0]), -1)[chosen].flatten()
        with tqdm(total=len(every), disable=not progress, unit="gradient", leave=False) as bar:
            for index in every.split(size):
                yield self.take(index)
                bar.update(len(index))

    def take(self, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Any, ...], Tensor]:
        """Sample of each row, the engine's inputs and perturbations for them, and their weights (B,
        1).
        """
        sample, step = index // self.plan.steps, index % self.plan.steps
        values = self.values(sample, step)
        return (sample, values, self._perturbations(sample, step, values),
                self.weights[step][:, None])

    def values(self, sample: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """The engine's inputs for rows of these samples and steps."""
        places = PlanPlaces(self, sample, step)
        return tuple(kind.make(places, i) for kind, i in self._kinds)

    def _perturbations(self, sample: Tensor, step: Tensor,
                       values: tuple[Tensor, ...]) -> tuple[Any, ...]:
        example = self.example[sample]
        perturbations: list[Any] = [None if ball is None else ball.rows(example)
                                    for ball in self.balls]
        # they come next
        for i, ball in enumerate(self.balls if self.plan.partners is not None else ()):
            perturbations.append(None if ball is None else ball.rows(self.partner(i)[sample]))
        if self.plan.ends is not None:
            ends = self.plan.ends.to(self.inputs[0])
            perturbations += [None] * (self.names.index("alpha") - len(perturbations))
            perturbations.append(Stretch(ends[step], ends[step + 1]))
        if not self.rounded:
            return tuple(perturbations)
        perturbations += [None] * (len(values) - len(perturbations))
        errors = [torch.zeros_like(x) if error is None else error
                  for x, error in zip(values, self.errors(values, sample), strict=True)]
        return tuple(PerturbationLpNorm(norm=math.inf, x_L=x - error, x_U=x + error) if p is None
                     else p for p, x, error in zip(perturbations, values, errors, strict=True))

    @property
    def moving(self) -> int:
        """How many of the engine's inputs, the first ones, are inputs of examples, which may be
        perturbed.
        """
        return len(self.inputs) * (1 if self.plan.partners is None else 2)

    @property
    def moves(self) -> bool:
        """Whether some input is more than a point."""
        return any(ball is not None and bool((ball.high > ball.low).any()) for ball in self.balls)

    def farthest(self, values: tuple[Tensor, ...], sample: Tensor) -> tuple[Tensor, ...]:
        """The engine's inputs where each entry of the perturbed ones is as large as it can be."""
        example = self.example[sample]
        far = [None if ball is None else torch.where(-ball.low > ball.high, ball.low, ball.high)
               for ball in self.balls]
        ends = [None if end is None else end[example] for end in far]
        if self.plan.partners is not None:
            ends += [None if end is None else end[self.partner(i)[sample]]
                     for i, end in enumerate(far)]
        return tuple(value if end is None else end
                     for value, end in itertools.zip_longest(values, ends))

    def errors(self, values: tuple[Tensor, ...], sample: Tensor) -> list[Tensor | None]:
        """How far each of the engine's inputs may be off: Captum computes points in an order of its
        own.
        """
        found: list[Tensor | None] = []
        for (kind, i), value in zip(self._kinds, values, strict=True):
            if not kind.summed:
                found.append(None)
                continue
            size = value.abs() + self._largest(i)[self.example[sample]]
            size = size if self.plan.baselines is None else size + self.baseline(i)[sample].abs()
            found.append(LAST * unit(size.dtype) * size)
        return found

    def _largest(self, i: int) -> Tensor:
        """Largest size of each entry of input i."""
        ball = self.balls[i]
        return self.inputs[i].abs() if ball is None else Box(ball.low, ball.high).size

    def baseline(self, i: int) -> Tensor:
        """Baseline of input i for each sample, of a plan with baselines."""
        assert self.plan.baselines is not None
        return self.plan.baselines[i].expand(len(self.example), *self.inputs[i].shape[1:])

    def partner(self, i: int) -> Tensor:
        """Which other example each sample reads input i of, (V,), of a plan with partners."""
        assert self.plan.partners is not None
        return self.plan.partners[i]

    def _offset(self, i: int) -> Tensor:
        """e_j - b_j of each sample, (V, *S)."""
        every = torch.arange(len(self.example), device=self.example.device)
        return offset(PlanPlaces(self, every, torch.zeros_like(every)), i)

    def multiplier(self) -> tuple[Box, Tensor]:
        """Bounds and value of x + e_j - b_j over the ball, flat: (V, D)."""
        low, high, value = [], [], []
        for i, (x, ball) in enumerate(zip(self.inputs, self.balls, strict=True)):
            added, center = self._offset(i), x[self.example]
            sides = (Box.point(center)
                     if ball is None else Box(ball.low, ball.high).rows(self.example))
            low.append(flat_rows(sides.lower + added))
            high.append(flat_rows(sides.upper + added))
            value.append(flat_rows(center + added))
        return Box(torch.cat(low, 1), torch.cat(high, 1)), torch.cat(value, 1)

    def outward_multiplier(self) -> Box:
        """Bounds of the multiplier as it is computed in floating point."""
        return self.multiplier()[0].outward(rounded(self.multiplier_size(), OWN))

    def rounded_multiplier(self) -> Multiplier:
        """How the multiplier rounds."""
        value = self.multiplier()[1]
        return Multiplier(value, self.multiplier_size(), value.abs())

    def farthest_multiplier(self) -> Multiplier:
        """The same at the inputs of the ball where the multiplier is largest."""
        box, value = self.multiplier()
        return Multiplier(value, self.multiplier_size(), box.size)

    def multiplier_size(self) -> Tensor:
        """The sizes of the multiplier's terms, (V, D)."""
        sizes = [self._largest(i)[self.example] + self._offset(i).abs()
                 for i in range(len(self.inputs))]
        if self.plan.baselines is not None:
            sizes = [size + self.baseline(i).abs() for i, size in enumerate(sizes)]
        return torch.cat([flat_rows(size) for size in sizes], 1)


class PlanPlaces:
    """Where rows of these samples and steps lie, each (B,); see `graph.program.Places`."""

    def __init__(self, rows: PlanRows, sample: Tensor, step: Tensor) -> None:
        self.rows, self.sample, self.step = rows, sample, step

    @cached_property
    def scale(self) -> Tensor:
        """Place of each row on its path."""
        return self._on_path(self.rows.plan.scales)

    @cached_property
    def next_scale(self) -> Tensor:
        """The following place."""
        return self._on_path(self.rows.plan.next_scales)

    @property
    def cotangent(self) -> Tensor:
        """What Captum's choice of target makes of the output."""
        return self.rows.cotangent[self.sample]

    def x(self, i: int) -> Tensor:
        """The input."""
        return self.rows.inputs[i][self.rows.example[self.sample]]

    def noise(self, i: int) -> Tensor:
        """What the sample adds to it."""
        return self.rows.plan.points[i][self.sample] - self.x(i)

    def baseline(self, i: int) -> Tensor | None:
        """Where its path starts."""
        return None if self.rows.plan.baselines is None else self.rows.baseline(i)[self.sample]

    def partner(self, i: int) -> Tensor:
        """The input of the sample's other example."""
        return self.rows.inputs[i][self.rows.partner(i)[self.sample]]

    def argument(self, i: int) -> Tensor:
        """What is made of the further arguments."""
        return self.rows.arguments[i][self.sample]

    def _on_path(self, scales: Tensor | None) -> Tensor:
        like = self.rows.inputs[0]
        if scales is None:
            return like.new_ones(len(self.sample))
        return (scales.to(like)[self.step]
                if scales.ndim == 1 else scales.to(like)[self.sample, self.step])
