"""Interval bounds of a gradient module in one walk over its steps, fast enough for every step of a training.

What `Engine` computes by method IBP, without auto_LiRPA's `BoundedModule`: each operator's own interval rule, front to
back. Affine operators keep centre and radius, so that ends are formed only where an operator reads them. Bounds are
not moved outward by roundings, as those of a certificate are where a relaxation reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from auto_LiRPA.bound_op_map import bound_op_map
from torch import Tensor

from ..graph import GradientModule
from ..graph.module import Step
from ..operators.affine import BoundAffine
from ..operators.bound import BoundOperator, Box
from ..operators.registry import DOMAIN
from ..relaxations.piecewise import step_range

HOMOGENEOUS = frozenset({"reshape", "expand", "permute", "slice", "place", "sum", "mean", "pad", "concatenate",
                         "average_pool", "average_pool_gradient"})
"""Operators without weights that add entries up and move them, with no constant: radii go the way of centres."""


class Interval:
    """A box as its ends, or as centre and radius; the other form is computed when it is asked for.

    Args:
        ends: (lower, upper), (B, *S) each.
        around: (centre, radius); the radius (B, *S), or (1, *S) if it is the same for all rows.

    Example:
        >>> interval = Interval(around=(torch.tensor([1.0, 2.0]), torch.tensor([0.5])))
        >>> interval.lower, interval.upper
        (tensor([0.5000, 1.5000]), tensor([1.5000, 2.5000]))
    """

    __slots__ = ("_ends", "_around")

    def __init__(self, ends: Box | None = None, around: Box | None = None) -> None:
        self._ends, self._around = ends, around

    @classmethod
    def point(cls, value: Tensor) -> Interval:
        """A value that does not move."""
        return cls((value, value))

    @property
    def is_point(self) -> bool:
        """Whether it is known to be one value."""
        return self._ends is not None and self._ends[0] is self._ends[1]

    @property
    def is_around(self) -> bool:
        """Whether its centre and radius are known."""
        return self._around is not None

    @property
    def ends(self) -> Box:
        """Lower and upper end."""
        if self._ends is None:
            center, radius = self.around
            self._ends = center - radius, center + radius
        return self._ends

    @property
    def around(self) -> Box:
        """Centre and radius."""
        if self._around is None:
            lower, upper = self.ends
            self._around = (lower + upper) / 2, (upper - lower) / 2
        return self._around

    @property
    def lower(self) -> Tensor:
        """The lower end."""
        return self.ends[0]

    @property
    def upper(self) -> Tensor:
        """The upper end."""
        return self.ends[1]

    @property
    def width(self) -> Tensor:
        """Upper less lower end."""
        return 2 * self._around[1].expand_as(self._around[0]) if self._around is not None else self.upper - self.lower

    def scaled(self, factors: Box) -> Interval:
        """The lower end times one factor, the upper end times another: a map that is its own transpose."""
        center, radius = self.around
        half, rest = (factors[0] + factors[1]) / 2, (factors[1] - factors[0]) / 2
        return Interval(around=(torch.addcmul(center * half, radius, rest), torch.addcmul(center * rest, radius, half)))

    def rows(self, index: Tensor) -> Interval:
        """The intervals of these rows."""
        if self._around is not None:
            center, radius = self._around
            return Interval(around=(center[index], radius if len(radius) == 1 else radius[index]))
        return Interval((self.lower[index], self.upper[index]))

    def grouped_sum(self, size: int) -> Interval:
        """The sums of so many rows each, (B / size, *S)."""
        center, radius = (side.expand(len(self.around[0]), *side.shape[1:]).unflatten(0, (-1, size)).sum(1)
                          for side in self.around)
        return Interval(around=(center, radius))

    def __add__(self, value: Tensor) -> Interval:
        """Moved by a value."""
        if self._around is not None:
            center, radius = self._around[0] + value, self._around[1]
            return Interval(around=(center, radius.expand(len(radius), *center.shape[1:])))
        return Interval((self.lower + value, self.upper + value))

    def __mul__(self, factor: Tensor) -> Interval:
        """Times a factor of any sign."""
        center, radius = self.around
        return Interval(around=(center * factor, radius * factor.abs()))


def _kink(z: Interval, slope: float) -> Interval:
    """Z times 1 where z >= 0, times `slope` elsewhere."""
    with torch.no_grad():
        factors = tuple(torch.where(end > 0, 1.0, slope).to(end) for end in z.ends)
    return z.scaled((factors[0], factors[1]))


def _kink_gradient(g: Interval, z: Interval, slope: float) -> Interval:
    """G times a derivative that is nowhere negative, which makes the ends' factors known."""
    with torch.no_grad():
        low, high = step_range(*z.ends, slope)
        lower, upper = g.ends
        factors = torch.where(lower > 0, low, high), torch.where(upper > 0, high, low)
    return g.scaled(factors)


STEPS: dict[str, Callable[..., Interval]] = {"kink": _kink, "kink_gradient": _kink_gradient}
"""Operators that multiply each end by a number that jumps with the ends, and has no derivative."""


class IntervalPass:
    """Interval bounds of a module's output, differentiable in its parameters.

    Args:
        module: the module; its parameters are read at every call.
    """

    def __init__(self, module: GradientModule) -> None:
        self.module = module
        self._bounds = {step.output: _operator(step) for step in module.steps}

    def __call__(self, inputs: Sequence[Tensor], perturbed: Sequence[Interval | None]) -> Interval:
        """Bound the output.

        Args:
            inputs: values of the module's inputs, each with B rows.
            perturbed: where each of the first inputs lies; None, or left out at the end: it is fixed.

        Returns:
            Of shape (B, D).
        """
        values = {name: Interval.point(x) for name, x in zip(self.module.input_names, inputs, strict=True)}
        values |= {name: box for name, box in zip(self.module.input_names, perturbed, strict=False) if box is not None}
        for tensors in (self.module.named_parameters(recurse=False), self.module.named_buffers(recurse=False)):
            values |= {name: Interval.point(tensor) for name, tensor in tensors}
        for step in self.module.steps:
            values[step.output] = _bounded(self._bounds[step.output], [values[name] for name in step.inputs])
        return values[self.module.output]


@dataclass(frozen=True)
class _Argument:
    """What an operator asks of an input of its before it is bounded."""

    perturbed: bool
    from_input: bool = True


def _operator(step: Step) -> BoundOperator:
    """The bound operator of a step, which knows its settings and not its place in a graph."""
    return bound_op_map[f"{DOMAIN}::{step.operator}"]({"settings": json.dumps(step.settings)}, [], 0, {})


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
            return Interval(around=(operator.forward(center, *weights), operator.magnitude(radius, *weights)))
        if name in HOMOGENEOUS and first.is_around:
            center, radius = first.around
            return Interval(around=(operator.forward(center), operator.forward(radius)))
    if name in STEPS and operator.settings["slope"] >= 0:
        return STEPS[name](*boxes, **operator.settings)
    operator.inputs = [_Argument(not box.is_point) for box in boxes]
    return Interval(operator.interval_propagate(*[box.ends for box in boxes]))
