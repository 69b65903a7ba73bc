"""The product of an upstream gradient with the secant slope of an activation: DeepLift's rescale
rule.

p = g s(z, z0), with s = (phi(z) - phi(z0)) / (z - z0), and phi'(z) where |z - z0| < eps.
"""

import json
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..errors import UnsupportedOperation
from ..relaxations import product
from ..relaxations.product import Lines
from ..relaxations.ranges import product_range
from ..relaxations.secant import secant, secant_family, secant_lines, secant_range
from .activations import secant_of
from .planes import BoundPlanes, Plane
from .registry import DOMAIN, Operator, lookup, register


class BoundFromReference(BoundPlanes):
    """An operator one of whose inputs is a reference, which does not move."""

    reference = 2

    def refuse_perturbed_parameters(self) -> None:
        """Raise UnsupportedOperation also if the reference is perturbed."""
        super().refuse_perturbed_parameters()
        if self.inputs[self.reference].perturbed:
            raise UnsupportedOperation(
                f"{self.operator.name}: the reference z0 moves; only g and z may. DeepLift has no "
                "bounds for parameters that move, since what its baseline gives moves with them.")


class BoundSecantGradient(BoundFromReference):
    """p = g s(z, z0) where g and z may move, and z0 does not."""

    def __init__(self, attr: Any = None, inputs: Any = None, output_index: int = 0,
                 options: Any = None) -> None:
        super().__init__(attr, inputs, output_index, options)
        given = dict(self.settings)
        self.eps = given.pop("eps")
        name = given.pop("function")
        self.secant = secant_of(name, **given)
        self.at_zero = abs(
            float(lookup(name).function(torch.zeros((), dtype=torch.float64), **given)))

    def relaxed_inputs(self) -> list[int]:
        return [0, 1]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        low, high = self.slopes(*boxes[1:])
        is_open = (low < high) & (boxes[1][0] < boxes[1][1])
        return is_open if index == 1 else is_open & (boxes[0][1] > boxes[0][0])

    def bound_interval(self, *boxes: Box) -> Box:
        return product_range(boxes[0], self.slopes(*boxes[1:]))

    def planes(self, *boxes: Box) -> tuple[Plane, Plane]:
        g, z, (z0, _) = boxes
        below, above = product.planes(g, self.slopes(*boxes[1:]), z,
                                      secant_lines(self.secant, *z, z0, self.eps))
        return _with_reference(below), _with_reference(above)

    def plane_family(self, *boxes: Box) -> tuple[Plane, Plane]:
        g, z, (z0, _) = boxes
        lines: Lines = secant_lines(self.secant, *z, z0, self.eps)
        family: Lines = secant_family(self.secant, *z, z0, self.eps)
        below, above = product.plane_family(g, self.slopes(*boxes[1:]), z, lines, family)
        return _with_reference(below), _with_reference(above)

    def slopes(self, z: Box, z0: Box) -> Box:
        """Smallest and largest slope from z0, which does not move."""
        return secant_range(self.secant, *z, z0[0], self.eps)


def _with_reference(plane: Plane) -> Plane:
    """A plane in (g, z) as one in (g, z, z0)."""
    a, b, c = plane
    return a, b, torch.zeros_like(c), c


def _secant_gradient(g: Tensor, z: Tensor, z0: Tensor, function: str, eps: float,
                     **settings: Any) -> Tensor:
    near = (z - z0).abs() < eps
    derivative = lookup(f"{function}_gradient").function(torch.ones_like(z), z, **settings)
    slope = secant(secant_of(function, **settings), z, z0)
    return g * torch.where(near, derivative, slope)


ROWS = [Operator("secant_gradient", _secant_gradient, BoundSecantGradient, "DeepLift's rule for "
                 "nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Softplus")]
for row in ROWS:
    register(row)


def secant_gradient(g: Tensor, z: Tensor, z0: Tensor, function: str, eps: float = 1e-10,
                    **settings: Any) -> Tensor:
    """The gradient at an activation by DeepLift's rescale rule; recorded as one operation.

    Args:
        g: gradient at the activation's result, (B, *S).
        z: its argument, (B, *S).
        z0: its argument for the reference, (B, *S) or without the batch.
        function: name of an activation that declares its secant slope.
        eps: where |z - z0| is less, the derivative at z is taken.
        **settings: the settings of that function's operator.

    Returns:
        `g (phi(z) - phi(z0)) / (z - z0)`, (B, *S).

    Example:
        >>> one = torch.ones(1)
        >>> secant_gradient(one, 3 * one, -one, "kink", slope=0.0).item()
        0.75
    """
    return torch.ops.lirpa_explain.secant_gradient(g, z, z0, function,
                                                   json.dumps({"eps": eps} | settings))


@torch.library.custom_op(f"{DOMAIN}::secant_gradient", mutates_args=())
def _recorded(g: Tensor, z: Tensor, z0: Tensor, function: str, settings: str) -> Tensor:
    return _secant_gradient(g, z, z0, function, **json.loads(settings))


_recorded.register_fake(lambda g, z, z0, function, settings: torch.empty_like(z))
