"""integral="exact": the path integral itself, against adaptive quadrature of autograd's gradients,
and completeness.
"""

import math

import pytest
import torch
from captum.attr import (
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    NeuronIntegratedGradients,
    NoiseTunnel,
    Saliency,
)
from scipy.integrate import quad_vec
from torch import nn

import lirpa_explain as lx
from tests.nets import TwoVectors, layers, mlp
from tests.truth import assert_inside, flat, path_integral, sample_ball

EXACT = {"integral": "exact"}
NORMS = [(math.inf, 0.03), (2, 0.08), (1, 0.1), (math.inf, 0.0)]


with torch.random.fork_rng():
    torch.manual_seed(3)
    MODELS = {
        "relu": mlp(4, 8, 6, 3, seed=None, gain=1.5),  # more kinks on the path
        "tanh": mlp(4, 8, 3, activation=nn.Tanh, seed=None),
        "gelu": layers(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 6), nn.Softplus(), nn.Linear(6, 3)),
        "cnn": layers(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.ReLU(),
                      nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(12, 3)),
        "softmax": layers(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(1)),
    }
    TWO = TwoVectors().double()
    X, Y, FACTOR = (torch.randn(2, n, dtype=torch.float64) for n in (4, 2, 1))
    B = torch.randn(2, 4, dtype=torch.float64) / 2
TARGET = [0, 2]


def truth(model, inputs, baselines, target=TARGET, multiply=True, extras=()):
    """The path integral at inputs (a tuple), flat."""
    return flat(tuple(path_integral(model, inputs, baselines, target, multiply, extras)))


def ball(x, eps, norm, count=6):
    return list(sample_ball(x, eps, norm, count, torch.Generator().manual_seed(0)))


def sampled_truth(name, eps, norm):
    """Integrals at points of the ball, each checked to sum to f(x') - f(b): kinks and all."""
    model, values = MODELS[name], []
    for point in ball(X, eps, norm, 4 if eps else 1):
        values.append(truth(model, (point,), (B,)))
        with torch.no_grad():
            total = (model(point) - model(B))[[0, 1], TARGET]
        torch.testing.assert_close(values[-1].sum(1), total, rtol=1e-9, atol=1e-9)
    return values


def test_reference_is_scipys_quadrature():
    def gradient(s):
        x = (B + s * (X - B)).requires_grad_()
        return torch.autograd.grad(MODELS["tanh"](x)[[0, 1], TARGET].sum(), x)[0].numpy()

    expected = torch.from_numpy(quad_vec(gradient, 0, 1, epsabs=1e-12)[0])
    torch.testing.assert_close(truth(MODELS["tanh"], (X,), (B,), multiply=False), expected, rtol=0,
                               atol=1e-11)


@pytest.mark.parametrize("name", MODELS)
def test_integrals_lie_inside(name):
    """IBP and CROWN in every norm, the others in one."""
    certifier = lx.Certifier(IntegratedGradients(MODELS[name]), X, target=TARGET, baselines=B,
                             iterations=3)
    for (norm, eps), n_steps in zip(NORMS, (1, 3, 7, 2), strict=True):
        values = torch.stack(sampled_truth(name, eps, norm))
        for method in lx.METHODS if (norm, eps) == NORMS[0] else ("IBP", "CROWN"):
            found = certifier.certify(X, eps=eps, norm=norm, method=method, n_steps=n_steps,
                                      **EXACT)
            assert_inside(found, values, what=method)


@pytest.mark.parametrize("name", MODELS)
def test_more_steps_narrow_the_bounds_to_the_integral(name):
    ig = IntegratedGradients(MODELS[name])
    widths = []
    for n_steps in (1, 4, 16, 64):
        certificate = lx.certify(ig, X, eps=0.0, target=TARGET, baselines=B, n_steps=n_steps,
                                 **EXACT)
        widths.append(float(certificate.width.mean()))
    smooth = name in ("tanh", "gelu")
    assert all(narrow < wide / (8 if smooth and wide < widths[0] else 1.5)
               for wide, narrow in zip(widths, widths[1:], strict=False))
    assert certificate.contains(truth(MODELS[name], (X,), (B,))).all()


@pytest.mark.parametrize("n_steps", [1, 5])
def test_bounds_of_a_linear_model_are_exact(n_steps):
    model = mlp(4, 3, seed=None)
    weight = model[0].weight.detach()[TARGET]
    certificate = lx.certify(IntegratedGradients(model), X, eps=0.1, target=TARGET, n_steps=n_steps,
                             **EXACT)
    torch.testing.assert_close(certificate.lower, X * weight - 0.1 * weight.abs())
    torch.testing.assert_close(certificate.upper, X * weight + 0.1 * weight.abs())
    assert ((certificate.quadrature_error < 1e-7).all()
            and (certificate.completeness.abs() < 1e-7).all())


@pytest.mark.filterwarnings("ignore::lirpa_explain.CaptumWarning")
@pytest.mark.parametrize("quadrature", ["gausslegendre", "riemann_left", "riemann_trapezoid"])
@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_error_of_captums_sum_is_certified(name, quadrature):
    """Nominal stays Captum's; its distance from the integral and from completeness are bounded."""
    ig = IntegratedGradients(MODELS[name])
    keywords = {"target": TARGET, "baselines": B, "n_steps": 8}
    certificate = lx.certify(ig, X, eps=0.05, quadrature=quadrature, **keywords, **EXACT)
    value, delta = ig.attribute(X, method=quadrature, return_convergence_delta=True, **keywords)
    assert torch.equal(certificate.nominal, value)
    assert torch.equal(certificate.completeness, delta)
    error = (value - truth(MODELS[name], (X,), (B,))).abs()
    assert (error <= certificate.quadrature_error + 1e-9).all()
    assert (delta.abs() <= certificate.quadrature_error.sum(1) + 1e-9).all()
    assert certificate.integral == "exact" and "exact" in repr(certificate)


@pytest.mark.parametrize("baselines", [None, 1, -0.5, B[:1], B.float()],
                         ids=["none", "int", "float", "row", "float32"])
def test_baselines_of_all_kinds(baselines):
    model = MODELS["tanh"]
    certificate = lx.certify(IntegratedGradients(model), X, eps=0.02, target=TARGET, n_steps=3,
                             baselines=baselines, **EXACT)
    b = torch.zeros_like(X) + (0 if baselines is None else baselines)
    assert_inside(certificate, truth(model, (X + 0.02,), (b,)))
    with torch.no_grad():
        change = (model(X) - model(b))[[0, 1], TARGET]
    torch.testing.assert_close(certificate.completeness, certificate.nominal.sum(1) - change,
                               rtol=0, atol=1e-9)


def test_functions_are_bounded_by_propagation():
    """The sum of all entries is f(x') - f(b); the others keep the sums of the integral's
    entries.
    """
    model, ones = MODELS["relu"], torch.ones(1, 4, dtype=torch.float64)
    functions = torch.cat(
        [ones, torch.eye(4, dtype=torch.float64)[:2] - torch.eye(4, dtype=torch.float64)[2:]])
    certificate = lx.certify(IntegratedGradients(model), X, eps=0.04, target=TARGET, n_steps=6,
                             spec=functions, **EXACT)
    for point in ball(X, 0.04, math.inf, 12):
        value = truth(model, (point,), (torch.zeros_like(X),)) @ functions.T
        assert ((certificate.spec_lower - 1e-9 <= value).all()
                and (value <= certificate.spec_upper + 1e-9).all())
    box = certificate.region_sum(torch.ones(4))
    low, high = certificate.region_sum(torch.ones(4), refine="spec")
    assert (high - low < box[1] - box[0]).all()


def test_a_batch_gives_what_its_rows_give():
    keywords = {"eps": 0.05, "n_steps": 5, "batch_size": 3, **EXACT}
    ig = IntegratedGradients(MODELS["relu"])
    both = lx.certify(ig, X, target=TARGET, baselines=B, **keywords)
    for row in range(2):
        one = lx.certify(ig, X[row:row + 1], target=TARGET[row], baselines=B[row:row + 1],
                         **keywords)
        torch.testing.assert_close(one.lower[0], both.lower[row], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.upper[0], both.upper[row], rtol=1e-9, atol=1e-12)


def test_several_inputs_move_along_one_path():
    """One input is held fixed in the second certificate; each example has an argument of its
    own.
    """
    xs = X[:, :3].clone(), Y
    for eps in ((0.03, 0.05), (None, 0.05)):
        certificate = lx.certify(IntegratedGradients(TWO), xs, eps=eps, target=TARGET, n_steps=4,
                                 baselines=(0.5, 0), additional_forward_args=FACTOR, **EXACT)
        baselines = torch.full_like(xs[0], 0.5), torch.zeros_like(Y)
        for a, b in zip(ball(xs[0], eps[0] or 0.0, math.inf), ball(Y, eps[1], math.inf),
                        strict=True):
            assert_inside(certificate, truth(TWO, (a, b), baselines, extras=(FACTOR,)))
        assert [len(part) for part in (certificate.lower, certificate.quadrature_error)] == [2, 2]


def test_gradients_without_the_multiplier():
    ig = IntegratedGradients(MODELS["relu"], multiply_by_inputs=False)
    certificate = lx.certify(ig, X, eps=0.02, target=TARGET, n_steps=4, **EXACT)
    for point in ball(X, 0.02, math.inf):
        assert_inside(certificate,
                      truth(MODELS["relu"], (point,), (torch.zeros_like(X),), multiply=False))
    assert certificate.completeness is None


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq"])
def test_integrals_at_noisy_inputs(nt_type):
    """Noise is drawn again from the same seed."""
    model, std = MODELS["relu"], 0.2
    torch.manual_seed(5)
    certificate = lx.certify(NoiseTunnel(IntegratedGradients(model)), X, eps=0.02, target=TARGET,
                             n_steps=4,
                             nt_type=nt_type, nt_samples=3, stdevs=std, baselines=B, **EXACT)
    torch.manual_seed(5)
    # in float32, as Captum draws it
    noise = torch.normal(0, torch.full((6, 4), std)).reshape(2, 3, 4)
    for point in ball(X, 0.02, math.inf):
        values = torch.stack([truth(model, (point + noise[:, j],), (B,)) for j in range(3)])
        assert_inside(certificate, (values if nt_type == "smoothgrad" else values.square()).mean(0))


def test_integral_of_a_neuron():
    model = MODELS["tanh"]
    certificate = lx.certify(NeuronIntegratedGradients(model, model[0]), X, eps=0.02,
                             neuron_selector=1, n_steps=3, **EXACT)
    assert_inside(certificate, X * model[0].weight.detach()[1])


def test_float32_differentiable_saved(tmp_path):
    model = mlp(4, 6, 3, activation=nn.Tanh, seed=None).float()
    certificate = lx.certify(IntegratedGradients(model), X.float(), eps=0.01, target=TARGET,
                             n_steps=5, differentiable=True, **EXACT)
    assert certificate.dtype == "float32" and (certificate.width > 0).all()
    gradient, = torch.autograd.grad(certificate.width.sum(), model[0].weight)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    certificate.save(tmp_path / "certificate.npz")
    loaded = lx.Certificate.load(tmp_path / "certificate.npz")
    assert loaded.integral == "exact"
    assert torch.equal(loaded.quadrature_error, certificate.quadrature_error)
    assert torch.equal(loaded.completeness, certificate.completeness)


def test_a_changed_model_is_traced_anew():
    model = mlp(4, 6, 3, activation=nn.Tanh, seed=None)
    certifier = lx.Certifier(IntegratedGradients(model), target=TARGET, n_steps=3)
    before = certifier.certify(X, eps=0.01, **EXACT)
    finite = certifier.certify(X, eps=0.01)
    model[1] = nn.ReLU()
    after = certifier.certify(X, eps=0.01, **EXACT)
    assert not torch.equal(before.nominal, after.nominal)
    assert after.contains(truth(model, (X,), (torch.zeros_like(X),))).all()
    assert (finite.integral is None and finite.quadrature_error is None
            and finite.completeness is None)


@pytest.mark.parametrize("kind", [Saliency, InputXGradient, GradientShap])
def test_what_is_no_path_integral_is_refused(kind):
    keywords = {"baselines": B} if kind is GradientShap else {}
    with pytest.raises(lx.UnsupportedAttribution, match="Leave integral out"):
        lx.certify(kind(MODELS["tanh"]), X, eps=0.01, target=TARGET, **keywords, **EXACT)


def test_a_bad_integral_is_refused():
    with pytest.raises(ValueError, match="integral must be 'exact'"):
        lx.certify(IntegratedGradients(MODELS["tanh"]), X, eps=0.01, target=TARGET, integral="true")
