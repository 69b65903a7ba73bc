"""Smooth stand-ins for the kinks of a gradient module, so that its derivative says where to go.

The gradient of a ReLU net is piecewise constant: its derivative is 0 wherever it exists. An attack therefore takes the
derivative of a smoothed module (Dombrowski et al. 2019 replace ReLU by softplus), and the value of the true one.
"""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import operators
from ..graph import GradientModule
from ..graph.module import Step
from ..operators.elementwise import ACTIVATIONS

BREAKS: dict[str, Callable[..., tuple[float, ...]]] = {
    "kink": lambda slope: (0.0,),
    **{name: lambda build=build, **settings: build(**settings).function.breaks for name, build, _ in ACTIVATIONS},
}
"""Functions of one variable -> the places, given their settings, where their slope may jump."""

JUMPS: dict[str, Callable[..., tuple[float, ...]]] = {
    "sign": lambda: (0.0,),
    "window": lambda low, high, **_: tuple(b for b in (low, high) if b is not None),
    "select": lambda low, high, **_: tuple(b for b in (low, high) if b is not None),
}
"""Functions, or factors of an upstream gradient, whose values jump -> where."""


class Softened:
    """A gradient module whose jumps are smoothed.

    A jump J of a slope d at p becomes d(z) + J (sigmoid(b (z - p)) - [z > p]), and the function itself is moved by
    J (softplus_b(z - p) - relu(z - p)); for a ReLU that is softplus. The width 1 / b is set, for each layer and
    example, as a share of how far its values move over the ball.

    Args:
        module: the gradient module.
        examples: N, how many examples there are.
        sharpness: b in units of 1 / (that movement).
    """

    def __init__(self, module: GradientModule, examples: int, sharpness: float = 1.0) -> None:
        self.module, self.examples, self.sharpness = module, examples, sharpness
        self.reach: dict[str, Tensor] = {}
        self.jumps = {step.output: found for step in module.steps if (found := _jumps(step))}

    def __call__(self, example: Tensor, *inputs: Tensor) -> Tensor:
        """The results (B, D) of the smoothed module at rows of these examples, (B,)."""
        return self.module.run(functools.partial(self._call, example), inputs)

    @torch.no_grad()
    def measure(self, example: Tensor, start: tuple[Tensor, ...], moved: tuple[Tensor, ...],
                there: AbstractContextManager[None]) -> None:
        """Note how far the argument of each jump moves, for each example, from one set of rows to another.

        `there` is entered for the second: the module may have other parameters there.
        """
        def arguments(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
            found: dict[str, Tensor] = {}

            def call(step: Step, *tensors: Tensor) -> Tensor:
                if step.output in self.jumps:
                    found[step.inputs[-1]] = tensors[-1]
                return operators.call(step.operator, *tensors, **step.settings)

            self.module.run(call, inputs)
            return found

        before = arguments(start)
        with there:
            after = arguments(moved)
        for name, z in before.items():
            distance = (after[name] - z).abs().flatten(1).mean(1)
            reach = self.reach.get(name, distance.new_zeros(self.examples))
            self.reach[name] = reach.scatter_reduce(0, example, distance, "amax")

    def _call(self, example: Tensor, step: Step, *tensors: Tensor) -> Tensor:
        result = operators.call(step.operator, *tensors, **step.settings)
        if step.output not in self.jumps:
            return result
        z = tensors[-1]
        reach = self.reach[step.inputs[-1]][example].reshape(-1, *[1] * (z.ndim - 1))
        beta = self.sharpness / reach.clamp(min=torch.finfo(z.dtype).tiny**0.5)
        for place, jump in self.jumps[step.output]:
            t = z - place
            if step.operator in BREAKS and step.operator not in JUMPS:
                result = result + jump * (F.softplus(beta * t) / beta - F.relu(t))
            else:
                smooth = jump * (torch.sigmoid(beta * t) - (t > 0).to(z))
                result = result + (smooth if len(tensors) == 1 else tensors[0] * smooth)
        return result


def _jumps(step: Step) -> list[tuple[float, float]]:
    """Where what a step computes, or its slope, jumps, and by how much."""
    name = step.operator.removesuffix("_gradient")
    if name in JUMPS and step.operator == name:
        places, slope = JUMPS[name](**step.settings), step.operator
    elif name in BREAKS:
        places, slope = BREAKS[name](**step.settings), f"{name}_gradient"
    else:
        return []
    jumps = [(place, _slope(slope, place + _near(place), step.settings) -
              _slope(slope, place - _near(place), step.settings)) for place in places]
    return [(place, jump) for place, jump in jumps if abs(jump) > 1e-6]


def _near(place: float) -> float:
    return 1e-9 * (1 + abs(place))


def _slope(operator: str, at: float, settings: dict[str, Any]) -> float:
    z = torch.tensor([at], dtype=torch.float64)
    function = operators.lookup(operator).function
    upstream = () if next(iter(inspect.signature(function).parameters)) == "z" else (torch.ones_like(z),)
    return function(*upstream, z, **settings).item()
