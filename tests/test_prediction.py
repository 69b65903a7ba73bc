"""Predictions over a ball: samples never contradict what is certified, and linear models are
exact.
"""

import math

import pytest
import torch

import lirpa_explain as lx
from tests.covering import covering
from tests.nets import mlp
from tests.truth import sample_ball


def network(outputs, activation=torch.nn.ReLU):
    return mlp(4, 16, outputs, activation=activation)


def confidence(scores, classes):
    if scores.shape[1] == 1:
        scores = torch.cat([torch.zeros_like(scores), scores], 1)
    return scores.softmax(1).gather(1, classes[:, None])[:, 0], scores.argmax(1)


@pytest.mark.parametrize(("method", "norm", "outputs"),
                         covering(lx.METHODS, [math.inf, 2, 1], [1, 2, 5]))
def test_no_sample_contradicts_the_bounds(method, norm, outputs):
    model = network(outputs, torch.nn.Tanh)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 4, dtype=torch.float64, generator=generator)
    decided = set()
    for eps in (0.02, 0.1, 0.4):
        bounds = lx.certify_prediction(model, x, eps=eps, norm=norm, method=method, batch_size=3)
        decided |= set(bounds.certain.tolist())
        for n in range(8):
            points = sample_ball(x[n:n + 1], eps, norm, 200, generator).reshape(-1, 4)
            value, classes = confidence(model(points), bounds.classes[n].expand(len(points)))
            assert (bounds.confidence_lower[n] <= value + 1e-12).all()
            assert (value <= bounds.confidence_upper[n] + 1e-12).all()
            assert not bounds.certain[n] or (classes == bounds.classes[n]).all()
    assert decided == {True, False}


def test_without_a_ball_the_prediction_is_the_models():
    model = network(3)
    x = torch.randn(5, 4, dtype=torch.float64)
    bounds = lx.certify_prediction(model, x, eps=0.0)
    probability, classes = model(x).softmax(1).max(1)
    assert bounds.classes.equal(classes) and bounds.certain.all()
    for side in (bounds.confidence, bounds.confidence_lower, bounds.confidence_upper):
        torch.testing.assert_close(side, probability)
    scores = model(x).sort(1).values
    torch.testing.assert_close(bounds.margin, scores[:, -1] - scores[:, -2])


def test_two_classes_of_a_linear_model_are_exact():
    model = torch.nn.Linear(3, 2).double()
    x = torch.rand(4, 3, dtype=torch.float64)
    bounds = lx.certify_prediction(model, x, eps=0.3, clip=(0, 1))
    weight = (model.weight[0] - model.weight[1]).detach()
    low, high = (x - 0.3).clamp(min=0), (x + 0.3).clamp(max=1)
    sign = torch.where(bounds.classes == 0, 1.0, -1.0)
    worst = torch.where(sign[:, None] * weight > 0, low, high)
    margin = sign * (model(worst)[:, 0] - model(worst)[:, 1])
    torch.testing.assert_close(bounds.margin, margin)
    torch.testing.assert_close(bounds.confidence_lower, margin.sigmoid())
    assert bounds.certain.equal(margin > 0)


def test_several_inputs_one_of_them_fixed_and_further_arguments():
    model = network(3)

    def forward(x, y, scale):
        return model(x + y) * scale

    x, y = torch.randn(2, 5, 4, dtype=torch.float64)
    scale = torch.rand(5, 1, dtype=torch.float64) + 0.5
    bounds = lx.certify_prediction(forward, (x, y), eps=(0.1, None), additional_forward_args=scale,
                                   batch_size=2)
    for _ in range(50):
        value, classes = confidence(forward(x + 0.1 * (2 * torch.rand_like(x) - 1), y, scale),
                                    bounds.classes)
        assert ((bounds.confidence_lower <= value) & (value <= bounds.confidence_upper)).all()
        assert (classes == bounds.classes)[bounds.certain].all()


@pytest.mark.parametrize("scale", [1e10, 1e37])
def test_margins_that_overflow_leave_no_nan(scale):
    model = network(3).float()
    bounds = lx.certify_prediction(lambda x: model(x) * scale, torch.rand(3, 4), eps=5.0)
    assert not bounds.certain.any()
    assert bounds.confidence_lower.tolist() == [0, 0,
                                                0] and bounds.confidence_upper.tolist() == [1, 1, 1]


def test_bad_arguments_are_refused():
    x = torch.zeros(2, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="method must be one of"):
        lx.certify_prediction(network(2), x, eps=0.1, method="exact")
    with pytest.raises(ValueError, match="batch_size is 0; pass an int of at least 1"):
        lx.certify_prediction(network(2), x, eps=0.1, batch_size=0)
    with pytest.raises(ValueError, match="Give the perturbation in exactly one way"):
        lx.certify_prediction(network(2), x)
    with pytest.raises(ValueError, match=r"A decision needs outputs \(N, classes\)"):
        lx.certify_prediction(lambda x: x[:, :, None], x, eps=0.1)
