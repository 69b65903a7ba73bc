"""Linear bounds: coefficients of functions of a node, pulled back through a network to its inputs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from auto_LiRPA.bound_ops import Bound
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor

from ..boxes import Box
from ..operators.bound import Coefficient, dense_sides, value_of, weighted_sum
from ..operators.local import Local

Sides = tuple[Coefficient | None, Coefficient | None]
"""Coefficients of the lower and of the upper bounds; the same object where they are the same."""


def linear_bounds(nodes: Sequence[Bound], start: Bound, functions: Coefficient,
                  tell: Callable[[int], None] | None = None) -> Box:
    """Linear bounds, made numbers at the inputs, of functions of a node.

    Args:
        nodes: all nodes, each after its inputs.
        start: the node.
        functions: (S, B, *output of the node).
        tell: is told how many coefficients arrive at each node.

    Returns:
        (lower, upper), each (S, B).
    """
    arrived: dict[str, Sides] = {start.name: (functions, functions)}
    lower = upper = torch.zeros((), dtype=functions.dtype, device=functions.device)
    for node in reversed(nodes):
        sides = arrived.pop(node.name, None)
        if sides is None:
            continue
        if tell is not None:
            tell(max(_size(A) for A in sides if A is not None))
        if getattr(node, "perturbation", None) is not None:
            below, above = _at_input(node, *sides)
        elif not node.perturbed:
            below, above = (0.0 if A is None else weighted_sum(A, value_of(node)) for A in sides)
        else:
            coefficients, below, above = node.bound_backward(*sides, *node.inputs)
            for n, new in zip(node.inputs, coefficients, strict=True):
                if any(A is not None for A in new):
                    arrived[n.name] = _together(arrived.get(n.name), _as_suits(new))
        lower, upper = lower + below, upper + above
    shape = functions.shape[:2]
    return Box(lower.expand(shape), upper.expand(shape))


def _size(A: Coefficient) -> int:
    return A.values.numel() if isinstance(A, Local) else A.numel()


def _at_input(node: Bound, lower: Coefficient | None, upper: Coefficient | None) -> tuple[Any, Any]:
    """What the coefficients of an input that moves come to, at least and at most."""
    ball, sides = node.perturbation, (lower, upper)
    if type(ball) is PerturbationLpNorm and ball.norm == math.inf and all(not isinstance(A, Tensor) for A in sides):
        low = node.value - ball.eps if ball.x_L is None else ball.x_L
        high = node.value + ball.eps if ball.x_U is None else ball.x_U
        center, radius = Box(low, high).around
        below, above = (weighted_sum(A, center) + sign * weighted_sum(A.abs(), radius) if A is not None else 0.0
                        for A, sign in zip(sides, (-1, 1), strict=True))
        return below, above
    _, center, aux = ball.init(node.value, aux=getattr(node, "aux", None), forward=False)
    numbers = [0.0 if A is None else ball.concretize(center, A.transpose(0, 1), sign=sign, aux=aux).transpose(0, 1)
             for A, sign in zip(dense_sides(lower, upper), (-1, 1), strict=True)]
    return numbers[0], numbers[1]


def _together(old: Sides | None, new: Sides) -> Sides:
    """The sums of what has arrived and what arrives."""
    if old is None:
        return new
    lower = _sum(old[0], new[0])
    same = old[0] is old[1] and new[0] is new[1]
    return lower, lower if same else _sum(old[1], new[1])


def _sum(one: Coefficient | None, other: Coefficient | None) -> Coefficient | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _as_suits(sides: Sides) -> Sides:
    """Dense coefficients where windows cover most of the layer."""
    lower, upper = (A.dense() if isinstance(A, Local) and A.covers else A for A in sides)
    return lower, lower if sides[0] is sides[1] else upper
