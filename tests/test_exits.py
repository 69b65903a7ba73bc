"""Every bound leaves through one exit, which compares it with what was computed: each exit rings
when bounds are wrong.

Bounds are shifted off their value in the trace that an exit uses, and in no other.
"""

import re
from pathlib import Path

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.bounding.engine import Engine

X = torch.rand(2, 3, generator=torch.Generator().manual_seed(0)).double()
SPEC = torch.eye(3).double()[:2]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def saliency(**keywords):
    return lx.certify(Saliency(net()), X, eps=0.01, target=0, abs=False, **keywords)


def product(**keywords):
    return lx.certify(InputXGradient(net()), X, eps=0.01, target=0, **keywords)


def any_trace(module):
    return True


def with_multiplier(module):
    """The second trace of an attribution that is multiplied by its input."""
    return any(name.startswith("offset") for name in module.input_names)


EXITS = {
    "certify": (any_trace, saliency),
    "certify by IBP": (any_trace, lambda: saliency(method="IBP")),
    "outward": (any_trace, lambda: saliency(rounding="outward")),
    "parameters": (any_trace, lambda: saliency(parameters=lx.ParameterBox(relative=0.01))),
    "integral": (any_trace, lambda: lx.certify(IntegratedGradients(net()), X, eps=0.01, target=0,
                                               n_steps=4, integral="exact")),
    "expectation": (any_trace, lambda: lx.certify(NoiseTunnel(Saliency(net())), X, eps=0.01, norm=2,
                                                  target=0, nt_samples=200, stdevs=0.3, abs=False,
                                                  expectation="gaussian-propagated")),
    "spec": (with_multiplier, lambda: product(spec=SPEC)),
    "refine": (with_multiplier, lambda: product().region_sum(torch.ones_like(X), refine="spec")),
    "prediction": (any_trace, lambda: lx.certify_prediction(net(), X, eps=0.01)),
    "boundary distance": (any_trace, lambda: lx.find_boundary(net(), X)),
    "moving boundary": (any_trace, lambda: lx.certify(lx.BoundarySaliency(net()), X, eps=0.01,
                                                      boundary="moving")),
    "boundary gap": (any_trace, lambda: lx.boundary_gap(lx.BoundarySaliency(net()), X)),
    "baselines": (any_trace, lambda: lx.baseline_sensitivity(IntegratedGradients(net()), X,
                                                             eps=0.01, target=0, n_steps=4)),
}


@pytest.mark.parametrize("name", EXITS)
def test_an_exit_rings_when_its_bounds_are_wrong(name, monkeypatch):
    chosen, call = EXITS[name]
    bounds, linear = Engine.__call__, Engine.lower_bound
    monkeypatch.setattr(Engine, "__call__", lambda self, *a, **k: tuple(
        side + 10.0 * chosen(self.module) for side in bounds(self, *a, **k)))
    monkeypatch.setattr(Engine, "lower_bound", lambda self, *a,
                        **k: linear(self, *a, **k) + 10.0 * chosen(self.module))
    with pytest.raises(lx.SoundnessError):
        call()


@pytest.mark.parametrize("name", EXITS)
def test_no_exit_rings_otherwise(name):
    EXITS[name][1]()


def test_nobody_else_reports_a_contradiction_or_widens_bounds_towards_a_value():
    package = Path(lx.__file__).parent
    code = {path.relative_to(package).as_posix(): path.read_text()
            for path in package.rglob("*.py")}
    raising = {name for name, text in code.items() if re.search(r"\bSoundnessError\(", text)}
    assert raising == {"errors.py", "certifying/exit.py"}
    assert [name for name, text in code.items() if "_enclose(" in text] == ["certifying/exit.py"]
