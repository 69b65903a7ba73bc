"""What bound operators share: what auto_LiRPA hands a node, alike for all its versions.

A backward coefficient `A` has shape (S, B, *output): S linear functions of the node's output, for
each of B rows. It is a tensor, or `local.Local` where each function depends on a window of a layer
only, and the operator takes that.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from auto_LiRPA.bound_ops import Bound, Interval
from torch import Tensor

from ..boxes import Box
from ..errors import UnsupportedOperation
from . import forward_mode
from .expansion import Expansion
from .local import Local

Coefficient = Tensor | Local
Coefficients = tuple[Coefficient | None, Coefficient | None]


class BoundOperator(Bound):
    """Base class of the bound operators; `operator` is the table's row of a subclass."""

    operator: Any
    takes_parameters = False
    """Whether its bounds hold for parameters that move; only then may an input be one."""
    takes_local = False
    """Whether `bound_linear` takes local coefficients; else they are made dense for it."""
    outward: Any = None
    """What moves its bounds outward by roundings, a `bounding.outward.Outward`, while the engine is
    asked to."""
    decided_by: int | None = None
    """Index of the input that decides what is chosen, if the result jumps only by it."""

    def __init__(self, attr: Any = None, inputs: Any = None, output_index: int = 0,
                 options: Any = None) -> None:
        super().__init__(attr, inputs, output_index, options)
        self.settings = json.loads(self.attr["settings"])
        self.requires_input_bounds = self.relaxed_inputs()

    def relaxed_inputs(self) -> list[int]:
        """Indices of the inputs whose bounds the linear relaxation reads."""
        return []

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        """Entries of input `index` whose tighter bounds could tighten the relaxation.

        Args:
            index: one of `relaxed_inputs`.
            boxes: current bounds of all inputs, each (B, *S).

        Returns:
            Boolean tensor of the shape of that input.
        """
        raise NotImplementedError(f"{type(self).__name__} relaxes none of its inputs")

    def ignored_entries(self, index: int, box: Box) -> Tensor:
        """Entries of input `index` that do not affect the output anywhere in the box."""
        return torch.zeros_like(box.lower, dtype=torch.bool)

    def bound_interval(self, *boxes: Box) -> Box:
        """Bounds of the output from bounds of the inputs, all (B, *S)."""
        raise NotImplementedError

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        """Coefficients of the inputs from those of the output; `both_sides` makes the result."""
        raise NotImplementedError

    def forward(self, *values: Tensor) -> Tensor:
        return self.operator.function(*values, **self.settings)

    def interval_propagate(self, *v: Any) -> Box:
        self.refuse_perturbed_parameters()
        boxes = tuple(moving_box(node) or box_of_interval(interval)
                      for node, interval in zip(self.inputs, v, strict=True))
        box = Box(*self.bound_interval(*boxes))
        return box if self.outward is None else self.outward.interval(self, boxes, box)

    def bound_backward(self, last_lA: Any, last_uA: Any, *x: Any, **kwargs: Any) -> Any:
        if is_nothing(last_lA) and is_nothing(last_uA):
            return [nothing_at(node, last_lA, last_uA) for node in self.inputs], 0.0, 0.0
        coefficients, *ends = self.pull(last_lA, last_uA, *x)
        return [pair if any(A is not None for A in pair) else nothing_at(node, last_lA, last_uA)
                for pair, node in zip(coefficients, self.inputs, strict=True)], *ends

    def pull(self, last_lA: Any, last_uA: Any, *x: Any) -> Any:
        """What `bound_backward` returns, and None for inputs on which no function depends."""
        self.refuse_perturbed_parameters()
        if not self.takes_local:
            last_lA, last_uA = dense_sides(last_lA, last_uA)
        result = self.bound_linear(last_lA, last_uA, *x)
        if self.outward is None:
            return result
        return self.outward.linear(self, last_lA, last_uA, result)

    def bound_forward(self, dim_in: int, *x: Any, **kwargs: Any) -> Any:
        self.refuse_perturbed_parameters()
        linear = self.carried(x)
        if linear.lw is None:  # it is bounded by numbers alone, which auto_LiRPA does not expect
            linear.lw = linear.uw = linear.lb.new_zeros(len(linear.lb), dim_in,
                                                        *linear.lb.shape[1:])
        return linear

    def carried(self, linears: Sequence[Any]) -> Any:
        """auto_LiRPA's `LinearBound` of the output from those of the inputs."""
        return forward_mode.by_relaxation(self, linears)

    def bound_dynamic_forward(self, *x: Any, max_dim: int, offset: int = 0, **kwargs: Any) -> Any:
        self.refuse_perturbed_parameters()
        return forward_mode.window(self, x, max_dim, offset)

    def dependence(self, *sizes: Tensor | None) -> Tensor:
        """A linear map with coefficients above 0 where the output depends on the inputs; default:
        all of it on all of them.

        Args:
            sizes: (B, *S) each; None for an input that does not move.

        Returns:
            (B, *output).
        """
        moving = [size.flatten(1).sum(1) for size in sizes if size is not None]
        shape = self.output_shape[1:]
        return sum(moving[1:], moving[0]).reshape(-1, *[1] * len(shape)).expand(-1, *shape)

    def live(self, index: int) -> Tensor:
        """1 where an entry of an input may be other than 0, else 0: (B, *S)."""
        node = self.inputs[index]
        if node.perturbed and not hasattr(node, "interval"):
            return torch.ones_like(node.forward_value)
        return (box_of(node).size > 0).to(node.forward_value)

    def expanded_inputs(self) -> list[int]:
        """Indices of the inputs in which it has first-order terms."""
        return list(range(len(self.inputs)))

    def expansion(self, *at: Any) -> Expansion | None:
        """Its first-order expansion at values of its inputs, or None where it has none.

        Args:
            at: of `expanded_inputs`, (B, *S) each; those that do not move are their values.
        """
        return None

    def refuse_perturbed_parameters(self) -> None:
        """Refuse a moving parameter where only a fixed one may be.

        Raises:
            UnsupportedOperation: There is one.
        """
        if any(node.perturbed and not node.from_input for node in self.inputs):
            raise UnsupportedOperation(f"{self.operator.name}: a parameter is perturbed as an "
                                       "auto_LiRPA BoundedParameter. Keep it plain, and give its "
                                       "perturbation to certify(..., parameters=...).")
        if not self.takes_parameters:
            for node in self.inputs:
                refuse_parameter(node, self.operator.name)


def box_of_interval(interval: Any) -> Box:
    """Bounds of an interval that auto_LiRPA hands over.

    For an input in an l1 or l2 ball auto_LiRPA's interval is the centre twice, with the
    perturbation beside it; the smallest box around such a ball is centre +- eps.

    Raises:
        TypeError: The norm of the ball is neither inf nor 2 nor 1.
    """
    lower, upper = interval[0], interval[1]
    if isinstance(interval, Interval) and interval.ptb is not None:
        norm, eps = Interval.get_perturbation(interval)[:2]
        if norm not in (float("inf"), 1, 2):
            raise TypeError(f"Intervals in the l{norm} norm are not supported; use norm inf, 2 or "
                            "1.")
        if norm != float("inf"):
            eps = torch.as_tensor(eps, dtype=lower.dtype, device=lower.device)
            eps = eps.reshape(-1, *[1] * (lower.ndim - 1)) if eps.ndim else eps
            return Box(lower - eps, upper + eps)
    return Box(lower, upper)


@dataclass(frozen=True)
class MovingParameter:
    """What is known of a parameter that moves, or of a function of parameters: neither has rows.

    The engine sets it as a node's `moving_parameter` for the time of a call. auto_LiRPA's own
    `perturbed` stays False: the operators that read the node account for its box, and nothing is
    propagated to it.

    Args:
        box: bounds of the value, each of its own shape.
        names: the user's names of the parameters that it is made of.
    """

    box: Box
    names: tuple[str, ...]


def moving_box(node: Bound) -> Box | None:
    """Bounds of a parameter that moves, without rows; None of any other node."""
    moving = getattr(node, "moving_parameter", None)
    return None if moving is None else moving.box


def refuse_parameter(node: Bound, operator: str) -> None:
    """Refuse a node that is a parameter that moves.

    Raises:
        UnsupportedOperation: It is one.
    """
    if moving_box(node) is not None:
        names = node.moving_parameter.names
        raise UnsupportedOperation(
            f"{operator}: bounds hold for fixed parameters only, but {', '.join(names)} may "
            f"change. Hold what has no bounds fixed, for instance parameters={{'*': "
            f"lx.ParameterBox(...), {names[0]!r}: None}}.")


def box_of(node: Bound) -> Box:
    """Current bounds of a node, whether it is perturbed or not."""
    if not node.perturbed:
        moving = moving_box(node)
        if moving is not None:
            return moving
        return Box.point(value_of(node))
    if getattr(node, "perturbation", None) is not None:
        return box_of_interval(node.interval)
    return Box(node.lower, node.upper)


def value_of(node: Bound) -> Tensor:
    """Value of a node that does not move, computed if nobody has yet."""
    refuse_parameter(node, "a value")
    if getattr(node, "forward_value", None) is None:
        node.forward_value = node.forward(*[value_of(n) for n in node.inputs])
    return node.forward_value


def both_sides(last_lower: Coefficient | None, last_upper: Coefficient | None, lower_side: Any,
               upper_side: Any) -> tuple[list[Coefficients], Tensor | float, Tensor | float]:
    """Apply the two sides of a relaxation to the coefficients that arrive at a node.

    Args:
        last_lower: coefficients of the lower bound, (S, B, *output), or None.
        last_upper: coefficients of the upper bound, likewise.
        lower_side: maps A to (list of coefficients of the inputs, bias (S, B) or 0).
        upper_side: likewise for the upper bound; the same object where the operator is exact, and
            then identical coefficients are propagated once.

    Returns:
        What `Bound.bound_backward` returns.
    """
    lower = lower_side(last_lower) if last_lower is not None else None
    if lower_side is upper_side and last_lower is last_upper:
        upper = lower
    else:
        upper = upper_side(last_upper) if last_upper is not None else None
    given = [side for side in (lower, upper) if side]
    coefficients = [(lower[0][i] if lower else None, upper[0][i] if upper else None)
                    for i in range(len(given[0][0]))]
    return coefficients, lower[1] if lower else 0.0, upper[1] if upper else 0.0


def nothing_at(node: Bound, *like: Any) -> tuple[Tensor | None, Tensor | None]:
    """Zero coefficients of an input, or None if it is fixed: without memory, or time per node.

    auto_LiRPA hands out coefficients of the inputs that it arrives at (`return_A`), so it must
    arrive there.
    """
    if not node.perturbed:
        return None, None
    sides = [None if A is None else (A.values if isinstance(A, Local) else A).new_zeros(()).expand(
        *A.shape[:2], *node.output_shape[1:]) for A in (like[:1] if like[0] is like[1] else like)]
    return sides[0], sides[-1]


def is_nothing(A: Any) -> bool:
    """Whether coefficients are none, or such as `nothing_at` makes."""
    return (A is None or isinstance(A, Tensor) and not any(A.stride()) and A.numel() > 1
            and not A[(0,) * A.ndim])


def dense_sides(lower: Coefficient | None,
                upper: Coefficient | None) -> tuple[Tensor | None, Tensor | None]:
    """Coefficients as tensors, the same one where they are the same."""
    tensors = [A.dense() if isinstance(A, Local) else A
               for A in ((lower,) if lower is upper else (lower, upper))]
    return tensors[0], tensors[-1]


def flat_rows(x: Tensor) -> Tensor:
    """A value (B, *S) as (B, D), also where a row is one number."""
    return x.reshape(x.shape[0], -1)


def flat_functions(A: Tensor) -> Tensor:
    """Coefficients (S, B, *output) as (S, B, D)."""
    return A.reshape(*A.shape[:2], -1)


def weighted_sum(coefficients: Coefficient, values: Tensor) -> Tensor:
    """Sum of A * values over a row's entries: (S, B, *S), broadcast (B, *S) -> (S, B)."""
    if isinstance(coefficients, Local):
        return coefficients.weighted_sum(values)
    if values.ndim < coefficients.ndim - 1 or len(values) == 1:  # the same for all rows
        return flat_functions(coefficients) @ values.expand(1, *coefficients.shape[2:]).flatten()
    return flat_functions(coefficients * values).sum(2)


FEW = 0.25
"""Share of a layer's neurons up to which only those that differ are worked on, and not the whole
layer."""
SMALL = 128
"""Neurons of a layer that are all worked on in less time than it takes to find those that differ;
no matter how many rows and functions there are, so that a batch gives what its rows give to the
last bit, as far as torch does."""


class Signed:
    """Coefficients (S, B, *S), to be multiplied by one factor where positive, else by another.

    In most layers both factors agree but for a few neurons, and coefficients are large: one
    product, then the few. Else each coefficient has the factor of its own sign.
    """

    def __init__(self, A: Tensor) -> None:
        self.A = A

    @cached_property
    def is_positive(self) -> Tensor:
        """Where A is above 0."""
        return self.A > 0

    def times(self, positive: Tensor, negative: Tensor) -> Tensor:
        """A * positive where A > 0, A * negative elsewhere; factors (B, *S) -> (S, B, *S)."""
        A = self.A
        if positive is negative:
            return A * positive
        few = _few(positive != negative, A)
        if few is None:
            return A * torch.where(self.is_positive, positive, negative)
        result = A * positive
        if few.shape[1] == 0:
            return result
        difference = flat_rows(negative - positive).gather(1, few)
        index = few.expand(len(A), -1, -1)
        change = flat_functions(A).gather(2, index).clamp(max=0) * difference
        return flat_functions(result).scatter_add_(2, index, change).reshape(A.shape)

    def sum(self, positive: Tensor, negative: Tensor) -> Tensor:
        """The sum over a row's entries of `times`: (S, B)."""
        few = _few((positive != 0) | (negative != 0), self.A)
        if few is None:
            return flat_functions(self.times(positive, negative)).sum(2)
        at = flat_functions(self.A).gather(2, few.expand(len(self.A), -1, -1))
        return Signed(at).times(flat_rows(positive).gather(1, few),
                                flat_rows(negative).gather(1, few)).sum(2)


class LocalSigned:
    """`Signed` for local coefficients, of too few neurons to treat some of them apart."""

    def __init__(self, A: Local) -> None:
        self.A = A

    def times(self, positive: Tensor, negative: Tensor) -> Local:
        """A * positive where A > 0, A * negative elsewhere; factors (B, *S)."""
        return self.A.by_sign(positive, negative)

    def sum(self, positive: Tensor, negative: Tensor) -> Tensor:
        """The sum over a row's entries of `times`: (S, B)."""
        return self.A.sum_by_sign(positive, negative)


def signed(A: Coefficient) -> Signed | LocalSigned:
    """Coefficients, to be multiplied by one factor where positive and by another elsewhere."""
    return LocalSigned(A) if isinstance(A, Local) else Signed(A)


def _few(mask: Tensor, A: Tensor) -> Tensor | None:
    """Flat indices (B, M) of the neurons for which a mask (B, *S) is true; None if they are many.

    Rows with fewer than M such neurons have others beside them.
    """
    if mask.shape != A.shape[1:] or A[0, 0].numel() <= SMALL:
        return None
    flat = flat_rows(mask)
    most = int(flat.sum(1).max())
    return flat.to(torch.int8).topk(most, 1).indices if most <= FEW * flat.shape[1] else None
