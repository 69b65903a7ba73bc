"""Operations of values, in small nets: captured with autograd's value, and no gradient outside of
its bounds.

Maxima, ranks, comparisons of values and choices by them; functions of one variable, staircases,
norms and products.
"""

import math

import pytest
import torch
from auto_LiRPA import PerturbationLpNorm
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence
from torch.nn import functional as F

import lirpa_explain as lx
from lirpa_explain.bounding.engine import Engine
from lirpa_explain.boxes import Box
from lirpa_explain.graph import capture
from lirpa_explain.relaxations.order import may_have, rank_range, ranked_planes

NUMBERS = torch.tensor([[0.3, -0.2, 0.1], [-0.4, 0.0, 0.2]], dtype=torch.float64)
SINGLE = torch.tensor([0.1, 0.2, 0.7])
WEIGHT = torch.nn.Parameter(torch.tensor([0.4, 2.5, 0.7]))


def at_largest(x: Tensor, y: Tensor) -> Tensor:
    return y.gather(2, x.argmax(2, keepdim=True))


def hard(x: Tensor) -> Tensor:
    """One-hot of the largest entry, as straight-through estimators have it."""
    return torch.zeros_like(x).scatter_(1, x.argmax(1, keepdim=True), 1.0)


def by_count(x: Tensor) -> Tensor:
    """The entry at an index that is counted."""
    return x.gather(1, (x > 0.1).sum(1, keepdim=True).clamp(max=x.shape[1] - 1))


#: Functions of two hidden values (B, 2, 3).
FUNCTIONS = {
    "max": lambda u, v: u.max(2).values * v[..., 0],
    "min-keepdim": lambda u, v: u.min(1, keepdim=True)[0] * v,
    "max-of-three": lambda u, v: torch.cat([u, v], 1).max(1)[0],
    "amax": lambda u, v: u.amax(2),
    "amax-two-dims": lambda u,
    v: (u.amax((1, 2)) + v.amin((1, 2), keepdim=True).flatten(1)[:, 0])[:, None],
    "aminmax": lambda u, v: torch.aminmax(u * v, dim=2)[0] + torch.aminmax(u, dim=2).max,
    "max-over-time": lambda u, v: u.transpose(1, 2).flatten(1).max(1, keepdim=True)[0],
    "maximum": lambda u, v: torch.maximum(u, v) * torch.minimum(u, v),
    "maximum-constant": lambda u, v: torch.maximum(u, NUMBERS),
    "fmax": lambda u, v: torch.fmax(u, v) - torch.fmin(v, torch.zeros(()).double()),
    "where": lambda u, v: torch.where(u > v, u * v, u + 1),
    "where-larger": lambda u, v: torch.where(u <= v, v, u),
    "where-swapped": lambda u, v: torch.where(v > u, u, v),
    "where-constant": lambda u, v: torch.where(u > NUMBERS, u, 0.5),
    "where-column": lambda u, v: torch.where(v[..., :1] > u[..., 1:2], u, 0.3 * v),
    "clamp": lambda u, v: u.clamp(min=NUMBERS - 0.2, max=NUMBERS + 0.2),
    "clamp-by-value": lambda u, v: u.clamp(min=v),
    "and": lambda u, v: u * ((u > v) & (v < 0.2)),
    "or": lambda u, v: u * ((u > 0.1) | (v < 0)),
    "xor-not": lambda u, v: torch.where((u > 0) ^ (v > 0), u, 2 * v).masked_fill(~(v > u), 0.5),
    "any-all": lambda u, v: u * (v > 0.1).any(2, keepdim=True) + v * (u < 0.5).all(1, keepdim=True),
    "equal": lambda u, v: torch.where(u == v, u, v) + u * (u != v),
    "nan-to-num": lambda u, v: torch.nan_to_num(u) * v,
    "topk": lambda u, v: torch.cat([u, v], 2).topk(2, 2)[0],
    "smallest": lambda u, v: torch.cat([u, v], 2).topk(2, 2, largest=False)[0],
    "sort": lambda u, v: u.sort(2)[0] * torch.arange(3),
    "sort-descending": lambda u, v: torch.cat([u, v], 1).sort(1, descending=True)[0].cumsum(1),
    "kthvalue": lambda u, v: torch.cat([u, v], 2).kthvalue(2, 2)[0],
    "median": lambda u, v: u.median(2)[0],
    "gather": at_largest,
    "gather-itself": lambda u, v: u.gather(2, u.topk(2, 2)[1]),
    "gather-vectors": lambda u, v: torch.stack([u, v, u * v], 3).gather(
        2, (u + v).topk(2, 2)[1][..., None].expand(-1, -1, -1, 3)).flatten(1),
    "straight-through": lambda u, v: u.softmax(1) + (hard(u) - u.softmax(1)).detach(),
    "gather-counted": lambda u, v: by_count(u),
    "max-pool-3d": lambda u, v: F.max_pool3d(torch.stack([u, v, u - v], 1)[:, None], 2, 1, 1),
    "average-pool-3d": lambda u,
    v: F.avg_pool3d(torch.stack([u * v, v, u], 1)[:, None], 2, 1, 1, True, False),
    "average-pool-3d-divisor": lambda u, v: F.avg_pool3d(
        torch.stack([u, v, u * v], 1)[:, None], (2, 1, 2), divisor_override=3),
    "polar": lambda u, v: torch.atan2(u, 2 + v) * torch.hypot(u, 2 + v),
    "power-pool": lambda u, v: F.lp_pool1d(u * v, 2, 3) + F.lp_pool2d(
        torch.cat([u, v], 1)[:, None], 2, (3, 3), 1)[:, 0],
    "adaptive-max-pool": lambda u, v: F.adaptive_max_pool1d(torch.cat([u, v], 2), 4),
    "adaptive-max-pool-2d": lambda u,
    v: F.adaptive_max_pool2d(torch.cat([u, v], 2)[:, None], (2, 4)),
    "adaptive-max-pool-3d": lambda u,
    v: F.adaptive_max_pool3d(torch.cat([u, v], 2).view(-1, 1, 2, 2, 3), (1, 2, 2)),
}

FUNCTIONS |= {
    "exponentials": lambda u, v: torch.expm1(u) + torch.exp2(v) + 0.3**u,
    "hyperbolic": lambda u, v: torch.sinh(u) * torch.cosh(v),
    "tangent": lambda u, v: torch.tan(0.5 * u) + torch.tan(math.pi + 0.3 * v),
    "inverse": lambda u,
    v: torch.atan(u) + torch.asinh(v) + torch.asin(0.2 * u) * torch.acos(0.2 * v),
    "inverse-hyperbolic": lambda u, v: torch.atanh(0.2 * u) + torch.acosh(5 + v),
    "logarithms": lambda u, v: torch.log1p(u * u) + torch.log2(3 + v) - torch.log10(3 - v),
    "logit": lambda u, v: torch.logit(torch.sigmoid(u)) + torch.logit(v, eps=0.3),
    "error-function": lambda u, v: torch.erf(u) - torch.erfc(v) + torch.special.ndtr(u),
    "gelu-written-out": lambda u, v: u * 0.5 * (1 + torch.erf(u / math.sqrt(2))),
    "gaussian": lambda u, v: torch.exp(-((u - 0.2) ** 2) / 0.5) + torch.exp(-0.3 * v.square()),
    "bells": lambda u, v: torch.sqrt(1 + u * u) + 1 / (0.5 + v**2) + torch.rsqrt(v * v + 1),
    "entropy": lambda u,
    v: torch.special.entr(torch.exp(u)) + torch.xlogy(torch.sigmoid(v), torch.sigmoid(v)),
    "xlogy": lambda u, v: torch.xlogy(u, torch.sigmoid(v)) + torch.xlogy(u, 2.0),
    "straight-through-round": lambda u, v: (u + (torch.round(4 * u) / 4 - u).detach()) * v,
    "stairs": lambda u,
    v: u * torch.floor(v) + v * torch.ceil(u) + torch.round(v, decimals=1) * u.trunc(),
    "remainders": lambda u, v: torch.fmod(u, 0.7) * v + torch.remainder(v, 0.5) + u.frac(),
    "logsumexp": lambda u, v: u.logsumexp(2) + (u * v).logsumexp((1, 2), keepdim=True).flatten(1),
    "logsumexp-keepdim": lambda u, v: u - torch.logsumexp(v, 1, keepdim=True),
    "prod": lambda u, v: u.prod(2) + torch.prod(v, 1, keepdim=True).sum(2),
    "cumprod": lambda u, v: torch.cumprod(u, 2) + v.cumprod(1),
    "single-precision": lambda u, v: (u + torch.tensor(0.1)) * v - SINGLE + torch.where(
        u > SINGLE, v, SINGLE) + torch.sub(SINGLE, u, alpha=0.3) / SINGLE + torch.logaddexp(
            v, torch.tensor(0.2)),
    "integers": lambda u, v: (u + torch.arange(3)) * torch.tensor([True, False, True]) - v / (
        torch.arange(1, 4)) + torch.add(v, torch.arange(3), alpha=0.1) * torch.tensor(2),
    "single-precision-parameter": lambda u, v: (u * WEIGHT + WEIGHT[0]) / WEIGHT - 0.3 * WEIGHT * v,
    "powers-of-tensors": lambda u, v: (2 + u) ** torch.tensor(1.5) + (2 + v) ** SINGLE + (
        torch.tensor(0.3) ** u + SINGLE**v) * (2 + u) ** v,
    "generalized-mean": lambda u, v: (torch.relu(u).clamp(min=0.01).pow(WEIGHT[1])).mean(
        2).pow(1 / WEIGHT[1]) + (2 + v[..., 0]) ** WEIGHT[:2],
    "hypotenuses": lambda u, v: torch.hypot(u, SINGLE) * torch.hypot(torch.tensor(0.5), v)
    + torch.hypot(u, WEIGHT),
    "distributions": lambda u, v: Categorical(logits=u).entropy() + Normal(u, v.exp()).log_prob(
        NUMBERS).sum(2) - kl_divergence(Normal(v, u.exp()), Normal(0.1, 1.2)).sum(2),
    "discrete-distributions": lambda u, v: Categorical(probs=u.softmax(2)).log_prob(
        torch.tensor([0, 2])) + Bernoulli(logits=v).entropy().sum(2),
}


def net(function):
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))

    def forward(x: Tensor) -> Tensor:
        y = function((x @ first).view(-1, 2, 3), (x @ second).view(-1, 2, 3)).flatten(1)
        return torch.tanh(y).sum(1, keepdim=True)

    return forward


def gradients(f, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def assert_holds(f, x: Tensor, radii: tuple[float, ...], generator: torch.Generator) -> None:
    """Autograd's value; no sampled gradient outside; a batch is its rows; points have no width."""
    module = capture(f, (x,))
    one = torch.ones(len(x), 1, dtype=x.dtype)
    torch.testing.assert_close(module(x, one), gradients(f, x))
    engine = Engine(module, (x, one))
    for eps in radii:
        points = x + eps * (3 * torch.rand(60, *x.shape, generator=generator, dtype=x.dtype)
                            - 1.5).clamp(-1, 1)
        truth = gradients(f, points.flatten(0, 1)).view(points.shape)
        for method in ("IBP", "CROWN"):
            with torch.no_grad():
                low, high = engine((x, one), (PerturbationLpNorm(norm=math.inf, eps=eps),), method)
                alone = engine((x[1:2], one[1:2]), (PerturbationLpNorm(norm=math.inf, eps=eps),),
                               method)
            assert (low <= truth + 1e-9).all() and (truth <= high + 1e-9).all(), (method, eps)
            torch.testing.assert_close(alone.lower[0], low[1], rtol=1e-9, atol=1e-12)
            assert high.isfinite().all() and low.isfinite().all(), (method, eps)
            assert eps or (high - low).max() <= 1e-9, method


RARE = {"min-keepdim", "max-of-three", "aminmax", "maximum-constant", "where-swapped",
        "clamp-by-value", "any-all",
        "equal", "smallest", "sort-descending", "kthvalue", "median", "gather-itself",
        "adaptive-max-pool-2d", "adaptive-max-pool-3d", "average-pool-3d-divisor", "hyperbolic",
        "inverse-hyperbolic", "logarithms", "xlogy", "hypotenuses", "single-precision-parameter",
        "discrete-distributions", "gelu-written-out", "logsumexp-keepdim"}
"""Those that are much like others: tried by hand."""


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name in RARE else name for name in FUNCTIONS])
def test_values_are_autograds_and_no_gradient_is_outside(name):
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    assert_holds(net(FUNCTIONS[name]), x, (0.0, 0.2), generator)


NORMS = {
    "euclidean": lambda u,
    v: u.norm(dim=2) + torch.linalg.vector_norm(v, dim=1, keepdim=True).sum(2),
    "other-orders": lambda u,
    v: (3 + u).norm(p=1, dim=2) + (v + NUMBERS).norm(p=math.inf, dim=2) + (3 + u).norm(p=3, dim=2),
    "distance": lambda u, v: F.pairwise_distance(u, v) + (u - v).norm(dim=1).sum(1, keepdim=True),
    "cdist": lambda u, v: torch.cdist(u, v).flatten(1) + torch.cdist(u, NUMBERS).flatten(1),
    "normalize": lambda u, v: F.normalize(u, dim=2, eps=0.1) * v,
    "cosine": lambda u, v: F.cosine_similarity(u, v, dim=2, eps=0.1),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_near_and_at_0(name):
    """Torch's gradient of a norm is 0 at 0."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    x[2] = 0.0
    assert_holds(net(NORMS[name]), x, (0.0, 1e-3, 0.1), generator)


REFUSED = {
    "over the batch": lambda u, v: u * u.max(),
    "along the batch": lambda u, v: u * u.max(0)[0],
    "sorted=False": lambda u, v: u.topk(2, 2, sorted=False)[0],
    "place of a maximum": lambda u, v: u * u.argmax(2, keepdim=True),
    "norm of order 0.5": lambda u, v: u.norm(p=0.5, dim=2),
    "power of a negative number": lambda u, v: (-2.0) ** u,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    with pytest.raises(lx.UnsupportedOperation):
        capture(net(REFUSED[name]), (torch.zeros(3, 4).double(),))


# Planes


def boxes(count: int, n: int, seed: int) -> Box:
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(-2, 3, (count, n),
                        generator=generator).double() + torch.rand(count, n, generator=generator)
    wide = torch.rand(count, n, generator=generator) * torch.randint(0, 3, (count, n),
                                                                     generator=generator)
    return Box(low, low + wide)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_ranked_planes_hold_and_are_exact_where_the_order_is_known(n):
    box, ranks = boxes(400, n, n), torch.arange(n)
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(300, 400, n, generator=generator, dtype=torch.float64)
    t = torch.cat([t, t.round()])
    x = box.lower + t * box.width
    values = x.sort(-1, descending=True)[0]
    (low, low_offset), (high, high_offset) = ranked_planes(box, ranks)
    below, above = ((slopes @ x[..., None])[..., 0] + offset
                    for slopes, offset in ((low, low_offset), (high, high_offset)))
    assert (below <= values + 1e-12).all() and (values <= above + 1e-12).all()
    possible = may_have(box, ranks)
    known = possible.sum(-1) == 1
    assert n == 1 or 0.05 < known.double().mean() < 0.95
    torch.testing.assert_close(below[:, known], values[:, known])
    torch.testing.assert_close(above[:, known], values[:, known])
    first, last = rank_range(box)
    found = (x[..., None, :] > x[..., None]).sum(-1)
    assert (first <= found).all() and (found <= last).all()


def test_the_plane_above_two_entries_is_that_of_a_rectifier():
    """max(u, v) = v + relu(u - v) by relu's chord; no plane of slopes in [0, 1] is lower."""
    box = boxes(400, 2, 9)
    (_, _), (slopes, offset) = ranked_planes(box, torch.tensor([0]))
    (u, v), (w, z) = box.lower.T, box.upper.T
    low, high = u - z, w - v
    undecided = (low < 0) & (high > 0) & (box.width > 0).all(-1)
    chord = high / (high - low)
    torch.testing.assert_close(slopes[undecided, 0], torch.stack([chord, 1 - chord], -1)[undecided])
    torch.testing.assert_close(offset[undecided, 0], (-chord * low)[undecided])
    height = (slopes[:, 0] * box.center).sum(-1) + offset[:, 0]
    for a in torch.cartesian_prod(torch.linspace(0, 1, 21), torch.linspace(0, 1, 21)).double():
        reach = box.width - a * box.width
        other = (a * box.width / 2).sum(-1) + (box.lower + reach).amax(-1)
        assert (height <= other + 1e-12).all()
