"""Roundings raise no alarm and lie within; outward bounds hold for what is computed, as longer
arithmetic shows.
"""

import copy
import math
import warnings

import mpmath
import pytest
import torch
from captum.attr import DeepLift, InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain import rounding
from lirpa_explain.bounding.errors import Reach, value_and_error
from lirpa_explain.boxes import Box
from lirpa_explain.graph import capture

pytestmark = pytest.mark.filterwarnings("ignore")


def inside(certificate, attributions):
    return bool(((certificate.lower <= attributions) & (attributions <= certificate.upper)).all())


def points(x, eps, count=10):
    """Numbers of the type of x within the ball: corners, its ends, and points between."""
    generator = torch.Generator().manual_seed(0)
    yield x
    for k in range(count):
        u = 2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1
        yield torch.min(torch.max(x + eps * (u.sign() if k % 2 else u), x - eps), x + eps)


# The scale of roundings


def test_what_sums_round_is_within_gamma():
    """N terms of both signs whose sum nearly cancels: the error of every order against the exact
    sum.
    """
    generator = torch.Generator().manual_seed(0)
    terms = torch.randn(1000, generator=generator)
    terms = torch.cat([terms, -terms + 1e-7 * torch.randn(1000, generator=generator)])
    exact = math.fsum(terms.tolist())
    allowed = float(rounding.rounded(terms.abs().sum(), len(terms)))
    for order in (terms, terms.sort().values, terms.flip(0)):
        total = torch.zeros(())
        for term in order:
            total = total + term
        assert 0 < abs(total.item() - exact) <= allowed
    assert rounding.gamma(2, torch.float32) > 2 * 2.0**-24


NETS = {
    "one entry a group": lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.GroupNorm(2, 2),
                                               nn.Flatten(), nn.Linear(2, 2)),
    "layer of one entry": lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(1), nn.Linear(1, 2)),
    "norms after each other": lambda: nn.Sequential(nn.Flatten(), nn.Linear(1, 6), nn.LayerNorm(6),
                                                    nn.LeakyReLU(0.1),
                                                    nn.LayerNorm(6), nn.Linear(6, 2)),
    "pooling": lambda: nn.Sequential(
        nn.Upsample(scale_factor=4), nn.Conv2d(1, 2, 3, padding=1), nn.LeakyReLU(0.5),
        nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 2)),
    "softmax": lambda: nn.Sequential(nn.Flatten(), nn.Linear(1, 6), nn.GELU(), nn.Linear(6, 4),
                                     nn.Softmax(1)),
}


def net(name, dtype, scale):
    torch.manual_seed(0)
    model = NETS[name]().to(dtype).eval()
    for parameter in model.parameters():
        parameter.data = (8 * torch.randn_like(parameter)).round() / 8 * scale
    return model, torch.randn(3, 1, 1, 1, dtype=dtype)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETS)
def test_neither_alarms_nor_narrow_bounds(name, dtype, scale):
    model, x = net(name, dtype, scale)
    for eps, how in ((0.0, "default"), (0.05, "default"), (0.05, "outward")):
        certificate = lx.certify(InputXGradient(model), x, eps=eps, target=0, method="IBP",
                                 rounding=how)
        assert all(inside(certificate, InputXGradient(model).attribute(point, target=0))
                   for point in points(x, eps))


def test_widths_are_roundings():
    """A smooth net, which no kink widens: at radius 0 only roundings are between the bounds, and
    they are few.
    """
    for dtype, most in ((torch.float32, 3e-5), (torch.float64, 5e-14)):
        model, x = net("softmax", dtype, 1.0)
        certificate = lx.certify(Saliency(model), x, eps=0.0, target=0, abs=False)
        assert 0 < certificate.width.max() <= most


def test_the_error_of_a_value_is_that_of_longer_arithmetic():
    model, x = net("norms after each other", torch.float32, 1.0)
    module = capture(model, (x,))
    inputs = x, torch.eye(2)[[0, 0, 0]]
    value, error = value_and_error(module, inputs, [None, None])
    exact = copy.deepcopy(module).double()(*[t.double() for t in inputs])
    assert torch.allclose(value, module(*inputs), rtol=1e-5)
    off = (value.double() - exact).abs()
    assert (off <= error).all() and error.max() <= 200 * off.max()
    low, high = Reach(module)(inputs, (None, None))
    assert ((low.double() <= exact) & (exact <= high.double())).all()
    alone = value_and_error(module, tuple(t[:1] for t in inputs), [None, None])
    assert torch.equal(alone[1], error[:1])  # a batch gives what its rows give


# What is really different rings, and what is not does not


def test_dead_windows_of_power_pooling_have_no_gradient():
    """Sqrt has an infinite one at 0, which autograd multiplies by 0 and then leaves out."""
    model = nn.Sequential(nn.ReLU(), nn.LPPool2d(2, 2), nn.Flatten(), nn.Linear(4, 2)).double()
    x = torch.randn(2, 1, 4, 4).double()
    x[:, :, :2, :2] = -1.0
    for method in ("IBP", "CROWN"):
        certificate = lx.certify(Saliency(model), x, eps=0.01, target=0, abs=False, method=method)
        assert inside(certificate, certificate.nominal) and not certificate.lower.isnan().any()


def test_infinite_bounds_times_nothing_are_no_contradiction():
    """LPPool on a ball that contains 0 has no bound; a multiplier or weight of 0 must not make NaN
    of that.
    """
    model = nn.Sequential(nn.LPPool2d(2, 2), nn.Flatten(), nn.Linear(4, 2)).double()
    x = torch.randn(1, 1, 4, 4).double()
    for attribution in (InputXGradient(model), IntegratedGradients(model)):
        certificate = lx.certify(attribution, x, eps=1.0, target=0, method="IBP")
        assert not certificate.lower.isnan().any() and inside(certificate, certificate.nominal)


def test_an_exact_zero_explains_no_jump():
    """Captum's derivative at 0 is taken at 0; another one there is a contradiction, however near
    the kink.
    """
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1)).double()
    x = torch.zeros(1, 2).double()
    module = capture(model, (x,))
    low, high = Reach(module)((x, torch.ones(1, 1).double()), (None, None))
    assert torch.equal(low, high)


def test_roundings_at_a_reference_are_none_of_the_model():
    """DeepLift beside a baseline that hardly differs: its quotients are all rounding."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(0.3), nn.Linear(5, 2)).double()
    x = torch.randn(2, 4).double()
    lx.certify(DeepLift(model), x, eps=1e-3, baselines=x + 1e-10 * torch.randn(2, 4).double(),
               target=0)


# Outward rounding


class Longer:
    """A perceptron with tanh, its gradient and Integrated Gradients in 60 digits."""

    def __init__(self, model):
        self.W = mpmath.matrix(model[0].weight.tolist())
        self.b = mpmath.matrix(model[0].bias.tolist())
        self.v = [mpmath.mpf(w) for w in model[2].weight[0].tolist()]

    def gradient(self, x):
        z = self.W * x + self.b
        upstream = mpmath.matrix([v * (1 - mpmath.tanh(t) ** 2)
                                  for v, t in zip(self.v, z, strict=True)])
        return self.W.T * upstream

    def integrated(self, x, nodes, weights):
        """Integrated Gradients from 0, with the weights and places of a finite sum."""
        total = mpmath.matrix(len(x), 1)
        for place, weight in zip(nodes, weights, strict=True):
            total += mpmath.mpf(weight) * self.gradient(mpmath.mpf(place) * x)
        return mpmath.matrix([a * b for a, b in zip(total, x, strict=True)])


def within(certificate, values):
    """Whether exact numbers lie within the bounds, compared exactly."""
    ends = zip(certificate.lower[0].tolist(), values, certificate.upper[0].tolist(), strict=True)
    return all(mpmath.mpf(low) <= value <= mpmath.mpf(high) for low, value, high in ends)


@pytest.mark.parametrize("method", lx.METHODS)
def test_outward_bounds_hold_for_exact_numbers_and_computed_ones(method):
    """In float64 on a point, where bounds are all rounding, mpmath's value and Captum's lie within,
    digit by digit.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(1, 3).double()
    with mpmath.workdps(60):
        longer, exact = Longer(model), mpmath.matrix(x[0].tolist())
        certificate = lx.certify(Saliency(model), x, eps=0.0, abs=False, method=method,
                                 rounding="outward")
        assert within(certificate, longer.gradient(exact)) and inside(certificate,
                                                                      certificate.nominal)
        assert certificate.width.max() < 1e-11
        certificate = lx.certify(IntegratedGradients(model), x, eps=0.0, n_steps=3, method=method,
                                 rounding="outward")
        nodes, weights = (part(3) for part in _quadrature())
        assert within(certificate, longer.integrated(exact, nodes, weights))
        assert certificate.width.max() < 1e-11


def _quadrature():
    from captum.attr._utils.approximation_methods import approximation_parameters

    step_sizes, alphas = approximation_parameters("gausslegendre")
    # Captum's weights are rounded to float32
    return alphas, lambda n: torch.tensor(step_sizes(n)).tolist()


@pytest.mark.parametrize("norm", [math.inf, 2])
@pytest.mark.parametrize("method", ["IBP", "CROWN"])
@pytest.mark.parametrize("name", NETS)
def test_outward_bounds_of_float32_hold_in_float64(name, method, norm):
    """The value of the same float32 numbers in float64 is as good as exact; it, and what float32
    makes, lie within.
    """
    model, x = net(name, torch.float32, 1.0)
    double = copy.deepcopy(model).double()
    attribution, exact = (Saliency(m) for m in (model, double))
    certificate = lx.certify(attribution, x, eps=0.01, norm=norm, target=0, abs=False,
                             method=method, rounding="outward")
    for point in points(x, 0.01):
        assert inside(certificate, attribution.attribute(point, target=0, abs=False))
        value = exact.attribute(point.double(), target=0, abs=False)
        assert inside(certificate, value)


def test_outward_bounds_of_sums_and_functions():
    """Noise, paths, reductions and linear functions are rounded too, and lie within all the
    same.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Softplus(), nn.Linear(6, 2))
    x, spec = torch.randn(2, 3), torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, 1.0]])
    for kind in ("smoothgrad", "smoothgrad_sq", "vargrad"):
        attribution = NoiseTunnel(IntegratedGradients(model))
        keywords = {"nt_type": kind, "nt_samples": 3, "n_steps": 4}
        torch.manual_seed(1)
        certificate = lx.certify(attribution, x, eps=1e-6, target=1, rounding="outward", spec=spec,
                                 **keywords)
        torch.manual_seed(1)
        assert inside(certificate, attribution.attribute(x, target=1, **keywords))
        found = torch.einsum("kd,nd->nk", spec.double(), certificate.nominal.double())
        assert ((certificate.spec_lower <= found) & (found <= certificate.spec_upper)).all()


def test_outward_bounds_contain_the_others_nearly():
    model, x = net("pooling", torch.float64, 1.0)
    plain, outward = (lx.certify(Saliency(model), x, eps=0.01, target=0, rounding=how)
                      for how in rounding.GUARANTEES)
    assert ((outward.width >= plain.width - 1e-12).all()
            and (outward.width <= plain.width + 1e-9).all())


def test_a_certificate_says_how_it_is_rounded(tmp_path):
    model, x = net("softmax", torch.float32, 1.0)
    certificate = lx.Certifier(Saliency(model), rounding="outward").certify(x, eps=0.01, target=0)
    assert certificate.rounding == "outward" and "rounded outward" in repr(certificate)
    certificate.save(tmp_path / "outward.npz")
    assert lx.Certificate.load(tmp_path / "outward.npz").rounding == "outward"
    plain = lx.certify(Saliency(model), x, eps=0.01, target=0)
    assert plain.rounding == "default" and "outward" not in repr(plain)
    assert certificate.recertifier(torch.full((3,), 0.02)).rounding == "outward"


@pytest.mark.parametrize(("given", "message"), [
    ({"rounding": "up"}, "rounding must be one of default, outward; given: 'up'"),
    ({"rounding": None}, "rounding must be one of default, outward; given: None"),
    ({"rounding": "outward", "integral": "exact"}, "does not go with integral"),
    ({"rounding": "outward", "parameters": lx.ParameterBox(relative=0.1)},
     "does not go with parameters"),
])
def test_what_is_refused(given, message):
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    with pytest.raises(ValueError, match=message):
        lx.certify(IntegratedGradients(model), torch.rand(1, 2), eps=0.1, **given)


def test_deep_lift_is_not_bounded_outward():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with pytest.raises(ValueError, match="does not bound DeepLift"):
        lx.certify(DeepLift(model), torch.rand(1, 2), eps=0.1, rounding="outward")


def test_bounds_narrower_than_what_is_computed_ring():
    """A device that computes less precisely than the proof presumes does not go unnoticed."""
    from lirpa_explain.certifying.exit import check_within

    one = torch.ones(1, 1)
    check_within(Box.point(one), one)
    with pytest.raises(lx.SoundnessError, match="outside its outward bounds"):
        check_within(Box.point(one), one + 1e-6)


def test_nothing_is_drawn_from_the_callers_generator():
    model, x = net("softmax", torch.float32, 1.0)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        lx.certify(Saliency(model), x, eps=0.01, target=0)
    assert torch.equal(torch.rand(1), expected)


def test_a_secant_rounds_as_the_values_that_it_is_the_difference_of():
    """Sigmoid is 1/2 at tiny arguments: Captum's quotient of differences is off by a millionth
    there.
    """
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        net[0].weight.mul_(1e-9)
        net[0].bias.zero_()
    x, baselines = torch.rand(3, 4).double(), torch.rand(1, 4).double()
    lx.certify(DeepLift(net), x, eps=0.003, target=0, baselines=baselines.expand(3, 4))
