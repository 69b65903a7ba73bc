"""Functions of one variable, and the product of an upstream gradient with their derivative.

The forward operator is y = phi(z); the gradient operator is p = g * phi'(z), with g the upstream
gradient.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..relaxations import product
from ..relaxations.piecewise import Line
from ..relaxations.product import Lines
from ..relaxations.ranges import product_range
from . import forward_mode
from .bound import both_sides, box_of, moving_box, value_of
from .expansion import Expansion, reach
from .planes import BoundPlanes, Mixture, Plane, to_shape
from .weights import changes_sign, product_sides


@dataclass(frozen=True)
class Curve:
    """Bounds of a function of one variable on [lo, hi], each field f(lo, hi, **settings).

    Args:
        range: (lowest value, highest value).
        lines: (line below, line above).
        open: where a smaller interval would give tighter lines or a smaller range.
        family: several lines below and several above, each tensor (K, *S), the first those of
            `lines`.
        is_stepwise: whether it is constant but for jumps, so that it has no first-order terms.
    """

    range: Callable[..., Box]
    lines: Callable[..., tuple[Line, Line]]
    open: Callable[..., Tensor]
    family: Callable[..., tuple[Line, Line]]
    is_stepwise: bool = False


class BoundActivation(BoundPlanes):
    """y = phi(z); traits: the `Curve` of phi."""

    def relaxed_inputs(self) -> list[int]:
        return [0]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        return self.operator.traits.open(*boxes[0], **self.settings)

    def ignored_entries(self, index: int, box: Box) -> Tensor:
        return Box(*self.operator.traits.range(*box, **self.settings)).width == 0

    def bound_interval(self, *boxes: Box) -> Box:
        return self.operator.traits.range(*boxes[0], **self.settings)

    def planes(self, *boxes: Box) -> tuple[Plane, Plane]:
        return self.operator.traits.lines(*boxes[0], **self.settings)

    def plane_family(self, *boxes: Box) -> tuple[Plane, Plane]:
        return self.operator.traits.family(*boxes[0], **self.settings)


class BoundProduct(BoundPlanes):
    """p = g * d(t), with planes from the bounds of g and the lines around d."""

    def factor(self, t: Box) -> tuple[Box, Lines]:
        """Range of d on t, and lines below and above it."""
        raise NotImplementedError

    def factor_family(self, t: Box) -> Lines:
        """Several lines below and several above d, each tensor (K, *S)."""
        raise NotImplementedError

    def relaxed_inputs(self) -> list[int]:
        return [0, 1]

    def dependence(self, *sizes: Tensor | None) -> Tensor:
        g, t, *rest = sizes
        return super().dependence(g, None if t is None else t * self.live(0), *rest)

    def planes(self, *boxes: Box) -> tuple[Plane, Plane]:
        g, t = boxes
        d, lines = self.factor(t)
        return product.planes(g, d, t, lines)

    def plane_family(self, *boxes: Box) -> tuple[Plane, Plane]:
        g, t = boxes
        d, lines = self.factor(t)
        return product.plane_family(g, d, t, lines, self.factor_family(t))


class BoundActivationGradient(BoundProduct):
    """p = g * phi'(z); traits: the `Curve` of phi'."""

    def factor(self, t: Box) -> tuple[Box, Lines]:
        curve = self.operator.traits
        return Box(*curve.range(*t, **self.settings)), curve.lines(*t, **self.settings)

    def factor_family(self, t: Box) -> Lines:
        return self.operator.traits.family(*t, **self.settings)

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        is_open = self.operator.traits.open(*boxes[1], **self.settings)
        if index == 1:
            return is_open
        return reaching(is_open, boxes[0][0]) & (boxes[0][1] > boxes[0][0])

    def expanded_inputs(self) -> list[int]:
        return [0] if self.operator.traits.is_stepwise else [0, 1]

    def ignored_entries(self, index: int, box: Box) -> Tensor:
        if index == 0:
            return super().ignored_entries(index, box)
        return Box(*self.operator.traits.range(*box, **self.settings)).width == 0

    def bound_interval(self, *boxes: Box) -> Box:
        g, z = boxes[0], boxes[1]
        return product_range(g, self.operator.traits.range(*z, **self.settings))


def reaching(mask: Tensor, factor: Tensor) -> Tensor:
    """Entries of a (broadcast) factor that take part in any marked entry of the product."""
    mask = torch.broadcast_tensors(mask, factor)[0]
    for dim, size in enumerate(factor.shape):
        mask = mask.any(dim, keepdim=True) if size == 1 else mask
    return mask


class BoundMultiply(BoundProduct):
    """p = x * y, entry by entry; either or both perturbed, or one a moving parameter."""

    takes_parameters = True

    def factor(self, t: Box) -> tuple[Box, Lines]:
        identity = torch.ones_like(t[0]), torch.zeros_like(t[0])
        return t, (identity, identity)

    def factor_family(self, t: Box) -> Lines:
        identity = torch.ones_like(t[0])[None], torch.zeros_like(t[0])[None]
        return identity, identity

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        other = self.inputs[1 - index]
        if moving_box(other) is not None:
            return changes_sign(*boxes[index])
        return torch.full_like(boxes[index][0], other.perturbed, dtype=torch.bool)

    def bound_interval(self, *boxes: Box) -> Box:
        return product_range(boxes[0], boxes[1])

    def dependence(self, *sizes: Tensor | None) -> Tensor:
        x, y = sizes
        return super().dependence(None if x is None else x * self.live(1), y)

    @property
    def takes_local(self) -> bool:  # type: ignore[override]
        return super().takes_local and all(moving_box(node) is None for node in self.inputs)

    def carried(self, linears: Sequence[Any]) -> Any:
        if all(node.perturbed for node in self.inputs):
            return super().carried(linears)
        return forward_mode.by_relaxation(self, linears)

    def expansion(self, *at: Tensor) -> Expansion:
        x, y = at

        def linear(dx: Tensor | None, dy: Tensor | None) -> Tensor:
            parts = [change * other for change, other in ((dx, y), (dy, x)) if change is not None]
            return functools.reduce(torch.add, parts)

        def magnitude(dx: Tensor | None, dy: Tensor | None) -> Tensor:
            parts = [size * other.abs() for size, other in ((dx, y), (dy, x)) if size is not None]
            return functools.reduce(torch.add, parts)

        if not all(node.perturbed for node in self.inputs):
            return Expansion(x * y, linear, magnitude)
        r, s = (reach(box_of(node), value) for node, value in zip(self.inputs, at, strict=True))
        return Expansion(x * y, linear, magnitude, r * s)

    def start_mixture(self, functions: int) -> Mixture | None:
        if not all(node.perturbed for node in self.inputs):
            return None
        return super().start_mixture(functions)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        if all(node.perturbed for node in nodes):
            return super().bound_linear(last_lower, last_upper, *nodes)
        parameter = next((node for node in nodes if moving_box(node) is not None), None)
        if parameter is not None:
            at = 1 if parameter is nodes[0] else 0
            center, radius = box_of(parameter).around
            return product_sides(last_lower, last_upper, nodes, at,
                                 lambda A: to_shape(A * center, nodes[at]),
                                 lambda A: to_shape(A * radius, nodes[at]))
        moving = 0 if nodes[0].perturbed else 1
        weight = value_of(nodes[1 - moving])

        def linear(A: Tensor) -> tuple[list[Tensor | None], float]:
            coefficients: list[Tensor | None] = [None, None]
            coefficients[moving] = to_shape(A * weight, nodes[moving])
            return coefficients, 0.0

        return both_sides(last_lower, last_upper, linear, linear)
