"""Average and max pooling, and their gradients."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import Box
from ..rounding import JUMP, roundings
from .affine import MOVED, BoundAffine
from .bound import BoundOperator, both_sides, box_of, value_of, weighted_sum
from .registry import Operator, register


class Windows:
    """The windows of a two-dimensional pooling, as a dimension of their own.

    `of(x)` has shape (B, C, K, L): K positions in each of L windows. `back(y)` is the transpose of `of`.
    """

    def __init__(self, size: torch.Size | tuple[int, ...], kernel: list[int], stride: list[int], padding: list[int],
                 dilation: list[int], ceil: bool = False) -> None:
        self.size = tuple(size)
        self.arguments = {"kernel_size": kernel, "dilation": dilation, "stride": stride}
        self.positions = kernel[0] * kernel[1]
        self.output = [self._count(*args, ceil)
                       for args in zip(self.size, kernel, stride, padding, dilation, strict=True)]
        # Rows and columns added after the end, so that the last window is whole (negative: entries no window reads).
        after = [(m - 1) * s + d * (k - 1) + 1 - n - p for m, s, d, k, n, p
                 in zip(self.output, stride, dilation, kernel, self.size, padding, strict=True)]
        self.pad = [padding[1], after[1], padding[0], after[0]]

    @staticmethod
    def _count(n: int, k: int, s: int, p: int, d: int, ceil: bool) -> int:
        span = n + 2 * p - d * (k - 1) - 1
        count = -(-span // s) + 1 if ceil else span // s + 1
        # With ceil, a window that would start beyond the input and its left padding is left out, as torch does.
        return count - 1 if ceil and (count - 1) * s >= n + p else count

    def of(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """Entries of each window; positions outside the input are `fill`."""
        batch, channels = x.shape[:2]
        windows = F.unfold(F.pad(x, self.pad, value=fill), **self.arguments)  # type: ignore[arg-type]
        return windows.reshape(batch, channels, self.positions, -1)

    def back(self, y: Tensor) -> Tensor:
        """Sum of the windows' entries at each place of the input: (B, C, K, L) -> (B, C, H, W)."""
        padded = [self.size[0] + self.pad[2] + self.pad[3], self.size[1] + self.pad[0] + self.pad[1]]
        folded = F.fold(y.flatten(1, 2), padded, **self.arguments)  # type: ignore[arg-type]
        return F.pad(folded, [-p for p in self.pad])


def _candidates(z: Box, windows: Windows) -> Tensor:
    """Positions of each window that may hold its maximum for some point of the box: (B, C, K, L)."""
    lower, upper = windows.of(z[0], -torch.inf), windows.of(z[1], -torch.inf)
    scale = torch.maximum(lower.nan_to_num(neginf=0).abs(), upper.nan_to_num(neginf=0).abs()).amax(2, keepdim=True)
    margin = roundings(JUMP, lower.dtype) * scale
    return (upper >= lower.amax(2, keepdim=True) - margin) & (upper > -torch.inf)


class BoundMaxPool(BoundOperator):
    """y = max over a window.

    Lower plane: the position with the largest lower bound. Upper plane, with m = max_k l_k:
    y <= m + sum_k max(0, u_k - m) / (u_k - l_k) * (z_k - l_k), or the constant max_k u_k, whichever is lower in the
    middle of the box; exact where one position dominates.
    """

    def relaxed_inputs(self) -> list[int]:
        return [0]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        return _open_positions(boxes[0], self._windows(boxes[0][0]))

    def bound_interval(self, *boxes: Box) -> Box:
        return boxes[0].map(self.forward)

    def _windows(self, z: Tensor) -> Windows:
        return Windows(z.shape[2:], **self.settings)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None, *nodes: Any) -> Any:
        z = box_of(nodes[0])
        windows = self._windows(z[0])
        candidates = _candidates(z, windows)
        lower, upper = windows.of(z[0]), windows.of(z[1])
        best = lower.masked_fill(~candidates, -torch.inf)
        floor, chosen = best.max(2, keepdim=True)
        below = torch.zeros_like(lower).scatter(2, chosen, 1.0)

        rise = (upper - floor).clamp(min=0) * candidates
        width = torch.where(upper > lower, upper - lower, torch.ones_like(upper))
        slopes = torch.where(upper > lower, rise / width, torch.zeros_like(rise))
        ceiling = upper.masked_fill(~candidates, -torch.inf).amax(2, keepdim=True)
        single = candidates.sum(2, keepdim=True) == 1
        constant = ~single & (floor + rise.sum(2, keepdim=True) / 2 >= ceiling)
        above = torch.where(single, below, torch.where(constant, torch.zeros_like(slopes), slopes))
        offset = torch.where(single, torch.zeros_like(floor),
                             torch.where(constant, ceiling, floor - (slopes * lower).sum(2, keepdim=True)))

        def side(lower_side: bool) -> Any:
            def bound(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
                flat = A.flatten(3)[:, :, :, None]
                up, down = (flat.clamp(max=0), flat.clamp(min=0)) if lower_side \
                    else (flat.clamp(min=0), flat.clamp(max=0))
                pulled = torch.vmap(windows.back)(up * above + down * below)
                return [pulled], (up * offset).flatten(2).sum(2)

            return bound

        return both_sides(last_lower, last_upper, side(True), side(False))


class BoundMaxPoolGradient(BoundOperator):
    """p = the upstream gradient of each window, put where the window has its maximum.

    With A_k the coefficients of a window's positions, sum_k A_k p_k = g * w, where w lies between the smallest and
    the largest A_k of those positions that may hold the maximum: one unknown factor a window, whatever its size.
    """

    def relaxed_inputs(self) -> list[int]:
        return [0, 1]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        windows = self._windows(boxes[1][0])
        if index == 1:
            return _open_positions(boxes[1], windows)
        many = _candidates(boxes[1], windows).sum(2) > 1
        g = boxes[0]
        return many.reshape(g[0].shape) & (g[1] > g[0])

    def _windows(self, z: Tensor) -> Windows:
        return Windows(z.shape[2:], **self.settings)

    def bound_interval(self, *boxes: Box, ties: bool = True) -> Box:
        """As for any operator; without `ties`, of entries that are known to be equal torch's choice has the maximum."""
        (gl, gu), z = boxes[0], boxes[1]
        windows = self._windows(z[0])
        candidates = _candidates(z, windows)
        if not ties:
            lower, upper = (windows.of(side, -torch.inf) for side in z)
            known = (~candidates | (lower == upper)).all(2, keepdim=True)
            largest = lower == lower.amax(2, keepdim=True)
            candidates = torch.where(known, largest & (largest.cumsum(2) == 1), candidates)
        certain = candidates & (candidates.sum(2, keepdim=True) == 1)
        gl, gu = gl.flatten(2)[:, :, None], gu.flatten(2)[:, :, None]
        low = torch.where(certain, gl, gl.clamp(max=0)) * candidates
        high = torch.where(certain, gu, gu.clamp(min=0)) * candidates
        return Box(low, high).map(windows.back)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None, *nodes: Any) -> Any:
        g, z = box_of(nodes[0]), box_of(nodes[1])
        windows = self._windows(z[0])
        candidates = _candidates(z, windows)
        shape = g[0].shape[1:]
        gl, gu = g[0].flatten(2), g[1].flatten(2)
        crossing = (gl < 0) & (gu > 0)
        width = torch.where(crossing, gu - gl, torch.ones_like(gu))

        def upper(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
            spread = torch.vmap(windows.of)(A)
            high = spread.masked_fill(~candidates, -torch.inf).amax(3)
            low = spread.masked_fill(~candidates, torch.inf).amin(3)
            # g * w is convex in g: at most high * g for g >= 0, low * g for g < 0, and the chord between.
            slope = torch.where(crossing, (high * gu - low * gl) / width, torch.where(gl >= 0, high, low))
            offset = torch.where(crossing, high * gu - slope * gu, torch.zeros_like(slope))
            slope = slope.reshape(*A.shape[:2], *shape)
            bias = offset.flatten(2).sum(2)
            if not nodes[0].perturbed:
                return [None, None], bias + weighted_sum(slope, value_of(nodes[0]))
            return [slope, None], bias

        def lower(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
            coefficients, bias = upper(-A)
            return [None if c is None else -c for c in coefficients], -bias

        exact = bool((candidates.sum(2) == 1).all())
        return both_sides(last_lower, last_upper, upper if exact else lower, upper)


def _open_positions(z: Box, windows: Windows) -> Tensor:
    """Entries that compete for the maximum of some window, unless they are known exactly."""
    candidates = _candidates(z, windows)
    competing = candidates & (candidates.sum(2, keepdim=True) > 1)
    return (windows.back(competing.to(z[0].dtype)) > 0) & (z[1] > z[0])


def _max_pool(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int],
              ceil: bool) -> Tensor:
    return F.max_pool2d(x, kernel, stride, padding, dilation, ceil)


def _max_pool_gradient(g: Tensor, x: Tensor, kernel: list[int], stride: list[int], padding: list[int],
                       dilation: list[int], ceil: bool) -> Tensor:
    indices = F.max_pool2d(x, kernel, stride, padding, dilation, ceil, return_indices=True)[1]
    flat = torch.zeros_like(x).flatten(2).scatter_add(2, indices.flatten(2), g.flatten(2))
    return flat.reshape(x.shape)


def _average_pool(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil: bool,
                  count_include_pad: bool, divisor: int | None) -> Tensor:
    return F.avg_pool2d(x, kernel, stride, padding, ceil, count_include_pad, divisor)


def _average_pool_gradient(g: Tensor, size: list[int], kernel: list[int], stride: list[int], padding: list[int],
                           ceil: bool, count_include_pad: bool, divisor: int | None) -> Tensor:
    return torch.ops.aten.avg_pool2d_backward(g, g.new_empty(*g.shape[:2], *size), kernel, stride, padding, ceil,
                                              count_include_pad, divisor)


ROWS = [
    Operator("average_pool", _average_pool, BoundAffine, "nn.AvgPool1d, nn.AvgPool2d", MOVED),
    Operator("average_pool_gradient", _average_pool_gradient, BoundAffine, "nn.AvgPool1d, nn.AvgPool2d",
             MOVED),
    Operator("max_pool", _max_pool, BoundMaxPool, "nn.MaxPool1d, nn.MaxPool2d"),
    Operator("max_pool_gradient", _max_pool_gradient, BoundMaxPoolGradient, "nn.MaxPool1d, nn.MaxPool2d"),
]
for row in ROWS:
    register(row)
