"""Every certificate checks itself: contradictions raise SoundnessError, roundings at a kink do
not.
"""

import dataclasses

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain import operators
from lirpa_explain.bounding.compose import Composed
from lirpa_explain.certifying.exit import check_value


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def test_a_wrong_bound_is_noticed():
    """Lines around tanh' that are shifted away from it: the nominal value leaves its own bounds."""
    right = operators.OPERATORS["tanh_gradient"]

    def shifted(lo, hi):
        (kl, bl), (ku, bu) = right.traits.lines(lo, hi)
        return (kl, bl + 0.5), (ku, bu + 0.5)

    def shifted_range(lo, hi):
        low, high = right.traits.range(lo, hi)
        return low + 0.5, high + 0.5

    wrong = dataclasses.replace(right, traits=dataclasses.replace(right.traits, lines=shifted,
                                                                  range=shifted_range))
    operators.register(wrong, overwrite=True)
    try:
        with pytest.raises(lx.SoundnessError, match="outside its bounds by up to"):
            lx.certify(Saliency(net()), torch.rand(2, 3).double(), eps=0.01, target=0, abs=False)
    finally:
        operators.register(right, overwrite=True)


def test_a_wrong_gradient_is_noticed():
    right = operators.OPERATORS["tanh_gradient"]
    operators.register(dataclasses.replace(right, function=lambda g, z: 1.1 * right.function(g, z)),
                       overwrite=True)
    try:
        with pytest.raises(lx.SoundnessError, match="The traced gradient gives"):
            lx.certify(Saliency(net()), torch.rand(2, 3).double(), eps=0.01, target=0, abs=False)
    finally:
        operators.register(right, overwrite=True)


def test_a_function_that_changes_between_calls_is_noticed():
    model, calls = net(), []

    def forward(x):
        calls.append(None)
        return model(x) * len(calls)

    with pytest.raises(lx.UnsupportedOperation, match="not a fixed function"):
        lx.certify(Saliency(forward), torch.rand(2, 3).double(), eps=0.01, target=0, abs=False)


def composed(value, width=0.0):
    value = torch.tensor([value], dtype=torch.float64)
    return Composed(value - width, value + width, value, 1e-15 * value.abs())


def test_what_rounding_explains_is_no_contradiction():
    """Captum's value differs from the module's by a kink, and moving the input by roundings reaches
    it.
    """
    nominal = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    check_value(composed([1.0, 2.0]), nominal, lambda radius: composed([1.0, 2.5], width=0.5))
    with pytest.raises(lx.SoundnessError, match="The traced gradient gives"):
        check_value(composed([1.0, 2.0]), nominal, lambda radius: composed([1.0, 3.0], width=0.5))
    with pytest.raises(lx.SoundnessError, match="entry 1 of the flattened attribution"):
        check_value(composed([1.0, 2.0]), nominal, lambda radius: composed([1.0, 2.0], width=0.5))


def test_roundings_at_dead_and_tied_neurons_are_no_contradiction():
    """Weights and inputs on a coarse grid: many pre-activations are 0, or would be but for
    rounding.
    """
    torch.manual_seed(0)
    for _ in range(8):
        model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(),
                              nn.Linear(2, 1)).double()
        for weight in model.parameters():
            weight.data = torch.randint(-3, 4, weight.shape).double() / 10
        x = torch.randint(-5, 6, (40, 2)).double() / 10
        for eps in (0.0, 0.1):
            for method in lx.METHODS:
                lx.certify(Saliency(model), x, eps=eps, abs=False, target=0, method=method,
                           iterations=3)


def test_the_bounds_are_closed_around_the_nominal_value():
    """At a kink that rounding decides, float32 bounds of a ball of radius 0 still contain Captum's
    value.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 200, bias=False), nn.ReLU(), nn.Linear(200, 1))
    x = torch.randn(50, 20)
    certificate = lx.certify(IntegratedGradients(model), x, eps=0.0, quadrature="riemann_left",
                             n_steps=10)
    assert ((certificate.lower <= certificate.nominal).all()
            and (certificate.nominal <= certificate.upper).all())


def test_nan_in_the_model_is_named():
    model = net()
    model[0].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError,
                       match="NaN or infinite at this input; look at the model's weights"):
        lx.certify(Saliency(model), torch.rand(2, 3).double(), eps=0.01, target=0)


def test_inference_mode_is_no_obstacle():
    model = net()
    with torch.inference_mode():
        x = torch.rand(2, 3).double()
        inside = lx.certify(Saliency(model), x, eps=0.01, target=0)
    outside = lx.certify(Saliency(model), x.clone(), eps=0.01, target=0)
    assert torch.equal(inside.lower, outside.lower) and torch.equal(inside.upper, outside.upper)
