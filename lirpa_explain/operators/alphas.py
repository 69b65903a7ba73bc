"""auto_LiRPA's CROWN-Optimized on our operators: weights of planes, for each function that is
bounded, are its alphas.

An alpha has the shape (2, S, B, K, M): of the lower and of the upper bounds of S functions in B
rows, how much of each of K planes is mixed at M entries of a node. Every mixture bounds soundly, so
none of what auto_LiRPA does with alphas between its steps (repeating rows, dropping some, keeping
the best) can make bounds wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..compat import optimizable_operator

Optimizable: Any = optimizable_operator()


class Alphas(Optimizable):
    """What auto_LiRPA asks of an operator whose relaxation it chooses."""

    opt_stage: str | None = None
    columns: Tensor | None = None
    """The entries of the flattened node, (M,), that have alphas."""

    def mark_splittable(self) -> None:
        """Say whether a domain may be split where an input is 0: where the function, or its slope,
        jumps there.
        """
        breaks = self.operator.breaks
        self.splittable = breaks is not None and breaks(**self.settings) == (0.0,)

    def get_split_mask(self, lower: Tensor, upper: Tensor, input_index: int) -> Tensor:
        """Where an input may have either sign."""
        return (lower < 0) & (upper > 0)

    def get_unstable_mask(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Where an input may have either sign."""
        return (lower < 0) & (upper > 0)

    def init_opt_parameters(self, start_nodes: Sequence[Any]) -> None:
        """Begin with CROWN's own planes, for the functions of each node that bounds are asked
        of.
        """
        self.alpha: dict[str, Tensor] = {}
        for name, size, *_ in start_nodes:
            mixture = self.start_mixture(size if isinstance(size, int) else math.prod(size))
            if mixture is not None:
                self.columns = mixture.columns
                weights = mixture.weights.detach().permute(0, 2, 3, 1, 4)
                self.alpha[name] = weights.contiguous().requires_grad_()

    @torch.no_grad()
    def clip_alpha(self) -> None:
        """Back to weights that are at least 0 and sum to 1."""
        for alpha in self.alpha.values():
            alpha.clamp_(min=0)
            total = alpha.sum(3, keepdim=True)
            alpha[:, :, :, :1] += total == 0
            alpha /= torch.where(total == 0, torch.ones_like(total), total)

    def chosen(self, start_node: Any, some: Any) -> tuple[Tensor, Tensor] | None:
        """Columns and weights (2, K, S, B, M) by which functions of a node are bounded now.

        Args:
            start_node: the node.
            some: which of its entries the functions are, (S,), if not all.
        """
        if self.opt_stage not in ("opt", "reuse") or start_node is None or self.columns is None:
            return None
        alpha = self.alpha.get(start_node.name)
        if alpha is None or alpha.shape[-1] != len(self.columns):
            return None
        if isinstance(some, Tensor) and alpha.shape[1] > 1:
            alpha = alpha[:, some]
        return self.columns, alpha.permute(0, 3, 1, 2, 4)

    def dump_alpha(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The alphas, and of which entries they are."""
        return super().dump_alpha(*args, **kwargs) | {"columns": self.columns}

    def restore_alpha(self, alpha: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Take alphas that were dumped."""
        super().restore_alpha(alpha, *args, **kwargs)
        self.columns = alpha["columns"]
