"""What is kept of the draws: their number, and two sums of each entry, in integers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tally:
    """Sums over draws of steps t, of which h = t / levels.

    Args:
        data: (N, 1 + 2 D), int64: for each example the number of draws, sum of t, sum of t^2.

    Example:
        >>> tally = Tally(row(torch.tensor([[1, 0], [1, 1]]))[None])
        >>> tally.mean(levels=1).tolist(), tally.variance(levels=1).tolist()
        ([[1.0, 0.5]], [[0.0, 0.5]])
    """

    data: Tensor

    @property
    def entries(self) -> int:
        """D, of an example."""
        return self.data.shape[1] // 2

    @property
    def draws(self) -> Tensor:
        """(N,), int64."""
        return self.data[:, 0]

    @property
    def sums(self) -> Tensor:
        """(N, D), int64, of t."""
        return self.data[:, 1: 1 + self.entries]

    @property
    def squares(self) -> Tensor:
        """(N, D), int64, of t^2."""
        return self.data[:, 1 + self.entries:]

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.data + other.data)

    def mean(self, levels: int) -> Tensor:
        """(N, D), float64, of h; 1/2 where there are no draws."""
        n = self.draws[:, None]
        return torch.where(n > 0, self.sums.double() / (levels * n), 0.5)

    def variance(self, levels: int) -> Tensor:
        """(N, D), float64, of h, with divisor n - 1; the largest of [0, 1] for fewer draws than
        2.
        """
        n = self.draws[:, None].double()
        scatter = self.squares - self.sums.double().square() / n.clamp(min=1)
        variance = scatter.clamp(min=0) / ((n - 1).clamp(min=1) * levels**2)
        return torch.where(n > 1, variance, 0.5)


def row(steps: Tensor) -> Tensor:
    """What draws (M, D) add to an example's row, (1 + 2 D,)."""
    number = torch.tensor([len(steps)])
    return torch.cat([number, steps.sum(0), steps.square().sum(0)])
