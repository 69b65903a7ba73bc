"""radius() finds where a property ends: against a scan of radii, with every kind of ball."""

import math
import re

import pytest
import torch
from auto_LiRPA import PerturbationLpNorm
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency

import lirpa_explain as lx
from tests.nets import mlp


@pytest.fixture
def model():
    return mlp(4, 12, 3)


def steady(certificate):
    return certificate.metric("cosine") > 0.95


@pytest.mark.parametrize("norm", [math.inf, 2, 1])
def test_the_radius_is_where_a_scan_stops(model, norm):
    x = torch.randn(4, 4, dtype=torch.float64)
    certifier = lx.Certifier(Saliency(model), target=0, abs=False)
    found = lx.radius(certifier, x, steady, high=0.6, steps=6, norm=norm)
    assert steady(found.inside).all() and found.holds.all()
    step = 0.6 / 2**6
    last = torch.zeros(4, dtype=torch.float64)
    still = torch.ones(4, dtype=torch.bool)
    for i in range(2**6 + 1):
        still &= steady(certifier.certify(x, eps=i * step, norm=norm))
        last[still] = i * step
    torch.testing.assert_close(found.value, last)
    ends = found.fails.isfinite()
    torch.testing.assert_close((found.fails - found.value)[ends],
                               torch.full_like(found.value, step)[ends])
    assert not steady(found.outside)[ends].any() and ends.any()


def test_a_property_that_always_or_never_holds(model):
    x = torch.randn(2, 4, dtype=torch.float64)
    certifier = lx.Certifier(Saliency(model), target=0)
    found = lx.radius(certifier, x, lambda c: torch.tensor([True, False]), high=0.5, steps=2)
    assert found.value.tolist() == [0.5, 0.0]
    assert found.fails.tolist() == [math.inf, 0.0]
    assert found.holds.tolist() == [True, False]


def test_several_inputs_and_one_that_is_not_flat():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), torch.nn.ReLU(), torch.nn.Flatten(),
                                torch.nn.Linear(8, 2))

    def forward(image, offset):
        return model(image + offset[:, :, None, None])

    certifier = lx.Certifier(InputXGradient(forward), target=1)
    inputs = torch.rand(3, 1, 3, 3), torch.rand(3, 1)
    found = lx.radius(certifier, inputs, lambda c: c.metric("l2") < 0.1, high=0.2, steps=4,
                      clip=(0, 1))
    assert (found.inside.metric("l2") < 0.1).all()
    assert (found.value > 0).any()


@pytest.mark.parametrize(("changes", "error", "message"), [
    ({"high": 0}, ValueError, "high is 0; pass a finite number above 0"),
    ({"high": math.inf}, ValueError, "high is inf; pass a finite"),
    ({"steps": -1}, ValueError, "steps is -1; pass an int of at least 0"),
    ({"eps": 0.1}, TypeError, "eps cannot be given"),
    ({"holds": lambda c: c.max_change()}, TypeError, "property gives torch.float64; it must map"),
    ({"holds": lambda c: True}, TypeError, "property gives bool; it must"),
    ({"holds": lambda c: c.sign() == 0}, ValueError,
     r"property gives the shape \(2, 4\); it must give \(2,\)"),
])
def test_bad_arguments_are_refused(model, changes, error, message):
    certifier = lx.Certifier(Saliency(model), target=0)
    settings = {"holds": steady, "high": 0.1} | changes
    with pytest.raises(error, match=message):
        lx.radius(certifier, torch.zeros(2, 4, dtype=torch.float64), **settings)


@pytest.mark.parametrize(("norm", "clip"), [(math.inf, (-1, 1)), (2, None), (1, None)])
def test_a_certificate_finds_its_own_radius(model, norm, clip):
    """As with a certifier of the same settings: method, norm, range and keywords are kept."""
    x = torch.rand(3, 4, dtype=torch.float64)
    keywords = {"norm": norm, "clip": clip, "method": "CROWN-IBP",
                "target": torch.tensor([0, 1, 2]), "n_steps": 4}
    certificate = lx.certify(IntegratedGradients(model), x, eps=0.03, quadrature="riemann_middle",
                             **keywords)
    found = certificate.radius(steady, high=0.5, steps=6)
    other = lx.radius(lx.Certifier(IntegratedGradients(model)), x, steady, high=0.5, steps=6,
                      quadrature="riemann_middle", **keywords)
    assert torch.equal(found.value, other.value) and torch.equal(found.fails, other.fails)
    assert bool((found.value > 0).any()) and bool(found.fails.isfinite().any())
    assert torch.equal(found.inside.lower, other.inside.lower) and torch.equal(found.outside.upper,
                                                                               other.outside.upper)
    assert (found.inside.method == "CROWN-IBP"
            and ("within [-1, 1]" in found.inside.perturbation) == (clip is not None))
    again = found.inside.radius(steady, high=0.5, steps=6)
    assert torch.equal(again.value, found.value)


def test_the_noise_of_a_certificate_is_kept_at_all_radii(model):
    x = torch.randn(2, 4, dtype=torch.float64)
    certificate = lx.certify(NoiseTunnel(Saliency(model)), x, eps=0.01, target=0, nt_samples=3,
                             stdevs=0.2)
    state = torch.rand(3), torch.get_rng_state()
    found = certificate.radius(steady, high=0.3, steps=2)
    assert torch.equal(torch.get_rng_state(), state[1])
    for side in (found.inside, found.outside):
        assert torch.equal(side.nominal, certificate.nominal)


def test_inputs_held_fixed_stay_so_and_perturbations_keep_their_norm(model):
    def forward(first, second):
        return model(torch.cat([first, second], 1))

    inputs = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 1, dtype=torch.float64)
    for ball in ({"eps": (0.1, None), "norm": 2},
                 {"perturbation": (PerturbationLpNorm(norm=2, eps=0.1), None)}):
        found = lx.certify(Saliency(forward), inputs, target=0, abs=False,
                           **ball).radius(steady, high=0.6, steps=3)
        assert bool((found.value > 0).any())
        assert re.fullmatch(r"input 0: l2 ball, radius .*; input 1: held fixed",
                            found.inside.perturbation)


def test_certificates_without_a_radius_say_so(model, tmp_path):
    x = torch.randn(2, 4, dtype=torch.float64)
    certificate = lx.certify(Saliency(model), x, eps=0.1, target=0)
    certificate.save(tmp_path / "c.npz")
    with pytest.raises(ValueError, match="nothing to certify at other radii"):
        lx.Certificate.load(tmp_path / "c.npz").radius(steady, high=0.1)
    with pytest.raises(ValueError, match="high is -1"):
        certificate.radius(steady, high=-1)
    box = PerturbationLpNorm(norm=math.inf, x_L=x - 0.1, x_U=x + 0.2)
    with pytest.raises(ValueError, match="given by x_L and x_U"):
        lx.certify(Saliency(model), x, perturbation=box, target=0).radius(steady, high=0.1)
    mixed = tuple(PerturbationLpNorm(norm=norm, eps=0.1) for norm in (2, math.inf))
    pair = lx.certify(Saliency(lambda a, b: model(a + b)), (x, x), perturbation=mixed, target=0)
    with pytest.raises(ValueError, match="one norm"):
        pair.radius(steady, high=0.1)
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(ValueError, match="was changed"):
        certificate.radius(steady, high=0.1, steps=1)
