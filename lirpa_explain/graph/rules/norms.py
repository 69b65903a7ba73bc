"""Rules of norms."""

import math
from typing import Any

import torch

from ...errors import UnsupportedOperation
from ..builder import Builder, Rows
from .powers import power
from .shapes import sum_over
from .table import RULES, rule

aten = torch.ops.aten


@rule(aten.linalg_vector_norm.default)
def _vector_norm(b: Builder, x: Rows, order: float = 2, dims: Any = None, keepdim: bool = False, *,
                 dtype: Any = None) -> Rows:
    if order == math.inf:
        return RULES[aten.amax.default](b, RULES[aten.abs.default](b, x), dims or [], keepdim)
    if order < 1:
        raise UnsupportedOperation("a norm of an order below 1")
    if order == 1:
        return sum_over(b, RULES[aten.abs.default](b, x), dims, keepdim)
    if order != 2:
        size = x if order % 2 == 0 else RULES[aten.abs.default](b, x)
        return power(b, sum_over(b, power(b, size, order), dims, keepdim), 1 / order)
    norm = b.emit("root", sum_over(b, power(b, x, 2), dims, keepdim))
    if len(dims) == 1:
        b.notes["norm", norm.name] = x, dims[0] % x.ndim, norm
    return norm


@rule(aten.norm.ScalarOpt_dim)
def _norm(b: Builder, x: Rows, order: float | None, dims: Any, keepdim: bool = False) -> Rows:
    return _vector_norm(b, x, 2 if order is None else order, dims, keepdim)
