"""Local coefficients are those of the whole layer: by operator, and in what they bound."""

import pytest
import torch
from auto_LiRPA.perturbations import PerturbationLpNorm
from captum.attr import IntegratedGradients, Saliency
from torch import Tensor, nn

import lirpa_explain as lx
from lirpa_explain.bounding.engine import Engine
from lirpa_explain.bounding.network import Network
from lirpa_explain.graph import capture
from lirpa_explain.operators import local
from lirpa_explain.operators.bound import BoundOperator
from lirpa_explain.operators.local import Local
from lirpa_explain.operators.places import Places
from tests.cases import CASES, Case, boxes, case, fixed, moving, problem, weight

PAIR = {"stride": [2, 2], "padding": [1, 1], "ceil": False}
MORE = [
    case("add", "local", moving(2, 5, 6), weight(2, 1, 1)),
    case("add", "local-number", moving(2, 5, 6), weight()),
    case("add", "local-two", moving(2, 5, 6), moving(2, 5, 6)),
    case("add", "local-broadcast", moving(2, 5, 6), moving(2, 1, 1)),
    case("add", "local-fixed", moving(2, 5, 6), fixed(2, 5, 6)),
    case("scale", "local", moving(2, 5, 6), factor=-1.5),
    case("divide", "local", moving(2, 5, 6), weight(2, 1, 1)),
    case("divide", "local-number", moving(2, 5, 6), weight()),
    case("normalize", "local", moving(2, 5, 6), weight(2), weight(2, positive=True), epsilon=0.1),
    case("kink", "local", moving(2, 5, 6), slope=0.1),
    case("kink_gradient", "local", moving(2, 5, 6), moving(2, 5, 6), slope=0.0),
    case("tanh", "local", moving(2, 5, 6)),
    case("tanh_gradient", "local", moving(2, 5, 6), moving(2, 5, 6)),
    case("multiply", "local", moving(2, 5, 6), moving(2, 5, 6)),
    case("multiply", "local-fixed", moving(2, 5, 6), fixed(2, 5, 6)),
    case("multiply", "local-channels", moving(2, 5, 6), fixed(2, 1, 1)),
    case("multiply", "local-broadcast", moving(2, 1, 1), moving(2, 5, 6)),
    case("slice", "local-rows", moving(2, 7, 6), dim=2, start=1, stop=6, step=2),
    case("slice", "local-columns", moving(2, 5, 9), dim=3, start=0, stop=9, step=3),
    case("slice", "local-channels", moving(4, 5, 6), dim=1, start=1, stop=4, step=2),
    case("place", "local-rows", moving(2, 3, 6), size=7, dim=2, start=1, step=2),
    case("place", "local-columns", moving(2, 5, 3), size=9, dim=3, start=2, step=3),
    case("place", "local-channels", moving(2, 5, 6), size=5, dim=1, start=1, step=2),
    case("pad", "local", moving(2, 5, 6), pad=[1, 2, 0, 1]),
    case("pad", "local-crops", moving(2, 6, 6), pad=[-1, 2, 1, -2]),
    case("pad", "local-channels", moving(2, 5, 6), pad=[0, 0, 0, 0, 1, 2]),
    case("expand", "local", moving(2, 1, 1), shape=[2, 5, 6]),
    case("expand", "local-channels", moving(1, 1, 1), shape=[2, 5, 6]),
    case("expand", "local-rows", moving(2, 1, 6), shape=[2, 5, 6]),
    case("concatenate", "local", moving(2, 5, 6), moving(1, 5, 6), dim=1),
    case("max_pool", "local-larger", moving(2, 9, 8), kernel=[3, 3], dilation=[1, 1], **PAIR),
    case("max_pool_gradient", "local-larger", moving(2, 5, 4), moving(2, 9, 8), kernel=[3, 3],
         dilation=[1, 1], **PAIR),
    case("average_pool", "local-larger", moving(2, 9, 8), kernel=[3, 3], **PAIR,
         count_include_pad=False, divisor=None),
    case("average_pool_gradient", "local-larger", moving(2, 5, 4), size=[9, 8], kernel=[3, 3],
         **PAIR, count_include_pad=False, divisor=None),
    case("convolution", "local-larger", moving(2, 9, 8), weight(3, 2, 3, 3), stride=[2, 1],
         padding=[1, 2], dilation=[1, 2], groups=1),
    case("convolution_gradient", "local-larger", moving(3, 5, 8), weight(3, 2, 3, 3), size=[9, 8],
         stride=[2, 1], padding=[1, 2], dilation=[1, 2], groups=1),
]
CONVOLUTIONAL = ("convolution", "convolution_gradient", "average_pool", "average_pool_gradient",
                 "max_pool", "max_pool_gradient")
ROWS = [*MORE,
        *(row for row in CASES if row.operator in CONVOLUTIONAL and len(row.args[0].shape) == 4)]


def random_local(shape: tuple[int, ...], rows: int, window: tuple[int, int], seed: int) -> Local:
    """Windows anywhere, also partly beyond the layer, where they are 0."""
    generator = torch.Generator().manual_seed(seed)
    channels, *plane = shape
    place = torch.stack([torch.randint(-1, max(1, n - k + 2), (6, rows), generator=generator)
                         for n, k in zip(plane, window, strict=True)], 2)
    values = torch.randn(6, rows, channels, *window, generator=generator, dtype=torch.float64)
    values = values * torch.randint(0, 2, values.shape, generator=generator)
    return Local(values, Places.of(place, window, (plane[0], plane[1])), is_cut=False)


def assert_same(coefficients: tuple, others: tuple) -> None:
    for one, other in zip(coefficients, others, strict=True):
        for A, B in zip(one, other, strict=True):
            assert (A is None) == (B is None)
            if A is not None:
                A, B = (x.dense() if isinstance(x, Local) else x for x in (A, B))
                assert A.shape == B.shape
                assert torch.allclose(A, B, atol=1e-12)


@pytest.mark.parametrize("window", [(1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_an_operator_pulls_local_coefficients_back_as_dense_ones(row: Case, window):
    p = problem(row)
    sides = boxes(p, "wide", "narrow", "grid")
    moved = tuple((low + high) / 2 for low, high in sides)
    balls = tuple(_ball(low, high) for low, high in sides)
    network = Network(p.module, p.inputs(*moved))
    with torch.no_grad(), network.at(p.inputs(*moved), balls):
        network.interval(network.result)
        node = next(n for n in network._nodes.values()
                    if isinstance(n, BoundOperator) and n.operator.name == row.operator)
        rows = len(moved[0])
        lower, upper = (random_local(tuple(node.output_shape[1:]), rows, window, seed)
                        for seed in (0, 1))
        for A, B in ((lower, upper), (lower, lower)):
            results = node.bound_backward(A, B, *node.inputs)
            others = node.bound_backward(A.dense(), A.dense() if A is B else B.dense(),
                                         *node.inputs)
            assert_same(results[0], others[0])
            for bias, other in zip(results[1:], others[1:], strict=True):
                assert torch.allclose(torch.as_tensor(bias, dtype=torch.float64).expand(6, rows),
                                      torch.as_tensor(other, dtype=torch.float64).expand(6, rows),
                                      atol=1e-12)


def _ball(low: Tensor, high: Tensor) -> PerturbationLpNorm:
    return PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high)


def test_sums_of_windows_that_differ():
    for seed, (one, other) in enumerate([((1, 1), (2, 3)), ((2, 1), (1, 2)), ((3, 3), (3, 3))]):
        A, B = random_local((2, 5, 6), 2, one, seed), random_local((2, 5, 6), 2, other, seed + 9)
        assert torch.allclose((A + B).dense(), A.dense() + B.dense())
        assert torch.allclose(A + B.dense(), A.dense() + B.dense())
        assert torch.allclose(A.dense() + B, A.dense() + B.dense())


class Branches(nn.Module):
    """Paths of unequal windows that meet, one of which drops every other pixel and pads
    channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.deep = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.across, self.last = nn.Conv2d(3, 5, 3, 2, padding=1), nn.Linear(5 * 4 * 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.deep(torch.tanh(self.deep(x))))
        y = self.across(x) + nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        return self.last(torch.relu(y).flatten(1))


def conv(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2))


NETS = {
    "plain": lambda: conv(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.ReLU()),
    "stride": lambda: conv(nn.Conv2d(1, 3, 3, 2, 1), nn.Softplus(), nn.Conv2d(3, 2, 2, 2),
                           nn.ReLU()),
    "dilation-groups": lambda: conv(nn.Conv2d(1, 4, 3, padding=2, dilation=2), nn.BatchNorm2d(4),
                                    nn.ReLU(), nn.Conv2d(4, 4, 2, groups=2), nn.ReLU()),
    "pools": lambda: conv(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2, padding=1)),
    "overlap": lambda: conv(nn.Conv2d(1, 3, 2), nn.Tanh(), nn.MaxPool2d(3, 2, 1),
                            nn.Conv2d(3, 2, 2), nn.ReLU()),
    "branches": Branches,
    "average": lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.ReLU(),
                                     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)),
    "transposed": lambda: conv(nn.Conv2d(1, 3, 3, 2), nn.ReLU(), nn.ConvTranspose2d(3, 2, 3, 2),
                               nn.ReLU()),
}


@pytest.mark.parametrize("rounding", ["default", "outward"])
@pytest.mark.parametrize("name", NETS)
def test_bounds_by_local_coefficients_are_those_by_dense_ones(name, rounding, monkeypatch):
    torch.manual_seed(0)
    model, x = NETS[name]().double().eval(), torch.rand(2, 1, 7, 9, dtype=torch.float64,
                                                        requires_grad=True)
    model(x)
    if name == "branches" and rounding == "outward":
        pytest.skip("as slow as all others together")
    pulled = []
    found = {}
    for share in (0.0, 2.0):
        monkeypatch.setattr(local, "COVERED", share)
        monkeypatch.setattr(Local, "of", _noting(Local.of, pulled if share else []))
        found[share] = lx.certify(Saliency(model), x, eps=0.03, target=1, abs=False, method="CROWN",
                                  rounding=rounding)
    assert pulled  # what is never dense was local
    assert torch.allclose(found[0.0].lower, found[2.0].lower, rtol=1e-9, atol=1e-12)
    assert torch.allclose(found[0.0].upper, found[2.0].upper, rtol=1e-9, atol=1e-12)
    alone = lx.certify(Saliency(model), x[1:], eps=0.03, target=1, abs=False, method="CROWN",
                       rounding=rounding)
    assert torch.allclose(alone.lower, found[2.0].lower[1:], atol=1e-12)
    assert torch.allclose(alone.upper, found[2.0].upper[1:], atol=1e-12)


def _noting(function, notes: list):
    def noted(self, x):
        notes.append(self.window)
        return function(self, x)

    return noted


def test_paths_and_their_multipliers(monkeypatch):
    torch.manual_seed(0)
    model, x = NETS["pools"]().double().eval(), torch.rand(2, 1, 7, 9, dtype=torch.float64)
    model(x)
    found = []
    for share in (0.0, 2.0):
        monkeypatch.setattr(local, "COVERED", share)
        found.append(lx.certify(IntegratedGradients(model), x, eps=0.02, target=1, n_steps=3,
                                method="CROWN"))
    assert torch.allclose(found[0].lower, found[1].lower, rtol=1e-9, atol=1e-12)
    assert torch.allclose(found[0].upper, found[1].upper, rtol=1e-9, atol=1e-12)


def test_coefficients_take_the_room_of_their_windows():
    """A neuron of the second convolution reads 5 x 5 pixels of 16 x 16."""
    torch.manual_seed(0)
    model = conv(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    x = torch.rand(1, 1, 16, 16)
    model(x)
    module = capture(model.eval(), (x,))
    engine = Engine(module, module.example)
    with torch.no_grad(), engine.network.at((x, torch.ones(1, 2)),
                                            (_ball(x - 0.01, x + 0.01), None)):
        nodes = dict.fromkeys(node for node, _ in engine.network.read_nodes(True))
        widths = []
        for node in nodes:
            engine.network.settle(node, engine.network.interval(node))
            widths.append(engine.network.width_of(node))
    assert widths[:2] == [9, 8 * 9]
    assert engine.memory.width == 8 * 256
