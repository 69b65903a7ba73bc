"""The larger of two values, and choices between two: planes that know how the two are related.

Beside the values u and v these operators get their difference t = u - v, whose bounds say more than
those of u and v; and what comes back to one of the two is what came in less what goes to the other.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..relaxations import functions, piecewise
from ..relaxations.piecewise import Line
from ..relaxations.ranges import product_range
from ..relaxations.univariate import range_of
from .activation import BoundActivationGradient, Curve, reaching
from .bound import BoundOperator, both_sides, value_of, weighted_sum
from .expansion import Expansion
from .planes import BoundPlanes, Mixture, Plane, to_shape
from .registry import Operator, register


def window_range(z: Box, settings: dict[str, Any]) -> Box:
    """Range of 1 where z lies between two numbers, 0 elsewhere."""
    return range_of(functions.window(**settings).function, *z)


class BoundLarger(BoundPlanes):
    """y = max(u, v) = v + relu(t), as a function of u, v and t."""

    takes_parameters = True

    def relaxed_inputs(self) -> list[int]:
        return [0, 1, 2]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        lower, upper = boxes[index]
        is_open = (lower < 0) & (upper > 0)
        return is_open if index == 2 else torch.zeros_like(is_open)

    def bound_interval(self, *boxes: Box) -> Box:
        u, v, t = boxes
        rise = t.map(torch.relu)
        return Box(torch.maximum(torch.maximum(u.lower, v.lower), v.lower + rise.lower),
                   torch.minimum(torch.maximum(u.upper, v.upper), v.upper + rise.upper)).ordered()

    def planes(self, *boxes: Box) -> tuple[Plane, Plane]:
        below, above = piecewise.kink_lines(*boxes[2], 0.0)
        return self._plane(boxes[2], below), self._plane(boxes[2], above)

    def plane_family(self, *boxes: Box) -> tuple[Plane, Plane]:
        below, above = piecewise.kink_family(*boxes[2], 0.0)
        return self._plane(boxes[2], below), self._plane(boxes[2], above)

    def _plane(self, t: Box, line: Line) -> Plane:
        """V + slope * t + offset; u itself, or v, where t has a sign."""
        slope, offset = line
        first = (t.lower >= 0).to(slope).expand_as(slope)
        undecided = ((t.lower < 0) & (t.upper > 0)).to(slope)
        return first, 1 - first, slope * undecided, offset * undecided


class BoundChoice(BoundPlanes):
    """y = a where low <= z <= high, else b: a function of a, b, t = a - b and z."""

    decided_by = 3
    takes_parameters = True

    def relaxed_inputs(self) -> list[int]:
        return [0, 1, 2, 3]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        if index < 2:
            return torch.zeros_like(boxes[index].lower, dtype=torch.bool)
        share = window_range(boxes[3], self.settings)
        undecided, box = share.lower < share.upper, boxes[index]
        return reaching(undecided, box.lower) & (box.upper > box.lower)

    def bound_interval(self, *boxes: Box) -> Box:
        a, b, t, z = boxes
        share = window_range(z, self.settings)
        both = Box(torch.maximum(torch.minimum(a.lower, b.lower), b.lower + t.lower.clamp(max=0)),
                   torch.minimum(torch.maximum(a.upper, b.upper),
                                 b.upper + t.upper.clamp(min=0))).ordered()
        return Box(
            *(torch.where(share.lower > 0, first, torch.where(share.upper < 1, second, either))
              for first, second, either in zip(a, b, both, strict=True)))

    def planes(self, *boxes: Box) -> tuple[Plane, Plane]:
        """Between b + min(0, t) and b + max(0, t) where either may be chosen."""
        t, share = boxes[2], window_range(boxes[3], self.settings)
        first, undecided = share.lower > 0, share.lower < share.upper
        rise, fall = (piecewise.kink_lines(*side, 0.0)[1] for side in (t, t.negated()))

        def plane(slope: Tensor, offset: Tensor) -> Plane:
            k, c, a, free = torch.broadcast_tensors(slope, offset, first.to(slope),
                                                    undecided.to(slope))
            return a, 1 - a, k * free, torch.zeros_like(k), c * free

        return plane(fall[0], -fall[1]), plane(*rise)

    def start_mixture(self, functions: int) -> Mixture | None:
        """There is nothing to choose."""
        return None


class BoundRest(BoundOperator):
    """y = g - p: p is the share of g that goes elsewhere, y its share where low <= z <= high.

    Linear bounds know that both shares add up to g; the interval is that of g times its own share.
    """

    def bound_interval(self, *boxes: Box) -> Box:
        return product_range(boxes[0], window_range(boxes[2], self.settings))

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        def pull(A: Tensor) -> tuple[list[Tensor | None], Tensor | float]:
            coefficients: list[Tensor | None] = [None] * 3
            bias: Tensor | float = 0.0
            for i, part in enumerate((A, -A)):
                if nodes[i].perturbed:
                    coefficients[i] = to_shape(part, nodes[i])
                else:
                    bias = bias + weighted_sum(part, value_of(nodes[i]))
            return coefficients, bias

        return both_sides(last_lower, last_upper, pull, pull)

    def expanded_inputs(self) -> list[int]:
        return [0, 1]

    def expansion(self, *at: Any) -> Expansion:
        def linear(*changes: Tensor | None) -> Tensor:
            signed = zip((1.0, -1.0), changes[:2], strict=True)
            parts = [sign * change for sign, change in signed if change is not None]
            return functools.reduce(torch.add, parts)

        def magnitude(*sizes: Tensor | None) -> Tensor:
            return functools.reduce(torch.add, [size for size in sizes[:2] if size is not None])

        return Expansion(linear(*at), linear, magnitude)


def _step(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of the derivative of relu, whatever it is taken to be at 0."""
    return lambda lo, hi, tie: function(lo, hi, 0.0)


STEP = Curve(_step(piecewise.step_range), _step(piecewise.step_lines), _step(piecewise.step_open),
             _step(piecewise.step_family), is_stepwise=True)


def _choose(a: Tensor, b: Tensor, t: Tensor, z: Tensor, low: float | None, high: float | None,
            closed: bool, inside: bool) -> Tensor:
    return torch.where(functions.window(low, high, closed, inside).function.value(z) > 0, a, b)


def _larger_gradient(g: Tensor, t: Tensor, tie: float) -> Tensor:
    return torch.where(t > 0, g, torch.where(t < 0, 0.0, tie * g))


def _rest(g: Tensor, p: Tensor, z: Tensor, low: float | None, high: float | None, closed: bool,
          inside: bool) -> Tensor:
    return g - p


ROWS = [
    Operator("larger", lambda u, v, t: torch.maximum(u, v), BoundLarger, "torch.maximum, minimum, "
             "max of two entries"),
    Operator("larger_gradient", _larger_gradient, BoundActivationGradient, "gradient of "
             "torch.maximum to the first", STEP, breaks=lambda tie: (0.0,)),
    Operator("choose", _choose, BoundChoice, "torch.where of two values"),
    Operator("rest", _rest, BoundRest, "gradient of torch.maximum and torch.where to the second"),
]
for row in ROWS:
    register(row)
