"""Rules of powers, and of products that are better bounded as a function of one variable, or as its gradient."""

from dataclasses import replace
from typing import Any

import torch

from ...errors import UnsupportedOperation
from ...operators.activations import ACTIVATIONS
from ..builder import Builder, Rows
from .shapes import sum_over
from .table import RULES, rule

aten = torch.ops.aten


@rule(aten.pow.Tensor_Scalar, aten.pow_.Scalar)
def power(b: Builder, x: Rows, exponent: float) -> Any:
    """Lower x ** exponent; powers of powers and of multiples are bounded as one power."""
    n = float(exponent)
    step = b.producer(x)
    if step is not None and step.operator == "scale" and step.settings["factor"] > 0:
        inner = replace(x, name=step.inputs[0])
        return _scaled(b, power(b, inner, n), step.settings["factor"] ** n)
    if step is not None and step.operator == "power":
        p = step.settings["exponent"]
        if (n.is_integer() or not p.is_integer()) and p * n != 0:  # else (x ** 2) ** 0.5 is not x ** 1
            x, n = replace(x, name=step.inputs[0]), p * n
    if n == 0:
        return torch.ones((), dtype=b.dtype, device=b.device).expand(x.shape[x.before + x.inner:])
    return x if n == 1 else b.emit("power", x, exponent=n)


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


@rule(aten.linalg_vector_norm.default)
def _vector_norm(b: Builder, x: Rows, order: float = 2, dims: Any = None, keepdim: bool = False, *, dtype: Any = None
                 ) -> Rows:
    if order == 1:
        return sum_over(b, RULES[aten.abs.default](b, x), dims, keepdim)
    if order != 2:
        raise UnsupportedOperation("a norm of another order than 1 and 2")
    return power(b, sum_over(b, power(b, x, 2), dims, keepdim), 0.5)


def _scaled(b: Builder, x: Any, factor: float) -> Any:
    if factor == 1 or not isinstance(x, Rows):
        return x * factor if factor != 1 else x
    return b.emit("scale", x, factor=factor)


def product(b: Builder, x: Rows, y: Rows) -> Any:
    """Lower x * y where it is x ** 2, or where y is the derivative of a function in the table; None elsewhere.

    Autograd composes the gradients of elementary functions: that of sin is g * cos(z). As the gradient operator of
    sin it is bounded from the bounds of z alone.
    """
    if x == y:
        return power(b, x, 2)
    if x.shape != y.shape or not x.lines_up(y):
        return None
    for g, factor in ((x, y), (y, x)):
        z, scale = factor, 1.0
        step = b.producer(z)
        while step is not None and step.operator == "scale":
            z, scale = replace(z, name=step.inputs[0]), scale * step.settings["factor"]
            step = b.producer(z)
        row = None if step is None else ACTIVATIONS.get(step.operator)
        if step is None or row is None or row.primitive is None:
            continue
        primitive, settings, share = row.primitive(**step.settings)
        inner = replace(z, name=step.inputs[0])
        return _scaled(b, b.emit(f"{primitive}_gradient", g, inner, **settings), scale * share)
    return None
