"""What a verifier returned, looked at by Captum."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..certifying.nominal import attribute
from ..inputs import check_inputs
from .properties import Property


@dataclass(frozen=True)
class Replayed:
    """An attribution at a counterexample.

    Args:
        attribution: Captum's there, (1, *S).
        nominal: Captum's at the inputs.
        margins: of the property there, (K,); None without one.
        broken: whether the property is broken there; None without one.
    """

    attribution: Tensor
    nominal: Tensor
    margins: Tensor | None = None
    broken: bool | None = None


def replay(attribution: Any, inputs: Tensor, counterexample: Tensor | Sequence[float], *,
           property: Property | None = None, **attribute_kwargs: Any) -> Replayed:
    """Evaluate Captum's attribution at a counterexample.

    Args:
        attribution: the Captum object.
        inputs: the example that was verified, (1, *S).
        counterexample: as many numbers, in any shape.
        property: what it should break.
        **attribute_kwargs: keywords of `attribution.attribute`.

    Raises:
        ValueError: the counterexample has not as many entries as the input.

    Example:
        >>> import lirpa_explain as lx
        >>> from captum.attr import InputXGradient
        >>> found = replay(InputXGradient(torch.nn.Linear(2, 1)), torch.ones(1, 2), [-1.0, 1.0],
        ...                target=0, property=lx.PROPERTIES["sign"]([0]))
        >>> found.broken
        True
    """
    x, = check_inputs(inputs)
    point = torch.as_tensor(counterexample, dtype=x.dtype, device=x.device)
    if point.numel() != x.numel() or len(x) != 1:
        raise ValueError(f"The counterexample must have the {x.numel()} entries of one example; "
                         f"given: {point.numel()}.")
    nominal = attribute(attribution, x, (x,), attribute_kwargs)
    there = attribute(attribution, x, (point.reshape(x.shape),), attribute_kwargs)
    if property is None:
        return Replayed(there.parts[0], nominal.parts[0])
    margins = property.margins(nominal.flat[0])(there.flat)[0]
    return Replayed(there.parts[0], nominal.parts[0], margins, bool((margins <= 0).any()))
