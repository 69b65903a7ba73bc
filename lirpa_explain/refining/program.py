"""A piecewise-linear gradient module as a mixed-integer program.

Every value is an affine function of the program's variables: the inputs, and for every kink that is
open on the ball its output r, its side d in {0, 1}, and for every gradient g that passes it the
product q = g d:

    r = relu(z):   r >= 0,  r >= z,  r <= zu d,  r <= z - zl (1 - d)
    q = g d:       gl d <= q <= gu d,  g - gu (1 - d) <= q <= g - gl (1 - d)

At z = 0 both sides are allowed, for each neuron by itself: the range is that of the closed hull.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import operators
from ..boxes import Box
from ..errors import UnsupportedOperation
from ..graph import GradientModule
from ..graph.module import Step
from ..operators.affine import BoundAffine
from ..operators.bound import flat_rows
from ..operators.unperturbed import BoundUnperturbed
from .ground import Ground

KINKS = ("kink", "kink_gradient")
AFFINE = (BoundAffine, BoundUnperturbed)


class Program:
    """The program of one row of a module.

    Values are kept as (1 + V, *S) for V variables: the constant, and the coefficients of each.

    Args:
        module: what the row computes.
        values: its inputs, of one row.
        ground: the boxes of those that move.
        moving: which of them do.
        boxes: bounds (n,) of all values that kinks read, by name.

    Raises:
        UnsupportedOperation: the module has a step that is neither affine nor a kink, or a ball is
            no box.
    """

    def __init__(self, module: GradientModule, values: tuple[Tensor, ...], ground: Ground,
                 moving: list[bool], boxes: Mapping[str, Box]) -> None:
        if any(part.norm != math.inf for part in ground.parts):
            raise UnsupportedOperation("method='exact' needs boxes (norm=math.inf): over other "
                                       "balls the program is not linear. Use method='branch'.")
        self.boxes = boxes
        self.lower, self.upper, self.integral = list[float](), list[float](), list[int]()
        self.rows, self.least, self.most = list[np.ndarray](), list[float](), list[float]()
        self.sides: dict[tuple[str, int], int] = {}
        self.fixed = dict(module.named_parameters(recurse=False)) | dict(
            module.named_buffers(recurse=False))
        self.fixed |= {name: x
                       for name, x, moves in zip(module.input_names, values, moving, strict=True)
                       if not moves}
        self.moving: dict[str, Tensor] = {}
        self._inputs(module, values, ground, moving)
        with torch.no_grad():
            for step in module.steps:
                self._add(step)
        result = self._filled(flat_rows(self.moving[module.output])).numpy().astype(float)
        self.constant, self.objective = result[0], result[1:]

    def matrix(self) -> Any:
        """The coefficients of all constraints, sparse."""
        from scipy.sparse import csr_array, vstack

        size = len(self.lower)
        return vstack([csr_array(np.pad(row, (0, size - len(row)))[None])
                       for row in self.rows]) if self.rows else None

    def _inputs(self, module: GradientModule, values: tuple[Tensor, ...], ground: Ground,
                moving: list[bool]) -> None:
        """Variables for the entries of the inputs."""
        names = [name for name, moves in zip(module.input_names, moving, strict=True) if moves]
        given = dict(zip(module.input_names, values, strict=True))
        for name, part in zip(names, ground.parts, strict=True):
            x, start = given[name], len(self.lower)
            self.lower += (part.center - part.radius)[0].tolist()
            self.upper += (part.center + part.radius)[0].tolist()
            self.integral += [0] * x.numel()
            rows = x.new_zeros(1 + len(self.lower), x.numel())
            rows[1 + start:] = torch.eye(x.numel(), dtype=x.dtype)
            self.moving[name] = rows.reshape(-1, *x.shape[1:])

    def _add(self, step: Step) -> None:
        """What a step computes, in the variables."""
        if not self.moving.keys() & set(step.inputs):
            arguments = [self.fixed[n] for n in step.inputs]
            self.fixed[step.output] = operators.call(step.operator, *arguments, **step.settings)
        elif step.operator == "kink":
            self.moving[step.output] = self._kink(step)
        elif step.operator == "kink_gradient" and step.inputs[1] in self.moving:
            self.moving[step.output] = self._kink_gradient(step)
        elif (step.operator == "kink_gradient"
                  or issubclass(operators.lookup(step.operator).bound, AFFINE)):
            self.moving[step.output] = self._affine(step)
        else:
            raise UnsupportedOperation(f"{step.operator}: method='exact' is for piecewise-linear "
                                       "models, made of affine steps and kinks at 0 such as "
                                       "ReLU's. Use method='branch'.")

    def _affine(self, step: Step) -> Tensor:
        """Coefficients are what the step makes of each beside what it makes of 0."""
        count = 2 + len(self.lower)
        arguments = []
        for name in step.inputs:
            if name in self.moving:
                value = self._filled(self.moving[name])
                arguments.append(torch.cat([value, torch.zeros_like(value[:1])]))
            else:
                value = self.fixed[name]
                arguments.append(value.expand(count, *value.shape[1:])
                                 if name in self.rowed(step) else value)
        result = operators.call(step.operator, *arguments, **step.settings)
        return torch.cat([result[:1], result[1:-1] - result[-1:]])

    def rowed(self, step: Step) -> set[str]:
        """Fixed inputs of a step that have rows: of one row, and not parameters."""
        return {n for n in step.inputs if n in self.fixed and self.fixed[n].ndim > 1
                and len(self.fixed[n]) == 1 and not isinstance(self.fixed[n], torch.nn.Parameter)}

    def _kink(self, step: Step) -> Tensor:
        z, slope = step.inputs[0], step.settings["slope"]
        value, low, high, is_open = self._read(z)
        result = torch.where(low >= 0, value, slope * value)
        for i in is_open:
            zl, zu = float(low[i]), float(high[i])
            d, r, line = self._side(z, i), self._variable(0.0, zu), self._line(value, i)
            self._require(self._unit(r) - line, 0.0, math.inf)
            self._require(self._unit(r) - zu * self._unit(d), -math.inf, 0.0)
            self._require(self._unit(r) - line - zl * self._unit(d), -math.inf, -zl)
            result = self._filled(result)
            result[:, i] = torch.as_tensor(slope * self._line(value, i)
                                           + (1 - slope) * self._unit(r))
        return result.reshape(-1, *self.moving[z].shape[1:])

    def _kink_gradient(self, step: Step) -> Tensor:
        (g, z), slope = step.inputs, step.settings["slope"]
        _, low, high, is_open = self._read(z)
        gradient = flat_rows(self._filled(self.moving[g] if g in self.moving else self.fixed[g]))
        result = torch.where(low >= 0, gradient, slope * gradient)
        for i in is_open:
            d, line = self._side(z, i), self._line(gradient, i)
            if not line[1:].any():
                product = line[0] * self._unit(d)
            else:
                product = self._product(line, d, *(float(side[i]) for side in self.boxes[g]))
            result = self._filled(result)
            result[:, i] = torch.as_tensor(slope * self._line(gradient, i)
                                           + (1 - slope) * self._padded(product))
        return result.reshape(-1, *self.moving[z].shape[1:])

    def _product(self, line: np.ndarray, d: int, gl: float, gu: float) -> np.ndarray:
        """Q = g d for an affine g."""
        q = self._variable(min(gl, 0.0), max(gu, 0.0))
        line = self._padded(line)
        self._require(self._unit(q) - gu * self._unit(d), -math.inf, 0.0)
        self._require(self._unit(q) - gl * self._unit(d), 0.0, math.inf)
        self._require(self._unit(q) - line - gl * self._unit(d), -math.inf, -gl)
        self._require(self._unit(q) - line - gu * self._unit(d), -gu, math.inf)
        return self._unit(q)

    def _read(self, z: str) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """A pre-activation in the variables, its bounds, and which of its kinks are open."""
        value = flat_rows(self._filled(self.moving[z]))
        low, high = self.boxes[z]
        return value, low, high, ((low < 0) & (high > 0)).nonzero()[:, 0].tolist()

    def _side(self, z: str, i: int) -> int:
        """The variable d of a kink, shared by all that pass it."""
        if (z, i) not in self.sides:
            low, high = (float(side[i]) for side in self.boxes[z])
            d = self.sides[z, i] = self._variable(0.0, 1.0, 1)
            line = self._line(flat_rows(self.moving[z]), i)
            self._require(line - high * self._unit(d), -math.inf, 0.0)
            self._require(line + low * self._unit(d), low, math.inf)
        return self.sides[z, i]

    def _variable(self, low: float, high: float, integral: int = 0) -> int:
        self.lower.append(low)
        self.upper.append(high)
        self.integral.append(integral)
        return len(self.lower) - 1

    def _unit(self, variable: int) -> np.ndarray:
        """A variable as (1 + V,)."""
        line = np.zeros(1 + len(self.lower))
        line[1 + variable] = 1.0
        return line

    def _line(self, value: Tensor, i: int) -> np.ndarray:
        """An entry of a flat value as (1 + V,)."""
        return self._padded(value[:, i].numpy().astype(float))

    def _padded(self, line: np.ndarray) -> np.ndarray:
        return np.pad(line, (0, 1 + len(self.lower) - len(line)))

    def _filled(self, value: Tensor) -> Tensor:
        """A value with coefficients for all variables there are."""
        missing = 1 + len(self.lower) - len(value)
        return torch.cat([value, value.new_zeros(missing, *value.shape[1:])])

    def _require(self, line: np.ndarray, low: float, high: float) -> None:
        """Low <= line <= high."""
        self.rows.append(line[1:])
        self.least.append(low - line[0])
        self.most.append(high - line[0])
