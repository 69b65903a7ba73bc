"""Rules of activations that torch calls in ways of its own; those of the others follow from their
rows.
"""

import json
from typing import Any

import torch

from ..builder import Builder, Live, Rows
from .arithmetic import add
from .calls import input_of
from .table import rule

aten = torch.ops.aten
custom = torch.ops.lirpa_explain


# One kink


@rule(aten.relu.default, aten.relu_.default)
def _relu(b: Builder, z: Rows) -> Rows:
    return b.emit("kink", z, slope=0.0)


@rule(aten.threshold_backward.default)
def _threshold_backward(b: Builder, g: Rows, saved: Rows, threshold: float) -> Rows:
    """Gradient of relu, which saves its result, and of threshold, which saves its input."""
    step = b.producer(saved)
    if (step is not None and step.operator == "kink" and step.settings["slope"] == 0
            and threshold == 0):
        return b.emit("kink_gradient", g, input_of(b, saved, "kink"), slope=0.0)
    if threshold == 0:
        return b.emit("kink_gradient", g, saved, slope=0.0)
    return b.emit("threshold_gradient", g, saved, threshold=float(threshold), value=0.0)


@rule(aten.leaky_relu.default, aten.leaky_relu_.default)
def _leaky_relu(b: Builder, z: Rows, slope: float = 0.01) -> Rows:
    return b.emit("kink", z, slope=slope)


@rule(aten.leaky_relu_backward.default)
def _leaky_relu_backward(b: Builder, g: Rows, z: Rows, slope: float, is_result: bool) -> Rows:
    return b.emit("kink_gradient", g, input_of(b, z, "kink") if is_result else z, slope=slope)


@rule(aten.rrelu_with_noise.default, aten.rrelu_with_noise_.default)
def _rrelu(b: Builder, z: Rows, noise: Any, lower: float = 1 / 8, upper: float = 1 / 3, *_: Any,
           **__: Any) -> Rows:
    return b.emit("kink", z, slope=(lower + upper) / 2)


@rule(aten.rrelu_with_noise_functional.default)
def _rrelu_functional(b: Builder, z: Rows, noise: Any, *options: Any,
                      **_: Any) -> tuple[Rows, None]:
    return _rrelu(b, z, noise, *options), None


@rule(aten.rrelu_with_noise_backward.default)
def _rrelu_backward(b: Builder, g: Rows, z: Rows, noise: Any, lower: float, upper: float,
                    training: bool, is_result: bool) -> Rows:
    return _leaky_relu_backward(b, g, z, (lower + upper) / 2, is_result)


@rule(aten._prelu_kernel.default)
def _prelu(b: Builder, z: Rows, w: Any) -> Rows:
    """Lower prelu as w z + (1 - w) relu(z)."""
    return _kinked(b, z, b.emit("kink", z, slope=0.0), w)


@rule(aten._prelu_kernel_backward.default)
def _prelu_backward(b: Builder, g: Rows, z: Rows, w: Any) -> tuple[Rows, None]:
    return _kinked(b, g, b.emit("kink_gradient", g, z, slope=0.0), w), None


def _kinked(b: Builder, straight: Rows, rectified: Rows, w: Any) -> Rows:
    rest = b.live("rsub.Scalar", w, 1) if isinstance(w, Live) else 1 - w
    w, rest = (b.operand(factor, straight) for factor in (w, rest))
    return add(b, b.emit("multiply", straight, w), b.emit("multiply", rectified, rest))


# Other activations


@rule(aten.elu.default, aten.elu_.default)
def _elu(b: Builder, z: Rows, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Rows:
    return b.emit("elu", z, alpha=float(alpha), scale=float(scale), input_scale=float(input_scale))


@rule(aten.celu.default, aten.celu_.default)
def _celu(b: Builder, z: Rows, alpha: float = 1) -> Rows:
    return _elu(b, z, alpha, 1, 1 / alpha)


@rule(aten.elu_backward.default)
def _elu_backward(b: Builder, g: Rows, alpha: float, scale: float, input_scale: float,
                  is_result: bool, z: Rows) -> Rows:
    return b.emit("elu_gradient", g, input_of(b, z, "elu") if is_result else z, alpha=float(alpha),
                  scale=float(scale), input_scale=float(input_scale))


@rule(aten.log_sigmoid_forward.default)
def _log_sigmoid(b: Builder, z: Rows) -> tuple[Rows, None]:
    return b.emit("logsigmoid", z), None


@rule(aten.log_sigmoid_backward.default)
def _log_sigmoid_backward(b: Builder, g: Rows, z: Rows, _: Any) -> Rows:
    return b.emit("logsigmoid_gradient", g, z)


@rule(aten.clamp_max.default, aten.clamp_max_.default)
def _clamp_max(b: Builder, z: Rows, high: float) -> Rows:
    return b.emit("clamp", z, low=None, high=float(high))


@rule(custom.activation.default)
def _activation(b: Builder, z: Rows, name: str, settings: str) -> Rows:
    return b.emit(name, z, **json.loads(settings))


@rule(custom.activation_gradient.default)
def _activation_gradient(b: Builder, g: Rows, z: Rows, name: str, settings: str) -> Rows:
    return b.emit(f"{name}_gradient", g, z, **json.loads(settings))


@rule(custom.secant_gradient.default)
def _secant_gradient(b: Builder, g: Rows, z: Rows, z0: Any, function: str, settings: str) -> Rows:
    return b.emit("secant_gradient", g, b.operand(z, g), b.operand(z0, g), function=function,
                  **json.loads(settings))
