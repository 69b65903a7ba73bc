"""The sum that a plan describes, once, for whatever is summed: values, boxes, intervals, or how far
roundings carry.

    A = reduce over samples j of  outer( m_j * sum_k w_jk P_jk )

An algebra says what the operations of that formula are for its elements, which stand for (V, D)
numbers: V samples, J of them side by side for each of N examples. `fold` is the formula. Rows are
added up a chunk at a time where memory asks for it (`zero`, `scaled`, `add`), else all at once
(`fold_rows`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from .. import rounding
from ..attributions import Plan
from ..attributions.combination import Combination
from ..boxes import Box
from ..relaxations.ranges import linear_range, product_range, variance_range
from ..rounding import LAST, OWN, unit
from .interval import Interval
from .rows import Multiplier, PlanRows

T = TypeVar("T")
F = TypeVar("F")


class Algebra(Generic[T, F]):
    """What the sum's operations are for elements T, and multipliers F."""

    def scaled(self, x: T, weight: Tensor) -> T:
        """Rows times weights, (B, 1)."""
        raise NotImplementedError

    def grouped(self, x: T, steps: int) -> T:
        """Sums of so many rows each, one after the other."""
        raise NotImplementedError

    def times(self, x: T, factor: F) -> T:
        """Sums of samples times their multipliers."""
        raise NotImplementedError

    def complete(self, x: T) -> T:
        """What is kept of a sample once its sum, with the multiplier, is complete."""
        return x

    def absolute(self, x: T) -> T:
        """The outer map |.|."""
        raise NotImplementedError

    def square(self, x: T) -> T:
        """The outer map of the mean of squares."""
        raise NotImplementedError

    def mean(self, x: T, samples: int) -> T:
        """Over so many samples each."""
        raise NotImplementedError

    def variance(self, x: T, samples: int) -> T:
        """Over so many samples each, with divisor J."""
        raise NotImplementedError

    def combined(self, x: T, of: Combination, samples: int) -> T:
        """What is made of so many samples each, one number every one."""
        raise NotImplementedError


def outer(plan: Plan, x: T, algebra: Algebra[T, F]) -> T:
    """The plan's map of each sample's sum."""
    if plan.outer is None:
        return x
    return algebra.square(x) if plan.outer == "square" else algebra.absolute(x)


def fold(plan: Plan, sums: T, algebra: Algebra[T, F], factor: Callable[[], F]) -> T:
    """The attribution, N rows, from the sums over the paths of its samples, V rows.

    Args:
        plan: the attribution.
        sums: sum_k w_jk P_jk of all samples.
        algebra: of what they are.
        factor: computes the multipliers m_j; called if the plan multiplies.
    """
    if plan.combination is not None:
        return algebra.combined(sums, plan.combination, plan.samples)
    sums = algebra.complete(algebra.times(sums, factor()) if plan.multiply else sums)
    sums = outer(plan, sums, algebra)
    return (algebra.variance(sums, plan.samples)
            if plan.reduction == "variance" else algebra.mean(sums, plan.samples))


def fold_rows(rows: PlanRows, terms: T, algebra: Algebra[T, F], factor: Callable[[], F]) -> T:
    """The same from what each of all rows gives, in order."""
    plan = rows.plan
    if plan.weights is not None or plan.steps > 1:
        terms = algebra.scaled(terms, rows.weights.repeat(len(rows.example))[:, None])
        terms = algebra.grouped(terms, plan.steps)
    return fold(plan, terms, algebra, factor)


def by_example(x: Tensor, samples: int) -> Tensor:
    """(V, D) -> (N, J, D)."""
    return x.reshape(-1, samples, x.shape[1])


class Values(Algebra[Tensor, Tensor]):
    """Numbers."""

    def zero(self, like: Tensor, *shape: int) -> Tensor:
        """Where rows are added to, a chunk at a time."""
        return like.new_zeros(shape)

    def add(self, total: Tensor, index: Tensor, x: Tensor) -> None:
        """Add rows to those of a total that an index (B,) names, in place."""
        total.index_add_(0, index, x)

    def scaled(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * weight

    def grouped(self, x: Tensor, steps: int) -> Tensor:
        return by_example(x, steps).sum(1)

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        return x * factor

    def absolute(self, x: Tensor) -> Tensor:
        return x.abs()

    def square(self, x: Tensor) -> Tensor:
        return x.square()

    def mean(self, x: Tensor, samples: int) -> Tensor:
        return by_example(x, samples).mean(1)

    def variance(self, x: Tensor, samples: int) -> Tensor:
        x = by_example(x, samples)
        return x.square().mean(1) - x.mean(1).square()

    def combined(self, x: Tensor, of: Combination, samples: int) -> Tensor:
        return of.entries(of.of(x.reshape(-1, samples)))


class Boxes(Algebra[Box, Box]):
    """Boxes that numbers lie in; infinite where infinity times 0 leaves nothing known."""

    def zero(self, like: Tensor, *shape: int) -> Box:
        """As of values."""
        return Box(VALUES.zero(like, *shape), VALUES.zero(like, *shape))

    def add(self, total: Box, index: Tensor, x: Box) -> None:
        """As of values."""
        for end, part in zip(total, x, strict=True):
            VALUES.add(end, index, part)

    def scaled(self, x: Box, weight: Tensor) -> Box:
        return x.scaled(weight)

    def grouped(self, x: Box, steps: int) -> Box:
        return x.map(lambda side: by_example(side, steps).sum(1))

    def times(self, x: Box, factor: Box) -> Box:
        return product_range(x, factor).or_nothing()

    def absolute(self, x: Box) -> Box:
        return x.absolute()

    def square(self, x: Box) -> Box:
        return x.square()

    def mean(self, x: Box, samples: int) -> Box:
        return x.map(lambda side: by_example(side, samples).mean(1)).or_nothing()

    def variance(self, x: Box, samples: int) -> Box:
        return variance_range(x.map(lambda side: by_example(side, samples))).or_nothing()

    def combined(self, x: Box, of: Combination, samples: int) -> Box:
        outputs = x.map(lambda side: side.reshape(-1, samples))
        weights = of.weights.expand(len(outputs.lower), -1, -1)
        return linear_range(weights, outputs).or_nothing().map(of.entries)


class Intervals(Algebra[Interval, Box]):
    """Boxes in training, with centre and radius for as long as these are enough."""

    def scaled(self, x: Interval, weight: Tensor) -> Interval:
        return x * weight

    def grouped(self, x: Interval, steps: int) -> Interval:
        return x.grouped_sum(steps)

    def times(self, x: Interval, factor: Box) -> Interval:
        return Interval(product_range(x.ends, factor))

    def absolute(self, x: Interval) -> Interval:
        return Interval(x.ends.absolute())

    def square(self, x: Interval) -> Interval:
        return Interval(x.ends.square())

    def mean(self, x: Interval, samples: int) -> Interval:
        return (x if samples == 1
                else Interval(x.ends.map(lambda side: by_example(side, samples).mean(1))))

    def variance(self, x: Interval, samples: int) -> Interval:
        return Interval(variance_range(x.ends.map(lambda side: by_example(side, samples))))

    def combined(self, x: Interval, of: Combination, samples: int) -> Interval:
        return Interval(BOXES.combined(x.ends, of, samples))


class Sized(NamedTuple):
    """A box of what is computed in floating point, and the sizes of the terms that it will be
    averaged from.
    """

    box: Box
    size: Tensor
    rounds: bool = False
    """Whether computing such a term rounds, even if it is alone."""


class OutwardBoxes(Algebra[Sized, Box]):
    """Boxes that are moved outward by what each operation may round; multipliers are moved
    already.
    """

    def times(self, x: Sized, factor: Box) -> Sized:
        return x._replace(box=moved_out(product_range(x.box, factor).or_nothing(),
                                        x.box.size * factor.size, 1))

    def complete(self, x: Sized) -> Sized:
        return Sized(x.box, x.box.size)

    def absolute(self, x: Sized) -> Sized:
        return x._replace(box=x.box.absolute())

    def square(self, x: Sized) -> Sized:
        return Sized(x.box.square(), 2 * x.size.square(), True)

    def mean(self, x: Sized, samples: int) -> Sized:
        return self._moved(BOXES.mean(x.box, samples), x, samples)

    def variance(self, x: Sized, samples: int) -> Sized:
        return self._moved(BOXES.variance(x.box, samples), self.square(x), samples)

    def combined(self, x: Sized, of: Combination, samples: int) -> Sized:
        size = x.size.reshape(-1, samples)
        error = combination_error(of, size, of.roundings or 0)
        return Sized(BOXES.combined(x.box, of, samples).outward(error), of.entries(of.sizes(size)))

    def _moved(self, box: Box, terms: Sized, samples: int) -> Sized:
        size = by_example(terms.size, samples).mean(1)
        return Sized(moved_out(box, size, samples) if samples > 1 or terms.rounds else box, size)


class Rounded(NamedTuple):
    """A value, and about how far roundings may have moved it."""

    value: Tensor
    error: Tensor


class Errors(Algebra[Rounded, Multiplier]):
    """How far roundings carry, with those of each operation itself."""

    def zero(self, like: Tensor, *shape: int) -> Rounded:
        """As of values."""
        return Rounded(VALUES.zero(like, *shape), VALUES.zero(like, *shape))

    def add(self, total: Rounded, index: Tensor, x: Rounded) -> None:
        """As of values."""
        for part, more in zip(total, x, strict=True):
            VALUES.add(part, index, more)

    def scaled(self, x: Rounded, weight: Tensor) -> Rounded:
        few = LAST * unit(x.value.dtype)
        return Rounded(x.value * weight, (x.error + few * x.value.abs()) * weight.abs())

    def times(self, x: Rounded, factor: Multiplier) -> Rounded:
        few = LAST * unit(x.value.dtype)
        return Rounded(x.value * factor.value,
                       x.error * factor.growth + x.value.abs() * few * factor.terms)

    def complete(self, x: Rounded) -> Rounded:
        return Rounded(x.value, x.error + LAST * unit(x.value.dtype) * x.value.abs())

    def absolute(self, x: Rounded) -> Rounded:
        return Rounded(x.value.abs(), x.error)

    def square(self, x: Rounded) -> Rounded:
        return Rounded(x.value.square(), x.error * (2 * x.value.abs() + x.error))

    def mean(self, x: Rounded, samples: int) -> Rounded:
        return Rounded(VALUES.mean(x.value, samples), VALUES.mean(x.error, samples))

    def variance(self, x: Rounded, samples: int) -> Rounded:
        sizes = 2 * VALUES.mean(x.value.abs(), samples) * VALUES.mean(x.error, samples)
        return Rounded(VALUES.variance(x.value, samples),
                       VALUES.mean(self.square(x).error, samples) + sizes)

    def combined(self, x: Rounded, of: Combination, samples: int) -> Rounded:
        value, error = (part.reshape(-1, samples) for part in x)
        own = combination_error(of, value, math.sqrt(of.roundings or 0))
        return Rounded(of.entries(of.of(value)), of.entries(of.sizes(error)) + own)


def combination_error(of: Combination, outputs: Tensor, count: float) -> Tensor:
    """By how much Captum's way from outputs (N, J) to an attribution (N, D) rounds, as `count`
    roundings add up.
    """
    error = unit(of.dtype) * (LAST + count) * of.sizes(outputs)
    if of.error is not None:
        error = error + of.error * outputs.abs().amax(1, keepdim=True)
    return of.entries(error)


VALUES, BOXES, INTERVALS, OUTWARD, ERRORS = Values(), Boxes(), Intervals(), OutwardBoxes(), Errors()
"""The algebras there are; they keep nothing."""


def moved_out(box: Box, size: Tensor, count: int) -> Box:
    """Bounds moved outward by what a sum of so many terms, of these sizes together, may round."""
    return box.outward(rounding.rounded(size.detach(), OWN + count))
