"""Operators bounded entry by entry between two planes, and the mixtures of planes that optimised
bounds choose from.

A plane is a tuple (a_1, ..., a_n, c): the output's entry lies above, or below, sum_i a_i x_i + c.
Any convex mixture of planes on one side is one, so a relaxation offers a family of them: its own
choice first, which plain CROWN takes, and others beside it. Optimised bounds choose the weights of
the mixture for each function that is bounded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from . import forward_mode
from .alphas import Alphas
from .bound import (
    BoundOperator,
    Signed,
    both_sides,
    box_of,
    flat_functions,
    flat_rows,
    moving_box,
    signed,
    value_of,
    weighted_sum,
)
from .expansion import Expansion
from .local import Local

Plane = tuple[Tensor, ...]


@dataclass
class Mixture:
    """Weights of the planes of one node for the functions that are being bounded.

    Args:
        columns: (M,), the entries of the flattened node at which the nonlinear factor is open in
            any row.
        below: the family of planes below at these entries, each tensor (K, B, M).
        above: that above.
        weights: (2, K, S, B, M), at least 0: of the lower and of the upper bounds of S functions.
    """

    columns: Tensor
    below: Plane
    above: Plane
    weights: Tensor

    def share(self, side: int) -> Tensor:
        """The weights of one side, made to sum to 1: (K, S, B, M)."""
        weights = self.weights[side]
        return weights / weights.sum(0, keepdim=True)


class BoundPlanes(BoundOperator, Alphas):
    """An operator whose entries lie between planes in the same entries of its inputs, which may be
    broadcast.
    """

    def __init__(self, attr: Any = None, inputs: Any = None, output_index: int = 0,
                 options: Any = None) -> None:
        super().__init__(attr, inputs, output_index, options)
        self.mark_splittable()
        self.mixture: Mixture | None = None
        self.watch: Callable[[BoundPlanes, Tensor], None] | None = None
        self._known: dict[str, tuple[list[Any], tuple[Plane, Plane]]] = {}

    @property
    def takes_local(self) -> bool:  # type: ignore[override]
        return self.mixture is None

    def planes(self, *boxes: Box) -> tuple[Plane, Plane]:
        """The planes below and above that plain CROWN takes; each tensor (B, *output)."""
        raise NotImplementedError

    def plane_family(self, *boxes: Box) -> tuple[Plane, Plane]:
        """Several planes below and above, the first those of `planes`; each tensor (K, B,
        *output).
        """
        raise NotImplementedError

    def start_mixture(self, functions: int) -> Mixture | None:
        """A mixture that is the first plane for each of so many functions; None if there is nothing
        to choose.
        """
        boxes = [box_of(node) for node in self.inputs]
        is_open = self.open_entries(self.relaxed_inputs()[-1], *boxes)
        is_open = torch.broadcast_tensors(is_open, *[box[0] for box in boxes])[0]
        columns = flat_rows(is_open).any(0).nonzero()[:, 0]
        if len(columns) == 0:
            return None
        families = (self._outward(family, boxes, sign) for family, sign in
                    zip(self._remembered(self.plane_family, boxes), (-1.0, 1.0), strict=True))
        below, above = (tuple(flat_functions(part)[..., columns] for part in family)
                        for family in families)
        count, rows = below[-1].shape[:2]
        weights = below[-1].new_zeros(2, count, functions, rows, len(columns))
        weights[:, 0] = 1.0
        return Mixture(columns, below, above, weights.requires_grad_())

    def _outward(self, family: Plane, boxes: list[Box], sign: float) -> Plane:
        """Planes but the first moved outward by what roundings of their inputs, times steep slopes,
        may add up to.

        The slopes of the first, which plain CROWN takes, are among those of the function itself
        between two points of the box: roundings of its inputs move it by no more than they move the
        function, for which the certificate is moved outward in the end. A line through the step of
        a kink's derivative is as steep as 1 / |lower| or 1 / upper, and a bound near 0 is a
        rounding. Outward bounds move all planes by their own roundings, and have no margins,
        because they count those of the inputs at the inputs.
        """
        if self.outward is not None:
            return self.outward.planes(self, family, boxes, sign)
        margins = [getattr(node, "rounding_margin", None) for node in self.inputs]
        errors = [a.abs() * margin
                  for a, margin in zip(family, margins, strict=False) if margin is not None]
        if not errors:
            return family
        error = sign * sum(errors)
        return *family[:-1], torch.cat([family[-1][:1], family[-1][1:] + error[1:]])

    def bound_backward(self, last_lA: Any, last_uA: Any, *x: Any, start_node: Any = None,
                       unstable_idx: Any = None, **kwargs: Any) -> Any:
        chosen = self.chosen(start_node, unstable_idx)
        if chosen is not None:
            families = self._remembered(self.plane_family, [box_of(node) for node in self.inputs])
            below, above = (tuple(flat_functions(part)[..., chosen[0]] for part in family)
                            for family in families)
            self.mixture = Mixture(chosen[0], below, above, chosen[1])
        try:
            return super().bound_backward(last_lA, last_uA, *x, **kwargs)
        finally:
            if chosen is not None:
                self.mixture = None

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        boxes = [box_of(node) for node in nodes]
        below, above = self._remembered(self.planes, boxes)
        if self.outward is not None:
            below, above = (self.outward.planes(self, plane, boxes, sign)
                            for plane, sign in ((below, -1.0), (above, 1.0)))

        def side(positive: Plane, negative: Plane, upper: bool) -> Callable[[Tensor], Any]:
            """Bound of A * y that uses plane `positive` where A > 0 and `negative` where A < 0."""

            def bound(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
                if self.watch is not None:
                    self.watch(self, A)
                coefficients, bias = self._apply(A, positive, negative, upper)
                for i, node in enumerate(nodes):
                    coefficient = coefficients[i]
                    if coefficient is not None and not node.perturbed:
                        bias = bias + _of_fixed(coefficient, node, upper)
                    coefficients[i] = (to_shape(coefficient, node)
                                       if coefficient is not None and node.perturbed else None)
                return coefficients, bias

            return bound

        return both_sides(last_lower, last_upper, side(below, above, False),
                          side(above, below, True))

    def carried(self, linears: Sequence[Any]) -> Any:
        planes = self._remembered(self.planes, [box_of(node) for node in self.inputs])
        return forward_mode.by_planes(planes, self.inputs, linears, self.output_shape[1:])

    def dependence(self, *sizes: Tensor | None) -> Tensor:
        moving = [size for size in sizes if size is not None]
        return functools.reduce(torch.add, moving).expand(-1, *self.output_shape[1:])

    def expansion(self, *at: Any) -> Expansion:
        boxes = [box_of(node) for node in self.inputs]
        slopes, offset, error = halfway(*self._remembered(self.planes, boxes), boxes,
                                        self.expanded_inputs())

        def linear(*changes: Tensor | None) -> Tensor:
            moving = zip(slopes, changes, strict=True)
            return functools.reduce(torch.add, [slope * change for slope, change in moving
                                                if change is not None])

        def magnitude(*sizes: Tensor | None) -> Tensor:
            moving = zip(slopes, sizes, strict=True)
            return functools.reduce(torch.add, [slope.abs() * size for slope, size in moving
                                                if size is not None], torch.zeros_like(offset))

        return Expansion(linear(*at) + offset, linear, magnitude, error)

    def gap(self) -> Tensor:
        """How far the planes above and below are apart in the middle of the inputs' bounds, (B,
        *output).
        """
        boxes = [box_of(node) for node in self.inputs]
        return _gap(*self._remembered(self.planes, boxes), boxes)

    def gap_within(self, boxes: list[Box]) -> Tensor:
        """The same with other bounds of the inputs."""
        return _gap(*self.planes(*boxes), boxes)

    def _remembered(self, make: Callable[..., tuple[Plane, Plane]],
                    boxes: list[Box]) -> tuple[Plane, Plane]:
        """Planes, remembered for as long as the bounds of the inputs are the same tensors."""
        key: list[Any] = [torch.is_grad_enabled(), *(tensor for box in boxes for tensor in box)]
        known = self._known.get(make.__name__)
        if known is None or any(a is not b for a, b in zip(key, known[0], strict=True)):
            known = self._known[make.__name__] = key, make(*boxes)
        return known[1]

    def forget(self) -> None:
        """Let go of remembered planes, of the mixture, and of who watches coefficients arrive."""
        self._known.clear()
        self.mixture = self.watch = None

    def _apply(self, A: Any, positive: Plane, negative: Plane,
               upper: bool) -> tuple[list[Any], Tensor]:
        """Coefficients of the inputs, before broadcasting is undone, and bias of A * y."""
        if self.mixture is not None:
            return self._apply_mixture(A, positive, negative, upper)
        by_sign = signed(A)
        return [by_sign.times(p, n) if p.any() or n.any() else None
                for p, n in zip(positive[:-1], negative[:-1], strict=True)], by_sign.sum(
                    positive[-1], negative[-1])

    def _apply_mixture(self, A: Tensor, positive: Plane, negative: Plane, upper: bool
                       ) -> tuple[list[Tensor | None], Tensor]:
        """Plain planes but for the mixture's columns, where each function has its own."""
        mixture = self.mixture
        assert mixture is not None
        columns, share = mixture.columns, mixture.share(int(upper))
        keep = torch.ones(A[0, 0].numel(), dtype=A.dtype,
                          device=A.device).index_fill(0, columns, 0.0)
        keep = keep.reshape(A.shape[2:])
        families = (mixture.above, mixture.below) if upper else (mixture.below, mixture.above)
        signed, few = Signed(A), flat_functions(A)[..., columns]
        up, down = (few + few.abs()) / 2, (few - few.abs()) / 2  # at 0, half a derivative each

        def chosen(i: int) -> Tensor:
            mixed = [(share * family[i][:, None]).sum(0) for family in families]
            return up * mixed[0] + down * mixed[1]

        bias = signed.sum(positive[-1] * keep, negative[-1] * keep) + chosen(-1).sum(2)
        coefficients: list[Tensor | None] = []
        for i in range(len(positive) - 1):
            rest = signed.times(positive[i] * keep, negative[i] * keep)
            coefficients.append(
                flat_functions(rest).index_add(2, columns, chosen(i)).reshape(A.shape))
        return coefficients, bias


def halfway(below: Plane, above: Plane, boxes: Sequence[Box], kept: Sequence[int] = (0,),
            total: Callable[[Tensor], Tensor] = lambda x: x) -> tuple[list[Tensor], Tensor, Tensor]:
    """Mean slopes of two planes, what is added halfway between them, and how far that is off.

    Args:
        below: a plane below; its slopes are of the inputs' entries.
        above: a plane above.
        boxes: of the inputs.
        kept: indices of the inputs that have slopes; those of others are 0.
        total: the sum of products of slopes and entries, where a plane has several of an input.
    """
    slopes, (least, most) = [], (below[-1], above[-1])
    for i, (low, high, box) in enumerate(zip(below[:-1], above[:-1], boxes, strict=True)):
        slope = (low + high) / 2 if i in kept else torch.zeros_like(low)
        low, high = low - slope, high - slope
        least = least + total(low * box.center - low.abs() * box.radius)
        most = most + total(high * box.center + high.abs() * box.radius)
        slopes.append(slope)
    return slopes, (least + most) / 2, (most - least) / 2


def _gap(below: Plane, above: Plane, boxes: list[Box]) -> Tensor:
    slopes = zip(above[:-1], below[:-1], boxes, strict=True)
    return sum(((a - b) * box.center for a, b, box in slopes), above[-1] - below[-1])


def _of_fixed(coefficient: Tensor, node: Any, upper: bool) -> Tensor:
    """What a value without perturbation adds to a bound, or at most adds if it is a parameter that
    moves.
    """
    moving = moving_box(node)
    if moving is None:
        return weighted_sum(coefficient, value_of(node))
    center, radius = moving.around
    reach = weighted_sum(coefficient.abs(), radius)
    return weighted_sum(coefficient, center) + (reach if upper else -reach)


def to_shape(coefficient: Any, node: Any) -> Any:
    """Sum a coefficient (S, B, *output) over the dimensions along which a node was broadcast.

    Raises:
        ValueError: the node has fewer dimensions than the output.
    """
    shape = node.output_shape[1:]
    if isinstance(coefficient, Local):
        if tuple(shape) == tuple(coefficient.shape[2:]):
            return coefficient
        coefficient = coefficient.dense()
    missing = coefficient.ndim - 2 - len(shape)
    if missing:
        raise ValueError(f"A factor of shape {tuple(node.output_shape)} lacks {missing} dimensions "
                         "of the product.")
    dims = [i + 2 for i, size in enumerate(shape) if size == 1 and coefficient.shape[i + 2] != 1]
    return coefficient.sum(dims, keepdim=True) if dims else coefficient
