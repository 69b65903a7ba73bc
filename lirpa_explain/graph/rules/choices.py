"""Rules of comparisons with numbers, and of choices by them."""

from typing import Any

import torch

from ...errors import UnsupportedOperation
from ..builder import Builder, Comparison, Live, Rows
from .arithmetic import add, multiply
from .table import rule

aten = torch.ops.aten


def _compare(low: bool, high: bool, closed: bool, inside: bool = True) -> Any:
    def lowered(b: Builder, z: Any, number: Any) -> Comparison:
        if not isinstance(z, Rows) or isinstance(number, Rows | Live) or torch.as_tensor(number).numel() != 1:
            raise UnsupportedOperation("a comparison with anything but one number")
        value = float(number)
        return Comparison(z, value if low else None, value if high else None, closed, inside)

    return lowered


for targets, comparison in {
    (aten.ge.Scalar, aten.ge.Tensor): _compare(True, False, closed=True),
    (aten.gt.Scalar, aten.gt.Tensor): _compare(True, False, closed=False),
    (aten.le.Scalar, aten.le.Tensor): _compare(False, True, closed=True),
    (aten.lt.Scalar, aten.lt.Tensor): _compare(False, True, closed=False),
}.items():
    rule(*targets)(comparison)


@rule(aten.logical_and.default, aten.logical_and_.default, aten.bitwise_and.Tensor, aten.bitwise_and_.Tensor)
def _and(b: Builder, x: Any, y: Any) -> Comparison:
    """Between a lower and an upper limit."""
    halves = [m for m in (x, y) if isinstance(m, Comparison) and m.inside]
    lows = [m.low for m in halves if m.low is not None]
    highs = [m.high for m in halves if m.high is not None]
    if len(halves) != 2 or x.of != y.of or x.closed != y.closed or len(lows) != 1 or len(highs) != 1 \
            or lows[0] > highs[0]:
        raise UnsupportedOperation("a combination of comparisons other than: above one number and below another")
    return Comparison(x.of, lows[0], highs[0], x.closed)


@rule(aten.logical_not.default, aten.logical_not_.default, aten.bitwise_not.default)
def _not(b: Builder, x: Comparison) -> Comparison:
    return Comparison(x.of, x.low, x.high, x.closed, not x.inside)


@rule(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def _where(b: Builder, mask: Any, x: Any, y: Any) -> Rows:
    """Lower `x where mask, else y` as the sum of both, each times 1 or 0."""
    if not isinstance(mask, Comparison):
        raise UnsupportedOperation("a choice that is not a comparison of a value with a number")
    parts = [part for part in (_masked(b, x, mask), _masked(b, y, _not(b, mask))) if part is not None]
    if not parts:
        return multiply(b, mask.of, 0.0)
    return parts[0] if len(parts) == 1 else add(b, *parts)


@rule(aten.masked_fill.Scalar, aten.masked_fill_.Scalar, aten.masked_fill.Tensor, aten.masked_fill_.Tensor)
def _masked_fill(b: Builder, x: Any, mask: Any, value: Any) -> Rows:
    return _where(b, mask, value, x)


def _masked(b: Builder, x: Any, mask: Comparison) -> Rows | None:
    """X where the mask is true, 0 elsewhere; None if x is 0."""
    settings: dict[str, Any] = {"low": mask.low, "high": mask.high, "closed": mask.closed, "inside": mask.inside}
    z = mask.of
    if isinstance(x, Rows):
        if x.shape != z.shape or not x.lines_up(z):
            raise UnsupportedOperation("a choice between values of other shapes than what is compared")
        return b.emit("select", x, z, **settings)
    if isinstance(x, Live):
        return multiply(b, b.emit("window", z, **settings), x)
    constant = torch.as_tensor(x, dtype=b.dtype)  # of a number, torch would make one of single precision
    if not constant.any():
        return None
    window = b.emit("window", z, **settings)
    return multiply(b, window, float(constant)) if constant.numel() == 1 else multiply(b, window, constant)
