"""Rules of activations and of their gradients: a table where torch's arguments are the operator's settings."""

import json
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...errors import UnsupportedOperation
from ..builder import Builder, Live, Rows
from .arithmetic import add
from .table import rule

aten = torch.ops.aten
custom = torch.ops.lirpa_explain


@dataclass(frozen=True)
class Activation:
    """One row: how an activation is called.

    Args:
        operator: name of the operator; the gradient's is that and `_gradient`.
        forward: ATen operations `(z, *settings)`.
        backward: ATen operations `(g, z, *settings)`.
        settings: names of the operator's settings, in ATen's order, with ATen's defaults.
        saves_result: the backward operations get the result instead of z.
    """

    operator: str
    forward: tuple[Any, ...]
    backward: tuple[Any, ...]
    settings: tuple[tuple[str, Any], ...] = ()
    saves_result: bool = False

    def _given(self, values: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
        names = [name for name, _ in self.settings]
        given = dict(self.settings) | dict(zip(names, values, strict=False))
        return {name: number(value) for name, value in (given | keywords).items() if name in names}

    def apply(self, b: Builder, z: Rows, *values: Any, **keywords: Any) -> Rows:
        """Lower a forward operation."""
        return b.emit(self.operator, z, **self._given(values, keywords))

    def differentiate(self, b: Builder, g: Rows, z: Rows, *values: Any, **keywords: Any) -> Rows:
        """Lower a backward operation."""
        z = input_of(b, z, self.operator) if self.saves_result else z
        return b.emit(f"{self.operator}_gradient", g, z, **self._given(values, keywords))


ACTIVATIONS = [
    Activation("tanh", (aten.tanh.default, aten.tanh_.default), (aten.tanh_backward.default,), saves_result=True),
    Activation("sigmoid", (aten.sigmoid.default, aten.sigmoid_.default), (aten.sigmoid_backward.default,),
               saves_result=True),
    Activation("softplus", (aten.softplus.default,), (aten.softplus_backward.default,),
               (("beta", 1.0), ("threshold", 20.0))),
    Activation("gelu", (aten.gelu.default, aten.gelu_.default), (aten.gelu_backward.default,),
               (("approximate", "none"),)),
    Activation("silu", (aten.silu.default, aten.silu_.default), (aten.silu_backward.default,)),
    Activation("mish", (aten.mish.default, aten.mish_.default), (aten.mish_backward.default,)),
    Activation("hardtanh", (aten.hardtanh.default, aten.hardtanh_.default), (aten.hardtanh_backward.default,),
               (("low", -1.0), ("high", 1.0))),
    Activation("hardswish", (aten.hardswish.default, aten.hardswish_.default), (aten.hardswish_backward.default,)),
    Activation("hardsigmoid", (aten.hardsigmoid.default, aten.hardsigmoid_.default),
               (aten.hardsigmoid_backward.default,)),
    Activation("hardshrink", (aten.hardshrink.default,), (aten.hardshrink_backward.default,), (("width", 0.5),)),
    Activation("softshrink", (aten.softshrink.default,), (aten.softshrink_backward.default,), (("width", 0.5),)),
    Activation("threshold", (aten.threshold.default, aten.threshold_.default), (),
               (("threshold", 0.0), ("value", 0.0))),
    Activation("clamp", (aten.clamp.default, aten.clamp_.default), (), (("low", None), ("high", None))),
    Activation("clamp", (aten.clamp_min.default, aten.clamp_min_.default), (), (("low", None), ("high", None))),
    Activation("absolute", (aten.abs.default, aten.abs_.default), ()),
    Activation("sign", (aten.sign.default, aten.sgn.default), ()),
    Activation("sin", (aten.sin.default, aten.sin_.default), ()),
    Activation("cos", (aten.cos.default, aten.cos_.default), ()),
    Activation("exp", (aten.exp.default, aten.exp_.default), ()),
    Activation("log", (aten.log.default, aten.log_.default), ()),
]
for row in ACTIVATIONS:
    rule(*row.forward)(row.apply)
    rule(*row.backward)(row.differentiate)


def number(value: Any) -> Any:
    """A setting as a JSON value: numbers as floats, because 1 and 1.0 are the same setting."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def input_of(b: Builder, result: Rows, operator: str) -> Rows:
    """The pre-activation of an activation's result: autograd may save either; the former is what is bounded."""
    step = b.producer(result)
    if step is None or step.operator != operator:
        raise UnsupportedOperation(f"a gradient of {operator} whose forward operation is not in the trace")
    return replace(result, name=step.inputs[0])


# One kink


@rule(aten.relu.default, aten.relu_.default)
def _relu(b: Builder, z: Rows) -> Rows:
    return b.emit("kink", z, slope=0.0)


@rule(aten.threshold_backward.default)
def _threshold_backward(b: Builder, g: Rows, saved: Rows, threshold: float) -> Rows:
    """Gradient of relu, which saves its result, and of threshold, which saves its input."""
    step = b.producer(saved)
    if step is not None and step.operator == "kink" and step.settings["slope"] == 0 and threshold == 0:
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
def _rrelu(b: Builder, z: Rows, noise: Any, lower: float = 1 / 8, upper: float = 1 / 3, *_: Any, **__: Any) -> Rows:
    return b.emit("kink", z, slope=(lower + upper) / 2)


@rule(aten.rrelu_with_noise_backward.default)
def _rrelu_backward(b: Builder, g: Rows, z: Rows, noise: Any, lower: float, upper: float, training: bool,
                    is_result: bool) -> Rows:
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


# What torch calls in ways of its own


@rule(aten.elu.default, aten.elu_.default)
def _elu(b: Builder, z: Rows, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Rows:
    return b.emit("elu", z, alpha=float(alpha), scale=float(scale), input_scale=float(input_scale))


@rule(aten.celu.default, aten.celu_.default)
def _celu(b: Builder, z: Rows, alpha: float = 1) -> Rows:
    return _elu(b, z, alpha, 1, 1 / alpha)


@rule(aten.elu_backward.default)
def _elu_backward(b: Builder, g: Rows, alpha: float, scale: float, input_scale: float, is_result: bool, z: Rows
                  ) -> Rows:
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
    return b.emit("secant_gradient", g, b.operand(z, g), b.operand(z0, g), function=function, **json.loads(settings))
