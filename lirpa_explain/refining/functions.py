"""Linear functions of the inputs, kept for the few entries that each depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..operators.bound import Coefficient
from ..operators.local import Local


@dataclass(frozen=True)
class Functions:
    """S functions A x + c of D inputs for each of B rows, of which each depends on n entries at
    most.

    Args:
        A: (B, S, n), coefficients.
        c: (B, S), constants.
        index: (B, S, n), which inputs these are of, no two the same; D where it is none, and A is
            0. None: all of them, one after the other.
        inputs: D.
    """

    A: Tensor
    c: Tensor
    index: Tensor | None
    inputs: int

    @classmethod
    def of(cls, coefficients: Sequence[Coefficient | None], c: Tensor,
           sizes: Sequence[int]) -> Functions:
        """From coefficients of each input, (S, B, *input), None where all are 0.

        Args:
            coefficients: of inputs of so many entries.
            c: (B, S).
            sizes: of the inputs.
        """
        inputs, only = sum(sizes), coefficients[0]
        if all(A is None for A in coefficients):
            none = c.new_zeros(*c.shape, 0)
            return cls(none, c, none.long(), inputs)
        if len(sizes) == 1 and isinstance(only, Local):
            index, values = only.flat()
            return cls(values.transpose(0, 1), c, index.transpose(0, 1), inputs)
        parts = [c.new_zeros(*c.shape, size) if A is None else
                 (A.dense() if isinstance(A, Local) else A).flatten(2).transpose(0, 1)
                 for A, size in zip(coefficients, sizes, strict=True)]
        return cls(torch.cat(parts, 2) if len(parts) > 1 else parts[0], c, None, inputs)

    @classmethod
    def joined(cls, some: Sequence[Functions]) -> Functions:
        """All of them, side by side."""
        if len(some) == 1:
            return some[0]
        c, inputs = torch.cat([f.c for f in some], 1), some[0].inputs
        if any(f.index is None for f in some):
            return cls(torch.cat([f.dense() for f in some], 1), c, None, inputs)
        most = max(f.A.shape[2] for f in some)
        A = [_padded(f.A, most, 0) for f in some]
        index = [_padded(f.index, most, inputs) for f in some if f.index is not None]
        return cls(torch.cat(A, 1), c, torch.cat(index, 1), inputs)

    def __neg__(self) -> Functions:
        return Functions(-self.A, -self.c, self.index, self.inputs)

    def take(self, at: Tensor) -> Functions:
        """Some of the functions of each row, by number (B, M)."""
        index = None if self.index is None else taken(self.index, at)
        return Functions(taken(self.A, at), self.c.gather(1, at), index, self.inputs)

    def dense(self) -> Tensor:
        """Coefficients of all inputs, (B, S, D)."""
        if self.index is None:
            return self.A
        return self.A.new_zeros(*self.c.shape, self.inputs + 1).scatter(
            2, self.index, self.A)[..., :-1].contiguous()

    def read(self, x: Tensor) -> Tensor:
        """What numbers (B, D) of the inputs are where the coefficients are, 0 for none of them: (B,
        S, n).
        """
        if self.index is None:
            return x[:, None]
        return torch.nn.functional.pad(x, (0, 1)).gather(1, self.index.flatten(1)).reshape(
            self.index.shape)


def taken(x: Tensor, at: Tensor) -> Tensor:
    """Some of the lines of each row, by number: x (B, S, n), at (B, M) -> (B, M, n)."""
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[2]))


def _padded(x: Tensor, size: int, value: int) -> Tensor:
    """Lines (B, S, n) made so long."""
    return torch.nn.functional.pad(x, (0, size - x.shape[2]), value=value)
