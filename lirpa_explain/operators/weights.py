"""Products with a parameter that moves: y = op(x, W), linear in x and linear in W.

With W = C + D and |D| <= R, entry by entry, and coefficients A of y,

    A op(x, W) = A op(x, C) + A op(x, D),    |A op(x, D)| <= |A| op(|x|, R),

where |x| is at most its chord on [lower, upper], which is exact where x keeps one sign. So the
bounds of y are linear in x, and the parameter's share is in their slopes and constants: nothing has
to be propagated to it. A parameter that occurs more than once, as in a forward and a backward pass,
is bounded as if it moved independently in each place.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from .bound import both_sides, box_of, flat_functions, weighted_sum

Pull = Callable[[Tensor], Tensor]


CANCELS = 0.9
"""Share of the chord's reach below which a constant is the better bound, although it does not
follow x."""


def chord(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of the lowest line above |x| on [lower, upper].

    Example:
        >>> slope, offset = chord(torch.tensor([-1.0, 1.0]), torch.tensor([3.0, 2.0]))
        >>> slope.tolist(), offset.tolist()
        ([0.5, 1.0], [1.5, 0.0])
    """
    crosses = changes_sign(lower, upper)
    width = torch.where(crosses, upper - lower, torch.ones_like(upper))
    slope = torch.where(crosses, (upper + lower) / width,
                        torch.where(lower >= 0, 1.0, -1.0).to(lower))
    return slope, torch.where(crosses, -2 * lower * upper / width, torch.zeros_like(lower))


def changes_sign(lower: Tensor, upper: Tensor) -> Tensor:
    """Where a value may be on both sides of 0, so that tighter bounds of it lower the chord."""
    return (lower < 0) & (upper > 0)


def shared_reach(function: Callable[[Tensor, Tensor], Tensor], x: Box, center: Tensor,
                 radius: Tensor) -> Pull:
    """Bounds (S, B) of |A op(x, D)| over both boxes, for a weight that is used at many places of a
    row.

    With G(A, x) the gradient of A op(x, W) by W, which is linear in x and in A, it is |G(A, x) D|,
    at most

        sum R |G(A, x)|  <=  sum R (|G(A, centre of x)| + G(|A|, radius of x)),

    in which what a weight does at several places may cancel.

    Args:
        function: op on rows, `function(x, W)`.
        x: bounds of x, (B, *S) each.
        center: C.
        radius: R.
    """
    middle, spread = x.around

    def gradient(x: Tensor, A: Tensor) -> Tensor:
        return torch.func.vjp(lambda weight: function(x[None], weight), center)[1](A[None])[0]

    of_rows = torch.vmap(torch.vmap(gradient), (None, 0))  # (B, *x) and (S, B, *y) -> (S, B, *W)
    return lambda A: flat_functions((of_rows(middle, A).abs() + of_rows(spread, A.abs()))
                                    * radius).sum(2)


def product_sides(last_lower: Tensor | None, last_upper: Tensor | None, nodes: tuple[Any, ...],
                  at: int, pull: Pull, spread: Pull, shared: Pull | None = None) -> Any:
    """The sides of y = op(x, W), as `Bound.bound_backward` returns them.

    Args:
        last_lower: coefficients of the lower bound, (S, B, *output), or None.
        last_upper: coefficients of the upper bound, likewise.
        nodes: all inputs of the operator.
        at: which of them is x.
        pull: maps A to the coefficients (S, B, *x) of x in A op(x, C).
        spread: the same with R in place of C.
        shared: maps A to a bound (S, B) of |A op(x, D)|, which is taken for those functions for
            which it is much lower.
    """
    x = nodes[at]
    box = box_of(x)
    largest = box.size
    slope, offset = chord(*box) if x.perturbed else (torch.zeros_like(largest), largest)
    others: list[Tensor | None] = [None] * len(nodes)

    def side(sign: int) -> Callable[[Tensor], tuple[list[Tensor | None], Tensor]]:
        def bound(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
            reach = spread(A.abs())
            constant = weighted_sum(reach, offset)
            if shared is not None:
                alone = shared(A)
                is_lower = alone < CANCELS * weighted_sum(reach, largest)
                reach = torch.where(is_lower.reshape(*is_lower.shape, *[1] * (reach.ndim - 2)), 0.0,
                                    reach)
                constant = torch.where(is_lower, alone, constant)
            if not x.perturbed:
                return others, weighted_sum(pull(A), box.lower) + sign * constant
            return [*others[:at], pull(A) + sign * reach * slope, *others[at + 1:]], sign * constant

        return bound

    return both_sides(last_lower, last_upper, side(-1), side(1))
