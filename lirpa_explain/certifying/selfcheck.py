"""The check of every certificate against the attribution itself."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..bounding.ball import Ball, make_balls
from ..bounding.compose import Composed
from ..errors import SoundnessError
from ..operators.bound import Box

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference between Captum's value and the gradient module's, relative to the sum of all terms' sizes."""


def check_value(composed: Composed, nominal: Tensor, around: Callable[[float], Composed]) -> None:
    """Captum's value must be the gradient module's, and lie within the bounds.

    Two things look like contradictions and are none, and are looked into before one is reported. At a kink one
    rounding can switch a derivative: a difference of the values must be one that moving the input by roundings
    explains. And where no neuron is active all terms vanish, while coefficients round as if it were: the scale of
    roundings is then that of the attribution at other inputs.

    Args:
        composed: bounds and value by the gradient module.
        nominal: Captum's value, (N, D).
        around: interval bounds of the attribution on a ball of a given radius around the inputs.

    Raises:
        SoundnessError: the values contradict each other, or the bounds.
    """
    tolerance = TOLERANCE[nominal.dtype] * composed.magnitude.amax(1, keepdim=True)
    outside = torch.maximum(composed.lower - composed.value, composed.value - composed.upper)
    difference = (composed.value - nominal).abs()
    if bool((outside <= tolerance).all()) and bool((difference <= tolerance).all()):
        return
    far, precision = around(1.0), torch.finfo(nominal.dtype).eps
    scale = torch.maximum(far.lower.abs(), far.upper.abs()).nan_to_num(posinf=0).amax(1, keepdim=True)
    tolerance = torch.maximum(tolerance, 16 * precision * scale)
    if not bool((difference <= tolerance).all()):
        near = around(64 * precision)
        low, high = near.lower - tolerance, near.upper + tolerance
        explained = [(low <= value) & (value <= high) for value in (nominal, composed.value)]
        if not bool(torch.stack(explained).all()):
            worst = int(difference.sub(tolerance).flatten().argmax())
            raise SoundnessError(
                f"The traced gradient gives {composed.value.flatten()[worst]:.9g} where Captum gives "
                f"{nominal.flatten()[worst]:.9g} (entry {worst} of the flattened attribution). The model is not a "
                "fixed function of one example, or this is a defect: please report it."
            )
    if not bool((outside <= tolerance).all()):
        raise SoundnessError(
            f"The attribution lies outside its bounds by up to {float(outside.max()):.3g} (rounding explains "
            f"{float(tolerance.max()):.3g}). This is a defect: please report the model and the input."
        )


def around(xs: tuple[Tensor, ...], radius: float) -> tuple[Ball | None, ...]:
    """Balls around the inputs, of a radius relative to their largest entry, or to 1 if that is smaller."""
    return make_balls(xs, eps=tuple(radius * x.detach().abs().max().clamp(min=1) for x in xs))


def enclose(box: Box, nominal: Tensor) -> Box:
    """Bounds that contain the nominal value exactly, and not only up to rounding; their derivatives are as before."""
    lower, upper = box
    return (torch.where(lower > nominal, nominal + (lower - lower.detach()), lower),
            torch.where(upper < nominal, nominal + (upper - upper.detach()), upper))
