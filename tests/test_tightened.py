"""optimize_share: the kinks that matter most are bounded again by chosen planes; bounds hold, are
nowhere wider than CROWN's, and narrower where there is room.
"""

import functools

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.bounding import tightened
from lirpa_explain.bounding.schedule import Schedule
from tests.nets import layers, mlp
from tests.truth import assert_inside, ball, flat, path_integral, values_at

METHODS = ["CROWN", "CROWN-Optimized"]
TARGET = [0, 1]


class Residual(nn.Module):
    """Convolutions with two blocks around them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(12, 2)
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

    def forward(self, x):
        x = torch.relu(self.first(x))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.last(nn.functional.avg_pool2d(x, 2).flatten(1))


def deep():
    return mlp(4, 12, 12, 12, 2, gain=2)


NETS = {
    "deep": (deep, (4,)),
    "smooth": (lambda: mlp(4, 10, 10, 2, gain=2, activation=nn.GELU), (4,)),
    "pooling": (lambda: layers(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
                               nn.Conv2d(3, 3, 2), nn.ReLU(), nn.Conv2d(3, 3, 2), nn.ReLU(),
                               nn.Flatten(), nn.Linear(3, 2)), (1, 6, 6)),
    "residual": (lambda: layers(Residual()), (1, 4, 4)),
}


def make(name):
    torch.manual_seed(0)
    build, shape = NETS[name]
    net = build()
    return net, torch.rand(2, *shape).double()


@functools.cache
def plainly(name):
    """A net's gradients, its inputs, CROWN's certificate, and values at points of the ball."""
    net, x = make(name)
    attribution, call = Saliency(net), {"target": TARGET, "abs": False}
    return (attribution, x, lx.certify(attribution, x, eps=0.2, **call),
            values_at(attribution, ball(x, 0.2, count=200), **call))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETS)
def test_bounds_hold_nowhere_wider_than_crown(name, method):
    attribution, x, plain, values = plainly(name)
    tight = lx.certify(attribution, x, method=method, optimize_share=0.5, iterations=2, eps=0.2,
                       target=TARGET, abs=False)
    assert float((values.amax(0) - values.amin(0)).max()) > 0
    assert_inside(tight, values)
    assert (tight.lower >= plain.lower - 1e-12).all() and (tight.upper <= plain.upper + 1e-12).all()


def test_a_share_of_the_kinks_narrows_bounds_of_a_deep_net_and_more_do_so_more():
    net, x = make("deep")
    certify = lx.Certifier(Saliency(net), abs=False).certify
    widths = [float(certify(x, eps=0.2, target=TARGET).width.sum())]
    for share in (0.2, 1.0):
        tighter = lx.Certifier(Saliency(net), abs=False, optimize_share=share)
        widths.append(float(tighter.certify(x, eps=0.2, target=TARGET).width.sum()))
    assert widths[2] < 0.97 * widths[0] and widths[2] <= widths[1] + 1e-12 <= widths[0] + 2e-12


def test_so_many_entries_are_chosen_of_each_row_and_those_nearest_to_a_side(monkeypatch):
    net, x = make("deep")
    chosen, plain = [], Schedule._tightened

    def spy(self, node, box, wanted, forms=None):
        if self.method.chosen:
            open_entries = (box.lower < 0) & (box.upper > 0)
            chosen.append((node.name, wanted & open_entries, open_entries))
        return plain(self, node, box, wanted, forms)

    monkeypatch.setattr(Schedule, "_tightened", spy)
    lx.certify(Saliency(net), x, eps=0.2, target=TARGET, abs=False, optimize_share=1.0)
    total = sum(is_open.sum(1) for _, _, is_open in chosen)
    assert all(bool((mask == is_open).all()) for _, mask, is_open in chosen) and (total > 3).all()
    chosen.clear()
    lx.certify(Saliency(net), x, eps=0.2, target=TARGET, abs=False, optimize_share=1e-9)
    assert sum(mask.sum(1) for _, mask, _ in chosen).tolist() == [1, 1]


def test_equal_gains_are_chosen_alike_whatever_their_roundings():
    schedule = object.__new__(tightened.Tightened)
    schedule.share = 0.5

    class Network:
        nodes = [type("Node", (), {"name": "z"})()]

        def relaxations_before(self, node):
            return [node]

    schedule.network = Network()
    schedule._nearness = lambda node: torch.ones(1)
    gain = torch.tensor([[[1.0, 0.0, 1.0 + 1e-7, 3.0]], [[0.0, 2.0, 0.0, 2.0 + 1e-7]]])
    assert schedule._chosen({"z": gain})["z"].tolist() == [[True, False, False, True],
                                                           [False, True, False, False]]
    assert schedule._chosen({"z": torch.zeros(1, 1, 3)}) == {}


@pytest.mark.parametrize("name", ["deep", "pooling"])
def test_a_batch_gives_what_its_rows_give(name):
    net, x = make(name)
    certifier = lx.Certifier(Saliency(net), abs=False, optimize_share=0.3)
    both = certifier.certify(x, eps=0.2, target=TARGET)
    for i, target in enumerate(TARGET):
        alone = certifier.certify(x[i:i + 1], eps=0.2, target=target)
        for side in ("lower", "upper"):
            torch.testing.assert_close(getattr(both, side)[i:i + 1], getattr(alone, side),
                                       rtol=1e-13, atol=1e-14)


SETTINGS = {
    "plain": {}, "outward": {"rounding": "outward"}, "memory": {"memory_limit": 2**20},
    "spec": {"spec": torch.eye(4, dtype=torch.float64)[:2]}, "gradients": {"differentiable": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_goes_with_other_settings(name):
    net, x = make("deep")
    attribution = IntegratedGradients(net)
    call = {"eps": 0.2, "target": TARGET, "n_steps": 3, "iterations": 2, **SETTINGS[name]}
    plain = lx.certify(attribution, x, **call)
    tight = lx.certify(attribution, x, optimize_share=0.5, **call)
    narrow, wide = tight.width.detach(), plain.width.detach()
    assert (narrow <= wide + 1e-12).all()
    assert float(narrow.sum()) < 0.999 * float(wide.sum())
    assert_inside(tight, values_at(attribution, ball(x, 0.2), target=TARGET, n_steps=3))
    if name == "gradients":
        gradients = torch.autograd.grad(tight.width.sum(), list(net.parameters()),
                                        allow_unused=True)
        assert sum(g.abs().sum() for g in gradients if g is not None) > 0


def test_kinks_are_bounded_for_all_of_a_stretch_of_a_path():
    net, x = make("deep")
    call = {"eps": 0.2, "target": TARGET, "n_steps": 3, "integral": "exact"}
    plain = lx.certify(IntegratedGradients(net), x, **call)
    tight = lx.certify(IntegratedGradients(net), x, optimize_share=1.0, **call)
    assert (tight.width <= plain.width + 1e-12).all()
    assert float(tight.width.sum()) < 0.999 * float(plain.width.sum())
    for point in ball(x, 0.2, count=5)[0]:
        truth = path_integral(net, (point,), (torch.zeros_like(point),), TARGET, True)
        assert_inside(tight, flat(tuple(truth)))


@pytest.mark.parametrize("bad", [-0.1, 1.5, True, "half", None])
def test_a_share_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="optimize_share must be a number from 0 to 1; given"):
        lx.Certifier(Saliency(nn.Linear(2, 2)), optimize_share=bad)


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP"])
def test_methods_without_linear_bounds_within_are_refused(method):
    with pytest.raises(ValueError, match="which are CROWN, CROWN-Optimized; given: '" + method):
        lx.Certifier(Saliency(nn.Linear(2, 2)), method=method, optimize_share=0.1)
