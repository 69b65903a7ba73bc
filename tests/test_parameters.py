"""Certificates under changes of the parameters, against attributions of models that were really
changed.
"""

import ctypes
import dataclasses
import functools
import itertools
import math
import warnings

import pytest
import torch
from auto_LiRPA import PerturbationLpNorm
from auto_LiRPA.perturbations import PerturbationL0Norm
from captum.attr import (
    LRP,
    DeepLift,
    InputXGradient,
    IntegratedGradients,
    LayerConductance,
    LayerGradCam,
    LayerIntegratedGradients,
    NoiseTunnel,
    Saliency,
)
from torch import Tensor, nn

import lirpa_explain as lx
from lirpa_explain.bounding.engine import Engine
from lirpa_explain.bounding.parameters import Parameters, make_parameters
from lirpa_explain.boxes import Box
from lirpa_explain.operators import lookup
from lirpa_explain.operators.weights import shared_reach
from tests.cases import CASES, boxes, problem
from tests.nets import make, mlp
from tests.test_layers import LAYERS, build
from tests.truth import assert_inside, flat

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor:UserWarning",
                                        "ignore:Setting:UserWarning",
                                        "ignore:Required gradients:UserWarning")
METHODS = "IBP", "CROWN-IBP", "CROWN"
BOX = lx.ParameterBox(relative=0.03, absolute=0.003)


def changed(attribution, x, eps: float, given, keywords, draws: int = 24) -> Tensor:
    """Captum's attributions of models with other parameters, at other inputs, corners among both:
    (n, N, D).
    """
    parameters = make_parameters(attribution.forward_func, given)
    generator = torch.Generator().manual_seed(0)
    xs = x if isinstance(x, tuple) else (x,)
    found = []
    for i in range(draws):
        share = [2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1 for x in xs]
        points = tuple(x + eps * (s.sign() if i % 2 else s) for x, s in zip(xs, share, strict=True))
        values = parameters.draw(i % 3 > 0, generator) if parameters else {}
        own = {name: p.clone() for name, p in parameters.tensors.items()} if parameters else {}
        with torch.no_grad():
            for name, value in values.items():
                parameters.tensors[name].copy_(value)
        torch.manual_seed(1)
        found.append(
            flat(attribution.attribute(points if isinstance(x, tuple) else points[0], **keywords)))
        with torch.no_grad():
            for name, value in own.items():
                parameters.tensors[name].copy_(value)
    return torch.stack(found)


def certify(attribution, x, keywords, **options):
    torch.manual_seed(1)
    return lx.certify(attribution, x, **keywords, **options)


# Layers and models

QUICK = ("layer-norm", "group-norm", "instance-norm-running", "transposed-convolution",
         "transposed-convolution-1d", "multihead", "positions", "rnn-two-layers")


@pytest.mark.parametrize("name", [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LAYERS])
def test_no_gradient_of_a_changed_net_is_outside(name):
    net, x = build(name)
    keywords = {"target": 1, "abs": False}
    truth = changed(Saliency(net), x, 0.01, BOX, keywords)
    certifier = lx.Certifier(Saliency(net), x, **keywords)
    for method in ("IBP", "CROWN"):
        assert_inside(certifier.certify(x, eps=0.01, parameters=BOX, method=method), truth,
                      what=method)


@pytest.mark.parametrize("row", [c for c in CASES if any(a.role == "weight" for a in c.args)],
                         ids=str)
def test_operators_whose_weight_moves(row):
    """Bounds hold at corners and inside of both boxes, or the parameter is refused by its name."""
    generator, radius = torch.Generator().manual_seed(0), 0.1
    p = problem(row)
    sides = boxes(p, "wide", "point")
    balls = tuple(PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high) for low, high in sides)
    middle = p.inputs(*((low + high) / 2 for low, high in sides))
    for name, weight in p.module.named_parameters():
        own = weight.detach().clone()
        values = []
        for i in range(12):
            share = torch.rand(own.shape, generator=generator, dtype=own.dtype)
            weight.data = own + radius * (2 * (share.round() if i % 2 else share) - 1)
            at = [torch.rand(low.shape, generator=generator, dtype=low.dtype) for low, _ in sides]
            values.append(
                p.module(*p.inputs(*(torch.lerp(low, high, t.round() if i % 3 else t)
                                     for (low, high), t in zip(sides, at, strict=True)))).detach())
        weight.data = own
        bounds = Engine(p.module, middle)
        for method in METHODS:
            try:
                moving = Parameters({name: weight}, {name: Box(own - radius, own + radius)}, "")
                lower, upper = bounds.over(moving)(middle, balls, method)
            except lx.UnsupportedOperation as error:
                assert name in str(error)
                assert row.operator in ("divide", "normalize", "along", "secant_gradient",
                                        "unperturbed"), row
                continue
            rounding = 1e-9 * torch.stack(values).abs().max()
            assert all((lower - rounding <= v).all() and (v <= upper + rounding).all()
                       for v in values), (name, method)


@pytest.mark.parametrize(("name", "activation"), [
    ("mlp", "relu"), ("mlp", "tanh"), ("mlp", "prelu"), ("mlp", "gelu"), ("cnn", "relu"),
    ("cnn", "prelu"), ("residual", "softplus"), ("residual", "leaky_relu"), ("two inputs", "relu")])
def test_models(name, activation):
    """All methods; a batch is its rows; linear bounds lie within interval bounds; nothing of the
    user's is changed.
    """
    model, x = make(name, activation)
    before = [(p, p.clone(), p.grad, p._version) for p in model.parameters()]
    keywords = {"target": 1}
    certifier = lx.Certifier(InputXGradient(model), x, **keywords)
    truth = changed(InputXGradient(model), x, 0.01, BOX, keywords)
    versions = [p._version for p in model.parameters()]
    found = {method: certifier.certify(x, eps=0.01, parameters=BOX, method=method)
             for method in METHODS}
    for method, certificate in found.items():
        assert_inside(certificate, truth, what=method)
        assert (flat(certificate.lower) >= flat(found["IBP"].lower) - 1e-11).all()
        assert (flat(certificate.upper) <= flat(found["IBP"].upper) + 1e-11).all()
    xs = x if isinstance(x, tuple) else (x,)
    one = tuple(x[1:2] for x in xs)
    single = certifier.certify(one if isinstance(x, tuple) else one[0], eps=0.01, parameters=BOX)
    torch.testing.assert_close(flat(single.lower), flat(found["CROWN"].lower)[1:2], rtol=1e-9,
                               atol=1e-12)
    torch.testing.assert_close(flat(single.upper), flat(found["CROWN"].upper)[1:2], rtol=1e-9,
                               atol=1e-12)
    assert [p._version for p in model.parameters()] == versions
    for parameter, (same, value, gradient, _) in zip(model.parameters(), before, strict=True):
        assert parameter is same and torch.equal(parameter, value) and parameter.grad is gradient


def attributions_of(model):
    return {
        "integrated gradients": (IntegratedGradients(model), {"n_steps": 3}),
        "smoothgrad": (NoiseTunnel(Saliency(model)), {"nt_samples": 2, "stdevs": 0.1}),
        "vargrad": (NoiseTunnel(InputXGradient(model)),
                    {"nt_samples": 3, "stdevs": 0.1, "nt_type": "vargrad"}),
        "layer ig": (LayerIntegratedGradients(model, model[1]), {"n_steps": 3}),
        "conductance": (LayerConductance(model, model[1]), {"n_steps": 3}),
        "grad cam": (LayerGradCam(model, model[1]), {}),
        "lrp": (LRP(model), {}),
    }


@pytest.mark.parametrize("name", attributions_of(mlp(1, 1, 1)))
def test_attributions(name):
    model = mlp(5, 7, 6, 3)
    x = torch.randn(2, 5, dtype=torch.float64)
    attribution, keywords = attributions_of(model)[name]
    truth = changed(attribution, x, 0.01, BOX, keywords | {"target": 1})
    for method in ("IBP", "CROWN"):
        certificate = certify(attribution, x, keywords | {"target": 1}, eps=0.01, parameters=BOX,
                              method=method)
        assert_inside(certificate, truth, what=method)


def test_parameters_alone():
    """Inputs may be held fixed, also where the gradient does not depend on them, and given as a
    ball of radius 0.
    """
    torch.manual_seed(0)
    x = torch.randn(2, 4, dtype=torch.float64)
    keywords = {"target": 0, "abs": False}
    for hidden in ([nn.ReLU()], []):
        model = nn.Sequential(nn.Linear(4, 5), *hidden, nn.Linear(5, 2)).double()
        truth = changed(Saliency(model), x, 0.0, BOX, keywords)
        for method in METHODS:
            alone = lx.certify(Saliency(model), x, parameters=BOX, method=method, **keywords)
            assert_inside(alone, truth, what=method)
            point = lx.certify(Saliency(model), x, eps=0, parameters=BOX, method=method, **keywords)
            torch.testing.assert_close(alone.lower, point.lower, rtol=1e-6, atol=1e-9)
    assert alone.perturbation == "inputs held fixed; parameters |W' - W| <= 0.03 |W| + 0.003"


def test_exact_optimum():
    """Where no neuron changes sides, the gradient is multilinear in the weights: its extremes lie
    at corners.
    """
    model = mlp(2, 2, 1)
    model[0].bias.data = torch.tensor([10.0, 8.0], dtype=torch.float64)
    x = torch.rand(1, 2, dtype=torch.float64)
    w1, w2 = model[0].weight.detach(), model[2].weight.detach()
    values = []
    for signs in itertools.product((0.95, 1.05), repeat=6):
        factors = torch.tensor(signs, dtype=torch.float64)
        values.append((w2 * factors[:2]) @ (w1 * factors[2:].reshape(2, 2)))
    low, high = torch.stack(values).amin(0), torch.stack(values).amax(0)
    for method in METHODS:
        found = lx.certify(Saliency(model), x, parameters=lx.ParameterBox(relative=0.05),
                           method=method, abs=False)
        assert (found.lower <= low + 1e-12).all() and (high <= found.upper + 1e-12).all()
        assert ((found.upper - found.lower) <= 1.06 * (high - low)).all(), method


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_used_at_many_places(groups):
    """What a kernel's entry does at all places is bounded as a whole: no kernel exceeds it, and one
    attains it.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, weight, radius, A = (random(3, 2, 7), random(4, 2 // groups, 3),
                            random(4, 2 // groups, 3).abs(), random(5, 3, 4, 4))
    settings = {"stride": [2], "padding": [1], "dilation": [1], "groups": groups}
    convolution = functools.partial(lookup("convolution").function, **settings)
    reach = shared_reach(convolution, Box(x - 0.1, x + 0.1), weight, radius)(A)
    for _ in range(50):
        y = convolution(x + 0.1 * random(*x.shape).clamp(-1, 1),
                        radius * random(*radius.shape).sign())
        assert ((A * y).flatten(2).sum(2).abs() <= reach + 1e-12).all()
    point = shared_reach(convolution, Box.point(x), weight, radius)(A)
    for s, b in itertools.product(range(5), range(3)):
        slopes, = torch.autograd.functional.jacobian(
            lambda w, s=s, b=b: (A[s, b] * convolution(x[b:b + 1], w)[0]).sum(), (weight,))
        worst = (A[s, b] * convolution(x[b:b + 1], radius * slopes.sign())[0]).sum()
        torch.testing.assert_close(worst, point[s, b])


def test_nested_and_without_width():
    """A larger box has wider bounds; one of width 0 has those of the ball of inputs alone, to the
    last bit.
    """
    model, x = make("cnn", "relu")
    certifier = lx.Certifier(Saliency(model), x, target=1, abs=False)
    for method in METHODS:
        plain = certifier.certify(x, eps=0.01, method=method)
        found, widths = plain, []
        for gamma in (0.0, 0.01, 0.02, 0.04):
            box = {"*": lx.ParameterBox(relative=gamma), "0.bias": None}
            last, found = found, certifier.certify(x, eps=0.01, method=method, parameters=box)
            widths.append(found.width)
            if gamma == 0:
                assert torch.equal(found.lower, plain.lower) and torch.equal(found.upper,
                                                                             plain.upper)
            elif method == "IBP":
                assert ((found.lower <= last.lower + 1e-12).all()
                        and (last.upper <= found.upper + 1e-12).all())
        assert all(a.mean() < b.mean() for a, b in itertools.pairwise(widths))
    # nothing of the boxes stays behind
    assert torch.equal(certifier.certify(x, eps=0.01).lower, plain.lower)


def test_spec_and_optimized():
    model, x = make("mlp", "tanh")
    keywords = {"target": 1, "abs": False}
    truth = changed(Saliency(model), x, 0.01, BOX, keywords)
    functions = torch.eye(5, dtype=torch.float64)[:2] - torch.eye(5, dtype=torch.float64)[2:4]
    certifier = lx.Certifier(Saliency(model), x, iterations=3, **keywords)
    plain = certifier.certify(x, eps=0.01, parameters=BOX, spec=functions)
    tuned = certifier.certify(x, eps=0.01, parameters=BOX, method="CROWN-Optimized")
    assert_inside(tuned, truth)
    assert (tuned.lower >= plain.lower - 1e-12).all() and (tuned.upper <= plain.upper + 1e-12).all()
    of_truth = torch.einsum("kd,mnd->mnk", functions, truth)
    assert ((plain.spec_lower <= of_truth + 1e-12).all()
            and (of_truth <= plain.spec_upper + 1e-12).all())
    assert (plain.spec_upper - plain.spec_lower < torch.einsum("kd,nd->nk", functions.abs(),
                                                               plain.width)).all()
    assert (plain.top_k_overlap(2, refine="spec") >= plain.top_k_overlap(2)).all()


def test_integral():
    model, x = make("mlp", "tanh")
    keywords = {"target": 1, "n_steps": 4}
    found = lx.certify(IntegratedGradients(model), x, eps=0.01, parameters=BOX, integral="exact",
                       **keywords)
    truth = changed(IntegratedGradients(model), x, 0.01, BOX, {"target": 1, "n_steps": 60}, draws=8)
    assert_inside(found, truth)


class Arithmetic(nn.Module):
    """Functions of parameters alone: one net of each that has a range."""

    functions = {
        "neg": lambda u, v: -u, "add": lambda u, v: u + v, "add number": lambda u, v: u + 0.5,
        "sub": lambda u, v: u - 2 * v, "sub number": lambda u, v: u - 0.25, "rsub": lambda u,
        v: 1 - u,
        "mul": lambda u, v: u * v, "div number": lambda u, v: u / -3, "div": lambda u,
        v: u / (v + 3),
        "reciprocal": lambda u, v: 1 / (u + 3), "exp": lambda u, v: torch.exp(u), "tanh": lambda u,
        v: torch.tanh(u),
        "mm": lambda u, v: u[None] @ v[:, None] + u, "mv": lambda u,
        v: torch.mv(u[:, None] * torch.ones(1, 4).double(), v),
        "addmm": lambda u, v: torch.addmm(u[None, :1], u[None], v[:, None])[0],
        "moves": lambda u, v: torch.nn.functional.pad(u.flip(0)[1:], (1, 0))
        + v.repeat(2)[::2].unflatten(0, (2, 2)).T.reshape(4),
    }

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.name, self.first = name, nn.Linear(3, 4)
        self.u, self.v = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        factor = self.functions[self.name](self.u, self.v)
        return torch.tanh(self.first(x) * factor) / (2 + self.v.exp())


@pytest.mark.parametrize("name", Arithmetic.functions)
def test_functions_of_parameters(name):
    model, x = Arithmetic(name).double(), torch.randn(2, 3, dtype=torch.float64)
    keywords = {"target": 1, "abs": False}
    truth = changed(Saliency(model), x, 0.01, BOX, keywords, draws=40)
    for method in ("IBP", "CROWN"):
        found = lx.certify(Saliency(model), x, eps=0.01, parameters=BOX, method=method, **keywords)
        assert_inside(found, truth, what=name)


class Tied(nn.Module):
    """One weight under two names, one of them in the forward pass of a transposed layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def test_tied_parameters():
    torch.manual_seed(0)
    model, x = Tied().double(), torch.randn(2, 4, dtype=torch.float64)
    keywords = {"target": 0, "abs": False}
    one, other, none = ({name: lx.ParameterBox(relative=0.05)}
                        for name in ("first.weight", "second.weight", "head.*"))
    found = lx.certify(Saliency(model), x, parameters=one, **keywords)
    assert_inside(found, changed(Saliency(model), x, 0.0, one, keywords))
    again = lx.certify(Saliency(model), x, parameters=other, **keywords)
    assert torch.equal(found.lower, again.lower)
    fixed = {"*": lx.ParameterBox(relative=0.05), "second.weight": None}
    narrow = lx.certify(Saliency(model), x, parameters={**fixed, "*bias": None}, **keywords)
    torch.testing.assert_close(narrow.lower,
                               lx.certify(Saliency(model), x, parameters={**none, "*bias": None},
                                          **keywords).lower)


@pytest.mark.parametrize("differentiable_box",
                         [lx.ParameterBox(relative=0.05), lx.ParameterBox(quantization="int8")])
def test_bounds_are_differentiable_in_the_parameters(differentiable_box):
    model = mlp(2, 3, 1, activation=nn.Tanh)
    x = torch.randn(2, 2, dtype=torch.float64)
    for method in ("IBP", "CROWN"):
        certifier = lx.Certifier(Saliency(model), x, method=method, differentiable=True, abs=False)

        def width(*weights: Tensor, certifier=certifier) -> Tensor:
            for parameter, weight in zip(model.parameters(), weights, strict=True):
                parameter.data = weight.detach().clone()
            return certifier.certify(x, eps=0.05, parameters=differentiable_box).width.sum()

        start = [p.detach().clone() for p in model.parameters()]
        gradients = torch.autograd.grad(width(*start), list(model.parameters()),
                                        materialize_grads=True, allow_unused=True)
        for i, weight in enumerate(start):
            step = 1e-6 * torch.randn_like(weight)
            ends = [width(*start[:i], weight + sign * step, *start[i + 1:]) for sign in (1, -1)]
            slope = (ends[0] - ends[1]).item() / 2
            assert math.isclose(slope, (gradients[i] * step).sum().item(), rel_tol=1e-4,
                                abs_tol=1e-12), (method, i)


# Quantization

def quantized_int8(weight: Tensor, per_channel: int | None) -> Tensor:
    """By torch itself."""
    largest = (weight.abs().amax()
               if per_channel is None else weight.abs().movedim(per_channel, 0).flatten(1).amax(1))
    if per_channel is None:
        return torch.quantize_per_tensor(weight, float(largest / 127), 0, torch.qint8).dequantize()
    zeros = torch.zeros(len(largest), dtype=torch.int64)
    return torch.quantize_per_channel(weight, (largest / 127).double(), zeros, per_channel,
                                      torch.qint8).dequantize()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantiz.*:UserWarning")
@pytest.mark.parametrize("given", [
    lx.ParameterBox(quantization="int8"),
    lx.ParameterBox(quantization="int8", per_channel=True, bias=False),
    lx.ParameterBox(quantization="bf16"), lx.ParameterBox(quantization="fp16")], ids=str)
def test_the_explanation_of_the_quantized_model_lies_inside(given):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 2), nn.Tanh(),
                          nn.ConvTranspose2d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    for parameter in model.parameters():
        parameter.data *= torch.exp(3 * torch.randn(parameter.shape))
    x = torch.randn(2, 16)
    parameters = make_parameters(model, given)
    certificates = [lx.certify(Saliency(model), x, parameters=given, method=method, target=0,
                               abs=False) for method in METHODS]
    for name, parameter in model.named_parameters():
        if given.quantization == "int8":
            channel = (1 if name == "3.weight" else 0) if given.per_channel else None
            rounded = (quantized_int8(parameter.detach(), channel)
                       if given.bias or "bias" not in name else parameter.detach())
        else:
            rounded = parameter.detach().to({"bf16": torch.bfloat16,
                                             "fp16": torch.float16}[given.quantization]).float()
        if name in parameters.boxes:
            lower, upper = parameters.boxes[name]
            assert (lower <= rounded).all() and (rounded <= upper).all(), name
        else:
            assert torch.equal(rounded, parameter)
        parameter.data = rounded
    truth = flat(Saliency(model).attribute(x, target=0, abs=False))
    for certificate in certificates:
        slack = 1e-4 * truth.abs().max()
        assert ((flat(certificate.lower) - slack <= truth).all()
                and (truth <= flat(certificate.upper) + slack).all())


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_a_step_is_what_rounding_can_take(name):
    """Every rounding lies inside, some reach the radius, and subnormal numbers have their own
    step.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[name]
    torch.manual_seed(0)
    weight = torch.randn(20000).sign() * torch.exp2(torch.rand(20000) * 40 - 30)
    weight = torch.cat([weight, torch.tensor([0.0, 1.0, -2.0, 1.9999999, 6.1e-5, 3e-8])])
    radius = lx.ParameterBox(quantization=name).radius(weight)
    error = (weight.to(dtype).float() - weight).abs()
    assert (error <= radius).all() and (error / radius).nan_to_num().max().item() > 0.99
    assert radius[20000] == 0
    with pytest.raises(ValueError, match="overflow in fp16"):
        lx.ParameterBox(quantization="fp16").radius(torch.tensor([70000.0]))


# Arguments

def small() -> nn.Module:
    return mlp(3, 4, 2, seed=1)


def test_all_ways_of_giving_the_same_box():
    model, x = small(), torch.rand(2, 3, dtype=torch.float64)
    weight = model[0].weight.detach()
    ways = [lx.ParameterBox(absolute=0.01), PerturbationLpNorm(eps=0.01),
            {"*": PerturbationLpNorm(eps=0.01)},
            {"?.weight": lx.ParameterBox(absolute=0.01), "*.bias": lx.ParameterBox(absolute=0.01)},
            {"*": lx.ParameterBox(absolute=0.01), "0.weight": PerturbationLpNorm(
                norm=math.inf, x_L=weight - 0.01, x_U=weight + 0.01)}]
    found = [lx.certify(Saliency(model), x, parameters=way, target=0, abs=False) for way in ways]
    for certificate in found[1:]:
        torch.testing.assert_close(certificate.upper, found[0].upper)
    without = lx.certify(Saliency(model), x, parameters=lx.ParameterBox(absolute=0.01, bias=False),
                         target=0, abs=False)
    fixed = lx.certify(Saliency(model), x, parameters={"*": ways[0], "*.bias": None}, target=0,
                       abs=False)
    assert torch.equal(without.upper,
                       fixed.upper) and (without.upper <= found[0].upper + 1e-12).all()
    assert found[0].perturbation == "inputs held fixed; parameters |W' - W| <= 0.01"
    assert "*: |W' - W| <= 0.01; *.bias: held fixed" in fixed.perturbation


@pytest.mark.parametrize(("given", "error", "words"), [
    ({"weights": lx.ParameterBox(relative=0.1)}, ValueError, "0.weight, 0.bias, 2.weight, 2.bias"),
    (0.1, TypeError, "ParameterBox"),
    (PerturbationL0Norm(eps=1), TypeError, "ParameterBox"),
    (PerturbationLpNorm(norm=2, eps=0.1), ValueError, "norm inf"),
    ({"0.weight": PerturbationLpNorm(norm=math.inf, x_L=torch.ones(7), x_U=torch.ones(7))},
     ValueError, "shape"),
    ({"0.weight": PerturbationLpNorm(norm=math.inf, x_L=torch.tensor(5.0), x_U=torch.tensor(6.0))},
     ValueError, "x_L <= parameter"),
])
def test_what_is_refused(given, error, words):
    with pytest.raises(error, match=words.replace(".", r"\.")):
        lx.certify(Saliency(small()), torch.rand(1, 3, dtype=torch.float64), parameters=given,
                   target=0)


@pytest.mark.parametrize("fields", [
    {"relative": -0.1}, {"absolute": math.inf}, {"relative": True}, {"quantization": "int4"},
    {"per_channel": True},
    {"quantization": "bf16", "per_channel": True}, {"quantization": "int8", "absolute": 0.1}])
def test_boxes_that_mean_nothing(fields):
    with pytest.raises(ValueError, match="must be|goes with|leave out"):
        lx.ParameterBox(**fields)


def test_combinations_without_bounds():
    model, x = small(), torch.rand(2, 3, dtype=torch.float64)
    box = lx.ParameterBox(relative=0.01)
    with pytest.raises(lx.UnsupportedAttribution, match="boundary points move"):
        lx.certify(lx.BoundarySaliency(nn.Linear(3, 2, bias=False).double()), x, parameters=box,
                   eps=0.01)
    with pytest.raises(ValueError, match="smoothing"):
        lx.certify(NoiseTunnel(Saliency(model)), x, eps=0.01, norm=2, parameters=box, target=0,
                   abs=False, expectation="gaussian")
    with pytest.raises(lx.UnsupportedOperation,
                       match="DeepLift.*parameters"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lx.certify(DeepLift(model), x, parameters=box, target=0)
    with pytest.raises(ValueError, match="nn.Module"):
        lx.certify(Saliency(lambda x: model(x)), x, parameters=box, target=0)


def test_reparametrised_weights_are_refused_by_name():
    model = small()
    nn.utils.parametrizations.weight_norm(model[0])
    x = torch.rand(2, 3, dtype=torch.float64)
    with pytest.raises(lx.UnsupportedOperation, match=r"0\.parametrizations\.weight\.original"):
        lx.certify(Saliency(model), x, parameters=lx.ParameterBox(relative=0.01), target=0)
    others = {"*": lx.ParameterBox(relative=0.01), "0.parametrizations*": None}
    found = lx.certify(Saliency(model), x, parameters=others, target=0, abs=False)
    assert_inside(found, changed(Saliency(model), x, 0.0, others, {"target": 0, "abs": False}))


class Normed(nn.Linear):
    """A layer whose weight is scaled by a number that no trace sees: it is read out of the weight's
    memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        numbers = (ctypes.c_double * self.weight.numel()).from_address(self.weight.data_ptr())
        return super().forward(x) / max(map(abs, numbers))


def test_parameters_that_are_read_unseen_are_found_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Normed(4, 2)).double()
    x = torch.rand(2, 3, dtype=torch.float64)
    lx.certify(Saliency(model), x, eps=0.01, target=0)
    with pytest.raises(lx.SoundnessError, match="or with other parameters"):
        lx.certify(Saliency(model), x, eps=0.01, target=0, parameters=lx.ParameterBox(relative=0.1))


@pytest.mark.parametrize("method", METHODS)
def test_predictions(method):
    """The label of a model that was really changed is the certified one, and its confidence within
    the bounds.
    """
    model = mlp(4, 8, 3)
    model[2].weight.data.mul_(3)
    x = torch.randn(40, 4, dtype=torch.float64)
    found = lx.certify_prediction(model, x, eps=0.01, parameters=BOX, method=method)
    plain = lx.certify_prediction(model, x, eps=0.01, method=method)
    assert (found.margin < plain.margin).all() and 0 < found.certain.sum() < len(x)
    parameters, generator = make_parameters(model, BOX), torch.Generator().manual_seed(0)
    for i in range(60):
        with torch.no_grad(), parameters.set_to(parameters.draw(i % 3 > 0, generator)):
            output = model(x + 0.01
                           * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1))
        confidence = output.softmax(1)[torch.arange(len(x)), found.classes]
        assert (output.argmax(1) == found.classes)[found.certain].all()
        assert ((found.confidence_lower <= confidence).all()
                and (confidence <= found.confidence_upper).all())


# Attacks

@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_attacks_move_parameters(activation):
    """What is found is of a model that lies in the box, beats random models, and stays below what
    is certified.
    """
    model, x = make("mlp", activation)
    model[0].bias.requires_grad_(False)
    before = [p.clone() for p in model.parameters()]
    keywords = {"target": 1, "abs": False}
    certificate = lx.certify(Saliency(model), x, eps=0.01, parameters=BOX, **keywords)
    sides = certificate.sandwich("max_change", norm=2,
                                 settings={"samples": 20, "restarts": 2, "steps": 12})
    assert (sides.found <= sides.certified).all()
    random = changed(Saliency(model), x, 0.01, BOX, keywords, draws=60) - flat(certificate.nominal)
    assert (sides.found > 1.05 * random.norm(dim=2).amax(0)).all()
    assert all(torch.equal(p, own) for p, own in zip(model.parameters(), before, strict=True))
    assert not model[0].bias.requires_grad
    parameters = make_parameters(model, BOX)
    assert list(sides.worst_parameters) == list(parameters.boxes)
    for name, (lower, upper) in parameters.boxes.items():
        assert ((lower <= sides.worst_parameters[name]).all()
                and (sides.worst_parameters[name] <= upper).all())
    for i in range(len(x)):
        with torch.no_grad():
            for name, own in model.named_parameters():
                own.copy_(sides.worst_parameters[name][i])
        found = flat(Saliency(model).attribute(sides.worst_inputs[i:i + 1], **keywords))
        torch.testing.assert_close((found - flat(certificate.nominal)[i]).norm(dim=1),
                                   sides.found[i:i + 1])


def test_attack_on_parameters_alone():
    model, x = small(), torch.rand(2, 3, dtype=torch.float64)
    found = lx.attack(Saliency(model), x, parameters={"2.weight": BOX}, objective="linf", steps=5,
                      restarts=1, samples=4, target=0, abs=False)
    assert torch.equal(found.worst_inputs, x) and list(found.worst_parameters) == ["2.weight"]
    certificate = lx.certify(Saliency(model), x, parameters={"2.weight": BOX}, target=0, abs=False)
    assert ((0 < found.value).all()
            and (found.value <= certificate.max_change(math.inf) + 1e-12).all())
    # a linear function of that weight
    assert (found.value >= 0.999 * certificate.max_change(math.inf)).all()


def test_counterexamples_hold_the_parameters(tmp_path):
    model, x = small(), torch.rand(2, 3, dtype=torch.float64)
    certificate = lx.certify(Saliency(model), x, parameters=BOX, target=0, abs=False)
    wrong = dataclasses.replace(certificate, lower=certificate.nominal.clone(),
                                upper=certificate.nominal.clone())
    with pytest.raises(lx.SoundnessError, match="counterexample"):
        wrong.sandwich(path=tmp_path / "found.pt")
    assert set(torch.load(tmp_path / "found.pt")["worst_parameters"]) == set(
        dict(model.named_parameters()))
