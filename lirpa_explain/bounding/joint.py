"""Linear bounds of outputs that share an input, joined before they become numbers.

A combination of outputs at masked copies of x has, for each output, linear bounds a_j x + c_j in
the same x. Their weighted sum is a linear bound of the combination, in which what the outputs have
in common cancels; the sum of their ranges would let each output have its own x. For planes that are
not chosen for each function it is the bound that linear propagation gives of all copies as one
network. Where a copy also reads another example, its partner, what all outputs have of one partner
is joined likewise; partners are apart from each other, each in its own ball.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..operators.bound import flat_rows
from ..relaxations.ranges import linear_range
from .ball import Ball

LARGEST = 2 ** 22
"""Coefficients of combinations that are made at a time, about."""


@dataclass(frozen=True)
class Forms:
    """Linear bounds of one number of each of B rows: below x + lower, above x + upper, over all
    inputs side by side.

    Args:
        below: coefficients, (B, D).
        above: likewise.
        lower: (B,).
        upper: (B,).
    """

    below: Tensor
    above: Tensor
    lower: Tensor
    upper: Tensor

    def beside(self, other: Forms) -> Forms:
        """The rows of this, then those of the other."""
        return Forms(*(torch.cat([getattr(self, name), getattr(other, name)]) for name in FIELDS))

    def rows(self, chosen: slice) -> Forms:
        """Some of the rows."""
        return Forms(*(getattr(self, name)[chosen] for name in FIELDS))


FIELDS = ("below", "above", "lower", "upper")


class Joint:
    """Bounds of combinations, example by example, from the linear bounds of rows as they come.

    Args:
        weights: of the J outputs of each example, (N, K, J) or (1, K, J).
        inputs: the examples, each (N, *S).
        balls: the ball of each input, None if it is fixed.
        examples: (B,), which examples the rows and weights are of; default: all N, in order.
        partners: for each input, (N * J,), the example that each output reads it of beside its own;
            rows have coefficients of these inputs after those of their own.
    """

    def __init__(self, weights: Tensor, inputs: tuple[Tensor, ...], balls: tuple[Ball | None, ...],
                 examples: Tensor | None = None,
                 partners: tuple[Tensor, ...] | None = None) -> None:
        self.weights, self.inputs, self.balls = weights, inputs, balls
        self.partners = None if partners is None else [p.reshape(len(inputs[0]), -1)
                                                       for p in partners]
        self.examples = None if examples is None else examples.tolist()
        self._waiting: Forms | None = None
        self._done: list[Box] = []
        self._count = 0

    def add(self, forms: Forms) -> None:
        """Take the next rows; examples of which all rows are there are bounded, and their rows
        forgotten.
        """
        samples = self.weights.shape[2]
        waiting = forms if self._waiting is None else self._waiting.beside(forms)
        complete = len(waiting.lower) // samples
        for i in range(complete):
            self._done.append(self._bound(waiting.rows(slice(i * samples, (i + 1) * samples)),
                                          self._count))
            self._count += 1
        self._waiting = waiting.rows(slice(complete * samples, None))

    @property
    def box(self) -> Box:
        """Bounds of all combinations, (N, K) each."""
        return Box(*(torch.stack(side) for side in zip(*self._done, strict=True)))

    def _bound(self, forms: Forms, place: int) -> Box:
        weights = self.weights[place if len(self.weights) > 1 else 0]
        example = place if self.examples is None else self.examples[place]
        step = max(1, LARGEST // max(1, forms.below.shape[1]))
        parts = [self._functions(part, forms, example) for part in weights.split(step)]
        return Box(*(torch.cat(side) for side in zip(*parts, strict=True)))

    def _functions(self, weights: Tensor, forms: Forms, example: int) -> Box:
        """Bounds of functions (K, J) of the outputs of an example, (K,) each."""
        more, less = weights.clamp(min=0), weights.clamp(max=0)
        ends = Box(more @ forms.lower + less @ forms.upper, more @ forms.upper + less @ forms.lower)
        sizes = [math.prod(x.shape[1:]) for x in self.inputs] * (1 if self.partners is None else 2)
        blocks = list(zip(forms.below.split(sizes, 1), forms.above.split(sizes, 1), strict=True))
        for i, (x, ball) in enumerate(zip(self.inputs, self.balls, strict=True)):
            for other, places in self._reads(i, example).items():
                low, high = (torch.zeros_like(x[:1]).reshape(1, -1),
                             torch.zeros_like(x[:1]).reshape(1, -1))
                for block, rows in places:
                    below, above = (side[rows] for side in blocks[block])
                    low = low + more[:, rows] @ below + less[:, rows] @ above
                    high = high + more[:, rows] @ above + less[:, rows] @ below
                least, greatest = (self._range(x, ball, part, other) for part in (low, high))
                ends = Box(ends.lower + least.lower, ends.upper + greatest.upper)
        return ends.or_nothing()

    def _reads(self, i: int, example: int) -> dict[int, list[tuple[int, Any]]]:
        """Whose input i the outputs of an example read: for each of these blocks of coefficients,
        and their rows.
        """
        places: dict[int, list[tuple[int, Any]]] = {example: [(i, slice(None))]}
        if self.partners is not None:
            partner = self.partners[i][example]
            for other in partner.unique().tolist():
                places.setdefault(other, []).append((len(self.inputs) + i, partner == other))
        return places

    @staticmethod
    def _range(x: Tensor, ball: Ball | None, functions: Tensor, example: int) -> Box:
        """Range of linear functions (K, D) over an example's ball."""
        center = flat_rows(x[example: example + 1])
        if ball is None:
            return Box.point(functions @ center[0])
        if ball.radius is None:
            box = Box(flat_rows(ball.low[example: example + 1]),
                      flat_rows(ball.high[example: example + 1]))
            return linear_range(functions[None], box).map(lambda side: side[0])
        dual = math.inf if ball.norm == 1 else 2
        reach = ball.radius[example] * functions.norm(dual, dim=1)
        middle = functions @ center[0]
        return Box(middle - reach, middle + reach)
