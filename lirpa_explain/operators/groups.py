"""Groups of a value's entries that are compared with each other: those along a dimension, or those
of a window.

A group is the last dimension of what `of` makes of a value; `back` is its transpose. What an
operator computes of each group, (..., R), is made its result by `join`, and taken apart again by
`split`. All work on any leading dimensions.
"""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


class Along:
    """The entries along one dimension.

    Args:
        dim: the dimension, counted from the end.

    Example:
        >>> Along(-2).of(torch.zeros(1, 3, 2)).shape
        torch.Size([1, 2, 3])
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def of(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """(..., n, ...) -> (..., n); there is nothing to fill."""
        return x.movedim(self.dim, -1)

    def back(self, y: Tensor) -> Tensor:
        """(..., n) -> (..., n, ...)."""
        return y.movedim(-1, self.dim)

    join, split = back, of


class Windows:
    """The windows of a pooling over the last dimensions.

    Args:
        sizes: those dimensions.
        windows: for each of them the indices that each window reads, in ascending order.

    Example:
        >>> Windows((3,), [[[0, 1], [2]]]).of(torch.arange(3.0), -1.0).tolist()
        [[0.0, 1.0], [2.0, -1.0]]
    """

    def __init__(self, sizes: Sequence[int], windows: list[list[list[int]]]) -> None:
        self.sizes = tuple(sizes)
        self.output = tuple(map(len, windows))
        self.index = _indices(self.sizes, tuple(tuple(map(tuple, window)) for window in windows))
        self.shape = math.prod(self.output), max(math.prod(map(len, w))
                                                 for w in itertools.product(*windows))

    def of(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """(..., *sizes) -> (..., windows, n), with `fill` where a window has fewer entries than
        others.
        """
        index = self.index.to(x.device)
        flat = x.flatten(-len(self.sizes))
        taken = flat.index_select(-1, index.clamp(min=0).flatten()).reshape(
            *flat.shape[:-1], *self.shape)
        return torch.where(index >= 0, taken, fill)

    def back(self, y: Tensor) -> Tensor:
        """(..., windows, n) -> (..., *sizes)."""
        index = self.index.to(y.device)
        inside = torch.where(index >= 0, y, 0.0).flatten(-2)
        flat = y.new_zeros(*y.shape[:-2], math.prod(self.sizes))
        return flat.index_add(-1, index.clamp(min=0).flatten(),
                              inside).reshape(*y.shape[:-2], *self.sizes)

    def join(self, y: Tensor) -> Tensor:
        """(..., windows, 1) -> (..., *output)."""
        return y.reshape(*y.shape[:-2], *self.output)

    def split(self, y: Tensor) -> Tensor:
        """The inverse of `join`."""
        return y.flatten(-len(self.output))[..., None]


@lru_cache(maxsize=64)
def _indices(sizes: tuple[int, ...], windows: tuple[tuple[tuple[int, ...], ...], ...]) -> Tensor:
    """Of the flattened dimensions, what each window reads, (windows, n), with -1 where it reads
    less than others.
    """
    strides = [math.prod(sizes[i + 1:]) for i in range(len(sizes))]
    flat = [[sum(i * s for i, s in zip(place, strides, strict=True))
             for place in itertools.product(*window)] for window in itertools.product(*windows)]
    most = max(map(len, flat))
    return torch.tensor([window + [-1] * (most - len(window)) for window in flat])
