"""Training methods: each is the formula in its docstring, in value and in the gradient of the
parameters.
"""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lirpa_explain.training import (
    TRAINING_METHODS,
    input_gradient,
    methods,
    smooth_relu,
    training_loss,
)
from tests.nets import mlp

EPS, SEED = 0.2, 3


def make_net(activation=nn.ReLU):
    return mlp(4, 6, 5, 3, activation=activation).train()


@pytest.fixture
def data():
    torch.manual_seed(1)
    return torch.rand(7, 4, dtype=torch.float64), torch.randint(3, (7,))


def generator():
    return torch.Generator().manual_seed(SEED)


class Draws:
    """The numbers that a method draws, in its order."""

    def __init__(self, x):
        self.x, self.generator = x, generator()

    def uniform(self):
        return EPS * (2 * torch.rand(self.x.shape, generator=self.generator, dtype=self.x.dtype)
                      - 1)

    def normal(self):
        return torch.randn(self.x.shape, generator=self.generator, dtype=self.x.dtype)


# Slow, obvious: one example at a time. `frozen` is a copy of the model where the method does not
# differentiate.


def gradient(model, x, y):
    return torch.autograd.functional.jacobian(lambda z: model(z[None])[0, y], x, create_graph=True)


def mean(values):
    return torch.stack([*values]).mean()


def slow_plain(model, frozen, x, y, draws):
    return F.cross_entropy(model(x), y)


def slow_smoothing(model, frozen, x, y, draws):
    return F.cross_entropy(model(x + EPS * draws.normal()), y)


def ascend(objective, x, start, steps):
    z = x + start
    for _ in range(steps):
        z = z.detach().requires_grad_()
        z = z + 2.5 * EPS / steps * torch.autograd.grad(objective(z), z)[0].sign()
        z = (x + (z - x).clamp(-EPS, EPS)).detach()
    return z


def slow_pgd(model, frozen, x, y, draws):
    worst = ascend(lambda z: F.cross_entropy(frozen(z), y), x, draws.uniform(), 7)
    return F.cross_entropy(model(worst), y)


def slow_ig_sum_norm(model, frozen, x, y, draws):
    def objective(net, z):
        sums = []
        for a, b, label in zip(x, z, y, strict=True):
            def loss(p, label=label):
                return F.cross_entropy(net(p[None]), label[None])

            slopes = [torch.autograd.functional.jacobian(loss, a + (k - 0.5) / 5 * (b - a),
                                                         create_graph=True) for k in range(1, 6)]
            sums.append(((b - a) * torch.stack(slopes).mean(0)).abs().sum())
        return F.cross_entropy(net(z), y) + 0.1 * mean(sums)

    # The ascent differentiates with respect to z; what jacobian() returns is cut off from z, hence
    # the finite steps.
    def ascent(z):
        z = z.detach()
        with torch.no_grad():
            values = torch.zeros_like(z)
        for i in range(z.numel()):
            h = torch.zeros(z.numel(), dtype=z.dtype)
            h[i] = 1e-6
            h = h.view_as(z)
            values.view(-1)[i] = (objective(frozen, z + h) - objective(frozen,
                                                                       z - h)).detach().sign()
        return values

    z = x + draws.uniform()
    for _ in range(3):
        z = x + (z + 2.5 * EPS / 3 * ascent(z) - x).clamp(-EPS, EPS)
    return objective(model, z)


def slow_softplus(model, frozen, x, y, draws):
    smooth = nn.Sequential(*[nn.Softplus(beta=10) if isinstance(m, nn.ReLU) else m for m in model])
    return F.cross_entropy(smooth(x), y) + 1e-4 / 2 * sum(model[i].weight.square().sum()
                                                          for i in (0, 2, 4))


def slow_hessian(model, frozen, x, y, draws):
    smooth = nn.Sequential(*[nn.Softplus(beta=10) if isinstance(m, nn.ReLU) else m for m in model])
    values = []
    for a, label, v in zip(x, y, draws.normal(), strict=True):
        H = torch.autograd.functional.hessian(lambda z, label=label: smooth(z[None])[0, label], a,
                                              create_graph=True)
        values.append((H @ v).square().sum())
    return mean(values)


def slow_l2_alignment(model, frozen, x, y, draws):
    return mean((gradient(model, a + z, label) - gradient(frozen, a, label)).square().sum()
                for a, label, z in zip(x, y, draws.uniform(), strict=True))


def slow_cosine_alignment(model, frozen, x, y, draws):
    values = []
    for a, label, z in zip(x, y, draws.uniform(), strict=True):
        g, h = gradient(model, a + z, label), gradient(frozen, a, label)
        values.append((1 - (g @ h) / g.norm() / h.norm()) / 2)
    return mean(values)


def slow_atex(model, frozen, x, y, draws):
    noises = [draws.uniform() for _ in range(4)]
    shares = torch.rand(len(x), 1, generator=draws.generator, dtype=x.dtype) - 0.5
    values = []
    for i, r in enumerate(draws.uniform()):
        s = torch.stack([gradient(frozen, x[i] + noise[i], y[i]) for noise in noises]).mean(0)
        p = x[i] + shares[i] * EPS * s / s.abs().max()
        r = r - (r @ s) / (s @ s) * s
        assert abs(r @ s) < 1e-12
        before, after = ((frozen(p[None])[0] / 4).softmax(0).detach(),
                         model((p + r)[None])[0].softmax(0))
        values.append((before * (before / after).log()).sum())
    return mean(values)


SLOW = {name.removeprefix("slow_"): function
        for name, function in [*globals().items()] if name.startswith("slow_")}


def test_every_baseline_has_a_reference():
    assert set(SLOW) == set(TRAINING_METHODS) - {"certified"}


@pytest.mark.parametrize("name", SLOW)
def test_values_and_gradients_are_those_of_the_formula(name, data):
    # The ascents of ig_sum_norm compare signs with finite differences: a smooth net has them right.
    activation = nn.Tanh if name == "ig_sum_norm" else nn.ReLU
    model, other, (x, y) = make_net(activation), make_net(activation), data
    settings = {} if name in ("plain", "softplus") else {"generator": generator()}
    value = TRAINING_METHODS[name].function(model, x, y, eps=EPS, **settings)
    expected = SLOW[name](other, copy.deepcopy(other), x, y, Draws(x))
    torch.testing.assert_close(value, expected)
    assert value.ndim == 0 and (name == "plain" or value > 1e-4)
    of_model = torch.autograd.grad(value, model.parameters(), allow_unused=True)
    of_other = torch.autograd.grad(expected, other.parameters(), allow_unused=True)
    for g, h, p in zip(of_model, of_other, model.parameters(), strict=True):
        zero = torch.zeros_like(p)
        torch.testing.assert_close(zero if g is None else g, zero if h is None else h)


@pytest.mark.parametrize("name", SLOW)
def test_nothing_of_the_callers_is_changed(name, data):
    model, (x, y) = make_net(), data
    state, inputs = torch.get_rng_state(), x.clone()
    before = copy.deepcopy(model.state_dict())
    settings = {} if name in ("plain", "softplus") else {"generator": generator()}
    training_loss(name, model, x, y, eps=EPS, **settings)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x,
                                                                     inputs) and not x.requires_grad
    assert all(p.grad is None for p in model.parameters()) and model.training
    assert all(torch.equal(p, before[key]) for key, p in model.state_dict().items())


def test_what_is_drawn_comes_from_the_global_generator_otherwise(data):
    model, (x, y) = make_net(), data
    torch.manual_seed(SEED)
    first = training_loss("atex", model, x, y, eps=EPS)
    torch.manual_seed(SEED)
    assert first == training_loss("atex", model, x, y, eps=EPS) != training_loss("atex", model, x,
                                                                                 y, eps=EPS)


@pytest.mark.parametrize("name", ["pgd", "ig_sum_norm"])
def test_ascents_stay_in_the_ball_and_the_range_of_the_data(name, data):
    model, (x, y) = make_net(), data
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    loss = training_loss(name, model, x, y, eps=EPS, clip=(0.1, 0.9), generator=generator())
    worst = seen[-1]
    inside = x.clamp(0.1, 0.9)
    assert ((worst - x).abs() <= EPS + 1e-12).all() and (worst == worst.clamp(0.1, 0.9)).all()
    assert (worst - inside).abs().amax() > 0.9 * EPS
    assert loss > F.cross_entropy(model(x), y)


# Gradients, curvature


def test_softplus_stands_in_for_every_relu():
    net, z = make_net(), torch.randn(2, 4, dtype=torch.float64)
    expected = nn.Sequential(*[nn.Softplus(beta=3) if isinstance(m, nn.ReLU) else m
                               for m in net])(z)
    for spelling in (F.relu, torch.relu, torch.Tensor.relu, lambda t: F.relu(input=t),
                     nn.ReLU(inplace=True)):
        with smooth_relu(3.0):
            hidden = spelling(net[2](spelling(net[0](z.clone()))))
        torch.testing.assert_close(net[4](hidden), expected)
    assert torch.equal(net[1](z), z.clamp(min=0))
    with pytest.raises(ValueError, match="beta"):
        smooth_relu(0.0)


def test_curvature_by_finite_differences(data):
    model, (x, y) = make_net(nn.Tanh), data
    exact = training_loss("hessian", model, x, y, eps=0, task=lambda *_: 0.0, beta=None,
                          generator=generator())
    steps = training_loss("hessian", model, x, y, eps=0, task=lambda *_: 0.0, step=1e-6,
                          generator=generator())
    torch.testing.assert_close(steps, exact, rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="step"):
        TRAINING_METHODS["hessian"].function(make_net(), x, y, eps=0, beta=None)


def test_the_gradient_is_that_of_the_targets_logit(data):
    model, (x, y) = make_net(), data
    expected = torch.stack([gradient(model, a, label) for a, label in zip(x, y, strict=True)])
    torch.testing.assert_close(input_gradient(model, x, y), expected)
    assert input_gradient(model, x, y).requires_grad
    with torch.no_grad():
        alone = input_gradient(model, x, y, create_graph=False)
    torch.testing.assert_close(alone, expected)
    assert not alone.requires_grad


@pytest.mark.parametrize("name", ["l2_alignment", "cosine_alignment"])
def test_both_gradients_can_be_moved(name, data):
    model, other, (x, y) = make_net(), make_net(), data
    value = TRAINING_METHODS[name].function(model, x, y, eps=EPS, detach=False,
                                            generator=generator())
    expected = SLOW[name](other, other, x, y, Draws(x))
    torch.testing.assert_close(value, expected)
    for g, h in zip(*(torch.autograd.grad(loss, [net[i].weight for i in (0, 2, 4)])
                      for loss, net in ((value, model), (expected, other))), strict=True):
        torch.testing.assert_close(g, h)


# The table


def weighted(logits, labels):
    return F.cross_entropy(logits, labels, weight=torch.tensor([3.0, 1.0, 2.0], dtype=logits.dtype))


def test_the_loss_is_the_tasks_and_the_weighted_penalty(data):
    model, (x, y) = make_net(), data
    for name, row in TRAINING_METHODS.items():
        if name in ("plain", "softplus"):
            continue
        loss = training_loss(name, model, x, y, eps=EPS, weight=0.3, task=weighted, **seeded(name))
        if row.replaces_task:
            expected = row.function(model, x, y, eps=EPS, task=weighted, **seeded(name))
        else:
            expected = weighted(model(x), y) + 0.3 * row.function(model, x, y, eps=EPS,
                                                                  **seeded(name))
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("name", TRAINING_METHODS)
def test_a_penalty_is_added_to_another_methods_loss(name, data):
    model, (x, y) = make_net(), data
    adversarial = {"eps": EPS / 2, "steps": 2}
    base, row = (partial(training_loss, "pgd", **adversarial, generator=generator()),
                 TRAINING_METHODS[name])
    if row.replaces_task:
        with pytest.raises(ValueError, match="hessian.*certified"):
            training_loss(name, model, x, y, eps=EPS, base=base)
        return
    loss = training_loss(name, model, x, y, eps=EPS, weight=0.3, task=weighted, base=base,
                         **seeded(name))
    expected = TRAINING_METHODS["pgd"].function(model, x, y, **adversarial, task=weighted,
                                                generator=generator())
    torch.testing.assert_close(loss,
                               expected + 0.3 * row.function(model, x, y, eps=EPS, **seeded(name)))


def seeded(name):
    return {} if name == "certified" else {"generator": generator()}


def test_the_table_is_complete_and_refuses_to_be_overwritten(monkeypatch):
    monkeypatch.setitem(TRAINING_METHODS, "pgd", TRAINING_METHODS["pgd"])  # as it was, afterwards
    for name, row in TRAINING_METHODS.items():
        assert row.words and (row.source or name == "plain") and row.function.__doc__
    with pytest.raises(ValueError, match="overwrite=True"):
        methods.register("pgd", math.fsum, "", "")
    methods.register("pgd", math.fsum, "other", "", overwrite=True)
    assert TRAINING_METHODS["pgd"].function is math.fsum
    with pytest.raises(ValueError, match="hessian"):
        training_loss("none", nn.Identity(), torch.ones(1, 1), torch.tensor([0]), eps=0.1)
