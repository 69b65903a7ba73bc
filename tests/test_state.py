"""certify() leaves the model, the inputs and the process as they were, whether it succeeds or fails.

`unchanged` takes the snapshot; tests/test_arguments.py uses it around every call that must fail.
"""

import contextlib
import random
import warnings

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
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


def hooks_of(owner):
    return {name: list(hooks.items()) for name, hooks in vars(owner).items() if "hooks" in name and hooks}


def snapshot(model, inputs):
    """All that a call could leave behind, by name."""
    name, keys, *rest = np.random.get_state()
    return {
        "modules": [(id(m), m.training, sorted(vars(m)), hooks_of(m)) for m in model.modules()],
        "parameters": {name: describe(p) for name, p in model.named_parameters(remove_duplicate=False)},
        "buffers": {name: describe(b) for name, b in model.named_buffers(remove_duplicate=False)},
        "inputs": [describe(x) for x in inputs if isinstance(x, torch.Tensor)],
        "torch's random state": values(torch.get_rng_state()),
        "numpy's random state": (name, keys.tobytes(), *rest),
        "python's random state": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "warning filters": list(warnings.filters),
        "global hooks": {name: list(hooks.items()) for name, hooks in vars(module_globals).items()
                         if name.startswith("_global") and hasattr(hooks, "items")},
        "exporter": {name: str(value) for name, value in vars(lx._compat.exporter_globals()).items()},
        "backends": (torch._C._get_mkldnn_enabled(), torch.backends.cuda.math_sdp_enabled(),
                     torch.backends.cuda.flash_sdp_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
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
    "another parameter": lambda model, x: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach().clone())),
    "requires_grad": lambda model, x: model[0].bias.requires_grad_(False),
    "gradient": lambda model, x: setattr(model[0].bias, "grad", torch.zeros_like(model[0].bias)),
    "buffer": lambda model, x: model[1].running_mean.add_(1),
    "hook": lambda model, x: model[0].register_forward_hook(lambda *args: None),
    "attribute": lambda model, x: setattr(model[0], "note", 1),
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
        hidden = self.first(self.dropout(torch.relu(self.normalization(self.convolution(x)))).flatten(1))
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
        lx.certify(attribution, x, eps=0.01, target=9, draw_baseline_from_distrib=True, baselines=x.detach())


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
    assert not plain.lower.requires_grad and not plain.upper.requires_grad and not plain.nominal.requires_grad
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
    lx.certify(IntegratedGradients(model), x, eps=0.01, target=0, n_steps=3, batch_size=2, progress=progress)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("/6" in err and "gradient" in err) if progress else err == ""
