"""Rules of functions of one variable and of their gradients."""

from dataclasses import replace

import torch

from ...errors import UnsupportedOperation
from ..builder import Builder, Rows
from .table import rule

aten = torch.ops.aten


def _input_of(b: Builder, result: Rows, operator: str) -> Rows:
    """The pre-activation of an activation's result: autograd may save either; the former is what is bounded."""
    step = b.producer(result)
    if step is None or step.operator != operator:
        raise UnsupportedOperation(f"a gradient of {operator} whose forward operation is not in the trace")
    return replace(result, name=step.inputs[0])


@rule(aten.relu.default, aten.relu_.default)
def _relu(b: Builder, z: Rows) -> Rows:
    return b.emit("kink", z, slope=0.0)


@rule(aten.threshold_backward.default)
def _relu_backward(b: Builder, g: Rows, result: Rows, threshold: float) -> Rows:
    if threshold != 0:
        raise UnsupportedOperation("a threshold other than 0")
    step = b.producer(result)
    is_relu = step is not None and step.operator == "kink" and step.settings["slope"] == 0
    z = _input_of(b, result, "kink") if is_relu else result  # F.threshold hands its own input over
    return b.emit("kink_gradient", g, z, slope=0.0)


@rule(aten.leaky_relu.default, aten.leaky_relu_.default)
def _leaky_relu(b: Builder, z: Rows, slope: float = 0.01) -> Rows:
    return b.emit("kink", z, slope=slope)


@rule(aten.leaky_relu_backward.default)
def _leaky_relu_backward(b: Builder, g: Rows, z: Rows, slope: float, is_result: bool) -> Rows:
    return b.emit("kink_gradient", g, _input_of(b, z, "kink") if is_result else z, slope=slope)


@rule(aten.tanh.default, aten.tanh_.default)
def _tanh(b: Builder, z: Rows) -> Rows:
    return b.emit("tanh", z)


@rule(aten.tanh_backward.default)
def _tanh_backward(b: Builder, g: Rows, result: Rows) -> Rows:
    return b.emit("tanh_gradient", g, _input_of(b, result, "tanh"))


@rule(aten.sigmoid.default, aten.sigmoid_.default)
def _sigmoid(b: Builder, z: Rows) -> Rows:
    return b.emit("sigmoid", z)


@rule(aten.sigmoid_backward.default)
def _sigmoid_backward(b: Builder, g: Rows, result: Rows) -> Rows:
    return b.emit("sigmoid_gradient", g, _input_of(b, result, "sigmoid"))


@rule(aten.softplus.default)
def _softplus(b: Builder, z: Rows, beta: float = 1, threshold: float = 20) -> Rows:
    return b.emit("softplus", z, beta=beta, threshold=threshold)


@rule(aten.softplus_backward.default)
def _softplus_backward(b: Builder, g: Rows, z: Rows, beta: float, threshold: float) -> Rows:
    return b.emit("softplus_gradient", g, z, beta=beta, threshold=threshold)
