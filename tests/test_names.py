"""Arrays and DataFrames as inputs, and the names of columns on their way into all that shows a
certificate.
"""

import dataclasses
import math
import re

import numpy as np
import pandas
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerActivation, NoiseTunnel, Saliency

import lirpa_explain as lx
from tests.nets import mlp

NAMES = ["age", "income", "sex", "debt"]
X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def certify(inputs, model=None, kind=InputXGradient, **keywords):
    return lx.certify(kind(model or mlp(4, 8, 3)), inputs, **{"eps": 0.05, "target": 0} | keywords)


def assert_same(one, other):
    for side in ("lower", "upper", "nominal"):
        torch.testing.assert_close(getattr(one, side), getattr(other, side), rtol=0, atol=0)


def frame(x=X, columns=NAMES):
    return pandas.DataFrame(x.numpy(), columns=columns)


def read_only(array):
    array.flags.writeable = False
    return array


ARRAYS = {
    "plain": lambda: X.numpy().copy(), "read-only": lambda: read_only(X.numpy().copy()),
    "big-endian": lambda: X.numpy().astype(">f8"), "fortran": lambda: np.asfortranarray(X.numpy()),
    "reversed": lambda: X.numpy()[::-1].copy()[::-1], "frame": frame,
    "frame of objects that are numbers": lambda: frame().convert_dtypes(),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_and_frames_are_the_tensors_that_they_hold(name):
    given = ARRAYS[name]()
    before = given.copy()
    assert_same(certify(given), certify(X))
    np.testing.assert_array_equal(given, before)
    certifier = lx.Certifier(Saliency(mlp(4, 8, 3)), given, target=0)
    torch.testing.assert_close(certifier.bounds(given, eps=0.1).upper,
                               certifier.bounds(X, eps=0.1).upper)
    found = [lx.radius(certifier, x, lambda c: c.metric("cosine") > 0.9, high=0.5, steps=3)
             for x in (given, X)]
    assert torch.equal(found[0].value, found[1].value)


def test_arrays_in_place_of_every_tensor():
    baselines, targets = torch.rand(3, 4).double(), torch.tensor([0, 2, 1])
    eps, spec = torch.rand(4).double() / 10, torch.eye(4).double()
    keywords = {"kind": IntegratedGradients, "n_steps": 3}
    expected = certify(X, **keywords, baselines=baselines, target=targets, eps=eps, spec=spec,
                       clip=(X - 1, 9.0))
    given = certify(X.numpy(), **keywords, baselines=baselines.numpy(), target=targets.numpy(),
                    eps=eps.numpy(), spec=spec.numpy(), clip=((X - 1).numpy(), 9.0))
    assert_same(given, expected)
    assert torch.equal(given.spec_lower, expected.spec_lower)
    shuffled = frame(baselines)[NAMES[::-1]]
    assert_same(certify(frame(), **keywords, baselines=shuffled),
                certify(X, **keywords, baselines=baselines))
    found, other = (lx.attack(Saliency(mlp(4, 8, 3)), x, eps=0.1, target=t, steps=2, samples=4)
                    for x, t in ((X, targets), (frame(), targets.numpy())))
    assert torch.equal(found.value, other.value)
    assert torch.equal(lx.certify_prediction(mlp(4, 8, 3), frame(), eps=0.1).margin,
                       lx.certify_prediction(mlp(4, 8, 3), X, eps=0.1).margin)


def test_a_frame_gets_the_type_of_the_model_and_the_order_of_the_names():
    model = mlp(4, 8, 3).float()
    mixed = frame().assign(sex=[0, 1, 1], debt=pandas.array([3, 2, 1], dtype="Int64"), name="x")
    x = torch.tensor(mixed[NAMES].astype(float).to_numpy()).float()
    given = certify(mixed[["debt", "name", *NAMES[:3]]], model, features=NAMES)
    assert_same(given, certify(x, model))
    assert given.features == tuple(NAMES) and given.dtype == "float32"
    certifier = lx.Certifier(Saliency(model), mixed, features=NAMES, target=0)
    assert certifier.certify(mixed, eps=0.1).features == tuple(NAMES)
    assert certify(frame()[NAMES[::-1]]).features == tuple(NAMES[::-1])


@pytest.mark.parametrize(("change", "error", "match"), [
    (lambda: {"inputs": frame().assign(sex="f")}, TypeError,
     r"these do not: 'sex' \((str|object)\). Encode them"),
    (lambda: {"inputs": frame().assign(sex=math.nan)}, ValueError, "NaN or infinite"),
    (lambda: {"inputs": frame(), "features": ["age", "incme"]}, ValueError, "no column 'incme'; "
     "did you mean 'income'"),
    (lambda: {"inputs": frame(columns=["a", "a", "b", "c"])}, ValueError, "DataFrame has the name "
     "'a' twice"),
    (lambda: {"inputs": frame()[[]]}, ValueError, "has no columns"),
    (lambda: {"inputs": frame()["age"]}, TypeError, "given: Series"),
    (lambda: {"inputs": X, "features": NAMES[:3]}, ValueError, "each of the 4 features of the "
     "input; given: 3 names"),
    (lambda: {"inputs": X, "features": ["a", "a", "b", "c"]}, ValueError, "has the name 'a' twice"),
    (lambda: {"inputs": X, "features": "abcd"}, TypeError, "must be a list of names; given: "
     "'abcd'"),
    (lambda: {"inputs": X, "features": [1, 2, 3, 4]}, TypeError, "must be a list of names"),
    (lambda: {"inputs": X.numpy().astype(np.float16)}, TypeError, "one of float16"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_has_no_numbers_or_no_names_is_refused(change, error, match):
    with pytest.raises(error, match=match):
        certify(**change())


def test_names_of_several_inputs_and_of_layers():
    model = mlp(4, 8, 3)

    def forward(a, b):
        return model(torch.cat([a, b], 1))

    pair = X[:, :2], X[:, 2:]
    assert certify(pair, forward, features=(["a", "b"], ["c", "d"])).features == ("a", "b", "c",
                                                                                  "d")
    assert certify(pair, forward, features=(["a", "b"], None)).features == ("a", "b", "1, 0",
                                                                            "1, 1")
    both = certify((frame()[["age", "sex"]], frame()[["age", "debt"]]), forward)
    assert both.features == ("0: age", "0: sex", "1: age", "1: debt")
    assert both.perturbation == "linf ball, radius 0.05"
    with pytest.raises(TypeError, match="a tuple of 2 lists of names"):
        certify(pair, forward, features=["a", "b"])
    at_layer = lx.certify(LayerActivation(model, model[0]), frame(), eps=0.1)
    assert at_layer.features is None and at_layer.lower.shape == (3, 8)
    tunnel = NoiseTunnel(Saliency(model))
    assert lx.certify(tunnel, frame(), eps=0.1, target=0, nt_samples=2).features == tuple(NAMES)


def test_names_travel(tmp_path):
    certificate = certify(X, features=NAMES)
    certificate.save(tmp_path / "c.npz")
    for held in (certificate, certificate[1:], lx.join(list(certificate)),
                 lx.Certificate.load(tmp_path / "c.npz"),
                 certificate.radius(lambda c: c.metric("l2") < 1, high=0.1, steps=1).inside):
        assert held.features == tuple(NAMES)
        assert held.to_frame()["feature"].tolist()[:4] == NAMES and "income" in held._repr_html_()
    axis = lx.plot_bars(certificate)[1]
    assert {label.get_text() for label in axis.get_yticklabels()} == set(NAMES)
    lx.report(certificate, tmp_path / "r.html",
              metrics=[("protected_top_k", {"mask": ["sex"], "k": 2})])
    page = (tmp_path / "r.html").read_text()
    assert all(name in page for name in NAMES) and "protected_<wbr>top" in page
    assert lx.certify(Saliency(mlp(4, 8, 3)), X, eps=0.1, target=0).features is None


def test_masks_may_be_names():
    named, mask = certify(X, features=NAMES), torch.tensor([False, False, True, True])
    chosen = ["debt", "sex"]
    assert torch.equal(named.metric("share_upper", mask=chosen),
                       named.metric("share_upper", mask=mask))
    assert torch.equal(named.region_sum(chosen)[0], named.region_sum(mask)[0])
    sides = [named.sandwich("region", mask=m, settings={"samples": 4, "restarts": 0})
             for m in (chosen, mask)]
    assert torch.equal(sides[0].found, sides[1].found) and torch.equal(sides[0].certified,
                                                                       sides[1].certified)
    with pytest.raises(ValueError, match="There is no feature 'dept'; did you mean 'debt'"):
        named.metric("share_upper", mask=["dept"])
    with pytest.raises(ValueError, match=r"features have none: certify with features=\[...\]"):
        certify(X).region_sum(["debt"])


@pytest.mark.parametrize(("keywords", "words"), [
    ({"eps": 0.2}, "linf ball, radius 0.2"),
    ({"eps": torch.tensor([0.1, 0, 0, 0.2])}, "linf ball, radius (0.1, 0, 0, 0.2) by feature"),
    ({"eps": torch.tensor([0.1, 0, 0, 0.2]), "features": NAMES},
     "linf ball, radius age 0.1, income 0, sex 0, debt 0.2"),
    ({"eps": torch.tensor([[0.1, 0, 0, 0.2]]), "features": NAMES, "clip": (-9, 9)},
     "linf ball, radius age 0.1, income 0, sex 0, debt 0.2, within [-9, 9]"),
    ({"eps": torch.full((4,), 0.2), "features": NAMES}, "linf ball, radius 0.2"),
    ({"eps": torch.tensor([[0.1], [0.1], [0.3]])}, "linf ball, radius 0.1 to 0.3 by example"),
    ({"eps": torch.tensor([[0.1], [0.1], [0.3]]), "norm": 2}, "l2 ball, radius 0.1 to 0.3 by "
     "example"),
    ({"eps": torch.arange(12).reshape(3, 4) / 100}, "linf ball, radius 0 to 0.11 by feature and "
     "example"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_radii_that_differ_are_said(keywords, words):
    assert certify(X, **keywords).perturbation == words


def test_many_radii_are_said_by_their_range():
    x = torch.rand(2, 20, dtype=torch.float64)
    words = certify(x, mlp(20, 4, 3), eps=torch.arange(20) / 100).perturbation
    assert words == "linf ball, radius 0 to 0.19 by feature"


def test_a_counterexample_is_named():
    certificate = certify(X, features=NAMES)
    wrong = dataclasses.replace(certificate, lower=certificate.nominal, upper=certificate.nominal)
    with pytest.raises(lx.SoundnessError,
                       match=rf"entry \d \(({'|'.join(map(re.escape, NAMES))})\) of the flattened"):
        wrong.sandwich("max_change", settings={"samples": 4, "restarts": 0})


def test_keywords_of_certify_are_not_those_of_a_certifier():
    with pytest.raises(TypeError, match="no 'eps', nor has Certifier; give it to certify"):
        lx.Certifier(Saliency(mlp(4, 8, 3)), eps=0.1)
    with pytest.raises(TypeError, match="nor has attack; did you mean 'objective'"):
        lx.attack(Saliency(mlp(4, 8, 3)), X, eps=0.1, target=0, objectiv="l2")
    with pytest.raises(TypeError, match="nor has bounds; did you mean 'target'"):
        lx.Certifier(Saliency(mlp(4, 8, 3))).bounds(X, eps=0.1, targets=0)
