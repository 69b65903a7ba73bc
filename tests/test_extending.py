"""Metrics that a user registers work wherever those of the package do: each in each place."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.certificates.metrics import METRICS, Metric, register
from lirpa_explain.tables import tables
from lirpa_explain.training import explanation_loss
from tests.reference import sample_box

X = torch.tensor([[0.3, -0.2, 0.5, 0.1], [0.0, 0.4, -0.3, 0.2]], dtype=torch.float64)
EPS = 0.5
QUICK = {"samples": 4, "restarts": 2, "steps": 4}


def reach(a, v):
    return a.max() - a.min()


def risen(a, v, least=0.0):
    return float((a >= v + least).sum())


def masked(a, v, mask):
    return float((a[mask] > 0).sum())


METRICS_OF_USERS = {
    "reach": (reach, {}, Metric(
        "reach", lambda lower, upper, nominal: upper.amax(1) - lower.amin(1), "upper", False,
        "[0, inf)", "max_i a_i - min_i a_i", "", worst=math.inf,
        at=lambda a, nominal: a.amax(1) - a.amin(1))),
    "risen": (risen, {"least": 0.01}, Metric(  # a count, with neither `at` nor a surrogate
        "risen", lambda lower, upper, nominal, least=0.0: (upper >= nominal + least).sum(1),
        "upper", True, "0 to D", "number of i: a_i at least v_i + least", "", worst=math.inf)),
    "masked": (masked, {"mask": torch.tensor([True, False, True, True])}, Metric(
        "masked", lambda lower, upper, nominal, mask: ((lower > 0) & (mask == 1)).sum(1), "lower",
        True, "0 to D", "number of i in mask: a_i above 0", "", worst=0, features=("mask",),
        surrogate=lambda a, nominal, mask: -torch.sigmoid(a * mask).sum(1))),
}
"""Each as a function of one attribution in numpy, with settings, and as it is registered."""


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.fixture(params=METRICS_OF_USERS)
def metric(request):
    """A metric that is registered for the time of a test."""
    number, settings, row = METRICS_OF_USERS[request.param]
    register(row)
    yield number, settings, row
    del METRICS[request.param]


def certificate_of(model):
    return lx.certify(Saliency(model), X, eps=EPS, target=1, abs=False)


def worsening(metric, model, a):
    """By how much the number is worse at attributions a than at those of X."""
    number, settings, row = metric
    plain = {name: value.numpy() if isinstance(value, torch.Tensor) else value
             for name, value in settings.items()}
    nominal = Saliency(model).attribute(X, target=1, abs=False)
    change = [number(one, v, **plain) - number(v, v, **plain)
              for one, v in zip(a.numpy(), nominal.numpy(), strict=True)]
    return (1 if row.direction == "upper" else -1) * np.array(change)


def at(metric, model, x):
    return worsening(metric, model, Saliency(model).attribute(x, target=1, abs=False))


def certified(metric, model, tmp_path):
    """No sampled attribution is worse than what is certified, and the number is that of the row."""
    _, settings, row = metric
    certificate = certificate_of(model)
    bound = certificate.metric(row.name, **settings).numpy()
    nominal = certificate.nominal
    still = dataclasses.replace(certificate, lower=nominal, upper=nominal)
    worse = bound - still.metric(row.name, **settings).numpy()
    worse = worse if row.direction == "upper" else -worse
    for x in sample_box(X - EPS, X + EPS, 10, torch.Generator().manual_seed(0)):
        assert (at(metric, model, x) <= worse + 1e-9).all()
    assert (worse > 0).any()


def attacked(metric, model, tmp_path):
    """What is found is the number at the input that is returned."""
    _, settings, row = metric
    found = lx.attack(Saliency(model), X, eps=EPS, target=1, abs=False, objective=row.name,
                      options=settings, **QUICK)
    assert found.value.numpy() == pytest.approx(at(metric, model, found.worst_inputs), abs=1e-12)
    assert (found.value > 0).any() and found.fallback == ""


def sandwiched(metric, model, tmp_path):
    _, settings, row = metric
    sandwich = certificate_of(model).sandwich(row.name, settings=QUICK, **settings)
    found = sandwich.found.numpy()
    assert found == pytest.approx(at(metric, model, sandwich.worst_inputs), abs=1e-12)
    assert (found >= 0).all() and (found > 0).any()
    assert (found <= sandwich.certified.numpy() + 1e-9).all()


def alarmed(metric, model, tmp_path):
    """A bound that the number leaves is noticed."""
    _, settings, row = metric
    good = 0 if row.direction == "upper" else len(X[0])
    wrong = dataclasses.replace(row, function=lambda lower, upper, nominal, **given: torch.where(
        (lower == upper).all(1), row.function(lower, upper, nominal, **given), good))
    functools.update_wrapper(wrong.function, row.function)  # which has the settings
    register(wrong, overwrite=True)
    with pytest.raises(lx.SoundnessError, match=f"{row.name} is .* certified is at most"):
        certificate_of(model).sandwich(row.name, settings=QUICK, path=tmp_path / "found.pt",
                                       **settings)


def reported(metric, model, tmp_path):
    _, settings, row = metric
    lx.report(certificate_of(model), tmp_path / "page.html", metrics=[(row.name, settings)])
    page = (tmp_path / "page.html").read_text()
    assert row.name in page and row.formula in page


def trained(metric, model, tmp_path):
    """A bound that has a derivative is a loss; a count is refused."""
    _, settings, row = metric
    options = {"name": row.name, **settings}

    def loss():
        return explanation_loss(model, X, torch.tensor([1, 1]), eps=EPS, loss="metric",
                                options=options)

    if row.name == "reach":
        loss().backward()
        assert model[0].weight.grad.abs().sum() > 0
    else:
        with pytest.raises(ValueError, match="no derivative"):
            loss()


def listed(metric, model, tmp_path):
    _, _, row = metric
    assert f"| `{row.name}` | {row.formula} |" in tables()["metrics"]
    assert METRICS.lint() == lx.OBJECTIVES.lint() == lx.SANDWICHES.lint() == []
    assert row.formula in lx.OBJECTIVES[row.name].words
    assert row.formula in lx.SANDWICHES[row.name].words


PLACES = [certified, attacked, sandwiched, alarmed, reported, trained, listed]


@pytest.mark.parametrize("works", PLACES, ids=lambda place: place.__name__)
def test_a_metric_of_ones_own(works, metric, model, tmp_path):
    works(metric, model, tmp_path)


def test_nothing_is_left_of_a_metric_that_is_removed():
    assert not {*METRICS_OF_USERS} & {*METRICS, *lx.OBJECTIVES, *lx.SANDWICHES}


@pytest.mark.parametrize("name", ["increase", "sign", "width"])
def test_metrics_are_not_called_like_objectives_or_coupled_numbers(name):
    row = dataclasses.replace(METRICS["l1"], name=name)
    with pytest.raises(ValueError, match=f"'{name}' is already registered"):
        register(row)
    assert name not in METRICS


def test_lint_tells_what_is_wrong_with_a_metric(monkeypatch):
    row = dataclasses.replace(
        METRICS["top_k_overlap"], range="", features=("mask",),
        at=lambda a, nominal: a.sum(1), surrogate=lambda a, nominal, j: a.sum(1))
    monkeypatch.setitem(METRICS, "top_k_overlap", row)
    assert METRICS.lint() == [f"metric 'top_k_overlap' {wrong}" for wrong in (
        "has no range", "has features that are no settings", "takes other settings at a point",
        "has a surrogate that takes other settings")]
