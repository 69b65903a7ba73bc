"""Rules of softmax, its logarithm, and their gradients."""

from typing import Any

import torch

from ..builder import Builder, Rows
from .arithmetic import multiply, subtract
from .order import Reduced
from .table import RULES, rule

aten = torch.ops.aten


@rule(aten._log_softmax.default)
def _log_softmax(b: Builder, x: Rows, dim: int, *_: Any) -> Rows:
    return b.emit("log_softmax", x, dim=x.dim(dim))


@rule(aten._softmax.default, aten._safe_softmax.default)
def _softmax(b: Builder, x: Rows, dim: int, *_: Any) -> Rows:
    return b.emit("probability", _log_softmax(b, x, dim))


@rule(aten._softmax_backward_data.default)
def _softmax_backward(b: Builder, g: Rows, p: Rows, dim: int, *_: Any) -> Rows:
    g = b.operand(g, p)
    return b.emit("multiply", p, b.emit("weighted_center", g, p, dim=p.dim(dim), total=1.0))


@rule(aten._log_softmax_backward_data.default)
def _log_softmax_backward(b: Builder, g: Rows, result: Rows, dim: int, *_: Any) -> Rows:
    at = g.dim(dim)
    shape = (*g.shape[: at - 1], 1, *g.shape[at:])
    total = b.emit("sum", g, shape=shape, dims=[at], keepdim=True)
    return subtract(b, g, multiply(b, b.emit("probability", result), total))


@rule(aten.logsumexp.default)
def _log_sum_exp(b: Builder, x: Rows, dims: list[int], keepdim: bool = False) -> Rows:
    reduced = Reduced(x, tuple(d % x.ndim for d in ([dims] if isinstance(dims, int) else dims)))
    flat, dim = reduced.flat(b)
    at = flat.dim(dim)
    total = b.emit("log_sum_exp", flat, shape=(*flat.shape[: at - 1], 1, *flat.shape[at:]), dim=at)
    b.notes["log_sum_exp", total.name] = reduced
    result = reduced.back(b, total)
    return result if keepdim else RULES[aten.squeeze.dims](b, result, list(reduced.dims))
