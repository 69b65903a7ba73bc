"""Inside auto_LiRPA code: its own optimisation, its coefficients, its intermediate bounds and its
branches.
"""

import math

import pytest
import torch
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
from captum.attr import InputXGradient, Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.operators.planes import BoundPlanes
from tests.cases import CASES, boxes, problem
from tests.test_operators import FEW_ROUNDINGS, example, scale, values_at
from tests.truth import assert_inside, sample_box

SINCE_0_7 = pytest.mark.skipif(not hasattr(BoundedModule, "get_split_nodes"),
                               reason="auto_LiRPA before 0.7")
RELAXED = [row for row in CASES if issubclass(lx.OPERATORS[row.operator].bound, BoundPlanes)]
ONE_EACH = list({row.operator: row for row in reversed(RELAXED)}.values())
EPS = 0.1


@pytest.fixture(autouse=True)
def in_double_precision():
    """auto_LiRPA's own identity matrix is of the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def net(*activations: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(4, 8)]
    for activation in activations:
        layers += [activation, nn.Linear(8, 8)]
    return nn.Sequential(*layers[:-1], nn.Linear(8, 2))


NETS = {"relu": (nn.ReLU(), nn.ReLU()), "mixed": (nn.ReLU(), nn.Tanh()),
        "smooth": (nn.Softplus(), nn.Sigmoid())}


class Bounded:
    """A gradient in somebody's own `BoundedModule`, around two examples."""

    def __init__(self, model: nn.Module, kind: type = Saliency, eps: float = EPS,
                 **opts: dict) -> None:
        self.x = torch.rand(2, 4, generator=torch.Generator().manual_seed(1))
        self.attribution = kind(model)
        self.keywords = {"target": [1, 0]} | ({"abs": False} if kind is Saliency else {})
        module = lx.AttributionModule(self.attribution, self.x, **self.keywords)
        self.module = BoundedModule(module, self.x, bound_opts=opts)
        self.eps = eps
        self.points = sample_box(self.x - eps, self.x + eps, 60, torch.Generator().manual_seed(0))
        self.values = torch.stack([self.attribution.attribute(x, **self.keywords).detach()
                                   for x in self.points])

    def bounds(self, method: str, **keywords):
        ball = BoundedTensor(self.x,
                             PerturbationLpNorm(x_L=self.x - self.eps, x_U=self.x + self.eps))
        return self.module.compute_bounds((ball,), method=method, **keywords)


# Its own optimisation


def quickly(module: BoundedModule, iterations: int = 4) -> None:
    module.set_bound_opts({"optimize_bound_args": {"iteration": iterations}})


@SINCE_0_7
@pytest.mark.parametrize("row", ONE_EACH, ids=str)
def test_no_point_is_outside_optimised_bounds(row):
    p = problem(row, meet=True, backwards=True)
    sides = boxes(p, "wide", "narrow")
    sampled = values_at(p, [sample_box(low, high, 40, torch.Generator().manual_seed(2))
                            for low, high in sides])
    rounding = FEW_ROUNDINGS * scale(sampled,
                                     *(end.flatten(1) for side in sides for end in side))[:, None]
    module = BoundedModule(p.module, example(p), device="cpu")
    quickly(module, 2)
    moved = [BoundedTensor((low + high) / 2, PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high))
             for low, high in sides]
    lower, upper = module.compute_bounds(x=p.inputs(*moved), method="CROWN-Optimized")
    assert lower.isfinite().all() and upper.isfinite().all()
    assert (lower <= sampled + rounding).all() and (sampled <= upper + rounding).all()


@SINCE_0_7
@pytest.mark.parametrize(("name", "kind"), [
    ("relu", Saliency), ("mixed", InputXGradient), ("smooth", InputXGradient)])
def test_its_optimised_bounds_are_tighter_than_crown(name, kind):
    bounded = Bounded(net(*NETS[name]), kind, eps=0.3)
    quickly(bounded.module, 6)
    C = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))
    for functions, values in ((None, bounded.values),
                              (C, torch.einsum("bkd,sbd->sbk", C, bounded.values))):
        plain, best = (bounded.bounds(method, C=functions)
                       for method in ("CROWN", "CROWN-Optimized"))
        assert_inside(tuple(side.detach() for side in best), values)
        widths = [float((upper - lower).detach().mean()) for lower, upper in (plain, best)]
        assert widths[1] < 0.99 * widths[0]


@SINCE_0_7
def test_alphas_may_be_kept_and_taken_up_again():
    bounded = Bounded(net(*NETS["relu"]), eps=0.3)
    quickly(bounded.module)
    best = bounded.bounds("CROWN-Optimized", bound_upper=False)[0]
    acts = bounded.module.get_enabled_opt_act()
    kept = {node.name: node.dump_alpha() for node in acts}
    assert any(part["alpha"] for part in kept.values())
    for node in acts:
        node.alpha = {}
    plain = bounded.bounds("CROWN", reuse_alpha=True)[0]
    for node in acts:
        node.restore_alpha(kept[node.name])
    again = bounded.bounds("CROWN", reuse_alpha=True)[0].detach()
    assert float(again.sum()) > float(plain.detach().sum()) + 1e-6
    torch.testing.assert_close(again, best, rtol=0, atol=0.02)


# Coefficients and intermediate bounds


@pytest.mark.parametrize("name", NETS)
def test_coefficients_are_linear_bounds_in_the_input(name):
    """Also where a gradient's relaxation does not depend on the input, which is not left out
    then.
    """
    bounded = Bounded(net(*NETS[name][:1]))
    result, x = bounded.module.output_name[0], bounded.module.input_name[0]
    lower, upper, found = bounded.bounds("CROWN", return_A=True, needed_A_dict={result: [x]})
    form = found[result][x]
    at = {side: torch.einsum("bsd,nbd->nbs", form[f"{side}A"], bounded.points) for side in "lu"}
    if lx.AUTO_LIRPA_VERSION != "0.3":  # which leaves constants out
        assert (at["l"] + form["lbias"] <= bounded.values + 1e-9).all()
        assert (bounded.values <= at["u"] + form["ubias"] + 1e-9).all()
    assert ((at["u"] - at["l"]).amax(0) <= (upper - lower) + 1e-9).all()


@SINCE_0_7
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN", "forward"])
def test_intermediate_bounds_are_saved_and_taken(method, tmp_path):
    bounded = Bounded(net(*NETS["mixed"]))
    bounded.bounds(method)
    saved = bounded.module.save_intermediate(str(tmp_path / "bounds"))
    x, nodes = bounded.x, {node.name: node for node in bounded.module.nodes()}
    assert {name for name in ("/z", "/g") if name in nodes} <= saved.keys()
    for point in bounded.points:
        bounded.module(point)
        for name, (lower, upper) in saved.items():
            value = nodes[name].forward_value
            assert (lower - 1e-9 <= value).all() and (value <= upper + 1e-9).all(), name
    bounded.module(x)
    kept = {name: sides for name, sides in saved.items() if name != bounded.module.output_name[0]}
    assert_inside(tuple(side.detach() for side in bounded.bounds("CROWN", interm_bounds=kept)),
                  bounded.values)


# Branches


@SINCE_0_7
def test_branches_split_pre_activations_of_both_passes():
    """A decision clips what forward and backward pass read; its half-space, by beta, holds in all
    other bounds.
    """
    model = net(nn.ReLU(), nn.ReLU())
    bounded = Bounded(model, eps=0.3)
    whole = [side.detach() for side in bounded.bounds("CROWN")]
    nodes, activations = bounded.module.get_split_nodes()
    readers = [{type(operator).__name__ for operator, _ in activations[node.name]}
               for node in nodes]
    assert {"Bound_kink", "Bound_kink_gradient"} in readers  # one node, two operators
    kept = {name: tuple(side.detach() for side in sides)
            for name, sides in bounded.module.save_intermediate().items()
            if name != bounded.module.output_name[0]}
    first = nodes[0]
    operator = activations[first.name][0][0]
    neuron = int(operator.get_split_mask(*kept[first.name], 0).all(0).nonzero()[0])
    pre = torch.stack([model[0](x) for x in bounded.points])[..., neuron]
    bounded.module.set_bound_opts(
        {"optimize_bound_args": {"enable_beta_crown": True, "iteration": 15}})
    for sign in (1, -1):
        lower, upper = (side.clone() for side in kept[first.name])
        (lower if sign > 0 else upper)[:, neuron] = 0.0
        halves = kept | {first.name: (lower, upper)}
        bounded.module.set_bound_opts({"optimize_bound_args": {"enable_beta_crown": False}})
        clipped = [side.detach() for side in bounded.bounds("CROWN", interm_bounds=halves)]
        bounded.module.set_bound_opts({"optimize_bound_args": {"enable_beta_crown": True}})
        bounded.module.reset_beta(first, (2, 1), [None, None])
        first.sparse_betas[0].apply_splits([{first.name: ([neuron], [sign])}] * 2, first.name)
        half = [side.detach() for side in bounded.bounds("CROWN-Optimized", interm_bounds=halves)]
        inside = (sign * pre >= 0)[..., None]
        for low, high in (clipped, half):
            assert ((low <= bounded.values + 1e-9) | ~inside).all()
            assert ((bounded.values <= high + 1e-9) | ~inside).all()
        widths = [float((high - low).mean()) for low, high in (whole, clipped, half)]
        assert widths[2] < widths[1] <= widths[0]


