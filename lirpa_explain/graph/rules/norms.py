"""Rules of norms, distances and directions."""

from typing import Any

import torch

from ...errors import UnsupportedOperation
from ..builder import Builder, Rows
from .powers import power
from .shapes import sum_over
from .table import RULES, rule

aten = torch.ops.aten


@rule(aten.linalg_vector_norm.default)
def _vector_norm(b: Builder, x: Rows, order: float = 2, dims: Any = None, keepdim: bool = False, *, dtype: Any = None
                 ) -> Rows:
    if order == 1:
        return sum_over(b, RULES[aten.abs.default](b, x), dims, keepdim)
    if order != 2:
        raise UnsupportedOperation("a norm of another order than 1 and 2")
    return power(b, sum_over(b, power(b, x, 2), dims, keepdim), 0.5)
