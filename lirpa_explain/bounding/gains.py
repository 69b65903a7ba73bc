"""How much bounds can gain from knowing a node: the coefficients that arrive at the relaxations
that its values decide, times the gaps of these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from ..operators.activation import BoundActivation, BoundActivationGradient
from ..operators.bound import Coefficient, flat_functions
from ..operators.local import Local
from ..operators.planes import BoundPlanes, to_shape

KINKS = ("kink", "kink_gradient")
"""Operators whose one break is a kink at 0, so that both sides of it are straight."""


def splittable(operator: BoundPlanes) -> int | None:
    """Which input decides an operator's relaxation by itself, being cut in two; None if none."""
    if isinstance(operator, BoundActivation):
        return 0
    return 1 if isinstance(operator, BoundActivationGradient) else None


@contextlib.contextmanager
def watching(
    operators: Sequence[BoundPlanes], see: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Have relaxed operators say, by their names, which coefficients (S, B, *output) arrive."""

    def watch(operator: BoundPlanes, A: Coefficient) -> None:
        see(operator.name, A.dense() if isinstance(A, Local) else A)

    try:
        for operator in operators:
            operator.watch = watch
        yield
    finally:
        for operator in operators:
            operator.watch = None


def gains(
    operators: Sequence[BoundPlanes], seen: Mapping[str, Tensor], by_one: bool
) -> dict[str, Tensor]:
    """Sizes of coefficients times the gaps of relaxations, by the nodes whose values decide them.

    Args:
        operators: those that were watched.
        seen: the coefficients, (S, B, *output), by operator.
        by_one: of relaxations that one node decides; else of the others, as products.

    Returns:
        (B, S, n), by node.
    """
    found: dict[str, Tensor] = {}
    for operator in operators:
        place = splittable(operator)
        if operator.name not in seen or (place is not None) != by_one:
            continue
        gain = seen[operator.name].abs() * operator.gap().abs()
        places = operator.relaxed_inputs() if place is None else [place]
        for node in (operator.inputs[i] for i in places if operator.inputs[i].perturbed):
            own = flat_functions(to_shape(gain, node)).transpose(0, 1)
            found[node.name] = found[node.name] + own if node.name in found else own
    return found
