"""DeepLift through max pooling and softmax modules: Captum's values of single examples."""

import pytest
import torch
from captum.attr import (
    DeepLift,
    DeepLiftShap,
    LayerDeepLift,
    NeuronDeepLift,
)
from torch import nn

import lirpa_explain as lx
from tests.truth import assert_inside, ball, flat

# Captum's own, of hooks and settings
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SHAPE = (2, 4, 4)


def image(*behind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), *behind).double().eval()


def head(size, classes=2):
    return [nn.Flatten(), nn.Linear(size, classes)]


MODELS = {
    "before an activation": (image(nn.MaxPool2d(2), nn.ReLU(), *head(12)), SHAPE),
    "before a smooth activation": (image(nn.MaxPool2d(2), nn.Tanh(), *head(12)), SHAPE),
    "behind an activation": (image(nn.ReLU(), nn.MaxPool2d(2), *head(12)), SHAPE),
    "between two": (image(nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(), *head(12)), SHAPE),
    "alone": (image(nn.MaxPool2d(2), *head(12, 4), nn.ReLU(), nn.Linear(4, 2)), SHAPE),
    "two": (image(nn.MaxPool2d(2), nn.Conv2d(3, 3, 1), nn.Tanh(), nn.Conv2d(3, 3, 1),
                  nn.MaxPool2d(2), *head(3)), SHAPE),
    "one behind the other": (image(nn.MaxPool2d((1, 2)), nn.MaxPool2d((2, 1)), *head(12)), SHAPE),
    "padding": (image(nn.MaxPool2d(2, padding=1), *head(27)), SHAPE),
    "overlapping behind an activation": (image(nn.ReLU(), nn.MaxPool2d(3, 1), *head(12)), SHAPE),
    "1d": (nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.MaxPool1d(2), nn.ReLU(),
                         *head(12)).double(), (2, 8)),
    "softmax": (nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.Softmax(1)).double(),
                (4,)),
    "softmax within": (nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1), nn.Linear(3, 2)).double(), (4,
    )),
}


def example(shape, baseline="random"):
    generator = torch.Generator().manual_seed(1)
    x, b = (torch.randn(1, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, b if baseline == "random" else torch.zeros_like(b)


def check(attribution, x, eps, **keywords):
    """The certificate holds at points of the ball, each given to Captum by itself."""
    certificate = lx.certify(attribution, x, eps=eps, **keywords)
    torch.testing.assert_close(flat(certificate.nominal),
                               flat(attribution.attribute(x, **keywords)), rtol=1e-9, atol=1e-12)
    points, = ball(x, eps, count=24)
    for point in points:
        value = flat(attribution.attribute(point, **keywords))
        slack = 1e-9 * float(value.abs().max())
        assert bool((flat(certificate.lower) <= value + slack).all())
        assert bool((value - slack <= flat(certificate.upper)).all())
    return certificate


@pytest.mark.parametrize("eps", [0.003, 0.1])
@pytest.mark.parametrize("baseline", ["random", "zero"])
@pytest.mark.parametrize("name", MODELS)
def test_one_example(name, baseline, eps):
    model, shape = MODELS[name]
    x, b = example(shape, baseline)
    certificate = check(DeepLift(model), x, eps, baselines=b, target=1)
    if eps == 0.003:
        assert bool(torch.isfinite(certificate.width).all())
        assert_tight(DeepLift(model), x, baselines=b, target=1)


def assert_tight(attribution, x, **keywords):
    """No more than a point, or next to nothing, is known up to as much."""
    for eps, most in ((0.0, 1e-6), (1e-7, 1e-4)):
        certificate = lx.certify(attribution, x, eps=eps, **keywords)
        assert float(certificate.width.max()) <= most * float(certificate.nominal.abs().max())


def test_of_windows_of_zeros_torch_takes_the_first_entry():
    """Behind ReLUs that are dead for the input, and not for the baseline."""
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), *head(8)).double()
    x, b = example(SHAPE)
    x[0, 0] = -x[0, 0].abs() - 0.5
    check(DeepLift(model), x, 0.1, baselines=b.abs(), target=1)
    assert_tight(DeepLift(model), x, baselines=b.abs(), target=1)


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN-Optimized"])
@pytest.mark.parametrize("name", ["before an activation", "alone", "softmax within"])
def test_other_methods(name, method):
    model, shape = MODELS[name]
    x, b = example(shape)
    certificate = lx.certify(DeepLift(model), x, eps=0.02, method=method, iterations=3, baselines=b,
                             target=1)
    points, = ball(x, 0.02, count=24)
    for point in points:
        assert_inside(certificate, flat(DeepLift(model).attribute(point, baselines=b, target=1)))


def test_equal_entries_take_the_plain_gradient():
    """Where an input is its reference, and near to it, Captum divides by nothing."""
    model, shape = MODELS["alone"]
    x, b = example(shape)
    b[0, :, :2] = x[0, :, :2]
    check(DeepLift(model), x, 0.05, baselines=b, target=0)
    check(DeepLift(nn.Sequential(nn.MaxPool2d(2), *head(8)).double()), x, 0.05, baselines=b,
          target=0)


def test_layers_neurons_and_batches():
    model, shape = MODELS["before an activation"]
    x, b = example(shape)
    check(LayerDeepLift(model, model[0]), x, 0.02, baselines=b, target=1)
    check(NeuronDeepLift(model, model[1]), x, 0.02, baselines=b, neuron_selector=(1, 0, 1))
    check(DeepLiftShap(model), x, 0.02, baselines=torch.cat([b, -b]), target=1)
    both = torch.cat([x, x.flip(2)])
    together = check(DeepLift(model), both, 0.02, baselines=b, target=torch.tensor([0, 1]))
    alone = lx.certify(DeepLift(model), both[1:], eps=0.02, baselines=b, target=1)
    torch.testing.assert_close(alone.lower, together.lower[1:], rtol=1e-9, atol=1e-12)


def test_batches_that_captum_mixes_are_refused():
    model, shape = MODELS["softmax within"]
    x, b = example(shape)
    with pytest.raises(lx.UnsupportedAttribution,
                       match=r"batch of 2 .*1 \(Softmax\).*one example at a time"):
        lx.certify(DeepLift(model), torch.cat([x, -x]), eps=0.01, baselines=b, target=1)
    with pytest.raises(lx.UnsupportedAttribution, match="one baseline"):
        lx.certify(DeepLiftShap(model), x, eps=0.01, baselines=torch.cat([b, -b]), target=1)
    model = nn.Sequential(nn.MaxPool2d(2), *head(8)).double()
    x, b = example(SHAPE)
    both = torch.cat([x, x])
    both[1, 0, 0, 0] = b[0, 0, 0, 0] = 9.0  # the maximum of its window, and the reference's own
    with pytest.raises(lx.UnsupportedAttribution, match=r"0 \(MaxPool2d\)"):
        lx.certify(DeepLift(model, multiply_by_inputs=False), both, eps=0.01, baselines=b, target=1)


class Functional(nn.Module):
    """An activation behind the pooling that Captum does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.pool(x)).flatten(1))


@pytest.mark.parametrize(("model", "words"), [
    (Functional(), "pool .*reads the gradient of the reference"),
    (image(nn.MaxPool2d(3, 1), *head(12)), "1 .*windows overlap"),
    (nn.Sequential(nn.Flatten(), nn.Linear(32, 3), nn.ReLU(), nn.Softmax(1)), "behind 2 .*softmax"),
])
def test_what_has_no_bound(model, words):
    x, b = example(SHAPE)
    with pytest.raises(lx.UnsupportedAttribution, match=words):
        lx.certify(DeepLift(model.double()), x, eps=0.01, baselines=b, target=1)
