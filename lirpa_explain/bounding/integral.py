"""The integral along a path that a finite sum stands for: each sub-interval of the path is bounded
as a whole.

With K sub-intervals, s in [s_k, s_k+1], the mean gradient over one of them lies between what bound
propagation gives for all s in it and all x in the ball. Where that is a linear function of x and s,
its mean over s is its value in the middle: only what is not linear widens the bounds, so that they
close like 1 / K^2 where the gradient is smooth.
"""

import dataclasses
from typing import Any

import torch
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor

from ..attributions import Plan
from ..attributions.plan import name_of
from ..errors import UnsupportedAttribution
from ..graph.program import segment_gradient

INTEGRALS = ("exact",)


class Stretch(PerturbationLpNorm):
    """A place s anywhere on a sub-interval of a path, or the mean over it.

    Relaxations must hold all over [low, high]. A function that lies above a s + c there has a mean
    above a (low + high) / 2 + c: once all relaxations are made, `average` turns coefficients of s
    into numbers by its mean.

    Args:
        low: where each row's sub-interval starts, (B,).
        high: where it ends, (B,).

    Example:
        >>> stretch = Stretch(torch.zeros(1), torch.ones(1))
        >>> stretch.concretize(torch.full((1,), 0.5), torch.ones(1, 1, 1)).tolist()
        [[0.0]]
        >>> stretch.average = True
        >>> stretch.concretize(torch.full((1,), 0.5), torch.ones(1, 1, 1)).tolist()
        [[0.5]]
    """

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__(norm=float("inf"), x_L=low, x_U=high)
        self.average = False

    def concretize(self, x: Tensor, A: Any, *args: Any, **kwargs: Any) -> Any:
        """As auto_LiRPA's: the lowest or highest value of A s, or its mean."""
        if not self.average:
            return super().concretize(x, A, *args, **kwargs)
        middle = (self.x_L + self.x_U) / 2
        return PerturbationLpNorm(norm=self.norm, x_L=middle,
                                  x_U=middle).concretize(x, A, *args, **kwargs)


def integral_plans(plan: Plan, attribution: Any) -> tuple[Plan, Plan]:
    """Plans of Captum's finite sum and of the integral it stands for, both made of the same
    program.

    Args:
        plan: the plan of an `IntegratedGradients`, or of another sum of gradients along a path.
        attribution: the object it was made for.

    Returns:
        (finite sum, integral with as many equal sub-intervals as the sum has points).

    Raises:
        UnsupportedAttribution: the attribution is no path integral.
    """
    if (plan.program is not None or plan.weights is None or plan.scales is None
            or plan.scales.ndim > 1):
        raise UnsupportedAttribution(
            "integral='exact' bounds the integral of gradients along a path that a quadrature "
            f"stands for, as in IntegratedGradients; {name_of(attribution)} is none. Leave "
            "integral out.")
    finite = dataclasses.replace(plan, program=segment_gradient())
    ends = torch.linspace(0, 1, plan.steps + 1, dtype=torch.float64)
    return finite, dataclasses.replace(finite, ends=ends, scales=(ends[1:] + ends[:-1]) / 2,
                                       weights=ends.diff())
