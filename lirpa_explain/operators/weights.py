"""Products with a parameter that moves: y = op(x, W), linear in x and linear in W.

With W = C + D and |D| <= R, entry by entry, and coefficients A of y,

    A op(x, W) = A op(x, C) + A op(x, D),    |A op(x, D)| <= |A| op(|x|, R),

where |x| is at most its chord on [lower, upper], which is exact where x keeps one sign. So the bounds of y are linear
in x, and the parameter's share is in their slopes and constants: nothing has to be propagated to it. A parameter that
occurs more than once, as in a forward and a backward pass, is bounded as if it moved independently in each place.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .bound import Box, both_sides, box_of, value_of, weighted_sum

Pull = Callable[[Tensor], Tensor]


def center_radius(box: Box) -> tuple[Tensor, Tensor]:
    """Centre and radius of a box."""
    lower, upper = box
    return (upper + lower) / 2, (upper - lower) / 2


def chord(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of the lowest line above |x| on [lower, upper].

    Example:
        >>> slope, offset = chord(torch.tensor([-1.0, 1.0]), torch.tensor([3.0, 2.0]))
        >>> slope.tolist(), offset.tolist()
        ([0.5, 1.0], [1.5, 0.0])
    """
    crosses = changes_sign(lower, upper)
    width = torch.where(crosses, upper - lower, torch.ones_like(upper))
    slope = torch.where(crosses, (upper + lower) / width, torch.where(lower >= 0, 1.0, -1.0).to(lower))
    return slope, torch.where(crosses, -2 * lower * upper / width, torch.zeros_like(lower))


def changes_sign(lower: Tensor, upper: Tensor) -> Tensor:
    """Where a value may be on both sides of 0, so that tighter bounds of it lower the chord."""
    return (lower < 0) & (upper > 0)


def product_sides(last_lower: Tensor | None, last_upper: Tensor | None, nodes: tuple[Any, ...], at: int, pull: Pull,
                  spread: Pull) -> Any:
    """The sides of y = op(x, W), as `Bound.bound_backward` returns them.

    Args:
        last_lower: coefficients of the lower bound, (S, B, *output), or None.
        last_upper: coefficients of the upper bound, likewise.
        nodes: all inputs of the operator.
        at: which of them is x.
        pull: maps A to the coefficients (S, B, *x) of x in A op(x, C).
        spread: the same with R in place of C.
    """
    x = nodes[at]
    coefficients: list[Tensor | None] = [None] * len(nodes)
    if not x.perturbed:
        value = value_of(x)
        return both_sides(last_lower, last_upper, *(
            lambda A, sign=sign: (coefficients, weighted_sum(pull(A), value)
                                  + sign * weighted_sum(spread(A.abs()), value.abs())) for sign in (-1, 1)))
    slope, offset = chord(*box_of(x))

    def side(sign: int) -> Callable[[Tensor], tuple[list[Tensor | None], Tensor]]:
        def bound(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
            reach = sign * spread(A.abs())
            return [*coefficients[:at], pull(A) + reach * slope, *coefficients[at + 1:]], weighted_sum(reach, offset)

        return bound

    return both_sides(last_lower, last_upper, side(-1), side(1))
