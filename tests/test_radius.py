"""radius() finds where a property ends: against a scan of radii, with every kind of ball."""

import math

import pytest
import torch
from captum.attr import InputXGradient, Saliency

import lirpa_explain as lx


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3)).double()


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
    torch.testing.assert_close((found.fails - found.value)[ends], torch.full_like(found.value, step)[ends])
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
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 2))

    def forward(image, offset):
        return model(image + offset[:, :, None, None])

    certifier = lx.Certifier(InputXGradient(forward), target=1)
    inputs = torch.rand(3, 1, 3, 3), torch.rand(3, 1)
    found = lx.radius(certifier, inputs, lambda c: c.metric("l2") < 0.1, high=0.2, steps=4, clip=(0, 1))
    assert (found.inside.metric("l2") < 0.1).all()
    assert (found.value > 0).any()


@pytest.mark.parametrize(("changes", "error", "message"), [
    ({"high": 0}, ValueError, "high is 0; pass a finite number above 0"),
    ({"high": math.inf}, ValueError, "high is inf; pass a finite"),
    ({"steps": -1}, ValueError, "steps is -1; pass an int of at least 0"),
    ({"eps": 0.1}, TypeError, "eps cannot be given"),
    ({"holds": lambda c: c.max_change()}, TypeError, "property gives torch.float64; it must map"),
    ({"holds": lambda c: True}, TypeError, "property gives bool; it must"),
    ({"holds": lambda c: c.sign() == 0}, ValueError, r"property gives the shape \(2, 4\); it must give \(2,\)"),
])
def test_bad_arguments_are_refused(model, changes, error, message):
    certifier = lx.Certifier(Saliency(model), target=0)
    settings = {"holds": steady, "high": 0.1} | changes
    with pytest.raises(error, match=message):
        lx.radius(certifier, torch.zeros(2, 4, dtype=torch.float64), **settings)
