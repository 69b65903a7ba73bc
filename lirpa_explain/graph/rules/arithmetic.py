"""Rules of sums, products and quotients."""

from typing import Any

import torch

from ...errors import UnsupportedOperation
from ..builder import Builder, Live, Rows
from .powers import power, product
from .table import rule

aten = torch.ops.aten


def _broadcast(x: Rows, y: Any) -> tuple[int, ...]:
    other = y.shape if isinstance(y, Rows) else (y.value if isinstance(y, Live) else torch.as_tensor(y)).shape
    if not isinstance(y, Rows) and len(other) == x.ndim and not x.merged:
        other = other[1:]
    elif not isinstance(y, Rows) and len(other) == x.ndim + x.merged:
        other = other[1:]
    return tuple(torch.broadcast_shapes(x.shape, other))


def _pointwise(b: Builder, operator: str, x: Any, y: Any) -> Rows:
    """A commutative operator on x and y, of which at least one has rows."""
    if not isinstance(x, Rows):
        x, y = y, x
    y = b.operand(y, x)
    return b.emit(operator, x, y, shape=_broadcast(x, y))


def _times(b: Builder, x: Any, factor: float) -> Any:
    if factor == 1:
        return x
    return b.emit("scale", x, factor=factor) if isinstance(x, Rows) else \
        b.live("mul.Scalar", x, factor) if isinstance(x, Live) else x * factor


@rule(aten.add.Tensor, aten.add_.Tensor, aten.add.Scalar)
def add(b: Builder, x: Any, y: Any, alpha: float = 1) -> Rows:
    """Lower x + alpha * y."""
    return _pointwise(b, "add", x, _times(b, y, alpha))


@rule(aten.sub.Tensor, aten.sub_.Tensor, aten.sub.Scalar)
def subtract(b: Builder, x: Any, y: Any, alpha: float = 1) -> Rows:
    """Lower x - alpha * y."""
    return _pointwise(b, "add", x, _times(b, y, -alpha))


@rule(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(b: Builder, x: Any, y: Any, alpha: float = 1) -> Rows:
    return _pointwise(b, "add", y, _times(b, x, -alpha))


@rule(aten.neg.default)
def _neg(b: Builder, x: Rows) -> Rows:
    return _times(b, x, -1.0)


@rule(aten.mul.Tensor, aten.mul_.Tensor, aten.mul.Scalar)
def multiply(b: Builder, x: Any, y: Any) -> Rows:
    """Lower x * y."""
    if isinstance(x, int | float) or isinstance(y, int | float):
        return _times(b, *((y, float(x)) if isinstance(x, int | float) else (x, float(y))))
    fused = product(b, x, y) if isinstance(x, Rows) and isinstance(y, Rows) else None
    return _pointwise(b, "multiply", x, y) if fused is None else fused


@rule(aten.div.Tensor, aten.div_.Tensor, aten.div.Scalar)
def _div(b: Builder, x: Any, y: Any) -> Rows:
    if isinstance(y, Rows):
        return multiply(b, x, power(b, y, -1))
    y = b.operand(y, x)
    return b.emit("divide", x, y, shape=_broadcast(x, y))


@rule(aten.mm.default)
def _mm(b: Builder, x: Any, w: Any) -> Rows:
    if not isinstance(x, Rows) or isinstance(w, Rows):
        raise UnsupportedOperation("a matrix product whose second factor depends on the input")
    columns = (w.value if isinstance(w, Live) else w).shape[1]
    return b.emit("matmul", x, w, shape=(*x.shape[:-1], columns))


@rule(aten.mv.default)
def _mv(b: Builder, x: Any, w: Any) -> Rows:
    if not isinstance(x, Rows) or isinstance(w, Rows):
        raise UnsupportedOperation("a matrix product whose second factor depends on the input")
    return b.emit("matmul", x, w, shape=x.shape[:-1])


@rule(aten.addmm.default)
def _addmm(b: Builder, bias: Any, x: Any, w: Any, beta: float = 1, alpha: float = 1) -> Rows:
    return add(b, _times(b, _mm(b, x, w), alpha), _times(b, bias, beta))
