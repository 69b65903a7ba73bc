"""Linear bounds: coefficients of functions of a node, pulled back through a network to its
inputs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from auto_LiRPA.bound_ops import Bound
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor

from ..boxes import Box
from ..operators.bound import Coefficient, dense_sides, flat_functions, value_of, weighted_sum
from ..operators.local import Local

Sides = tuple[Coefficient | None, Coefficient | None]
"""Coefficients of the lower and of the upper bounds; the same object where they are the same."""

FAR = 200
"""Nodes behind which linear bounds that are known end a pass: the work of a recurrent layer of T
steps then grows with T, and not with its square. What is nearer is pulled back, since bounds of
bounds are looser."""


@dataclass(frozen=True)
class Linear:
    """Linear bounds of functions in the inputs that move: a x + b from below and from above.

    Args:
        inputs: name of an input -> coefficients (S, B, *input).
        lower: b from below, (S, B), or what broadcasts to it.
        upper: b from above.
    """

    inputs: dict[str, Sides]
    lower: Tensor
    upper: Tensor

    def pulled(self, lower: Coefficient | None, upper: Coefficient | None) -> "Linear":
        """Bounds of functions of these functions, by coefficients (S', B, *T) where S is the
        product of T.
        """
        (low, below), (high, above) = _through(lower, self, 0), _through(upper, self, 1)
        return Linear({name: (low[name], high[name]) for name in self.inputs}, below, above)


def _through(A: Coefficient | None, form: Linear,
             side: int) -> tuple[dict[str, Tensor | None], Tensor]:
    """One side of functions of a value between linear bounds: each bound is used where it is the
    right one.
    """
    if A is None:
        return dict.fromkeys(form.inputs), form.lower.new_zeros(())
    dense = A.dense() if isinstance(A, Local) else A
    flat = flat_functions(dense)
    signed = (flat.clamp(min=0), flat.clamp(max=0))[::1 if side == 0 else -1]
    count, rows = flat.shape[2], flat.shape[1]
    below, above = (torch.einsum("sbn,nb->sb", part, b.expand(count, rows))
                    for part, b in zip(signed, (form.lower, form.upper), strict=True))
    found: dict[str, Tensor | None] = {}
    for name, bounds in form.inputs.items():
        parts = [torch.einsum("sbn,nb...->sb...", part, of.dense() if isinstance(of, Local) else of)
                 for part, of in zip(signed, bounds, strict=True) if of is not None]
        found[name] = parts[0] + parts[1]
    return found, below + above


def pull_back(nodes: Sequence[Bound], start: Bound, functions: Coefficient,
              forms: Mapping[str, Linear],
              tell: Callable[[int], None] | None = None, lower_only: bool = False,
              aliases: Mapping[str, str] | None = None) -> Linear:
    """Linear bounds of functions of a node in the inputs.

    Args:
        nodes: all nodes, each after its inputs.
        start: the node.
        functions: (S, B, *output of the node).
        forms: linear bounds of all entries of some nodes, by name; those `FAR` before the start are
            pulled back no further.
        tell: is told how many coefficients arrive at each node.
        lower_only: whether there are no upper bounds; their coefficients are None.
        aliases: nodes that are inputs in another shape, and the names of these, whose coefficients
            theirs are.
    """
    arrived: dict[str, Sides] = {start.name: (functions, None if lower_only else functions)}
    lower = upper = torch.zeros((), dtype=functions.dtype, device=functions.device)
    inputs: dict[str, Sides] = {}
    last = next(i for i, node in enumerate(nodes) if node is start)
    for i in range(last, -1, -1):
        node = nodes[i]
        sides = arrived.pop(node.name, None)
        if sides is None:
            continue
        if tell is not None:
            tell(max(_size(A) for A in sides if A is not None))
        name = node.name if aliases is None else aliases.get(node.name, node.name)
        if name is not node.name or getattr(node, "perturbation", None) is not None:
            inputs[name] = sides
            continue
        if last - i >= FAR and node.name in forms:
            through = forms[node.name].pulled(*sides)
            for name, new in through.inputs.items():
                arrived[name] = _together(arrived.get(name), new)
            ends: tuple[Any, Any] = through.lower, through.upper
        elif not node.perturbed:
            ends = _at_constant(node, *sides)
        else:
            coefficients, *ends = node.pull(*sides, *node.inputs)
            for n, new in zip(node.inputs, coefficients, strict=True):
                if any(A is not None for A in new):
                    arrived[n.name] = _together(arrived.get(n.name), _as_suits(new))
        lower, upper = lower + ends[0], upper + ends[1]
    return Linear(inputs, lower, upper)


def numbers(nodes: Mapping[str, Bound], linear: Linear, shape: Sequence[int]) -> Box:
    """What linear bounds come to over the sets of the inputs, at least and at most: (S, B) each."""
    lower, upper = linear.lower, linear.upper
    for name, sides in linear.inputs.items():
        below, above = _at_input(nodes[name], *sides)
        lower, upper = lower + below, upper + above
    return Box(lower.expand(shape), upper.expand(shape))


def _size(A: Coefficient) -> int:
    return A.values.numel() if isinstance(A, Local) else A.numel()


def _at_input(node: Bound, lower: Coefficient | None, upper: Coefficient | None) -> tuple[Any, Any]:
    """What the coefficients of an input that moves come to, at least and at most."""
    ball, sides = node.perturbation, (lower, upper)
    if (type(ball) is PerturbationLpNorm and ball.norm == math.inf
            and all(not isinstance(A, Tensor) for A in sides)):
        low = node.value - ball.eps if ball.x_L is None else ball.x_L
        high = node.value + ball.eps if ball.x_U is None else ball.x_U
        center, radius = Box(low, high).around
        below, above = (weighted_sum(A, center) + sign * weighted_sum(A.abs(), radius)
                        if A is not None else 0.0 for A, sign in zip(sides, (-1, 1), strict=True))
        return below, above
    _, center, aux = ball.init(node.value, aux=getattr(node, "aux", None), forward=False)
    numbers = [0.0 if A is None
               else ball.concretize(center, A.transpose(0, 1), sign=sign, aux=aux).transpose(0, 1)
               for A, sign in zip(dense_sides(lower, upper), (-1, 1), strict=True)]
    return numbers[0], numbers[1]


def _at_constant(node: Bound, lower: Coefficient | None,
                 upper: Coefficient | None) -> tuple[Any, Any]:
    """What the coefficients of a node that does not move come to."""
    below, above = (0.0 if A is None else weighted_sum(A, value_of(node)) for A in (lower, upper))
    return below, above


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
