"""Operators that are affine in what is perturbed: arithmetic and the moving around of entries.

Their linear bounds are exact: the coefficients are pulled back by the transposed map, which torch's
own vector-Jacobian product gives. Nothing is derived by hand.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..errors import UnsupportedOperation
from . import forward_mode
from .bound import (
    BoundOperator,
    Coefficient,
    both_sides,
    box_of,
    moving_box,
    refuse_parameter,
    value_of,
    weighted_sum,
)
from .expansion import Expansion
from .local import Local
from .local_moves import local_expand, local_pad, local_place, local_slice
from .planes import to_shape
from .registry import Operator, register
from .weights import changes_sign, product_sides, shared_reach


@dataclass(frozen=True)
class Affine:
    """Traits of an affine operator.

    Args:
        magnitude: for an operator that is linear in its first input and has weights of any sign,
            the function with all weights replaced by their absolute value, `magnitude(x, *weights,
            **settings)`. None: it has no weights, and increases in every input.
        transposed: the transposed map from the output to the first input, where calling torch's own
            is slow: `transposed(A, *weights, **settings, of)` maps coefficients (S, B, *output) to
            (S, B, *of).
        bilinear: whether it is linear in its first weight too, which may then be a parameter that
            moves.
        added: `added(*sizes, **settings)`, the sum of the sizes of what is added up for an entry,
            where that is more than `magnitude` says because an input occurs twice.
        homogeneous: of an operator without weights: whether it adds entries of its inputs up and
            moves them, with no constant; then radii go the way of centres.
        local: `transposed` for local coefficients, `local(A, *weights, **settings, of)`; None: they
            are made dense.
    """

    magnitude: Callable[..., Tensor] | None = None
    transposed: Callable[..., Tensor] | None = None
    bilinear: bool = True
    added: Callable[..., Tensor] | None = None
    homogeneous: bool = False
    local: Callable[..., Coefficient] | None = None


MANY_WEIGHTS = 4
"""Weights that a layer may have, in multiples of its entries, to take their gradients."""


class BoundAffine(BoundOperator):
    """Affine map of the perturbed inputs.

    Without weights it increases in every input: the interval is (f(lower), f(upper)). With weights
    it is linear in the first input and in the second, which must have no rows: the interval is
    f(center) -+ magnitude(radius), and a parameter that moves adds f(largest |x|, radius of the
    parameter).
    """

    takes_parameters = True

    @property
    def traits(self) -> Affine:
        return self.operator.traits or Affine()

    @property
    def weight_moves(self) -> bool:
        """Whether it is a product with a parameter that moves."""
        if self.traits.magnitude is None:
            return False
        return any(moving_box(node) is not None for node in self.inputs[1:])

    @property
    def takes_local(self) -> bool:  # type: ignore[override]
        return self.traits.local is not None and not self.weight_moves

    def relaxed_inputs(self) -> list[int]:
        return [0] if self.weight_moves else []

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        if getattr(self.inputs[0], "perturbation", None) is not None:  # an input's own box is known
            return torch.zeros_like(boxes[0][0], dtype=torch.bool)
        return changes_sign(*boxes[0])

    def bound_interval(self, *boxes: Box) -> Box:
        lowers, uppers = [box[0] for box in boxes], [box[1] for box in boxes]
        if all(box.is_point for box in boxes):
            return Box.point(self.forward(*lowers))
        if self.traits.magnitude is None:
            return Box(self.forward(*lowers), self.forward(*uppers))
        self._check_weights_fixed()
        center, radius = boxes[0].around
        weights, reach = self._weights()
        value = self.forward(center, *weights)
        spread = self.traits.magnitude(radius, *weights, **self.settings)
        if reach is not None:
            spread = spread + self.forward(boxes[0].size, *reach)
        return Box(value - spread, value + spread)

    def carried(self, linears: Sequence[Any]) -> Any:
        if self.traits.magnitude is None:
            fixed = {i: value_of(node) for i, node in enumerate(self.inputs) if not node.perturbed}
            return forward_mode.by_map(self.forward, None, fixed, linears)
        self._check_weights_fixed()
        weights = [value_of(node) for node in self.inputs[1:]]
        return forward_mode.by_map(self.forward, lambda size: self.magnitude(size, *weights),
                                   dict(enumerate(weights, 1)), linears)

    def expansion(self, *at: Tensor) -> Expansion | None:
        weights = at[1:]
        if self.traits.magnitude is not None:
            return Expansion(self.forward(*at), lambda x, *_: self.forward(x, *weights),
                             lambda x, *_: self.magnitude(x, *weights))
        if not self.traits.homogeneous:
            return None
        linear = functools.partial(self._of_changes, at)
        return Expansion(self.forward(*at), linear, linear)

    def _of_changes(self, at: Sequence[Tensor], *changes: Tensor | None) -> Tensor:
        """The map of changes, of which those that are None are 0."""
        count = next(len(change) for change in changes if change is not None)
        return self.forward(*[value.new_zeros(count, *value.shape[1:]) if change is None else change
                              for value, change in zip(at, changes, strict=True)])

    def dependence(self, *sizes: Tensor | None) -> Tensor:
        like = next(size for size in sizes if size is not None)
        fixed = [value_of(n) if size is None else size
                 for size, n in zip(sizes, self.inputs, strict=True)]
        if self.traits.magnitude is None:  # what does not move is added
            fixed = [torch.zeros_like(value) if size is None else value
                     for size, value in zip(sizes, fixed, strict=True)]
        return self.added(*[value.to(like) if value.is_floating_point() else value
                            for value in fixed])

    def added(self, *sizes: Tensor) -> Tensor:
        """Sum of the sizes of all terms of each entry, from the sizes of the inputs' entries."""
        return (self.magnitude(*sizes)
                if self.traits.added is None else self.traits.added(*sizes, **self.settings))

    def magnitude(self, *sizes: Tensor) -> Tensor:
        """Largest change of each entry if the inputs' entries change by these sizes."""
        if self.traits.magnitude is None:
            return self.forward(*sizes)
        return self.traits.magnitude(*sizes, **self.settings)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        if self.traits.magnitude is None:
            return self._pull_sum(last_lower, last_upper, *nodes)
        self._check_weights_fixed()
        weights, reach = self._weights()
        if reach is not None:
            return product_sides(
                last_lower, last_upper, nodes, 0, lambda A: self._pulled(A, weights),
                lambda A: self._pulled(A, reach), self._shared_reach(weights, reach))

        def pull(A: Coefficient) -> tuple[list[Coefficient | None], float]:
            return [self._pulled(A, weights), *[None] * len(weights)], 0.0

        return both_sides(last_lower, last_upper, pull, pull)

    def _pull_sum(self, last_lower: Tensor | None, last_upper: Tensor | None, *nodes: Any) -> Any:
        """Exact coefficients where there are no weights."""
        moving = [i for i, node in enumerate(nodes) if node.perturbed]
        fixed = {i: value_of(node) for i, node in enumerate(nodes) if not node.perturbed}

        def function(*values: Tensor) -> Tensor:
            arguments = {**fixed, **dict(zip(moving, values, strict=True))}
            return self.forward(*[arguments[i] for i in range(len(nodes))])

        def pull(A: Any) -> tuple[list[Coefficient | None], Tensor | float]:
            if (isinstance(A, Local) or self.traits.transposed is not None) and moving == [0]:
                return [self._pulled(A, []), *[None] * (len(nodes) - 1)], 0.0
            zeros = [A.new_zeros(A.shape[1], *nodes[i].output_shape[1:]) for i in moving]
            constant, backward = torch.func.vjp(function, *zeros)[:2]
            coefficients: list[Coefficient | None] = [None] * len(nodes)
            for i, coefficient in zip(moving, torch.vmap(backward)(A), strict=True):
                coefficients[i] = coefficient
            return coefficients, weighted_sum(A, constant) if fixed else 0.0

        return both_sides(last_lower, last_upper, pull, pull)

    def _pulled(self, A: Any, weights: list[Tensor]) -> Any:
        """Coefficients (S, B, *x) of the first input, with these weights."""
        shape = self.inputs[0].output_shape[1:]
        if isinstance(A, Local) and self.traits.local is not None:
            return self.traits.local(A, *weights, **self.settings, of=shape)
        if self.traits.transposed is not None:
            return self.traits.transposed(A, *weights, **self.settings, of=shape)
        backward = torch.func.vjp(lambda x: self.forward(x, *weights),
                                  A.new_zeros(A.shape[1], *shape))[1]
        return torch.vmap(backward)(A)[0]

    def _shared_reach(self, weights: list[Tensor],
                      reach: list[Tensor]) -> Callable[[Tensor], Tensor] | None:
        """`shared_reach` if a weight is used at several places and its gradients fit memory."""
        x, y = self.inputs[0].output_shape[1:], self.output_shape[1:]
        if len(x) < 2 or weights[0].numel() > MANY_WEIGHTS * max(math.prod(x), math.prod(y)):
            return None
        return shared_reach(lambda x, weight: self.forward(x, weight, *weights[1:]),
                            box_of(self.inputs[0]), weights[0], reach[0])

    def _weights(self) -> tuple[list[Tensor], list[Tensor] | None]:
        """The weights (centres of moving ones), and their radii; None if none moves."""
        weights, reach = [], []
        for node in self.inputs[1:]:
            box = moving_box(node)
            value, radius = (value_of(node),) * 2 if box is None else box.around
            weights.append(value)
            reach.append(radius)
        return weights, reach if self.weight_moves else None

    def _check_weights_fixed(self) -> None:
        if any(node.perturbed for node in self.inputs[1:]):
            raise UnsupportedOperation(
                f"{self.operator.name}: its weights depend on a perturbed input. Only the first "
                "factor may. Rewrite the model as products entry by entry.")
        for node in self.inputs[2 if self.traits.bilinear else 1:]:
            refuse_parameter(node, self.operator.name)


def _transposed_matmul(A: Tensor, w: Tensor, of: Any) -> Tensor:
    return A @ w.mT if w.ndim > 1 else A[..., None] * w


def _transposed_slice(A: Tensor, dim: int, start: int, stop: int, step: int, of: Any) -> Tensor:
    pulled = A.new_zeros(*A.shape[:2], *of)
    pulled.narrow(dim + 1, start,
                  stop - start)[(slice(None),) * (dim + 1) + (slice(None, None, step),)] = A
    return pulled


def _transposed_place(A: Tensor, size: int, dim: int, start: int, step: int, of: Any) -> Tensor:
    return A.narrow(dim + 1, start,
                    size - start)[(slice(None),) * (dim + 1) + (slice(None, None, step),)].narrow(
                        dim + 1, 0, of[dim - 1])


class BoundAdd(BoundAffine):
    """x + y: coefficients are handed on, summed over what was broadcast."""

    @property
    def takes_local(self) -> bool:  # type: ignore[override]
        return all(moving_box(node) is None for node in self.inputs)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        def pull(A: Any, sign: int = 0) -> tuple[list[Coefficient | None], Tensor | float]:
            coefficients = [to_shape(A, node) if node.perturbed else None for node in nodes]
            bias: Tensor | float = 0.0
            for node in nodes:
                box = moving_box(node)
                if box is not None:
                    center, radius = box.around
                    bias = bias + weighted_sum(A, center) + sign * weighted_sum(A.abs(), radius)
                elif not node.perturbed:
                    bias = bias + weighted_sum(A, value_of(node))
            return coefficients, bias

        if any(moving_box(node) is not None for node in nodes):
            return both_sides(last_lower, last_upper, functools.partial(pull, sign=-1),
                              functools.partial(pull, sign=1))
        return both_sides(last_lower, last_upper, pull, pull)

    def expansion(self, *at: Tensor) -> Expansion:
        value = self.forward(*at)

        def linear(*changes: Tensor | None) -> Tensor:
            moving = [change for change in changes if change is not None]
            return functools.reduce(torch.add, moving).expand(-1, *value.shape[1:])

        return Expansion(value, linear, linear)


def _center(x: Tensor, dims: list[int]) -> Tensor:
    return x - x.mean(dims, keepdim=True)


def _center_magnitude(x: Tensor, dims: list[int]) -> Tensor:
    """Sum_j |1[i = j] - 1/n| x_j."""
    count = math.prod(x.shape[d] for d in dims)
    return (1 - 2 / count) * x + x.mean(dims, keepdim=True)


def _along(x: Tensor, matrix: Tensor, dim: int) -> Tensor:
    """Multiply one dimension by a matrix (entries before, entries after)."""
    return (x.movedim(dim, -1) @ matrix).movedim(-1, dim)


def _rows(x: Tensor, shape: list[int]) -> tuple[int, ...]:
    return (x.shape[0], *shape)


def _place(x: Tensor, size: int, dim: int, start: int, step: int) -> Tensor:
    """Put x on a slice of a tensor of zeros: the transpose of taking that slice."""
    shape = list(x.shape)
    shape[dim] = size
    index = torch.arange(start, size, step, device=x.device)[: x.shape[dim]]
    return x.new_zeros(shape).index_add(dim, index, x)


def _slice(x: Tensor, dim: int, start: int, stop: int, step: int) -> Tensor:
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, stop, step)
    return x[tuple(index)]


MOVED = Affine(homogeneous=True)

ROWS = [
    # Increasing in every input.
    Operator("add", lambda x, y: x + y, BoundAdd, "+, biases, residual connections"),
    Operator("concatenate", lambda *xs, dim: torch.cat(xs, dim), BoundAffine,
             "torch.cat, torch.stack", MOVED),
    Operator("reshape", lambda x, shape: x.reshape(_rows(x, shape)), BoundAffine,
             "reshape, view, flatten, squeeze, unsqueeze",
             Affine(transposed=lambda A, shape, of: A.reshape(*A.shape[:2], *of),
                    homogeneous=True)),
    Operator("expand", lambda x, shape: x.expand(_rows(x, shape)), BoundAffine, "expand, gradient "
             "of sum and mean", Affine(homogeneous=True, local=local_expand)),
    Operator("permute", lambda x, dims: x.permute(dims), BoundAffine, "permute, transpose",
             Affine(transposed=lambda A, dims,
                    of: A.permute(0, *[1 + dims.index(i) for i in range(len(dims))]),
                    homogeneous=True)),
    Operator("slice", _slice, BoundAffine, "x[:, a:b:c], x[:, i], split, chunk",
             Affine(transposed=_transposed_slice, homogeneous=True, local=local_slice)),
    Operator("place", _place, BoundAffine, "gradient of slicing and indexing",
             Affine(transposed=_transposed_place, homogeneous=True, local=local_place)),
    Operator("sum", lambda x, dims, keepdim: x.sum(dims, keepdim), BoundAffine,
             "sum, gradient of expand", MOVED),
    Operator("mean", lambda x, dims, keepdim: x.mean(dims, keepdim), BoundAffine, "mean, "
             "nn.AdaptiveAvgPool2d(1)", MOVED),
    Operator("pad", lambda x, pad: torch.nn.functional.pad(x, pad), BoundAffine, "zero padding",
             Affine(homogeneous=True, local=local_pad)),
    # Linear in the first input, with weights of any sign.
    Operator("scale", lambda x, factor: x * factor, BoundAffine, "multiplication and division by "
             "numbers, -",
             Affine(lambda x, factor: x * abs(factor), lambda A, factor, of: A * factor,
                    local=lambda A, factor, of: A * factor)),
    Operator("matmul", torch.matmul, BoundAffine, "nn.Linear, forward and gradient",
             Affine(lambda x, w: torch.matmul(x, w.abs()), _transposed_matmul)),
    Operator("along", _along, BoundAffine,
             "nn.Upsample, nn.AdaptiveAvgPool2d, nn.ReflectionPad2d, nn.ReplicationPad2d, roll, "
             "flip, indices, cumsum", Affine(lambda x, matrix, dim: _along(x, matrix.abs(), dim))),
    Operator("divide", torch.div, BoundAffine, "division by constants",
             Affine(lambda x, w: x / w.abs(), bilinear=False, local=lambda A, w, of: A * (1 / w))),
    Operator("center", _center, BoundAffine, "nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, "
             "forward and gradient",
             Affine(_center_magnitude, added=lambda x, dims: x + x.mean(dims, keepdim=True))),
]
for row in ROWS:
    register(row)
