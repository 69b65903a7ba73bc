"""Rules of the normalizations and of their gradients."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import TrainingModeError, UnsupportedOperation
from ..builder import Builder, Live, Rows
from .arithmetic import add, multiply, subtract
from .layers import channels
from .shapes import mean_over, squeeze
from .table import rule

aten = torch.ops.aten


def _batch_norm(b: Builder, x: Rows, w: Any, bias: Any, mean: Any, variance: Any,
                epsilon: float) -> tuple[Any, ...]:
    spatial = len(x.shape) - 1
    weight = torch.ones_like(mean) if w is None else w
    # a statistic moves while the model is trained: it is read at each call
    if isinstance(mean, Tensor):
        mean = Live(b.name(mean), mean)
    y = subtract(b, x, channels(b, mean, spatial))
    y = b.emit("normalize", y, weight, variance, epsilon=epsilon)
    return (y if bias is None else add(b, y, channels(b, bias, spatial))), None, None, None


@rule(aten.native_batch_norm.default)
def _native_batch_norm(b: Builder, x: Rows, w: Any, bias: Any, mean: Any, variance: Any,
                       training: bool, momentum: float, epsilon: float) -> tuple[Any, ...]:
    if training or mean is None:
        raise TrainingModeError("A batch normalization uses the statistics of the batch; call "
                                "model.eval() first.")
    return _batch_norm(b, x, w, bias, mean, variance, epsilon)


@rule(aten._native_batch_norm_legit_no_training.default, aten._batch_norm_no_update.default)
def _batch_norm_no_training(b: Builder, x: Rows, w: Any, bias: Any, mean: Any, variance: Any,
                            momentum: float, epsilon: float) -> tuple[Any, ...]:
    return _batch_norm(b, x, w, bias, mean, variance, epsilon)


@rule(aten.native_batch_norm_backward.default)
def _native_batch_norm_backward(b: Builder, g: Rows, x: Rows, w: Any, mean: Any, variance: Any,
                                *rest: Any) -> tuple[Any, ...]:
    train, epsilon = rest[2], rest[3]
    if train:
        raise TrainingModeError("A batch normalization uses the statistics of the batch; call "
                                "model.eval() first.")
    weight = torch.ones_like(mean) if w is None else w
    return b.emit("normalize", g, weight, variance, epsilon=epsilon), None, None


def _mean(b: Builder, x: Rows, dims: list[int]) -> Rows:
    shape = tuple(1 if i + 1 in dims else s for i, s in enumerate(x.shape))
    return b.emit("mean", x, shape=shape, dims=dims, keepdim=True)


def _deviation(b: Builder, x: Rows, dims: list[int], epsilon: float) -> tuple[Rows, Rows]:
    """Differences to the mean over dimensions of the module, and one over the standard
    deviation.
    """
    variance = b.emit("variance", x, shape=_mean(b, x, dims).shape, dims=dims)
    return b.emit("center", x, dims=dims), b.emit("inverse_root", variance, epsilon=epsilon)


def _standardized(b: Builder, x: Rows, dims: list[int], epsilon: float) -> Rows:
    """(x - mean) / sqrt(variance + epsilon), at most sqrt(n - 1) for n entries."""
    center, factor = _deviation(b, x, dims, epsilon)
    largest = math.sqrt(math.prod(x.shape[d - 1] for d in dims) - 1)
    return b.emit("known", b.emit("multiply", center, factor), low=-largest, high=largest)


def _standardized_backward(b: Builder, g: Rows, x: Rows, saved: Rows, dims: list[int]) -> Rows:
    """Lower factor * (q - y mean(q y)), q = g - mean(g), y the standardized x, its `factor` saved
    by the forward.
    """
    step = b.producer(saved)
    while step is not None and step.operator == "reshape":
        step = b.producer(replace(saved, name=step.inputs[0]))
    if step is None or step.operator != "inverse_root" or not g.lines_up(x):
        raise UnsupportedOperation("a gradient of a normalization whose forward operation is not "
                                   "in the trace")
    epsilon = step.settings["epsilon"]
    y, factor = _standardized(b, x, dims, epsilon), _deviation(b, x, dims, epsilon)[1]
    q = b.emit("center", g, dims=dims)
    along = b.emit("multiply", y, _mean(b, b.emit("multiply", q, y), dims))
    return b.emit("multiply", subtract(b, q, along), factor)


def _last(x: Rows, count: int) -> list[int]:
    """The last dimensions of the module, which must lie behind the batch."""
    if count > x.ndim - 1 - x.batch:
        raise UnsupportedOperation("a normalization over the batch")
    return list(range(len(x.shape) + 1 - count, len(x.shape) + 1))


@rule(aten.native_layer_norm.default)
def _layer_norm(b: Builder, x: Rows, sizes: list[int], w: Any, bias: Any,
                epsilon: float) -> tuple[Any, ...]:
    dims = _last(x, len(sizes))
    y = _standardized(b, x, dims, epsilon)
    y = y if w is None else multiply(b, y, w)
    return (y if bias is None else add(b, y, bias), _mean(b, x, dims),
            _deviation(b, x, dims, epsilon)[1])


@rule(aten.native_layer_norm_backward.default)
def _layer_norm_backward(b: Builder, g: Rows, x: Rows, sizes: list[int], mean: Rows, saved: Rows,
                         w: Any, *_: Any) -> tuple[Any, ...]:
    g = g if w is None else multiply(b, g, w)
    return _standardized_backward(b, g, x, saved, _last(x, len(sizes))), None, None


def _groups(b: Builder, x: Rows, count: int, examples: int) -> Rows:
    if not x.leads or examples != b.rows:
        raise UnsupportedOperation("a normalization over the batch")
    return b.reshape(x, (count, math.prod(x.shape) // count))


@rule(aten.native_group_norm.default)
def _group_norm(b: Builder, x: Rows, w: Any, bias: Any, examples: int, _: int, __: int, count: int,
                epsilon: float) -> tuple[Any, ...]:
    groups, spatial = _groups(b, x, count, examples), len(x.shape) - 1
    y = b.reshape(_standardized(b, groups, [2], epsilon), x.shape)
    y = y if w is None else multiply(b, y, channels(b, w, spatial))
    y = y if bias is None else add(b, y, channels(b, bias, spatial))
    saved = _mean(b, groups, [2]), _deviation(b, groups, [2], epsilon)[1]
    return y, *[b.reshape(part, (count,)) for part in saved]


@rule(aten.native_group_norm_backward.default)
def _group_norm_backward(b: Builder, g: Rows, x: Rows, mean: Rows, saved: Rows, w: Any,
                         examples: int, _: int, __: int, count: int, mask: Any) -> tuple[Any, ...]:
    g = g if w is None else multiply(b, g, channels(b, w, len(x.shape) - 1))
    result = _standardized_backward(b, _groups(b, g, count, examples),
                                    _groups(b, x, count, examples), saved, [2])
    return b.reshape(result, x.shape), None, None


@rule(aten.var.correction)
def _variance(b: Builder, x: Rows, dims: Any = None, *, correction: float | None = None,
              keepdim: bool = False) -> Rows:
    return _variance_of(b, x, dims, correction, keepdim)


@rule(aten.var_mean.correction)
def _variance_and_mean(b: Builder, x: Rows, dims: Any = None, *, correction: float | None = None,
                       keepdim: bool = False) -> tuple[Rows, Rows]:
    return _variance_of(b, x, dims, correction, keepdim), mean_over(b, x, dims, keepdim)


def _variance_of(b: Builder, x: Rows, dims: Any, correction: float | None, keepdim: bool) -> Rows:
    if not dims:
        raise UnsupportedOperation("a variance over the whole batch; take it over the dimensions "
                                   "of an example")
    at = sorted(x.dim(d) for d in dims)
    count = math.prod(x.shape[d - 1] for d in at)
    mean = mean_over(b, x, dims, True)
    variance = replace(mean, name=b.emit("variance", x, dims=at).name)
    variance = multiply(b, variance, count / (count - (1 if correction is None else correction)))
    return variance if keepdim else squeeze(b, variance, list(dims))
