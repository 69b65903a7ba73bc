"""auto_LiRPA's forward mode: linear bounds of a node in the network's inputs, from those of its own
inputs.

`lw` and `uw` are coefficients (B, d, *S) in the d entries of the inputs, `lb` and `ub` what is
added, (B, *S). In dynamic mode both sides are one affine form, y = lw x + lb, with a fresh variable
in [-1, 1] for each entry of a relaxed node: it stands for what lies between the two sides of the
relaxation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from auto_LiRPA.linear_bound import LinearBound
from torch import Tensor

AT_ONCE = 2 ** 22
"""Most coefficients of an operator's inputs, about, that are computed at once."""


@dataclass(frozen=True)
class Side:
    """One side of an operator's relaxation at entries of its output: sum_i coefficients_i x_i +
    bias.

    Args:
        coefficients: of each input, (S, B, *S_i), or None.
        bias: (B, S).
    """

    coefficients: tuple[Tensor | None, ...]
    bias: Tensor


def relaxations(node: Any, inputs: Sequence[Any]) -> list[tuple[Side, Side]]:
    """Both sides of an operator's relaxation, for all entries of its output, some at a time.

    Args:
        node: the operator.
        inputs: linear bounds of its inputs.

    The sides are one object where the operator is exact. They are found as backward mode finds
    them, by asking for linear functions of the output: each entry is one.
    """
    shape, like = node.output_shape[1:], next(x.lb for n, x in zip(node.inputs, inputs, strict=True)
                                              if n.perturbed)
    rows, size = len(like), math.prod(shape)
    widest = max(math.prod(n.output_shape[1:]) for n in node.inputs)
    count = max(1, AT_ONCE // (rows * max(size, widest)))
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    return [_relaxation(node, eye[i:i + count].reshape(-1, 1, *shape).expand(-1, rows, *shape))
            for i in range(0, size, count)]


def _relaxation(node: Any, functions: Tensor) -> tuple[Side, Side]:
    coefficients, *biases = node.bound_linear(functions, functions, *node.inputs)
    is_exact = all(low is high for low, high in coefficients) and biases[0] is biases[1]
    sides = [Side(
        tuple(pair[k] for pair in coefficients),
        (torch.as_tensor(biases[k]).to(functions) + functions.new_zeros(functions.shape[:2])).T)
             for k in range(1 if is_exact else 2)]
    return sides[0], sides[-1]


# Forward mode


def by_relaxation(node: Any, inputs: Sequence[Any]) -> LinearBound:
    """Linear bounds of any operator's output, from its relaxation."""
    lower, upper = zip(*((_through(low, inputs, False), _through(high, inputs, True))
                         for low, high in relaxations(node, inputs)), strict=True)
    shape = node.output_shape[1:]
    (lw, lb), (uw, ub) = (_joined(parts, shape) for parts in (lower, upper))
    return LinearBound(lw, lb, uw, ub)


def _through(side: Side, inputs: Sequence[Any], is_upper: bool) -> tuple[Tensor | None, Tensor]:
    """One side, with linear bounds for its variables: (B, d, S) or None, and (B, S)."""
    weights, bias = None, side.bias
    for A, x in zip(side.coefficients, inputs, strict=True):
        if A is None:
            continue
        A = _flat(A, 2)
        near, far = (x.ub, x.lb) if is_upper else (x.lb, x.ub)
        bias = bias + _by_sign(A, _flat(near, 1), _flat(far, 1), "sbn,bn->bs")
        if x.lw is not None:
            near, far = (x.uw, x.lw) if is_upper else (x.lw, x.uw)
            part = _by_sign(A, _flat(near, 2), _flat(far, 2), "sbn,bdn->bds")
            weights = part if weights is None else weights + part
    return weights, bias


def _flat(x: Tensor, dims: int) -> Tensor:
    """All but the first dimensions as one, also where what is left is one number."""
    return x.reshape(*x.shape[:dims], math.prod(x.shape[dims:]))


def _by_sign(A: Tensor, near: Tensor, far: Tensor, sum_: str) -> Tensor:
    """A times one factor where A > 0, times the other where A < 0, summed up."""
    return torch.einsum(sum_, A.clamp(min=0), near) + torch.einsum(sum_, A.clamp(max=0), far)


def _joined(parts: Sequence[tuple[Tensor | None, Tensor]],
            shape: Sequence[int]) -> tuple[Tensor | None, Tensor]:
    weights = [part[0] for part in parts]
    bias = torch.cat([part[1] for part in parts], 1)
    some = next((w for w in weights if w is not None), None)
    if some is None:
        return None, bias.reshape(-1, *shape)
    filled = [bias.new_zeros(*some.shape[:2], b.shape[1]) if w is None else w for w, b in parts]
    return torch.cat(filled, 2).reshape(*some.shape[:2], *shape), bias.reshape(-1, *shape)


def by_planes(planes: Sequence[tuple[Tensor, ...]], nodes: Sequence[Any], inputs: Sequence[Any],
              shape: Sequence[int]) -> LinearBound:
    """Linear bounds of an operator bounded entry by entry, from its planes below and above."""
    sides = [_through_plane(plane, nodes, inputs, bool(k), shape) for k, plane in enumerate(planes)]
    return LinearBound(*sides[0], *sides[1])


def _through_plane(plane: tuple[Tensor, ...], nodes: Sequence[Any], inputs: Sequence[Any],
                   is_upper: bool, shape: Sequence[int]) -> tuple[Tensor | None, Tensor]:
    weights, bias = None, plane[-1]
    for slope, node, x in zip(plane[:-1], nodes, inputs, strict=True):
        near, far = (x.ub, x.lb) if is_upper else (x.lb, x.ub)
        bias = bias + slope.clamp(min=0) * near + slope.clamp(max=0) * far
        if node.perturbed and x.lw is not None:
            near, far = (x.uw, x.lw) if is_upper else (x.lw, x.uw)
            part = slope.clamp(min=0)[:, None] * near + slope.clamp(max=0)[:, None] * far
            weights = part if weights is None else weights + part
    bias = bias.expand(-1, *shape)
    return None if weights is None else weights.expand(*weights.shape[:2], *shape), bias


def by_map(function: Callable[..., Tensor], magnitude: Callable[[Tensor], Tensor] | None,
           fixed: dict[int, Tensor], inputs: Sequence[Any]) -> LinearBound:
    """Linear bounds of an affine map's output: its linear part, applied to each entry's
    coefficients.

    Args:
        function: of all inputs.
        magnitude: of the first input, by how much the output changes at most; None: the map
            increases in all inputs.
        fixed: values of the inputs that do not move: constants of the map.
        inputs: linear bounds of all inputs.
    """
    moving = [i for i in range(len(inputs)) if i not in fixed]

    def of_moving(*values: Tensor) -> Tensor:
        arguments = fixed | dict(zip(moving, values, strict=True))
        return function(*(arguments[i] for i in range(len(inputs))))

    xs = [inputs[i] for i in moving]
    is_one = all(x.lw is x.uw and x.lb is x.ub for x in xs)
    if magnitude is None or is_one:
        lower = _mapped(of_moving, [x.lw for x in xs], [x.lb for x in xs])
        upper = lower if is_one else _mapped(of_moving, [x.uw for x in xs], [x.ub for x in xs])
        return LinearBound(*lower, *upper)
    x = xs[0]
    center = _mapped(of_moving, [None if x.lw is None else (x.lw + x.uw) / 2], [(x.lb + x.ub) / 2])
    reach = _mapped(magnitude, [None if x.lw is None else (x.uw - x.lw) / 2], [(x.ub - x.lb) / 2])
    (w, b), (dw, db) = center, reach
    if w is None or dw is None:
        return LinearBound(None, b - db, None, b + db)
    return LinearBound(w - dw, b - db, w + dw, b + db)


def _mapped(function: Callable[..., Tensor], weights: Sequence[Tensor | None],
            biases: Sequence[Tensor]) -> tuple[Tensor | None, Tensor]:
    """The linear part of a function at coefficients, and its value at what is added."""
    value = function(*biases)
    some = next((w for w in weights if w is not None), None)
    if some is None:
        return None, value
    if some.shape[1] == 0:
        return value.new_zeros(len(value), 0, *value.shape[1:]), value
    filled = [b.new_zeros(len(b), some.shape[1], *b.shape[1:]) if w is None else w
              for w, b in zip(weights, biases, strict=True)]

    def linear(*tangents: Tensor) -> Tensor:
        return torch.func.jvp(function, tuple(torch.zeros_like(t) for t in tangents), tangents)[1]

    return torch.vmap(linear, in_dims=1, out_dims=1)(*filled), value


# Dynamic forward mode


def window(node: Any, inputs: Sequence[Any], most: int, offset: int) -> LinearBound:
    """The affine form of any operator's output: its coefficients of `most` variables from `offset`
    on.

    Variables are those of all nodes together, numbered in the order in which nodes are met, so that
    branches which meet again speak of the same ones: the one input that moves keeps the count.
    """
    moving = [(i, x) for i, x in enumerate(inputs) if node.inputs[i].perturbed]
    pieces = relaxations(node, inputs)
    total = max(x.tot_dim for _, x in moving)
    fresh = None
    if any(low is not high for low, high in pieces):
        fresh = torch.cat([_between(node, low, high) for low, high in pieces], 1)
        total = _first_fresh(node, fresh.shape[1]) + fresh.shape[1]
    width = max(0, min(most, total - offset))
    weights, bias = [], []
    for low, high in pieces:
        middle = low if low is high else _middle(node, low, high)
        parts = [LinearBound(_padded(x.lw, width, 1), x.lb, _padded(x.lw, width, 1), x.lb)
                 for x in inputs]
        w, b = _through(middle, parts, False)
        weights.append(b.new_zeros(len(b), width, b.shape[1]) if w is None else w)
        bias.append(b)
    shape = node.output_shape[1:]
    lw, lb = torch.cat(weights, 2), torch.cat(bias, 1).reshape(-1, *shape)
    if fresh is not None:
        lw = lw + _diagonal(fresh, total - fresh.shape[1] - offset, width)
    lw = lw.reshape(*lw.shape[:2], *shape)
    x_L, x_U = (_ranges([getattr(x, side) for _, x in moving], width, end)
                for side, end in (("x_L", -1), ("x_U", 1)))
    return LinearBound(lw, lb, lw, lb, x_L=x_L, x_U=x_U, offset=offset, tot_dim=total)


def _first_fresh(node: Any, count: int) -> int:
    """The number of a node's first fresh variable: one for all calls with the same inputs."""
    root = next(n for n in _before(node) if getattr(n, "perturbation", None) is not None)
    numbers = root.linear.__dict__.setdefault("fresh_variables", {})
    if node.name not in numbers:
        numbers[node.name] = (root.linear.lw.shape[1] + sum(taken for _, taken in numbers.values()),
                              count)
    return numbers[node.name][0]


def _before(node: Any) -> list[Any]:
    """A node and all that it depends on."""
    found, stack = {node.name: node}, [node]
    while stack:
        new = [n for n in stack.pop().inputs if n.name not in found]
        found.update((n.name, n) for n in new)
        stack += new
    return list(found.values())


def _middle(node: Any, low: Side, high: Side) -> Side:
    """Halfway between the sides of a relaxation, and in the middle of what they leave open."""
    coefficients = tuple(None if a is None or b is None else (a + b) / 2
                         for a, b in zip(low.coefficients, high.coefficients, strict=True))
    least, most = _ends(node, low, high)
    return Side(coefficients, (least + most) / 2)


def _between(node: Any, low: Side, high: Side) -> Tensor:
    """How far the output is from the middle at most, (B, S)."""
    if low is high:
        return torch.zeros_like(low.bias)
    least, most = _ends(node, low, high)
    return (most - least).clamp(min=0) / 2


def _ends(node: Any, low: Side, high: Side) -> tuple[Tensor, Tensor]:
    """Least and largest difference of the sides to their mean slope, in the bounds of the inputs:
    (B, S).
    """
    least, most = low.bias, high.bias
    for a, b, n in zip(low.coefficients, high.coefficients, node.inputs, strict=True):
        if a is None or b is None or a is b or torch.equal(a, b):
            continue
        slope = _flat(b - a, 2) / 2
        lower, upper = _flat(n.lower, 1), _flat(n.upper, 1)
        most = most + _by_sign(slope, upper, lower, "sbn,bn->bs")
        least = least - _by_sign(slope, upper, lower, "sbn,bn->bs")
    return least, most


def _padded(weights: Tensor | None, width: int, dim: int, value: float = 0.0) -> Tensor | None:
    """With as many more variables as there are."""
    if weights is None or weights.shape[dim] == width:
        return weights
    shape = list(weights.shape)
    shape[dim] = width - shape[dim]
    return torch.cat([weights, weights.new_full(shape, value)], dim)


def _diagonal(values: Tensor, start: int, width: int) -> Tensor:
    """Coefficients (B, width, S) of an own variable for each entry, the first of which has the
    number `start`.
    """
    result = values.new_zeros(len(values), width, values.shape[1])
    first, last = max(0, -start), min(values.shape[1], width - start)
    if first < last:
        entries = torch.arange(first, last, device=values.device)
        result[:, entries + start, entries] = values[:, first:last]
    return result


def _ranges(sides: Sequence[Tensor], width: int, end: float) -> Tensor:
    """One side of the variables' ranges: that of the input's entries, and of fresh variables."""
    most = max(sides, key=lambda side: side.shape[1])
    padded = _padded(most, width, 1, end)
    assert padded is not None
    return padded
