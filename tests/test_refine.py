"""Refining by domains: sound on every domain, exact in the end, and decided as the truth is."""

import itertools
import math

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from scipy.optimize import linprog
from torch import nn

import lirpa_explain as lx
from lirpa_explain import attributions
from lirpa_explain.bounding.reach import reached
from lirpa_explain.bounding.where import Where
from lirpa_explain.certificates.metrics import evaluate
from lirpa_explain.errors import UnsupportedOperation
from lirpa_explain.operators.bound import flat_rows
from lirpa_explain.refining.cuts import Cuts, least
from lirpa_explain.refining.domains import INPUT
from lirpa_explain.refining.functions import Functions
from lirpa_explain.refining.ground import Ground, Part
from lirpa_explain.refining.patterns import Patterns
from lirpa_explain.refining.problem import Problem
from lirpa_explain.refining.search import Limits, Search
from lirpa_explain.refining.tree import Objective, Tree
from tests import metric_cases as cases
from tests.reference import exact_gradient_range, sample_ball, sample_box

EPS = 0.3


def mlp(*sizes, act=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    layers = [m for a, b in zip(sizes, sizes[1:], strict=False) for m in (nn.Linear(a, b), act())]
    return nn.Sequential(*layers[:-1]).double()


def leaky():
    return nn.LeakyReLU(0.2)


NETS = {
    "relu": (lambda: mlp(4, 8, 8, 3), (4,)),
    "leaky": (lambda: mlp(4, 6, 6, 3, act=leaky), (4,)),
    "residual": (lambda: Residual(), (4,)),
    "conv": (lambda: convolutional(), (1, 4, 4)),
    "windows": (lambda: image_net(), (81,)),
}


ATTRIBUTIONS = {
    "Saliency": (Saliency, {"abs": False}),
    "|Saliency|": (Saliency, {}),
    "InputXGradient": (InputXGradient, {}),
    "IntegratedGradients": (IntegratedGradients, {"n_steps": 4}),
}


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.double()

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.c(torch.relu(self.b(h)) + h)


def convolutional():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def image_net():
    """A net whose neurons read parts of a 9 x 9 image, given flat."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Unflatten(1, (1, 9, 9)), nn.Conv2d(1, 2, 3, 2), nn.ReLU(),
                         nn.Conv2d(2, 2, 2), nn.ReLU(),
                         nn.Flatten(), nn.Linear(18, 4), nn.ReLU(), nn.Linear(4, 2)).double()


def inputs(shape, count=2):
    return torch.rand(count, *shape, dtype=torch.float64,
                      generator=torch.Generator().manual_seed(5))


def values_at(attribution, x, points, **keywords):
    """Captum's attributions (N, P, D) at points (N, P, *S)."""
    a = attribution.attribute(points.flatten(0, 1).requires_grad_(), **keywords).detach()
    return flat_rows(a).reshape(len(x), points.shape[1], -1)


def box_points(x, count, eps=EPS):
    generator = torch.Generator().manual_seed(11)
    return sample_box(x - eps, x + eps, count, generator).transpose(0, 1)


# Half-spaces


@pytest.mark.parametrize("count", [1, 3, 6])
def test_bounds_over_cut_boxes_are_sound_and_near_the_linear_program(count):
    generator = torch.Generator().manual_seed(count)
    rand = torch.rand(3, 5 + count, 40, generator=generator, dtype=torch.float64) * 2 - 1
    A, G = rand[:, :5], rand[:, 5:]
    center, radius = (torch.rand(3, 40, generator=generator, dtype=torch.float64),
                      torch.full((3, 40), 0.2).double())
    h = -(G @ center[..., None])[..., 0] - 0.05 * G.abs().sum(2)
    c = torch.rand(3, 5, generator=generator, dtype=torch.float64)
    ground = Ground((Part(math.inf, center, radius),))
    functions = Functions(A, c, None, 40)
    low, plain = (least(ground, functions, Cuts(G, h), rounds=30),
                  least(ground, functions, Cuts.none(center)))
    for b in range(3):
        for s in range(5):
            box = torch.stack([center - radius, center + radius], 2)[b].numpy()
            found = linprog(A[b, s].numpy(), A_ub=-G[b].numpy(), b_ub=h[b].numpy(), bounds=box)
            exact = found.fun + float(c[b, s])
            assert low[b, s] <= exact + 1e-9
            assert exact - low[b, s] <= 0.3 * (exact - plain[b, s]) + 1e-9


@pytest.mark.parametrize("norm", [math.inf, 2, 1])
def test_bounds_over_cut_balls_hold_at_points(norm):
    generator = torch.Generator().manual_seed(3)
    A, G = (torch.randn(1, 3, 6, generator=generator).double(),
            torch.randn(1, 2, 6, generator=generator).double())
    center = torch.zeros(1, 6, dtype=torch.float64)
    radius = torch.full((1, 6 if norm == math.inf else 1), 0.5).double()
    h, c = torch.full((1, 2), -0.2).double(), torch.zeros(1, 3).double()
    ground = Ground((Part(norm, center, radius),))
    functions = Functions(A, c, None, 6)
    low = least(ground, functions, Cuts(G, h))
    points = (sample_box(center - 0.5, center + 0.5, 4000, generator) if norm == math.inf
              else sample_ball(center, 0.5, norm, 4000, generator))[:, 0]
    inside = points[(points @ G[0].T + h >= 0).all(1)]
    assert len(inside) > 20
    assert bool((inside @ A[0].T >= low[0] - 1e-12).all())
    if norm != 1:  # whose multipliers are a guess
        assert bool((low > least(ground, functions, Cuts.none(center))).any())


@pytest.mark.parametrize("norm", [math.inf, 2, 1])
def test_functions_of_some_inputs_feel_half_spaces_of_more(norm):
    generator = torch.Generator().manual_seed(7)
    A, G = (torch.randn(2, 5, 4, generator=generator).double(),
            torch.randn(2, 2, 9, generator=generator).double())
    index = torch.stack([torch.randperm(9, generator=generator)[:4] for _ in range(10)]).reshape(
        2, 5, 4)
    index[:, 0, 0], A[:, 0, 0] = 9, 0.0  # beyond a layer
    center = torch.rand(2, 9, generator=generator).double()
    radius = torch.full((2, 9 if norm == math.inf else 1), 0.5).double()
    ground = Ground((Part(norm, center, radius),))
    G[..., 3:] *= 0.1
    cuts = Cuts(G, -(G @ center[..., None])[..., 0] - 0.1 * G.abs().amax(2))
    functions = Functions(A, torch.zeros(2, 5).double(), index, 9)
    low, plain = least(ground, functions, cuts), least(ground, functions, Cuts.none(center))
    assert bool((low >= plain).all())
    if norm != 1:  # whose multipliers are a guess
        assert bool((low > plain + 1e-3).any())
    points = (sample_box(center - 0.5, center + 0.5, 20000, generator) if norm == math.inf
              else sample_ball(center, 0.5, norm, 20000, generator)).transpose(0, 1)
    inside = (torch.einsum("bpd,bmd->bpm", points, cuts.G) + cuts.h[:, None] >= 0).all(2)
    values = torch.einsum("bpd,bsd->bps", points, functions.dense())
    assert bool((inside.sum(1) > 5).all())
    assert bool((values >= low[:, None] - 1e-12)[inside].all())


def test_an_empty_domain_has_a_bound_beyond_what_is_possible():
    center, radius = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
    G, h = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]]).double(), torch.tensor([[-0.5, 0.4]]).double()
    ground = Ground((Part(math.inf, center, radius),))  # x + y >= 0.5 and x + y <= 0.4
    # so x + y - 0.5 < 0 everywhere
    assert float(least(ground, Functions(-G[:, :1], -h[:, :1], None, 2), Cuts(G, h), rounds=20)) > 0


# Domains


def problem_of(net, x, eps=EPS, norm=math.inf, attribution=None, **keywords):
    attribution = Saliency(net) if attribution is None else attribution
    certifier = lx.Certifier(attribution, x, **keywords)
    plan = attributions.make_plan(attribution, (x,), certifier.attribute_kwargs)
    trace, _ = certifier.traces.of(attribution, plan, (x,), certifier.attribute_kwargs,
                                   explained=True)
    return Problem(plan, trace.module, trace.engine, (x,),
                   Where.of(net, x, eps=eps, norm=norm).balls)


def holds(domain, problem, points):
    """Which of the points (P, *S) lie in a domain, by the values that the module computes."""
    names = problem.schedule.network.values
    _, values, _, _ = problem.rows.take(torch.full((len(points),), domain.row))
    seen = {}

    def call(step, *tensors):
        seen[step.output] = result = lx.operators.call(step.operator, *tensors, **step.settings)
        return result

    problem.module.run(call, (points, *values[1:]))
    inside = torch.ones(len(points), dtype=torch.bool)
    for d in domain.decisions:
        z = flat_rows(points if d.node == INPUT else seen[names[d.node]])[:, d.entry]
        inside &= d.side * (z - d.place) >= 0
    return inside, {name: flat_rows(seen[value]) for name, value in names.items() if value in seen}


def grown(problem, functions, domains):
    objectives = [Objective(0, f, [Tree(0, f)], [1.0]) for f in functions]
    search = Search(problem, objectives, Limits(domains=domains, batch=8))
    search._walk = lambda *_: None  # which would find the least value at once, and end the search
    search.plant()
    for tree in [o.trees[0] for o in objectives]:
        tree.root = tree.lower
    search.grow(domains)
    return objectives


# Patterns


@pytest.mark.parametrize("name, norm", [("Saliency", math.inf), ("InputXGradient", 2),
                                        ("IntegratedGradients", math.inf)])
def test_patterns_descend_within_the_ball(name, norm):
    kind, keywords = ATTRIBUTIONS[name]
    net, x = mlp(6, 10, 10, 3, seed=4), inputs((6,))
    attribution, keywords = kind(net), {"target": 1, **keywords}
    problem = problem_of(net, x, norm=norm, attribution=attribution, **keywords)
    function = torch.eye(6, dtype=torch.float64)[2]
    problem.bound([problem.whole(row) for row in range(problem.count)],
                  function.expand(problem.count, 1, 6), 4)
    count = 0
    for example, sign, keeps in itertools.product(range(2), (1, -1), (False, True)):
        start = problem.flat(example)
        moves = Patterns(problem, example).descend(sign * function, start, keeps,
                                                   lambda value: False)
        points = torch.cat([start[None], moves]).requires_grad_()
        values = sign * attribution.attribute(points, **keywords)[:, 2]
        assert bool((values[1:] < values[:-1]).all())
        assert bool(
            (torch.linalg.vector_norm(moves - x[example], ord=norm, dim=1) <= EPS + 1e-9).all())
        count += len(moves)
    assert count > 1


def test_patterns_come_near_the_exact_range():
    shares = []
    for seed in range(2):
        net, x = mlp(5, 8, 8, 3, seed=seed), inputs((5,), 1)
        certificate = lx.certify(Saliency(net), x, eps=EPS, target=0, abs=False)
        mask = torch.arange(5)[None] < 2
        exact, quick = certificate.refine(mask, method="exact"), certificate.refine(mask, domains=2)
        shares += ((quick.found_upper - quick.found_lower)
                   / (exact.upper_rows - exact.lower_rows))[0].tolist()
    assert max(shares) <= 1 + 1e-6 and sorted(shares)[len(shares) // 2] > 0.97


SMOOTH = {"tanh": (lambda: mlp(3, 5, 5, 2, act=nn.Tanh), (3,)),
          "sigmoid": (lambda: mlp(3, 5, 2, act=nn.Sigmoid), (3,))}


@pytest.mark.parametrize("name, norm", [*((name, math.inf) for name in (*NETS, *SMOOTH)),
                                        ("leaky", 2), ("sigmoid", 2)])
def test_points_lie_in_leaves_and_within_their_bounds(name, norm):
    make, shape = {**NETS, **SMOOTH}[name]
    net, x = make(), inputs(shape, 1)
    problem = problem_of(net, x, norm=norm, target=0, abs=False)
    eye = torch.eye(x[0].numel(), dtype=torch.float64)
    objectives = grown(problem, [eye[0], -eye[1]], 24)
    generator = torch.Generator().manual_seed(1)
    points = (sample_box(x - EPS, x + EPS, 400, generator) if norm == math.inf else
              sample_ball(x, EPS, norm, 400, generator))[:, 0]
    for objective in objectives:
        tree, function = objective.trees[0], objective.function
        assert tree.lower >= tree.root
        values = problem.values(0, (points,)) @ function
        assert bool((values >= objective.lower - 1e-9).all())
        covered = torch.zeros(len(points), dtype=torch.bool)
        known = list(problem.known.values())
        assert len(known) > 3
        for lower, _, domain, _ in tree.leaves:
            inside, nodes = holds(domain, problem, points)
            covered |= inside
            assert bool((values[inside] >= lower - 1e-9).all())
            for node in domain.boxes:
                box, z = domain.box(node), nodes[node][inside]
                assert bool((z >= box.lower - 1e-9).all()) and bool((z <= box.upper + 1e-9).all())
        beyond = ~covered  # in domains that need no splitting
        assert bool((values[beyond] >= tree.grown.floor - 1e-9).all())
        assert covered.any() or not tree.leaves


def test_what_is_not_reached_does_not_depend_on_marked_inputs():
    net, x = image_net(), inputs((81,))
    problem = problem_of(net, x, target=0, abs=False)
    problem.bound([problem.whole(row) for row in range(2)],
                  torch.eye(81).double()[:1].expand(2, 1, -1), 1)
    network, marks = problem.schedule.network, torch.zeros(2, 81, dtype=torch.bool)
    marks[0, [0, 12]], marks[1, 40] = True, True
    _, values, balls, _ = problem.rows.take(torch.arange(2))
    with network.at(values, balls):
        found = {
            node.name: flat_rows(reached(node, {network.moving_inputs[0].name: marks}))
            for node in network.nodes if node.name in problem.kinks}
    before, after = ({name: z for row in range(2) for name, z in [
        (f"{name}{row}", z) for name, z in problem.nodes(row, (points[row:row + 1],)).items()]}
                     for points in (x, x + marks * 0.1))
    for name, mask in found.items():
        for row in range(2):
            moved = (before[f"{name}{row}"] != after[f"{name}{row}"])[0]
            assert moved.any() and not bool((moved & ~mask[row]).any())
    assert not bool(found[min(found)].all())


def test_no_point_lies_in_an_empty_domain():
    net, x = mlp(4, 8, 8, 3, seed=3), inputs((4,), 1)
    problem = problem_of(net, x, eps=0.6, target=0, abs=False)
    grown(problem, [torch.eye(4).double()[0], -torch.eye(4).double()[0]], 400)
    points = sample_box(x - 0.6, x + 0.6, 3000, torch.Generator().manual_seed(0))[:, 0]
    empty = [domain for domain in problem.known.values() if domain.is_empty]
    assert empty
    for domain in empty:
        assert not holds(domain, problem, points)[0].any()


# The certificate


@pytest.mark.parametrize("method", ["branch", "exact"])
@pytest.mark.parametrize("sizes", [(4, 8, 3), (4, 6, 6, 3), (3, 5, 5, 5, 2)])
def test_refined_entries_are_the_exact_ones(sizes, method):
    net, x = mlp(*sizes), inputs(sizes[:1])
    certificate = lx.certify(Saliency(net), x, eps=EPS, target=1, abs=False)
    refined = certificate.refine("width", tolerance=0.0, method=method)
    layers = [(m.weight, m.bias) for m in net if isinstance(m, nn.Linear)]
    for n in range(len(x)):
        low, high = exact_gradient_range(layers, x[n], EPS,
                                         nn.functional.one_hot(torch.tensor(1), sizes[-1]).double())
        slack = 3e-6 * max(1.0, float(certificate.upper.abs().max()))
        torch.testing.assert_close(refined.lower[n], low, atol=slack, rtol=0)
        torch.testing.assert_close(refined.upper[n], high, atol=slack, rtol=0)
    assert bool((refined.lower >= certificate.lower).all()
                and (refined.upper <= certificate.upper).all())
    if method == "branch":
        width = refined.upper_rows - refined.lower_rows
        assert bool((width <= refined.found_upper - refined.found_lower + 1e-8).all())


def test_entries_of_an_image_are_the_exact_ones():
    net, x = image_net(), inputs((81,))
    certificate = lx.certify(Saliency(net), x, eps=0.1, target=1, abs=False)
    chosen = torch.zeros(2, 81, dtype=torch.bool)
    chosen[0, [20, 40]], chosen[1, 41] = True, True
    branched, exact = (certificate.refine(chosen, tolerance=0.0, method=method)
                       for method in ("branch", "exact"))
    slack = 3e-6 * float(certificate.upper.abs().max())
    for side in ("lower", "upper"):
        torch.testing.assert_close(getattr(branched, side), getattr(exact, side), atol=slack,
                                   rtol=0)
    assert float(branched.width[chosen].sum()) < 0.9 * float(certificate.width[chosen].sum())
    values = values_at(Saliency(net), x, box_points(x, 300, 0.1), target=1, abs=False)
    assert bool(((values >= branched.lower[:, None] - 1e-9)
                 & (values <= branched.upper[:, None] + 1e-9)).all())


@pytest.mark.parametrize("name, net", [("Saliency", "conv"), ("|Saliency|", "leaky"),
                                       ("InputXGradient", "relu"), ("IntegratedGradients", "relu")])
def test_sound_and_narrower_for_every_sum_of_gradients(name, net):
    kind, keywords = ATTRIBUTIONS[name]
    make, shape = NETS[net]
    model, x = make(), inputs(shape)
    attribution = kind(model)
    certificate = lx.certify(attribution, x, eps=EPS, target=0, **keywords)
    refined = certificate.refine("width", domains=12)
    points = box_points(x, 100)
    values = values_at(attribution, x, points, target=0, **keywords)
    lower, upper = flat_rows(refined.lower)[:, None], flat_rows(refined.upper)[:, None]
    assert bool(((values >= lower - 1e-9) & (values <= upper + 1e-9)).all())
    assert bool((flat_rows(refined.width) <= flat_rows(certificate.width)).all())
    assert float(refined.width.sum()) < 0.999 * float(certificate.width.sum())
    at = refined.found_inputs[refined.found_lower_at.clamp(min=0)]
    assert bool(((at - x[:, None]).abs() <= EPS + 1e-12)[refined.found_lower_at >= 0].all())


def test_smoothgrad_is_refined_with_its_draws():
    net, x = mlp(3, 6, 2, seed=1), inputs((3,), 1)
    tunnel = NoiseTunnel(Saliency(net))
    torch.manual_seed(4)
    certificate = lx.certify(tunnel, x, eps=0.5, target=0, nt_samples=3, stdevs=0.1, abs=False)
    refined = certificate.refine("width", domains=60)
    for point in box_points(x, 40, 0.5)[0]:
        torch.manual_seed(4)
        a = tunnel.attribute(point[None], target=0, nt_samples=3, stdevs=0.1, abs=False)
        assert bool(refined.contains(a).all())
    assert float(refined.width.sum()) < 0.9 * float(certificate.width.sum())


def test_signs_are_decided_as_the_exact_range_says():
    net, x = mlp(4, 8, 8, 3), inputs((4,), 3)
    certificate = lx.certify(Saliency(net), x, eps=EPS, target=0, abs=False)
    refined = certificate.refine("sign")
    layers = [(m.weight, m.bias) for m in net if isinstance(m, nn.Linear)]
    is_open = certificate.sign() == 0
    assert is_open.any() and not bool((refined.decided == 0).any())
    for n in range(len(x)):
        low, high = exact_gradient_range(layers, x[n], EPS, torch.eye(3).double()[0])
        for k in range(int(is_open[n].sum())):
            row = refined.rows[n, k]
            entry = int(row.abs().argmax())
            certain = (low[entry] > 0) if row[entry] > 0 else (high[entry] < 0)
            assert (refined.decided[n, k] == 1) == bool(certain)
    flipped = refined.decided == -1
    assert bool((refined.found_lower[flipped] <= 0).all())


@pytest.mark.parametrize("absolute", [True, False])
def test_top_k_pairs_hold_or_are_refuted(absolute):
    net, x = mlp(5, 8, 3, seed=1), inputs((5,), 2)
    saliency = Saliency(net)
    certificate = lx.certify(saliency, x, eps=0.15, target=0, abs=False)
    refined = certificate.refine(("top_k", 2, absolute))
    values = values_at(saliency, x, box_points(x, 500, 0.15), target=0, abs=False)
    least = torch.einsum("nkd,npd->nkp", refined.rows, values).amin(2)
    assert bool((least[refined.decided == 1] >= -1e-12).all())
    assert not bool((refined.decided == 0).any())


def test_functions_of_a_caller_are_refined_to_the_tolerance():
    net, x = mlp(4, 8, 3), inputs((4,))
    spec = torch.tensor([[1.0, -1, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)
    certificate = lx.certify(Saliency(net), x, eps=EPS, target=0, abs=False, spec=spec)
    refined = certificate.refine(spec=spec, tolerance=0.05)
    width = refined.upper_rows - refined.lower_rows
    assert bool((width <= (certificate.spec_upper - certificate.spec_lower) + 1e-12).all())
    assert bool((width - (refined.found_upper - refined.found_lower) <= 0.05 * width + 1e-9).all())
    assert bool(torch.equal(refined.lower, certificate.lower))


def test_a_saved_certificate_knows_its_rows_and_cannot_be_refined_again(tmp_path):
    net, x = mlp(3, 5, 2), inputs((3,), 1)
    refined = lx.certify(Saliency(net), x, eps=EPS, target=0, abs=False).refine("width", domains=4)
    refined.save(tmp_path / "certificate.npz")
    loaded = lx.Certificate.load(tmp_path / "certificate.npz")
    assert torch.equal(loaded.lower_rows,
                       refined.lower_rows) and torch.equal(loaded.domains, refined.domains)
    with pytest.raises(ValueError, match="cannot be refined"):
        loaded.refine()


def test_parts_and_joined_certificates_keep_the_tightened_box():
    net, x = mlp(4, 8, 3), inputs((4,), 3)
    certificate = lx.certify(Saliency(net), x, eps=EPS, target=0, abs=False)
    refined = certificate.refine("width", domains=8)
    part = refined[1]
    assert torch.equal(part.lower[0],
                       refined.lower[1]) and torch.equal(part.decided[0], refined.decided[1])
    assert torch.equal(part.found_inputs, refined.found_inputs)
    both = lx.join([refined, certificate])
    assert torch.equal(both.lower,
                       torch.cat([refined.lower, certificate.lower])) and both.rows is None
    with pytest.raises(ValueError, match="part of another"):
        part.refine()


def test_no_time_and_an_interruption_leave_what_is_proven(monkeypatch):
    net, x = mlp(4, 8, 8, 3), inputs((4,))
    certificate = lx.certify(Saliency(net), x, eps=EPS, target=0, abs=False)
    at_once = certificate.refine("width", seconds=0)
    assert bool((at_once.width <= certificate.width).all())
    calls = []
    original = Problem.bound

    def bound(self, *args):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(Problem, "bound", bound)
    refined = certificate.refine("width", batch_size=4)
    assert refined.refinement_interrupted and bool((refined.width <= certificate.width).all())
    values = values_at(Saliency(net), x, box_points(x, 300), target=0, abs=False)
    assert bool(((values >= refined.lower[:, None] - 1e-9)
                 & (values <= refined.upper[:, None] + 1e-9)).all())


@pytest.fixture(scope="module")
def small():
    return lx.certify(Saliency(mlp(3, 5, 2)), inputs((3,), 1), eps=EPS, target=0)


@pytest.mark.parametrize("arguments, words", [
    ({"what": "colour"}, "what must be"),
    ({"what": ("top_k", 9)}, "k"),
    ({"method": "magic"}, "branch, exact"),
    ({"seconds": -1}, "seconds"),
    ({"domains": 0}, "domains"),
    ({"tolerance": "a"}, "tolerance"),
    ({"what": "top", "spec": torch.ones(1, 3)}, "width"),
])
def test_bad_arguments_are_named(arguments, words, small):
    with pytest.raises(ValueError, match=words):
        small.refine(**arguments)


def test_exact_says_what_it_cannot_solve():
    certificate = lx.certify(Saliency(mlp(3, 5, 2, act=nn.Tanh)), inputs((3,), 1), eps=EPS,
                             target=0, abs=False)
    with pytest.raises(UnsupportedOperation, match="piecewise-linear"):
        certificate.refine("width", method="exact")
    certificate = lx.certify(Saliency(mlp(4, 8, 8, 3)), inputs((4,), 1), eps=1.0, norm=2, target=0,
                             abs=False)
    with pytest.raises(UnsupportedOperation, match="boxes"):
        certificate.refine("width", method="exact")


def test_outward_bounds_are_not_refined():
    certificate = lx.certify(Saliency(mlp(3, 5, 2)), inputs((3,), 1), eps=EPS, target=0,
                             rounding="outward")
    with pytest.raises(ValueError, match="outward"):
        certificate.refine()


# Conditions


@pytest.mark.parametrize("text, settings",
                         [("cosine >= 0.9", {}), ("top_k_overlap >= 2", {"k": 2}),
                          ("targeted_fairness >= 1", {"k": 1, "mask": True}), ("l2 <= 0.2", {})])
def test_conditions_hold_or_are_refuted(text, settings):
    net, x = mlp(4, 8, 8, 3, seed=2), inputs((4,), 6)
    saliency = Saliency(net)
    if "mask" in settings:
        settings = {**settings, "mask": torch.tensor([0.0, 0, 0, 1]).double()}
    certificate = lx.certify(saliency, x, eps=0.1, target=0, abs=False)
    refined = certificate.refine((text, settings))
    assert refined.decided.shape == (6, 1) and not bool((refined.decided == 0).any())
    name, sign, bound = text.split()
    better = 1 if sign == ">=" else -1

    def met(a, n):
        value = evaluate(name, a, a, certificate.nominal[n:n + 1].expand_as(a), **{
            k: v.expand_as(a) if k == "mask" else v for k, v in settings.items()})
        return better * (value - float(bound)) >= -1e-9

    values = values_at(saliency, x, box_points(x, 300, 0.1), target=0, abs=False)
    for n in range(6):
        if refined.decided[n, 0] == 1:
            assert bool(met(values[n], n).all())
        else:
            at = refined.found_inputs[refined.found_lower_at[n, 0]][None]
            assert bool(((at - x[n]).abs() <= 0.1 + 1e-12).all())
            assert not met(saliency.attribute(at.requires_grad_(), target=0, abs=False), n).item()
    already = certificate.metric(name, **settings)
    assert bool((refined.decided[:, 0][better * (already - float(bound)) >= 0] == 1).all())


@pytest.fixture(scope="module")
def sampled():
    """A certificate, and Captum's values at points."""
    saliency, x = Saliency(mlp(6, 8, 8, 3, seed=2)), inputs((6,), 2)
    return (lx.certify(saliency, x, eps=0.1, target=0, abs=False),
            values_at(saliency, x, box_points(x, 100, 0.1), target=0, abs=False))


@pytest.mark.parametrize("name", lx.METRICS)
def test_conditions_on_every_metric_are_refined_or_refused(name, sampled):
    (certificate, values), metric = sampled, lx.METRICS[name]
    torch.manual_seed(2)  # some settings are drawn
    settings = cases.settings_of(cases.CASES[name][-1], 2, 6)
    if name in ("importance_agreement", "localisation"):
        settings["threshold"] = float(certificate.nominal.median())
    sign, start = (1,
                   -1)[metric.direction == "upper"], certificate.metric(name, **settings).double()
    found = sign * torch.tensor([[float(cases.REFERENCES[name](
        a, certificate.nominal[n].numpy(), **cases.row_of(settings, n))) for a in values[n].numpy()]
        for n in range(2)], dtype=torch.float64)
    bound = float((start + (0.4 * (sign * found.min(1).values - start))).mean())
    text = f"{name} {'<=' if sign < 0 else '>='} {bound}"
    if metric.of_two:
        with pytest.raises(ValueError, match="two attributions"):
            certificate.refine((text, settings))
        return
    refined = certificate.refine((text, settings), domains=12)
    met, before = refined.lower_rows[:, 0], sign * (start - bound)
    least = found - sign * bound
    assert bool((met[:, None] <= least + 1e-9).all()) and bool((met >= before - 1e-9).all())
    assert bool(((met > before + 1e-12) | (before >= 0) | (refined.found_lower[:, 0] < 0)).all())
    assert bool(((refined.decided[:, 0] == 1) == (met >= 0)).all())
    assert bool((refined.lower >= certificate.lower).all()
                & (refined.upper <= certificate.upper).all())
    for n in range(2):
        assert bool(
            ((values[n] >= refined.lower[n] - 1e-9) & (values[n] <= refined.upper[n] + 1e-9)).all())


def test_a_condition_that_cannot_be_certified_is_refused(small):
    for text, words in (("cosine <= 0.5", "from below"), ("beauty >= 1", "metric"),
                        ("cosine >= much", "number")):
        with pytest.raises(ValueError, match=words):
            small.refine(text)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_no_point_leaves_refined_rows(seed):
    net, x = mlp(8, 12, 12, 3, seed=seed), inputs((8,), 4)
    certificate = lx.certify(Saliency(net), x, eps=0.2, target=0, abs=False)
    refined = certificate.refine("width", domains=40)
    values = values_at(Saliency(net), x, box_points(x, 700, 0.2), target=0, abs=False)
    rows = torch.einsum("nkd,npd->nkp", refined.rows, values)
    assert bool((rows >= refined.lower_rows[..., None] - 1e-9).all())
    assert bool((rows <= refined.upper_rows[..., None] + 1e-9).all())
