"""Rules of elementary functions that are composed of others, and of staircases."""

import math
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedOperation
from ..builder import Builder, Live, Rows
from .arithmetic import add, multiply, negative
from .powers import exponential, power
from .table import rule

aten = torch.ops.aten


def logarithm(b: Builder, x: Rows) -> Rows:
    """Lower log(x)."""
    return b.emit("log", x)


@rule(aten.log1p.default, aten.log1p_.default)
def _log1p(b: Builder, x: Rows) -> Rows:
    return logarithm(b, add(b, x, 1.0))


@rule(aten.log2.default, aten.log2_.default)
def _log2(b: Builder, x: Rows) -> Rows:
    return multiply(b, logarithm(b, x), 1 / math.log(2))


@rule(aten.log10.default, aten.log10_.default)
def _log10(b: Builder, x: Rows) -> Rows:
    return multiply(b, logarithm(b, x), 1 / math.log(10))


@rule(aten.pow.Scalar)
def _exponential(b: Builder, base: float, x: Rows) -> Rows:
    """Lower base ** x."""
    if not base > 0:
        raise UnsupportedOperation(f"{base} to a power that varies; the base must be positive")
    return b.emit("exponential", x, base=float(base))


@rule(aten.pow.Tensor_Tensor)
def _power_of_tensors(b: Builder, base: Any, exponent: Any) -> Any:
    """Lower base ** exponent: one number as such, else exp(exponent * log(base))."""
    if _is_number(exponent):
        return power(b, base, float(exponent))
    if _is_number(base):
        return _exponential(b, float(base), exponent)
    if isinstance(base, Live) or isinstance(base, Tensor) and not bool((base > 0).all()):
        raise UnsupportedOperation("a power that varies of anything but positive constants or "
                                   "values")
    log = logarithm(b, base) if isinstance(base, Rows) else b.in_its_type(base).log()
    return exponential(b, multiply(b, exponent, log))


def _is_number(x: Any) -> bool:
    return isinstance(x, Tensor) and x.ndim == 0


@rule(aten.exp2.default, aten.exp2_.default)
def _exp2(b: Builder, x: Rows) -> Rows:
    return _exponential(b, 2.0, x)


@rule(aten.erfc.default, aten.erfc_.default)
def _erfc(b: Builder, x: Rows) -> Rows:
    return add(b, negative(b, b.emit("erf", x, rate=1.0)), 1.0)


@rule(aten.acos.default, aten.acos_.default)
def _acos(b: Builder, x: Rows) -> Rows:
    return add(b, negative(b, b.emit("asin", x)), math.pi / 2)


@rule(aten.hypot.default)
def _hypot(b: Builder, x: Any, y: Any) -> Rows:
    """Lower sqrt(x ** 2 + y ** 2)."""
    return b.emit("root", add(b, _squared(b, x), _squared(b, y)))


def _squared(b: Builder, x: Any) -> Any:
    """X ** 2 of a value, of what parameters make, or of a constant."""
    if isinstance(x, Rows):
        return power(b, x, 2)
    return b.fixed(b.in_its_type(x), "pow.Tensor_Scalar", 2)


@rule(aten.atan2.default)
def _atan2(b: Builder, y: Any, x: Any) -> Rows:
    """Lower 2 atan(y / (|(x, y)| + x)), unbounded where the divisor may be 0: y = 0, x <= 0."""
    tangent = multiply(b, y, power(b, add(b, _hypot(b, x, y), x), -1))
    return multiply(b, b.emit("atan", tangent), 2.0)


@rule(aten.xlogy.Tensor, aten.xlogy_.Tensor, aten.xlogy.Scalar_Self, aten.xlogy.Scalar_Other)
def _xlogy(b: Builder, x: Any, y: Any) -> Rows:
    """Lower x log(y)."""
    if isinstance(x, Rows) and x == y:
        return negative(b, b.emit("entropy", x))
    if isinstance(y, Rows):
        return multiply(b, x, logarithm(b, y))
    if isinstance(y, Live):
        return multiply(b, x, b.live("log.default", y))
    y = torch.as_tensor(y, dtype=b.dtype, device=b.device)
    if not bool((y > 0).all()):
        raise UnsupportedOperation("x log(y) with y = 0")
    return multiply(b, x, y.log())


# Staircases: autograd gives them no gradient, and what they leave of their argument that of the
# argument


def _stairs(kind: str) -> Any:
    return lambda b, x: b.emit("stairs", x, kind=kind)


for _kind in ("floor", "ceil", "trunc", "round"):
    rule(getattr(aten, _kind).default, getattr(aten, f"{_kind}_").default)(_stairs(_kind))


@rule(aten.round.decimals)
def _round_decimals(b: Builder, x: Rows, *, decimals: int) -> Rows:
    return multiply(b, b.emit("stairs", multiply(b, x, 10.0**decimals), kind="round"),
                    10.0**-decimals)


def _remainder(kind: str) -> Any:
    def lowered(b: Builder, x: Any, divisor: Any) -> Rows:
        if (isinstance(divisor, Rows | Live) or not isinstance(x, Rows)
                or torch.as_tensor(divisor).numel() != 1):
            raise UnsupportedOperation("a remainder of anything but division by one number")
        return b.emit("remainder", x, divisor=float(divisor), kind=kind)

    return lowered


rule(aten.fmod.Scalar, aten.fmod.Tensor)(_remainder("trunc"))
rule(aten.remainder.Scalar, aten.remainder.Tensor)(_remainder("floor"))


@rule(aten.frac.default, aten.frac_.default)
def _frac(b: Builder, x: Rows) -> Rows:
    return b.emit("remainder", x, divisor=1.0, kind="trunc")


@rule(aten.nan_to_num.default, aten.nan_to_num_.default)
def _nan_to_num(b: Builder, x: Any, *_: Any) -> Any:
    """Bounds are of numbers; where they are infinite, so are those of the result."""
    return x
