"""Metrics bound what they say over every point of a box: the truth is enumeration, search and other
formulas.
"""

import math
import time

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from scipy import stats

import lirpa_explain as lx
from lirpa_explain.certificates.box import absolute_box
from lirpa_explain.certificates.metrics import METRICS, Metric, evaluate, lookup, register

from . import metric_cases as cases
from .test_certificate import BOXES, generic_box, make

ALL = [(name, case) for name in cases.CASES for case in cases.CASES[name]]
IDS = [f"{name}-{cases.CASES[name].index(case)}" for name, case in ALL]
every_case = pytest.mark.parametrize(("name", "case"), ALL, ids=IDS)


def no_better(metric, bound, found, tolerance=1e-9):
    """Whether no value found lies beyond the bound."""
    beyond = found - bound if metric.direction == "upper" else bound - found
    return beyond <= tolerance * max(1.0, abs(found))


def test_every_row_has_a_case_and_a_reference():
    assert set(cases.CASES) == set(METRICS) == set(cases.REFERENCES)


@pytest.mark.parametrize("box", BOXES, ids=lambda box: box.__name__)
@pytest.mark.parametrize("d", [1, 2, 6])
@every_case
def test_no_point_of_the_box_is_beyond_the_bound(name, case, box, d):
    torch.manual_seed(d)
    metric = METRICS[name]
    lower, upper, nominal = box(3, d)
    settings = cases.settings_of(case, 3, d)
    bounds = evaluate(name, lower, upper, nominal, **settings)
    assert bounds.shape == (3,) and not bounds.isnan().any()
    for n, bound in enumerate(bounds.tolist()):
        found = cases.extreme(name, metric.direction, lower[n], upper[n], nominal[n],
                              cases.row_of(settings, n))
        assert no_better(metric, bound, found)
        # there, the metric's own value
        if metric.exact or box.__name__ in ("point_box", "zero_box"):
            assert bound == pytest.approx(found, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("width", [0.05, 0.4, 3.0])
@pytest.mark.parametrize("name", cases.SMOOTH)
def test_no_search_goes_beyond_the_bound(name, width):
    torch.manual_seed(0)
    metric = METRICS[name]
    nominal = torch.randn(4, 6, dtype=torch.float64)
    lower, upper = (nominal - width * torch.rand_like(nominal),
                    nominal + width * torch.rand_like(nominal))
    for case in cases.CASES[name]:
        settings = cases.settings_of(case, 4, 6)
        for n, bound in enumerate(evaluate(name, lower, upper, nominal, **settings).tolist()):
            box = lower[n], upper[n], nominal[n]
            found = cases.extreme(name, metric.direction, *box, cases.row_of(settings, n),
                                  search=True)
            assert no_better(metric, bound, found)
            if name in ("cosine", "pearson") and found < 0:  # exact there
                assert bound == pytest.approx(found, abs=1e-6)


@every_case
def test_a_smaller_box_has_no_worse_a_bound(name, case):
    torch.manual_seed(0)
    lower, upper, nominal = generic_box(6, 6)
    settings = cases.settings_of(case, 6, 6)
    before = None
    for share in (1.0, 0.6, 0.3, 0.1, 0.0):
        box = nominal + share * (lower - nominal), nominal + share * (upper - nominal)
        bound = evaluate(name, *box, nominal, **settings).double()
        if before is not None:
            better = before - bound if METRICS[name].direction == "upper" else bound - before
            assert (better >= -1e-8).all()
        before = bound


@every_case
def test_tuples_are_one_example_and_settings_reach_the_metric(name, case):
    torch.manual_seed(0)
    whole = generic_box(5, 6)
    parts = [(t[:, :4].reshape(5, 2, 2), t[:, 4:]) for t in whole]
    settings = cases.settings_of(case, 5, 6)
    split = dict(settings)
    if "mask" in settings:
        mask = settings["mask"]
        split["mask"] = mask[..., :4].reshape(*mask.shape[:-1], 2, 2), mask[..., 4:]
    if "inputs" in settings:
        split["inputs"] = settings["inputs"][:, :1], settings["inputs"][:, 1:]
    one = make(*whole).metric(name, **settings)
    assert one.equal(evaluate(name, *whole, **settings))
    assert make(*parts).metric(name, **split).equal(one)


@every_case
def test_float32_and_half_give_the_same_to_their_precision(name, case):
    torch.manual_seed(0)
    box = [t.float() for t in generic_box(5, 6)]
    settings = cases.settings_of(case, 5, 6)
    fine = evaluate(name, *(t.double() for t in box), **settings)
    rough = evaluate(name, *box, **settings)
    assert rough.dtype in (torch.float32, torch.int64)
    torch.testing.assert_close(rough.double(), fine.double(), rtol=1e-5, atol=1e-5)
    assert not evaluate(name, *(t.bfloat16() for t in box), **settings).isnan().any()


@every_case
def test_bounds_with_a_graph_are_measured(name, case):
    torch.manual_seed(0)
    box = generic_box(3, 6)
    settings = cases.settings_of(case, 3, 6)
    bound = make(*(t.clone().requires_grad_() for t in box)).metric(name, **settings)
    assert bound.detach().equal(evaluate(name, *box, **settings))


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_distances_are_differentiable(norm):
    torch.manual_seed(0)
    box = [t.requires_grad_() for t in generic_box(3, 4)]
    assert torch.autograd.gradcheck(lambda *box: evaluate("relative", *box, norm=norm), box)


@pytest.mark.parametrize("spoiled", ["lower", "upper", "both", "nan", "nominal"])
@every_case
def test_infinite_bounds_are_answered_with_what_always_holds(name, case, spoiled):
    torch.manual_seed(0)
    lower, upper, nominal = generic_box(2, 6)
    settings = cases.settings_of(case, 2, 6)
    finite = evaluate(name, lower, upper, nominal, **settings)
    metric = METRICS[name]
    if spoiled in ("lower", "both"):
        lower[0, 1] = -math.inf
    if spoiled in ("upper", "both"):
        upper[0, 1] = math.inf
    if spoiled == "nan":
        lower[0, 1] = math.nan
    if spoiled == "nominal":
        nominal[0, 1] = math.nan
    bound = evaluate(name, lower, upper, nominal, **settings)
    assert not bound.isnan().any()
    assert bound[1] == finite[1]
    assert no_better(metric, bound[0].item(), finite[0].item())
    if not metric.takes_infinite or spoiled == "nominal":
        assert bound[0] == (metric.worst if bound.is_floating_point() else min(metric.worst, 6))


def test_rank_correlations_are_those_of_scipy_without_ties():
    torch.manual_seed(0)
    nominal, other = torch.randn(2, 20, dtype=torch.float64)
    assert cases.kendall(other.numpy(), nominal.numpy(),
                         False) == pytest.approx(stats.kendalltau(other, nominal)[0])
    assert cases.spearman(other.numpy(), nominal.numpy(),
                          False) == pytest.approx(stats.spearmanr(other, nominal)[0])
    assert cases.pearson(other.numpy(),
                         nominal.numpy()) == pytest.approx(np.corrcoef(other, nominal)[0, 1])


@pytest.mark.parametrize("name", ["cosine", "pearson"])
@pytest.mark.parametrize("width", [0.01, 0.5, 1.5])
def test_the_smallest_cosine_is_nearly_attained_with_many_features(name, width):
    """Corners that are long for what they lose of the inner product are nearly as bad as the bound
    says.
    """
    torch.manual_seed(0)
    nominal = torch.randn(1, 200, dtype=torch.float64)
    lower, upper = (nominal - width * torch.rand_like(nominal),
                    nominal + width * torch.rand_like(nominal))
    (v,), (low,), (high,) = (t.numpy() for t in (nominal, lower, upper))
    found = 1.0
    for c in np.linspace(-0.3, 0.3, 13) if name == "pearson" else [0.0]:
        base = v - v.mean() if name == "pearson" else v
        for nu in np.linspace(0, 2, 400):
            corner = np.where(low * base - nu * (low - c) ** 2 < high * base - nu * (high - c) ** 2,
                              low, high)
            found = min(found, cases.REFERENCES[name](corner, v))
    bound = evaluate(name, lower, upper, nominal).item()
    assert found - 0.001 <= bound <= found


@pytest.mark.parametrize(("name", "gap"),
                         [("pair_order", 0.1), ("kendall", 0.2), ("spearman", 0.2)])
@pytest.mark.parametrize("absolute", [True, False])
def test_rank_correlations_against_every_order_that_the_box_allows(name, gap, absolute):
    torch.manual_seed(0)
    nominal = torch.randn(20, 6, dtype=torch.float64)
    lower, upper = (nominal - 0.4 * torch.rand_like(nominal),
                    nominal + 0.4 * torch.rand_like(nominal))
    bounds = evaluate(name, lower, upper, nominal, absolute=absolute)
    gaps = []
    for n, bound in enumerate(bounds.tolist()):
        v = nominal[n].abs().numpy() if absolute else nominal[n].numpy()
        box = absolute_box(lower[n], upper[n]) if absolute else (lower[n], upper[n])
        values = [cases.REFERENCES[name](a, v, absolute=False)
                  for a in cases.orders_of(*(end.tolist() for end in box))]
        gaps.append(min(values) - bound)
    assert min(gaps) >= -1e-9
    assert np.mean(gaps) < gap


def test_a_nominal_outside_of_its_box_is_taken_into_it():
    lower, upper, nominal = (torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 3.0]]),
                             torch.tensor([[4.0, 2.5]]))
    for name in ("kendall", "spearman"):
        assert evaluate(name, lower, upper, nominal).item() == -1


@pytest.mark.parametrize("absolute", [True, False])
def test_metrics_of_a_model_are_not_beaten_by_samples(absolute):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(),
                                torch.nn.Linear(16, 3)).double()
    saliency = Saliency(model)
    x = torch.randn(3, 6, dtype=torch.float64)
    certificate = lx.certify(saliency, x, eps=0.05, target=1, abs=absolute)
    samples = [x + 0.05 * (2 * torch.rand_like(x) - 1) for _ in range(60)]
    samples += [x + 0.05 * torch.randn_like(x).sign() for _ in range(60)]
    values = torch.stack([saliency.attribute(s, target=1, abs=absolute)
                          for s in samples]).detach().numpy()
    for name, case in ALL:
        settings = cases.settings_of(case, 3, 6)
        for n, bound in enumerate(certificate.metric(name, **settings).tolist()):
            v, row = certificate.nominal[n].numpy(), cases.row_of(settings, n)
            for a in values[:, n]:
                assert no_better(METRICS[name], bound, cases.REFERENCES[name](a, v, **row))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_the_size_of_imagenet_takes_seconds(name):
    torch.manual_seed(0)
    size = 3 * 224 * 224
    nominal = torch.randn(1, size)
    cert = make(nominal - 0.01, nominal + 0.01, nominal)
    settings = {"mask": torch.arange(size) % 2 == 0, "k": 1000, "basis": torch.randn(size, 5),
                "shape": (224, 224), "inputs": torch.ones(1, size), "distance": 0.1, "channels": 3}
    settings["basis"][:, :1] += nominal.T
    start = time.process_time()
    bound = cert.metric(name,
                        **{key: settings[key] for key in METRICS[name].settings if key in settings})
    assert time.process_time() - start < 20
    assert bound.isfinite().all()
    assert bound.item() != METRICS[name].worst or name == "targeted_fairness"


# ---------------------------------------------------------------- ranks, pairs and centres


@pytest.mark.parametrize("box", BOXES, ids=lambda box: box.__name__)
@pytest.mark.parametrize("absolute", [True, False])
def test_rank_intervals_and_pairs_are_exactly_those_of_all_points(box, absolute):
    from lirpa_explain.certificates.metrics import certain_pairs

    torch.manual_seed(0)
    lower, upper, nominal = box(6, 5)
    best, worst = make(lower, upper, nominal).rank_interval(absolute)
    certain = certain_pairs(lower, upper)
    for n in range(6):
        points = cases.points_of(lower[n], upper[n])
        ranked = points.abs() if absolute else points
        higher = (ranked[:, None, :] > ranked[:, :, None]).sum(2)  # (P, D)
        not_lower = (ranked[:, None, :] >= ranked[:, :, None]).sum(2)
        assert best[n].tolist() == (1 + higher.amin(0)).tolist()
        assert worst[n].tolist() == not_lower.amax(0).tolist()
        assert certain[n].equal((points[:, :, None] > points[:, None, :]).all(0))


@pytest.mark.parametrize("box", BOXES, ids=lambda box: box.__name__)
@pytest.mark.parametrize("shape", [(6,), (2, 3), (3,)])
def test_centers_of_mass_are_exactly_those_of_all_points(box, shape):
    from lirpa_explain.certificates.metrics import center_of_mass

    torch.manual_seed(0)
    lower, upper, _ = box(4, 6)
    low, high = center_of_mass(lower, upper, shape)
    for n in range(4):
        centers = np.array([cases.center_of_mass(a, shape)
                            for a in cases.points_of(lower[n], upper[n]).numpy()])
        np.testing.assert_allclose(low[n], centers.min(0), atol=1e-12)
        np.testing.assert_allclose(high[n], centers.max(0), atol=1e-12)


def test_tangent_basis_is_that_of_the_jacobian():
    from lirpa_explain import tangent_basis

    torch.manual_seed(0)
    decoder = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 12),
                                  torch.nn.Unflatten(1, (3, 4))).double()
    latent = torch.randn(2, 3, dtype=torch.float64)
    basis = tangent_basis(decoder, latent)
    assert basis.shape == (2, 12, 3)
    for z, q in zip(latent, basis, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda z: decoder(z[None]).flatten(), z)
        torch.testing.assert_close(q @ q.T, jacobian @ torch.linalg.pinv(jacobian))
    flat = tangent_basis(lambda z: torch.cat([z[:, :1]] * 4, dim=1), latent)  # of rank 1
    assert (flat != 0).any(1).sum() == 2
    with pytest.raises(ValueError, match=r"latent has the shape \(3,\); pass \(N, k\)"):
        tangent_basis(decoder, latent[0])


# ---------------------------------------------------------------- the table, bad arguments

ONES = torch.ones(2, 4)


def test_the_table_is_not_overwritten_silently():
    row = Metric("l1", lambda lower, upper, nominal: lower.sum(1), "upper", False, "", "", "",
                 worst=math.inf)
    with pytest.raises(ValueError, match="metric 'l1' is already registered"):
        register(row)
    kept = METRICS["l1"]
    assert register(row, overwrite=True) is METRICS["l1"]
    register(kept, overwrite=True)
    with pytest.raises(ValueError, match="direction is 'up'; pass 'upper' or 'lower'"):
        register(Metric("new", row.function, "up", False, "", "", "", worst=0))
    assert "new" not in METRICS


@pytest.mark.parametrize(("name", "settings", "error", "message"), [
    ("l3", {}, ValueError, "There is no metric 'l3'; there are .*l1, l2, linf"),
    ("l1", {"norm": 2}, TypeError, "metric 'l1': .*norm.*; its settings are: none"),
    ("top_k_overlap", {}, TypeError, "metric 'top_k_overlap': .*'k'; its settings are: k, "
     "absolute"),
    ("top_k_overlap", {"k": 5}, ValueError, "k is 5, but an example has 4 features"),
    ("protected_top_k", {"k": 1.0, "mask": ONES[0]}, TypeError, "k is 1.0, a float; pass an int"),
    ("relative", {"norm": 3}, ValueError, "norm is 3; pass 1, 2 or math.inf"),
    ("lipschitz", {"distance": 0}, ValueError, "distance is 0; pass a number above 0"),
    ("lipschitz", {"distance": torch.ones(3)}, ValueError, r"or a tensor \(2,\)"),
    ("input_relative", {"inputs": ONES[:1]}, ValueError,
     r"inputs must have 2 rows, .* given: \(1, 4\)"),
    ("effective_complexity", {"threshold": -1}, ValueError, "threshold is -1; pass a number of at "
     "least 0"),
    ("share_upper", {"mask": ONES[0] / 2}, ValueError, "mask must be a set of features here"),
    ("share_upper", {"mask": ONES[0], "part": "signed"}, ValueError, "part is 'signed'; pass "
     "'absolute' or 'positive'"),
    ("mass_upper", {"mask": ONES[0, :3]}, ValueError, r"mask must .*; given: \(3,\)"),
    ("center_shift", {"shape": (3,)}, ValueError,
     r"shape is \(3,\), but an example has 4 features"),
    ("targeted_region", {"channels": 3}, ValueError, "channels is 3, but an example has 4 "
     "features; pass a divisor"),
    ("tangent_lower", {"basis": ONES[0]}, ValueError,
     r"basis must be \(4, k\) or \(2, 4, k\), .* given: \(4,\)"),
])
def test_bad_arguments_are_refused(name, settings, error, message):
    with pytest.raises(error, match=message):
        evaluate(name, ONES, ONES, ONES, **settings)


def test_metrics_are_of_rows_of_features_in_floating_point():
    with pytest.raises(
        ValueError, match=r"lower, upper and nominal must be \(N, D\) with D >= 1; given: \(4,\)"):
        evaluate("l1", ONES[0], ONES[0], ONES[0])
    with pytest.raises(TypeError, match="nominal is of type torch.int64; pass floating point"):
        evaluate("l1", ONES.long(), ONES.long(), ONES.long())
    assert lookup("l1").settings == ()
