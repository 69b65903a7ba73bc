"""expectation="gaussian": expected attributions under noise, against closed forms and quadrature of
the density.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NeuronGradient, NoiseTunnel, Saliency
from captum.attr._utils.approximation_methods import approximation_parameters
from scipy.stats import norm as normal
from torch import nn

import lirpa_explain as lx
from lirpa_explain.bounding.confidence import mean_interval, shifted
from lirpa_explain.bounding.expectation import EXPECTATIONS
from tests.covering import covering
from tests.nets import TwoVectors, layers, mlp
from tests.truth import assert_inside, sample_ball

GAUSSIAN = {"expectation": "gaussian"}
STEP = torch.linspace(-8, 8, 401, dtype=torch.float64)  # of a standard normal density, 0.04 apart
GRID = 1e-3  # what a grid of these steps may miss of the largest value


with torch.random.fork_rng():
    torch.manual_seed(2)
    X = torch.randn(2, 3, dtype=torch.float64)
    PLANE = torch.randn(1, 2, dtype=torch.float64)
    ONE_LAYER = {name: mlp(3, 7, 3, activation=activation, seed=None)
                 for name, activation in (("relu", nn.ReLU), ("tanh", nn.Tanh), ("gelu", nn.GELU),
                                          ("softplus", nn.Softplus))}
    DEEP = {"relu": mlp(2, 5, 4, 1, seed=None),
            "silu": layers(nn.Linear(2, 5), nn.SiLU(), nn.Linear(5, 4), nn.Sigmoid(),
                           nn.Linear(4, 1))}
TARGET = [0, 2]


def expected_gradient(model, x, target, sigma, scale=1.0):
    """E grad f at scale (x + e), closed for one layer: each neuron's input is normal itself."""
    first, activation, last = model
    center = (scale * x) @ first.weight.T + first.bias
    deviation = scale * sigma * first.weight.norm(dim=1)
    if isinstance(activation, nn.ReLU):
        active = torch.from_numpy(normal.cdf((center / deviation).detach().numpy()))
    else:
        z = (center[..., None] + deviation[:, None] * STEP).detach().requires_grad_()
        slope, = torch.autograd.grad(activation(z).sum(), z)
        # exact up to exp(-500) if smooth
        active = (slope * torch.from_numpy(normal.pdf(STEP.numpy()))).sum(-1) * 0.04
    return (active * last.weight[target]) @ first.weight


def expectation_on_plane(model, x, sigma, function):
    """E function(grad f(x + e)) for one example in two dimensions, on a grid."""
    grid = sigma * torch.cartesian_prod(STEP, STEP)
    z = (x + grid).requires_grad_()
    gradient, = torch.autograd.grad(model(z).sum(), z)
    density = torch.from_numpy(normal.pdf(STEP.numpy())) * 0.04
    return (function(gradient) * torch.outer(density, density).reshape(-1, 1)).sum(0, keepdim=True)


def certify(model, x, seed=0, samples=400, sigma=0.5, eps=0.1, norm=2, inner=Saliency, **keywords):
    torch.manual_seed(seed)
    keywords = {**GAUSSIAN, **({"abs": False} if inner is Saliency else {}), **keywords}
    attribution = inner if isinstance(inner, NoiseTunnel) else NoiseTunnel(inner(model))
    return lx.certify(attribution, x, eps=eps, norm=norm, stdevs=sigma, nt_samples=samples,
                      **keywords)


@pytest.mark.parametrize(("name", "ball", "expectation"), covering(
    ONE_LAYER, [(2, 0.2), (1, 0.3), (math.inf, 0.1), (2, 0.0)], EXPECTATIONS))
def test_closed_forms_lie_inside(name, ball, expectation):
    model, (norm, eps) = ONE_LAYER[name], ball
    certificate = certify(model, X, eps=eps, norm=norm, target=TARGET, expectation=expectation)
    for point in sample_ball(X, eps, norm, 10, torch.Generator().manual_seed(0)):
        assert_inside(certificate, expected_gradient(model, point, TARGET, 0.5).detach())
    assert (certificate.width > 0).all() and certificate.contains(certificate.nominal, rtol=0).all()


FUNCTIONS = {"signed": (lambda g: g, {}), "absolute": (torch.abs, {"abs": True}),
             "squares": (torch.square, {"nt_type": "smoothgrad_sq"})}


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("name", DEEP)
def test_expectations_of_deep_nets_on_the_plane(name, kind):
    """The grid misses steps of the gradient by half its spacing, hence the slack."""
    function, keywords = FUNCTIONS[kind]
    points = sample_ball(PLANE, 0.1, 2, 4, torch.Generator().manual_seed(0))
    values = torch.stack([expectation_on_plane(DEEP[name], point, 0.5, function)
                          for point in points])
    for method, expectation in itertools.product(["IBP", "CROWN"], EXPECTATIONS):
        certificate = certify(DEEP[name], PLANE, target=0, method=method, expectation=expectation,
                              **keywords)
        assert_inside(certificate, values, rounding=GRID, what=(method, expectation))


def test_path_gradients():
    """Integrated gradients without the multiplier: a sum of closed forms."""
    model = ONE_LAYER["relu"]
    weights, scales = (f(4) for f in approximation_parameters("gausslegendre"))
    certificate = certify(
        model, X, inner=lambda m: IntegratedGradients(m, multiply_by_inputs=False), target=TARGET,
        n_steps=4)
    for point in sample_ball(X, 0.1, 2, 7, torch.Generator().manual_seed(0)):
        value = sum(w * expected_gradient(model, point, TARGET, 0.5, s)
                    for w, s in zip(weights, scales, strict=True))
        assert_inside(certificate, value.detach())


def test_gradient_of_a_neuron():
    model = ONE_LAYER["tanh"]
    certificate = certify(model, X, inner=lambda m: NeuronGradient(m, m[0]), neuron_selector=3)
    torch.testing.assert_close(certificate.lower, model[0].weight.detach()[3].expand(2, 3))
    torch.testing.assert_close(certificate.upper, certificate.lower)


def test_a_linear_model_has_no_width():
    model = mlp(3, 3, seed=None)
    certificate = certify(model, X, target=TARGET)
    for side in (certificate.lower, certificate.upper):
        torch.testing.assert_close(side, model[0].weight.detach()[TARGET])


# The statistics


@pytest.mark.parametrize("probability", [0.01, 0.3, 0.9])
def test_intervals_cover_as_often_as_they_say(probability):
    """Of two-valued samples, the worst case; no wider than the simplest bound."""
    generator, count, error = np.random.default_rng(0), 200, 0.3
    mean = torch.from_numpy(generator.binomial(count, probability, 5000) / count)
    low, high = mean_interval(mean, mean * (1 - mean) * count / (count - 1), count, error)
    missed = ((low > probability) | (high < probability)).double().mean()
    assert missed <= error
    assert ((low <= mean) & (mean <= high)).all()
    # the simplest of Hoeffding's bounds
    assert (high - low <= 2 * math.sqrt(math.log(4 / error) / (2 * count))).all()


def test_intervals_use_the_variance():
    mean = torch.tensor([0.5], dtype=torch.float64)
    wide = mean_interval(mean, mean / 2, 10000, 0.001)
    narrow = mean_interval(mean, mean * 1e-4, 10000, 0.001)
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 5
    single = mean_interval(mean, 0 * mean, 1, 0.001)
    assert single[0] < 0.01 and single[1] > 0.99


def test_a_step_is_the_worst_case_of_smoothing():
    """For relu(x) the gradient is a step, whose expectation Phi(x / sigma) moves as far as any
    can.
    """
    x, r, sigma = (torch.tensor(v, dtype=torch.float64) for v in (0.3, 0.2, 0.5))
    step = torch.special.ndtr(x / sigma)
    torch.testing.assert_close(shifted(step, -r / sigma), torch.special.ndtr((x - r) / sigma))
    certificate = certify(nn.ReLU(), x.reshape(1, 1), samples=20000, eps=0.2, target=0)
    for side, point in ((certificate.lower, x - r), (certificate.upper, x + r)):
        assert abs(side.item() - torch.special.ndtr(point / sigma).item()) < 0.03


@pytest.mark.parametrize("expectation", EXPECTATIONS)
def test_coverage_over_seeds(expectation):
    """All entries of an example at once, at the point of the ball where each is extreme."""
    model = ONE_LAYER["relu"]
    certifier = lx.Certifier(NoiseTunnel(Saliency(model)), target=TARGET, abs=False, stdevs=0.5,
                             nt_samples=30)
    points = sample_ball(X, 0.1, 2, 20, torch.Generator().manual_seed(0))
    values = torch.stack([expected_gradient(model, point, TARGET, 0.5)
                          for point in points]).detach()
    held = torch.zeros(2)
    for seed in range(25):
        torch.manual_seed(seed)
        certificate = certifier.certify(X, eps=0.1, norm=2, expectation=expectation, confidence=0.5)
        held += ((certificate.lower <= values) & (values <= certificate.upper)).all(0).all(1)
    assert (held / 25 >= 0.5).all()


def test_wider_with_the_radius_and_the_confidence_and_narrower_with_samples():
    model = ONE_LAYER["relu"]

    def widths(**keywords):
        return certify(model, X, target=TARGET, **keywords).width

    assert (widths(eps=0.0) < widths(eps=0.1)).all() and (widths(eps=0.1) < widths(eps=0.2)).all()
    assert (widths(confidence=0.9) < widths(confidence=0.999)).all()
    assert (widths(samples=4000, eps=0.0) < widths(samples=200, eps=0.0)).all()
    assert (widths(sigma=1.0) < widths(sigma=0.5, eps=0.3)).all()


def test_propagation_narrows_small_balls():
    keywords = {"target": TARGET, "eps": 0.05, "samples": 1500}
    analytic, propagated = (certify(ONE_LAYER["tanh"], X, expectation=e, **keywords).width
                            for e in EXPECTATIONS)
    assert (propagated < 0.7 * analytic).all()


# How it fits in


def test_certificate_says_what_it_is(tmp_path):
    certificate = certify(ONE_LAYER["relu"], X, target=TARGET, confidence=0.99, spec=torch.eye(3))
    torch.manual_seed(0)
    nominal = NoiseTunnel(Saliency(ONE_LAYER["relu"])).attribute(X, target=TARGET, abs=False,
                                                                 stdevs=0.5, nt_samples=400)
    assert torch.equal(certificate.nominal, nominal)
    assert (certificate.expectation, certificate.confidence, certificate.samples) == ("gaussian",
                                                                                      0.99, 400)
    assert ("gaussian" in repr(certificate) and "0.99" in repr(certificate)
            and "400 samples" in repr(certificate))
    torch.testing.assert_close(certificate.spec_lower, certificate.lower)
    assert (certificate.top_k(1, refine="spec") >= certificate.top_k(1)).all()
    certificate.save(tmp_path / "certificate.npz")
    loaded = lx.Certificate.load(tmp_path / "certificate.npz")
    assert (loaded.expectation, loaded.confidence, loaded.samples) == ("gaussian", 0.99, 400)
    drawn = certify(ONE_LAYER["relu"], X, target=TARGET, samples=5, expectation=None)
    assert drawn.expectation is None and drawn.confidence is None and drawn.samples is None


def test_several_inputs_of_different_noise():
    """The second input's neurons are a one-layer net by themselves; the first moves nothing of
    theirs.
    """
    torch.manual_seed(4)
    model = TwoVectors().double()
    factor, y = torch.randn(2, 1, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    alone = [model.second, nn.ReLU(), model.last]
    for sigma, eps in (((0.3, 0.5), (0.1, 0.2)), ((0.0, 0.5), (None, 0.2)),
                       ((0.3, 0.5), (None, 0.2))):
        certificate = certify(model, (X, y), sigma=sigma, eps=eps, target=TARGET,
                              additional_forward_args=factor)
        for point in sample_ball(y, 0.2, 2, 7, torch.Generator().manual_seed(0)):
            value = expected_gradient(alone, point, TARGET, 0.5)
            assert (certificate.lower[1] <= value).all() and (value <= certificate.upper[1]).all()
    with pytest.raises(ValueError, match="has no noise"):
        certify(model, (X, y), sigma=(0.0, 0.5), eps=0.1, target=TARGET)


def test_a_batch_gives_what_its_rows_give():
    """The noise of a batch is drawn for all of its rows, so the drawn samples differ: the certified
    range does not.
    """
    model = ONE_LAYER["tanh"]
    both = certify(model, X, target=TARGET, samples=1)
    rows = [certify(model, X[i:i + 1], target=TARGET[i], samples=1) for i in range(2)]
    for i, row in enumerate(rows):
        torch.testing.assert_close(row.width[0], both.width[i], rtol=0.01, atol=0)


@pytest.mark.parametrize(("activation", "dtype", "sigma"), covering(
    [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Softsign, nn.Hardswish,
     nn.Hardtanh, nn.LogSigmoid, nn.Tanhshrink], [torch.float32, torch.float64], [0.5, 30.0]))
def test_ranges_over_all_inputs(activation, dtype, sigma):
    """Noise as large as this reaches every part of the activation; samples beyond the range would
    be an error.
    """
    model = mlp(3, 6, 5, 3, activation=activation, seed=1).to(dtype)
    certificate = certify(model, X.to(dtype), sigma=sigma, target=TARGET, samples=100)
    assert certificate.lower.dtype == dtype and torch.isfinite(certificate.width).all()


def test_a_changed_model_is_traced_anew():
    model = mlp(3, 6, 3, activation=nn.Tanh, seed=None)
    certifier = lx.Certifier(NoiseTunnel(Saliency(model)), target=TARGET, abs=False, stdevs=0.5,
                             nt_samples=100)
    before = certifier.certify(X, eps=0.1, norm=2, **GAUSSIAN)
    model[1] = nn.ReLU()
    after = certifier.certify(X, eps=0.1, norm=2, **GAUSSIAN)
    assert not torch.equal(before.nominal, after.nominal)
    assert_inside(after, expected_gradient(model, X, TARGET, 0.5).detach())


UNDEFINED = {
    "no noise": (Saliency, {}, "only a NoiseTunnel has one"),
    "variance": (lambda m: NoiseTunnel(Saliency(m)), {"nt_type": "vargrad"},
                 "a variance is no mean"),
    "multiplied": (lambda m: NoiseTunnel(InputXGradient(m)), {}, "multiplied by the noisy input"),
    "multiplied path": (lambda m: NoiseTunnel(IntegratedGradients(m)), {}, "multiplied by the "
                        "noisy input"),
    "drawn baselines": (lambda m: NoiseTunnel(IntegratedGradients(m, False)),
                        {"draw_baseline_from_distrib": True, "baselines": X}, "draws more than "
                        "Gaussian noise"),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_what_has_no_certified_expectation_is_refused(name):
    make, keywords, message = UNDEFINED[name]
    with pytest.raises(lx.UnsupportedAttribution, match=message):
        lx.certify(make(ONE_LAYER["relu"]), X, eps=0.1, target=TARGET, **keywords, **GAUSSIAN)


class Grows(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x).sum(1, keepdim=True)


@pytest.mark.parametrize("function", [torch.square, torch.exp, lambda x: x * torch.tanh(x[:, :1]),
                                      lambda x: x * torch.log(1 + x * x)],
                         ids=["square", "exp", "product", "logarithm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unbounded_gradients_are_refused(function, dtype):
    with pytest.raises(lx.UnsupportedAttribution, match="not bounded over all inputs"):
        certify(Grows(function), X.to(dtype), samples=5, target=0)


@pytest.mark.parametrize(("keywords", "message"), [
    ({"expectation": "normal"}, "expectation must be one of gaussian, gaussian-propagated"),
    ({"confidence": 1.0}, "confidence must be a number between 0 and 1"),
    ({"confidence": True}, "confidence must be a number between 0 and 1"),
    ({"confidence": "high"}, "confidence must be a number between 0 and 1"),
    ({"differentiable": True}, "expectation goes neither with"),
    ({"integral": "exact", "inner": lambda m: IntegratedGradients(m, False)}, "expectation goes "
     "neither with"),
])
def test_bad_arguments_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        certify(ONE_LAYER["relu"], X, target=TARGET, samples=3, **keywords)
