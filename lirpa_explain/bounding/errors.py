"""How far roundings carry: a value's error, and all that rounding may make of it.

`value_and_error` computes a module several times, each step's result moved at random by a few units
of the terms that it adds up (stochastic arithmetic, Vignes 1974): what comes of it has the size of
the roundings, with all that cancels between steps cancelled. `Reach` widens the interval of each
step by more of these: whatever side of a kink, and whichever of tied maxima, roundings may choose
lies in it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..graph import GradientModule
from ..graph.module import Step
from ..operators.activation import BoundActivation, BoundActivationGradient
from ..operators.bound import BoundOperator
from ..operators.max_pooling import BoundMaxPoolGradient
from ..operators.order import BoundPut
from ..operators.reference import BoundReferenceGradient
from ..operators.secant import BoundSecantGradient
from ..operators.terms import CARRIED, EXACT, terms
from ..operators.unperturbed import BoundUnperturbed
from ..relaxations.ranges import product_range
from ..rounding import PROBES, REACH, SPREAD, underflow, unit
from .intervals import argument, bound_operator

JUMP = 2.0 ** -10
"""Relative change of a derivative within a few roundings beyond which it is a jump. Bounds on any
ball hold for both sides of one that is so near, and do not need to be moved by it."""

JUMPING = frozenset({"sign", "window", "threshold", "hardshrink"})
"""Functions of one variable that jump themselves."""


class Terms:
    """The terms of the steps of a module, one step after the other.

    Args:
        module: the module.
    """

    def __init__(self, module: GradientModule) -> None:
        self.operators = {step.output: bound_operator(step) for step in module.steps}
        self._leaving = {name for step in module.steps if step.operator not in CARRIED
                         for name in step.inputs}
        self._leaving.add(module.output)
        self._uncancelled: dict[str, Tensor] = {}

    def of(self, step: Step, boxes: Sequence[Box], result: Box) -> tuple[Tensor, Tensor | None]:
        """Sums of the sizes of terms of each entry of a step's result.

        Returns:
            Of the terms that the step adds up, 0 where nothing is rounded; and where a chain of
            sums and products ends, of all that it is made of, if it is one, else None.
        """
        operator, size = self.operators[step.output], result.size
        sizes = [box.size for box in boxes]
        added = (torch.zeros_like(size) if step.operator in EXACT
                 else terms(operator, boxes, sizes, size))
        if step.operator not in CARRIED:
            return added, None
        carried = [self._uncancelled.get(name, own)
                   for name, own in zip(step.inputs, sizes, strict=True)]
        whole = carried[0] if step.operator == "center" else terms(operator, boxes, carried, size)
        self._uncancelled[step.output] = whole
        return added, whole if step.output in self._leaving and step.operator not in EXACT else None


@torch.no_grad()
def value_and_error(module: GradientModule, inputs: tuple[Tensor, ...],
                    errors: Sequence[Tensor | None], count: int = PROBES) -> tuple[Tensor, Tensor]:
    """What a module computes, and about how far roundings may have moved it.

    Args:
        module: the module.
        inputs: with B rows each.
        errors: how far each input may be off, of its shape; None: not at all.
        count: how many times roundings are tried.

    Returns:
        Value and error, (B, D) each. The error is found by chance: it exceeds the rounding of
        nearly every entry, and is proven of none.
    """
    rows, known = len(inputs[0]), Terms(module)
    generator = torch.Generator(inputs[0].device).manual_seed(0)

    def probes(value: Tensor, error: Tensor | None) -> Tensor:
        """A value (B, *S) and its probes, moved by up to the error; the same in each row."""
        if error is None:
            return value.repeat(1 + count, *[1] * (value.ndim - 1)) if len(value) == rows else value
        value = value if len(value) > rows else value.repeat(1 + count, *[1] * (value.ndim - 1))
        shape = count, 1, *value.shape[1:]
        noise = torch.rand(shape, generator=generator, dtype=value.dtype,
                           device=value.device) * 2 - 1
        clean, moved = value[:rows], value[rows:].unflatten(0, (count, rows))
        return torch.cat([clean, (moved + noise * error).flatten(0, 1)])

    values = {name: probes(x, error)
              for name, x, error in zip(module.input_names, inputs, errors, strict=True)}
    fixed = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    last = {name: step for step in module.steps for name in step.inputs}
    for step in module.steps:
        arguments = [values[n] if n in values else fixed[n] for n in step.inputs]
        operator = known.operators[step.output]
        result = _frozen(operator, arguments, rows)
        if isinstance(operator, BoundUnperturbed):
            fixed[step.output] = result
            continue
        clean = [Box.point(x[:rows] if n in values else x)
                 for n, x in zip(step.inputs, arguments, strict=True)]
        added, whole = known.of(step, clean, Box.point(result[:rows]))
        if step.operator not in EXACT:
            error = SPREAD * added if whole is None else SPREAD * added + whole
            result = probes(result,
                            unit(result.dtype) * error + underflow(result.dtype) * (error > 0))
        values[step.output] = result
        for name in set(step.inputs) - {module.output}:
            if last[name] is step:
                values.pop(name, None)  # so many rows of it are large
    value, moved = values[module.output].split([rows, count * rows])
    distance = (moved.unflatten(0, (count, rows)) - value).abs().amax(0)
    return value, distance.nan_to_num(nan=torch.inf)


def _frozen(operator: BoundOperator, arguments: list[Tensor], rows: int) -> Tensor:
    """An operator's result for all rows, where the probes' do not jump."""
    if operator.decided_by is not None:
        given, z = list(arguments), arguments[operator.decided_by]
        given[operator.decided_by] = z[:rows].repeat(len(z) // rows, *[1] * (z.ndim - 1))
        return operator.forward(*given)
    if isinstance(operator, BoundReferenceGradient):
        g, t, *given = arguments
        kept = operator.forward(g, t, *(x[:rows].repeat(len(x) // rows, *[1] * (x.ndim - 1))
                                        if len(x) > rows else x for x in given))
        return _without_jumps(operator.forward(*arguments), kept, g)
    if isinstance(operator, BoundActivation | BoundActivationGradient | BoundSecantGradient
                  | BoundMaxPoolGradient):
        *gradient, z = arguments[:2] if len(arguments) > 1 else arguments
        still = [*gradient, z[:rows].repeat(len(z) // rows, *[1] * (z.ndim - 1)), *arguments[2:]]
        if isinstance(operator, BoundMaxPoolGradient) or operator.operator.name in JUMPING:
            return operator.forward(*still)
        result = operator.forward(*arguments)
        if gradient:
            result = _without_jumps(result, operator.forward(*still), gradient[0])
        return result
    return operator.forward(*arguments)


def _without_jumps(result: Tensor, kept: Tensor, gradient: Tensor) -> Tensor:
    """A gradient's probes, or what it is with its argument kept where they jump from that."""
    return torch.where((result - kept).abs() <= JUMP * (kept.abs() + gradient.abs()), result, kept)


class Reach:
    """All that the roundings of a module may make of its output, called like an `Engine`.

    Args:
        module: the module.
    """

    def __init__(self, module: GradientModule) -> None:
        self.module = module

    @torch.no_grad()
    def __call__(self, inputs: tuple[Tensor, ...], perturbations: Sequence[Any],
                 method: str = "IBP") -> Box:
        """Bounds (B, D) of the output, with every step widened by `REACH` roundings.

        Args:
            inputs: values of the module's inputs.
            perturbations: where each of them lies, a box; None: at its value.
            method: for the engine's; bounds are intervals.
        """
        module, known = self.module, Terms(self.module)
        boxes: dict[str, Box] = {name: Box.point(x) if p is None else Box(p.x_L, p.x_U)
                                 for name, x, p in zip(module.input_names, inputs, perturbations,
                                                       strict=True)}
        for tensors in (module.named_parameters(recurse=False),
                        module.named_buffers(recurse=False)):
            boxes |= {name: Box.point(tensor) for name, tensor in tensors}
        scale = REACH * unit(inputs[0].dtype)
        for step in module.steps:
            operator, given = known.operators[step.output], [boxes[name] for name in step.inputs]
            operator.inputs = [argument(box) for box in given]
            box = _range(operator, given)
            if not isinstance(operator, BoundUnperturbed):
                added, whole = known.of(step, given, box)
                box = box.outward(scale * (added if whole is None else torch.maximum(added, whole)))
            boxes[step.output] = box
        return boxes[module.output]


def _range(operator: BoundOperator, boxes: list[Box]) -> Box:
    """Interval of an operator's result; at exactly known arguments, by torch's own derivative."""
    if all(box.is_point for box in boxes):
        return Box.point(operator.forward(*[box.lower for box in boxes]))
    if isinstance(operator, BoundMaxPoolGradient | BoundPut):
        return operator.bound_interval(*boxes, ties=False)
    if isinstance(operator, BoundSecantGradient):
        return _secant_range(operator, *boxes)
    box = operator.bound_interval(*boxes)
    if isinstance(operator, BoundActivationGradient):
        z, z_high = boxes[1]
        derivative = operator.forward(torch.ones_like(z), z)
        exact = product_range(boxes[0], Box.point(derivative))
        box = Box(*(torch.where(z == z_high, *sides) for sides in zip(exact, box, strict=True)))
    return box


def _secant_range(operator: BoundSecantGradient, g: Box, z: Box, z0: Box) -> Box:
    """Of g s(z, z0) also where z0 may have been rounded, and with it whether z is near."""
    points = [operator.forward(torch.ones_like(a + b), a, b) for a in z for b in z0]
    ranges = [operator.slopes(z, Box.point(b)) for b in z0]
    exact = (z[0] == z[1]) & (z0[0] == z0[1])
    low, high = (torch.where(exact, points[0],
                             torch.stack([*points, *(r[i] for r in ranges)]).aminmax(dim=0)[i])
                 for i in (0, 1))
    return product_range(g, Box(low, high))
