"""certify() against sampled attributions, exact optima, finite differences."""

import math

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

import lirpa_explain as lx
from tests.covering import covering
from tests.nets import ACTIVATIONS, MORE_ACTIVATIONS, NETS, make, mlp
from tests.tolerances import ROUNDING
from tests.truth import (
    assert_inside,
    assert_sound,
    ball,
    exact_gradient_range,
    flat,
    parts,
    values_at,
)

TOLERANCE = ROUNDING[torch.float64]
STEPS = 3  #: of optimised bounds: as sound as more
BALLS = ((math.inf, 0.05), (2, 0.2), (1, 0.4))


def attributions_of(model):
    return {
        "saliency": (Saliency(model), {"abs": True}),
        "gradient": (Saliency(model), {"abs": False}),
        "input x gradient": (InputXGradient(model), {}),
        "integrated gradients": (IntegratedGradients(model), {"n_steps": 4}),
        "smoothgrad": (NoiseTunnel(Saliency(model)),
                       {"nt_samples": 3, "stdevs": 0.1, "abs": False}),
        "smoothgrad squared": (NoiseTunnel(InputXGradient(model)),
                               {"nt_samples": 3, "stdevs": 0.1, "nt_type": "smoothgrad_sq"}),
        "smoothgrad squared ig": (NoiseTunnel(IntegratedGradients(model)),
                                  {"nt_samples": 2, "stdevs": 0.1, "nt_type": "smoothgrad_sq",
                                   "n_steps": 3}),
        "vargrad": (NoiseTunnel(InputXGradient(model)),
                    {"nt_samples": 4, "stdevs": 0.1, "nt_type": "vargrad"}),
    }


ATTRIBUTIONS = list(attributions_of(nn.Identity()))


#: Every net with every activation and method, and every two of them with every ball.
OF_GRADIENTS = covering(NETS, ACTIVATIONS, lx.METHODS, BALLS, strength=3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", NETS)
def test_gradients_of_sampled_points_lie_inside(name, activation):
    model, x = make(name, activation)
    attribution, keywords = Saliency(model), {"target": [0, 2, 1], "abs": False}
    certifier = lx.Certifier(attribution, x, iterations=STEPS, **keywords)
    for *net, method, (norm, eps) in OF_GRADIENTS:
        if net == [name, activation]:
            certificate = certifier.certify(x, eps=eps, norm=norm, method=method)
            assert_sound(certificate, attribution, ball(x, eps, norm), **keywords)


#: Every two of activation, method and radius.
OF_ACTIVATIONS = covering(MORE_ACTIVATIONS, lx.METHODS, (0.0, 0.03, 0.5))


@pytest.mark.parametrize("activation", MORE_ACTIVATIONS)
def test_gradients_of_all_activations_lie_inside(activation):
    model, x = make("mlp", activation, seed=6)
    attribution, keywords = Saliency(model), {"target": 1, "abs": False}
    certifier = lx.Certifier(attribution, x, iterations=STEPS, **keywords)
    for own, method, eps in OF_ACTIVATIONS:
        if own == activation:
            assert_sound(certifier.certify(x, eps=eps, method=method), attribution, ball(x, eps),
                         **keywords)


@pytest.mark.parametrize(("kind", "name", "activation", "method"),
                         covering(ATTRIBUTIONS, ["mlp", "two inputs"], ["relu", "tanh"],
                                  lx.METHODS))
def test_attributions_of_sampled_points_lie_inside(kind, name, activation, method):
    model, x = make(name, activation, seed=1)
    attribution, keywords = attributions_of(model)[kind]
    keywords["target"] = [1, 0, 2]
    if kind == "integrated gradients":
        keywords["baselines"] = (0.3,) * len(parts(x))
    torch.manual_seed(5)
    certificate = lx.certify(attribution, x, eps=0.05, method=method, iterations=STEPS, **keywords)
    nominal, *others = values_at(attribution, ball(x, 0.05, count=30), seed=5, **keywords)
    assert torch.equal(flat(certificate.nominal), nominal)
    assert_inside(certificate, torch.stack(others))


@pytest.mark.parametrize("kind", ATTRIBUTIONS)
def test_no_perturbation_gives_no_width(kind):
    model, x = make("cnn", "tanh", seed=2)
    attribution, keywords = attributions_of(model)[kind]
    certificate = lx.certify(attribution, x, eps=0.0, target=1, **keywords)
    assert (certificate.width <= TOLERANCE * certificate.nominal.abs().max()).all()


def test_a_batch_equals_its_rows(net):
    model, x = net
    targets = [2, 0, 1]
    certifier = lx.Certifier(IntegratedGradients(model), x, target=targets, iterations=STEPS,
                             n_steps=3)
    for method in lx.METHODS:
        together = certifier.certify(x, eps=0.03, method=method)
        for i in (0, 2):
            row = tuple(part[i: i + 1] for part in x) if isinstance(x, tuple) else x[i: i + 1]
            alone = certifier.certify(row, eps=0.03, method=method, target=targets[i])
            for side in ("lower", "upper"):
                torch.testing.assert_close(flat(getattr(alone, side)),
                                           flat(getattr(together, side))[i: i + 1],
                                           rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_interval_bounds_nest_and_linear_ones_stay_inside_them(activation):
    """Interval bounds nest as the ball grows; linear bounds are cut by them."""
    model, x = make("mlp", activation, seed=4)
    certifier = lx.Certifier(Saliency(model), x, target=0, abs=False)
    previous = None
    for eps in (0.0, 0.01, 0.05, 0.2):
        wide, narrow = (certifier.certify(x, eps=eps, method=method) for method in ("IBP", "CROWN"))
        assert ((narrow.lower >= wide.lower - 1e-12).all()
                and (narrow.upper <= wide.upper + 1e-12).all())
        if previous is not None:
            assert ((wide.lower <= previous.lower + 1e-12).all()
                    and (wide.upper >= previous.upper - 1e-12).all())
        previous = wide


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("hidden", [(8,), (7, 7), (6, 6, 6)], ids=str)
def test_exact_optima_lie_inside(hidden, seed):
    """The true range of each entry by mixed-integer programs, and how far bounds are."""
    model = mlp(4, *hidden, 2, seed=seed)
    x = torch.randn(1, 4, dtype=torch.float64)
    layers = [(layer.weight.detach(), layer.bias.detach()) for layer in model[::2]]
    low, high = exact_gradient_range(layers, x[0], 0.1,
                                     torch.tensor([1.0, 0.0], dtype=torch.float64))
    certifier = lx.Certifier(Saliency(model), x, target=0, abs=False, iterations=STEPS)
    for method in lx.METHODS:
        certificate = certifier.certify(x, eps=0.1, method=method)
        assert ((certificate.lower[0] <= low + TOLERANCE).all()
                and (certificate.upper[0] >= high - TOLERANCE).all())
    if len(hidden) == 1:  # one layer of kinks: the neurons are independent up to shared inputs
        assert certificate.width.mean() <= 1.1 * (high - low).mean() + TOLERANCE


def test_the_bounds_are_differentiable_in_the_parameters():
    model, x = make("mlp", "tanh", seed=5)
    certifier = lx.Certifier(IntegratedGradients(model), x, target=0, n_steps=2,
                             differentiable=True)

    def width():
        return certifier.certify(x, eps=0.05).width.mean()

    width().backward()
    weights = [model[0].weight, model[2].bias, model[4].weight]
    for weight in weights:
        step = 1e-6
        with torch.no_grad():
            weight[..., 0] += step
            above = width()
            weight[..., 0] -= 2 * step
            below = width()
            weight[..., 0] += step
        slope = (above - below) / (2 * step)
        torch.testing.assert_close(weight.grad[..., 0].sum(), slope, rtol=1e-5, atol=1e-8)


class Block(nn.Module):
    """A residual block with batch normalization."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
                                    nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))

    def forward(self, x):
        return torch.relu(x + self.branch(x))


def test_stable_neurons_add_no_roundings_of_loose_intervals():
    """Deep nets' upstream intervals are huge; at certain neurons they must not matter."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), *[Block() for _ in range(8)], nn.Flatten(),
                        nn.Linear(216, 2))
    net.eval()
    x = torch.rand(1, 3, 8, 8)
    certificates = []
    for dtype in (torch.float32, torch.float64):
        certifier = lx.Certifier(Saliency(net.to(dtype)), target=0, abs=False)
        certificates.append([certifier.certify(x.to(dtype), eps=eps) for eps in (0.0, 1e-7)])
    for rough, fine in zip(*certificates, strict=True):
        scale = 1e-5 * fine.nominal.abs().max()
        assert ((rough.lower - fine.lower).abs().max() <= scale
                and (rough.upper - fine.upper).abs().max() <= scale)


def test_roundings_are_relative_to_tightened_bounds():
    widths = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        model = nn.Sequential(*[nn.TransformerEncoderLayer(4, 1, 4, dropout=0.0, batch_first=True,
                                                           norm_first=True)
                                for _ in range(2)]).to(dtype).eval()
        certificate = lx.certify(Saliency(model), torch.rand(1, 2, 4).to(dtype), eps=1e-4,
                                 target=(0, 0), abs=False)
        widths.append(float(certificate.width.mean()))
    assert widths[0] <= 1.03 * widths[1]
