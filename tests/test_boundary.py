"""Boundary attributions: the search, both certificates and the two measurements, against
enumeration in the plane.

The truth is a scan of all directions around a point: the first change of the decision on each ray,
and finer rays around the best. It knows nothing of gradients, of the search or of bounds.
"""

import dataclasses
import math

import pytest
import torch
from captum.attr import GradientAttribution, IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.bounding.ball import make_balls
from lirpa_explain.bounding.moving import nearest_regions
from lirpa_explain.bounding.region import Region
from tests.nets import mlp
from tests.truth import sample_ball

DTYPE = torch.float64
QUICK = lx.BoundarySearch(pgd_steps=10, cw_steps=20, restarts=3, polish_steps=4)

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor . did not already require "
                                        "gradients:UserWarning")


class Wave(nn.Module):
    """Classes of the plane between curves, as a net that was never trained: smooth, and bent enough
    to have corners.
    """

    def forward(self, x):
        a, b = x[:, 0], x[:, 1]
        return torch.stack([torch.sin(2 * a) - b, b - torch.cos(a), 0.5 * a + 0.1 * b], 1)


def net(seed, outputs, activation=nn.ReLU, inputs=2, scale=2.0):
    """A small net of two hidden layers, whose weights are large enough for boundaries nearby."""
    model = mlp(inputs, 12, 12, outputs, activation=activation, seed=seed).float()
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight *= scale
        example = torch.randn(200, inputs)
        model[-1].bias -= model(example).mean(0)  # no class wins everywhere
    return model.to(DTYPE).eval()


MODELS = {"relu": lambda: net(1, 3), "sign": lambda: net(3, 1, nn.Tanh), "wave": Wave}


def examples(model, count=7, inputs=2):
    generator = torch.Generator().manual_seed(5)
    return 1.5 * torch.randn(count, inputs, generator=generator, dtype=DTYPE)


def decide(model, x):
    with torch.no_grad():
        output = model(x)
    return ((output.reshape(-1) > 0).long()
            if output.ndim == 1 or output.shape[1] == 1 else output.argmax(1))


def nearest_by_scan(model, point, reach, rays=720, stations=200):
    """The nearest point (2,) at which the decision is another than at `point` (2,), no further than
    `reach`.
    """
    own = decide(model, point[None])
    turns, width = torch.linspace(0, 2 * math.pi, rays, dtype=DTYPE), 2 * math.pi / rays
    best = None
    for _ in range(4):
        direction = torch.stack([turns.cos(), turns.sin()], 1)
        radius = torch.linspace(0, float(reach), stations, dtype=DTYPE)
        at = point + radius[None, :, None] * direction[:, None]
        changed = decide(model, at.reshape(-1, 2)).reshape(len(turns), -1) != own
        hit = changed.any(1)
        if not hit.any():
            break
        first = changed[hit].int().argmax(1)
        far, near, ahead = radius[first], radius[(first - 1).clamp(min=0)], direction[hit]
        for _ in range(45):
            middle = (near + far) / 2
            other = decide(model, point + middle[:, None] * ahead) != own
            near, far = torch.where(other, near, middle), torch.where(other, middle, far)
        i = int(far.argmin())
        best = point + far[i] * ahead[i]  # the next rays are around it
        turns, width = (turns[hit][i] + torch.linspace(-2 * width, 2 * width, 21, dtype=DTYPE),
                        width / 5)
    return best


def scan_all(model, points, reach, **keywords):
    return torch.stack([nearest_by_scan(model, p, r, **keywords)
                        for p, r in zip(points, reach, strict=True)])


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """A model of the plane, examples, what was found, and the truth."""
    model = MODELS[request.param]()
    x = examples(model)
    x = x[lx.find_boundary(model, x, search_options=QUICK, certified=False).found]
    points = lx.find_boundary(model, x)
    return model, x, points, scan_all(model, x, 1.01 * points.distance)


# The search


def test_the_nearest_point_lies_between_the_two_distances(case):
    model, x, points, truth = case
    assert len(x) >= 5 and points.found.all()
    distance = (truth - x).norm(dim=1)
    assert (points.certified_distance <= distance * (1 + 1e-9)).all()
    assert (distance <= points.distance * (1 + 1e-3)).all()  # the scan has gaps between its rays
    assert ((points.distance <= 1.2 * distance).all()
            and (points.distance <= 1.01 * distance).double().mean() > 0.7)
    assert (points.certified_distance > 0).all()


def test_points_are_just_behind_the_boundary(case):
    model, x, points, _ = case
    torch.testing.assert_close((points.points - x).norm(dim=1), points.distance)
    assert (decide(model, points.points + 1e-9 * (points.points - x)) != points.classes).all()
    assert (decide(model, points.points - 1e-6 * (points.points - x)) == points.classes).all()


def test_linear_models_are_solved_exactly():
    torch.manual_seed(0)
    model = nn.Linear(7, 4).to(DTYPE)
    x = torch.randn(5, 7, dtype=DTYPE)
    points = lx.find_boundary(model, x, search_options=QUICK)
    scores = model(x)
    own = scores.argmax(1)
    gaps = (scores.gather(1, own[:, None]) - scores) / (model.weight[own][:, None]
                                                        - model.weight).norm(dim=2)
    exact = gaps.scatter(1, own[:, None], math.inf).amin(1).detach()
    torch.testing.assert_close(points.distance, exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(points.certified_distance, exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("outputs", ["column", "flat"])
def test_a_single_output_decides_by_its_sign(outputs):
    def model(x):
        value = x[:, :1] - 2 * x[:, 1:]
        return value if outputs == "column" else value[:, 0]

    points = lx.find_boundary(model, torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=DTYPE),
                              search_options=QUICK, certified=False)
    assert points.by_sign and points.classes.tolist() == [1, 0]
    torch.testing.assert_close(points.distance, torch.tensor([1.0, 2.0], dtype=DTYPE) / 5**0.5)


def test_the_search_stays_within_the_range_of_the_data():
    def model(x):
        return x[:, 0] + 0.2 * x[:, 1] - 0.1

    x = torch.tensor([[0.9, 0.05], [0.3, 0.9]], dtype=DTYPE)
    options = lx.BoundarySearch(clip=(0, 1))
    points = lx.find_boundary(model, x, search_options=options, certified=False)
    assert (points.points >= 0).all() and (points.points <= 1).all()
    # The feet of the perpendiculars lie outside: the nearest points are (0.1, 0) and (0, 0.5).
    exact = torch.tensor([0.8**2 + 0.05**2, 0.3**2 + 0.4**2], dtype=DTYPE).sqrt()
    assert ((exact <= points.distance * (1 + 1e-9)).all()
            and (points.distance <= 1.001 * exact).all())


def test_several_inputs_and_further_arguments_go_with_their_examples():
    def model(a, b, scale, offset):
        return scale * a[:, 0] + b[:, 0, 0] - offset

    a, b = torch.tensor([[2.0], [3.0]], dtype=DTYPE), torch.ones(2, 1, 1, dtype=DTYPE)
    scale = torch.tensor([1.0, 2.0], dtype=DTYPE)
    points = lx.find_boundary(model, (a, b), additional_forward_args=(scale, 1.0),
                              search_options=QUICK)
    exact = torch.tensor([2 / 2**0.5, 6 / 5**0.5], dtype=DTYPE)
    torch.testing.assert_close(points.distance, exact, rtol=1e-6, atol=0)
    assert ((points.certified_distance <= exact).all()
            and (points.certified_distance > 0.6 * exact).all())
    assert [part.shape for part in points.points] == [a.shape, b.shape]
    torch.testing.assert_close(model(*points.points, scale, 1.0).detach(),
                               torch.zeros(2, dtype=DTYPE))


def test_a_batch_gives_what_its_rows_give_and_the_same_again():
    model, x = net(1, 3), examples(None)
    points = lx.find_boundary(model, x, search_options=QUICK)
    again = lx.find_boundary(model, x, search_options=dataclasses.replace(QUICK, batch_size=5),
                             batch_size=5)
    # roundings may lead elsewhere
    torch.testing.assert_close(again.distance, points.distance, rtol=1e-2, atol=0)
    torch.testing.assert_close(again.certified_distance, points.certified_distance, rtol=1e-2,
                               atol=0)
    same = lx.find_boundary(model, x, search_options=QUICK, certified=False)
    assert torch.equal(same.points, points.points)


@pytest.mark.parametrize(("keywords", "text"), [
    ({"radii": ()}, "radii"), ({"radii": (2, 1)}, "radii"), ({"radii": (0.0, 1)}, "radii"),
    ({"clip": 3}, "clip"), ({"pgd_steps": 0}, "pgd_steps"), ({"cw_steps": -1}, "cw_steps"),
    ({"batch_size": True}, "batch_size")])
def test_bad_settings_are_refused(keywords, text):
    with pytest.raises(ValueError, match=text):
        lx.BoundarySearch(**keywords)


def test_bad_models_and_inputs_are_refused():
    x = torch.zeros(2, 3, dtype=DTYPE)
    with pytest.raises(ValueError, match="outputs \\(N, classes\\)"):
        lx.find_boundary(lambda z: z.reshape(2, 3, 1), x)
    with pytest.raises(ValueError, match="reaches beyond the clip"):
        lx.find_boundary(nn.Linear(3, 2).to(DTYPE), x,
                         search_options=lx.BoundarySearch(clip=(1, 2)))
    with pytest.raises(lx.TrainingModeError, match="eval"):
        lx.find_boundary(nn.Sequential(nn.Linear(3, 3), nn.Dropout()).to(DTYPE), x)
    with pytest.raises(TypeError, match="given: list"):
        lx.BoundarySaliency(nn.Linear(3, 2)).attribute([[1.0, 2.0, 3.0]])
    with pytest.raises(TypeError, match="given: torch.int64"):
        lx.BoundarySaliency(nn.Linear(3, 2)).attribute(torch.ones(1, 3, dtype=torch.long))
    with pytest.raises(TypeError, match="BoundarySearch"):
        lx.BoundarySaliency(nn.Linear(3, 2), search=3)


# The attributions, as Captum's


def one_sided(x):
    """Has a boundary for the second example only."""
    return torch.stack([x[:, 0].square() + 1, torch.where(x[:, 0] > 5, 30 * x[:, 1], 0 * x[:, 1])],
                       1)


def test_where_nothing_was_found_there_is_an_error_or_nan():
    x = torch.tensor([[1.0, 0.0], [5.5, 0.0], [0.0, 3.0]], dtype=DTYPE)
    quick = lx.BoundarySearch(radii=(0.5, 1.0), pgd_steps=10, cw_steps=0, restarts=0)
    for kind in (lx.BoundarySaliency, lx.BoundaryIntegratedGradients):
        attribution = kind(one_sided, search=quick)
        with pytest.raises(lx.BoundaryNotFound, match="examples 0, 2 of 3"):
            attribution.attribute(x)
        value = attribution.attribute(x, not_found="nan")
        assert value.isnan().any(1).tolist() == [True, False, True]
        with pytest.raises(ValueError, match="not_found"):
            attribution.attribute(x, not_found="zero")
        for not_found in ("raise", "nan"):
            with pytest.raises(lx.BoundaryNotFound, match="examples 0, 2 of 3"):
                lx.certify(attribution, x, eps=0.1, not_found=not_found)
        _, delta = lx.BoundaryIntegratedGradients(one_sided, search=quick).attribute(
            x, not_found="nan", return_convergence_delta=True)
        assert delta.isnan().tolist() == [True, False, True]


@pytest.mark.parametrize("target", [None, 1, [0, 2, 1], torch.tensor([2, 1, 0])],
                         ids=["none", "int", "list", "tensor"])
def test_values_are_captums_at_and_from_the_boundary_point(target):
    model, x = net(1, 3), examples(None, 3)
    saliency, path = (kind(model, search=QUICK)
                      for kind in (lx.BoundarySaliency, lx.BoundaryIntegratedGradients))
    b = saliency.boundary_points(x).points
    given = decide(model, x) if target is None else target
    for absolute in (False, True):
        expected = Saliency(model).attribute(b, target=given, abs=absolute)
        assert torch.equal(saliency.attribute(x, target=target, abs=absolute), expected)
    for method, steps in (("gausslegendre", 50), ("riemann_trapezoid", 7)):
        expected = IntegratedGradients(model).attribute(x, baselines=b, target=given, method=method,
                                                        n_steps=steps)
        assert torch.equal(path.attribute(x, target=target, method=method, n_steps=steps), expected)
    value, delta = path.attribute(x, target=target, return_convergence_delta=True,
                                  internal_batch_size=10)
    torch.testing.assert_close(delta, value.sum(1) - (model(x) - model(b)).detach().gather(
        1, torch.as_tensor(given).expand(3)[:, None])[:, 0])
    assert (path.has_convergence_delta() and path.multiplies_by_inputs
            and isinstance(path, GradientAttribution))


def test_tuples_in_tuples_out():
    def model(a, b, c):
        return torch.stack([a.sum(1) * c, b.sum(1)], 1)

    a, b, c = (torch.ones(2, 3, dtype=DTYPE), torch.zeros(2, 1, dtype=DTYPE),
               torch.tensor([1.0, 2.0], dtype=DTYPE))
    value = lx.BoundarySaliency(model, search=QUICK).attribute((a, b), additional_forward_args=c)
    assert isinstance(value, tuple) and torch.equal(value[0], c[:, None].expand(2, 3))
    certificate = lx.certify(lx.BoundaryIntegratedGradients(model, search=QUICK), (a, b), eps=0.01,
                             n_steps=3, additional_forward_args=c, boundary="moving")
    assert isinstance(certificate.lower, tuple) and certificate.contains(certificate.nominal,
                                                                         rtol=0).all()


def test_noise_tunnels_search_for_every_noisy_point():
    model, x = net(1, 3), examples(None, 2)
    tunnel = NoiseTunnel(lx.BoundarySaliency(model, search=QUICK))
    torch.manual_seed(3)
    value = tunnel.attribute(x, nt_samples=4, stdevs=0.1, target=1)
    torch.manual_seed(3)
    noisy = x.repeat_interleave(4, 0) + torch.normal(0, torch.full((8, 2), 0.1).to(DTYPE))
    expected = lx.BoundarySaliency(model, search=QUICK).attribute(noisy,
                                                                  target=1).reshape(2, 4, 2).mean(1)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_the_model_and_random_states_are_left_alone():
    model, x = net(1, 3), examples(None, 3)
    model.train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    attribution = lx.BoundaryIntegratedGradients(model, search=QUICK)
    attribution.attribute(x)
    lx.certify(attribution, x, eps=0.01, boundary="moving", n_steps=3)
    lx.boundary_gap(attribution, x, n_steps=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and all(torch.equal(before[name], tensor)
                                  for name, tensor in model.state_dict().items())
    assert torch.equal(model[0].weight.grad,
                       torch.ones_like(model[0].weight)) and model[2].weight.grad is None
    assert not x.requires_grad and not any(m._forward_hooks or m._forward_pre_hooks
                                           for m in model.modules())


# Certified with the boundary point fixed


def test_fixed_is_integrated_gradients_from_that_point(case):
    model, x, points, _ = case
    target = None if points.by_sign else points.classes
    attribution = lx.BoundaryIntegratedGradients(model, search=QUICK)
    baseline = attribution.boundary_points(x).points
    certificate = lx.certify(attribution, x, eps=0.05, target=target, n_steps=4)
    same = lx.certify(IntegratedGradients(model), x, eps=0.05, baselines=baseline, target=target,
                      n_steps=4)
    for side in ("lower", "upper", "nominal"):
        torch.testing.assert_close(getattr(certificate, side), getattr(same, side))
    assert "boundary point fixed" in certificate.perturbation
    constant = lx.certify(lx.BoundarySaliency(model, search=QUICK), x, eps=0.5, target=target)
    assert (constant.width <= 1e-9 * constant.nominal.abs().max()).all()


# Certified for the boundary point of every x' itself


@pytest.mark.parametrize(("eps", "norm", "pieces"),
                         [(0.05, math.inf, 32), (0.05, 1, 1), (0.6, 2, 4)])
def test_regions_contain_the_nearest_points_of_all_neighbours(case, eps, norm, pieces):
    """With the large radius, some neighbours have another class."""
    model, x, points, _ = case
    x, points = x[:4], points.distance[:4]
    attribution = lx.BoundarySaliency(model, search=QUICK)
    plan = lx.attributions.make_plan(attribution, (x,), {})
    ends = Region.of((x,), (x,), make_balls(x, eps=eps, norm=norm), torch.arange(len(x)))
    region, sample, reach = nearest_regions(plan, ends, 64, lx.Moving(pieces))
    for moved in sample_ball(x, eps, norm, 4, torch.Generator().manual_seed(0)):
        nearest = scan_all(model, moved, points + 2 * eps, rays=180, stations=80)
        for i, b in enumerate(nearest):
            of = sample == i
            step = (b - region.center[of]).norm(dim=1, keepdim=True)
            inside = (b >= region.low[of]) & (b <= region.high[of]) & (step <= region.radius[of])
            assert inside.all(1).any()
            assert (b - moved[i]).norm() <= reach[of].max() * (1 + 1e-3)


@pytest.mark.parametrize(("kind", "eps", "norm", "pieces"),
                         [(lx.BoundarySaliency, 0.05, 2, 1),
                          (lx.BoundaryIntegratedGradients, 0.02, math.inf, 16)])
def test_moving_holds_for_neighbours_and_their_own_nearest_points(case, kind, eps, norm, pieces):
    model, x, points, truth = case
    target = None if points.by_sign else points.classes
    keywords = {} if kind is lx.BoundarySaliency else {"n_steps": 4}
    certificate = lx.certify(kind(model, search=QUICK), x, eps=eps, norm=norm,
                             boundary=lx.Moving(pieces), target=target, **keywords)
    assert certificate.contains(certificate.nominal, rtol=0).all()
    assert "boundary point of each x' itself" in certificate.perturbation
    assert torch.isfinite(certificate.width).all()
    for moved in (x, *sample_ball(x, eps, norm, 3, torch.Generator().manual_seed(1))):
        b = scan_all(model, moved, points.distance + 2 * eps, rays=180, stations=80)
        if kind is lx.BoundarySaliency:
            value = Saliency(model).attribute(b, target=target, abs=False)
        else:
            value = IntegratedGradients(model).attribute(moved, baselines=b, target=target,
                                                         n_steps=4)
        assert certificate.contains(value).all()


@pytest.mark.parametrize(("clip", "pieces"), [(None, 8), ((-1, 1), 1)])
def test_regions_contain_every_point_that_may_be_nearest_in_more_dimensions(clip, pieces):
    """Any point of the data at which the class of x does not win, and no further from x' than d +
    e.
    """
    model = net(7, 4, inputs=8, scale=1.5)
    x = 0.7 * (2 * torch.rand(4, 8, generator=torch.Generator().manual_seed(0), dtype=DTYPE) - 1)
    attribution = lx.BoundarySaliency(model, search=dataclasses.replace(QUICK, clip=clip))
    plan = lx.attributions.make_plan(attribution, (x,), {})
    balls = make_balls(x, eps=0.2)
    region, sample, reach = nearest_regions(plan, Region.of((x,), (x,), balls, torch.arange(4)), 64,
                                             lx.Moving(pieces))
    d = attribution.boundary_points(x).distance + 0.2 * 8**0.5
    generator, met, own = (torch.Generator().manual_seed(1), torch.zeros(4, dtype=torch.long),
                           decide(model, x))
    for moved in sample_ball(x, 0.2, math.inf, 20, generator):
        for z in sample_ball(moved, 1.0, 2, 200, generator):
            z = moved + d[:, None] * (z - moved)
            z = z if clip is None else z.clamp(*clip)
            for i in ((decide(model, z) != own)
                      & ((z - moved).norm(dim=1) <= d)).nonzero()[:, 0].tolist():
                of = sample == i
                step = (z[i] - region.center[of]).norm(dim=1, keepdim=True)
                inside = (z[i] >= region.low[of]) & (z[i] <= region.high[of]) & (
                    step <= region.radius[of])
                assert inside.all(1).any()
                met[i] += 1
    assert (met > 20).all()


def test_moving_bounds_are_differentiable():
    model, x = net(2, 3, nn.Tanh), examples(None, 2)
    attribution = lx.BoundaryIntegratedGradients(model, search=QUICK)
    lx.certify(attribution, x, eps=0.01, boundary="moving", n_steps=3,
               differentiable=True).width.sum().backward()
    assert all(bool((layer.weight.grad != 0).any()) for layer in model[::2])


def test_pieces_without_a_boundary_point_are_dropped():
    model, x = net(1, 3), examples(None)[1:]
    attribution = lx.BoundarySaliency(model, search=QUICK)
    whole, cut = (lx.certify(attribution, x, eps=0.01, boundary=lx.Moving(pieces), target=0)
                  for pieces in (1, 32))
    assert cut.contains(cut.nominal, rtol=0).all()
    assert cut.width.mean() < 0.8 * whole.width.mean()
    for pieces in (0, 3, -2, True, 2.0):
        with pytest.raises(ValueError, match="power of 2"):
            lx.Moving(pieces)


def test_moving_is_exact_where_nothing_can_move():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2).to(DTYPE), torch.randn(4, 3, dtype=DTYPE)
    certificate = lx.certify(lx.BoundarySaliency(model, search=QUICK), x, eps=0.3,
                             boundary="moving")
    assert (certificate.width <= 1e-12).all()
    still = lx.certify(lx.BoundaryIntegratedGradients(model, search=QUICK), x, eps=0.0,
                       boundary="moving")
    assert (still.width <= 1e-3).all()  # the region is as small as the search is exact


@pytest.mark.parametrize("nt_type", ["smoothgrad", "vargrad"])
def test_moving_within_noise_tunnels(nt_type):
    model, x = net(1, 3), examples(None, 2)
    tunnel = NoiseTunnel(lx.BoundarySaliency(model, search=QUICK))
    keywords = {"nt_type": nt_type, "nt_samples": 3, "stdevs": 0.1, "target": 1}
    torch.manual_seed(3)
    certificate = lx.certify(tunnel, x, eps=0.02, boundary="moving", **keywords)
    torch.manual_seed(3)
    noise = torch.normal(0, torch.full((6, 2), 0.1).to(DTYPE))
    for moved in (x, x + 0.02):
        noisy = moved.repeat_interleave(3, 0) + noise
        b = scan_all(model, noisy, torch.full((6,), 6.0), rays=180, stations=200)
        value = Saliency(model).attribute(b, target=1, abs=False).reshape(2, 3, 2)
        mean = value.mean(1)
        assert certificate.contains(mean if nt_type == "smoothgrad"
                                    else value.square().mean(1) - mean.square()).all()


def test_the_range_of_the_data_cuts_the_region():
    torch.manual_seed(1)
    model = net(4, 3, inputs=6)
    x = 0.1 * torch.rand(4, 6, dtype=DTYPE)
    widths = []
    for clip in (None, (0, 1)):
        attribution = lx.BoundaryIntegratedGradients(model,
                                                     search=dataclasses.replace(QUICK, clip=clip))
        target = decide(model, x)
        certificate = lx.certify(attribution, x, eps=0.01, boundary="moving", target=target,
                                 n_steps=4, clip=clip)
        assert certificate.contains(certificate.nominal, rtol=0).all()
        widths.append(certificate.width / attribution.boundary_points(x).distance[:, None])
    assert widths[1].mean() < widths[0].mean()


@pytest.mark.parametrize("method", lx.METHODS)
def test_every_method_holds_and_specs_are_bounded(method):
    model, x = net(2, 3, nn.Tanh), examples(None, 2)
    certificate = lx.certify(
        lx.BoundaryIntegratedGradients(model, search=QUICK), x, eps=0.01, boundary="moving",
        n_steps=3, method=method, iterations=3, spec=torch.tensor([[1.0, -1.0]]))
    assert certificate.contains(certificate.nominal, rtol=0).all()
    assert (certificate.spec_lower <= certificate.spec_nominal).all()
    assert (certificate.spec_nominal <= certificate.spec_upper).all()


def test_boundary_goes_with_boundary_attributions():
    model, x = nn.Linear(2, 2).to(DTYPE), torch.ones(1, 2, dtype=DTYPE)
    with pytest.raises(ValueError, match="no boundary point"):
        lx.certify(Saliency(model), x, eps=0.1, target=0, boundary="moving")
    with pytest.raises(ValueError, match="'fixed', 'moving' or a Moving"):
        lx.certify(lx.BoundarySaliency(model), x, eps=0.1, boundary="nearest")


# The measurements


@pytest.mark.parametrize("kind", [lx.BoundarySaliency, lx.BoundaryIntegratedGradients])
def test_the_gap_of_the_truly_nearest_point_is_not_larger_than_certified(case, kind):
    model, x, points, truth = case
    target = None if points.by_sign else points.classes
    keywords = {} if kind is lx.BoundarySaliency else {"n_steps": 4}
    gap = lx.boundary_gap(kind(model, search=QUICK), x, **keywords)
    if kind is lx.BoundarySaliency:
        at_x, at_b = (Saliency(model).attribute(z, target=target, abs=False) for z in (x, truth))
    else:
        at_x, at_b = (IntegratedGradients(model).attribute(x, baselines=b, target=target, n_steps=4)
                      for b in (torch.zeros_like(x), truth))
    torch.testing.assert_close(gap.plain, at_x)
    assert ((at_b - at_x).norm(dim=1) <= gap.certified * (1 + 1e-9)).all()
    assert (gap.found <= gap.certified * (1 + 1e-9)).all()
    torch.testing.assert_close(gap.found, (gap.boundary.nominal - gap.plain).norm(dim=1))


def test_gaps_are_those_of_boundary_attributions():
    x = torch.ones(1, 2)
    with pytest.raises(lx.UnsupportedAttribution, match="boundary_gap needs"):
        lx.boundary_gap(Saliency(nn.Linear(2, 2)), x)
    with pytest.raises(ValueError, match="a gradient has none"):
        lx.boundary_gap(lx.BoundarySaliency(nn.Linear(2, 2)), x, baselines=0)


@pytest.mark.parametrize(("with_boundary", "norm"), [(False, math.inf), (False, 1), (True, 2)])
def test_sensitivity_to_the_baseline(case, with_boundary, norm):
    model, x, points, _ = case
    target = None if points.by_sign else points.classes
    kind = lx.BoundaryIntegratedGradients if with_boundary else IntegratedGradients
    baseline = points.points if with_boundary else torch.zeros_like(x)
    torch.manual_seed(0)
    change = lx.baseline_sensitivity(kind(model), x, eps=0.1, norm=norm, target=target, n_steps=4,
                                     samples=4)
    assert (change.found > 0).any() and (change.found <= change.certified).all()
    for moved in sample_ball(baseline, 0.1, norm, 20, torch.Generator().manual_seed(2)):
        value = IntegratedGradients(model).attribute(x, baselines=moved, target=target, n_steps=4)
        slack = 1e-9 * value.abs().max()
        assert ((change.lower - slack <= value) & (value <= change.upper + slack)).all()
    with pytest.raises(ValueError, match="samples"):
        lx.baseline_sensitivity(kind(model), x, eps=0.1, samples=0, target=target)


def test_progress_is_shown_for_every_search(capsys):
    model, x = net(1, 3), examples(None, 2)
    lx.find_boundary(model, x, search_options=QUICK, progress=True)
    shown = capsys.readouterr().err
    assert "boundary search" in shown and "certified distance" in shown
