"""certify() leaves the model, the inputs and the process as they were, whether it succeeds or
fails.

`unchanged` takes the snapshot; tests/test_arguments.py uses it around every call that must fail.
"""

import contextlib
import random
import threading
import warnings

import numpy as np
import pytest
import torch
from captum.attr import (
    LRP,
    DeepLift,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    LayerIntegratedGradients,
    NoiseTunnel,
    Saliency,
)
from torch import nn
from torch.nn.modules import module as module_globals

import lirpa_explain as lx


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def values(tensor):
    return tensor.detach().as_subclass(torch.Tensor).cpu().numpy().tobytes()


def describe(tensor):
    """Identity, values, version, flags and gradient of a tensor."""
    grad = tensor.grad if tensor.is_leaf else None
    return (id(tensor), values(tensor), tensor._version, tensor.requires_grad, tensor.is_leaf,
            None if grad is None else (id(grad), values(grad)))


def attribute(value):
    """What an attribute of a module is, and holds if it is a number, a tensor or a list."""
    return describe(value) if isinstance(value, torch.Tensor) else (id(value), repr(value))


def hooks_of(owner):
    return {name: list(hooks.items())
            for name, hooks in vars(owner).items() if "hooks" in name and hooks}


def snapshot(model, inputs):
    """All that a call could leave behind, by name."""
    name, keys, *rest = np.random.get_state()
    return {
        "attributes": [{name: attribute(value) for name, value in vars(m).items()}
                       for m in model.modules()],
        "modules": [(id(m), m.training, sorted(vars(m)), hooks_of(m)) for m in model.modules()],
        "parameters": {name: describe(p)
                       for name, p in model.named_parameters(remove_duplicate=False)},
        "buffers": {name: describe(b) for name, b in model.named_buffers(remove_duplicate=False)},
        "inputs": [describe(x) for x in inputs if isinstance(x, torch.Tensor)],
        "torch's random state": values(torch.get_rng_state()),
        "numpy's random state": (name, keys.tobytes(), *rest),
        "python's random state": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "warning filters": list(warnings.filters),
        "global hooks": {name: list(hooks.items()) for name, hooks in vars(module_globals).items()
                         if name.startswith("_global") and hasattr(hooks, "items")},
        "exporter": {name: str(value)
                     for name, value in vars(lx._compat.exporter_globals()).items()},
        "backends": (torch._C._get_mkldnn_enabled(), torch.backends.cuda.math_sdp_enabled(),
                     torch.backends.cuda.flash_sdp_enabled(), torch.get_default_dtype(),
                     torch.get_num_threads()),
    }


@contextlib.contextmanager
def unchanged(model, inputs=()):
    """What is done within leaves no trace, and a graph that the caller has pending stays valid."""
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        pending = sum(p.square().sum() for p in trained)
    inputs = inputs if isinstance(inputs, tuple | list) else (inputs,)
    before = snapshot(model, inputs)
    yield
    after = snapshot(model, inputs)
    for name, was in before.items():
        assert after[name] == was, f"{name} changed"
    if trained:
        torch.autograd.grad(pending, trained)


DISTURBANCES = {
    "training mode": lambda model, x: model[1].train(),
    "parameter": lambda model, x: model[0].weight.data.add_(1),
    "version of a parameter": lambda model, x: model[0].weight.detach().add_(0),
    "another parameter": lambda model,
    x: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach().clone())),
    "requires_grad": lambda model, x: model[0].bias.requires_grad_(False),
    "gradient": lambda model, x: setattr(model[0].bias, "grad", torch.zeros_like(model[0].bias)),
    "buffer": lambda model, x: model[1].running_mean.add_(1),
    "hook": lambda model, x: model[0].register_forward_hook(lambda *args: None),
    "attribute": lambda model, x: setattr(model[0], "note", 1),
    "number": lambda model, x: setattr(model[1], "momentum", 0.3),
    "parameter's memory": lambda model,
    x: setattr(model[0].weight, "data", model[0].weight.data + 1),
    "python's random state": lambda model, x: random.random(),
    "input": lambda model, x: x.data.mul_(2),
    "input's requires_grad": lambda model, x: x.requires_grad_(),
    "torch's random state": lambda model, x: torch.rand(1),
    "numpy's random state": lambda model, x: np.random.rand(1),
    "warning filters": lambda model, x: warnings.simplefilter("ignore"),
}


@pytest.mark.parametrize("name", DISTURBANCES)
def test_unchanged_notices(name):
    model, x = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval(), torch.randn(3, 2)
    with pytest.raises(AssertionError, match="changed"), unchanged(model, x):
        DISTURBANCES[name](model, x)


class Everything(nn.Module):
    """Convolution, normalization, dropout, a shared layer, a buffer of its own, and hooks."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, padding=1)
        self.normalization = nn.BatchNorm2d(2)
        self.dropout = nn.Dropout(0.5)
        self.first = nn.Linear(18, 4)
        self.again = nn.Linear(4, 4)
        self.register_buffer("offset", torch.ones(4))

    def forward(self, x):
        hidden = self.first(
            self.dropout(torch.relu(self.normalization(self.convolution(x)))).flatten(1))
        return self.again(torch.tanh(self.again(hidden)) + self.offset)


def everything(frozen=False):
    """The model, as its user may have left it: with gradients, hooks and a frozen layer."""
    model = Everything().double().eval().requires_grad_(not frozen)
    model.convolution.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.first.register_forward_hook(lambda module, args, output: None)
    model.register_forward_pre_hook(lambda module, args: None)
    model.again.register_full_backward_hook(lambda module, inputs, outputs: None)
    return model


def images():
    """An input that its user is about to differentiate for."""
    x = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    x.grad = torch.full_like(x, 2.0)
    return x


CALLS = {
    "saliency": (Saliency, {}),
    "input_x_gradient": (InputXGradient, {"norm": 2}),
    "integrated_gradients": (IntegratedGradients, {"n_steps": 3, "batch_size": 2}),
    "ibp": (Saliency, {"method": "IBP"}),
    "differentiable": (Saliency, {"differentiable": True}),
    "progress": (Saliency, {"progress": True}),
    "noise_tunnel": (lambda model: NoiseTunnel(Saliency(model)), {"nt_samples": 3, "stdevs": 0.1}),
    "drawn_baselines": (lambda model: NoiseTunnel(IntegratedGradients(model)),
                        {"nt_samples": 3, "n_steps": 2, "draw_baseline_from_distrib": True,
                         "baselines": torch.randn(5, 1, 3, 3, dtype=torch.float64)}),
}


@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("name", CALLS)
def test_success_changes_nothing(name, frozen):
    kind, keywords = CALLS[name]
    model, x = everything(frozen), images()
    baselines = keywords.get("baselines")
    with unchanged(model, (x, baselines)):
        lx.certify(kind(model), x, eps=0.01, target=[0, 1], **keywords)


def test_failure_after_the_noise_was_drawn_changes_nothing():
    model, x = everything(), images()
    attribution = NoiseTunnel(IntegratedGradients(model))
    with unchanged(model, x), pytest.raises(ValueError, match="out of bounds"):
        lx.certify(attribution, x, eps=0.01, target=9, draw_baseline_from_distrib=True,
                   baselines=x.detach())


def test_training_mode_without_random_layers_is_kept():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.0), nn.Linear(4, 2)).train()
    x = torch.randn(2, 3)
    with unchanged(model, x):
        certificate = lx.certify(Saliency(model), x, eps=0.01, target=0)
    assert certificate.contains(Saliency(model).attribute(x.requires_grad_(), target=0)).all()


def test_pending_loss_can_be_differentiated_afterwards():
    model, x = everything(), images()
    model.zero_grad()
    loss = model(x).square().sum()
    expected = torch.autograd.grad(loss, model.first.weight, retain_graph=True)[0]
    lx.certify(IntegratedGradients(model), x, eps=0.01, target=0, n_steps=2)
    loss.backward()
    assert torch.equal(model.first.weight.grad, expected)


def test_input_with_a_history_keeps_it():
    model, leaf = everything(), images()
    x = leaf * 2
    with unchanged(model, x):
        lx.certify(Saliency(model), x, eps=0.01, target=0)
    torch.autograd.grad(x.sum(), leaf)


def test_bounds_need_no_gradient_unless_asked():
    model, x = everything(), images()
    plain = lx.certify(Saliency(model), x, eps=0.01, target=0)
    asked = lx.certify(Saliency(model), x, eps=0.01, target=0, differentiable=True)
    assert (not plain.lower.requires_grad and not plain.upper.requires_grad
            and not plain.nominal.requires_grad)
    with unchanged(model, x):
        gradients = torch.autograd.grad(asked.width.sum(), [model.first.weight, model.again.weight])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert torch.equal(asked.upper.detach(), plain.upper)


def test_bounds_share_no_memory_with_the_users_tensors():
    model, x = everything(), images()
    certificate = lx.certify(InputXGradient(model), x, eps=0.0, target=0)
    theirs = {t.untyped_storage().data_ptr() for t in (x, *model.parameters(), *model.buffers())}
    assert not theirs & {t.untyped_storage().data_ptr() for t in
                         (certificate.lower, certificate.upper, certificate.nominal)}


def test_noise_comes_from_the_callers_generator():
    """The draw is the one Captum would take next, and the caller can still take it."""
    model, x = everything(), images()
    attribution = NoiseTunnel(Saliency(model))
    torch.manual_seed(3)
    certificate = lx.certify(attribution, x, eps=0.01, target=0)
    assert torch.equal(certificate.nominal, attribution.attribute(x, target=0))
    torch.manual_seed(3)
    assert torch.equal(certificate.nominal, attribution.attribute(x, target=0))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_grad_mode_of_the_caller_does_not_matter(mode):
    model, x = everything(), images()
    attribution = IntegratedGradients(model)
    expected = lx.certify(attribution, x, eps=0.01, target=0, n_steps=2)
    with mode(), unchanged(model, x):
        certificate = lx.certify(attribution, x, eps=0.01, target=0, n_steps=2)
    for name in ("lower", "nominal", "upper"):
        assert torch.equal(getattr(certificate, name), getattr(expected, name))


def test_gradients_can_be_asked_for_under_no_grad():
    model, x = everything(), images()
    with torch.no_grad(), unchanged(model, x):
        certificate = lx.certify(Saliency(model), x, eps=0.01, target=0, differentiable=True)
    assert certificate.lower.requires_grad


@pytest.mark.parametrize("function", [lambda x: torch.tanh(2 * x).sum(1, keepdim=True), nn.Tanh()],
                         ids=["function", "module"])
def test_models_without_parameters(function):
    x = torch.randn(2, 3, dtype=torch.float64)
    attribution = Saliency(function)
    model = function if isinstance(function, nn.Module) else nn.Module()
    with unchanged(model, x):
        certificate = lx.certify(attribution, x, eps=0.1, target=0)
    assert torch.equal(certificate.nominal, attribution.attribute(x.requires_grad_(), target=0))


@pytest.mark.parametrize("progress", [True, False])
def test_progress(progress, capfd):
    model, x = everything(), images()
    lx.certify(IntegratedGradients(model), x, eps=0.01, target=0, n_steps=3, batch_size=2,
               progress=progress)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("/6" in err and "gradient" in err) if progress else err == ""


class Restless(nn.Module):
    """Counts its calls in every way, keeps what it saw, draws what it does not use, and adds hooks
    and attributes.
    """

    def __init__(self):
        super().__init__()
        self.first, self.activation, self.last = nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)
        self.register_buffer("in_place", torch.zeros(1))
        self.register_buffer("replaced", torch.tensor(0))
        self.plain, self.calls, self.seen, self.notes, self.cache = (torch.zeros(2), 0, [],
                                                                     {"calls": 0}, None)

    def forward(self, x):
        self.in_place += 1
        self.replaced = self.replaced + 1
        self.plain += 1
        self.calls += 1
        self.seen.append(x)
        self.notes["calls"] += 1
        self.notes["x"] = self.cache = self.late = x
        self.first.register_forward_hook(lambda *args: None)
        self.first.weight.data = self.first.weight.data.clone()
        random.random(), np.random.rand()
        return self.last(self.activation(self.first(x)))


POINTS = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1, 0])
SHORT = lx.BoundarySearch(radii=(1, 8, 64), pgd_steps=5, cw_steps=2, restarts=1, polish_steps=1)
BALL = {"eps": 0.01, "target": 0}


def explain(kind, **keywords):
    return lambda model: lx.certify(kind(model), POINTS, **BALL, **keywords)


PUBLIC = {
    "saliency": explain(Saliency),
    "function": lambda model: lx.certify(Saliency(lambda x: model(x)), POINTS, **BALL),
    "chunks": explain(IntegratedGradients, n_steps=4, internal_batch_size=4),
    "exact": explain(IntegratedGradients, n_steps=2, integral="exact"),
    "layer": explain(lambda model: LayerIntegratedGradients(model, model.first), n_steps=2),
    "deep_lift": explain(DeepLift),
    "guided": explain(GuidedBackprop),
    "tunnel": explain(lambda model: NoiseTunnel(Saliency(model)), nt_samples=2),
    "shap": explain(GradientShap, baselines=0 * POINTS, n_samples=2),
    "parameters": explain(Saliency, parameters=lx.ParameterBox(relative=0.01)),
    "spec": explain(Saliency, spec=torch.ones(1, 3)),
    "refine": lambda model: explain(Saliency)(model).sign(refine="spec"),
    "sandwich": lambda model: explain(Saliency)(model).sandwich("max_change",
                                                                settings={"steps": 2}),
    "certifier": lambda model: lx.Certifier(Saliency(model), POINTS, target=0),
    "bounds": lambda model: lx.Certifier(Saliency(model), target=0).bounds(POINTS, eps=0.01),
    "attack": lambda model: lx.attack(Saliency(model), POINTS, **BALL, objective="l2", steps=2,
                                      output_weight=0.1),
    "radius": lambda model: lx.radius(lx.Certifier(Saliency(model), target=0), POINTS,
                                      lambda c: c.sign().any(1), high=1.0, steps=1),
    "prediction": lambda model: lx.certify_prediction(model, POINTS, eps=0.01),
    "find": lambda model: lx.find_boundary(model, POINTS, search_options=SHORT),
    "gap": lambda model: lx.boundary_gap(lx.BoundarySaliency(model, SHORT), POINTS),
    "loss": lambda model: lx.training.explanation_loss(model, POINTS, LABELS, eps=0.01),
    "cross_entropy": lambda model: lx.training.certified_cross_entropy(model, POINTS, LABELS,
                                                                       eps=0.01),
    "capture": lambda model: lx.capture(model, (POINTS,)),
}


@pytest.mark.filterwarnings("ignore:Setting")
@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_model_does_to_itself_is_undone(name):
    model = Restless().double().eval()
    with unchanged(model, POINTS):
        PUBLIC[name](model)


BUT = {  # what else is left alone
       # Captum writes the parameters' own values into them, which counts as a version
       "lrp": (explain(LRP), {"parameters"}),
       "lrp_bounds": (lambda model: lx.Certifier(LRP(model), target=0).bounds(POINTS, eps=0.01),
                      {"parameters"}),
       # draws samples from torch's generator
       "sensitivity": (lambda model: lx.baseline_sensitivity(IntegratedGradients(
           model), POINTS, eps=0.1, target=0, n_steps=2, samples=1), {"torch's random state"}),
}


@pytest.mark.filterwarnings("ignore:Setting")
@pytest.mark.parametrize("name", BUT)
def test_what_a_model_does_to_itself_is_undone_but(name):
    call, but = BUT[name]
    model = Restless().double().eval()
    before, weights = snapshot(model, []), [p.detach().clone() for p in model.parameters()]
    call(model)
    after = snapshot(model, [])
    assert {part for part in before if before[part] != after[part]} <= but
    assert all(torch.equal(p, weight)
               for p, weight in zip(model.parameters(), weights, strict=True))


def test_running_statistics_of_training_mode():
    norm = nn.InstanceNorm1d(2, track_running_stats=True)
    model = nn.Sequential(nn.Unflatten(1, (2, 3)), norm, nn.Flatten(),
                          nn.Linear(6, 2)).double().train()
    x = torch.randn(2, 6, dtype=torch.float64)
    with unchanged(model, x):
        lx.certify(Saliency(model), x, **BALL)
    model(x)
    assert norm.running_mean.any()


class Growing(nn.Linear):
    """Its output depends on how often it was called."""

    def __init__(self):
        super().__init__(3, 2)
        self.register_buffer("calls", torch.tensor(1.0))

    def forward(self, x):
        self.calls = self.calls + 1
        return self.calls * super().forward(x)


def test_every_call_of_the_model_sees_the_same_state():
    model = Growing().double()
    certificate = lx.certify(Saliency(model), POINTS, **BALL, abs=False)
    torch.testing.assert_close(certificate.upper, 2 * model.weight[:1].detach().expand(4, 3))
    lx.certify(Saliency(model), POINTS, **BALL)
    assert model.calls == 1


class Renormed(nn.Linear):
    """Limits its weights whenever it is called."""

    def forward(self, x):
        self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.5)
        return super().forward(x)


def test_parameters_that_a_call_changes():
    model = Renormed(3, 2).double()
    model.weight.data += 1
    for call in (PUBLIC["saliency"], PUBLIC["function"], PUBLIC["prediction"], PUBLIC["capture"]):
        with unchanged(model, POINTS), pytest.raises(lx.UnsupportedOperation,
                                                     match="1 of its parameters"):
            call(model)
    model(POINTS)
    with unchanged(model, POINTS):
        PUBLIC["saliency"](model)


class Reused(nn.Module):
    """What Captum's DeepLift refuses half-way."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.relu = nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU()

    def forward(self, x):
        return self.again(self.relu(self.again(self.relu(self.first(x)))))


def without_a_rule():
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Softsign(), nn.Linear(3, 2))


@pytest.mark.filterwarnings("ignore:Setting")
@pytest.mark.parametrize(("kind", "make"), [(LRP, without_a_rule), (DeepLift, Reused)])
def test_captums_failures_leave_no_hooks_and_say_the_same_again(kind, make):
    model = make().double()
    said = []
    for _ in range(2):
        with unchanged(model, POINTS), pytest.raises((TypeError, ValueError),
                                                     match=kind.__name__) as caught:
            lx.certify(kind(model), POINTS, **BALL)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_models_of_other_threads_are_theirs():
    other = nn.BatchNorm1d(3).double().train()

    def model(x):
        thread = threading.Thread(target=other, args=(POINTS,))
        thread.start()
        thread.join()
        return x.tanh()

    lx.certify(Saliency(model), POINTS, **BALL)
    assert other.num_batches_tracked > 1
