"""Where bounds hold: the balls of the inputs, and the boxes of the parameters."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from auto_LiRPA import PerturbationLpNorm
from torch import Tensor

from ..tensors import plain
from .ball import Ball, check_has_radius, make_balls
from .held import Fixed, fixed_entries
from .parameters import Parameters, make_parameters
from .table import TableBox


@dataclass(frozen=True)
class Where:
    """The set of inputs and parameters that a certificate speaks of.

    Args:
        balls: the ball of each input, None if it is held fixed.
        parameters: those of the model that move; None if none does.
        inputs: as the caller gave them.
        perturbation: likewise; None for `eps`.
        clip: the range of the data, to which balls are cut.
        fixed: where each input is held fixed, bool tensors of their shapes or None; None: nowhere.
    """

    balls: tuple[Ball | None, ...]
    parameters: Parameters | None = None
    inputs: tuple[Tensor, ...] = ()
    perturbation: Any = None
    clip: Any = None
    fixed: Fixed = None

    @classmethod
    def of(cls, forward: Any, inputs: Tensor | tuple[Tensor, ...], *, perturbation: Any = None,
           eps: Any = None, norm: float = math.inf, clip: Any = None, parameters: Any = None,
           differentiable: bool = True, fixed: Any = None, ids: tuple[Tensor, ...] = ()) -> "Where":
        """The set that a caller described; see `lirpa_explain.certify`.

        Args:
            forward: the model, whose parameters may move.
            inputs: as the caller gave them.
            perturbation: an auto_LiRPA perturbation, or a tuple of them.
            eps: radius of the ball.
            norm: its norm.
            clip: the range of the data.
            parameters: how far the model's parameters may change.
            differentiable: whether their boxes are functions of the parameters.
            fixed: which entries of the inputs are held fixed; see `held.fixed_entries`.
            ids: the token ids that the inputs were made of.

        Raises:
            ValueError: no perturbation or two of them, or bad numbers.
            TypeError: an argument of a wrong type.
        """
        with torch.inference_mode(False):
            balls = make_balls(inputs, perturbation, eps, norm, clip,
                               may_be_fixed=parameters is not None)
            with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
                moved = make_parameters(forward, parameters)
        xs = inputs if isinstance(inputs, tuple) else (inputs,)
        return cls(balls, moved, xs, perturbation, clip)._with(fixed_entries(fixed, xs, ids))

    def _with(self, fixed: Fixed) -> "Where":
        """The same set without what moves entries that are held fixed."""
        if fixed is None:
            return self
        balls = tuple(ball if ball is None or mask is None else ball.held(plain(x), mask)
                      for ball, x, mask in zip(self.balls, self.inputs, fixed, strict=True))
        return replace(self, balls=balls, fixed=fixed)

    def rows(self, index: Tensor) -> tuple[PerturbationLpNorm | None, ...]:
        """The balls of these examples, (B,), one for each row, as auto_LiRPA takes them."""
        return tuple(None if ball is None else ball.rows(index) for ball in self.balls)

    def resized(self, xs: tuple[Tensor, ...], radii: Tensor) -> "Where":
        """The same set with balls of other radii, (N,), around the inputs, each (N, *S); of a
        table, multiples of its.

        Raises:
            ValueError: the balls have no radius to vary.
        """
        given = self.perturbation if isinstance(self.perturbation,
                                                tuple) else (self.perturbation,) * len(xs)
        tables = [p for p in given if isinstance(p, TableBox)]
        if tables and len(tables) == sum(p is not None for p in given):
            moved = tuple(p.resized(radii) if isinstance(p, TableBox) else None for p in given)
            return replace(self, balls=make_balls(xs, moved), inputs=xs, perturbation=moved)
        norm = check_has_radius(self.inputs, self.perturbation, self.balls)
        eps = tuple(None if ball is None else radii.to(x).reshape(-1, *[1] * (x.ndim - 1))
                    for ball, x in zip(self.balls, xs, strict=True))
        balls = make_balls(xs, eps=eps, norm=norm, clip=self.clip)
        return replace(self, balls=balls, inputs=xs, perturbation=None)._with(self.fixed)
