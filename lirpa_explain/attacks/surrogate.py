"""Smooth stand-ins for the kinks of a gradient module, so that its derivative says where to go.

The gradient of a ReLU net is piecewise constant: its derivative is 0 wherever it exists. An attack
therefore takes the derivative of a smoothed module (Dombrowski et al. 2019 replace ReLU by
softplus), and the value of the true one.
"""

import functools
import inspect
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import operators
from ..graph import GradientModule
from ..graph.module import Step
from ..rounding import least


@dataclass(frozen=True)
class Jumps:
    """What is smoothed of a step.

    Args:
        bends: whether it is the slope of a function that jumps; else the value of a function, or of
            a factor of an upstream gradient.
        places: where, and by how much.
    """

    bends: bool
    places: list[tuple[float, float]]


class Softened:
    """A gradient module whose jumps are smoothed.

    A jump J of a slope d at p becomes d(z) + J (sigmoid(b (z - p)) - [z > p]), and the function
    itself is moved by J (softplus_b(z - p) - relu(z - p)); for a ReLU that is softplus. The width 1
    / b is set, for each layer and example, as a share of how far its values move over the ball.

    Args:
        module: the gradient module.
        examples: N, how many examples there are.
        sharpness: b in units of 1 / (that movement).
    """

    def __init__(self, module: GradientModule, examples: int, sharpness: float = 1.0) -> None:
        self.module, self.examples, self.sharpness = module, examples, sharpness
        self.reach: dict[str, Tensor] = {}
        self.jumps = {step.output: found
                      for step in module.steps if (found := _jumps(step)) is not None}

    def __call__(self, example: Tensor, *inputs: Tensor) -> Tensor:
        """The results (B, D) of the smoothed module at rows of these examples, (B,)."""
        return self.module.run(functools.partial(self._call, example), inputs)

    @torch.no_grad()
    def measure(self, example: Tensor, start: tuple[Tensor, ...], moved: tuple[Tensor, ...],
                there: AbstractContextManager[None]) -> None:
        """Note how far the argument of each jump moves, for each example, from one set of rows to
        another.

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
        beta = self.sharpness / reach.clamp(min=least(z.dtype, 0.5))
        jumps = self.jumps[step.output]
        for place, jump in jumps.places:
            t = z - place
            if jumps.bends:
                result = result + jump * (F.softplus(beta * t) / beta - F.relu(t))
            else:
                smooth = jump * (torch.sigmoid(beta * t) - (t > 0).to(z))
                result = result + (smooth if len(tensors) == 1 else tensors[0] * smooth)
        return result


def _jumps(step: Step) -> Jumps | None:
    """Where the slope of what a step computes jumps, or else its value, and by how much."""
    row = operators.OPERATORS[step.operator]
    if row.breaks is None:
        return None
    slope = f"{step.operator}_gradient"
    kinds = ([(True, slope)] if slope in operators.OPERATORS else []) + [(False, step.operator)]
    for bends, operator in kinds:
        jumps = [(place, _slope(operator, place + _near(place), step.settings) -
                  _slope(operator, place - _near(place), step.settings))
                 for place in row.breaks(**step.settings)]
        jumps = [(place, jump) for place, jump in jumps if abs(jump) > 1e-6]
        if jumps:
            return Jumps(bends, jumps)
    return None


def _near(place: float) -> float:
    return 1e-9 * (1 + abs(place))


def _slope(operator: str, at: float, settings: dict[str, Any]) -> float:
    z = torch.tensor([at], dtype=torch.float64)
    function = operators.lookup(operator).function
    upstream = (() if next(iter(inspect.signature(function).parameters)) == "z"
                else (torch.ones_like(z),))
    return function(*upstream, z, **settings).item()
