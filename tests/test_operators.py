"""Every bound operator, alone and behind affine maps: value, bounds, derivatives, limits."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
from auto_LiRPA.bound_op_map import bound_op_map
from captum.attr._core.deep_lift import maxpool2d
from torch import Tensor, nn
from torch.nn import functional as F

from lirpa_explain import METHODS, OPERATORS, operators
from lirpa_explain.bounding.engine import Engine
from lirpa_explain.bounding.optimize import Optimization
from lirpa_explain.operators.affine import BoundAffine
from tests.cases import (
    ACTIVATIONS,
    BATCH,
    CASES,
    KINDS,
    Box,
    Case,
    Problem,
    boxes,
    case,
    is_rare,
    moving,
    problem,
)
from tests.tolerances import FEW_ROUNDINGS, ROUNDING
from tests.truth import sample_ball, sample_box

each_case = pytest.mark.parametrize("row", [pytest.param(row, marks=pytest.mark.slow)
                                            if is_rare(row) else row for row in CASES], ids=str)
alone_and_meeting = pytest.mark.parametrize("meet", [False, True], ids=["alone", "meeting"])


def seeded(seed: int = 2) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The table itself


def test_every_operator_has_a_case_and_says_what_it_covers():
    assert {row.operator for row in CASES} == set(OPERATORS)
    assert len({str(row) for row in CASES}) == len(CASES)
    assert all(name == operator.name and operator.covers for name, operator in OPERATORS.items())


@pytest.mark.parametrize("settings", [{}, {"slope": 0.1, "unknown": 1}, {"steepness": 1.0}])
def test_a_case_with_unknown_settings_is_rejected(settings):
    with pytest.raises(TypeError):
        case("kink", "", moving(3), **settings)
    with pytest.raises(TypeError):
        case("tanh", "", moving(3), slope=1.0)


def test_a_name_is_taken_once(monkeypatch):
    monkeypatch.setitem(OPERATORS, "twice", None)  # so that the tables are as before afterwards
    monkeypatch.setitem(bound_op_map, "lirpa_explain::twice", None)
    del OPERATORS["twice"], bound_op_map["lirpa_explain::twice"]
    first, second = (operators.Operator("twice", lambda x, n=n: n * x, BoundAffine, "a test")
                     for n in (2, 3))
    assert operators.register(first) is first
    with pytest.raises(ValueError, match="'twice' is already registered.*overwrite=True"):
        operators.register(second)
    assert operators.lookup("twice") is first
    operators.register(second, overwrite=True)
    assert operators.lookup("twice") is second and operators.call("twice",
                                                                  torch.ones(1)).item() == 3
    del OPERATORS["twice"]  # known to auto_LiRPA is taken, too
    with pytest.raises(ValueError, match="already registered"):
        operators.register(first)


# Values


def vjp(function, g: Tensor, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x, g)[0]


def conv(x: Tensor, w: Tensor, **settings) -> Tensor:
    return (F.conv1d if x.ndim == 3 else F.conv2d)(x, w, **settings)


def max_pool(x: Tensor, ceil: bool, kernel, **settings) -> Tensor:
    return F.max_pool2d(x, kernel, ceil_mode=ceil, **settings)


def average_pool(x: Tensor, kernel, ceil: bool, divisor, **settings) -> Tensor:
    return F.avg_pool2d(x, kernel, ceil_mode=ceil, divisor_override=divisor, **settings)


def picked(x: Tensor, dim: int, index: Iterable[int]) -> Tensor:
    return torch.stack([x.select(dim, i) for i in index], dim)


def picked_at(x: Tensor, index: Tensor, dim: int) -> Tensor:
    return x.gather(dim, index.round().long().clamp(0, x.shape[dim] - 1))


def window_max(x: Tensor, windows: list[list[list[int]]]) -> Tensor:
    return torch.stack([torch.stack([x[..., rows, :][..., columns].amax((-2, -1))
                                     for columns in windows[1]], -1) for rows in windows[0]], -2)


#: torch's operations that find ranks, by the name of their choice.
RANKED = {
    "max": lambda x, dim, ranks: x.max(dim, keepdim=True).values,
    "min": lambda x, dim, ranks: x.min(dim, keepdim=True).values,
    "share": lambda x, dim, ranks: (x.amax if ranks == [0] else x.amin)(dim, keepdim=True),
    "topk": lambda x, dim, ranks, k, largest: x.topk(k, dim, largest).values,
    "sort": lambda x, dim, ranks, descending,
    stable: x.sort(dim=dim, descending=descending, stable=stable).values,
    "kthvalue": lambda x, dim, ranks, k: x.kthvalue(k, dim, keepdim=True).values,
    "median": lambda x, dim, ranks: x.median(dim, keepdim=True).values,
}


#: Activations as torch computes them; their gradients are autograd's.
FORWARD = {
    "kink": lambda z, slope: F.leaky_relu(z, slope),
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink, "softplus": F.softplus, "gelu": F.gelu, "silu": F.silu,
    "mish": F.mish,
    "elu": lambda z, alpha, scale, input_scale: torch.ops.aten.elu(z, alpha, scale, input_scale),
    "hardtanh": lambda z, low, high: F.hardtanh(z, low, high),
    "clamp": lambda z, low, high: torch.clamp(z, low, high),
    "hardsigmoid": F.hardsigmoid, "hardswish": F.hardswish,
    "hardshrink": lambda z, width: F.hardshrink(z, width), "softshrink": lambda z,
    width: F.softshrink(z, width),
    "threshold": F.threshold, "absolute": torch.abs,
    "sign": lambda z: torch.sign(z) + 0 * z,
    "window": lambda z, **s: window(z, **s) + 0 * z,
    "sin": torch.sin, "cos": torch.cos, "exp": torch.exp, "log": torch.log,
    "power": lambda z, exponent: z**exponent,
    "expm1": torch.expm1, "exponential": lambda z, base: base**z, "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tan": torch.tan, "atan": torch.atan, "asinh": torch.asinh, "asin": torch.asin,
    "acosh": torch.acosh,
    "atanh": torch.atanh, "logit": lambda z, eps: torch.logit(z, eps),
    "erf": lambda z, rate: torch.erf(math.sqrt(rate) * z), "gaussian": lambda z,
    rate: torch.exp(-rate * z**2),
    "bell": lambda z, exponent, offset: (offset + z**2) ** exponent, "entropy": torch.special.entr,
}


def chosen(index: Tensor, rows: int, count: int) -> Tensor:
    """Where each index is which place: (rows, n, count)."""
    return (index[..., None] == torch.arange(count)).expand(rows, -1, -1)


def window(z: Tensor, low: float | None, high: float | None, closed: bool, inside: bool) -> Tensor:
    above = torch.ones_like(z, dtype=torch.bool) if low is None else z >= low if closed else z > low
    below = torch.ones_like(z,
                            dtype=torch.bool) if high is None else z <= high if closed else z < high
    return ((above & below) == inside).to(z)


def reference_gradient(g, t, z, z0, rule, eps, dim=None, **windows):
    """Captum's rule for max pooling, a row at a time, without windows of z0 or z."""
    if rule == "softmax":
        slope = (z.softmax(dim) - z0.softmax(dim)) / (z - z0)
        return torch.where((z - z0).abs() < eps, t, g * slope)
    counts = {"max_pool": (1.0, 1.0), "max_pool_above": (1.0, 0.0),
              "max_pool_below": (0.0, 1.0)}[rule]
    module = nn.MaxPool2d(windows["kernel"], windows["stride"], windows["padding"],
                          ceil_mode=windows["ceil"])
    slopes = []
    for row in zip(z, z0.expand_as(z), strict=True):
        both = module.input = torch.stack(row)
        pooled = module(both)
        upstream = torch.ones_like(pooled) * torch.tensor(counts).to(z)[:, None, None, None]
        slopes.append(maxpool2d(module, both, pooled, torch.zeros_like(both), upstream, eps=0.0)[0])
    return torch.where((z - z0).abs() < eps, t, g * torch.stack(slopes))


TRUTH = FORWARD | {
    f"{name}_gradient": lambda g, z, function=function, **s: vjp(lambda z: function(z, **s), g, z)
    for name, function in FORWARD.items()} | {
        "select": lambda g, z, **s: g * window(z, **s),
        "stabilized_gradient": lambda g, z, eps: g * z / torch.where(z < 0, z - eps, z + eps),
        "secant_gradient": lambda g, z, z0, function, eps, **s: torch.where(
            (z - z0).abs() < eps, vjp(lambda z: FORWARD[function](z, **s), g, z),
            g * (FORWARD[function](z, **s) - FORWARD[function](z0, **s)) / (z - z0)),
        "reference_gradient": reference_gradient,
        "add": lambda x, y: x + y,
        "along": lambda x, w,
        dim: torch.einsum("bcij,ik->bckj" if x.ndim == 4 else "bi,ik->bk", x, w),
        "average_pool": average_pool,
        "average_pool_gradient": lambda g, size,
        **s: vjp(lambda x: average_pool(x, **s), g, g.new_zeros(BATCH, 2, *size)),
        "choose": lambda a, b, t, z, **s: a * window(z, **s) + b * (1 - window(z, **s)),
        "center": lambda x,
        dims: x - x.sum(dims, keepdim=True) / math.prod(x.shape[d] for d in dims),
        "concatenate": lambda *xs, dim: torch.concat(xs, dim),
        "convolution": conv,
        "convolution_gradient": lambda g, w, size, **s: vjp(
            lambda x: conv(x, w, **s), g, g.new_zeros(BATCH, w.shape[1] * s["groups"], *size)),
        "divide": lambda x, w: x * (1 / w),
        "expand": lambda x, shape: x + x.new_zeros(BATCH, *shape),
        "inverse_root": lambda t, epsilon: torch.where(
            t < 0, epsilon**-0.5 - t / (2 * epsilon**1.5),
            1 / torch.sqrt(t.clamp(min=0) + epsilon)),
        "known": lambda x, low, high: x,
        "larger": lambda u, v, t: torch.where(t > 0, u, v),
        "larger_gradient": lambda g, t, tie: g * (torch.sign(t) + 1 + (t == 0) * (2 * tie - 1)) / 2,
        "root": lambda t: t.relu().sqrt(),
        "inverse_length": lambda t: t**-1,
        "direction": lambda x, s, dim: F.normalize(x, dim=dim, eps=1e-70, p=1),
        "log_sum_exp": lambda x, dim: x.exp().sum(dim, keepdim=True).log(),
        "lookup": lambda ids, table: F.one_hot(ids.long(), len(table)).to(table) @ table,
        "log_softmax": lambda x, dim: x.softmax(dim).log(),
        "matmul": lambda x,
        w: torch.einsum("...i,ij->...j" if w.ndim == 2 else "...i,i->...", x, w),
        "matrix_product": lambda x, y: torch.einsum("...mk,...kl->...ml", x, y),
        "max_pool": max_pool,
        "max_pool_gradient": lambda g, z, **s: vjp(lambda z: max_pool(z, **s), g, z),
        "mean": lambda x, dims, keepdim: x.sum(dims, keepdim) / math.prod(x.shape[d] for d in dims),
        "multiply": lambda x, y: x * y,
        "normalize": lambda x, w, variance,
        epsilon: F.batch_norm(x, 0 * variance, variance, w, eps=epsilon),
        "pad": lambda x, pad: F.pad(x, pad),
        "permute": lambda x, dims: torch.einsum(x, list(range(x.ndim)), dims),
        "pick_at": lambda y, index, dim, size: picked_at(y, index, dim),
        "pick_ranked": lambda y, x, dim, ranks, choice: picked_at(
            y, x.argsort(dim, descending=True).index_select(dim, torch.tensor(ranks)), dim),
        "pick": lambda x, index, shape, gaps: torch.einsum(
            "bi,bni->bn", x.flatten(1), chosen(index, len(x), x[0].numel()).to(x)).view(len(x),
                                                                                        *shape),
        "put": lambda x, index, shape, gaps: torch.einsum(
            "bi,bin->bn", x.flatten(1), chosen(index, len(x), math.prod(shape)).to(x)).view(len(x),
                                                                                            *shape),
        "place": lambda x, size, dim, start, step: vjp(
            lambda full: picked(full, dim, range(start, size, step)[:x.shape[dim]]), x,
            x.new_zeros(*x.shape[:dim], size, *x.shape[dim + 1:])),
        "probability": lambda t: F.elu(t) + 1,
        "put_at": lambda g, index, dim, size: vjp(
            lambda y: picked_at(y, index, dim), g,
            g.new_zeros(*g.shape[:dim], size, *g.shape[dim + 1:])),
        "ranked": lambda x, dim, ranks: picked(x.sort(dim, descending=True).values, dim, ranks),
        "ranked_gradient": lambda g, x, dim, ranks, choice: vjp(
            lambda x: RANKED[choice[0]](x, dim, ranks, *choice[1:]), g, x),
        "rest": lambda g, p, z, **s: g * window(z, **s),
        "remainder": lambda z, divisor,
        kind: z - divisor * (torch.floor if kind == "floor" else torch.trunc)(z / divisor),
        "stairs": lambda z, kind: getattr(torch, kind)(z),
        "reshape": lambda x, shape: x.view(BATCH, *shape),
        "scale": lambda x, factor: factor * x,
        "slice": lambda x, dim, start, stop, step: picked(x, dim, range(start, stop, step)),
        "sum": lambda x, dims, keepdim: x.sum(dims, keepdim),
        "unperturbed": lambda *xs, target, arguments, **s: {
            "t.default": lambda: xs[0].T, "mul.Tensor": lambda: xs[0] * xs[-1],
            "split.Tensor": lambda: xs[0][:, 2:4],
        }[target](),
        "variance": lambda x, dims: x.var(dims, correction=0, keepdim=True),
        "window_max": lambda x, sizes, windows: window_max(x, windows),
        "window_max_gradient": lambda g, x, sizes,
        windows: vjp(lambda x: window_max(x, windows), g, x),
        "weighted_center": lambda g, p, dim, total: sum(
            p.narrow(dim, j, 1) * (g - g.narrow(dim, j, 1)) for j in range(g.shape[dim])),
    }


@pytest.mark.parametrize("row", CASES, ids=str)
def test_the_value_is_what_torch_computes(row):
    for seed in range(3):
        values = row.values(seeded(seed))
        if row.operator.removesuffix("_gradient") in ACTIVATIONS:  # also at breaks, exactly
            low, high = (0.5, 1.0) if row.args[-1].positive else row.args[-1].within or (-3.0, 3.0)
            special = [point for point in (-1.0, 0.5, 0.1, -3.0, 3.0, 0.0, 1.0, 2.0)
                       if low <= point <= high]
            flat = values[-1].view(-1)
            flat[::2] = torch.tensor(special, dtype=flat.dtype).repeat(len(flat))[: len(flat[::2])]
        result = operators.call(row.operator, *values, **row.settings)
        torch.testing.assert_close(result, TRUTH[row.operator](*values, **row.settings), rtol=1e-12,
                                   atol=1e-14)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus"])
def test_gradients_of_smooth_functions_are_their_differences(name):
    settings = {"beta": 3.0, "threshold": 20.0} if name == "softplus" else {}
    # (1000,): beta * z stays below the threshold
    z, h = torch.linspace(-5, 5, 1000, dtype=torch.float64), 1e-5
    difference = (operators.call(name, z + h, **settings) - operators.call(name, z - h,
                                                                           **settings)) / (2 * h)
    gradient = operators.call(f"{name}_gradient", torch.ones_like(z), z, **settings)
    torch.testing.assert_close(gradient, difference, rtol=0, atol=1e-9)


# Bounds


class Plain:
    """Somebody's own `BoundedModule`, and what they would call."""

    def __init__(self, p: Problem) -> None:
        self.problem = p
        self.module = BoundedModule(p.module, example(p), bound_opts={"conv_mode": "matrix"},
                                    device="cpu")

    def __call__(self, sides: list[Box], C: Tensor | None = None) -> Box:
        moved = [BoundedTensor((low + high) / 2, ball_of((low, high))) for low, high in sides]
        # auto_LiRPA's own identity matrix is of the default type
        torch.set_default_dtype(torch.float64)
        try:
            return self.module.compute_bounds(x=self.problem.inputs(*moved), method="CROWN", C=C)
        finally:
            torch.set_default_dtype(torch.float32)


def example(p: Problem, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return p.inputs(*(torch.zeros(shape, dtype=dtype) for shape in p.moving))


def engine_of(p: Problem, dtype: torch.dtype = torch.float64) -> Engine:
    """An engine whose optimised bounds take few steps: they are as sound as more."""
    return Engine(p.module, example(p, dtype), Optimization(iterations=3))


def ball_of(box: Box) -> PerturbationLpNorm:
    return PerturbationLpNorm(norm=math.inf, x_L=box[0], x_U=box[1])


def bounds(engine: Engine, p: Problem, sides: list[Box], method: str) -> Box:
    moved = [(low + high) / 2 for low, high in sides]
    return engine(p.inputs(*moved), tuple(map(ball_of, sides)), method)


def values_at(p: Problem, points: list[Tensor]) -> Tensor:
    """Values (n, B, D) at points (n, B, *S) of each moving input."""
    with torch.no_grad():
        return p.module(*p.inputs(*(x.flatten(0, 1) for x in points))).unflatten(
            0, points[0].shape[:2])


def vertices(p: Problem, sides: list[Box], C: Tensor) -> list[Tensor]:
    """Corners (2 K, B, *S) to which K functionals (B, K, D) fall and rise at the centre."""
    moved = [((low + high) / 2).requires_grad_() for low, high in sides]
    sums = torch.einsum("bkd,bd->k", C, p.module(*p.inputs(*moved))) + 0 * sum(x.sum()
                                                                               for x in moved)
    slopes = [torch.autograd.grad(s, moved, retain_graph=True, materialize_grads=True)
              for s in sums]
    corners = []
    for (low, high), slope in zip(sides, map(torch.stack, zip(*slopes, strict=True)), strict=True):
        corners.append(
            torch.cat([torch.where(slope > 0, low, high), torch.where(slope > 0, high, low)]))
    return corners


def scale(*tensors: Tensor) -> Tensor:
    """Largest number of each row, at least 1: (B,); tensors are (n, B, ...) or (B, ...)."""
    return torch.stack([t.detach().abs().reshape(-1, *t.shape[-2:]).amax((0, 2))
                        for t in tensors]).amax(0).clamp(min=1)


@each_case
@alone_and_meeting
def test_no_point_is_outside_its_bounds(row, meet):
    """Boxes of the engine and a plain BoundedModule, and bounds of functionals, hold points."""
    p = problem(row, meet=meet, backwards=True)
    sides = boxes(p, *KINDS)
    points = [sample_box(low, high, 40, seeded()) for low, high in sides]
    C = torch.randn(len(points[0][0]), 4, values_at(p, points).shape[2], generator=seeded(),
                    dtype=torch.float64)
    points = [torch.cat(pair) for pair in zip(points, vertices(p, sides, C), strict=True)]
    sampled = values_at(p, points)
    rounding = FEW_ROUNDINGS * scale(sampled,
                                     *(end.flatten(1) for side in sides for end in side))[:, None]
    engine, plain = engine_of(p), Plain(p)
    # which differs in what comes before the operator
    methods = METHODS if meet else set(METHODS) - {"CROWN-IBP"}
    found = {method: bounds(engine, p, sides, method) for method in methods} | {
        "plain": plain(sides)}
    for method, (lower, upper) in found.items():
        assert lower.isfinite().all() and upper.isfinite().all(), method
        assert_below(lower, sampled, rounding, method)
        assert_below(sampled, upper, rounding, method)

    lower, upper = plain(sides, C)
    sums = torch.einsum("bkd,nbd->nbk", C, sampled)
    rounding = rounding * C.abs().sum(2)
    assert lower.isfinite().all() and upper.isfinite().all()
    assert_below(lower, sums, rounding, "functionals")
    assert_below(sums, upper, rounding, "functionals")
    # points
    exact = slice(None) if issubclass(OPERATORS[row.operator].bound, BoundAffine) else slice(9, 12)
    assert_below(sums.amin(0)[exact], lower[exact], rounding[exact], "functionals are exact")
    assert_below(upper[exact], sums.amax(0)[exact], rounding[exact], "functionals are exact")


def methods_of(row: Case) -> list[str]:
    """Methods to try: optimised ones on kinks only, of functions of one variable."""
    curved = row.operator.removesuffix("_gradient") in {*ACTIVATIONS, "select", "secant"} - {"kink"}
    return [method for method in METHODS if not (curved and method == "CROWN-Optimized")]


def assert_below(low: Tensor, high: Tensor, rounding: Tensor, what: str) -> None:
    excess = ((low - high) / rounding).amax(-1)
    excess = excess if excess.ndim == 1 else excess.amax(0)
    kinds = ([f"{kind} {e:.3g}"
              for kind, e in zip(KINDS, excess.reshape(-1, BATCH).amax(1).tolist(), strict=True)]
             if len(excess) == BATCH * len(KINDS) else "")
    times = f"{excess.max():.3g} times the rounding allowed"
    assert (excess <= 1).all(), f"{what}: exceeds by {times} {kinds}"


@each_case
def test_a_point_has_its_value_and_no_width(row):
    """Behind other maps; of operators alone the functionals above are exact at points."""
    p = problem(row, meet=True, backwards=True)
    sides = boxes(p, "point")
    engine, value = engine_of(p), p.module(*p.inputs(*(low for low, _ in sides)))
    for method in methods_of(row):
        bounds(engine, p, boxes(p, "wide"), method)  # nothing of another box may be left over
        for side in bounds(engine, p, sides, method):
            # bounds that are read on the way are moved outward by some roundings
            assert_below((side - value).abs(), 0 * value,
                         10 * FEW_ROUNDINGS * scale(value)[:, None], method)


@each_case
def test_smaller_boxes_have_smaller_intervals(row):
    p = problem(row, meet=True, backwards=True)
    engine = engine_of(p)
    sides = boxes(p, *KINDS)
    last = bounds(engine, p, sides, "IBP")
    for seed in range(2):
        part = [torch.rand(2, *low.shape, generator=seeded(seed), dtype=low.dtype).sort(0).values
                for low, _ in sides]
        sides = [tuple(low + t * (high - low) for t in parts)
                 for (low, high), parts in zip(sides, part, strict=True)]
        lower, upper = bounds(engine, p, sides, "IBP")
        rounding = FEW_ROUNDINGS * scale(*last, *(end.flatten(1) for side in sides
                                                  for end in side))[:, None]
        assert_below(last[0], lower, rounding, "lower")
        assert_below(upper, last[1], rounding, "upper")
        last = lower, upper


@each_case
def test_a_batch_is_its_rows_and_float32_is_float64(row):
    p, single = (problem(row, meet=True, backwards=True, dtype=dtype)
                 for dtype in (torch.float64, torch.float32))
    sides = boxes(p, "wide")
    engine, rough = engine_of(p), engine_of(single, torch.float32)
    for method in methods_of(row):
        together = bounds(engine, p, sides, method)
        low, high = sides[0][0][1:2], sides[0][1][1:2]
        rest = [r[1:2] for r in p.rest]
        alone = engine(((low + high) / 2, *rest), (ball_of((low, high)),), method)
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_[1], rtol=1e-9, atol=1e-12)
        if method == "CROWN-Optimized":
            continue  # its steps amplify roundings
        in_float32 = bounds(rough, single, [(side[0].float(), side[1].float()) for side in sides],
                            method)
        for one, all_ in zip(in_float32, together, strict=True):
            assert one.dtype == torch.float32
            assert ((one - all_).abs().amax(1)
                    <= ROUNDING[torch.float32] * scale(all_)).all(), method


@each_case
def test_bounds_have_the_derivatives_of_their_differences(row):
    """By every parameter: those of the maps before the operator and its own weights."""
    p = problem(row, meet=True, backwards=True)
    sides = boxes(p, "wide")
    parameters = [w for w in p.module.parameters() if w.requires_grad]
    engine = engine_of(p)
    generator, h = seeded(), 1e-6
    directions = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in parameters]

    def total(method: str) -> Tensor:
        both = torch.cat(bounds(engine, p, sides, method))
        return (both * torch.rand(both.shape, generator=seeded(), dtype=both.dtype)).sum()

    @torch.no_grad()
    def moved(by: float, method: str) -> float:
        torch._foreach_add_(parameters, directions, alpha=by)
        result = total(method).item()
        torch._foreach_sub_(parameters, directions, alpha=by)
        return result

    for method in set(METHODS) - {"CROWN-Optimized"}:  # whose steps are constants for autograd
        # bounds may depend on none of them
        value = total(method) + 0 * sum(w.sum() for w in parameters)
        gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
        slope = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
        assert slope == pytest.approx((moved(h, method) - moved(-h, method)) / (2 * h), rel=1e-5,
                                      abs=1e-6), method


# Where nothing is generic


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.5, -0.2])
@pytest.mark.parametrize(("low", "high", "sides"), [(0, 0, 2), (0, 1, 2), (-1, 0, 2), (1, 2, 1)])
def test_at_a_kink_the_gradient_of_either_side_is_inside(slope, low, high, sides):
    p = problem(case("kink_gradient", "", moving(1), moving(1), slope=slope))
    g = torch.tensor([[-2.0], [0.0], [3.0]], dtype=torch.float64)
    z = tuple(torch.full((3, 1), float(end), dtype=torch.float64) for end in (low, high))
    engine = Engine(p.module, (g, g))
    for method in METHODS:
        lower, upper = bounds(engine, p, [(g, g), z], method)
        for d in (slope, 1.0)[-sides:]:
            assert (lower <= g * d + 1e-12).all() and (g * d <= upper + 1e-12).all(), method
        if (low, high) == (0, 0):  # and nothing else
            assert torch.allclose(upper - lower, (g * (1 - slope)).abs()), method


def test_at_a_tie_the_gradient_of_either_maximum_is_inside():
    """Windows of equal entries: a step towards any of them decides the tie, unless all are exactly
    0, as behind ReLUs that are off: then torch takes the first.
    """
    row = next(c for c in CASES if str(c) == "max_pool_gradient-overlap")
    p = problem(row)
    g = row.numbers(row.args[0], seeded())
    z = torch.randint(1, 3, row.args[1].shape, generator=seeded()).double()
    decided = z + 1e-6 * torch.randn(30, *z.shape, generator=seeded(), dtype=z.dtype)
    gradients = values_at(p, [g.expand(30, *g.shape), decided])
    assert gradients.std(0).max() > 0.1
    for method in METHODS:
        lower, upper = bounds(Engine(p.module, (g, z)), p, [(g, g), (z, z)], method)
        assert (lower <= gradients + 1e-9).all() and (gradients <= upper + 1e-9).all(), method
        zero = torch.zeros_like(z)
        first = values_at(p, [g[None], zero[None]])[0]
        for side in bounds(Engine(p.module, (g, zero)), p, [(g, g), (zero, zero)], method):
            torch.testing.assert_close(side, first, rtol=0, atol=1e-9)


@pytest.mark.parametrize("row",
                         [c for c in CASES if c.operator in ("ranked_gradient", "larger_gradient")
                          and all(arg.role == "moving" for arg in c.args)], ids=str)
def test_equal_entries_are_chosen_among_as_torch_does(row):
    g, x = row.values(seeded())
    x = torch.randint(0, 2, x.shape, generator=seeded()).double() - float(row.operator
                                                                          == "larger_gradient")
    result = operators.call(row.operator, g, x, **row.settings)
    torch.testing.assert_close(result, TRUTH[row.operator](g, x, **row.settings))
    decided = x + 1e-6 * torch.randn(30, *x.shape, generator=seeded(), dtype=x.dtype)
    p = problem(row)
    gradients = torch.cat([values_at(p, [g.expand(30, *g.shape), decided]),
                           result.flatten(1)[None]])
    for method in METHODS:
        lower, upper = bounds(Engine(p.module, (g, x)), p, [(g, g), (x, x)], method)
        assert (lower <= gradients + 1e-9).all() and (gradients <= upper + 1e-9).all(), method


def test_max_pool_gradient_is_exact_where_windows_do_not_overlap():
    """Any position may be the maximum, so extremes put an end of g on one position."""
    p = problem(next(c for c in CASES if str(c) == "max_pool_gradient-plain"))
    g, z = boxes(p, "wide")
    z = (-torch.ones_like(z[0]), torch.ones_like(z[0]))
    C = torch.randn(BATCH, 4, 32, generator=seeded(), dtype=torch.float64)
    lower, upper = Plain(p)([g, z], C)
    # row, functional, channel
    windows = F.unfold(C.reshape(-1, 1, 4, 4), 2, stride=2).reshape(BATCH, 4, 2, 4, 4)
    products = torch.stack([windows * end.reshape(BATCH, 1, 2, 1, 4) for end in g])
    assert torch.allclose(upper, products.amax((0, 4)).sum((2, 3)))
    assert torch.allclose(lower, products.amin((0, 4)).sum((2, 3)))


@pytest.mark.parametrize("name", ["kink_gradient-0.1", "tanh_gradient", "multiply-both",
                                  "multiply-both-broadcast",
                                  "max_pool_gradient-plain", "max_pool_gradient-overlap"])
def test_the_order_in_which_factors_are_computed_does_not_matter(name):
    for backwards in (True, False):
        p = problem(next(c for c in CASES if str(c) == name), meet=True, backwards=backwards)
        sides = boxes(p, *KINDS)
        sampled = values_at(p, [sample_box(low, high, 200, seeded()) for low, high in sides])
        rounding = FEW_ROUNDINGS * scale(sampled, *(end.flatten(1) for side in sides
                                                    for end in side))[:, None]
        lower, upper = bounds(engine_of(p), p, sides, "CROWN")
        assert_below(lower, sampled, rounding, "lower")
        assert_below(sampled, upper, rounding, "upper")


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("name", ["kink_gradient-0.1", "tanh_gradient", "multiply-both",
                                  "max_pool_gradient-overlap",
                                  "matmul", "softplus-3-20", "convolution-2d"])
@alone_and_meeting
def test_round_balls(name, norm, meet):
    """An input of an operator may itself be a ball in another norm."""
    p = problem(next(c for c in CASES if str(c) == name), meet=meet, backwards=True)
    centers = [low for low, _ in boxes(p, "wide")]
    radius = 0.7 if meet else 1.5
    points = [sample_ball(x, radius, norm, 200, seeded(i)) for i, x in enumerate(centers)]
    sampled = values_at(p, points)
    engine = Engine(p.module, p.inputs(*centers), Optimization(iterations=3))
    with np.errstate(divide="ignore"):  # auto_LiRPA divides by 1 - 1 / norm
        balls = tuple(PerturbationLpNorm(norm=norm, eps=radius) for _ in centers)
    for method in METHODS:
        lower, upper = engine(p.inputs(*centers), balls, method)
        assert (lower <= sampled + 1e-9).all() and (sampled <= upper + 1e-9).all(), method
