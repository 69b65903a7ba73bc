"""Certifier: one trace for many calls, a new one where it is needed, and limits of memory."""

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.bounding import network
from lirpa_explain.certifying import traces as module


class Net(nn.Module):
    """A net with buffers, a mode, and a further argument."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x, factor=1.0):
        return self.last(torch.tanh(self.norm(self.first(x)) * factor))


@pytest.fixture
def traces(monkeypatch):
    """How often a model was traced."""
    calls = []

    def counted(*args, **keywords):
        calls.append(args)
        return capture(*args, **keywords)

    capture = module.capture_program
    monkeypatch.setattr(module, "capture_program", counted)
    return calls


def same(first, second):
    torch.testing.assert_close(first.lower, second.lower, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(first.upper, second.upper, rtol=1e-12, atol=1e-12)
    assert torch.equal(first.nominal, second.nominal)


def test_one_trace_serves_other_inputs_targets_radii_and_parameters(traces):
    model = Net().double().eval()
    attribution = IntegratedGradients(model)
    certifier = lx.Certifier(attribution, torch.rand(2, 4).double(), target=0, n_steps=3)
    assert len(traces) == 1
    for count, target, eps, method in ((2, 0, 0.1, "CROWN"), (5, 2, 0.01, "IBP"),
                                       (1, [1], 0.0, "CROWN-IBP")):
        x = torch.rand(count, 4).double()
        found = certifier.certify(x, eps=eps, target=target, method=method)
        assert len(traces) == 1
        same(found, lx.certify(attribution, x, eps=eps, target=target, method=method, n_steps=3))
        traces.pop()
    with torch.no_grad():
        model.first.weight.mul_(1.5)
    x = torch.rand(2, 4).double()
    found = certifier.certify(x, eps=0.1)
    assert len(traces) == 1
    same(found, lx.certify(attribution, x, eps=0.1, target=0, n_steps=3))


def test_what_a_trace_depends_on_is_traced_again(traces):
    model = Net().double().eval()
    certifier, x = lx.Certifier(Saliency(model), target=0, abs=False), torch.rand(2, 4).double()

    def is_traced(**keywords):
        before = len(traces)
        found = certifier.certify(x, eps=0.1, **keywords)
        is_new = len(traces) > before
        same(found, lx.certify(Saliency(model), x, eps=0.1, target=0, abs=False, **keywords))
        return is_new

    assert is_traced() and not is_traced()
    assert is_traced(additional_forward_args=2.0) and not is_traced(additional_forward_args=2.0)
    assert (is_traced(additional_forward_args=torch.tensor(2.0))
            and is_traced(additional_forward_args=torch.tensor(3.0)))
    assert not is_traced(additional_forward_args=torch.tensor(2.0))
    assert is_traced(additional_forward_args=torch.tensor([[1.0], [2.0]]).double())
    assert not is_traced(additional_forward_args=torch.tensor([[3.0], [2.0]]).double())
    model.norm.running_mean.add_(1.0)
    assert not is_traced()  # read whenever the trace runs
    model.last = nn.Linear(8, 3).double()
    assert is_traced() and not is_traced()


def test_a_function_whose_hidden_state_changed_is_traced_again(traces):
    state = {"factor": 1.0}
    model = Net().double().eval()

    def forward(x):
        return model(x) * state["factor"]

    certifier, x = lx.Certifier(Saliency(forward), target=0, abs=False), torch.rand(2, 4).double()
    before = certifier.certify(x, eps=0.1)
    state["factor"] = 3.0
    after = certifier.certify(x, eps=0.1)
    assert len(traces) == 2
    torch.testing.assert_close(after.lower, 3 * before.lower)


def test_old_traces_are_let_go(traces, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 2)
    certifier = lx.Certifier(InputXGradient(lambda x: torch.tanh(x).sum(1)))
    for size in (2, 3, 4, 3, 2):
        certifier.certify(torch.rand(2, size), eps=0.1)
    assert len(traces) == 4  # the second 3 is remembered, the second 2 is not


def test_a_limit_of_memory_makes_chunks_and_changes_no_bound(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 2)).double()
    x = torch.rand(4, 300).double()
    free = lx.certify(Saliency(model), x, eps=0.01, target=0, abs=False)
    sizes = []
    pull_back = network.pull_back

    def watched(nodes, start, functions, *args):
        sizes.append(functions.numel() * functions.element_size())
        return pull_back(nodes, start, functions, *args)

    monkeypatch.setattr(network, "pull_back", watched)
    limited = lx.certify(Saliency(model), x, eps=0.01, target=0, abs=False, memory_limit=2**22)
    same(free, limited)
    # what all tensors take together: see test_memory
    assert len(sizes) > 5 and max(sizes) <= 2**22 / 4
    for bad in (0, 2.0**30, True, 1000):
        with pytest.raises(ValueError, match="memory_limit must be an integer of at least 1048576"):
            lx.certify(Saliency(model), x, eps=0.01, target=0, memory_limit=bad)


def test_noise_is_drawn_anew_by_each_call():
    model = Net().double().eval()
    tunnel, x = NoiseTunnel(Saliency(model)), torch.rand(2, 4).double()
    certifier = lx.Certifier(tunnel, x, target=0, nt_samples=3)
    torch.manual_seed(1)
    first = certifier.certify(x, eps=0.1)
    torch.manual_seed(1)
    assert torch.equal(first.nominal, tunnel.attribute(x, target=0, nt_samples=3))
    assert not torch.equal(certifier.certify(x, eps=0.1).nominal, first.nominal)


def test_bad_arguments_of_a_certifier_are_refused_when_it_is_made():
    with pytest.raises(lx.UnsupportedAttribution):
        lx.Certifier(object())
    with pytest.raises(ValueError, match="method must be one of"):
        lx.Certifier(Saliency(Net()), method="crown")
    with pytest.raises(ValueError, match="Captum's Saliency.attribute rejects"):
        lx.Certifier(Saliency(Net().eval()), torch.rand(2, 4), target=9)
