"""Affine forms carried forward hold at each layer, as does what is bounded with them."""

import math

import pytest
import torch
from auto_LiRPA.perturbations import PerturbationLpNorm
from captum.attr import IntegratedGradients, Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.bounding import forward, schedule
from lirpa_explain.bounding.forward import Form, Forms, worth
from lirpa_explain.bounding.network import Network
from lirpa_explain.bounding.reach import needed, reached
from lirpa_explain.graph import capture
from tests.cases import BATCH, CASES, boxes, is_rare
from tests.cases import problem as case
from tests.test_operators import example, values_at
from tests.truth import assert_sound, ball, sample_box


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(2 * x - 1)))
        x = torch.relu(x + self.second(nn.functional.leaky_relu(self.second(x), 0.1)))
        return self.last(x[:, :, ::2].mean((2, 3)))


class Dense(nn.Module):
    """Values beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(4, 3, 3)
        self.third, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(torch.cat([x, -x], 1)))
        x = torch.relu(self.second(torch.cat([x, x[:, :1] - x[:, 1:2]], 1)))
        return self.last(torch.relu(self.third(torch.cat([x.mean((2, 3)), x[:, :1, 0, 0]], 1))))


class Tokens(nn.Module):
    """A transformer of four patches, of which the first alone is read."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.last = nn.Conv2d(1, 4, 3, 3), nn.Linear(4, 2)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, activation="gelu",
                                                batch_first=True, norm_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(self.patches(x).flatten(2).transpose(1, 2))[:, 0])


NETS = {
    "tokens": Tokens,
    "residual": Residual,
    "dense": Dense,
    "pools": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2),
        nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 2)),
}


def problem(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return NETS[name]().double().eval(), torch.rand(2, 1, 6, 6, dtype=torch.float64,
                                                    requires_grad=True)


@pytest.mark.parametrize("fresh", [0, 3, 512])
@pytest.mark.parametrize("name", NETS)
def test_values_lie_within_forms(name, fresh, monkeypatch):
    monkeypatch.setattr(forward, "FRESH", fresh)
    monkeypatch.setattr(forward, "COLUMNS", 4 * 36 * forward.WIDER)  # several parts
    model, x = problem(name)
    x = x[:1].detach()
    module = capture(model, (x,))
    network = Network(module, module.example)
    low, high = x - 0.1, x + 0.1
    cotangent = torch.ones(1, 2, dtype=x.dtype)
    boxes = {}
    with torch.no_grad(), network.at((x, cotangent),
                                     (PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high), None)):
        forms = Forms(network.nodes, network.result)
        for node, _ in network.read_nodes(True):
            network.settle(node, network.interval(node))
            if (box := forms.box(node)) is not None:
                boxes[node.name] = box
                wider = 3 if name != "tokens" else 20  # errors of errors
                assert box.width.mean() <= wider * network.interval(node).width.mean()
    assert len(boxes) >= 3
    with torch.no_grad():
        for point in sample_box(low, high, 60, torch.Generator().manual_seed(1)):
            network._bounded(point, cotangent)
            for name_of, box in boxes.items():
                value = network._nodes[name_of].forward_value
                rectified = "rectified" in getattr(network._nodes[name_of], "settings", {})
                value = value.clamp(min=0) if rectified else value
                sides = box.map(lambda side: side.clamp(min=0)) if rectified else box  # noqa: B023
                assert sides.outward(torch.full_like(value, 1e-12)).contains(value).all(), name_of


def beyond(form: Form, variables: dict[str, torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """How far values (N, *S) are beyond what a form allows, with variables (N, D) of the inputs."""
    at, free = form.center, form.error
    for key, part in form.columns.items():
        if isinstance(key, tuple):
            name, first = key
            at = at + torch.tensordot(variables[name][:, first:first + len(part)], part, 1)
        else:
            free = free + part.abs().sum(0, keepdim=True)
    return (values - at).abs() - free


def forms_of_result(network: Network) -> list[Form]:
    """The form of a network's result, if it has one, and that which linear bounds renew."""
    forms, result = Forms(network.nodes, network.result), network.result
    for node, _ in network.read_nodes(True):
        network.settle(node, network.interval(node))
    network.interval(result)
    made = forms.form(result)
    if made is None:
        return []
    every = torch.arange(result.output_shape[1:].numel())
    parts = [forms.of_linear(network.in_inputs(*network.sums(result, part[None, :, None], [1.0])))
             for part in every.split(5)]
    forms.renew(result, every, parts)
    return [made, forms.form(result)]


each_case = pytest.mark.parametrize("row", [pytest.param(row, marks=pytest.mark.slow)
                                            if is_rare(row) else row for row in CASES], ids=str)


@each_case
def test_entries_that_depend_on_an_input_are_reached_and_need_it(row):
    p = case(row)
    sides = boxes(p, "wide")
    points = [sample_box(low, high, 12, torch.Generator().manual_seed(2)) for low, high in sides]
    network = Network(p.module, example(p))
    inputs = tuple(x[:1] for x in p.inputs(*[side.center for side in sides]))
    linf = tuple(PerturbationLpNorm(norm=math.inf, x_L=low[:1], x_U=high[:1])
                 for low, high in sides)
    with torch.no_grad(), network.at(inputs, linf):
        network.interval(network.result)
        nodes = network.moving_inputs
        nothing = {node.name: torch.zeros_like(node.value, dtype=torch.bool) for node in nodes}
        needs = needed(network.nodes, network.result)
        for i, node in enumerate(nodes):
            entry = nothing[node.name].flatten().numel() // 2
            mark = nothing[node.name].flatten().index_fill(0, torch.tensor(entry), True)
            reach = reached(network.result, nothing | {node.name: mark.reshape(node.value.shape)})
            others = [x.clone() for x in points]
            others[i].flatten(2)[..., entry] = points[i].flatten(2)[..., entry].flip(0)
            moved = (values_at(p, points) != values_at(p, others))[:, 0].any(0)
            assert not (moved & ~reach[0]).any()
            assert not moved.any() or needs[node.name].flatten()[entry]


@each_case
def test_forms_of_every_operator_hold_and_say_how_they_depend_on_the_inputs(row):
    """Forms of the operators' expansions, and those that linear bounds renewed."""
    p = case(row, meet=True, backwards=True)
    sides = boxes(p, "wide", "narrow", "point")
    points = [sample_box(low, high, 20, torch.Generator().manual_seed(2)) for low, high in sides]
    sampled = values_at(p, points)
    network = Network(p.module, example(p))
    for i in (0, BATCH, 2 * BATCH):
        balls = [side.map(lambda x: x[i:i + 1]) for side in sides]  # noqa: B023
        inputs = tuple(x[i:i + 1] for x in p.inputs(*[side.center for side in sides]))
        linf = tuple(PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high) for low, high in balls)
        with torch.no_grad(), network.at(inputs, linf):
            found = forms_of_result(network)
            names = [node.name for node in network.moving_inputs]
        for form in found:
            variables = {name: ((x[:, i] - ball.center) / ball.radius).nan_to_num().flatten(1)
                         for name, x, ball in zip(names, points, balls, strict=True)}
            size = 1 + max(float(x.abs().max()) for x in (sampled, form.box.upper))
            assert beyond(form, variables, sampled[:, i]).max() <= 1e-12 * size


@pytest.mark.parametrize(("name", "method"), [
    (name, method) for name in NETS for method in ("CROWN", "CROWN-Optimized")
    if (name, method) != ("tokens", "CROWN-Optimized")])  # it takes long, and tells no more
def test_bounds_with_a_first_pass(name, method, monkeypatch):
    model, x = problem(name)
    saliency, eps = Saliency(model), 0.05
    keywords = {"eps": eps, "target": 1, "abs": False, "method": method, "iterations": 2}
    plain = lx.certify(saliency, x, **keywords)
    passes = []
    made = forward.Forms.box
    monkeypatch.setattr(forward.Forms, "box", lambda self,
                        node: passes.append(node) or made(self, node))
    monkeypatch.setattr(forward, "LARGE", 0)
    monkeypatch.setattr(schedule, "FEW_OPEN", 0.0)
    certificate = lx.certify(saliency, x, **keywords, batch_size=1)
    assert passes
    assert_sound(certificate, saliency, ball(x, eps, count=40), target=1, abs=False)
    assert 0 < certificate.width.mean() < 1.01 * plain.width.mean()


def test_a_pass_back_is_for_what_errors_make_up_and_the_result_depends_on(monkeypatch):
    model, x = problem("tokens")
    saliency, eps = Saliency(model), 0.01
    keywords = {"eps": eps, "target": 1, "abs": False, "method": "CROWN", "batch_size": 1}
    monkeypatch.setattr(forward, "LARGE", 0)
    monkeypatch.setattr(schedule, "FEW_OPEN", 0.0)
    counts, plain = [], schedule.Schedule._tightened
    monkeypatch.setattr(schedule.Schedule, "_tightened", lambda self, node, box, wanted, forms:
                        counts.append(int(wanted.sum())) or plain(self, node, box, wanted, forms))
    widths, passes = [], []
    for price in (2**28, 1):
        monkeypatch.setattr(schedule, "PRICE", price)
        counts.clear()
        certificate = lx.certify(saliency, x[:1], **keywords)
        assert_sound(certificate, saliency, ball(x[:1], eps, count=40), target=1, abs=False)
        widths.append(float(certificate.width.mean()))
        passes.append(sum(counts))
    assert passes[0] > 1.5 * passes[1] > 0
    assert max(widths) < 2 * min(widths)
    monkeypatch.setattr(forward.Forms, "needed",
                        lambda self, node: torch.ones_like(node.forward_value, dtype=torch.bool))
    monkeypatch.setattr(schedule, "PRICE", 2**28)
    counts.clear()
    every = lx.certify(saliency, x[:1], **keywords)
    assert sum(counts) > passes[0]
    torch.testing.assert_close(float(every.width.mean()), widths[0], rtol=0.02, atol=0)


@pytest.mark.parametrize("size", [1, 6])
def test_what_does_not_move_may_stand_beside_what_does(size, monkeypatch):
    monkeypatch.setattr(forward, "LARGE", 0)
    monkeypatch.setattr(schedule, "FEW_OPEN", 0.0)
    torch.manual_seed(0)

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(size + 3, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.first(torch.cat([x, beside], 1))))

    saliency, x = Saliency(Beside().double()), torch.rand(1, size, dtype=torch.float64)
    keywords = {"target": 0, "abs": False,
                "additional_forward_args": torch.randn(1, 3, dtype=torch.float64)}
    certificate = lx.certify(saliency, x, eps=0.3, **keywords)
    assert_sound(certificate, saliency, ball(x, 0.3, count=40), **keywords)


def test_paths_have_forms_too(monkeypatch):
    monkeypatch.setattr(forward, "LARGE", 0)
    monkeypatch.setattr(schedule, "FEW_OPEN", 0.0)
    model, x = problem("pools")
    gradients = IntegratedGradients(model)
    certificate = lx.certify(gradients, x, eps=0.05, target=1, n_steps=3, method="CROWN",
                             batch_size=1)
    assert_sound(certificate, gradients, ball(x, 0.05, count=20), target=1, n_steps=3)


def test_the_pass_is_for_large_nets():
    class Node:
        value = torch.zeros(1, 3, 64, 64)

    assert not worth([Node()], 100)
    assert worth([Node()], 4096)
    Node.value = Node.value[:, :, :8, :8]
    assert not worth([Node()], 4096)
    assert worth([Node()], 16384)
