"""certify() against truth from elsewhere: sampled attributions, exact optima, finite differences."""

import functools
import math

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

import lirpa_explain as lx
from tests.reference import exact_gradient_range, sample_ball

TOLERANCE = 1e-9
STEPS = 3  #: of optimised bounds: as sound as more

ACTIVATIONS = {
    "relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.1), "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
    "softplus": lambda: nn.Softplus(2.0),
}
MORE_ACTIVATIONS = {
    "gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish, "elu": nn.ELU, "selu": nn.SELU, "celu": lambda: nn.CELU(0.5),
    "hardtanh": nn.Hardtanh, "relu6": nn.ReLU6, "hardswish": nn.Hardswish, "hardsigmoid": nn.Hardsigmoid,
    "logsigmoid": nn.LogSigmoid, "softsign": nn.Softsign, "tanhshrink": nn.Tanhshrink, "prelu": nn.PReLU,
    "softshrink": nn.Softshrink, "hardshrink": nn.Hardshrink, "threshold": lambda: nn.Threshold(0.1, 0.5),
}


def mlp(activation):
    return nn.Sequential(nn.Linear(5, 7), activation(), nn.Linear(7, 6), activation(), nn.Linear(6, 3)), [(5,)]


def cnn(activation):
    net = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), activation(),
                        nn.Conv2d(4, 4, 3, padding=1, groups=2), activation(), nn.MaxPool2d(2, 1), nn.AvgPool2d(2),
                        nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
    return net, [(2, 6, 6)]


class Residual(nn.Module):
    """Two residual blocks, one of them around a reused layer, and a functional activation."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.activation = activation()

    def forward(self, x):
        x = self.activation(self.first(x))
        for _ in range(2):
            x = x + self.activation(self.block(x)) / 2
        return self.last(x)


class TwoInputs(nn.Module):
    """A picture and a vector, joined by concatenation."""

    def __init__(self, activation):
        super().__init__()
        self.picture = nn.Sequential(nn.Conv2d(1, 2, 3), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.vector, self.head = nn.Linear(3, 3), nn.Linear(5, 3)
        self.activation = activation()

    def forward(self, picture, vector):
        joined = torch.cat([self.picture(picture), self.activation(self.vector(vector))], 1)
        return self.head(joined)


MODELS = {
    "mlp": mlp, "cnn": cnn,
    "residual": lambda activation: (Residual(activation), [(4,)]),
    "two inputs": lambda activation: (TwoInputs(activation), [(1, 5, 5), (3,)]),
}


def make(name, activation, seed=0, examples=3):
    torch.manual_seed(seed)
    model, shapes = MODELS[name]((ACTIVATIONS | MORE_ACTIVATIONS)[activation])
    model = model.double().eval()
    for weight in model.parameters():  # larger weights than the default: more kinks in the ball
        weight.data.mul_(2)
    xs = tuple(torch.randn(examples, *shape, dtype=torch.float64) for shape in shapes)
    return model, xs if len(xs) > 1 else xs[0]


def attributions_of(model):
    return {
        "saliency": (Saliency(model), {"abs": True}),
        "gradient": (Saliency(model), {"abs": False}),
        "input x gradient": (InputXGradient(model), {}),
        "integrated gradients": (IntegratedGradients(model), {"n_steps": 4}),
        "smoothgrad": (NoiseTunnel(Saliency(model)), {"nt_samples": 3, "stdevs": 0.1, "abs": False}),
        "smoothgrad squared": (NoiseTunnel(InputXGradient(model)), {"nt_samples": 3, "stdevs": 0.1, "nt_type":
                                                                    "smoothgrad_sq"}),
        "smoothgrad squared ig": (NoiseTunnel(IntegratedGradients(model)),
                                  {"nt_samples": 2, "stdevs": 0.1, "nt_type": "smoothgrad_sq", "n_steps": 3}),
        "vargrad": (NoiseTunnel(InputXGradient(model)), {"nt_samples": 4, "stdevs": 0.1, "nt_type": "vargrad"}),
    }


ATTRIBUTIONS = list(attributions_of(nn.Identity()))


def tupled(x):
    return x if isinstance(x, tuple) else (x,)


def flat(x):
    return torch.cat([part.flatten(1) for part in tupled(x)], 1)


def points(x, radius, norm, count, seed=0):
    """Points of the ball around each input."""
    generator = torch.Generator().manual_seed(seed)
    balls = [sample_ball(part, radius, norm, count, generator) for part in tupled(x)]
    for drawn in zip(*balls, strict=True):
        yield drawn if isinstance(x, tuple) else drawn[0]


def assert_sound(certificate, attribute, x, radius, norm, count=60):
    lower, upper = flat(certificate.lower), flat(certificate.upper)
    for point in points(x, radius, norm, count):
        value = flat(attribute(point))
        slack = TOLERANCE * torch.maximum(lower.abs(), upper.abs()).amax(1, keepdim=True).clamp(min=1e-3)
        assert ((value >= lower - slack) & (value <= upper + slack)).all()


@pytest.mark.parametrize("method", lx.METHODS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_sampled_points_lie_inside(name, activation, method):
    model, x = make(name, activation)
    target = [0, 2, 1]
    for norm, eps in ((math.inf, 0.05), (2, 0.2), (1, 0.4)):
        certificate = lx.certify(Saliency(model), x, eps=eps, norm=norm, method=method, iterations=STEPS,
                                 target=target, abs=False)
        assert_sound(certificate, lambda p: Saliency(model).attribute(p, target=target, abs=False), x, eps, norm)


@pytest.mark.parametrize("method", lx.METHODS)
@pytest.mark.parametrize("activation", MORE_ACTIVATIONS)
def test_gradients_of_all_activations_lie_inside(activation, method):
    model, x = make("mlp", activation, seed=6)
    for eps in (0.0, 0.03, 0.5):
        certificate = lx.certify(Saliency(model), x, eps=eps, method=method, iterations=STEPS, target=1, abs=False)
        assert_sound(certificate, lambda p: Saliency(model).attribute(p, target=1, abs=False), x, eps, math.inf)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", ["mlp", "two inputs"])
@pytest.mark.parametrize("kind", ATTRIBUTIONS)
def test_attributions_of_sampled_points_lie_inside(name, activation, kind):
    model, x = make(name, activation, seed=1)
    attribution, keywords = attributions_of(model)[kind]
    if kind == "integrated gradients":
        keywords["baselines"] = (0.3,) * len(tupled(x))

    def attribute(point):
        torch.manual_seed(5)
        return attribution.attribute(point, target=[1, 0, 2], **keywords)

    for method in lx.METHODS:
        torch.manual_seed(5)
        certificate = lx.certify(attribution, x, eps=0.05, method=method, iterations=STEPS, target=[1, 0, 2],
                                 **keywords)
        assert torch.equal(flat(certificate.nominal), flat(attribute(x)))
        assert_sound(certificate, attribute, x, 0.05, math.inf, count=30)


@pytest.mark.parametrize("kind", ATTRIBUTIONS)
def test_no_perturbation_gives_no_width(kind):
    model, x = make("cnn", "tanh", seed=2)
    attribution, keywords = attributions_of(model)[kind]
    certificate = lx.certify(attribution, x, eps=0.0, target=1, **keywords)
    assert (certificate.width <= TOLERANCE * certificate.nominal.abs().max()).all()


@pytest.mark.parametrize("method", lx.METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_equals_its_rows(name, method):
    model, x = make(name, "relu", seed=3)
    targets = [2, 0, 1]
    bounds = functools.partial(lx.certify, IntegratedGradients(model), eps=0.03, method=method, iterations=STEPS,
                               n_steps=3)
    together = bounds(x, target=targets)
    for i, target in enumerate(targets):
        row = tuple(part[i: i + 1] for part in x) if isinstance(x, tuple) else x[i: i + 1]
        alone = bounds(row, target=target)
        for side in ("lower", "upper"):
            torch.testing.assert_close(flat(getattr(alone, side)), flat(getattr(together, side))[i: i + 1],
                                       rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_interval_bounds_nest_and_linear_ones_stay_inside_them(activation):
    """Interval bounds nest as the ball grows; the final linear bounds are cut by interval bounds."""
    model, x = make("mlp", activation, seed=4)
    previous = None
    for eps in (0.0, 0.01, 0.05, 0.2):
        wide = lx.certify(Saliency(model), x, eps=eps, method="IBP", target=0, abs=False)
        narrow = lx.certify(Saliency(model), x, eps=eps, method="CROWN", target=0, abs=False)
        assert (narrow.lower >= wide.lower - 1e-12).all() and (narrow.upper <= wide.upper + 1e-12).all()
        if previous is not None:
            assert (wide.lower <= previous.lower + 1e-12).all() and (wide.upper >= previous.upper - 1e-12).all()
        previous = wide


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("hidden", [(8,), (7, 7), (6, 6, 6)], ids=str)
def test_exact_optima_lie_inside(hidden, seed):
    """The true range of every entry, by mixed-integer programming; also how far from it the bounds are."""
    torch.manual_seed(seed)
    sizes = [4, *hidden, 2]
    linear = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    model = nn.Sequential(*[m for layer in linear for m in (layer, nn.ReLU())][:-1]).double()
    x = torch.randn(1, 4, dtype=torch.float64)
    layers = [(layer.weight.detach(), layer.bias.detach()) for layer in linear]
    low, high = exact_gradient_range(layers, x[0], 0.1, torch.tensor([1.0, 0.0], dtype=torch.float64))
    for method in lx.METHODS:
        certificate = lx.certify(Saliency(model), x, eps=0.1, target=0, abs=False, method=method, iterations=STEPS)
        assert (certificate.lower[0] <= low + TOLERANCE).all() and (certificate.upper[0] >= high - TOLERANCE).all()
    if len(hidden) == 1:  # one layer of kinks: the neurons are independent up to shared inputs
        assert certificate.width.mean() <= 1.1 * (high - low).mean() + TOLERANCE


def test_the_bounds_are_differentiable_in_the_parameters():
    model, x = make("mlp", "tanh", seed=5)

    def width():
        attribution = IntegratedGradients(model)
        return lx.certify(attribution, x, eps=0.05, target=0, n_steps=2, differentiable=True).width.mean()

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
    """In a deep net the intervals of upstream gradients are huge; at a neuron that is certain they must not matter."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), *[Block() for _ in range(8)], nn.Flatten(), nn.Linear(216, 2))
    net.eval()
    x = torch.rand(1, 3, 8, 8)
    certificates = []
    for dtype in (torch.float32, torch.float64):
        certifier = lx.Certifier(Saliency(net.to(dtype)), target=0, abs=False)
        certificates.append([certifier.certify(x.to(dtype), eps=eps) for eps in (0.0, 1e-7)])
    for rough, fine in zip(*certificates, strict=True):
        scale = 1e-5 * fine.nominal.abs().max()
        assert (rough.lower - fine.lower).abs().max() <= scale and (rough.upper - fine.upper).abs().max() <= scale


def test_roundings_are_relative_to_tightened_bounds():
    widths = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        model = nn.Sequential(*[nn.TransformerEncoderLayer(4, 1, 4, dropout=0.0, batch_first=True, norm_first=True)
                                for _ in range(2)]).to(dtype).eval()
        certificate = lx.certify(Saliency(model), torch.rand(1, 2, 4).to(dtype), eps=1e-4, target=(0, 0), abs=False)
        widths.append(float(certificate.width.mean()))
    assert widths[0] <= 1.03 * widths[1]
