"""Bort: the update is the formula's, everything else is torch's optimizer."""

import copy

import pytest
import torch
from torch import nn

from lirpa_explain.training import BORT_MODES, BortAdamW, BortSGD, bort_delta, bort_groups

OPTIMIZERS = {
    BortSGD: (torch.optim.SGD,
              [{}, {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
               {"momentum": 0.5, "dampening": 0.2, "maximize": True, "foreach": True}]),
    BortAdamW: (torch.optim.AdamW, [{}, {"weight_decay": 0.1, "betas": (0.8, 0.9)},
                                    {"amsgrad": True, "maximize": True, "foreach": True}]),
}
CASES = [(ours, theirs, options) for ours, (theirs, rows) in OPTIMIZERS.items() for options in rows]


def make_net(seed=0):
    torch.manual_seed(seed)
    # a bias before the norm would have a gradient of roundings
    convolution = nn.Conv2d(1, 3, 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(12, 5)).double()


def train(net, optimizer, steps=3, closure=False):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(4, 1, 3, 3, dtype=torch.float64, generator=generator)

        def loss(x=x):
            optimizer.zero_grad()
            value = net(x).square().mean()
            value.backward()
            return value

        if closure:
            assert optimizer.step(loss).ndim == 0
        else:
            loss()
            optimizer.step()


def assert_same(net, other, **tolerance):
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, **(tolerance or {"rtol": 0, "atol": 0}))


# Delta


def entries(G):
    return [(i, j, G[i, j]) for i in range(len(G)) for j in range(len(G))]


def objective(W, a, mode):
    """What a mode constrains, entry by entry."""
    rows, columns = W @ W.T, W.T @ W
    gram = columns if mode.endswith("col") else rows
    off = [(g - a if i == j else g) for i, j, g in entries(gram) if i == j or "full" in mode]
    return sum(g.square() / 4 if mode.startswith("l2") else g.abs() / 2 for g in off)


@pytest.mark.parametrize("mode", BORT_MODES)
@pytest.mark.parametrize("amplitude", [0.7, "ada"])
def test_delta_is_the_gradient_of_the_objective(mode, amplitude):
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    W = weight.flatten(1)
    a = amplitude if amplitude != "ada" else W.detach().pow(2).sum(1).sqrt().mean() ** 2
    expected = torch.autograd.grad(objective(W, a, mode), weight)[0]
    torch.testing.assert_close(bort_delta(weight, amplitude, mode), expected)


def test_the_update_makes_rows_orthogonal():
    torch.manual_seed(0)
    for optimizer_class, lr in ((BortSGD, 0.05), (BortAdamW, 0.05)):
        W = nn.Parameter(torch.randn(3, 6, dtype=torch.float64))
        optimizer = optimizer_class([W], lr=lr, gamma=1.0, amplitude=2.0, weight_decay=0.0)
        for _ in range(400):
            W.grad = torch.zeros_like(W)
            optimizer.step()
        torch.testing.assert_close(W.detach() @ W.detach().T, 2 * torch.eye(3, dtype=torch.float64))


# Steps


@pytest.mark.parametrize(("ours", "theirs", "options"), CASES)
def test_gamma_0_is_torchs_own_optimizer_bit_by_bit(ours, theirs, options):
    net, other = make_net(), make_net()
    train(net, ours(net.parameters(), lr=0.1, gamma=0.0, **options))
    train(other, theirs(other.parameters(), lr=0.1, **options))
    assert_same(net, other)


def slow_sgd(weights, others, grads, state, lr, gamma, mode, momentum=0.0, decay=0.0, sign=1):
    for p in weights + others:
        g = sign * grads[p]
        if any(p is weight for weight in weights):
            g = g + gamma * bort_delta(p, 1.0, mode)
        g = g + decay * p
        state[p] = momentum * state[p] + g if p in state else g
        p.data = p.data - lr * state[p]


@pytest.mark.parametrize("mode", BORT_MODES)
@pytest.mark.parametrize("maximize", [False, True])
def test_sgd_follows_the_formula(mode, maximize):
    net, other = make_net(), make_net()
    optimizer = BortSGD(bort_groups(net, 0.3, mode=mode), lr=0.1, momentum=0.9, weight_decay=0.01,
                        maximize=maximize)
    weights, others = ([*group["params"]] for group in bort_groups(other, 0.3))
    state = {}
    for x in torch.randn(3, 4, 1, 3, 3, dtype=torch.float64):
        for one in (net, other):
            one.zero_grad()
            one(x).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            slow_sgd(weights, others, {p: p.grad for p in other.parameters()}, state, 0.1, 0.3,
                     mode, 0.9, 0.01, -1 if maximize else 1)
    assert_same(net, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", BORT_MODES)
@pytest.mark.parametrize("maximize", [False, True])
def test_adamw_follows_the_formula(mode, maximize):
    net, other = make_net(), make_net()
    lr, decay, gamma = 0.01, 0.1, 0.3
    optimizer = BortAdamW(bort_groups(net, gamma, mode=mode), lr=lr, weight_decay=decay,
                          maximize=maximize)
    constrained = set(bort_groups(other, gamma)[0]["params"])
    first, second = ({p: torch.zeros_like(p) for p in other.parameters()} for _ in range(2))
    for t, x in enumerate(torch.randn(3, 4, 1, 3, 3, dtype=torch.float64), 1):
        for one in (net, other):
            one.zero_grad()
            one(x).square().mean().backward()
        optimizer.step()
        for p in other.parameters():
            g = -p.grad if maximize else p.grad
            p.data = p.data * (1 - lr * decay)
            if p in constrained:
                p.data = p.data - lr * gamma * bort_delta(p.data, 1.0, mode)
            first[p] = 0.9 * first[p] + 0.1 * g
            second[p] = 0.999 * second[p] + 0.001 * g * g
            mean, square = first[p] / (1 - 0.9**t), second[p] / (1 - 0.999**t)
            p.data = p.data - lr * mean / (square.sqrt() + 1e-8)
    assert_same(net, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("ours", "theirs", "options"), CASES)
def test_closures_and_foreach_change_nothing(ours, theirs, options):
    nets = [make_net() for _ in range(3)]
    for net, closure, foreach in zip(nets, (False, True, False), (False, False, True), strict=True):
        groups = bort_groups(net, 0.1, amplitude="ada", mode="l1-row")
        train(net, ours(groups, lr=0.05, **{**options, "foreach": foreach}), closure=closure)
    assert_same(nets[0], nets[1])
    assert_same(nets[0], nets[2], rtol=1e-12, atol=1e-12)


def test_gradients_are_left_as_they_are_and_hooks_run_once():
    net = make_net()
    # so that torch has wrapped the step of the base class as well
    torch.optim.SGD(make_net().parameters())
    optimizer, calls = BortSGD(bort_groups(net, 0.1), lr=0.1), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    net(torch.ones(1, 1, 3, 3).double()).sum().backward()
    before = [p.grad.clone() for p in net.parameters()]
    optimizer.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), before, strict=True))
    assert calls == ["before", "after"]


@pytest.mark.parametrize("ours", OPTIMIZERS)
def test_checkpoints_resume_exactly(ours):
    def make(net):
        return ours(bort_groups(net, 0.2, mode="l2-col"), lr=0.05, weight_decay=0.01)

    net = make_net()
    optimizer = make(net)
    train(net, optimizer)
    resumed = copy.deepcopy(net)
    other = make(resumed)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [g["gamma"] for g in other.param_groups] == [0.2, 0.0]
    train(net, optimizer)
    train(resumed, other)
    assert_same(net, resumed)


@pytest.mark.parametrize(("ours", "theirs"),
                         [(ours, theirs) for ours, (theirs, _) in OPTIMIZERS.items()])
def test_checkpoints_of_torchs_own_optimizer_load(ours, theirs):
    net, other = make_net(), make_net()
    first = theirs(net.parameters(), lr=0.1)
    train(net, first)
    train(other, theirs(other.parameters(), lr=0.1))
    second = ours(other.parameters(), lr=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(net, first)
    train(other, second)
    assert_same(net, other)


# Groups and errors


def test_groups_are_weights_of_linear_layers_and_convolutions():
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "norm": nn.LayerNorm(2),
                         "c": nn.Conv1d(1, 1, 1), "emb": nn.Embedding(3, 2)})
    net["b"].weight = net["a"].weight
    weights, others = bort_groups(net, 0.5, amplitude=2.0)
    assert [id(p) for p in weights["params"]] == [id(net["a"].weight), id(net["c"].weight)]
    assert (weights["gamma"], weights["amplitude"], others["gamma"]) == (0.5, 2.0, 0.0)
    assert len(weights["params"]) + len(others["params"]) == len([*net.parameters()])


@pytest.mark.parametrize(("options", "message"), [
    ({"gamma": -1.0}, "gamma"), ({"mode": "default"}, "l1-fullrow"), ({"amplitude": "auto"}, "ada"),
    ({"amplitude": 0.0}, "amplitude"), ({"gamma": 0.1}, "bort_groups"),
    ({"fused": True}, "foreach"),
])
def test_wrong_options_are_refused(options, message):
    for ours in OPTIMIZERS:
        with pytest.raises(ValueError, match=message):
            ours(nn.Linear(2, 2).parameters(), lr=0.1, **options)
        optimizer = ours([nn.Parameter(torch.ones(2, 2))], lr=0.1)
        with pytest.raises(ValueError, match=message):
            optimizer.add_param_group({"params": nn.Linear(2, 2).parameters(), **options})
        assert len(optimizer.param_groups) == 1
