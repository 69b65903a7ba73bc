"""The truth of the tests is checked itself: against enumeration, by hand, and against sampled
points.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from tests import reference
from tests.reference import exact_gradient_range, input_gradient, sample_ball, sample_box

TIGHT = {"primal_feasibility_tolerance": 1e-9}

# (sizes of the layers, half side of the box)
NETS = [
    ((1, 3, 1), 1.0),
    ((2, 5, 2), 0.0),
    ((2, 5, 2), 0.8),
    ((3, 6, 1), 2.0),
    ((3, 4, 4, 2), 0.0),
    ((2, 3, 3, 2), 1.2),
    ((3, 4, 4, 2), 0.3),
    ((3, 4, 4, 2), 1.0),
    ((2, 3, 2, 3, 1), 1.5),
]


def random_net(sizes, seed):
    """(layers, x, cotangent) of a random ReLU MLP, as numpy arrays."""
    rng = np.random.default_rng(seed)
    layers = [
        (rng.normal(size=(m, n)) * math.sqrt(2 / n), 0.3 * rng.normal(size=m))
        for n, m in itertools.pairwise(sizes)
    ]
    return layers, 0.5 * rng.normal(size=sizes[0]), rng.normal(size=sizes[-1])


def enumerated_gradient_range(layers, x, eps, cotangent):
    """(low, high, number of patterns) over every activation pattern that some point of the box
    takes.
    """
    widths = [len(b) for _, b in layers[:-1]]
    box = list(zip(x - eps, x + eps, strict=True))
    gradients = []
    for pattern in itertools.product([0.0, 1.0], repeat=sum(widths)):
        activity = np.split(np.array(pattern), np.cumsum(widths)[:-1])
        # what the layers so far compute under this pattern
        slope, offset = np.eye(len(x)), np.zeros(len(x))
        a, b = [], []  # a x <= b: z >= 0 where active, z <= 0 where not
        for (w, bias), d in zip(layers, activity, strict=False):
            slope, offset = w @ slope, w @ offset + bias
            sign = 1 - 2 * d
            a.append(sign[:, None] * slope)
            b.append(-sign * offset)
            slope, offset = d[:, None] * slope, d * offset
        found = linprog(np.zeros(len(x)), np.vstack(a), np.concatenate(b), bounds=box,
                        options=TIGHT)
        assert found.status in (0, 2), found.message  # solved, or no such point
        if found.status == 0:
            gradients.append(cotangent @ layers[-1][0] @ slope)
    return (torch.tensor(np.min(gradients, axis=0)), torch.tensor(np.max(gradients, axis=0)),
            len(gradients))


def relu_mlp(layers):
    """The net as a torch function of (N, n_0)."""

    def f(x):
        for k, (w, b) in enumerate(layers):
            x = (x if k == 0 else x.relu()) @ torch.as_tensor(w).T + torch.as_tensor(b)
        return x

    return f


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("sizes", "eps"), NETS)
def test_range_is_that_of_all_patterns(sizes, eps, seed):
    layers, x, cotangent = random_net(sizes, seed)
    low, high = exact_gradient_range(layers, x, eps, cotangent)
    true_low, true_high, patterns = enumerated_gradient_range(layers, x, eps, cotangent)
    assert patterns == 1 if eps == 0 else patterns > 1
    torch.testing.assert_close(low, true_low, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(high, true_high, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", [(2, 5, 2), (2, 3, 3, 2)])
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_range_is_that_of_all_patterns_where_all_kinks_meet(sizes, eps):
    layers, x, cotangent = random_net(sizes, 0)
    layers = [(w, 0 * b) for w, b in layers]
    low, high = exact_gradient_range(layers, 0 * x, eps, cotangent)
    true_low, true_high, patterns = enumerated_gradient_range(layers, 0 * x, eps, cotangent)
    assert patterns == 2 ** sum(sizes[1:-1])
    torch.testing.assert_close(low, true_low, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(high, true_high, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", [(4, 8, 8, 3), (3, 5, 5, 5, 1)])
def test_range_holds_every_sampled_gradient_and_grows_with_the_box(sizes, generator):
    layers, x, cotangent = random_net(sizes, 1)
    centre, c = torch.tensor(x), torch.tensor(cotangent)
    inner = input_gradient(relu_mlp(layers), (centre[None],), c)[0][0]
    inner = (inner, inner)
    for eps in (0.0, 0.1, 0.5):
        low, high = exact_gradient_range(layers, centre, eps, c)
        points = sample_box(centre[None] - eps, centre[None] + eps, 2000, generator)[:, 0]
        (gradients,) = input_gradient(relu_mlp(layers), (points,), c)
        assert (gradients >= low - 1e-12).all() and (gradients <= high + 1e-12).all()
        assert (low <= inner[0] + 1e-12).all() and (high >= inner[1] - 1e-12).all()
        inner = (low, high)
    assert (high - low > 0.1).any()


def test_sampled_gradients_reach_the_range(generator):
    layers, x, cotangent = random_net((2, 6, 1), 5)
    low, high = exact_gradient_range(layers, x, 0.5, cotangent)
    points = sample_box(torch.tensor(x)[None] - 0.5, torch.tensor(x)[None] + 0.5, 20000,
                        generator)[:, 0]
    (gradients,) = input_gradient(relu_mlp(layers), (points,), torch.tensor(cotangent))
    assert (high > low).all()
    torch.testing.assert_close(gradients.amin(0), low, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients.amax(0), high, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("weight", "bias", "out", "x", "eps", "expected"),
    [
        ([[1.0]], [0.0], [[1.0]], 1.0, 0.5, (1, 1)),
        ([[1.0]], [0.0], [[1.0]], -1.0, 0.5, (0, 0)),
        ([[1.0]], [0.0], [[-2.0]], 0.0, 1.0, (-2, 0)),
        ([[1.0]], [0.0], [[1.0]], 0.0, 0.0, (0, 1)),  # at the kink both sides
        ([[1.0]], [-0.3], [[1.0]], 0.1, 0.2, (0, 1)),
        # 0.1 + 0.2 > 0.3 by rounding: the kink is met
        ([[-1.0]], [0.3], [[1.0]], 0.1, 0.2, (-1, 0)),
        ([[1.0], [-1.0]], [0.0, 0.0], [[1.0, -1.0]], 0.0, 1.0, (0, 2)),
        # relu(x) - relu(-x): ties mix
        ([[1.0], [-1.0]], [0.0, 0.0], [[1.0, -1.0]], 1.0, 0.5, (1, 1)),
    ],
)
def test_range_by_hand(weight, bias, out, x, eps, expected):
    low, high = exact_gradient_range([(weight, bias), (out, [0.0])], [x], eps, [1.0])
    assert (low.item(), high.item()) == expected


def test_range_of_a_linear_net_is_a_point():
    layers, x, cotangent = random_net((3, 2), 0)
    low, high = exact_gradient_range(layers, x, 1.0, cotangent)
    assert torch.equal(low, high)
    assert torch.equal(low, torch.tensor(layers[0][0].T @ cotangent))


def test_half_side_per_entry():
    layers, x, cotangent = random_net((2, 4, 1), 1)
    eps = np.array([0.0, 1.0])
    found = exact_gradient_range(layers, x, eps, cotangent)
    torch.testing.assert_close(found, enumerated_gradient_range(layers, x, eps, cotangent)[:2])


def test_unsolved_program_raises(monkeypatch):
    monkeypatch.setitem(reference.SOLVER, "time_limit", 0.0)
    layers, x, cotangent = random_net((4, 8, 8, 1), 0)
    with pytest.raises(RuntimeError, match="not solved to optimality"):
        exact_gradient_range(layers, x, 1.0, cotangent)


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3, 200])
def test_box_samples(n, corners, generator):
    low = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    high = low + torch.rand(3, 2, 2, generator=generator, dtype=torch.float64)
    high[0] = low[0]
    points = sample_box(low, high, n, generator, corners)
    assert points.shape == (n, 3, 2, 2) and points.dtype == low.dtype
    assert (points >= low).all() and (points <= high).all()
    torch.testing.assert_close(points[0], (low + high) / 2)
    at_corner = ((points == low) | (points == high)).flatten(2).all(-1)[:, 1:]
    assert (at_corner.sum(0) == (n // 2 if corners else 0)).all()
    if corners and n == 200:
        assert (points.amin(0) == low).all() and (points.amax(0) == high).all()


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 301])
def test_ball_samples(n, norm, generator):
    x = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    points = sample_ball(x, 0.7, norm, n, generator)
    assert points.shape == (n, 3, 2, 2) and points.dtype == x.dtype
    distance = torch.linalg.vector_norm((points - x).flatten(2), ord=norm, dim=-1)
    assert (distance <= 0.7 + 1e-12).all()
    assert torch.equal(points[0], x)
    if n == 301:
        assert (distance[1:101] < 0.7 - 1e-9).all() and (distance[1:101].std(0) > 0.01).all()
        torch.testing.assert_close(distance[101:], torch.full((200, 3), 0.7, dtype=torch.float64))
        vertices = ((points - x)[201:] / 0.7).flatten(2).round(decimals=9)
        kinds = 16 if norm == math.inf else 8
        assert [len(vertices[:, k].unique(dim=0)) for k in range(3)] == [kinds] * 3
        assert (vertices.abs().sum(-1) == (4 if norm == math.inf else 1)).all()


def test_ball_samples_reject_another_norm(generator):
    with pytest.raises(ValueError, match="norm 3 is not known"):
        sample_ball(torch.zeros(1, 2), 1.0, 3, 2, generator)


def test_samples_repeat_with_the_seed():
    x = torch.zeros(2, 3, dtype=torch.float64)
    for norm in (1, 2, math.inf):
        a, b = (sample_ball(x, 1.0, norm, 20, torch.Generator().manual_seed(4)) for _ in range(2))
        assert torch.equal(a, b)


def test_input_gradient():
    x, y = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, -1.0]]).double()
    unused = torch.zeros(1, 1).double()
    with torch.no_grad():
        gx, gy, none = input_gradient(lambda a, b, _: a**2 * b, (x, y, unused),
                                      torch.tensor([[1.0, 10.0]]))
    assert torch.equal(gx, torch.tensor([[6.0, -40.0]]).double())
    assert torch.equal(gy, torch.tensor([[1.0, 40.0]]).double())
    assert torch.equal(none, unused)
    assert not x.requires_grad


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
