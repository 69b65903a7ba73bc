"""Rules of the normalizations and of their gradients."""

import math
from typing import Any

import torch

from ...errors import TrainingModeError, UnsupportedOperation
from ..builder import Builder, Rows
from .arithmetic import add, multiply, subtract
from .layers import channels
from .table import rule

aten = torch.ops.aten


def _batch_norm(b: Builder, x: Rows, w: Any, bias: Any, mean: Any, variance: Any, epsilon: float) -> tuple[Any, ...]:
    spatial = len(x.shape) - 1
    weight = torch.ones_like(mean) if w is None else w
    y = subtract(b, x, channels(b, mean, spatial))
    y = b.emit("normalize", y, weight, variance, epsilon=epsilon)
    return (y if bias is None else add(b, y, channels(b, bias, spatial))), None, None, None


@rule(aten.native_batch_norm.default)
def _native_batch_norm(b: Builder, x: Rows, w: Any, bias: Any, mean: Any, variance: Any, training: bool,
                       momentum: float, epsilon: float) -> tuple[Any, ...]:
    if training or mean is None:
        raise TrainingModeError("A batch normalization uses the statistics of the batch; call model.eval() first.")
    return _batch_norm(b, x, w, bias, mean, variance, epsilon)


@rule(aten._native_batch_norm_legit_no_training.default, aten._batch_norm_no_update.default)
def _batch_norm_no_training(b: Builder, x: Rows, w: Any, bias: Any, mean: Any, variance: Any, momentum: float,
                            epsilon: float) -> tuple[Any, ...]:
    return _batch_norm(b, x, w, bias, mean, variance, epsilon)


@rule(aten.native_batch_norm_backward.default)
def _native_batch_norm_backward(b: Builder, g: Rows, x: Rows, w: Any, mean: Any, variance: Any, *rest: Any
                                ) -> tuple[Any, ...]:
    train, epsilon = rest[2], rest[3]
    if train:
        raise TrainingModeError("A batch normalization uses the statistics of the batch; call model.eval() first.")
    weight = torch.ones_like(mean) if w is None else w
    return b.emit("normalize", g, weight, variance, epsilon=epsilon), None, None


def _deviation(b: Builder, x: Rows, dims: list[int], epsilon: float) -> tuple[Rows, Rows]:
    """Differences to the mean over dimensions of the module, and one over the standard deviation."""
    shape = tuple(1 if i + 1 in dims else s for i, s in enumerate(x.shape))
    center = b.emit("center", x, dims=dims)
    variance = b.emit("mean", b.emit("square", center), shape=shape, dims=dims, keepdim=True)
    return center, b.emit("inverse_root", variance, epsilon=epsilon)


def _standardized(b: Builder, x: Rows, dims: list[int], epsilon: float) -> Rows:
    """(x - mean) / sqrt(variance + epsilon), at most sqrt(n - 1) for n entries."""
    center, factor = _deviation(b, x, dims, epsilon)
    largest = math.sqrt(math.prod(x.shape[d - 1] for d in dims) - 1)
    return b.emit("known", b.emit("multiply", center, factor), low=-largest, high=largest)


def _standardized_backward(b: Builder, g: Rows, x: Rows, factor: Rows, dims: list[int]) -> Rows:
    """factor * (q - y mean(q y)) with q = g - mean(g), y the standardized x and `factor` as saved by the forward."""
    step = b.producer(factor)
    if step is None or step.operator != "inverse_root" or not g.lines_up(x):
        raise UnsupportedOperation("a gradient of a normalization whose forward operation is not in the trace")
    y = _standardized(b, x, dims, step.settings["epsilon"])
    q = b.emit("center", g, dims=dims)
    mean = b.emit("mean", b.emit("multiply", q, y), shape=factor.shape, dims=dims, keepdim=True)
    along = b.emit("multiply", y, mean)
    return b.emit("multiply", subtract(b, q, along), factor)


def _last(x: Rows, count: int) -> list[int]:
    """The last dimensions of the module, which must lie behind the batch."""
    if count > x.ndim - 1 - x.batch:
        raise UnsupportedOperation("a normalization over the batch")
    return list(range(len(x.shape) + 1 - count, len(x.shape) + 1))


@rule(aten.native_layer_norm.default)
def _layer_norm(b: Builder, x: Rows, sizes: list[int], w: Any, bias: Any, epsilon: float) -> tuple[Any, ...]:
    dims = _last(x, len(sizes))
    y = _standardized(b, x, dims, epsilon)
    y = y if w is None else multiply(b, y, w)
    return y if bias is None else add(b, y, bias), None, _deviation(b, x, dims, epsilon)[1]


@rule(aten.native_layer_norm_backward.default)
def _layer_norm_backward(b: Builder, g: Rows, x: Rows, sizes: list[int], mean: None, factor: Rows, w: Any, *_: Any
                         ) -> tuple[Any, ...]:
    g = g if w is None else multiply(b, g, w)
    return _standardized_backward(b, g, x, factor, _last(x, len(sizes))), None, None


def _groups(b: Builder, x: Rows, count: int, examples: int) -> Rows:
    if not x.leads or examples != b.rows:
        raise UnsupportedOperation("a normalization over the batch")
    return b.reshape(x, (count, math.prod(x.shape) // count))


@rule(aten.native_group_norm.default)
def _group_norm(b: Builder, x: Rows, w: Any, bias: Any, examples: int, _: int, __: int, count: int, epsilon: float
                ) -> tuple[Any, ...]:
    groups, spatial = _groups(b, x, count, examples), len(x.shape) - 1
    y = b.reshape(_standardized(b, groups, [2], epsilon), x.shape)
    y = y if w is None else multiply(b, y, channels(b, w, spatial))
    y = y if bias is None else add(b, y, channels(b, bias, spatial))
    return y, None, _deviation(b, groups, [2], epsilon)[1]


@rule(aten.native_group_norm_backward.default)
def _group_norm_backward(b: Builder, g: Rows, x: Rows, mean: None, factor: Rows, w: Any, examples: int, _: int, __: int,
                         count: int, mask: Any) -> tuple[Any, ...]:
    g = g if w is None else multiply(b, g, channels(b, w, len(x.shape) - 1))
    groups = [_groups(b, t, count, examples) for t in (g, x)]
    return b.reshape(_standardized_backward(b, *groups, factor, [2]), x.shape), None, None
