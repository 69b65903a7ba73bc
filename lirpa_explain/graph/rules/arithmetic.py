"""Rules of sums, products and quotients."""

import math
from typing import Any

import torch

from ...errors import UnsupportedOperation
from ..builder import Builder, Live, Rows
from ..masks import finite
from .directions import direction
from .powers import power, product
from .shapes import transpose
from .table import rule

aten = torch.ops.aten


def _pointwise(b: Builder, operator: str, x: Any, y: Any) -> Rows:
    """A commutative operator on x and y, of which at least one has rows."""
    if not isinstance(x, Rows):
        x, y = y, x
    x, y = b.line_up(x, y)
    return b.emit(operator, x, y, shape=broadcast(x, y))


def broadcast(x: Rows, y: Any) -> tuple[int, ...]:
    """Shape of a row of an operation entry by entry on two operands that line up."""
    other = (y.shape if isinstance(y, Rows)
             else (y.value if isinstance(y, Live) else torch.as_tensor(y)).shape)
    return tuple(torch.broadcast_shapes(x.shape, other))


def _finite(y: Any) -> Any:
    return finite(y) if isinstance(y, torch.Tensor) else y


def _times(b: Builder, x: Any, factor: float) -> Any:
    if factor == 1:
        return x
    if isinstance(x, Rows):
        return b.emit("scale", x, factor=factor)
    x = b.in_its_type(x)
    return b.live("mul.Scalar", x, factor) if isinstance(x, Live) else x * factor


@rule(aten.add.Tensor, aten.add_.Tensor, aten.add.Scalar, aten.add_.Scalar)
def add(b: Builder, x: Any, y: Any, alpha: float = 1) -> Rows:
    """Lower x + alpha * y."""
    return _pointwise(b, "add", _finite(x), _times(b, _finite(y), alpha))


@rule(aten.sub.Tensor, aten.sub_.Tensor, aten.sub.Scalar, aten.sub_.Scalar)
def subtract(b: Builder, x: Any, y: Any, alpha: float = 1) -> Rows:
    """Lower x - alpha * y."""
    logarithm = _log_probability(b, x, y) if alpha == 1 else None
    if logarithm is not None:
        return logarithm
    return _pointwise(b, "add", x, _times(b, y, -alpha))


def _log_probability(b: Builder, x: Any, y: Any) -> Rows | None:
    """X less the logarithm of the sum of its exponentials; None if it is not that."""
    if not isinstance(x, Rows) or not isinstance(y, Rows) or x.ndim != y.ndim:
        return None
    reduced = b.notes.get(("log_sum_exp", b.unreshaped(y)))
    if reduced is None or reduced.x != x:
        return None
    flat, dim = reduced.flat(b)
    return reduced.back(b, b.emit("log_softmax", flat, dim=flat.dim(dim)))


@rule(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(b: Builder, x: Any, y: Any, alpha: float = 1) -> Rows:
    return _pointwise(b, "add", y, _times(b, x, -alpha))


@rule(aten.neg.default)
def negative(b: Builder, x: Any) -> Any:
    """Lower -x."""
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
        unit = direction(b, x, y)
        if unit is not None:
            return unit
        quotient = multiply(b, x, power(b, y, -1))
        if ("count", y.name) in b.notes:
            b.notes["quotient", quotient.name] = x, b.notes["count", y.name]
        return quotient
    if isinstance(y, Live):  # bounded as a product where y moves
        return multiply(b, x, b.live("reciprocal.default", b.in_its_type(y)))
    x, y = b.line_up(x, y)
    return b.emit("divide", x, y, shape=broadcast(x, y))


@rule(aten.mm.default)
def _mm(b: Builder, x: Any, y: Any) -> Rows:
    if not isinstance(x, Rows):
        return transpose(b, _mm(b, transpose(b, y, 0, 1), b.fixed(x, "t.default")), 0, 1)
    if isinstance(y, Rows) or x.batch != 0:
        raise UnsupportedOperation("a matrix product of different examples")
    return b.emit("matmul", x, y, shape=(*x.shape[:-1], _sizes(y)[1]))


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple((value.value if isinstance(value, Live) else value).shape)


@rule(aten.mv.default)
def _mv(b: Builder, x: Any, y: Any) -> Rows:
    if not isinstance(x, Rows) or isinstance(y, Rows) or x.batch != 0:
        raise UnsupportedOperation("a matrix product of different examples")
    return b.emit("matmul", x, y, shape=x.shape[:-1])


@rule(aten.addmm.default)
def _addmm(b: Builder, bias: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> Rows:
    return add(b, _times(b, _mm(b, x, y), alpha), _times(b, bias, beta))


@rule(aten.bmm.default)
def _bmm(b: Builder, x: Any, y: Any) -> Rows:
    """(G, M, K) and (G, K, L) -> (G, M, L), where G, M or L holds the batch."""
    if not isinstance(x, Rows):
        return transpose(b, _bmm(b, transpose(b, y, 1, 2), b.fixed(x, "transpose.int", 1, 2)), 1, 2)
    if x.batch == 2 or isinstance(y, Rows) and not (x.batch == 0 and y.lines_up(x)):
        raise UnsupportedOperation("a matrix product of different examples")
    if isinstance(y, Rows):
        return b.emit("matrix_product", x, y, shape=(*x.shape[:-1], y.shape[-1]))
    if x.batch == 0:
        return b.emit("matmul", x, b.operand(y, x), shape=(*x.shape[:-1], _sizes(y)[2]))
    shape = *x.shape[:-1], _sizes(y)[2]
    rows = b.reshape(x, (x.shape[0], math.prod(x.merged), x.shape[-1]))
    result = b.emit("matmul", rows, y, shape=(*rows.shape[:-1], shape[-1]))
    return b.reshape(result, shape, x.before, x.outer, x.inner)


@rule(aten.baddbmm.default)
def _baddbmm(b: Builder, bias: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> Rows:
    return add(b, _times(b, _bmm(b, x, y), alpha), _times(b, bias, beta))


@rule(aten._to_copy.default)
def _to_copy(b: Builder, x: Rows, *, dtype: torch.dtype | None = None, **_: Any) -> Rows:
    """Lower a conversion that changes nothing."""
    if dtype in (None, b.dtype):
        return x
    if dtype.is_floating_point:
        raise UnsupportedOperation(f"it converts to {dtype} what is computed in {b.dtype}, which "
                                   "gives other numbers; compute in one type")
    raise UnsupportedOperation(
        "it makes integers of values that depend on the input. Ids, such as those of categories, "
        "do not move: give them to the model as a further argument (additional_forward_args) and "
        "not as columns of the input")
