"""The one exit: bounds leave the package through here, held against what was computed at points of
the set.

A contradiction between a bound and a value, or between two ways to compute one, is never widened
away: it is looked into, as roundings, and what they do not explain raises `SoundnessError`. No
other module raises that, or widens bounds towards a value.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..bounding.ball import Ball, make_balls
from ..bounding.compose import Composed
from ..boxes import Box
from ..errors import SoundnessError
from ..rounding import LAST, TOLERANCE, unit


def issued(composed: Composed, nominal: Tensor,
           around: Callable[[float], Composed]) -> tuple[Box, Tensor]:
    """Bounds of an attribution that may leave, and by how much they were moved outward, (N, D).

    Args:
        composed: bounds, value and error by the gradient module.
        nominal: the same by Captum, (N, D).
        around: interval bounds of what is computed in floating point, on a ball of a given radius
            around the inputs.

    Raises:
        SoundnessError: the values contradict each other, or the bounds.
    """
    check_value(composed, nominal, around)
    error = end_error(composed)
    return _enclose(composed.box.outward(error), nominal), error


def issued_outward(composed: Composed, nominal: Tensor, around: Callable[[float], Composed]) -> Box:
    """Bounds of what is computed in floating point, which hold the value to the last digit; else as
    `issued`.
    """
    check_value(composed, nominal, around)
    check_within(composed.box, nominal)
    return composed.box


def issued_estimates(composed: Composed, nominal: Tensor,
                     around: Callable[[float], Composed]) -> Box:
    """Bounds of what samples estimate, whose mean is Captum's value; else as `issued`, and not
    moved outward.
    """
    check_value(composed, nominal, around)
    return _enclose(composed.box, nominal)


def issued_numbers(box: Box, value: Tensor, terms: Tensor, what: str,
                   nominal: Tensor | None = None) -> Box:
    """Bounds of numbers of any kind, such as margins, linear functions or distances, that may
    leave.

    Args:
        box: the bounds.
        value: what was computed of that at a point of the set, of their shape, by what the bounds
            were computed by.
        terms: the sizes of what is added up to it, which broadcast to it: the scale of roundings.
        what: the numbers' name, in the plural.
        nominal: the same in another way, for instance by Captum; it was compared with `value`
            before.

    Raises:
        SoundnessError: a value lies outside by more than roundings.
    """
    check_numbers(box, value, terms, what)
    box = _enclose(box, value)
    return box if nominal is None else _enclose(box, nominal)


def check_numbers(box: Box, value: Tensor, terms: Tensor, what: str) -> None:
    """Raise SoundnessError where numbers lie outside of their bounds by more than roundings; see
    `issued_numbers`.
    """
    outside = box.outside(value)
    tolerance = TOLERANCE[value.dtype] * terms
    if not bool((outside <= tolerance).all()):
        raise SoundnessError(f"{what} lie outside of their bounds by up to "
                             f"{float(outside.max()):.3g} (rounding explains "
                             f"{float(tolerance.max()):.3g}). This is a defect: please report the "
                             "model and the input.")


def check_holds(holds: Tensor, words: str) -> None:
    """Raise SoundnessError, with these words, unless something that a proof implies holds
    everywhere.
    """
    if not bool(holds.all()):
        raise contradicted(f"{words} This is a defect: please report the model and the input.")


def contradicted(words: str) -> SoundnessError:
    """The error of a certificate that is wrong, for whoever finds it to be."""
    return SoundnessError(words)


def check_value(composed: Composed, nominal: Tensor, around: Callable[[float], Composed]) -> None:
    """Captum's value must be the gradient module's, and lie within the bounds, but for roundings.

    Where they differ by more than roundings usually move a value, what these can make of it in the
    worst case decides: one of them may put a pre-activation on the other side of a kink, or choose
    another of tied maxima. A NaN where Captum has a number is never explained.

    Args:
        composed: bounds, value and error by the gradient module.
        nominal: Captum's value, (N, D).
        around: interval bounds of what is computed in floating point, on a ball of a given radius
            around the inputs.

    Raises:
        SoundnessError: the values contradict each other, or the bounds.
    """
    u = unit(nominal.dtype)
    outside = composed.box.outside(composed.value)
    size = composed.box.size.nan_to_num(posinf=0)
    difference = (composed.value - nominal).abs()
    tolerance = composed.error + LAST * u * size
    if bool((outside <= tolerance).all()) and bool((difference <= composed.error).all()):
        return
    near = around(u).box
    reached = [near.contains(value) for value in (nominal, composed.value)]
    unexplained = ~((difference <= composed.error) | reached[0] & reached[1])
    if bool(unexplained.any()):
        worst = int(
            torch.where(unexplained, difference.nan_to_num(nan=torch.inf), -1.0).flatten().argmax())
        raise SoundnessError(
            f"The traced gradient gives {composed.value.flatten()[worst]:.9g} where Captum gives "
            f"{nominal.flatten()[worst]:.9g} (entry {worst} of the flattened attribution). The "
            "model is not a fixed function of one example, or this is a defect: please report it.")
    far = around(1.0).box
    scale = far.size.nan_to_num(posinf=0).amax(1, keepdim=True)
    tolerance = torch.maximum(tolerance + near.width.nan_to_num(posinf=0), 2 * LAST * u * scale)
    if not bool((outside <= tolerance).all()):
        raise SoundnessError(
            f"The attribution lies outside its bounds by up to {float(outside.max()):.3g} "
            f"(rounding explains {float(tolerance.max()):.3g}). This is a defect: please report "
            "the model and the input.")


def check_within(box: Box, value: Tensor) -> None:
    """Bounds of what is computed in floating point must contain what was computed, to the last
    digit.

    Raises:
        SoundnessError: they do not.
    """
    outside = box.outside(value)
    if bool((outside > 0).any()):
        raise SoundnessError(
            f"The attribution lies outside its outward bounds by {float(outside.max()):.3g}. "
            "Either the device computes with less precision than the type has (TF32, Winograd "
            "convolutions), and that must be off; or this is a defect: please report the model and "
            "the input.")


def around(xs: tuple[Tensor, ...], radius: float) -> tuple[Ball | None, ...]:
    """Balls around the inputs, of a radius relative to their largest entry, or to 1 if that is
    smaller.
    """
    return make_balls(xs, eps=tuple(radius * x.detach().abs().max().clamp(min=1) for x in xs))


def end_error(composed: Composed) -> Tensor:
    """By how much bounds are moved outward in the end: what roundings move the value by, and their
    own last ones.
    """
    size = composed.box.size.detach().nan_to_num(posinf=0)
    error = composed.error if composed.margin is None else composed.margin
    return error.nan_to_num(posinf=0) + LAST * unit(size.dtype) * size


def _enclose(box: Box, nominal: Tensor) -> Box:
    """Bounds that contain a value that was compared with them, exactly; their derivatives are as
    before.
    """
    lower, upper = box
    return Box(torch.where(lower > nominal, nominal + (lower - lower.detach()), lower),
               torch.where(upper < nominal, nominal + (upper - upper.detach()), upper))
