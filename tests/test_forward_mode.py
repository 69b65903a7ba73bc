"""auto_LiRPA's forward modes: linear bounds of every operator carried forward hold, as those
carried back do.
"""

import math

import auto_LiRPA
import pytest
import torch
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
from torch import Tensor

from tests.cases import BATCH, CASES, boxes, is_rare, problem
from tests.test_operators import FEW_ROUNDINGS, example, scale, values_at
from tests.truth import sample_ball, sample_box

METHODS = ("forward", "forward+backward", "dynamic-forward", "dynamic-forward+backward")
KINDS = ("wide", "narrow", "point")

UNMOVED = {"lookup"}
"""Cases in which a value is computed from inputs that do not move; auto_LiRPA 0.3 refuses that in
dynamic mode."""


def bounds(module, p, sides, method: str) -> tuple[Tensor, Tensor]:
    """What somebody's own `BoundedModule` gives; auto_LiRPA 0.3 takes dynamic mode as an option."""
    module.bound_opts["dynamic_forward"] = module.dynamic = method.startswith("dynamic-")
    moved = [BoundedTensor((low + high) / 2, PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high))
             for low, high in sides]
    # auto_LiRPA's own identity matrix is of the default type
    torch.set_default_dtype(torch.float64)
    try:
        return module.compute_bounds(x=p.inputs(*moved), method=method.removeprefix("dynamic-"))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore:Creating a LinearBound")
@pytest.mark.parametrize("row", [pytest.param(row, marks=pytest.mark.slow) if is_rare(row) else row
                                 for row in CASES], ids=str)
def test_no_point_is_outside(row):
    p = problem(row, meet=True, backwards=True)
    sides = boxes(p, *KINDS)
    sampled = values_at(p, [sample_box(low, high, 40, torch.Generator().manual_seed(2))
                            for low, high in sides])
    rounding = FEW_ROUNDINGS * scale(sampled,
                                     *(end.flatten(1) for side in sides for end in side))[:, None]
    module = BoundedModule(p.module, example(p), bound_opts={"conv_mode": "matrix"}, device="cpu")
    dynamic = not (auto_LiRPA.__version__ == "0.3" and row.operator in UNMOVED)
    for method in METHODS if dynamic else METHODS[:2]:
        lower, upper = bounds(module, p, sides, method)
        assert lower.isfinite().all() and upper.isfinite().all(), method
        assert (lower <= sampled + rounding).all() and (sampled <= upper + rounding).all(), method
        assert (upper - lower <= 10 * rounding)[-BATCH:].all(), method  # of a point


@pytest.mark.parametrize("name", ["kink_gradient-0.1", "tanh_gradient", "max_pool_gradient-overlap",
                                  "convolution-2d"])
def test_variables_may_be_taken_some_at_a_time(name):
    p = problem(next(c for c in CASES if str(c) == name), meet=True, backwards=True)
    sides = boxes(p, *KINDS)
    module = BoundedModule(p.module, example(p), bound_opts={"conv_mode": "matrix"}, device="cpu")
    whole = bounds(module, p, sides, "dynamic-forward")
    module.bound_opts["forward_max_dim"] = 3
    for side, expected in zip(bounds(module, p, sides, "dynamic-forward"), whole, strict=True):
        torch.testing.assert_close(side, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", [1, 2])
def test_round_balls(norm):
    p = problem(next(c for c in CASES if str(c) == "tanh_gradient"), meet=True, backwards=True)
    center = boxes(p, "wide")[0][0]
    sampled = values_at(p, [sample_ball(center, 0.7, norm, 200, torch.Generator().manual_seed(0))])
    module = BoundedModule(p.module, example(p), bound_opts={"conv_mode": "matrix"}, device="cpu")
    ball = BoundedTensor(center, PerturbationLpNorm(norm=norm, eps=0.7))
    lower, upper = module.compute_bounds(x=p.inputs(ball), method="forward",
                                         C=torch.eye(6).double().expand(3, 6, 6))
    assert (lower <= sampled + 1e-9).all() and (sampled <= upper + 1e-9).all()
