"""Rules of convolution and pooling, and of their gradients."""

from typing import Any

import torch

from ...errors import UnsupportedOperation
from ..builder import Builder, Indices, Live, Rows
from .arithmetic import add
from .table import rule

aten = torch.ops.aten


@rule(aten.convolution.default)
def _convolution(b: Builder, x: Rows, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
                 transposed: bool, output_padding: Any, groups: int) -> Rows:
    if not x.leads or isinstance(w, Rows):
        raise UnsupportedOperation("a convolution over the batch, or whose weights depend on the "
                                   "input")
    weight = w.value if isinstance(w, Live) else w
    probe = torch.empty(1, *x.shape, device="meta")
    shape = aten.convolution(probe, weight.to("meta"), None, stride, padding, dilation, transposed,
                             output_padding, groups).shape[1:]
    settings: dict[str, Any] = {"stride": list(stride), "padding": list(padding),
                                "dilation": list(dilation), "groups": groups}
    if transposed:
        y = b.emit("convolution_gradient", x, w, shape=shape, size=list(shape[1:]), **settings)
    else:
        y = b.emit("convolution", x, w, shape=shape, **settings)
    return y if bias is None else add(b, y, channels(b, bias, len(shape) - 1))


def channels(b: Builder, vector: Any, spatial: int) -> Any:
    """A vector of one number a channel, shaped to broadcast over the dimensions behind."""
    size = [-1, *[1] * spatial]
    return (b.live("view.default", vector, size)
            if isinstance(vector, Live) else vector.reshape(size))


@rule(aten.convolution_backward.default)
def _convolution_backward(b: Builder, g: Rows, x: Rows, w: Any, bias_sizes: Any, stride: Any,
                          padding: Any, dilation: Any, transposed: bool, output_padding: Any,
                          groups: int, mask: Any) -> tuple[Any, ...]:
    if isinstance(w, Rows) or not isinstance(g, Rows):
        raise UnsupportedOperation("a convolution whose weights depend on the input")
    settings: dict[str, Any] = {"stride": list(stride), "padding": list(padding),
                                "dilation": list(dilation), "groups": groups}
    if transposed:
        return b.emit("convolution", g, w, shape=x.shape, **settings), None, None
    return (b.emit("convolution_gradient", g, w, shape=x.shape, size=list(x.shape[1:]), **settings),
            None, None)


def _pair(value: Any, default: Any = None) -> list[int]:
    value = default if value is None or value == [] else value
    return [value] * 2 if isinstance(value, int) else list(value) * (2 // len(value))


def _pooled(settings: dict[str, Any], x: Rows) -> tuple[int, ...]:
    """Shape of a row after pooling, asked of torch itself."""
    names = ("kernel", "stride", "padding")
    kernel, stride, padding = (settings[n] for n in names)
    if "dilation" in settings:
        probe = aten.max_pool2d_with_indices(torch.empty(1, *x.shape, device="meta"), kernel,
                                             stride, padding,
                                             settings["dilation"], settings["ceil"])[0]
    else:
        probe = aten.avg_pool2d(torch.empty(1, *x.shape, device="meta"), kernel, stride, padding,
                                settings["ceil"])
    return tuple(probe.shape[1:])


@rule(aten.avg_pool2d.default)
def _avg_pool(b: Builder, x: Rows, kernel: Any, stride: Any = None, padding: Any = 0,
              ceil: bool = False,
              count_include_pad: bool = True, divisor: int | None = None) -> Rows:
    settings: dict[str, Any] = {
        "kernel": _pair(kernel), "stride": _pair(stride, kernel), "padding": _pair(padding),
        "ceil": ceil, "count_include_pad": count_include_pad, "divisor": divisor}
    return b.emit("average_pool", x, shape=_pooled(settings, x), **settings)


@rule(aten.avg_pool2d_backward.default)
def _avg_pool_backward(b: Builder, g: Rows, x: Rows, kernel: Any, stride: Any, padding: Any,
                       ceil: bool, count_include_pad: bool, divisor: int | None) -> Rows:
    return b.emit("average_pool_gradient", g, shape=x.shape, size=list(x.shape[1:]),
                  kernel=_pair(kernel),
                  stride=_pair(stride, kernel), padding=_pair(padding), ceil=ceil,
                  count_include_pad=count_include_pad, divisor=divisor)


@rule(aten.max_pool2d_with_indices.default)
def _max_pool(b: Builder, x: Rows, kernel: Any, stride: Any = None, padding: Any = 0,
              dilation: Any = 1, ceil: bool = False) -> tuple[Any, ...]:
    settings: dict[str, Any] = {"kernel": _pair(kernel), "stride": _pair(stride, kernel),
                                "padding": _pair(padding),
                                "dilation": _pair(dilation), "ceil": ceil}
    return b.emit("max_pool", x, shape=_pooled(settings, x), **settings), Indices(x)


@rule(aten.max_pool2d_with_indices_backward.default)
def _max_pool_backward(b: Builder, g: Rows, x: Rows, kernel: Any, stride: Any, padding: Any,
                       dilation: Any, ceil: bool, indices: Indices) -> Rows:
    if indices.of != x:
        raise UnsupportedOperation("the gradient of a max pooling of another tensor")
    return b.emit("max_pool_gradient", g, x, shape=x.shape, kernel=_pair(kernel),
                  stride=_pair(stride, kernel),
                  padding=_pair(padding), dilation=_pair(dilation), ceil=ceil)


def _divides(x: Rows, sizes: list[int]) -> dict[str, Any] | None:
    """An adaptive pooling whose windows are all of one size and do not overlap, as an ordinary one;
    None of others.
    """
    if len(sizes) != 2 or any(n % m for n, m in zip(x.shape[1:], sizes, strict=True)):
        return None
    kernel = [n // m for n, m in zip(x.shape[1:], sizes, strict=True)]
    return {"kernel": kernel, "stride": kernel, "padding": [0, 0], "dilation": [1, 1],
            "ceil": False}


def _adaptive_windows(n: int, m: int) -> list[list[int]]:
    """The indices that each of m windows reads, as torch divides n of them."""
    return [list(range(i * n // m, -(-(i + 1) * n // m))) for i in range(m)]


def _window_max(b: Builder, x: Rows, windows: list[list[list[int]]]) -> tuple[Rows, Indices]:
    """The maxima of windows over the last dimensions."""
    lead = len(x.shape) - len(windows)
    return b.emit("window_max", x, shape=(*x.shape[:lead], *map(len, windows)),
                  sizes=list(x.shape[lead:]), windows=windows), Indices(x)


def _window_max_gradient(b: Builder, g: Rows, x: Rows, windows: list[list[list[int]]],
                         indices: Indices) -> Rows:
    if indices.of != x:
        raise UnsupportedOperation("the gradient of a max pooling of another tensor")
    lead = len(x.shape) - len(windows)
    return b.emit("window_max_gradient", g, x, shape=x.shape, sizes=list(x.shape[lead:]),
                  windows=windows)


@rule(aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
def _adaptive_max_pool(b: Builder, x: Rows, sizes: list[int]) -> tuple[Any, ...]:
    divided = _divides(x, sizes)
    if divided is None:
        return _window_max(b, x, [_adaptive_windows(n, m)
                                  for n, m in zip(x.shape[-len(sizes):], sizes, strict=True)])
    return b.emit("max_pool", x, shape=(x.shape[0], *sizes), **divided), Indices(x)


@rule(aten.adaptive_max_pool2d_backward.default, aten.adaptive_max_pool3d_backward.default)
def _adaptive_max_pool_backward(b: Builder, g: Rows, x: Rows, indices: Indices) -> Rows:
    sizes = list(g.shape[1:])
    divided = _divides(x, sizes)
    if divided is None:
        return _window_max_gradient(b, g, x, [_adaptive_windows(n, m)
                                              for n, m in zip(x.shape[1:], sizes, strict=True)],
                                    indices)
    if indices.of != x:
        raise UnsupportedOperation("the gradient of a max pooling of another tensor")
    return b.emit("max_pool_gradient", g, x, shape=x.shape, **divided)


def _windows(x: Rows, kernel: Any, stride: Any, padding: Any, dilation: Any,
             ceil: bool) -> list[list[list[int]]]:
    """The indices that the windows of a three-dimensional pooling read; how many there are torch is
    asked.
    """
    given = [[v] * 3 if isinstance(v, int) else list(v) * (3 // len(v))
             for v in (kernel, stride or kernel, padding, dilation)]
    probe = aten.max_pool3d_with_indices(torch.empty(1, *x.shape, device="meta"), *given, ceil)[0]
    return [[[at for at in range(i * s - p, i * s - p + d * (k - 1) + 1, d) if 0 <= at < n]
             for i in range(count)]
            for n, count, k, s, p, d in zip(x.shape[1:], probe.shape[2:], *given, strict=True)]


@rule(aten.max_pool3d_with_indices.default)
def _max_pool3d(b: Builder, x: Rows, kernel: Any, stride: Any = (), padding: Any = 0,
                dilation: Any = 1, ceil: bool = False) -> tuple[Any, ...]:
    return _window_max(b, x, _windows(x, kernel, stride, padding, dilation, ceil))


@rule(aten.max_pool3d_with_indices_backward.default)
def _max_pool3d_backward(b: Builder, g: Rows, x: Rows, kernel: Any, stride: Any, padding: Any,
                         dilation: Any, ceil: bool, indices: Indices) -> Rows:
    return _window_max_gradient(b, g, x, _windows(x, kernel, stride, padding, dilation, ceil),
                                indices)
