"""Bounds of a gradient module's output by any method: the network, the budget of memory, and the
schedule.
"""

import copy

import torch
from auto_LiRPA.perturbations import Perturbation
from torch import Tensor

from ..boxes import Box
from ..graph import GradientModule
from ..operators.bound import flat_rows
from ..operators.local import Local
from .joint import Forms
from .memory import Memory
from .methods import lookup
from .network import Network
from .optimize import Optimization
from .parameters import Parameters
from .schedule import Schedule


class Engine:
    """Bounds of one gradient module for any number of rows.

    Args:
        module: the module.
        example: one tensor for each of its inputs, in which rows may be few.
        options: how methods that choose planes do that.
        memory_limit: bytes that tensors may take, or None.
        slack: share of a layer's gaps that neurons without linear bounds may have.
    """

    def __init__(self, module: GradientModule, example: tuple[Tensor, ...],
                 options: Optimization | None = None,
                 memory_limit: int | None = None, slack: float = 0.0) -> None:
        self.module = module
        self.options = options or Optimization()
        self.network = Network(module, example)
        self.memory = Memory(self.network.width, example[0].element_size(), memory_limit)
        self.parameters: Parameters | None = None
        self.rounded, self.slack = False, slack

    def over(self, parameters: Parameters | None, rounded: bool = False) -> "Engine":
        """The engine of the same network whose bounds hold for all values of these parameters.

        Args:
            parameters: those that move; None: bounds are for the values that all parameters have.
            rounded: whether bounds hold for what is computed in floating point; all inputs must
                have a perturbation then.
        """
        other = copy.copy(self)
        other.parameters, other.rounded = parameters, rounded
        return other

    def __call__(self, inputs: tuple[Tensor, ...], perturbations: tuple[Perturbation | None, ...],
                 method: str, functions: Tensor | None = None) -> Box:
        """Lower and upper bounds of the module's output, or of linear functions of it.

        Args:
            inputs: values of the module's inputs, each with B rows.
            perturbations: the set that each of the first inputs lies in; None, or left out at the
                end: it is fixed.
            method: a key of `methods.METHODS`.
            functions: (B, K, D), K linear functions of each row's output; None for the output
                itself, (B, D).

        Returns:
            (lower, upper), each (B, K or D), differentiable in the parameters unless grad mode is
            off.

        Raises:
            ValueError: there is no such method.
        """
        moving = [name for name, p in zip(self.module.input_names, perturbations, strict=False)
                  if p is not None]
        if self.parameters is not None:
            moving += self.parameters.within(self.module)
        if not self.module.depends_on(moving):
            value = self.module(*inputs)
            value = value if functions is None else torch.einsum("bkd,bd->bk", functions, value)
            return Box.point(value)
        return self._schedule(method).bounds(inputs, perturbations, functions)

    def joins(self, method: str) -> bool:
        """Whether there are linear bounds by a method that say all that it bounds."""
        row = lookup(method)
        return (row.has_linear_result and row.schedule is None and self.parameters is None
                and not self.rounded)

    def forms(self, inputs: tuple[Tensor, ...], perturbations: tuple[Perturbation | None, ...],
              method: str, moving: int) -> tuple[Box, Forms]:
        """Bounds (B, 1) of an output that is one number, and linear bounds of it.

        Args:
            inputs: as for calls.
            perturbations: likewise.
            method: a key of `methods.METHODS` for which `joins`.
            moving: how many inputs, the first ones, the linear bounds are to be in.
        """
        rows, like = len(inputs[0]), inputs[0]
        moved = [name for name, p in zip(self.module.input_names, perturbations, strict=False)
                 if p is not None]
        if not self.module.depends_on(moved):
            box, linear = Box.point(self.module(*inputs)), None
        else:
            box, linear = self._schedule(method).forms(inputs, perturbations)
        sides: tuple[list[Tensor], list[Tensor]] = [], []
        for i, x in enumerate(inputs[:moving]):
            given = (None, None) if linear is None else linear.inputs.get(str(i), (None, None))
            for side, A in zip(sides, given, strict=True):
                dense = A.dense() if isinstance(A, Local) else A
                side.append(torch.zeros_like(flat_rows(x))
                            if dense is None else dense[0].reshape(rows, -1))
        ends = box if linear is None else Box(linear.lower, linear.upper)
        lower, upper = (side.reshape(-1).expand(rows) if side.numel() == 1 else side.reshape(rows)
                        for side in ends)
        return box, Forms(torch.cat(sides[0], 1), torch.cat(sides[1], 1), lower.to(like),
                          upper.to(like))

    def lower_bound(self, inputs: tuple[Tensor, ...],
                    perturbations: tuple[Perturbation | None, ...], functions: Tensor) -> Tensor:
        """CROWN's lower bound of linear functions, the extreme of one linear bound and not improved
        by any other.

        Args:
            inputs: as for calls.
            perturbations: likewise; their `concretize` sees the coefficients of that bound last.
            functions: (B, K, D).

        Returns:
            (B, K).
        """
        return self._schedule("CROWN").lower_bound(inputs, perturbations, functions)

    def rows_at_once(self, batch_size: int, method: str) -> int:
        """Rows a batch, at most `batch_size`, so that coefficients of one function of each fit the
        limit of memory.
        """
        return self.memory.rows_at_once(batch_size, lookup(method))

    def _schedule(self, name: str) -> Schedule:
        """A method at work on the network."""
        method = lookup(name)
        kind = Schedule if method.schedule is None else method.schedule
        return kind(self.network, method, self.memory, self.options, self.parameters, self.rounded,
                    self.slack)
