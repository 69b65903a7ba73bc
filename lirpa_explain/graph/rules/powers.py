"""Rules of powers, and of products that are better bounded as a function of one variable, or as its
gradient.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...operators.activations import ACTIVATIONS
from ..builder import Builder, Rows
from .table import rule

aten = torch.ops.aten


@rule(aten.pow.Tensor_Scalar, aten.pow_.Scalar)
def power(b: Builder, x: Rows, exponent: float) -> Any:
    """Lower x ** exponent; powers of powers and of multiples are bounded as one power."""
    n = float(exponent)
    step = b.producer(x)
    if step is not None and step.operator == "scale" and step.settings["factor"] > 0:
        inner = replace(x, name=step.inputs[0])
        return _scaled(b, power(b, inner, n), step.settings["factor"] ** n)
    if step is not None and step.operator in ("power", "root"):
        p = step.settings.get("exponent", 0.5)
        # else (x ** 2) ** 0.5 is not x ** 1
        if (n.is_integer() or not p.is_integer()) and p * n != 0:
            x, n = replace(x, name=step.inputs[0]), p * n
    if step is not None and step.operator == "bell":  # of something positive
        x, exponent = replace(x, name=step.inputs[0]), step.settings["exponent"] * n
        return b.emit("bell", x, exponent=exponent, offset=step.settings["offset"])
    if n == 0:
        return torch.ones((), dtype=b.dtype, device=b.device).expand(x.shape[x.before + x.inner:])
    if n == 1:
        return x
    bell = _square_and_offset(b, x)
    if bell is not None:
        return b.emit("bell", bell[0], exponent=n, offset=bell[1])
    return b.emit("power", x, exponent=n)


def _square_and_offset(b: Builder, x: Rows) -> tuple[Rows, float] | None:
    """Of z ** 2 + c, with one number c > 0, z and c."""
    step = b.producer(x)
    if step is None or step.operator != "add" or step.inputs[1] not in b.tensors:
        return None
    offset, square = b.tensors[step.inputs[1]], b.producer(replace(x, name=step.inputs[0]))
    if (isinstance(offset, nn.Parameter) or offset.numel() != 1 or not bool((offset > 0).all())
            or square is None or square.operator != "power" or square.settings["exponent"] != 2):
        return None
    return replace(x, name=square.inputs[0]), float(offset)


@rule(aten.exp.default, aten.exp_.default)
def exponential(b: Builder, x: Rows) -> Rows:
    """Lower exp(x): of the logarithm of a probability, and of a negative multiple of a square, as
    those functions.
    """
    step = b.producer(x)
    if step is not None and step.operator == "log_softmax":
        return b.emit("probability", x)
    z, factor = _multiple(b, x)
    square = b.producer(z)
    if (factor < 0 and square is not None and square.operator == "power"
            and square.settings["exponent"] == 2):
        return b.emit("gaussian", replace(z, name=square.inputs[0]), rate=-factor)
    return b.emit("exp", x)


def _multiple(b: Builder, x: Rows) -> tuple[Rows, float]:
    """What a value is a multiple of, and which."""
    factor, step = 1.0, b.producer(x)
    while step is not None and step.operator in ("scale", "divide"):
        divisor = b.tensors[step.inputs[1]] if step.operator == "divide" else None
        if divisor is not None and (isinstance(divisor, nn.Parameter) or divisor.numel() != 1):
            break
        x = replace(x, name=step.inputs[0])
        factor *= step.settings["factor"] if divisor is None else 1 / float(divisor)
        step = b.producer(x)
    return x, factor


@rule(aten.sqrt.default, aten.sqrt_.default)
def _sqrt(b: Builder, x: Rows) -> Rows:
    return power(b, x, 0.5)


@rule(aten.rsqrt.default, aten.rsqrt_.default)
def _rsqrt(b: Builder, x: Rows) -> Rows:
    return power(b, x, -0.5)


@rule(aten.reciprocal.default, aten.reciprocal_.default)
def _reciprocal(b: Builder, x: Rows) -> Rows:
    return power(b, x, -1)


@rule(aten.square.default, aten.square_.default)
def _square(b: Builder, x: Rows) -> Rows:
    return power(b, x, 2)


def _scaled(b: Builder, x: Any, factor: float) -> Any:
    if factor == 1 or not isinstance(x, Rows):
        return x * factor if factor != 1 else x
    return b.emit("scale", x, factor=factor)


def product(b: Builder, x: Rows, y: Rows) -> Any:
    """Lower x * y where it is x ** 2, or where y is the derivative of a function in the table; None
    elsewhere.

    Autograd composes the gradients of elementary functions: that of sin is g * cos(z). As the
    gradient operator of sin it is bounded from the bounds of z alone.
    """
    if x == y:
        return power(b, x, 2)
    if x.shape != y.shape or not x.lines_up(y):
        return None
    for g, factor in ((x, y), (y, x)):
        z, scale = _multiple(b, factor)
        found = _derivative(b, z)
        if found is not None:
            primitive, settings, share, inner = found
            return _scaled(b, b.emit(f"{primitive}_gradient", g, inner, **settings), scale * share)
    return None


def _derivative(b: Builder, z: Rows) -> tuple[str, dict[str, Any], float, Rows] | None:
    """Of a multiple of the derivative of a function in the table: that, its settings, the factor
    and the argument.
    """
    step = b.producer(z)
    if step is None:
        return None
    if step.operator == "add":
        return _derivative_plus_one(b, z)
    row = ACTIVATIONS.get(step.operator)
    found = None if row is None or row.primitive is None else row.primitive(**step.settings)
    return None if found is None else (*found, replace(z, name=step.inputs[0]))


def _derivative_plus_one(b: Builder, z: Rows) -> tuple[str, dict[str, Any], float, Rows] | None:
    """Of tan(z) ** 2 + 1 and expm1(z) + 1, which are how autograd has the derivatives of tan and
    expm1.
    """
    bell, step = _square_and_offset(b, z), b.producer(z)
    assert step is not None
    inner, name = ((bell[0], "tan")
                   if bell is not None else (replace(z, name=step.inputs[0]), "expm1"))
    one = b.tensors.get(step.inputs[1])
    source = b.producer(inner)
    if (one is None or one.numel() != 1 or float(one.detach()) != 1 or source is None
            or source.operator != name):
        return None
    return name, {}, 1.0, replace(z, name=source.inputs[0])
