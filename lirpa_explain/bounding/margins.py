"""What bound propagation proves of a decision: how near no boundary is, and beyond which planes it
must lie.
"""

from typing import Any

import torch
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor
from tqdm import tqdm

from ..boxes import Box
from ..decision.decision import Decision
from ..graph import capture_program
from ..graph.program import output
from ..rounding import RIVAL, least, roundings
from .ball import Ball
from .engine import Engine
from .parameters import Parameters

BISECTIONS = 12
"""Of the largest radius that is certified: to 1/4096 of the distance of the point that was
found."""

class _Recording(PerturbationLpNorm):
    """An l2 ball that notes the coefficients of the last lower bound it was asked to make a
    number.
    """

    def __init__(self, radius: Tensor) -> None:
        super().__init__(eps=radius, norm=2)
        self.coefficients: Tensor | None = None

    def concretize(self, x: Tensor, A: Any, sign: int = -1, *rest: Any, **keywords: Any) -> Any:
        if sign == -1:
            self.coefficients = A
        return super().concretize(x, A, sign, *rest, **keywords)


class Margins:
    """Bounds of the margins of a decision over balls around its examples.

    Args:
        decision: of N examples.
        inputs: those examples, each (N, *S).
        parameters: those of the model that move; None if none does.

    Raises:
        UnsupportedOperation: the model contains an operation that has no bound operator.
    """

    def __init__(self, decision: Decision, inputs: tuple[Tensor, ...],
                 parameters: Parameters | None = None) -> None:
        self.decision = decision
        module = capture_program(output(), decision.function, inputs, decision.extras)
        self.extras = module.further(decision.extras, decision.count)
        self.engine = Engine(module, module.example).over(parameters)
        self.rivals = decision.rivals()

    def lower(self, index: Tensor, radius: Tensor, method: str) -> Tensor:
        """Lower bounds of the margins over all rivals in l2 balls around the examples.

        Args:
            index: which examples, (B,).
            radius: of the balls, (B,).
            method: a key of `lirpa_explain.METHODS`.

        Returns:
            (B, R).
        """
        centers = self.decision.split(self.decision.x[index])
        column = radius[:, None]
        every = torch.arange(len(index), device=index.device)
        balls = tuple(Ball(2, c - _like(column, c), c + _like(column, c), column, "").rows(every)
                      for c in centers)
        return self.bounds(index, balls, method)[0]

    def bounds(self, index: Tensor, perturbations: tuple[PerturbationLpNorm | None, ...],
               method: str) -> Box:
        """Bounds of the margins over all rivals in any sets around the examples.

        Args:
            index: which examples, (B,).
            perturbations: the set of each input, of B rows; None for one held fixed.
            method: a key of `lirpa_explain.METHODS`.

        Returns:
            (lower, upper), (B, R) each.
        """
        centers = self.decision.split(self.decision.x[index])
        extras = tuple(e[index] for e in self.extras)
        with torch.no_grad():
            return Box(*self.engine((*centers, *extras), perturbations, method, self.rivals[index]))

    @torch.no_grad()
    def values(self) -> Tensor:
        """The margins at the examples, by the module that is bounded, (N, R)."""
        outputs = self.engine.module(*self.decision.split(self.decision.x), *self.extras)
        return torch.einsum("nrk,nk->nr", self.rivals, outputs)

    def certified_distance(self, reach: Tensor, method: str, batch_size: int,
                           progress: bool = False) -> Tensor:
        """Radii within which the decision holds for certain, by bisection.

        Args:
            reach: (N,), no larger radii are tried.
            method: a key of `lirpa_explain.METHODS`.
            batch_size: most examples bounded at once.
            progress: show a bar.

        Returns:
            (N,), 0 where nothing could be proven.
        """
        low = torch.zeros_like(reach)
        parts = torch.arange(len(reach), device=reach.device).split(batch_size)
        with tqdm(total=len(parts) * (BISECTIONS + 1), disable=not progress, unit="step",
                  desc="certified distance", leave=False) as bar:
            for index in parts:
                near, far = low[index], reach[index]
                radius = far  # all of it first: a linear model is certified up to its boundary
                for _ in range(BISECTIONS + 1):
                    holds = (self.lower(index, radius, method) > 0).all(1)
                    near, far = torch.where(holds, radius, near), torch.where(holds, far, radius)
                    radius = (near + far) / 2
                    bar.update()
                low[index] = near
        return low

    def half_spaces(self, index: Tensor, center: Tensor, radius: Tensor, rivals: Tensor
                    ) -> tuple[Tensor, Tensor, Tensor]:
        """Half-spaces outside of which a rival cannot win within balls.

        CROWN bounds the margin over rival j in the ball around y from below by a linear function a
        . (z - y) + c. Where the rival wins or ties, it is at most 0: the point lies in {n . (z - y)
        >= h} for n = -a / |a|, h = c / |a|.

        Args:
            index: whose decision, (B,).
            center: of the balls, (B, D).
            radius: of the balls, (B, 1).
            rivals: margins as linear functions of the output, (B, R, K), such as some of `rivals`.

        Returns:
            n (B, R, D); h (B, R), at most the radius where the rival may win; and where it may, (B,
            R).
        """
        centers = self.decision.split(center)
        recorders = tuple(_Recording(radius) for _ in centers)
        extras = tuple(e[index] for e in self.extras)
        with torch.no_grad():
            lower = self.engine.lower_bound((*centers, *extras), recorders, rivals)
        shape = (*lower.shape, -1)
        parts = [lower.new_zeros(*lower.shape, c[0].numel()) if r.coefficients is None
                 else r.coefficients.reshape(shape)
                 for r, c in zip(recorders, centers, strict=True)]
        a = torch.cat(parts, 2)
        # Each input's ball was made a number by itself: lower = c - radius * sum of the norms of
        # their parts of a.
        constant = lower + radius * sum(part.norm(dim=2) for part in parts)
        size = a.norm(dim=2)
        scores = self.decision.output(center, index).detach().reshape(len(index), -1)
        rounding = roundings(RIVAL, a.dtype) * (constant.abs() + radius * size +
                                                scores.abs().amax(1, keepdim=True))
        length = size.clamp(min=least(a.dtype))
        height = torch.where(size > 0, (constant - rounding) / length, -torch.inf)
        return -a / length[..., None], height, lower <= rounding


def _like(column: Tensor, x: Tensor) -> Tensor:
    """A column (B, 1) in a shape that broadcasts to x."""
    return column.reshape(len(column), *[1] * (x.ndim - 1))
