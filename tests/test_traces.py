"""What is traced is what Captum computes, everywhere in the ball and as long as the trace is used;
or it is refused.

Truth is Captum's own attribution at points of the ball.
"""

import random

import numpy as np
import pytest
import torch
from captum.attr import DeepLift, LayerDeepLift, NeuronDeepLift, Saliency
from torch import nn
from torch.nn import functional as F

import lirpa_explain as lx
from lirpa_explain.fingerprint import fingerprinted
from tests.truth import assert_sound, ball

X, EPS = torch.tensor([[0.2, 0.3], [-0.1, 0.4]]).double(), 0.5


def assert_holds(certificate, attribution, x=X, eps=EPS, count=100, **keywords):
    """Nothing that Captum computes at sampled points lies outside."""
    assert_sound(certificate, attribution, ball(x, eps, count=count), **keywords)


class Joined(nn.Module):
    """What is made of an activation module, and of what it is fed with or gives."""

    def __init__(self, join, first=nn.ReLU, second=nn.Tanh):
        super().__init__()
        self.start, self.first, self.second, self.end = (nn.Linear(2, 3), first(), second(),
                                                         nn.Linear(3, 1))
        self.join = join

    def forward(self, x):
        return self.end(self.join(self, self.start(x)))


def chain(*layers):
    return nn.Sequential(nn.Linear(2, 3), *layers, nn.Linear(3, 1))


ADJACENT = {
    "two": lambda: chain(nn.ReLU(), nn.Tanh()),
    "in place": lambda: chain(nn.ReLU(inplace=True), nn.ReLU(inplace=True)),
    "three": lambda: chain(nn.Tanh(), nn.Sigmoid(), nn.ReLU()),
    "nothing between": lambda: chain(nn.ReLU(), nn.Identity(), nn.Flatten(), nn.Dropout(),
                                     nn.Softplus()),
    "a view between": lambda: Joined(lambda m, z: m.second(m.first(z).view(-1, 3, 1)).flatten(1)),
    "a function between": lambda: Joined(lambda m, z: m.second(F.elu(m.first(z)))),
    "at the end": lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Sigmoid(),
                                        nn.Tanh()),
    "at the start": lambda: nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Linear(2, 1)),
    "and once more": lambda: Joined(lambda m, z: m.second(m.first(z)) + F.relu(z)),
}

SHARED = {
    "x + act(x)": lambda: Joined(lambda m, z: m.first(z) + z),
    "x * act(x)": lambda: Joined(lambda m, z: m.first(z) * z, nn.Sigmoid),
    "two activations": lambda: Joined(lambda m, z: m.first(z) + m.second(z)),
    "behind another": lambda: Joined(lambda m, z: (lambda a: m.second(a) + a)(m.first(z))),
}


def made(net):
    torch.manual_seed(1)
    return net().double().eval()


@pytest.mark.parametrize("name", [name for name in ADJACENT if name != "and once more"])
@pytest.mark.filterwarnings("ignore::lirpa_explain.CaptumWarning")
def test_deep_lift_where_activations_stand_behind_each_other(name):
    """Captum's hooks give the first the plain derivative of the second, not its secant."""
    attribution, baselines = DeepLift(made(ADJACENT[name])), torch.randn(1, 2).double().expand(2, 2)
    for eps in (0.01, EPS):
        certificate = lx.certify(attribution, X, eps=eps, baselines=baselines, target=0)
        assert_holds(certificate, attribution, eps=eps, baselines=baselines, target=0)


@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("kind", [LayerDeepLift, NeuronDeepLift])
def test_deep_lift_at_layers_that_stand_behind_each_other(kind, index, to_input):
    model = made(ADJACENT["two"])
    attribution, baselines = kind(model, model[1 + index]), torch.randn(1, 2).double().expand(2, 2)
    keywords = {"target": 0, "attribute_to_layer_input": to_input} if kind is LayerDeepLift else \
        {"neuron_selector": 1, "attribute_to_neuron_input": to_input}
    certificate = lx.certify(attribution, X, eps=EPS, baselines=baselines, **keywords)
    assert_holds(certificate, attribution, baselines=baselines, **keywords)


@pytest.mark.parametrize("name", [*SHARED, "and once more"])
def test_deep_lift_where_something_else_reads_an_activations_input(name):
    """Captum's hook on that input replaces the gradient of both."""
    attribution = DeepLift(made((SHARED | ADJACENT)[name]))
    with pytest.raises(lx.UnsupportedAttribution,
                       match="not only the activation module .* reads its input"):
        lx.certify(attribution, X, eps=EPS, baselines=torch.zeros(2, 2).double(), target=0)


def test_deep_lift_where_the_first_of_two_activations_is_steep():
    with pytest.raises(lx.UnsupportedAttribution, match="slope exceeds 1"):
        lx.certify(DeepLift(made(lambda: chain(nn.LeakyReLU(3.0), nn.ReLU()))), X, eps=EPS,
                   target=0, baselines=torch.zeros(2, 2).double())


def test_the_trace_is_compared_with_captum_at_other_inputs_too(monkeypatch):
    """An attribution that is what its planner says at the input, and nowhere else."""

    class Odd(Saliency):
        def attribute(self, inputs, *arguments, **keywords):
            result = super().attribute(inputs, *arguments, **keywords)
            return result + (inputs - X).clamp(min=0.1) - 0.1

    monkeypatch.setitem(lx.attributions.ATTRIBUTIONS, Odd, lx.attributions.ATTRIBUTIONS[Saliency])
    model = made(ADJACENT["two"])
    with pytest.raises(lx.SoundnessError, match="At another input of the ball"):
        lx.certify(Odd(model), X, eps=EPS, target=0, abs=False)


class Shift(nn.Module):
    """Numbers and tensors that are no parameters, in all the places where a model can have them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("moved", torch.zeros(()).double())
        self.number, self.tensor, self.nested = 0.0, torch.zeros(()).double(), {"by": [0.0,
                                                                                       np.zeros(1)]}

    def forward(self, x):
        by = self.moved + self.number + self.tensor + self.nested["by"][0] + float(
            self.nested["by"][1][0])
        return torch.relu(x - by)


def moved(model):
    model[0].nested["by"][0] = 0.4


CHANGES = {
    "slope": (lambda: nn.LeakyReLU(0.1), lambda m: setattr(m[0], "negative_slope", 5.0)),
    "number": (Shift, lambda m: setattr(m[0], "number", 0.4)),
    "tensor": (Shift, lambda m: m[0].tensor.fill_(0.4)),
    "another tensor": (Shift, lambda m: setattr(m[0], "tensor", torch.full((), 0.4).double())),
    "nested number": (Shift, moved),
    "array": (Shift, lambda m: m[0].nested["by"][1].fill(0.4)),
    "buffer": (Shift, lambda m: m[0].moved.fill_(0.4)),
    "buffer past its version": (Shift, lambda m: m[0].moved.data.fill_(0.4)),
    "another module": (nn.ReLU, lambda m: m.__setitem__(0, nn.LeakyReLU(5.0))),
    "a hook": (nn.ReLU, lambda m: m[0].register_forward_hook(lambda module, given,
                                                             result: torch.tanh(result))),
    "its function": (nn.ReLU, lambda m: setattr(m[0], "forward", torch.tanh)),
}
WRAPPINGS = {"model": lambda m: m, "method": lambda m: m.forward,
             "lambda": lambda m: lambda x: m(x)}


@pytest.mark.parametrize("wrap", WRAPPINGS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_certifier_notices_what_changes_in_the_model(change, wrap):
    kind, act = CHANGES[change]
    model = nn.Sequential(kind(), nn.Linear(2, 1)).double().eval()
    attribution = Saliency(WRAPPINGS[wrap](model))
    certifier = lx.Certifier(attribution, target=0, abs=False)
    certifier.certify(X, eps=EPS)
    act(model)
    certificate = certifier.certify(X, eps=EPS)
    assert_holds(certificate, attribution, target=0, abs=False)


class Shifted(nn.Module):
    """A module that TorchScript compiles, with a number of its own."""

    shift: float

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.shift = nn.Linear(2, 3), nn.BatchNorm1d(3), 0.1

    def forward(self, x):
        return torch.relu(self.norm(self.layer(x)) - self.shift)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("compiled", ["script", "trace"])
def test_models_of_torchscript_are_certified_as_they_are_now(compiled):
    model = Shifted().double().eval()
    model = torch.jit.script(model) if compiled == "script" else torch.jit.trace(model, X)
    attribution = Saliency(model)
    certifier = lx.Certifier(attribution, target=1, abs=False)
    assert_holds(certifier.certify(X, eps=EPS), attribution, target=1, abs=False)
    model.layer.weight.data *= -1
    if compiled == "script":
        model.shift = -0.3
    assert_holds(certifier.certify(X, eps=EPS), attribution, target=1, abs=False)


def test_a_certifier_notices_what_changes_in_an_argument():
    linear, settings = nn.Linear(2, 1).double(), {"slope": [0.1]}
    attribution = Saliency(lambda x, given: linear(torch.where(x > 0, x, given["slope"][0] * x)))
    certifier = lx.Certifier(attribution, target=0, abs=False, additional_forward_args=(settings,))
    certifier.certify(X, eps=EPS)
    settings["slope"][0] = 5.0
    assert_holds(certifier.certify(X, eps=EPS), attribution, target=0, abs=False,
                 additional_forward_args=(settings,))


def test_a_loss_notices_what_changes_in_the_model():
    model, y = nn.Sequential(nn.LeakyReLU(0.1), nn.Linear(2, 1)).double(), torch.tensor([0, 0])
    kept = lx.training.ExplanationLoss(model, eps=EPS)
    kept(X, y)
    lx.training.certified_cross_entropy(model, X, y, eps=EPS)
    model[0].negative_slope = 5.0
    assert torch.equal(kept(X, y), lx.training.ExplanationLoss(model, eps=EPS)(X, y))
    fresh = nn.Sequential(nn.LeakyReLU(5.0), model[1])
    assert torch.equal(*(lx.training.certified_cross_entropy(m, X, y, eps=EPS)
                         for m in (model, fresh)))


class Notes(nn.Module):
    """Keeps its last activations, as many models do."""

    def forward(self, x):
        self.last = torch.relu(x)
        return self.last


def test_what_a_forward_pass_notes_is_no_change():
    model = nn.Sequential(Notes(), nn.Linear(2, 1)).double()
    _, made_with = fingerprinted(lambda: model(X), model=model)
    model(X + 1)
    assert made_with.matches(model=model)
    model.register_buffer("more", torch.zeros(1))
    assert not made_with.matches(model=model)


READOUTS = {
    "numpy": lambda x: torch.from_numpy(x.detach().numpy().max(1, keepdims=True)),
    "tolist": lambda x: torch.tensor([[max(row)] for row in x.tolist()]).double(),
    "asarray": lambda x: torch.from_numpy(np.asarray((2 * x).detach()).max(1, keepdims=True)) / 2,
    "dlpack": lambda x: torch.from_numpy(np.from_dlpack(x.detach()).max(1, keepdims=True)),
    "item": lambda x: x.max().item(),
    "if": lambda x: 1.0 if x.max() > 0 else 2.0,
}


@pytest.mark.parametrize("name", READOUTS)
def test_values_that_a_model_reads_out_are_refused_with_its_line(name):
    read = READOUTS[name]
    linear = nn.Linear(2, 1).double()

    def forward(x):
        return linear(x / read(x))

    with pytest.raises(lx.UnsupportedOperation, match="test_traces.py"):
        lx.certify(Saliency(forward), X.abs(), eps=0.1, target=0)


def test_constants_may_be_read_out():
    steps = torch.tensor([1.0, 2.0]).double()
    linear = nn.Linear(2, 1).double()
    attribution = Saliency(lambda x: linear(torch.tanh(x * sum((2 * steps).tolist()))))
    assert_holds(lx.certify(attribution, X, eps=0.1, target=0), attribution, eps=0.1, target=0)


RANDOM = {
    "randperm": lambda x: x[:, torch.randperm(2)],
    "randint": lambda x: x * torch.randint(1, 3, (2,)),
    "randint_like": lambda x: x * torch.randint_like(x, 1, 3),
    "gumbel_softmax": lambda x: F.gumbel_softmax(x, dim=1),
    "exponential_": lambda x: x * torch.empty_like(x).exponential_(),
    "uniform_": lambda x: x * torch.empty(2).double().uniform_(1, 2),
    "normal_": lambda x: x * torch.empty(2).double().normal_(),
    "poisson": lambda x: x * torch.poisson(torch.ones(2).double()),
    "binomial": lambda x: x * torch.binomial(3 * torch.ones(2), torch.ones(2) / 2).double(),
    "multinomial": lambda x: x * torch.multinomial(torch.ones(2), 2).double(),
    "fractional_max_pool2d": lambda x: F.fractional_max_pool2d(
        x.reshape(-1, 1, 1, 2).expand(-1, 1, 4, 2), (2, 1), output_size=(2, 1)).flatten(1),
    "numpy": lambda x: x[:, np.random.permutation(2).copy()],
    "python": lambda x: x * random.choice([1.0, 2.0]),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_operations_are_refused_whatever_they_draw(name):
    linear, draw = nn.Linear(2, 1).double(), RANDOM[name]
    state = random.getstate()
    for seed in range(3):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        with pytest.raises(lx.TrainingModeError, match="draws random numbers"):
            lx.certify(Saliency(lambda x: linear(draw(torch.relu(x)))), X, eps=0.1, target=0)
    random.setstate(state)


def test_a_generator_of_the_models_own_is_noticed():
    own, linear = np.random.default_rng(0), nn.Linear(2, 1).double()
    with pytest.raises((lx.UnsupportedOperation, lx.SoundnessError), match="not a fixed function"):
        lx.certify(Saliency(lambda x: linear(torch.relu(x) * own.random())), X, eps=0.1, target=0)
