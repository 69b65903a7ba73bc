"""Rules of comparisons with numbers, of choices by them, and of comparisons used as numbers."""

from dataclasses import replace
from typing import Any

import torch

from ...errors import UnsupportedOperation
from ..builder import Builder, Comparison, Live, Rows
from ..masks import finite
from .arithmetic import add, multiply, subtract
from .table import PASS_THROUGH, RULES, rule

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
    (aten.eq.Scalar, aten.eq.Tensor): _compare(True, True, closed=True),
    (aten.ne.Scalar, aten.ne.Tensor): _compare(True, True, closed=True, inside=False),
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
    if isinstance(mask, torch.Tensor):
        mask = mask.to(b.dtype)
        return add(b, _times_mask(b, mask, x), _times_mask(b, 1 - mask, y))
    if isinstance(mask, Rows):  # made of further arguments: 1 or 0
        return add(b, _times_mask(b, mask, x), _times_mask(b, subtract(b, 1.0, mask), y))
    if not isinstance(mask, Comparison):
        raise UnsupportedOperation("a choice that is not a comparison of a value with a number")
    parts = [part for part in (_masked(b, x, mask), _masked(b, y, _not(b, mask))) if part is not None]
    if not parts:
        return multiply(b, mask.of, 0.0)
    return parts[0] if len(parts) == 1 else add(b, *parts)


@rule(aten.masked_fill.Scalar, aten.masked_fill_.Scalar, aten.masked_fill.Tensor, aten.masked_fill_.Tensor)
def _masked_fill(b: Builder, x: Any, mask: Any, value: Any) -> Rows:
    return _where(b, mask, value, x)


def _times_mask(b: Builder, mask: Any, x: Any) -> Any:
    """A value times 1 or 0; numbers stay numbers."""
    x = x if isinstance(x, Rows | Live) else finite(torch.as_tensor(x, dtype=b.dtype))
    return multiply(b, mask, x) if isinstance(mask, Rows) or isinstance(x, Rows | Live) else mask * x


def _masked(b: Builder, x: Any, mask: Comparison) -> Rows | None:
    """X where the mask is true, 0 elsewhere; None if x is 0."""
    settings: dict[str, Any] = {"low": mask.low, "high": mask.high, "closed": mask.closed, "inside": mask.inside}
    z = mask.of
    if isinstance(x, Comparison):
        x = _number(b, x)
    if isinstance(x, Rows) and x.shape == z.shape and x.lines_up(z):
        return b.emit("select", x, z, **settings)
    if isinstance(x, Rows | Live):
        return multiply(b, b.emit("window", z, **settings), x)
    constant = torch.as_tensor(x, dtype=b.dtype)  # of a number, torch would make one of single precision
    if not constant.any():
        return None
    window = b.emit("window", z, **settings)
    return multiply(b, window, float(constant)) if constant.numel() == 1 else multiply(b, window, constant)


def _number(b: Builder, mask: Comparison) -> Rows:
    """1 where the mask is true, 0 elsewhere."""
    result = _masked(b, 1.0, mask)
    assert result is not None
    return result


READ = {aten.logical_and.default, aten.logical_and_.default, aten.bitwise_and.Tensor, aten.bitwise_and_.Tensor,
        aten.logical_not.default, aten.logical_not_.default, aten.bitwise_not.default, aten.where.self,
        aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar, aten.masked_fill.Scalar,
        aten.masked_fill_.Scalar, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}
"""Operations whose rules read comparisons."""

MOVE = {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten._reshape_alias.default,
        aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.expand.default,
        aten.permute.default, aten.transpose.int, aten.t.default, aten.slice.Tensor, aten.select.int}
"""Operations that move entries: what is moved is compared."""

MULTIPLY = {aten.mul.Tensor, aten.mul_.Tensor, aten.mul.Scalar}

EXACT = {*MOVE, aten._to_copy.default, aten.cat.default, aten.stack.default}
"""Operations whose results on 1 and 0 are the same in every type."""


def lower_with_comparisons(b: Builder, target: Any, args: Any, kwargs: Any) -> Any:
    """Lower an operation on comparisons: as such where it reads them, else as 1 or 0.

    To use them as numbers is sound: autograd gives them no gradient, and their jumps are within the window's bounds.
    """
    if target in READ:
        return RULES[target](b, *args, **kwargs)
    if target in PASS_THROUGH or target is aten._to_copy.default and kwargs.get("dtype") is torch.bool:
        return args[0]
    if target in MOVE:
        return replace(args[0], of=RULES[target](b, args[0].of, *args[1:], **kwargs))
    if target is aten._to_copy.default:
        return _number(b, args[0])
    if target in MULTIPLY:
        mask, other = args[:2] if isinstance(args[0], Comparison) else args[1::-1]
        product = _masked(b, other, mask)
        return multiply(b, mask.of, 0.0) if product is None else product
    if target not in RULES:
        raise UnsupportedOperation("there is no bound operator for it")
    numbers = torch.utils._pytree.tree_map(lambda a: _number(b, a) if isinstance(a, Comparison) else a,
                                           (list(args), dict(kwargs)))
    return RULES[target](b, *numbers[0], **numbers[1])
