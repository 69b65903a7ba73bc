"""The table from ATen operations to operators: one short rule each.

A rule is called with the builder and the operation's arguments, in which tensors are `Rows`, `Live` or constants.
It appends steps and returns the value of the result.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from ..errors import TrainingModeError, UnsupportedOperation
from .builder import Builder, Indices, Live, Rows

aten = torch.ops.aten

RULES: dict[Any, Callable[..., Any]] = {}

PASS_THROUGH = {aten.detach.default, aten.alias.default, aten.clone.default, aten.contiguous.default,
                aten.lift_fresh_copy.default}

VALUE_FREE = {aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.new_zeros.default,
              aten.new_ones.default, aten.new_full.default, aten.new_empty.default}


def rule(*targets: Any, overwrite: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: lower these ATen operations by the decorated function.

    Raises:
        ValueError: one of them has a rule already and `overwrite` is False.
    """
    taken = [str(t) for t in targets if t in RULES]
    if taken and not overwrite:
        raise ValueError(f"{', '.join(taken)}: there is a rule already; pass overwrite=True to replace it.")

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return register


# Arithmetic


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
def _add(b: Builder, x: Any, y: Any, alpha: float = 1) -> Rows:
    return _pointwise(b, "add", x, _times(b, y, alpha))


@rule(aten.sub.Tensor, aten.sub_.Tensor, aten.sub.Scalar)
def _sub(b: Builder, x: Any, y: Any, alpha: float = 1) -> Rows:
    return _pointwise(b, "add", x, _times(b, y, -alpha))


@rule(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(b: Builder, x: Any, y: Any, alpha: float = 1) -> Rows:
    return _pointwise(b, "add", y, _times(b, x, -alpha))


@rule(aten.neg.default)
def _neg(b: Builder, x: Rows) -> Rows:
    return _times(b, x, -1.0)


@rule(aten.mul.Tensor, aten.mul_.Tensor, aten.mul.Scalar)
def _mul(b: Builder, x: Any, y: Any) -> Rows:
    if isinstance(x, int | float) or isinstance(y, int | float):
        return _times(b, *((y, float(x)) if isinstance(x, int | float) else (x, float(y))))
    return _pointwise(b, "multiply", x, y)


@rule(aten.div.Tensor, aten.div_.Tensor, aten.div.Scalar)
def _div(b: Builder, x: Any, y: Any) -> Rows:
    if isinstance(y, Rows):
        raise UnsupportedOperation("division by a value that depends on the input")
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
    return _add(b, _times(b, _mm(b, x, w), alpha), _times(b, bias, beta))


# Shapes


def _view(b: Builder, x: Rows, shape: tuple[int, ...]) -> Rows:
    """Reshape to a shape of the trace, whose first dimension must be the batch, or the batch and more."""
    total = b.rows * math.prod(x.shape)
    shape = tuple(total // -math.prod(shape) if s == -1 else s for s in shape)
    if not shape or shape[0] % b.rows:
        raise UnsupportedOperation(f"a reshape to {tuple(shape)}, which splits the examples of a batch")
    if shape[0] == b.rows:
        return b.reshape(x, shape[1:], merged=False)
    return b.reshape(x, (shape[0] // b.rows, *shape[1:]), merged=True)


@rule(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten._reshape_alias.default)
def _reshape(b: Builder, x: Rows, shape: Any, *_: Any) -> Rows:
    return _view(b, x, tuple(shape))


@rule(aten.unsqueeze.default)
def _unsqueeze(b: Builder, x: Rows, dim: int) -> Rows:
    dim = dim % (x.ndim + 1)
    if dim == 0:
        raise UnsupportedOperation("a new dimension before the batch")
    at = dim - 1 + x.merged
    return b.reshape(x, (*x.shape[:at], 1, *x.shape[at:]))


@rule(aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(b: Builder, x: Rows, dims: Any) -> Rows:
    dims = [dims] if isinstance(dims, int) else dims
    drop = {x.dim(d) - 1 for d in dims if d % x.ndim and x.shape[x.dim(d) - 1] == 1}
    return b.reshape(x, tuple(s for i, s in enumerate(x.shape) if i not in drop))


@rule(aten.expand.default)
def _expand(b: Builder, x: Rows, sizes: Any, *, implicit: bool = False) -> Rows:
    if len(sizes) != x.ndim or x.merged:
        raise UnsupportedOperation("an expansion by a dimension before the batch")
    shape = tuple(old if new == -1 else new for old, new in zip(x.shape, sizes[1:], strict=True))
    return x if shape == x.shape else Rows(b.step("expand", x.name, shape=list(shape)), shape)


@rule(aten.permute.default)
def _permute(b: Builder, x: Rows, dims: Any) -> Rows:
    dims = [d % x.ndim for d in dims]
    if dims[0] != 0:
        raise UnsupportedOperation("a permutation that moves the batch dimension")
    order = [0, 1] * x.merged + [0] * (not x.merged) + [x.dim(d) for d in dims[1:]]
    return b.emit("permute", x, shape=tuple(x.shape[d - 1] for d in order[1:]), dims=order)


@rule(aten.transpose.int)
def _transpose(b: Builder, x: Rows, first: int, second: int) -> Rows:
    order = list(range(x.ndim))
    order[first], order[second] = order[second], order[first]
    return _permute(b, x, order)


@rule(aten.t.default)
def _t(b: Builder, x: Rows) -> Rows:
    return _transpose(b, x, 0, x.ndim - 1)


@rule(aten.cat.default)
def _cat(b: Builder, xs: list[Any], dim: int = 0) -> Rows:
    if not all(isinstance(x, Rows) and x.ndim == xs[0].ndim and x.merged == xs[0].merged for x in xs):
        raise UnsupportedOperation("a concatenation with a constant")
    at = xs[0].dim(dim)
    shape = list(xs[0].shape)
    shape[at - 1] = sum(x.shape[at - 1] for x in xs)
    return b.emit("concatenate", xs[0], *xs[1:], shape=tuple(shape), dim=at)


@rule(aten.stack.default)
def _stack(b: Builder, xs: list[Any], dim: int = 0) -> Rows:
    if not all(isinstance(x, Rows) for x in xs):
        raise UnsupportedOperation("a stack with a constant")
    dim = dim % (xs[0].ndim + 1)
    return _cat(b, [_unsqueeze(b, x, dim) for x in xs], dim)


@rule(aten.slice.Tensor)
def _slice(b: Builder, x: Rows, dim: int = 0, start: int | None = None, stop: int | None = None, step: int = 1) -> Rows:
    if dim % x.ndim == 0 and (start or 0) == 0 and (stop is None or stop >= b.rows) and step == 1:
        return x
    at = x.dim(dim)
    start, stop, step = slice(start, stop, step).indices(x.shape[at - 1])
    shape = (*x.shape[: at - 1], len(range(start, stop, step)), *x.shape[at:])
    return b.emit("slice", x, shape=shape, dim=at, start=start, stop=stop, step=step)


@rule(aten.select.int)
def _select(b: Builder, x: Rows, dim: int, index: int) -> Rows:
    at = x.dim(dim) - 1
    index = index % x.shape[at]
    return b.reshape(_slice(b, x, dim, index, index + 1), x.shape[:at] + x.shape[at + 1:])


def _place(b: Builder, g: Rows, size: int, at: int, start: int, step: int) -> Rows:
    shape = (*g.shape[: at - 1], size, *g.shape[at:])
    return b.emit("place", g, shape=shape, size=size, dim=at, start=start, step=step)


@rule(aten.slice_backward.default)
def _slice_backward(b: Builder, g: Rows, sizes: list[int], dim: int, start: int, stop: int, step: int) -> Rows:
    if dim % g.ndim == 0 and start == 0 and stop >= sizes[0] and step == 1:
        return g
    start = slice(start, stop, step).indices(sizes[dim])[0]
    return _place(b, g, sizes[dim], g.dim(dim), start, step)


@rule(aten.select_backward.default)
def _select_backward(b: Builder, g: Rows, sizes: list[int], dim: int, index: int) -> Rows:
    dim = dim % len(sizes)
    g = _unsqueeze(b, g, dim)
    return _place(b, g, sizes[dim], g.dim(dim), index % sizes[dim], 1)


@rule(aten.split.Tensor)
def _split(b: Builder, x: Rows, size: int, dim: int = 0) -> list[Rows]:
    count = x.shape[x.dim(dim) - 1]
    return [_slice(b, x, dim, i, min(i + size, count)) for i in range(0, count, size)]


@rule(aten.split_with_sizes.default)
def _split_with_sizes(b: Builder, x: Rows, sizes: list[int], dim: int = 0) -> list[Rows]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [_slice(b, x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


@rule(aten.unbind.int)
def _unbind(b: Builder, x: Rows, dim: int = 0) -> list[Rows]:
    return [_select(b, x, dim, i) for i in range(x.shape[x.dim(dim) - 1])]


@rule(aten.constant_pad_nd.default)
def _constant_pad(b: Builder, x: Rows, pad: list[int], value: float = 0) -> Rows:
    if value or len(pad) > 2 * len(x.shape):
        raise UnsupportedOperation("padding by anything but 0, or of the batch")
    shape = list(x.shape)
    for i in range(len(pad) // 2):
        shape[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    return b.emit("pad", x, shape=tuple(shape), pad=list(pad))


def _reduce(b: Builder, operator: str, x: Rows, dims: Any, keepdim: bool) -> Rows:
    if not dims:
        raise UnsupportedOperation("a reduction over the whole batch; reduce the dimensions of an example")
    at = sorted(x.dim(d) for d in dims)
    shape = tuple(1 if i + 1 in at else s for i, s in enumerate(x.shape) if keepdim or i + 1 not in at)
    return b.emit(operator, x, shape=shape, dims=at, keepdim=keepdim)


@rule(aten.sum.dim_IntList)
def _sum(b: Builder, x: Rows, dims: Any, keepdim: bool = False, *, dtype: Any = None) -> Rows:
    return _reduce(b, "sum", x, dims, keepdim)


@rule(aten.mean.dim)
def _mean(b: Builder, x: Rows, dims: Any, keepdim: bool = False, *, dtype: Any = None) -> Rows:
    return _reduce(b, "mean", x, dims, keepdim)


# Activations


def _input_of(b: Builder, result: Rows, operator: str) -> Rows:
    """The pre-activation of an activation's result: autograd may save either; the former is what is bounded."""
    step = b.producer(result)
    if step.operator != operator:
        raise UnsupportedOperation(f"a gradient of {operator} whose forward operation is not in the trace")
    return Rows(step.inputs[0], result.shape, result.merged)


@rule(aten.relu.default, aten.relu_.default)
def _relu(b: Builder, z: Rows) -> Rows:
    return b.emit("kink", z, slope=0.0)


@rule(aten.threshold_backward.default)
def _relu_backward(b: Builder, g: Rows, result: Rows, threshold: float) -> Rows:
    if threshold != 0:
        raise UnsupportedOperation("a threshold other than 0")
    step = b.producer(result)
    z = _input_of(b, result, "kink") if step.operator == "kink" and step.settings["slope"] == 0 else result
    return b.emit("kink_gradient", g, z, slope=0.0)


@rule(aten.leaky_relu.default, aten.leaky_relu_.default)
def _leaky_relu(b: Builder, z: Rows, slope: float = 0.01) -> Rows:
    return b.emit("kink", z, slope=slope)


@rule(aten.leaky_relu_backward.default)
def _leaky_relu_backward(b: Builder, g: Rows, z: Rows, slope: float, is_result: bool) -> Rows:
    return b.emit("kink_gradient", g, _input_of(b, z, "kink") if is_result else z, slope=slope)


@rule(aten.tanh.default, aten.tanh_.default)
def _tanh(b: Builder, z: Rows) -> Rows:
    return b.emit("tanh", z)


@rule(aten.tanh_backward.default)
def _tanh_backward(b: Builder, g: Rows, result: Rows) -> Rows:
    return b.emit("tanh_gradient", g, _input_of(b, result, "tanh"))


@rule(aten.sigmoid.default, aten.sigmoid_.default)
def _sigmoid(b: Builder, z: Rows) -> Rows:
    return b.emit("sigmoid", z)


@rule(aten.sigmoid_backward.default)
def _sigmoid_backward(b: Builder, g: Rows, result: Rows) -> Rows:
    return b.emit("sigmoid_gradient", g, _input_of(b, result, "sigmoid"))


@rule(aten.softplus.default)
def _softplus(b: Builder, z: Rows, beta: float = 1, threshold: float = 20) -> Rows:
    return b.emit("softplus", z, beta=beta, threshold=threshold)


@rule(aten.softplus_backward.default)
def _softplus_backward(b: Builder, g: Rows, z: Rows, beta: float, threshold: float) -> Rows:
    return b.emit("softplus_gradient", g, z, beta=beta, threshold=threshold)


# Convolution, normalization, pooling


def _convolved(n: int, k: int, s: int, p: int, d: int) -> int:
    return (n + 2 * p - d * (k - 1) - 1) // s + 1


@rule(aten.convolution.default)
def _convolution(b: Builder, x: Rows, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
                 output_padding: Any, groups: int) -> Rows:
    if transposed or x.merged or isinstance(w, Rows):
        raise UnsupportedOperation("a convolution that is transposed, or whose weights depend on the input")
    weight = w.value if isinstance(w, Live) else w
    spatial = [_convolved(*a) for a in zip(x.shape[1:], weight.shape[2:], stride, padding, dilation, strict=True)]
    y = b.emit("convolution", x, w, shape=(weight.shape[0], *spatial), stride=list(stride), padding=list(padding),
               dilation=list(dilation), groups=groups)
    return y if bias is None else _add(b, y, _channels(b, bias, len(spatial)))


def _channels(b: Builder, vector: Any, spatial: int) -> Any:
    """A vector of one number a channel, shaped to broadcast over the dimensions behind."""
    size = [-1, *[1] * spatial]
    return b.live("view.default", vector, size) if isinstance(vector, Live) else vector.reshape(size)


@rule(aten.convolution_backward.default)
def _convolution_backward(b: Builder, g: Rows, x: Rows, w: Any, bias_sizes: Any, stride: Any, padding: Any,
                          dilation: Any, transposed: bool, output_padding: Any, groups: int, mask: Any
                          ) -> tuple[Any, ...]:
    if transposed or isinstance(w, Rows):
        raise UnsupportedOperation("the gradient of a transposed convolution")
    result = b.emit("convolution_gradient", g, w, shape=x.shape, size=list(x.shape[1:]), stride=list(stride),
                    padding=list(padding), dilation=list(dilation), groups=groups)
    return result, None, None


def _batch_norm(b: Builder, x: Rows, w: Any, bias: Any, mean: Any, variance: Any, epsilon: float) -> tuple[Any, ...]:
    spatial = len(x.shape) - 1
    weight = torch.ones_like(mean) if w is None else w
    y = _sub(b, x, _channels(b, mean, spatial))
    y = b.emit("normalize", y, weight, variance, epsilon=epsilon)
    return (y if bias is None else _add(b, y, _channels(b, bias, spatial))), None, None, None


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


def _pair(value: Any, default: Any = None) -> list[int]:
    value = default if value is None or value == [] else value
    return [value] * 2 if isinstance(value, int) else list(value) * (2 // len(value))


def _pooled(settings: dict[str, Any], x: Rows) -> tuple[int, ...]:
    """Shape of a row after pooling, asked of torch itself."""
    names = ("kernel", "stride", "padding")
    kernel, stride, padding = (settings[n] for n in names)
    if "dilation" in settings:
        probe = aten.max_pool2d_with_indices(torch.empty(1, *x.shape, device="meta"), kernel, stride, padding,
                                             settings["dilation"], settings["ceil"])[0]
    else:
        probe = aten.avg_pool2d(torch.empty(1, *x.shape, device="meta"), kernel, stride, padding, settings["ceil"])
    return tuple(probe.shape[1:])


@rule(aten.avg_pool2d.default)
def _avg_pool(b: Builder, x: Rows, kernel: Any, stride: Any = None, padding: Any = 0, ceil: bool = False,
              count_include_pad: bool = True, divisor: int | None = None) -> Rows:
    settings = {"kernel": _pair(kernel), "stride": _pair(stride, kernel), "padding": _pair(padding), "ceil": ceil,
                "count_include_pad": count_include_pad, "divisor": divisor}
    return b.emit("average_pool", x, shape=_pooled(settings, x), **settings)


@rule(aten.avg_pool2d_backward.default)
def _avg_pool_backward(b: Builder, g: Rows, x: Rows, kernel: Any, stride: Any, padding: Any, ceil: bool,
                       count_include_pad: bool, divisor: int | None) -> Rows:
    return b.emit("average_pool_gradient", g, shape=x.shape, size=list(x.shape[1:]), kernel=_pair(kernel),
                  stride=_pair(stride, kernel), padding=_pair(padding), ceil=ceil,
                  count_include_pad=count_include_pad, divisor=divisor)


@rule(aten.max_pool2d_with_indices.default)
def _max_pool(b: Builder, x: Rows, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
              ceil: bool = False) -> tuple[Any, ...]:
    settings = {"kernel": _pair(kernel), "stride": _pair(stride, kernel), "padding": _pair(padding),
                "dilation": _pair(dilation), "ceil": ceil}
    return b.emit("max_pool", x, shape=_pooled(settings, x), **settings), Indices(x)


@rule(aten.max_pool2d_with_indices_backward.default)
def _max_pool_backward(b: Builder, g: Rows, x: Rows, kernel: Any, stride: Any, padding: Any, dilation: Any,
                       ceil: bool, indices: Indices) -> Rows:
    if indices.of != x:
        raise UnsupportedOperation("the gradient of a max pooling of another tensor")
    return b.emit("max_pool_gradient", g, x, shape=x.shape, kernel=_pair(kernel), stride=_pair(stride, kernel),
                  padding=_pair(padding), dilation=_pair(dilation), ceil=ceil)


@rule(aten.squeeze.default)
def _squeeze_all(b: Builder, x: Rows) -> Rows:
    return _squeeze(b, x, [d for d in range(1, x.ndim)])
