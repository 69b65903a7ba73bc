"""Backward rules of Captum's DeepLift and LRP: the values are Captum's, plain and recorded, and what is refused."""

import copy
import json

import pytest
import torch
from captum._utils.common import _select_targets
from captum.attr import LRP, DeepLift, DeepLiftShap
from captum.attr._utils.custom_modules import Addition_Module
from captum.attr._utils.lrp_rules import EpsilonRule, GammaRule
from captum.testing.attr.helpers.gen_test_utils import parse_test_config
from captum.testing.attr.helpers.test_config import config
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from lirpa_explain.errors import UnsupportedAttribution
from lirpa_explain.graph.relevance import relevance
from lirpa_explain.graph.rescale import rescaled

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def parts(value):
    return value if isinstance(value, tuple) else (value,)


def deep_lift(model, inputs, baselines, target=None, extras=()):
    """DeepLift by the rescaled gradient."""
    xs = tuple(x.detach().requires_grad_() for x in inputs)
    with rescaled(model, lambda: model(*baselines, *extras)):
        out = model(*xs, *extras)
    gradients = torch.autograd.grad(_select_targets(out, target).sum(), xs)
    return tuple((x - b) * g for x, b, g in zip(xs, baselines, gradients, strict=True))


def lrp(model, inputs, target=None, extras=()):
    """LRP by the relevance's gradient."""
    xs = tuple(x.detach().requires_grad_() for x in inputs)
    with relevance(model):
        out = model(*xs, *extras)
    return torch.autograd.grad(_select_targets(out, target).sum(), xs)


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
    baselines = tuple(b if isinstance(b, torch.Tensor) else torch.full_like(x, float(b)) for x, b in zip(
        inputs, given if isinstance(given, tuple) else (given,) * len(inputs), strict=True))
    kept = {name: value for name, value in keywords.items() if name in ("target", "additional_forward_args")}
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


ACTIVATIONS = [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.ELU(), nn.ELU(0.5), nn.ELU(2.0), nn.Sigmoid(),
               nn.Tanh(), nn.Softplus(), nn.Softplus(3.0, 2.0), nn.GELU()]


def mlp(activation):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), copy.deepcopy(activation), nn.Linear(8, 8), copy.deepcopy(activation),
                         nn.Linear(8, 3))


def conv():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU(),
                         nn.Flatten(), nn.Linear(4, 3))


class Residual(nn.Module):
    """Batch normalization, max pooling and a sum."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.relu, self.pool = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), \
            nn.MaxPool2d(2)
        self.inner, self.tanh, self.add, self.last = nn.Conv2d(4, 4, 1), nn.Tanh(), Addition_Module(), nn.Linear(16, 3)
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
    many = deep_lift(model, (x.repeat_interleave(3, 0),), (b.repeat(5, 1, 1, 1),), 2)[0].unflatten(0, (5, 3)).mean(1)
    same((many,), DeepLiftShap(model).attribute(x, b, target=2))


@pytest.mark.parametrize("model", [mlp(nn.ReLU()), mlp(nn.Tanh()), Residual()], ids=["relu", "tanh", "residual"])
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
    assert not any("forward" in m.__dict__ or m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_deep_lift_refuses_what_captum_has_other_rules_for():
    relu = nn.ReLU()
    for model, words in ((nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)), r"1 \(Softmax\)"),
                         (nn.Sequential(nn.MaxPool1d(2), nn.Linear(2, 2)), r"0 \(MaxPool1d\)"),
                         (nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu), "1 more than once")):
        x = torch.ones(2, 4)
        with pytest.raises(UnsupportedAttribution, match=words):
            deep_lift(model, (x,), (0 * x,))
        assert not any(m._forward_pre_hooks for m in model.modules())


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.first, self.relu, self.last = function, nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        return self.function(self, x)


def gamma():
    model = mlp(nn.ReLU())
    model[0].rule, model[2].rule = EpsilonRule(), GammaRule()
    return model


@pytest.mark.parametrize(("model", "words"), [
    (mlp(nn.Sigmoid()), r"1 \(Sigmoid\): there is no rule"),
    (gamma(), r"2 \(Linear\): its rule is GammaRule"),
    (Functional(lambda m, x: m.last(m.relu(m.first(x)) + x)), "relu outside of a module.*Addition_Module"),
    (Functional(lambda m, x: m.last(m.relu(m.first(x))).sin()), "last outside .* the model's output"),
    (Functional(lambda m, x: -m.relu(m.first(x))), "multiplies the result of relu"),
    (Functional(lambda m, x: m.first(m.relu(m.first(x)))), "first more than once"),
    (Functional(lambda m, x: m.last(m.relu(m.relu(m.first(x))))), "follows relu"),
], ids=["no rule", "another rule", "sum", "end", "scaled", "reused", "two activations"])
def test_lrp_refuses_what_is_no_chain_of_layers(model, words):
    with pytest.raises(UnsupportedAttribution, match=words):
        lrp(model, (torch.randn(2, 4),), 0)


def test_settings_of_the_operation_are_its_own():
    g, z = torch.ones(2), torch.tensor([1.0, -1.0])
    settings = json.dumps({"eps": 0.0, "slope": 0.5})
    assert torch.ops.lirpa_explain.secant_gradient(g, z, -z, "kink", settings).tolist() == [0.75, 0.75]
