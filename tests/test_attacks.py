"""Attacks: found never exceeds certified, is the truth where known, and the alarm rings."""

import contextlib
import copy
import dataclasses
import functools
import math
import warnings

import numpy as np
import pytest
import torch
from captum.attr import (
    LRP,
    DeepLift,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
    LayerIntegratedGradients,
    NeuronGradient,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from scipy.optimize import minimize
from torch import nn

import lirpa_explain as lx
from lirpa_explain import attacks
from lirpa_explain.attacks import objectives, search, steps, surrogate
from lirpa_explain.attacks.derivative import derivative_of
from lirpa_explain.attributions import make_plan
from lirpa_explain.bounding import points as points_of_balls
from lirpa_explain.bounding.ball import make_balls
from lirpa_explain.bounding.where import Where
from lirpa_explain.certifying import request
from lirpa_explain.certifying.posed import Call, Posed
from lirpa_explain.graph.module import GradientModule, Step
from lirpa_explain.operators import ACTIVATIONS
from tests import cases, metric_cases
from tests.nets import layers, mlp
from tests.truth import flat

QUICK = {"samples": 10, "restarts": 2, "steps": 6}
NORMS = [(math.inf, 0.05), (2, 0.1), (1, 0.15)]


with torch.random.fork_rng():
    torch.manual_seed(1)
    MODELS = {
        "relu": mlp(4, 8, 6, 3, seed=None),
        "tanh": mlp(4, 8, 3, activation=nn.Tanh, seed=None),
        "mixed": layers(nn.Linear(4, 8), nn.Hardtanh(), nn.Linear(8, 6), nn.GELU(), nn.LeakyReLU(),
                        nn.Linear(6, 3)),
        "cnn": layers(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.ReLU(),
                      nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(12, 3)),
    }
    X = torch.randn(2, 4, dtype=torch.float64)
    B = torch.randn(3, 4, dtype=torch.float64) / 2

ATTRIBUTIONS = {
    "saliency": (Saliency, {"target": 0}),
    "gradient": (Saliency, {"target": [0, 2], "abs": False}),
    "input x gradient": (InputXGradient, {"target": 0}),
    "integrated gradients": (IntegratedGradients,
                             {"target": [0, 2], "n_steps": 5, "baselines": B[:1]}),
    "smoothgrad": (lambda m: NoiseTunnel(Saliency(m)),
                   {"target": 0, "nt_samples": 3, "stdevs": 0.1}),
    "vargrad": (lambda m: NoiseTunnel(InputXGradient(m)),
                {"target": 0, "nt_samples": 3, "stdevs": 0.1, "nt_type": "vargrad"}),
    "gradient shap": (GradientShap, {"target": 0, "baselines": B, "n_samples": 3, "stdevs": 0.05}),
    "drawn baselines": (GradientShap, {"target": 0, "baselines": lambda x: x[:1] * torch.rand(3, 1),
                                       "n_samples": 3}),
    "guided": (GuidedBackprop, {"target": 0}),
    "deep lift": (DeepLift, {"target": 0, "baselines": B[:1]}),
    "grad cam": (lambda m: LayerGradCam(m, m[1]), {"target": 0, "attr_dim_summation": False}),
    "layer": (lambda m: LayerIntegratedGradients(m, m[1]), {"target": 0, "n_steps": 4}),
    "neuron": (lambda m: NeuronGradient(m, m[1]), {"neuron_selector": 2}),
}


@functools.cache
def certified(model, eps, method="CROWN"):
    """The certificate of one gradient of a model, which tests share."""
    return lx.certify(Saliency(MODELS[model]), X, eps=eps, target=0, abs=False, method=method)


@pytest.fixture
def traced_once(monkeypatch):
    """Attacks on `certified` ones differentiate one trace of each model."""
    monkeypatch.setattr(search, "derivative_of", lambda request, batch_size: traced(
        request.attribution.forward_func, batch_size, request))


TRACED = {}


def traced(model, batch_size, request):
    """The derivative of that gradient, which holds no state."""
    key = (id(model), batch_size)
    if key not in TRACED:
        TRACED[key] = model, derivative_of(request, batch_size)
    return TRACED[key][1]


def is_within(points, x, eps, norm):
    length = torch.linalg.vector_norm((points - x).flatten(1), ord=norm, dim=1)
    return bool((length <= eps * (1 + 1e-12)).all())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "model"), [(name, model) for i, name in enumerate(ATTRIBUTIONS)
                                             for model in ("relu", ("tanh", "mixed")[i % 2])])
def test_found_is_within_certified(name, model):
    make, keywords = ATTRIBUTIONS[name]
    norm, eps = NORMS[len(name + model) % 3]
    torch.manual_seed(0)
    certificate = lx.certify(make(MODELS[model]), X, eps=eps, norm=norm, **keywords)
    found = lx.attack(make(MODELS[model]), X, eps=eps, norm=norm, **QUICK, **keywords)
    assert found.fallback == "" and found.steps == 1 + 10 + 2 * 7
    assert is_within(found.worst_inputs, X, eps, norm)
    assert torch.equal(flat(found.nominal), flat(certificate.nominal))
    assert (bool(certificate.contains(found.low).all())
            and bool(certificate.contains(found.high).all()))
    assert bool((found.value <= certificate.max_change(2) * (1 + 1e-9)).all())
    torch.testing.assert_close(found.value,
                               (flat(found.attribution) - flat(found.nominal)).norm(dim=1))
    # which Captum would draw around the worst input, and not around X
    if name != "drawn baselines":
        again = make(MODELS[model]).attribute(found.worst_inputs, **keywords)
        torch.testing.assert_close(flat(again), flat(found.attribution))


@pytest.mark.parametrize("model", MODELS)
def test_the_derivative_is_that_of_captum(model):
    """Derivatives of sums over paths, samples and multipliers, by Captum's finite differences."""
    attribution, keywords = NoiseTunnel(
        IntegratedGradients(nn.Sequential(MODELS[model], nn.Softplus()))), {
            "target": 1, "n_steps": 4, "nt_samples": 3, "stdevs": 0.3, "nt_type": "vargrad"}
    balls = make_balls(X, eps=0.1)
    task = request.Request(Posed(Call(attribution, X, (X,), keywords)), Where(balls),
                           request.random_state(None))
    derivative = derivative_of(task, 7)
    torch.testing.assert_close(derivative((X,)), task.nominal.flat)
    cotangent, direction = torch.randn_like(task.nominal.flat), torch.randn_like(X)
    gradient, = derivative.pull_back((X,), lambda a: cotangent)
    h = 1e-6
    ahead, behind = (task.attribute((X + sign * h * direction,)).flat for sign in (1, -1))
    expected = ((ahead - behind) * cotangent).sum(1) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(1), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_the_worst_case_of_a_quadratic_model_is_found(norm, eps):
    """A(x) = grad x^T Q x / 2 = Q x: the largest row sum, row length or row entry, times eps."""
    torch.manual_seed(2)
    Q = torch.randn(5, 5, dtype=torch.float64)
    Q = Q + Q.T
    x = torch.randn(2, 5, dtype=torch.float64)
    attribution = Saliency(lambda x: ((x @ Q) * x).sum(1) / 2)
    dual = {math.inf: 1, 2: 2, 1: math.inf}[norm]
    reach = eps * torch.linalg.vector_norm(Q, ord=dual, dim=1)
    found = lx.attack(attribution, x, eps=eps, norm=norm, objective="linf", abs=False, samples=10,
                      restarts=4, steps=30)
    torch.testing.assert_close(found.value, reach.max().expand(2), rtol=1e-3, atol=0)
    for name, sign in (("increase", 1), ("decrease", -1)):
        one = lx.attack(attribution, x, eps=eps, norm=norm, objective=name,
                        options={"entry": torch.tensor([1, 3])}, abs=False, samples=0, restarts=1,
                        steps=40)
        torch.testing.assert_close(one.value, reach[[1, 3]], rtol=1e-3, atol=0)
        moved = (sign * (flat(one.attribution) - flat(one.nominal)))[[0, 1], [1, 3]]
        torch.testing.assert_close(one.value, moved)


def test_a_linear_model_has_nothing_to_attack():
    model = mlp(4, 3, seed=None)
    result = lx.certify(Saliency(model), X, eps=0.5, target=0, abs=False).sandwich(settings=QUICK)
    assert torch.equal(result.found, torch.zeros(2).double()) and (result.certified < 1e-13).all()


def wide_net(activation):
    model = mlp(60, 60, 60, 3, activation=activation, seed=3, gain=1.5)
    return model, torch.randn(2, 60).double()


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.Hardtanh])
def test_ascent_finds_more_than_as_many_random_points(activation):
    model, x = wide_net(activation)
    keywords = {"eps": 0.05, "target": 0, "abs": False}
    random = lx.attack(Saliency(model), x, samples=100, restarts=0, **keywords)
    ascent = lx.attack(Saliency(model), x, samples=10, restarts=3, steps=29, **keywords)
    assert ascent.steps == random.steps
    assert bool((ascent.value > 1.1 * random.value).all())
    certified = lx.certify(Saliency(model), x, **keywords).max_change(2)
    assert bool((ascent.value <= certified).all())


def test_without_smoothing_a_relu_net_shows_no_way():
    """The derivative of the gradient of a ReLU net is 0; that of the smoothed one is not."""
    model, x = wide_net(nn.ReLU)
    task = request.Request(Posed(Call(Saliency(model), x, (x,), {"target": 0, "abs": False})),
                           Where(make_balls(x, eps=0.03)), request.random_state(None))
    derivative = derivative_of(task, 100)
    assert not bool(derivative.pull_back((x,), torch.ones_like)[0].any())
    soft = surrogate.Softened(derivative.module, 2)
    with pytest.raises(KeyError):
        derivative.pull_back((x,), torch.ones_like, soft)  # its width is not known yet
    for (sample, start, _), (_, moved, _) in zip(derivative.chunks((x,)),
                                                 derivative.chunks((x + 0.03,)), strict=True):
        soft.measure(derivative.rows.example[sample], start, moved, contextlib.nullcontext())
    assert bool(derivative.pull_back((x,), torch.ones_like, soft)[0].any(1).all())


@pytest.mark.parametrize("name", ["gradient", "smoothgrad", "integrated gradients"])
def test_examples_are_independent(name):
    make, keywords = ATTRIBUTIONS[name]
    other = torch.stack([X[0], 5 * X[1]])
    first, second = (lx.attack(make(MODELS["relu"]), x, eps=0.1, **QUICK, **keywords)
                     for x in (X, other))
    torch.testing.assert_close(first.worst_inputs[0], second.worst_inputs[0])
    assert bool((first.value[1] != second.value[1]).all())


def test_no_alarm_in_single_precision():
    model = copy.deepcopy(MODELS["relu"]).float()
    for make, keywords in (ATTRIBUTIONS["gradient"], ATTRIBUTIONS["smoothgrad"]):
        result = lx.certify(make(model), X.float(), eps=0.1, **keywords).sandwich(settings=QUICK)
        assert bool((result.ratio > 1 - 1e-4).all())


MASK = torch.tensor([True, False, True, False])
OPTIONS = {
    "top_k": {"k": 2}, "top_k_lost": {"k": 2}, "increase": {"entry": 1}, "decrease": {"entry": 1},
    "region": {"mask": MASK}, "region_sum": {"mask": torch.ones(4)},
    "target_map": {"target": torch.tensor([1.0, 0, 0, 0])},
    "input_relative": {"inputs": X}, "lipschitz": {"distance": 0.1}, "top_k_overlap": {"k": 2},
    "mass_lower": {"mask": MASK}, "mass_upper": {"mask": MASK, "absolute": True},
    "share_lower": {"mask": MASK}, "share_upper": {"mask": MASK}, "center_shift": {"shape": (2, 2)},
    "protected_top_k": {"mask": MASK, "k": 1}, "targeted_fairness": {"mask": MASK, "k": 1},
    "importance_agreement": {"threshold": -0.02},
    "localisation": {"mask": MASK, "threshold": -0.12},
    "targeted_region": {"channels": 2}, "effective_complexity": {"threshold": 0.1},
    "tangent_lower": {"basis": torch.eye(4)[:, :2] + 0.5},
    "tangent_upper": {"basis": torch.eye(4)[:, 1:] + 0.5}}


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("name", lx.OBJECTIVES)
def test_objectives_increase_over_the_nominal(name):
    goal = objectives.objective(name, OPTIONS.get(name))
    keywords = {"eps": 0.8, "target": 0, "abs": False}
    found = lx.attack(Saliency(MODELS["tanh"]), X, objective=goal, **QUICK, **keywords)
    a, nominal = found.attribution, found.nominal
    assert torch.equal(found.value, goal.value(a, nominal, ((4,),), **goal.options))
    assert torch.equal(goal.value(nominal, nominal, ((4,),), **goal.options),
                       torch.zeros(2).double())
    assert (bool((found.value >= 0).all()) and bool((found.value > 0).any())
            and found.objective == name)
    leaf = a.clone().requires_grad_()
    slope, = torch.autograd.grad(goal.surrogate(leaf, nominal, ((4,),), **goal.options).sum(), leaf)
    assert bool(torch.isfinite(slope).all()) and bool(slope.any())


def test_objectives_are_what_they_say():
    nominal, a = torch.tensor([[3.0, -2.0, 1.0, 0.0]]), torch.tensor([[1.0, 2.0, -4.0, 1.0]])
    shapes = ((2, 2),)

    def value(name, **options):
        goal = objectives.objective(name, options)
        return goal.value(a, nominal, shapes, **options).item()

    assert (value("l1") == 12 and value("linf") == 5 and value("sign_flips") == 2
            and value("sign_agreement") == 0.75)
    assert (value("top_k_lost", k=2) == 1 and value("top_k_lost", k=2, absolute=False) == 2
            and value("top_k_lost", k=4) == 0)
    assert value("increase", entry=1) == 4 and value("decrease", entry=0) == 2
    assert math.isclose(value("top_k", k=2), 5 / 6 - 3 / 8, rel_tol=1e-6)
    assert math.isclose(value("cosine"), 1 + 5 / math.sqrt(14 * 22), rel_tol=1e-6)
    assert math.isclose(value("mass_centre"), math.hypot(5 / 8 - 1 / 6, 3 / 8 - 2 / 6),
                        rel_tol=1e-6)
    mask = torch.tensor([[True, False], [True, False]])
    assert value("region_sum", mask=mask) == 7
    assert math.isclose(value("region", mask=mask), 5 / 8 - 4 / 6, rel_tol=1e-6)
    assert value("target_map", target=torch.tensor([[1.0, 2], [-4, 0]])) == 45 - 1


@pytest.mark.parametrize("entry, expected", [
    (1, 4), ((0, 1), 4), (tuple(np.unravel_index(1, (2, 2))), 4), (tuple(torch.tensor([0, 1])), 4),
    (np.array([1]), 4), (torch.tensor([1], dtype=torch.int32), 4)])
def test_an_entry_is_an_index_of_any_kind(entry, expected):
    nominal, a = torch.tensor([[3.0, -2.0, 1.0, 0.0]]), torch.tensor([[1.0, 2.0, -4.0, 1.0]])
    goal = objectives.objective("increase", {"entry": entry})
    assert goal.value(a, nominal, ((2, 2),), **goal.options).item() == expected


@pytest.mark.parametrize("entry", [4, -1, 1.5, True, None, "a", [0, 1], (0,), (2, 0), (-1, 0),
                                   (0, True), (0, 1.0),
                                   (0, np.True_), torch.tensor([True]), (0, torch.tensor(1.0)), ()])
@pytest.mark.parametrize("name", ["increase", "decrease"])
def test_an_entry_that_is_no_index_is_refused(name, entry):
    goal, a = objectives.objective(name, {"entry": entry}), torch.zeros(1, 4)
    with pytest.raises(ValueError, match="entry.* must be an index"):
        goal.value(a, a, ((2, 2),), **goal.options)


def test_dombrowski_keeps_the_output():
    model, x = wide_net(nn.Tanh)
    target = torch.zeros(60)
    keywords = {"eps": 0.3, "target": 0, "abs": False, "objective": "target_map",
                "options": {"target": target}}
    free = lx.attack(Saliency(model), x, **QUICK, **keywords)
    kept = lx.attack(Saliency(model), x, output_weight=1.0, **QUICK, **keywords)

    def change(result):
        return (model(result.worst_inputs) - model(x)).norm(dim=1)

    assert bool((kept.value > 0).all()) and bool((change(kept) < change(free) / 2).all())


@pytest.mark.parametrize(("norm", "eps"), [(math.inf, 0.3), (2, 0.8), (1, 1.0)])
def test_projections(norm, eps):
    torch.manual_seed(4)
    x = torch.randn(3, 2, 2, dtype=torch.float64)
    ball, = make_balls(x, eps=eps, norm=norm)
    for scale in (0.1, 1.0, 3.0):
        points = x + scale * torch.randn_like(x)
        found = points_of_balls.project(ball, x, points)
        assert is_within(found, x, eps, norm)
        for n in range(3):
            c, p = x[n].flatten().numpy(), points[n].flatten().numpy()
            # moves are split into their positive and negative parts, which makes the l1 ball smooth
            limit = {1: lambda m: eps - m.sum(), 2: lambda m: eps**2 - ((m[:4] - m[4:])**2).sum(),
                     math.inf: lambda m: eps - np.maximum(m[:4], m[4:])}[norm]
            best = minimize(lambda m, c=c, p=p: ((c + m[:4] - m[4:] - p)**2).sum(), np.zeros(8),
                            method="SLSQP",
                            bounds=[(0, None)] * 8, constraints={"type": "ineq", "fun": limit},
                            options={"ftol": 1e-14, "maxiter": 500})
            distance = float((found[n] - points[n]).norm())
            assert distance <= math.sqrt(best.fun) + 1e-5
        if is_within(points, x, eps, norm):
            torch.testing.assert_close(found, points)


def test_a_cut_box_is_kept():
    ball, = make_balls(torch.full((1, 3), 0.9).double(), eps=0.3, clip=(0, 1))
    generator = torch.Generator().manual_seed(0)
    for extreme in (True, False):
        point = points_of_balls.draw(ball, torch.full((1, 3), 0.9).double(), extreme, generator)
        assert bool((ball.low <= point).all()) and bool((point <= ball.high).all())
    found = lx.attack(Saliency(MODELS["tanh"]), X.clamp(-1, 1), eps=0.3, clip=(-1, 1), target=0,
                      **QUICK)
    assert float(found.worst_inputs.abs().max()) <= 1


@pytest.mark.parametrize("norm", [math.inf, 2, 1])
def test_steps_and_draws_stay_in_the_ball_and_ascend(norm):
    ball, = make_balls(X, eps=torch.tensor([[0.1], [0.3]]), norm=norm)
    eps, generator = torch.tensor([0.1, 0.3]).double(), torch.Generator().manual_seed(0)
    gradient = torch.randn_like(X)
    ends = steps.ascend(ball, X, X, gradient, 1.0)
    reach = eps * torch.linalg.vector_norm(gradient, ord={math.inf: 1, 2: 2, 1: math.inf}[norm],
                                           dim=1)
    torch.testing.assert_close(((ends - X) * gradient).sum(1), reach)
    for extreme in (True, False):
        length = torch.linalg.vector_norm(points_of_balls.draw(ball, X, extreme, generator) - X,
                                          ord=norm, dim=1)
        assert (bool((length <= eps * (1 + 1e-12)).all())
                and bool((length > 0.99 * eps).all()) >= extreme)


def test_flips_go_to_the_ends_that_gain_most():
    # gains 3 * 0.5, 1 * 1, 0 and 2 * 0.1
    ball, = make_balls(torch.zeros(1, 4), eps=1.0, clip=(-0.5, 2))
    points, gradient = torch.tensor([[0.0, 0.0, 0.7, 0.9]]), torch.tensor([[-3.0, 1.0, 0.0, 2.0]])
    for size, expected in ((0.1, [-0.5, 0.0, 0.7, 0.9]), (1.0, [-0.5, 1.0, 0.7, 0.9]),
                           (2.0, [-0.5, 1.0, 0.7, 1.0])):
        moved = steps.flip(ball, torch.zeros(1, 4), points, gradient, size)
        torch.testing.assert_close(moved, torch.tensor([expected]))
    sphere, = make_balls(X, eps=1.0, norm=2)
    torch.testing.assert_close(steps.flip(sphere, X, X, X, 1.0), steps.ascend(sphere, X, X, X, 1.0))


def test_flips_find_more_in_relu_nets(monkeypatch):
    """In as many steps, on the mean of a few nets, as steps along the sign of the gradient."""
    gains = []
    for seed in range(2):
        torch.manual_seed(seed)
        model, x = mlp(20, 40, 40, 3, seed=None), torch.randn(4, 20)
        keywords = {"eps": 0.15, "target": 0, "abs": False, "samples": 10, "restarts": 1}
        flipped = lx.attack(Saliency(model), x.double(), **keywords).value
        with monkeypatch.context() as patched:
            patched.setattr(search, "flip", steps.ascend)
            gains.append(
                (flipped / lx.attack(Saliency(model), x.double(), **keywords).value).log().mean())
    assert float(torch.stack(gains).mean().exp()) > 1.02


def test_two_inputs_one_held_fixed():
    first, second = nn.Linear(3, 4).double(), nn.Linear(2, 4).double()
    a, b = torch.randn(2, 3).double(), torch.randn(2, 2).double()
    attribution = InputXGradient(lambda a, b: torch.tanh(first(a)) * second(b))
    found = lx.attack(attribution, (a, b), eps=(0.1, None), target=1, **QUICK)
    assert isinstance(found.worst_inputs, tuple) and torch.equal(found.worst_inputs[1], b)
    certificate = lx.certify(attribution, (a, b), eps=(0.1, None), target=1)
    assert bool((found.value <= certificate.max_change(2)).all()) and bool((found.value > 0).all())
    result = lx.sandwich(certificate, "region_sum", mask=(torch.ones(3), torch.zeros(2)),
                         settings=QUICK)
    assert bool((result.ratio >= 1 - 1e-9).all())


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize(("metric", "options"), [
    ("max_change", {"norm": 1}), ("max_change", {"norm": math.inf}), ("top_k_overlap", {"k": 2}),
    ("sign", {}),
    ("width", {}), ("cosine", {}), ("region", {"mask": torch.tensor([True, False, False, True])}),
    ("region_sum", {"mask": torch.tensor([1.0, -1.0, 0.0, 2.0])})])
@pytest.mark.parametrize("model", ["relu", "tanh"])
def test_sandwiches(metric, options, model):
    certificate = certified(model, 0.1, "CROWN-Optimized")
    result = lx.sandwich(certificate, metric, settings=QUICK, **options)
    assert result.found.shape == result.certified.shape == (2,)
    assert bool((result.ratio >= 1 - 1e-9).all()) and result.fallback == ""
    assert metric in repr(result)


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("model", ["relu", "tanh"])
@pytest.mark.parametrize("metric", lx.METRICS)
def test_what_is_found_of_a_metric_is_true_and_within_what_is_certified(metric, model):
    """Found is the metric's number, by its slow reference, at an attribution Captum gives."""
    certificate, sign = certified(model, 0.3), 1 if lx.METRICS[metric].direction == "upper" else -1
    nominal = certificate.nominal
    torch.manual_seed(0)  # some settings are drawn
    for case in metric_cases.CASES[metric]:
        settings = metric_cases.settings_of(case, 2, 4)
        result = certificate.sandwich(metric, settings={"samples": 4, "restarts": 1, "steps": 4},
                                      **settings)
        assert (bool((0 <= result.found).all())
                and bool((result.found <= result.certified + 1e-9).all()))
        a = Saliency(MODELS[model]).attribute(result.worst_inputs, target=0, abs=False)
        for n in range(2):
            row = metric_cases.row_of(settings, n)
            change, still = (metric_cases.REFERENCES[metric](side[n].numpy(), nominal[n].numpy(),
                                                             **row) for side in (a, nominal))
            assert float(result.found[n]) == pytest.approx(sign * (change - still), abs=1e-9)


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("metric", lx.METRICS)
def test_the_alarm_rings_on_every_metric_of_a_wrong_box(metric, monkeypatch, tmp_path):
    """Certified of a box without width, attacked with attributions of the true box."""
    certificate = certified("tanh", 0.8)
    row = lx.SANDWICHES[metric]

    def wrong(certificate, **options):
        nothing = {"lower": certificate.nominal, "upper": certificate.nominal}
        return row.certified(dataclasses.replace(certificate, **nothing), **options)

    monkeypatch.setitem(lx.SANDWICHES, metric, dataclasses.replace(row, certified=wrong))
    with pytest.raises(lx.SoundnessError, match=f"{metric} is .* certified is at most"):
        certificate.sandwich(metric, path=tmp_path / "found.pt", settings=QUICK,
                             **OPTIONS.get(metric, {}))


def test_rounding_rings_no_alarm():
    """Features of equal gradient: bounds moved within the tolerance change every rank."""
    model = mlp(4, 3, seed=None)
    with torch.no_grad():
        model[0].weight.fill_(0.3)
    certificate = lx.certify(Saliency(model), X, eps=0.1, target=0, abs=False)
    shifted = certificate.nominal + 1e-15 * torch.arange(4)
    exact = dataclasses.replace(certificate, lower=shifted, upper=shifted, nominal=shifted)
    for metric in ("kendall", "spearman", "pearson", "pair_order"):
        assert bool(
            (exact.sandwich(metric, settings={"samples": 2, "restarts": 0}).found >= 0).all())


def test_noise_is_that_of_the_certificate():
    """Draws between the certificate and the sandwich change nothing."""
    for make, keywords in (ATTRIBUTIONS["smoothgrad"], ATTRIBUTIONS["gradient shap"],
                           ATTRIBUTIONS["drawn baselines"]):
        certificate = lx.certify(make(MODELS["tanh"]), X, eps=0.05, **keywords)
        torch.rand(3), np.random.rand(3)
        result = lx.sandwich(certificate, settings=QUICK)
        assert bool((result.found > 0).all()) and bool((result.ratio < 4).all())


@pytest.mark.parametrize("side", ["lower", "upper", "number"])
def test_the_alarm_rings_on_a_wrong_bound(side, tmp_path, monkeypatch):
    certificate = certified("tanh", 0.1)
    path = tmp_path / "found.pt"
    if side == "number":
        monkeypatch.setitem(lx.SANDWICHES, "max_change", dataclasses.replace(
            lx.SANDWICHES["max_change"],
            certified=lambda certificate: 0.1 * certificate.max_change(2)))
        wrong = certificate
    else:
        nominal = certificate.nominal
        bound = nominal + 0.2 * (getattr(certificate, side) - nominal)
        wrong = dataclasses.replace(certificate, **{side: bound})
    with pytest.raises(lx.SoundnessError, match=r"found\.pt"):
        lx.sandwich(wrong, path=path, settings=QUICK)
    saved = torch.load(path, weights_only=True)
    worst, n = saved["worst_inputs"][0], saved["example"]
    assert is_within(worst, X, 0.1, math.inf) and torch.equal(saved["inputs"][0], X)
    again = Saliency(MODELS["tanh"]).attribute(worst, target=0, abs=False)
    torch.testing.assert_close(again, saved["attribution"])
    if side != "number":
        assert not bool(wrong.contains(again)[n])
        with pytest.raises(lx.SoundnessError, match="counterexample-"):
            lx.sandwich(wrong, settings=QUICK)
    lx.sandwich(certificate, "width", settings=QUICK)  # and is silent on the right one


def test_boundary_points_are_not_searched_for_anew():
    attribution = lx.BoundarySaliency(MODELS["tanh"])
    certificate = lx.certify(attribution, X, eps=0.01, boundary="fixed")
    with pytest.raises(ValueError, match="boundary points"):
        certificate.sandwich()
    assert bool(
        (lx.attack(attribution, X, eps=0.01, samples=1, restarts=1, steps=1).value >= 0).all())


def test_what_cannot_be_sandwiched_is_refused(tmp_path):
    attribution = IntegratedGradients(MODELS["tanh"])
    certificate = lx.certify(attribution, X, eps=0.1, target=0, n_steps=3)
    certificate.save(tmp_path / "c.npz")
    with pytest.raises(ValueError, match="nothing to attack"):
        lx.sandwich(lx.Certificate.load(tmp_path / "c.npz"))
    with pytest.raises(ValueError, match="integral"):
        lx.sandwich(lx.certify(attribution, X, eps=0.1, target=0, n_steps=3, integral="exact"))
    with pytest.raises(ValueError, match="metric must be one of width, max_change"):
        lx.sandwich(certificate, "angle")
    with pytest.raises(ValueError, match="bad options"):
        lx.sandwich(certificate, "max_change", k=3)
    with pytest.raises(ValueError, match="has the options absolute, k, mask"):
        lx.sandwich(certificate, "protected_top_k", k=3)
    model = copy.deepcopy(MODELS["tanh"])
    stale = lx.certify(IntegratedGradients(model), X, eps=0.1, target=0, n_steps=3)
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(ValueError, match="was changed"):
        lx.sandwich(stale)


def test_the_process_is_left_as_it_was():
    model = copy.deepcopy(MODELS["relu"]).train()
    before = copy.deepcopy(model.state_dict())
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    x = X.clone()
    for name in ("smoothgrad", "gradient shap", "guided", "deep lift"):
        make, keywords = ATTRIBUTIONS[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = lx.attack(make(model), x, eps=0.1, **QUICK, **keywords)
            second = lx.attack(make(model), x, eps=0.1, **QUICK, **keywords)
        assert torch.equal(first.worst_inputs, second.worst_inputs)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert model.training and not x.requires_grad and torch.equal(x, X)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks
                   for m in model.modules())


class OwnOcclusion(Occlusion):
    """A class that may compute something else."""


def test_unknown_attributions_are_sampled_and_say_so():
    found = lx.attack(OwnOcclusion(MODELS["tanh"]), X, eps=0.1, target=0, sliding_window_shapes=(1,
    ), **QUICK)
    assert ("OwnOcclusion" in found.fallback and bool((found.value > 0).all())
            and found.steps == 1 + 10 + 2 * 7)
    assert "Occlusion" not in lx.attack(OwnOcclusion(MODELS["tanh"]), X, eps=0.1, target=0,
                                        sliding_window_shapes=(1,), samples=5, restarts=0).fallback


def test_stopping_keeps_what_was_found(monkeypatch):
    seen = []

    def stop(self, points, *values):
        seen.append(points)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return attribute(self, points, *values)

    attribute = request.Request.attribute
    monkeypatch.setattr(request.Request, "attribute", stop)
    with pytest.warns(UserWarning, match="stopped"):
        found = lx.attack(Saliency(MODELS["tanh"]), X, eps=0.1, target=0, **QUICK)
    assert found.interrupted and found.steps == 6 and bool((found.value > 0).all())


SETTINGS = {"kink": {"slope": 0.1}, "clamp": {"low": -1.0, "high": 2.0},
            "threshold": {"threshold": 0.5, "value": 0.5},
            "window": {"low": -1.0, "high": 1.0, "closed": True, "inside": True},
            "power": {"exponent": 2}}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_sharp_surrogates_are_the_function(name):
    """At high sharpness values and slopes agree away from jumps, and are smooth between."""
    z = torch.linspace(0.05, 2.95, 30, dtype=torch.float64)[:, None] * torch.tensor([[1.0, -1.0]])
    z = z.abs() if name in ("log",) else z
    for operator, inputs in ((name, ("z",)), (f"{name}_gradient", ("g", "z"))):
        settings = SETTINGS.get(name, cases.ACTIVATIONS[name][0][0])
        module = GradientModule(inputs, [Step(operator, inputs, "y", settings)], "y", {}, ((2,),),
                                (2,))
        soft = surrogate.Softened(module, 1, 1e6)
        soft.reach["z"], rows = torch.ones(1).double(), torch.zeros(len(z), dtype=torch.long)
        given = (z,) if len(inputs) == 1 else (torch.full_like(z, 2.0), z)
        exact, smooth = module(*given), soft(rows, *given)
        defined = torch.isfinite(exact)
        assert defined.any()
        torch.testing.assert_close(smooth[defined], exact[defined], rtol=1e-3, atol=1e-3)


def test_a_smoothed_relu_is_softplus():
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    module = GradientModule(("z",), [Step("kink", ("z",), "y", {"slope": 0.0})], "y", {}, ((1,),),
                            (1,))
    soft, rows = surrogate.Softened(module, 1, 3.0), torch.zeros(9, dtype=torch.long)
    soft.reach["z"] = torch.ones(1).double()
    torch.testing.assert_close(soft(rows, z), nn.functional.softplus(z, 3.0))
    step = Step("kink_gradient", ("g", "z"), "y", {"slope": 0.0})
    backward = GradientModule(("g", "z"), [step], "y", {}, ((1,),), (1,))
    soft = surrogate.Softened(backward, 1, 3.0)
    soft.reach["z"] = torch.ones(1).double()
    torch.testing.assert_close(soft(rows, 2 * torch.ones_like(z), z), 2 * torch.sigmoid(3 * z))


def test_bad_arguments_are_refused():
    for name, options in (("top_k", {}), ("l2", {"k": 3}), ("region", {"masks": 1})):
        with pytest.raises(ValueError, match="has the options"):
            attacks.objective(name, options)
    attribution = Saliency(MODELS["tanh"])
    for wrong, message in (
        ({"samples": -1}, "samples"), ({"schedule": "x"}, "constant"), ({"step": 0}, "step"),
        ({"sharpness": (0, 1)}, "sharpness"), ({"output_weight": -1}, "output_weight"),
        ({"objective": "top_k", "options": {"k": 9}}, "k must be"),
        ({"objective": "increase", "options": {"entry": 4}}, "entry must be"),
        ({"objective": "region", "options": {"mask": torch.ones(3)}}, "shape")):
        with pytest.raises(ValueError, match=message):
            lx.attack(attribution, X, eps=0.1, target=0, **{**QUICK, **wrong})
    with pytest.raises(ValueError, match="exactly one way"):
        lx.attack(attribution, X, target=0)


@pytest.mark.parametrize("schedule", steps.SCHEDULES)
def test_schedules_start_at_one_and_do_not_grow(schedule):
    factors = [steps.SCHEDULES[schedule](i / 10) for i in range(10)]
    assert factors[0] == 1 and all(a >= b > 0 for a, b in zip(factors, factors[1:], strict=False))
    found = lx.attack(Saliency(MODELS["tanh"]), X, eps=0.1, target=0, schedule=schedule, **QUICK)
    assert bool((found.value > 0).all())


def test_lrp_and_plans_are_attacked_as_traced():
    model = mlp(4, 6, 3, seed=None)
    found = lx.attack(LRP(model), X, eps=0.05, target=0, **QUICK)
    assert found.fallback == "" and make_plan(LRP(model), (X,), {"target": 0}).program is not None
    assert bool((found.value
                 <= lx.certify(LRP(model), X, eps=0.05, target=0).max_change(2) * (1 + 1e-9)).all())
    assert search.Settings(**QUICK).evaluations == found.steps


@pytest.mark.parametrize("side", ["increase", "decrease"])
def test_an_entry_is_named_by_its_index_or_flat(side):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.rand(2, 3, 4, dtype=torch.float64)
    call = {"eps": 0.1, "objective": side, "target": 0, "steps": 3, "samples": 4}
    flat, index = (lx.attack(Saliency(net), x, options={"entry": entry}, **call)
                   for entry in (6, (1, 2)))
    assert torch.equal(flat.value, index.value)
    for entry in ((1, 4), (1,), (-1, 0), (0.5, 1), "first", 12, [0, 1, 2]):
        with pytest.raises(ValueError, match="entry"):
            lx.attack(Saliency(net), x, options={"entry": entry}, **call)
