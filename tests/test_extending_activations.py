"""Activations that a user registers work wherever those of the package do: each in each place.

Truth is autograd through a plain torch formula, which the package does not see.
"""

import dataclasses
import math

import pytest
import torch
from auto_LiRPA.bound_op_map import bound_op_map
from captum.attr import DeepLift, IntegratedGradients, Saliency
from torch import Tensor, nn

import lirpa_explain as lx
from lirpa_explain.attacks.surrogate import Softened
from lirpa_explain.graph.module import GradientModule, Step
from lirpa_explain.graph.rules import RULES
from lirpa_explain.operators import ACTIVATIONS, Aten, activation, register_activation
from lirpa_explain.operators.activations import LAYERS, secant_of
from lirpa_explain.relaxations.declaration import Formula, declare, line
from lirpa_explain.relaxations.secant import Secant, secant, secant_range
from lirpa_explain.tables import tables
from lirpa_explain.training import explanation_loss
from tests.reference import sample_box

X = torch.tensor([[0.3, -0.2, 0.5, 0.1], [0.0, 0.4, -0.3, 0.2]], dtype=torch.float64)
EPS, TARGET = 0.2, 1
QUICK = {"samples": 4, "restarts": 2, "steps": 4}


@torch.library.custom_op("lirpa_explain_tests::bend", mutates_args=())
def bend_operation(z: Tensor, right: float) -> Tensor:
    """A user's operation: t / 2 left of 0, `right` t right of it."""
    return torch.where(z > 0, right * z, z / 2)


@torch.library.custom_op("lirpa_explain_tests::bend_backward", mutates_args=())
def bend_backward(g: Tensor, z: Tensor, right: float) -> Tensor:
    return torch.where(z > 0, right * g, g / 2)


def keep(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.right = inputs[1]


bend_operation.register_fake(lambda z, right: torch.empty_like(z))
bend_backward.register_fake(lambda g, z, right: torch.empty_like(g))
bend_operation.register_autograd(
    lambda ctx, g: (bend_backward(g, *ctx.saved_tensors, ctx.right), None), setup_context=keep)


def bend(right=2.0):
    return declare(line(0.5, 0.0), line(right, 0.0), breaks=(0.0,))


def stair():
    return declare(line(1.0, 0.0), line(1.0, 1.0), breaks=(0.0,))


def wave():
    return declare(Formula(
        lambda t: t + torch.sin(t).square(), lambda t: 1 + torch.sin(2 * t),
        lambda t: 2 * torch.cos(2 * t),
        ((0.75 * math.pi,), (math.pi / 4, 0.75 * math.pi), (0.0, math.pi / 2))),
        period=math.pi, trend=1.0)


OF_USERS = {
    "bend": (bend, lambda t: torch.where(t > 0, 2 * t, t / 2), {
        "aten": (Aten(("lirpa_explain_tests::bend",), ("lirpa_explain_tests::bend_backward",),
                      (("right", 2.0),)),),
        "secant": lambda right=2.0: Secant(0.5, right - 0.5)}),
    "stair": (stair, lambda t: torch.where(t > 0, t + 1, t), {}),
    "wave": (wave, lambda t: t + torch.sin(t).square(), {}),
}
"""Each as its declaration, as a plain formula, and what else is said of it."""


@pytest.fixture(params=OF_USERS)
def name(request):
    """An activation that is registered for the time of a test."""
    build, _, columns = OF_USERS[request.param]
    register_activation(request.param, build, f"a test's {request.param}", **columns)
    yield request.param
    for operator in (request.param, f"{request.param}_gradient"):
        del lx.OPERATORS[operator], bound_op_map[f"lirpa_explain::{operator}"]
    del ACTIVATIONS[request.param]


class Entrywise(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z)


def net(function):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), Entrywise(function), nn.Linear(6, 5), nn.Tanh(),
                         nn.Linear(5, 3)).double()


def models(name):
    """A model that calls the activation, and the same with the plain formula."""
    return net(lambda z: activation(z, name)), net(OF_USERS[name][1])


def certificate_of(model, **keywords):
    return lx.certify(Saliency(model), X, eps=EPS, target=TARGET, abs=False, **keywords)


def gradient(model, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, TARGET].sum(), x)[0]


def samples():
    return sample_box(X - EPS, X + EPS, 30, torch.Generator().manual_seed(0))


def bounded(name, tmp_path):
    model, plain = models(name)
    for method in lx.METHODS:
        fewer = {"iterations": 3} if method == "CROWN-Optimized" else {}
        certificate = certificate_of(model, method=method, **fewer)
        torch.testing.assert_close(certificate.nominal, gradient(plain, X), rtol=0, atol=1e-12)
        assert all(certificate.contains(gradient(plain, x)).all() for x in samples())
        assert bool((certificate.upper > certificate.lower).any())


def attacked(name, tmp_path):
    model, plain = models(name)
    found = lx.attack(Saliency(model), X, eps=EPS, target=TARGET, abs=False, objective="l2",
                      **QUICK)
    change = (gradient(plain, found.worst_inputs) - gradient(plain, X)).norm(dim=1)
    torch.testing.assert_close(found.value, change)
    assert bool((found.value > 0).all()) and found.fallback == ""


def smoothed(name, tmp_path):
    """What an attack differentiates has a slope where a kink or a jump is."""
    if name == "wave":
        return
    inputs, operator = (("g", "z"), "bend_gradient") if name == "bend" else (("z",), "stair")
    module = GradientModule(inputs, [Step(operator, inputs, "y", {})], "y", {}, ((1,),), (1,))
    soft = Softened(module, 1, 3.0)
    soft.reach["z"] = torch.ones(1).double()
    z = torch.tensor([[0.1]], dtype=torch.float64, requires_grad=True)
    given = (torch.ones_like(z), z) if len(inputs) == 2 else (z,)
    slope, = torch.autograd.grad(soft(torch.zeros(1, dtype=torch.long), *given).sum(), z)
    b = torch.sigmoid(3 * z) * torch.sigmoid(-3 * z) * 3
    torch.testing.assert_close(slope, 1.5 * b if name == "bend" else 1 + b)


def sandwiched(name, tmp_path):
    sandwich = certificate_of(models(name)[0]).sandwich("l2", settings=QUICK)
    assert bool((sandwich.found > 0).all())
    assert bool((sandwich.found <= sandwich.certified + 1e-9).all())


def reported(name, tmp_path):
    lx.report(certificate_of(models(name)[0]), tmp_path / "page.html", metrics=["l2"])
    assert "Saliency" in (tmp_path / "page.html").read_text()


def explained(name, tmp_path):
    """Along a path, and by DeepLift, which keeps its gradient."""
    model, plain = models(name)
    points = sample_box(X - 0.05, X + 0.05, 5, torch.Generator().manual_seed(0))
    for kind, keywords in ((IntegratedGradients, {"n_steps": 4}), (DeepLift, {})):
        given = {"target": TARGET, "baselines": torch.zeros_like(X), **keywords}
        certificate = lx.certify(kind(model), X, eps=0.05, **given)
        for x in points:
            assert certificate.contains(kind(plain).attribute(x, **given).detach()).all()


def trained(name, tmp_path):
    model, plain = models(name)
    loss = explanation_loss(model, X, torch.tensor([TARGET, TARGET]), eps=EPS)
    loss.backward()
    assert model[0].weight.grad.abs().sum() > 0
    spread = torch.stack([gradient(plain, x) for x in samples()])
    assert loss >= (spread.amax(0) - spread.amin(0)).mean()


def listed(name, tmp_path):
    assert f"| `{name}`, `{name}_gradient` | a test's {name} |" in tables()["operators"]
    assert ACTIVATIONS.lint() == lx.OPERATORS.lint() == RULES.lint() == []
    with pytest.raises(ValueError, match=f"'{name}', '{name}_gradient' are already registered"):
        register_activation(name, wave, "again")
    assert lx.OPERATORS[name].covers == ACTIVATIONS[name].covers == f"a test's {name}"


PLACES = [bounded, attacked, smoothed, sandwiched, reported, explained, trained, listed]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("works", PLACES, ids=lambda place: place.__name__)
def test_an_activation_of_ones_own(works, name, tmp_path):
    works(name, tmp_path)


@pytest.mark.parametrize("name", ["bend"], indirect=True)
def test_an_operation_of_ones_own_is_known_by_the_row(name):
    model, plain = net(lambda z: bend_operation(z, 2.0)), models(name)[1]
    certificate = certificate_of(model)
    assert all(certificate.contains(gradient(plain, x)).all() for x in samples())
    taken = "lowering rule 'lirpa_explain_tests.bend.default' is already registered"
    with pytest.raises(ValueError, match=taken):
        register_activation("bent", bend, "another", aten=(Aten(("lirpa_explain_tests::bend",)),))
    assert "bent" not in ACTIVATIONS and "bent" not in lx.OPERATORS


@pytest.mark.parametrize("name", ["bend"], indirect=True)
def test_a_secant_slope_of_ones_own_is_bounded(name):
    plain, z0 = OF_USERS[name][1], torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)
    lo, hi = z0 - 1.7, z0 + 0.9
    low, high = secant_range(secant_of(name), lo, hi, z0, 1e-10)
    z = torch.lerp(lo, hi, torch.linspace(0, 1, 50, dtype=torch.float64)[:, None])
    slope = (plain(z) - plain(z0)) / (z - z0)
    torch.testing.assert_close(secant(secant_of(name), z, z0), slope)
    assert bool((low <= slope + 1e-12).all()) and bool((slope <= high + 1e-12).all())


def test_nothing_is_left_of_an_activation_that_is_removed():
    assert torch.ops.lirpa_explain_tests.bend.default not in RULES
    assert not {*OF_USERS} & {*ACTIVATIONS}
    with pytest.raises(lx.UnsupportedOperation, match="lirpa_explain_tests|bend"):
        certificate_of(net(lambda z: bend_operation(z, 2.0)))


def test_what_a_row_lacks_is_told(monkeypatch):
    row = ACTIVATIONS["tanh"]
    lacking = dataclasses.replace(row, aten=(), layers=(),
                                  without={"build": "no reason", "colour": ""})
    monkeypatch.setitem(ACTIVATIONS, "tanh", lacking)
    assert ACTIVATIONS.lint() == [f"activation 'tanh' {wrong}" for wrong in (
        "has no 'aten' and does not say why", "has no 'secant' and does not say why",
        "says why it has no 'build', which it has or nothing has",
        "says why it has no 'colour', which it has or nothing has")]
    with pytest.raises(ValueError, match="'gelu' declares no secant slope.*that do are kink"):
        secant_of("gelu")
    assert nn.Tanh not in LAYERS and nn.Sigmoid in LAYERS
