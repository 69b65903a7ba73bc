"""Comparisons used as numbers, norms, and models that take gradients of their own: bounds hold at
sampled points.
"""

import pytest
import torch
from captum.attr import Saliency
from torch import nn

import lirpa_explain as lx

DOUBLE = torch.float64


def draw(*size, seed=0):
    return torch.randn(*size, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


W, V = draw(3, 4), draw(4, 2, seed=1)

# of u = x W and v = x W / 2, in which x may be exactly where a comparison changes
COMPARISONS = {
    "product": lambda u, v: u * (v > 0),
    "product_on_the_left": lambda u, v: (v >= 0) * u,
    "float": lambda u, v: (v > 0).float() * u,
    "dtype": lambda u, v: (v > 0).to(u.dtype) * u,
    "sum": lambda u, v: u.square() + (v > 0.2).double(),
    "sum_of_bool": lambda u, v: (u + (v > 0.2)).square(),
    "one_minus": lambda u, v: (1 - (v < 0.2).double()) * u,
    "scaled": lambda u, v: u * ((v > 0) * 2 - 1),
    "both": lambda u, v: u * ((v > 0) * (u > 0.3)),
    "window": lambda u, v: u * ((v > -0.5) & (v < 0.5)),
    "not": lambda u, v: u * ~(v > 0),
    "long": lambda u, v: u * (v > 0).long(),
    "constants": lambda u, v: torch.arange(4.0).double() * (v > 0) * u,
    "quotient": lambda u, v: u / ((v > 0).double() + 1),
    "unsqueezed": lambda u, v: u * (v.sum(1) > 0)[:, None],
    "choice_by_fewer": lambda u, v: torch.where((v.sum(1) > 0)[:, None], u, 2 * u),
    "slice": lambda u, v: u * (v > 0)[:, :1],
    "view": lambda u, v: u * (v > 0).view(-1, 2, 2).flatten(1),
    "count": lambda u, v: u * (v > 0).sum(1, keepdim=True),
    "matrix": lambda u, v: u * ((v > 0).double() @ torch.ones(4, 4).double()),
    "concatenated": lambda u, v: u * torch.cat([(v > 0)[:, :2], (u > 0)[:, 2:]], 1),
    "equal": lambda u, v: u * (v == 0),
    "not_equal": lambda u, v: torch.where(v != 0, u, 3 * u),
    "empty_like": lambda u, v: u * torch.empty_like(v).fill_(2.0) + torch.zeros_like(v > 0),
}
NORMS = {
    "norm": lambda u, v: u * torch.norm(v + 2, dim=1, keepdim=True),
    "norm_near_zero": lambda u, v: u * torch.linalg.vector_norm(v, dim=1, keepdim=True),
    "normalize": lambda u, v: u * nn.functional.normalize(v + 1.5, dim=1),
    "l1": lambda u, v: u * torch.norm(v, p=1, dim=1, keepdim=True),
}


def assert_holds(model, x, points, eps, target=0, **options):
    """A certificate of the signed gradient contains autograd's at these points, each (N, *S) within
    the ball.
    """
    certificate = lx.certify(Saliency(model), x, eps=eps, abs=False, target=target, **options)
    for point in points:
        assert ((point - x).abs() <= eps + 1e-12).all()
        z = point.clone().requires_grad_()
        output = model(z)
        gradient, = torch.autograd.grad((output if target is None else output[:, target]).sum(), z)
        slack = 1e-9 * gradient.abs().max()
        assert ((certificate.lower - slack <= gradient).all()
                and (gradient <= certificate.upper + slack).all())
    return certificate


def around(x, eps, count=12):
    """Points of the ball, its corners, and those at which entries are exactly 0 where the ball has
    these.
    """
    for i in range(count):
        step = 2 * torch.rand(x.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(i)) - 1
        point = x + eps * (step.sign() if i % 3 == 0 else step)
        yield point.where((x.abs() > eps) | (step > 0), 0.0) if i % 3 == 1 else point


@pytest.mark.parametrize("method", ["IBP", "CROWN"])
@pytest.mark.parametrize("name", COMPARISONS | NORMS)
def test_comparisons_and_norms(name, method):
    function = (COMPARISONS | NORMS)[name]
    x = draw(4, 3, seed=2)
    x[0] = 0.02  # the ball around it has 0, where u = v = 0
    x = x if name in COMPARISONS else x + 1

    def model(z):
        u = z @ W
        return function(u, u / 2) @ V

    assert_holds(model, x, around(x, 0.05), 0.05, method=method)


@pytest.mark.parametrize(
    "function", [lambda u, v: u * ((v > 0) + (u > 0)), lambda u, v: u * ((v > 0).half() * 0.1),
                 lambda u, v: u * ((v > 0).float() * 0.1), lambda u, v: u * ((v > 0).byte() - 1),
                 lambda u, v: u * ((v > 0).long() / 3)])
def test_arithmetic_that_gives_other_numbers(function):
    x = draw(2, 3)
    with pytest.raises(lx.UnsupportedOperation, match="gives other numbers"):
        lx.certify(Saliency(lambda z: function(z @ W, z @ W) @ V), x, eps=0.01, target=0)


def test_open_comparisons_have_both_values():
    x = torch.tensor([[0.01, 2.0]], dtype=DOUBLE)
    certificate = assert_holds(lambda z: (z * (z[:, :1] > 0)).sum(1), x, around(x, 0.05), 0.05,
                               target=None)
    torch.testing.assert_close(certificate.lower, torch.zeros_like(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(certificate.upper, torch.ones_like(x), atol=1e-12, rtol=0)


def leaf(x):
    return x if x.requires_grad else x.requires_grad_()


def residual(net):
    """u_x + u u_y of a net u."""

    def forward(x):
        x = leaf(x)
        u = net(x)
        first, = torch.autograd.grad(u.sum(), x, create_graph=True)
        return first[:, 0] + u[:, 0] * first[:, 1]

    return forward


def laplacian(net):
    """u_xx + u_yy."""

    def forward(x):
        x = leaf(x)
        u = net(x)
        first, = torch.autograd.grad(u, x, torch.ones_like(u), create_graph=True)
        return sum(torch.autograd.grad(first[:, i].sum(), x, create_graph=True)[0][:, i]
                   for i in range(2))

    return forward


def mapped(net):
    """The sum of the gradient's entries, by torch.func."""
    return lambda x: torch.func.vmap(torch.func.grad(lambda z: net(z).sum()))(x).sum(1)


SECOND = {"residual_tanh": (residual, nn.Tanh()), "residual_silu": (residual, nn.SiLU()),
          "residual_sigmoid": (residual, nn.Sigmoid()), "laplacian_tanh": (laplacian, nn.Tanh()),
          "laplacian_gelu": (laplacian, nn.GELU()), "mapped_softplus": (mapped, nn.Softplus())}


@pytest.mark.parametrize("name", SECOND)
def test_models_that_take_gradients(name):
    make, activation = SECOND[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 6), activation, nn.Linear(6, 1)).double()
    x = draw(3, 2, seed=3)
    certificate = assert_holds(make(net), x, around(x, 0.01), 0.01, target=None)
    assert certificate.width.max() < 1


def test_predictions_of_models_that_take_gradients():
    model = residual(nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double())
    x = draw(3, 2, seed=3)
    found = lx.certify_prediction(model, x, eps=0.01)
    assert torch.equal(found.classes, (model(x.clone()) > 0).long())


@pytest.mark.parametrize("function",
                         [lambda x: x[:, 0] * x[:, 1] * x[:, 2], lambda x: torch.tanh(x.sum(1)),
                          lambda x: torch.relu(x.sum(1)) * torch.tanh(x[:, 0])])
def test_optimised_bounds_of_single_numbers(function):
    x = draw(4, 3, seed=4)
    assert_holds(function, x, around(x, 0.05), 0.05, target=None, method="CROWN-Optimized",
                 iterations=3)
