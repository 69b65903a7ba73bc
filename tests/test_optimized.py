"""CROWN-Optimized: sound for every mixture of planes, nowhere wider than CROWN, and narrower where
there is room.
"""

import json

import pytest
import torch
from auto_LiRPA.bound_op_map import bound_op_map
from captum.attr import IntegratedGradients, Saliency

import lirpa_explain as lx
from lirpa_explain.operators.planes import BoundPlanes
from tests.cases import CASES, boxes, problem
from tests.nets import NETS, make, mlp
from tests.truth import exact_gradient_range, parts, sample_box

RELAXED = [row for row in CASES if issubclass(lx.OPERATORS[row.operator].bound, BoundPlanes)
           and all(arg.role == "moving" for arg in row.args)]


@pytest.mark.parametrize("row", RELAXED, ids=str)
def test_every_plane_of_a_family_is_sound_and_the_first_is_crowns(row):
    p = problem(row)
    sides = boxes(p, "wide", "narrow", "tiny", "point", "grid")
    node = bound_op_map[f"lirpa_explain::{row.operator}"](
        attr={"settings": json.dumps(row.settings)})
    first, families = node.planes(*sides), node.plane_family(*sides)
    points = [sample_box(low, high, 60, torch.Generator().manual_seed(i))
              for i, (low, high) in enumerate(sides)]
    value = torch.stack([node.forward(*point) for point in zip(*points, strict=True)])[:, None]
    for family, plain, outward in zip(families, first, (-1, 1), strict=True):
        for part, own in zip(family, plain, strict=True):
            torch.testing.assert_close(part[0], own.expand_as(part[0]))
        terms = [a * x[:, None] for a, x in zip(family[:-1], points, strict=True)]
        height = sum(terms) + family[-1]
        size = sum(term.abs() for term in terms) + family[-1].abs() + value.abs()
        assert (outward * (height - value) >= -1e-9 * size.clamp(min=1e-12)).all()


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
@pytest.mark.parametrize("name", NETS)
def test_nowhere_wider_than_crown(name, activation):
    model, x = make(name, activation)
    plain, best = (lx.certify(Saliency(model), x, eps=0.05, method=method, target=[0, 2, 1],
                              abs=False, iterations=2) for method in ("CROWN", "CROWN-Optimized"))
    for narrow, wide in zip(parts(best.width), parts(plain.width), strict=True):
        assert (narrow <= wide + 1e-12).all()


@pytest.mark.parametrize("hidden", [[12], [8, 8]], ids=str)
def test_between_the_exact_range_and_crown(hidden):
    model = mlp(4, *hidden, 2)
    for layer in model[::2]:
        layer.weight.data.mul_(2)
    x = torch.rand(3, 4).double()
    weights = [(layer.weight.detach(), layer.bias.detach()) for layer in model[::2]]
    exact = [torch.stack(side)
             for side in zip(*[exact_gradient_range(weights, one, 0.2, [1.0, 0.0]) for one in x],
                             strict=True)]
    crown, best = (lx.certify(Saliency(model), x, eps=0.2, method=method, target=0, abs=False)
                   for method in ("CROWN", "CROWN-Optimized"))
    assert (best.lower <= exact[0] + 1e-7).all() and (exact[1] - 1e-7 <= best.upper).all()
    excess = [float((c.width - (exact[1] - exact[0])).sum()) for c in (best, crown)]
    assert excess[0] < 0.95 * excess[1]


def test_options_are_used_and_checked():
    model, x = make("mlp", "relu")
    widths = [float(lx.certify(Saliency(model), x, eps=0.2, method="CROWN-Optimized", target=0,
                               abs=False, iterations=n).width.sum()) for n in (0, 1, 20)]
    crown = float(lx.certify(Saliency(model), x, eps=0.2, target=0, abs=False).width.sum())
    assert widths[0] == pytest.approx(crown) and widths[2] < widths[1] <= widths[0]
    for bad in ({"iterations": -1}, {"iterations": 2.0}, {"lr": 0}, {"lr": 2}, {"lr": "fast"}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
            lx.certify(Saliency(model), x, eps=0.1, target=0, **bad)


def test_optimised_bounds_are_differentiable_and_leave_no_gradients():
    model, x = make("mlp", "tanh")
    certificate = lx.certify(IntegratedGradients(model), x, eps=0.05, method="CROWN-Optimized",
                             target=0, n_steps=2, differentiable=True, iterations=3)
    gradients = torch.autograd.grad(certificate.width.sum(), list(model.parameters()),
                                    allow_unused=True)
    assert sum(g.abs().sum() for g in gradients if g is not None) > 0
    assert all(p.grad is None for p in model.parameters())
    lx.certify(Saliency(model), x, eps=0.05, method="CROWN-Optimized", target=0, iterations=3)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
