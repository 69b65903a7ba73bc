"""Captum's attributions of the input and their certificates: its hand-checked numbers, every
keyword.

Whatever Captum computes, bug for bug, is what is certified: `nominal` equals it bit by bit, a
certificate at eps = 0 has no width, and Captum's values at other points of the ball lie inside.
Noise is replayed by seeding each call.
"""

import copy
import math

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from captum.metrics import sensitivity_max
from captum.testing.helpers import basic_models
from torch import nn

import lirpa_explain as lx
from tests.covering import covering
from tests.nets import TwoVectors, layers, mlp
from tests.tolerances import ROUNDING
from tests.truth import flat, parts, sample_box

QUADRATURES = ("riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid",
               "gausslegendre")
STEPS = (2, 3, 4, 10, 50)
CLASSES = (Saliency, InputXGradient, IntegratedGradients)
pytestmark = [pytest.mark.filterwarnings(f"ignore:{start}:UserWarning") for start in (
    "Input Tensor . did not already require gradients", "Internal batch size cannot be less",
    "Setting backward hooks", "Multiple layers provided", "The neuron_selector provided",
    "Captum's weights of riemann_trapezoid")]


def seeded(function, *args, **keywords):
    """Call a function on the noise of one seed of torch and numpy."""
    torch.manual_seed(7)
    np.random.seed(7)
    return function(*args, **keywords)


def same(first, second):
    """Whether two attributions are the same, bit by bit, and both of one tensor or both of
    several.
    """
    pairs = zip(parts(first), parts(second), strict=True)
    return (isinstance(first, torch.Tensor) is isinstance(second, torch.Tensor)
            and all(torch.equal(*p) for p in pairs))


def neighbours(inputs, eps, pairs):
    """Random corners and as many other points of the box around the inputs, shaped like them."""
    generator = torch.Generator().manual_seed(0)
    samples = zip(*[sample_box(x - eps, x + eps, 1 + 2 * pairs, generator)[1:]
                    for x in parts(inputs)], strict=True)
    return list(samples) if isinstance(inputs, tuple) else [point for point, in samples]


def check(attribution, inputs, keywords, eps, methods=("CROWN",), batch_size=None, pairs=3):
    """The three properties of the module's docstring; that of the width in float64 only, and by the
    first method.
    """
    value, *others = [seeded(attribution.attribute, point, **copy.deepcopy(keywords))
                      for point in (inputs, *neighbours(inputs, eps, pairs))]
    given = {name: keyword for name, keyword in keywords.items() if name != "method"}
    certifier = lx.Certifier(attribution, batch_size=batch_size)
    for method, radius in [(methods[0], 0), *((method, eps) for method in methods)]:
        certificate = seeded(certifier.certify, inputs, eps=radius, method=method,
                             quadrature=keywords.get("method"), **copy.deepcopy(given))
        assert same(certificate.nominal, value)
        form = torch.utils._pytree.tree_structure(certificate.nominal)
        assert certificate.contains(certificate.nominal, rtol=0).all()
        if radius == 0 and certificate.dtype == "float64":
            for width, number in zip(parts(certificate.width), parts(value), strict=True):
                assert (width <= ROUNDING[torch.float64] * number.abs().max().clamp(min=1e-3)).all()
        assert all(
            certificate.contains(torch.utils._pytree.tree_unflatten(parts(other), form)).all()
            for other in others) or radius == 0


# Numbers checked by hand

PATH = {"method": "riemann_right", "n_steps": 500}
PAIR = torch.tensor([3.0]), torch.tensor([1.0])

# model, inputs, keywords, gradient by hand
GRADIENTS = {
    # tests/attr/test_saliency.py, get_basic_config
    "elementwise": (basic_models.BasicModel(), torch.tensor([1.0, 2.0, 3.0, 0.0, -1.0, 7.0]), {},
                    torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 0.0])),
    # tests/utils/test_gradient.py
    "target_int": (basic_models.BasicModel2(),
                   (torch.tensor([[4.0, -1.0]]), torch.tensor([[2.0, 5.0]])),
                   {"target": 0}, (torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))),
    "additional_args": (basic_models.BasicModel4_MultiArgs(),
                        (torch.tensor([[10.0]]), torch.tensor([[8.0]])),
                        {"additional_forward_args": 2},
                        (torch.tensor([[1.0]]), torch.tensor([[-0.5]]))),
    "target_tuple": (basic_models.BasicModel(),
                     torch.tensor([[[4.0, 2.0], [-1.0, -2.0]], [[3.0, -4.0], [10.0, 5.0]]]),
                     {"target": (0, 1)},
                     torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_hand_checked_gradients(name):
    model, inputs, keywords, gradient = GRADIENTS[name]
    signed = lx.certify(Saliency(model), inputs, eps=0.01, abs=False, **keywords)
    absolute = lx.certify(Saliency(model), inputs, eps=0.01, **keywords)
    times_x = lx.certify(InputXGradient(model), inputs, eps=0.01, **keywords)
    for number, by_hand in (
        (signed.nominal, parts(gradient)), (absolute.nominal, [g.abs() for g in parts(gradient)]),
        (times_x.nominal, [x * g for x, g in zip(parts(inputs), parts(gradient), strict=True)])):
        for part, expected in zip(parts(number), by_hand, strict=True):
            torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("model", [basic_models.BasicModel2(), basic_models.BasicModel3()],
                         ids=["model2", "model3"])
@pytest.mark.parametrize(("multiply", "by_hand"), [(True, (1.5, -0.5)), (False, (0.5, -0.5))])
def test_hand_checked_integrated_gradients(model, multiply, by_hand):
    """Captum's tests/attr/test_integrated_gradients_basic.py, with its tolerance of 0.05."""
    certificate = lx.certify(IntegratedGradients(model, multiply), PAIR, eps=1e-4, batch_size=500,
                             **PATH)
    assert torch.cat(certificate.nominal).tolist() == pytest.approx(by_hand, abs=0.05)
    assert max(float(width.max()) for width in certificate.width) < 0.01


# Tiny models in float64, for everything that Captum's keywords can ask for


with torch.random.fork_rng():
    torch.manual_seed(1)
    RELU = mlp(3, 6, 5, 3, seed=None)
    TANH = mlp(3, 6, 3, activation=nn.Tanh, seed=None)
    PLANES = layers(*mlp(3, 6, 4, activation=nn.Tanh, seed=None), nn.Unflatten(1, (2, 2)))
    COLUMN = mlp(3, 6, 1, activation=nn.Tanh, seed=None)
    TWO = TwoVectors(2).double().eval()
    X = torch.randn(4, 3, dtype=torch.float64)
    Y = torch.randn(4, 2, dtype=torch.float64)
    B = torch.randn(7, 3, dtype=torch.float64)
    ROW_OF_Y = torch.randn(1, 2, dtype=torch.float64)
    FACTOR = torch.randn(4, 1, dtype=torch.float64)

TARGETS = {
    "int": (TANH, 1),
    "negative_int": (TANH, -1),
    "list_of_int": (TANH, [0, 1, 2, 1]),
    "0d_tensor": (TANH, torch.tensor(2)),
    "1_element_tensor": (TANH, torch.tensor([2])),
    "tensor": (TANH, torch.tensor([2, 0, 1, 1])),
    "tuple": (PLANES, (1, 0)),
    "list_of_tuple": (PLANES, [(0, 0), (1, 0), (1, 1), (0, 1)]),
    "none_of_column": (COLUMN, None),
    "none_of_scalar": (lambda x: COLUMN(x).squeeze(1), None),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets(name):
    model, target = TARGETS[name]
    check(InputXGradient(model), X, {"target": target}, eps=0.05)
    check(NoiseTunnel(IntegratedGradients(model)), X,
          {"target": target, "nt_samples": 3, "stdevs": 0.2, "n_steps": 4}, eps=0.05)


SCALED = {"additional_forward_args": (FACTOR, True)}
BOTH = {"target": [0, 1, 1, 0]}
ALONE = {"target": [0, 1, 2, 0], "n_steps": 4}

@pytest.mark.parametrize("n_steps", STEPS)
@pytest.mark.parametrize("quadrature", QUADRATURES)
def test_sum_of_weights(quadrature, n_steps):
    """On a linear model integrated gradients are x * w times the sum of the weights."""
    model = nn.Linear(3, 1).double()
    x = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    certificate = lx.certify(IntegratedGradients(model), x, eps=0.0, target=0,
                             quadrature=quadrature, n_steps=n_steps)
    total = (n_steps - 1) / n_steps if quadrature == "riemann_trapezoid" else 1
    for number in (certificate.lower, certificate.nominal, certificate.upper):
        torch.testing.assert_close(number, total * x * model.weight.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("n_steps", [2, 3, 10])
@pytest.mark.parametrize("quadrature", QUADRATURES)
def test_quadratures(quadrature, n_steps):
    check(IntegratedGradients(TANH), X, {"target": 1, "method": quadrature, "n_steps": n_steps},
          0.05, batch_size=200)


# model, inputs, keywords of attribute
OF_INTEGRATED_GRADIENTS = {
    "one_step": (TANH, X, {"target": 1, "n_steps": 1}),
    "relu": (RELU, X, ALONE),
    "baseline_none": (TANH, X, {**ALONE, "baselines": None}),
    "baseline_int": (TANH, X, {**ALONE, "baselines": 1}),
    "baseline_float": (TANH, X, {**ALONE, "baselines": -0.5}),
    "baseline_rows": (TANH, X, {**ALONE, "baselines": B[:4]}),
    "baseline_one_row": (TANH, X, {**ALONE, "baselines": B[:1]}),
    "baseline_float32": (TANH, X, {**ALONE, "baselines": B[:4].float()}),
    "baselines_tensor_and_int": (TWO, (X, Y), {**BOTH, "n_steps": 4, "baselines": (B[:4], 1)}),
    "baselines_float_and_one_row": (TWO, (X, Y),
                                    {**BOTH, "n_steps": 4, "baselines": (0.5, ROW_OF_Y)}),
    "rows_of_further_arguments": (TWO, (X, Y), {**BOTH, "n_steps": 4, **SCALED}),
    "0d_further_argument": (TWO, (X, Y),
                            {**BOTH, "n_steps": 4, "additional_forward_args": torch.tensor(0.5)}),
    "internal_batch_size": (TANH, X, {**ALONE, "internal_batch_size": 6}),
    "internal_batch_size_of_one_step": (RELU, X, {**ALONE, "internal_batch_size": 4}),
    "tuple_of_one": (TANH, (X,), ALONE),
    "one_example": (TANH, X[:1], {"target": [2], "n_steps": 4}),
    "scalars_inside": (lambda x: TANH(x)[:, 0] * TANH(x)[:, 1], X, {"n_steps": 4}),
    "zero_difference": (TANH, X, {**ALONE, "baselines": X.clone()}),
}


@pytest.mark.parametrize("name", OF_INTEGRATED_GRADIENTS)
def test_integrated_gradients(name):
    model, inputs, keywords = OF_INTEGRATED_GRADIENTS[name]
    check(IntegratedGradients(model), inputs, keywords, eps=0.05, batch_size=200)


@pytest.mark.parametrize("name",
                         ["relu", "baseline_none", "baseline_rows", "baselines_float_and_one_row",
                          "rows_of_further_arguments", "zero_difference"])
def test_gradients_of_the_path(name):
    """Without the factor x - b; how baselines and arguments are read does not depend on it."""
    model, inputs, keywords = OF_INTEGRATED_GRADIENTS[name]
    check(IntegratedGradients(model, multiply_by_inputs=False), inputs, keywords, eps=0.05,
          batch_size=200)


@pytest.mark.parametrize("attribution",
                         [IntegratedGradients(TANH), NoiseTunnel(IntegratedGradients(TANH))],
                         ids=lx.attributions.name_of)
def test_convergence_delta(attribution):
    keywords = {"target": 1, "n_steps": 3, "return_convergence_delta": True}
    value, delta = seeded(attribution.attribute, X, **keywords)
    certificate = seeded(lx.certify, attribution, X, eps=0.05, **keywords)
    assert same(certificate.nominal, value)
    assert same(certificate.convergence_delta, delta)
    del keywords["return_convergence_delta"]
    without = seeded(lx.certify, attribution, X, eps=0.05, **keywords)
    assert without.convergence_delta is None
    assert same(without.lower, certificate.lower) and same(without.upper, certificate.upper)


def of_noise_tunnel(kind):
    path = {"n_steps": 3} if kind is IntegratedGradients else {}
    return {"target": [0, 1, 2, 0], "nt_samples": 4, "stdevs": 0.3, **path}


@pytest.mark.parametrize(("size", "kind", "nt_type"), covering(
    [None, 1, 2, 3, 9], CLASSES, ["smoothgrad", "smoothgrad_sq", "vargrad"]))
def test_noise_tunnel(size, kind, nt_type):
    keywords = {**of_noise_tunnel(kind), "nt_type": nt_type, "nt_samples_batch_size": size}
    check(NoiseTunnel(kind(TANH)), X, keywords, eps=0.05)


PATHS = {"n_steps": 3, "nt_samples": 3}
TUNNELS = {
    "saliency_signed": (Saliency(RELU), X, {**of_noise_tunnel(Saliency), "abs": False}),
    "gradients_of_path": (IntegratedGradients(RELU, False), X,
                          of_noise_tunnel(IntegratedGradients)),
    "one_sample": (Saliency(TANH), X, {"target": 0, "nt_samples": 1}),
    "stdevs_tuple": (InputXGradient(TWO), (X, Y), {**BOTH, "stdevs": (0.1, 0.5), "nt_samples": 3}),
    "stdevs_one_zero": (Saliency(TWO), (X, Y),
                        {**BOTH, "stdevs": (0.0, 0.5), "nt_samples_batch_size": 2}),
    "rows_of_further_arguments": (IntegratedGradients(TWO), (X, Y),
                                  {**BOTH, **PATHS, **SCALED, "nt_samples_batch_size": 2}),
    "rows_of_baselines": (IntegratedGradients(TANH), X,
                          {**ALONE, "nt_samples": 3, "nt_samples_batch_size": 2,
                           "baselines": B[:4]}),
    "baselines_tensor_and_int": (IntegratedGradients(TWO), (X, Y),
                                 {**BOTH, **PATHS, "baselines": (B[:4], 1)}),
    "drawn_baselines": (IntegratedGradients(TANH), X,
                        {**ALONE, "nt_samples": 3, "draw_baseline_from_distrib": True,
                         "baselines": B}),
    "drawn_baselines_in_batches": (IntegratedGradients(TANH), X,
                                   {**ALONE, "nt_samples": 5, "nt_samples_batch_size": 2,
                                    "draw_baseline_from_distrib": True, "baselines": B}),
    "drawn_baselines_of_two_inputs": (IntegratedGradients(TWO), (X, Y),
                                      {**BOTH, **PATHS, "draw_baseline_from_distrib": True,
                                       "baselines": (B, ROW_OF_Y.repeat(3, 1))}),
    "tuple_targets": (Saliency(PLANES), X,
                      {"target": [(0, 0), (1, 0), (1, 1), (0, 1)], "nt_samples_batch_size": 2}),
    "quadrature_and_internal_batches": (IntegratedGradients(TANH), X, {
        **ALONE, "nt_samples": 3, "method": "riemann_left", "internal_batch_size": 20}),
}


@pytest.mark.parametrize("name", TUNNELS)
def test_keywords_of_noise_tunnel(name):
    inner, inputs, keywords = TUNNELS[name]
    check(NoiseTunnel(inner), inputs, keywords, eps=0.05)


def test_another_seed_is_another_attribution():
    attribution = NoiseTunnel(Saliency(TANH))
    torch.manual_seed(1)
    first = lx.certify(attribution, X, eps=0.0, target=1)
    torch.manual_seed(2)
    second = lx.certify(attribution, X, eps=0.0, target=1)
    assert not second.contains(first.nominal).any()


# Captum's measure of sensitivity looks for the change that a certificate bounds

SENSITIVITIES = {
    "saliency": (Saliency(TANH), X, {"target": [0, 1, 2, 0]}),
    "saliency_of_relu": (Saliency(RELU), X, {"target": 1}),
    "input_x_gradient": (InputXGradient(TANH), X, {"target": 1}),
    "integrated_gradients": (IntegratedGradients(TANH), X,
                             {"target": 1, "n_steps": 5, "baselines": B[:4]}),
    "two_inputs": (InputXGradient(TWO), (X, Y), {"target": 1}),
}


@pytest.mark.parametrize("name", SENSITIVITIES)
def test_sensitivity_is_at_most_the_certified_change(name):
    attribution, inputs, keywords = SENSITIVITIES[name]
    certificate = lx.certify(attribution, inputs, eps=0.05, **keywords)
    size = flat(certificate.nominal).norm(dim=1)
    certified = certificate.max_change(2) / size
    assert (certified < math.inf).all()
    for seed in range(5):
        torch.manual_seed(seed)
        found = sensitivity_max(attribution.attribute, inputs, perturb_radius=0.05, **keywords)
        assert (found <= certified * (1 + 1e-9)).all()
