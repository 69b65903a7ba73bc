"""Radii by column in the data's own units: against the data that they allow, scaled by sklearn in
exact order.
"""

import itertools

import numpy as np
import pandas
import pytest
import torch
from captum.attr import InputXGradient, Saliency
from sklearn.preprocessing import StandardScaler

import lirpa_explain as lx
from tests.nets import mlp

COLUMNS = ["age", "income", "sex", "job=none", "job=clerk", "job=chef"]
DATA = pandas.DataFrame([[25, 1234.5, 1, 0, 1, 0], [61, 880.25, 0, 0, 0, 1],
                         [40, 2100.0, 1, 1, 0, 0],
                         [33, 1500.0, 0, 0, 1, 0]], columns=COLUMNS, dtype=float)
JOBS = {"job": COLUMNS[3:]}
RADII = {"age": 2.7, "income": 150.0}


def scaled(dtype="float64"):
    scaler = StandardScaler().fit(DATA)
    return scaler, torch.tensor(scaler.transform(DATA), dtype=getattr(torch, dtype))


def allowed(row, moved=True):
    """All ends of what RADII and JOBS allow of a record: whole ages, the ends of its income, every
    job.
    """
    ages = [row["age"] + step for step in (-2, -1, 0, 1, 2)]
    incomes = [row["income"] - 150, row["income"], row["income"] + 150]
    jobs = np.eye(3).tolist() if moved else [row[COLUMNS[3:]].tolist()]
    return pandas.DataFrame([[age, income, row["sex"], *job]
                             for age, income, job in itertools.product(ages, incomes, jobs)],
                            columns=COLUMNS)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("fixed", [["sex"], ["sex", "job"]],
                         ids=lambda value: value if isinstance(value, str) else "")
def test_the_box_holds_all_allowed_records_and_little_more(dtype, fixed):
    scaler, z = scaled(dtype)
    table = lx.Table(COLUMNS, scaler=scaler, fixed=fixed, groups=JOBS, integer=["age"])
    box = table.around(z, RADII)
    for n, (_, row) in enumerate(DATA.iterrows()):
        points = torch.tensor(scaler.transform(allowed(row, "job" not in fixed)), dtype=z.dtype)
        assert bool(((box.x_L[n] <= points) & (points <= box.x_U[n])).all())
        slack = 1e-5 if dtype == "float32" else 1e-12
        torch.testing.assert_close(box.x_L[n], points.amin(0).minimum(z[n]), rtol=0, atol=slack)
        torch.testing.assert_close(box.x_U[n], points.amax(0).maximum(z[n]), rtol=0, atol=slack)
    assert torch.equal(box.x_L[:, 2], z[:, 2]) and torch.equal(box.x_U[:, 2], z[:, 2])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bounds_hold_at_all_allowed_records(dtype):
    """Captum's own value at each record that the words allow; the certificate is of the
    DataFrame.
    """
    scaler, z = scaled(dtype)
    model = mlp(6, 8, 3).to(z.dtype)
    frame = pandas.DataFrame(scaler.transform(DATA), columns=COLUMNS)
    table = lx.Table(COLUMNS, scaler=scaler, fixed=["sex"], groups=JOBS, integer=["age"])
    attribution = InputXGradient(model)
    certificate = lx.certify(attribution, frame[COLUMNS[::-1]],
                             perturbation=table.around(frame, RADII), target=1)
    assert certificate.dtype == dtype and certificate.features == tuple(COLUMNS)
    assert certificate.perturbation == ("linf box, age up to 2, income up to 150, in their own "
                                        "units, job any of 3; the rest held fixed")
    for n, (_, row) in enumerate(DATA.iterrows()):
        points = torch.tensor(scaler.transform(allowed(row)), dtype=z.dtype)
        values = attribution.attribute(points.requires_grad_(), target=1).detach()
        slack = 1e-9 if dtype == "float64" else 1e-5
        assert bool(((certificate.lower[n] - slack <= values) & (values <= certificate.upper[n]
                                                                 + slack)).all())
    assert bool((certificate.width > 0).any())
    other = lx.certify(attribution, z, perturbation=table.around(z, RADII), target=1)
    torch.testing.assert_close(other.lower, certificate.lower, rtol=1e-4, atol=1e-4)
    ball = {"perturbation": table.around(frame, RADII)}
    assert lx.certify_prediction(model, frame, **ball).margin.shape == (4,)
    found = lx.attack(attribution, frame, **ball, target=1, samples=4, steps=2, restarts=1)
    assert (bool((found.value <= certificate.max_change() + 1e-5).all())
            and bool((found.value > 0).all()))


def test_the_radius_is_a_multiple_of_the_radii():
    scaler, z = scaled()
    table = lx.Table(COLUMNS, scaler=scaler, fixed=["sex"], groups=JOBS, integer=["age"])
    certificate = lx.certify(Saliency(mlp(6, 8, 3)), z, perturbation=table.around(z, RADII),
                             target=0)

    def steady(c):
        return c.metric("cosine") > 0.9

    found = certificate.radius(steady, high=2.0, steps=5)
    assert bool(steady(found.inside).all()) and bool((found.value > 0).any())
    assert "times age up to 2.7, income up to 150" in found.inside.perturbation
    assert torch.equal(found.inside.radius(steady, high=2.0, steps=5).value, found.value)
    sizes = table.around(z, RADII).resized(torch.tensor([0.0, 0.5, 1.0, 3.0], dtype=z.dtype))
    width = (sizes.x_U - sizes.x_L) * torch.tensor(scaler.scale_)
    expected = torch.tensor([[0, 0, 0, 0, 0, 0], [2, 150, 0, 0.5, 0.5, 0.5], [4, 300, 0, 1, 1, 1],
                             [16, 900, 0, 1, 1, 1]])
    torch.testing.assert_close(width, expected.double(), rtol=1e-9, atol=1e-9)


SCALERS = {
    "sequences": (([40, 1000], [10, 500]), [40, 1000], [10, 500]),
    "arrays": ((np.array([40.0, 1000]), np.array([10.0, 500])), [40, 1000], [10, 500]),
    "numbers": ((0, 2), [0, 0], [2, 2]), "none": (None, [0, 0], [1, 1]),
    "dictionaries": (({"b": 1000}, {"b": 500}), [0, 1000], [1, 500]),
    "without mean": (StandardScaler(with_mean=False).fit(np.array([[0.0, 0], [2, 8]])), [0, 0],
                     [1, 4]),
    "of some columns": (StandardScaler().fit(pandas.DataFrame({"b": [0.0, 8]})), [0, 4], [1, 4]),
    "in another order": (StandardScaler().fit(pandas.DataFrame({"b": [0.0, 8], "a": [1.0, 3]})),
                         [2, 4], [1, 4]),
}


@pytest.mark.parametrize("name", SCALERS)
def test_scalers(name):
    scaler, mean, scale = SCALERS[name]
    scaling = lx.Table(["a", "b"], scaler=scaler).scaling
    assert scaling.mean.tolist() == mean and scaling.scale.tolist() == scale


def test_ranges_cut_and_a_number_is_every_columns_radius():
    table = lx.Table(["a", "b", "c"], scaler=(1, 2), fixed=["c"],
                     ranges={"a": (0, None), "b": (None, 5)})
    z = torch.tensor([[0.0, 1.0, 9.0]], dtype=torch.float64)  # the data is 1, 3, 19
    box = table.around(z, 4)
    torch.testing.assert_close(box.x_L * 2 + 1, torch.tensor([[0.0, -1, 19]], dtype=torch.float64))
    torch.testing.assert_close(box.x_U * 2 + 1, torch.tensor([[5.0, 5, 19]], dtype=torch.float64))
    assert table.around(z).words == "linf box of one point"
    many = lx.Table([str(i) for i in range(12)]).around(torch.zeros(1, 12),
                                                        {str(i): i / 4 for i in range(11)})
    assert (many.words == "linf box, 10 columns up to 0.25 to 2.5, in their own units; the rest "
            "held fixed")


ROWS = torch.tensor([[3.0, 1.0, 0.0]])


@pytest.mark.parametrize(("build", "error", "match"), [
    (lambda: lx.Table("abc"), TypeError, "must be a list of names"),
    (lambda: lx.Table(["a", "a"]), ValueError, "has the name 'a' twice"),
    (lambda: lx.Table(["age"], fixed=["aeg"]), ValueError, "no column or group 'aeg'; did you mean "
     "'age'"),
    (lambda: lx.Table(["age"], fixed="age"), TypeError, "fixed must be a list of names; given: "
     "'age'"),
    (lambda: lx.Table(["age"], integer=["job"]), ValueError, "no column 'job'; there are age"),
    (lambda: lx.Table(["a", "b"], groups={"g": ["a", "c"]}), ValueError, "no column 'c'"),
    (lambda: lx.Table(["a", "b"], groups={"g": ["a"], "h": ["a"]}), ValueError, "groups has the "
     "name 'a' twice"),
    (lambda: lx.Table(["a"], scaler=[0, 1]), TypeError, "must have mean_ and scale_.*given: list"),
    (lambda: lx.Table(["a"], scaler=StandardScaler()), TypeError, "once it is fitted"),
    (lambda: lx.Table(["a", "b", "c"], scaler=([0, 1], 1)), ValueError, "scaler has 2 columns, the "
     "table 3"),
    (lambda: lx.Table(["a"], scaler=(0, 0)), ValueError, "scales finite and above 0"),
    (lambda: lx.Table(list("abc")).around(ROWS, {"d": 1}), ValueError, "no column 'd'"),
    (lambda: lx.Table(list("abc")).around(ROWS, {"a": -1}), ValueError, "radius of 'a' must be a "
     "finite number"),
    (lambda: lx.Table(list("abc")).around(ROWS, [1, 2, 3]), TypeError, "a dictionary from "
     "columns.*given: list"),
    (lambda: lx.Table(list("abc"), fixed=["a"]).around(ROWS, {"a": 1}), ValueError, "'a' is held "
     "fixed, and was given"),
    (lambda: lx.Table(list("abc"), groups={"g": ["b", "c"]}).around(ROWS, {"b": 1}), ValueError,
     "one-hot group 'g'"),
    (lambda: lx.Table(list("abc"), groups={"g": ["a", "c"]}).around(ROWS), ValueError,
     "one-hot, but row 0 has"),
    (lambda: lx.Table(list("abc"), integer=["a"]).around(ROWS + 0.25, {"a": 1}), ValueError,
     "row 0 has 3.25"),
    (lambda: lx.Table(list("abc"), ranges={"a": (0, 2)}).around(ROWS, {"a": 1}), ValueError,
     "beyond its range"),
    (lambda: lx.Table(list("ab")).around(ROWS), ValueError, r"rows of 2 columns; given: \(1, 3\)"),
    (lambda: lx.certify(
        Saliency(mlp(3, 4, 2)), ROWS.double(), perturbation=lx.Table(list("abc")).around(ROWS, 1),
        features=list("cba"), target=0), ValueError, "other columns, or in another order"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_contradictions_are_refused(build, error, match):
    with pytest.raises(error, match=match):
        build()
