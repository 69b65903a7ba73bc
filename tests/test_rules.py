"""Backward rules of Captum's DeepLift and LRP: the values are Captum's, plain and recorded, and
what is refused.
"""

import copy
import functools
import json
import math

import pytest
import torch
from auto_LiRPA import PerturbationLpNorm
from captum._utils.common import _select_targets
from captum.attr import LRP, DeepLift, DeepLiftShap
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
from captum.attr._utils.custom_modules import Addition_Module
from captum.attr._utils.lrp_rules import EpsilonRule, GammaRule
from captum.testing.attr.helpers.gen_test_utils import parse_test_config
from captum.testing.attr.helpers.test_config import config
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import lirpa_explain as lx
from lirpa_explain.attributions.deep_lift import captum_hooks
from lirpa_explain.bounding.engine import Engine
from lirpa_explain.bounding.optimize import Optimization
from lirpa_explain.errors import UnsupportedAttribution
from lirpa_explain.graph.builder import Builder, Rows
from lirpa_explain.graph.functional import functional
from lirpa_explain.graph.lowering import lower
from lirpa_explain.graph.module import GradientModule
from lirpa_explain.graph.relevance import relevance
from lirpa_explain.graph.rescale import MIXING, REFUSED, rescaled
from lirpa_explain.operators.activations import LAYERS
from tests import nets
from tests.truth import parts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def gradient(out, xs, target, cotangent):
    if cotangent is None:
        return torch.autograd.grad(_select_targets(out, target).sum(), xs)
    return torch.autograd.grad(out, xs, cotangent)


def deep_lift(model, inputs, baselines, target=None, extras=(), cotangent=None):
    """DeepLift by the rescaled gradient."""
    xs = tuple(x.detach().requires_grad_() for x in inputs)
    with rescaled(model, lambda: model(*baselines, *extras),
                  functools.partial(captum_hooks, DeepLift(model))):
        out = model(*xs, *extras)
    gradients = gradient(out, xs, target, cotangent)
    return tuple((x - b) * g for x, b, g in zip(xs, baselines, gradients, strict=True))


def lrp(model, inputs, target=None, extras=(), cotangent=None):
    """LRP by the relevance's gradient."""
    xs = tuple(x.detach().requires_grad_() for x in inputs)
    with relevance(model):
        out = model(*xs, *extras)
    return gradient(out, xs, target, cotangent)


def same(ours, captums, rtol=1e-5, atol=1e-5):
    for a, b in zip(ours, parts(captums), strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=rtol, atol=atol)


def table(kind):
    return [pytest.param(row, id=row["name"]) for row in config if kind in row["algorithms"]]


def arguments(row):
    _, model, keywords, _, _, baselines = parse_test_config(row)
    keywords = copy.deepcopy(keywords)
    inputs, extras = parts(keywords.pop("inputs")), keywords.get("additional_forward_args")
    extras = () if extras is None else extras if isinstance(extras, tuple) else (extras,)
    given = keywords.get("baselines", 0)
    baselines = tuple(b if isinstance(b, torch.Tensor) else torch.full_like(x, float(b))
                      for x, b in zip(inputs, given if isinstance(given, tuple)
                                      else (given,) * len(inputs), strict=True))
    kept = {name: value
            for name, value in keywords.items() if name in ("target", "additional_forward_args")}
    return model, inputs, baselines, extras, kept


@pytest.mark.parametrize("row", table(DeepLift))
def test_deep_lift_of_captums_table(row):
    model, inputs, baselines, extras, kept = arguments(row)
    same(deep_lift(model, inputs, baselines, kept.get("target"), extras),
         DeepLift(model).attribute(inputs, baselines=baselines, **kept))


@pytest.mark.parametrize("row", table(LRP))
def test_lrp_of_captums_table(row):
    model, inputs, _, extras, kept = arguments(row)
    same(lrp(model, inputs, kept.get("target"), extras), LRP(model).attribute(inputs, **kept))


ACTIVATIONS = [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.ELU(), nn.ELU(0.5),
               nn.ELU(2.0), nn.Sigmoid(),
               nn.Tanh(), nn.Softplus(), nn.Softplus(3.0, 2.0), nn.GELU()]


def mlp(activation):
    return nets.mlp(4, 8, 8, 3, activation=lambda: copy.deepcopy(activation)).float()


def conv():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
                         nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))


class Residual(nn.Module):
    """Batch normalization, max pooling and a sum."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.relu, self.pool = (nn.Conv2d(2, 4, 3, padding=1),
                                                    nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.inner, self.tanh, self.add, self.last = (nn.Conv2d(4, 4, 1), nn.Tanh(),
                                                      Addition_Module(), nn.Linear(16, 3))
        self.bn.running_mean, self.bn.running_var = torch.randn(4) / 4, torch.rand(4) + 0.5
        self.drop = nn.Dropout()

    def forward(self, x):
        a = self.relu(self.bn(self.conv(x)))
        pooled = self.pool(a)
        sums = self.tanh(self.add(self.inner(pooled), pooled))
        return self.last(self.drop(sums).flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_deep_lift_of_activations(activation, dtype):
    model = mlp(activation).to(dtype)
    x, b = torch.randn(5, 4, dtype=dtype), torch.randn(5, 4, dtype=dtype)
    b[1] = x[1]
    b[2, :2] = x[2, :2]
    same(deep_lift(model, (x,), (b,), 1), DeepLift(model).attribute(x, baselines=b, target=1))


def test_deep_lift_of_a_convolution_and_of_many_baselines():
    model, x, b = conv(), torch.randn(5, 2, 4, 4), torch.randn(3, 2, 4, 4)
    same(deep_lift(model, (x,), (torch.zeros_like(x),), 2), DeepLift(model).attribute(x, target=2))
    many = deep_lift(model, (x.repeat_interleave(3, 0),), (b.repeat(5, 1, 1, 1),),
                     2)[0].unflatten(0, (5, 3)).mean(1)
    same((many,), DeepLiftShap(model).attribute(x, b, target=2))


@pytest.mark.parametrize("model", [mlp(nn.ReLU()), mlp(nn.Tanh()), Residual()],
                         ids=["relu", "tanh", "residual"])
def test_lrp_of_models(model):
    model = model.double().eval()
    x = torch.randn(5, *((4,) if isinstance(model, nn.Sequential) else (2, 4, 4)),
                    dtype=torch.float64)
    same(lrp(model, (x,), 1), LRP(model).attribute(x, target=1), 1e-10, 1e-10)


def test_rules_are_recorded_as_single_operations_and_the_model_is_restored():
    model, x, b = mlp(nn.Tanh()), torch.randn(3, 4), torch.zeros(3, 4)
    plain = torch.autograd.functional.jacobian(lambda x: model(x).sum(0), x)
    graph = make_fx(lambda x, b: deep_lift(model, (x,), (b,), 1))(x, b)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count("lirpa_explain.secant_gradient.default") == 2
    other = torch.randn(3, 4), torch.randn(3, 4)
    same(graph(*other), DeepLift(model).attribute(other[0], baselines=other[1], target=1))
    graph = make_fx(lambda x: lrp(model, (x,), 1))(x)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count("lirpa_explain.activation_gradient.default") == 3
    same(graph(other[0]), LRP(model).attribute(other[0], target=1))
    assert torch.equal(torch.autograd.functional.jacobian(lambda x: model(x).sum(0), x), plain)
    assert not any("forward" in m.__dict__ or m._forward_hooks or m._forward_pre_hooks
                   for m in model.modules())


def test_deep_lift_refuses_what_captum_has_other_rules_for():
    relu = nn.ReLU()
    cube = nn.Sequential(nn.Unflatten(1, (1, 1, 2, 2)), nn.MaxPool3d((1, 1, 2)), nn.Flatten())
    for model, words in ((cube, r"1 \(MaxPool3d\)"),
                         (nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu),
                          "1 more than once")):
        x = torch.ones(2, 4)
        with pytest.raises(UnsupportedAttribution, match=words):
            deep_lift(model, (x,), (0 * x,))
        assert not any(m._forward_pre_hooks for m in model.modules())


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.first, self.relu, self.last = (function, nn.Linear(4, 4), nn.ReLU(),
                                                           nn.Linear(4, 2))

    def forward(self, x):
        return self.function(self, x)


def gamma():
    model = mlp(nn.ReLU())
    model[0].rule, model[2].rule = EpsilonRule(), GammaRule()
    return model


@pytest.mark.parametrize(("model", "words"), [
    (mlp(nn.Sigmoid()), r"1 \(Sigmoid\): there is no rule"),
    (gamma(), r"2 \(Linear\): its rule is GammaRule"),
    (Functional(lambda m, x: m.last(m.relu(m.first(x)) + x)), "relu outside of a "
     "module.*Addition_Module"),
    (Functional(lambda m, x: m.last(m.relu(m.first(x))).sin()), "last outside .* the model's "
     "output"),
    (Functional(lambda m, x: -m.relu(m.first(x))), "multiplies the result of relu"),
    (Functional(lambda m, x: m.first(m.relu(m.first(x)))), "first more than once"),
    (Functional(lambda m, x: m.last(m.relu(m.relu(m.first(x))))), "follows relu"),
], ids=["no rule", "another rule", "sum", "end", "scaled", "reused", "two activations"])
def test_lrp_refuses_what_is_no_chain_of_layers(model, words):
    with pytest.raises(UnsupportedAttribution, match=words):
        lrp(model, (torch.randn(2, 4),), 0)


def module_of(function, *examples):
    """A function of tensors (3, *S) as a module of operators."""
    builder = Builder(3, examples[0].dtype, examples[0].device)
    inputs = [Rows(f"x{i}", tuple(x.shape[1:])) for i, x in enumerate(examples)]
    result = lower(functional(make_fx(function)(*examples), examples), builder, inputs)[0]
    result = builder.reshape(result, (math.prod(result.shape),))
    used = {name for step in builder.steps for name in step.inputs}
    return GradientModule([x.name for x in inputs], builder.steps, result.name,
                          builder.used_tensors(used), (), ())


def test_the_modules_of_captums_rules_are_those_of_the_table():
    assert {*LAYERS, *MIXING, *REFUSED} == set(SUPPORTED_NON_LINEAR)
    assert len(SUPPORTED_NON_LINEAR) == len(LAYERS) + len(MIXING) + len(REFUSED)


@pytest.mark.parametrize(("rule", "model"), [
    *[(DeepLift, mlp(a)) for a in ACTIVATIONS if not isinstance(a, nn.GELU)], (DeepLift, conv()),
    (LRP, mlp(nn.ReLU())), (LRP, mlp(nn.Tanh())), (LRP, Residual()),
], ids=lambda value: getattr(value, "__name__", "")
                         or f"{type(value).__name__}-{list(value.modules())[2]}")
def test_bounds_hold(rule, model):
    """Captum's values at points of a box lie inside, and at a point the bounds have no width."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(0)
    shape = (4,) if isinstance(model[0] if isinstance(model, nn.Sequential) else None,
                               nn.Linear) else (2, 4, 4)
    x, b = (torch.randn(3, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    b[1, 0] = x[1, 0]
    c = torch.eye(3, dtype=torch.float64)[[1, 1, 1]]
    if rule is DeepLift:
        module, rest = module_of(lambda x, b, c: deep_lift(model, (x,), (b,), cotangent=c)[0], x, b,
                                 c), (b, c)
    else:
        module, rest = module_of(lambda x, c: lrp(model, (x,), cotangent=c)[0], x, c), (c,)
    engine = Engine(module, (x, *rest), Optimization(iterations=3))  # as sound as more
    for eps in (0.0, 0.01, 0.3):
        points = x + eps * (3 * torch.rand(40, *x.shape, generator=generator, dtype=x.dtype)
                            - 1.5).clamp(-1, 1)
        given = {"baselines": b.repeat(40, *[1] * (b.ndim - 1))} if rule is DeepLift else {}
        values = rule(model).attribute(points.flatten(0, 1), target=1,
                                       **given).detach().reshape(40, 3, -1)
        for method in lx.METHODS if len(shape) == 1 and eps == 0.3 else ("IBP", "CROWN"):
            with torch.no_grad():
                low, high = engine((x, *rest), (PerturbationLpNorm(norm=math.inf, eps=eps),),
                                   method)
            assert (low <= values + 1e-9).all() and (values <= high + 1e-9).all(), (method, eps)
            assert eps or (high - low).max() <= 1e-9, method


def test_settings_of_the_operation_are_its_own():
    g, z = torch.ones(2), torch.tensor([1.0, -1.0])
    settings = json.dumps({"eps": 0.0, "slope": 0.5})
    assert torch.ops.lirpa_explain.secant_gradient(g, z, -z, "kink", settings).tolist() == [0.75,
                                                                                            0.75]
