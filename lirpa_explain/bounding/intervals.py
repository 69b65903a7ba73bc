"""Interval bounds of a gradient module in one walk over its steps, fast enough for every step of a training.

What `Engine` computes by method IBP, without auto_LiRPA's `BoundedModule`: each operator's own interval rule, front to
back. Affine operators keep centre and radius, so that ends are formed only where an operator reads them. Bounds are
not moved outward by roundings, as those of a certificate are where a relaxation reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from auto_LiRPA.bound_op_map import bound_op_map
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..graph import GradientModule
from ..graph.module import Step
from ..operators.affine import BoundAffine
from ..operators.bound import BoundOperator, Box, MovingParameter
from ..operators.registry import DOMAIN
from ..operators.unperturbed import BoundUnperturbed
from .parameters import Parameters

leaky_relu_backward = torch.ops.aten.leaky_relu_backward

HOMOGENEOUS = frozenset({"reshape", "expand", "permute", "slice", "place", "sum", "mean", "pad", "concatenate",
                         "average_pool", "average_pool_gradient"})
"""Operators without weights that add entries up and move them, with no constant: radii go the way of centres."""


BEYOND = {dtype: 1 + 32 * torch.finfo(dtype).eps for dtype in (torch.bfloat16, torch.float16, torch.float32,
                                                               torch.float64)}
"""How much farther than its radius an interval is taken to reach, so that roundings do not hide that it reaches 0."""


class Interval:
    """A box as its ends, or as centre and radius; the other form is computed when it is asked for.

    Args:
        ends: (lower, upper), (B, *S) each.
        around: (centre, radius); the radius (B, *S), or (1, *S) if it is the same for all rows, the centre a tensor or
            a function that computes it, called when it is asked for.

    Example:
        >>> interval = Interval(around=(torch.tensor([1.0, 2.0]), torch.tensor([0.5])))
        >>> interval.lower, interval.upper
        (tensor([0.5000, 1.5000]), tensor([1.5000, 2.5000]))
    """

    __slots__ = ("_ends", "_center", "_radius")

    def __init__(self, ends: Box | None = None, around: tuple[Tensor | Callable[[], Tensor], Tensor] | None = None
                 ) -> None:
        self._ends = ends
        self._center: Tensor | Callable[[], Tensor] | None = None if around is None else around[0]
        self._radius: Tensor | None = None if around is None else around[1]

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
        return self._radius is not None

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
        if self._radius is None or self._center is None:
            lower, upper = self.ends
            self._center, self._radius = (lower + upper) / 2, (upper - lower) / 2
        if not isinstance(self._center, Tensor):
            self._center = self._center()
        return self._center, self._radius

    @property
    def radius(self) -> Tensor:
        """Half of the width, (B, *S) or (1, *S)."""
        return self.around[1] if self._radius is None else self._radius

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
        """Upper less lower end; the centre is not computed for it where all rows have radii of their own."""
        if self._radius is None:
            return self.upper - self.lower
        return 2 * (self._radius if len(self._radius) > 1 else self._radius.expand_as(self.around[0]))

    def rows(self, index: Tensor) -> Interval:
        """The intervals of these rows."""
        if self.is_around:
            center, radius = self.around
            return Interval(around=(center[index], radius if len(radius) == 1 else radius[index]))
        return Interval((self.lower[index], self.upper[index]))

    def grouped_sum(self, size: int) -> Interval:
        """The sums of so many rows each, (B / size, *S)."""
        center, radius = (side.expand(len(self.around[0]), *side.shape[1:]).unflatten(0, (-1, size)).sum(1)
                          for side in self.around)
        return Interval(around=(center, radius))

    def __add__(self, value: Tensor) -> Interval:
        """Moved by a value."""
        if self.is_around:
            center, radius = self.around
            center = center + value
            return Interval(around=(center, radius.expand(len(radius), *center.shape[1:])))
        return Interval((self.lower + value, self.upper + value))

    def __mul__(self, factor: Tensor) -> Interval:
        """Times a factor of any sign."""
        center, radius = self.around
        return Interval(around=(center * factor, radius * factor.abs()))


class _Kink(torch.autograd.Function):
    """Centre and radius of z where z >= 0 and slope * z elsewhere, from those of z; slope >= 0."""

    @staticmethod
    def forward(ctx: Any, center: Tensor, radius: Tensor, slope: float) -> Box:
        lower, upper = (F.leaky_relu_(side, slope) for side in (center - radius, center + radius))
        middle = lower.lerp_(upper, 0.5)
        half = upper.sub_(middle)
        ctx.save_for_backward(middle, half)  # which others keep too
        ctx.slope, ctx.shape = slope, radius.shape
        return middle, half

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, None]:
        middle, half = ctx.saved_tensors
        sides = _scaled(center - radius, center + radius, middle - half, middle + half, ctx.slope)
        return sides[0], sides[1].sum_to_size(ctx.shape), None


class _KinkGradient(torch.autograd.Function):
    """Centre and radius of g d from those of g, for d anywhere between the slopes of a kink at both ends of z.

    These are 1 where an end of z is above 0, and `slope` elsewhere. The lower end is that of g times the slope at the
    lower end of z if it is positive, at the upper one if it is negative; the upper end likewise. This is a symmetric
    map of centre and radius, and so its own transpose.
    """

    @staticmethod
    def forward(ctx: Any, center: Tensor, radius: Tensor, z: Tensor, reach: Tensor, slope: float) -> Box:
        lower, upper = center - radius, center + radius
        at_lower, at_upper = lower.sign(), upper.sign()
        torch.addcmul(z, at_lower, reach, value=-BEYOND[z.dtype], out=at_lower)
        torch.addcmul(z, at_upper, reach, value=BEYOND[z.dtype], out=at_upper)
        ctx.save_for_backward(at_lower, at_upper)
        ctx.slope, ctx.shapes = slope, (center.shape, radius.shape)
        return _scaled(lower, upper, at_lower, at_upper, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        at_lower, at_upper = ctx.saved_tensors
        sides = _scaled(center - radius, center + radius, at_lower, at_upper, ctx.slope)
        return sides[0].sum_to_size(ctx.shapes[0]), sides[1].sum_to_size(ctx.shapes[1]), None, None, None


def _scaled(lower: Tensor, upper: Tensor, at_lower: Tensor, at_upper: Tensor, slope: float) -> Box:
    """Centre and radius of ends that are scaled: by 1 where another tensor is above 0, by slope elsewhere.

    In place, because on large layers half of the time of a step is spent in the operations between products, and more
    in asking for memory than in computing.
    """
    for end, at in ((lower, at_lower), (upper, at_upper)):
        leaky_relu_backward.grad_input(end, at, slope, False, grad_input=end)
    middle = lower.lerp_(upper, 0.5)
    return middle, upper.sub_(middle)


def _kink(z: Interval, slope: float) -> Interval:
    return Interval(around=_Kink.apply(*z.around, slope))


def _kink_gradient(g: Interval, z: Interval, slope: float) -> Interval:
    (center, radius), at, reach = g.around, z.around[0].detach(), z.around[1].detach()
    center = center.expand(torch.broadcast_shapes(center.shape, at.shape))
    return Interval(around=_KinkGradient.apply(center, radius, at, reach, slope))


STEPS: dict[str, Callable[..., Interval]] = {"kink": _kink, "kink_gradient": _kink_gradient}
"""Interval rules of operators with one kink, from centre and radius to these, for slopes from 0."""


class IntervalPass:
    """Interval bounds of a module's output, differentiable in its parameters.

    Args:
        module: the module; its parameters are read at every call.
    """

    def __init__(self, module: GradientModule) -> None:
        self.module = module
        self._bounds = {step.output: _operator(step) for step in module.steps}

    def __call__(self, inputs: Sequence[Tensor], perturbed: Sequence[Interval | None],
                 parameters: Parameters | None = None) -> Interval:
        """Bound the output.

        Args:
            inputs: values of the module's inputs, each with B rows.
            perturbed: where each of the first inputs lies; None, or left out at the end: it is fixed.
            parameters: those that move.

        Returns:
            Of shape (B, D).
        """
        return self._run(inputs, perturbed, self.module.steps, parameters)[self.module.output]

    def linear(self, inputs: Sequence[Tensor], perturbed: Sequence[Interval | None], functions: Tensor) -> Interval:
        """Bound linear functions of the output; a last layer is merged with them: C (W h + b) = (C W) h + C b.

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
            (hidden, weight), bias = [values[name] for name in steps[-2].inputs], values[steps[-1].inputs[1]]
            if hidden.lower.ndim == 2 and weight.is_point and bias.is_point:
                merged = functions @ weight.lower.mT  # (B, K, H)
                center, radius = (side.expand(len(merged), -1) for side in hidden.around)
                return Interval(around=(torch.einsum("bkh,bh->bk", merged, center) + functions @ bias.lower,
                                        torch.einsum("bkh,bh->bk", merged.abs(), radius)))
        center, radius = self(inputs, perturbed).around
        return Interval(around=(torch.einsum("bkd,bd->bk", functions, center),
                                torch.einsum("bkd,bd->bk", functions.abs(), radius.expand_as(center))))

    def _run(self, inputs: Sequence[Tensor], perturbed: Sequence[Interval | None], steps: Sequence[Step],
             parameters: Parameters | None = None) -> dict[str, Interval]:
        """The intervals of all values that some of the steps compute, by name."""
        values = {name: Interval.point(x) for name, x in zip(self.module.input_names, inputs, strict=True)}
        values |= {name: box for name, box in zip(self.module.input_names, perturbed, strict=False) if box is not None}
        for tensors in (self.module.named_parameters(recurse=False), self.module.named_buffers(recurse=False)):
            values |= {name: Interval.point(tensor) for name, tensor in tensors}
        moving = {} if parameters is None else parameters.within(self.module)
        for step in steps:
            operator, boxes = self._bounds[step.output], [values[name] for name in step.inputs]
            if moving.keys().isdisjoint(step.inputs):
                values[step.output] = _bounded(operator, boxes)
                continue
            operator.inputs = [_argument(box, moving.get(name)) for name, box in zip(step.inputs, boxes, strict=True)]
            if isinstance(operator, BoundUnperturbed) and (function := operator.moving()) is not None:
                moving[step.output] = function
            values[step.output] = Interval(operator.interval_propagate(*[box.ends for box in boxes]))
        return values


@dataclass(frozen=True)
class _Argument:
    """What an operator asks of an input of its before it is bounded."""

    perturbed: bool
    forward_value: Tensor | None = None
    moving_parameter: MovingParameter | None = None
    from_input: bool = True


def _argument(box: Interval, moving: MovingParameter | None = None) -> _Argument:
    if moving is not None:
        return _Argument(False, None, moving)
    return _Argument(not box.is_point, box.lower if box.is_point else None)


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
            return Interval(around=(lambda: operator.forward(center, *weights), operator.magnitude(radius, *weights)))
        if name in HOMOGENEOUS and first.is_around:
            return Interval(around=(lambda: operator.forward(first.around[0]), operator.forward(first.radius)))
    if name in STEPS and 0 <= operator.settings["slope"] <= 1:
        return STEPS[name](*boxes, **operator.settings)
    operator.inputs = [_argument(box) for box in boxes]
    return Interval(operator.interval_propagate(*[box.ends for box in boxes]))
