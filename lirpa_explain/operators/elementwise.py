"""The table of functions of one variable, each with its gradient, and the product of two values."""

import torch
from torch import Tensor

from ..relaxations import functions, piecewise
from .activation import BoundActivation, BoundActivationGradient, BoundMultiply, Curve, Line, smooth
from .bound import Box
from .registry import Operator, register


def _kink_range(lo: Tensor, hi: Tensor, slope: float) -> Box:
    values = torch.where(lo >= 0, lo, slope * lo), torch.where(hi >= 0, hi, slope * hi)
    if slope >= 0:
        return values
    low = torch.where((lo < 0) & (hi > 0), torch.zeros_like(lo), torch.minimum(*values))
    return low, torch.maximum(*values)


def _step_open(lo: Tensor, hi: Tensor, slope: float) -> Tensor:
    low, high = piecewise.step_range(lo, hi, slope)
    return low < high


KINK = Curve(_kink_range, piecewise.kink_lines, lambda lo, hi, slope: (lo < 0) & (hi > 0), piecewise.kink_family)
STEP = Curve(piecewise.step_range, piecewise.step_lines, _step_open, piecewise.step_family)


def _leaky_relu(z: Tensor, slope: float) -> Tensor:
    return torch.nn.functional.leaky_relu(z, slope)


def _leaky_relu_gradient(g: Tensor, z: Tensor, slope: float) -> Tensor:
    return g * torch.where(z > 0, torch.ones_like(z), torch.full_like(z, slope))


def _softplus_gradient(g: Tensor, z: Tensor, beta: float, threshold: float) -> Tensor:
    return g * torch.where(beta * z > threshold, torch.ones_like(z), torch.sigmoid(beta * z))


ROWS = [
    Operator("kink", _leaky_relu, BoundActivation, "nn.ReLU, nn.LeakyReLU", KINK),
    Operator("kink_gradient", _leaky_relu_gradient, BoundActivationGradient, "nn.ReLU, nn.LeakyReLU", STEP),
    Operator("tanh", torch.tanh, BoundActivation, "nn.Tanh", smooth(lambda: functions.tanh().function)),
    Operator("tanh_gradient", lambda g, z: g * functions.tanh().derivative.value(z), BoundActivationGradient, "nn.Tanh",
             smooth(lambda: functions.tanh().derivative)),
    Operator("sigmoid", torch.sigmoid, BoundActivation, "nn.Sigmoid", smooth(lambda: functions.sigmoid().function)),
    Operator("sigmoid_gradient", lambda g, z: g * functions.sigmoid().derivative.value(z), BoundActivationGradient,
             "nn.Sigmoid", smooth(lambda: functions.sigmoid().derivative)),
    Operator("softplus", lambda z, beta, threshold: torch.nn.functional.softplus(z, beta, threshold), BoundActivation,
             "nn.Softplus", smooth(lambda **s: functions.softplus(**s).function)),
    Operator("softplus_gradient", _softplus_gradient, BoundActivationGradient, "nn.Softplus",
             smooth(lambda **s: functions.softplus(**s).derivative)),
    Operator("multiply", torch.mul, BoundMultiply, "products of two tensors"),
]
for row in ROWS:
    register(row)
