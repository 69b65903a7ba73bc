"""A certificate is a sequence of its examples: parts have the numbers of the whole, and joined they
are it.
"""

import builtins
import dataclasses
import functools
import math
import re
import sys

import numpy as np
import pytest
import torch
from captum.attr import GradientShap, InputXGradient, IntegratedGradients, NoiseTunnel, Saliency

import lirpa_explain as lx
from lirpa_explain.certificates import Certificate
from tests.nets import mlp

COUNT = 5
FIELDS = ("lower", "upper", "nominal", "spec_lower", "spec_upper", "spec_nominal",
          "convergence_delta")
SETTINGS = {"samples": 4, "restarts": 1, "steps": 2}


def net():
    return mlp(4, 8, 3)


def rows(seed=0, *shape):
    return torch.randn(COUNT, *(shape or (4,)), dtype=torch.float64,
                       generator=torch.Generator().manual_seed(seed))


def two_inputs():
    model = net()
    return lambda a, b: model(torch.cat([a.flatten(1), b], 1))


TARGETS = torch.tensor([0, 1, 2, 0, 1])
CASES = {
    "saliency": lambda: (Saliency(net()), rows(), {"target": TARGETS, "spec": torch.eye(4)[:2]}),
    "two inputs": lambda: (InputXGradient(two_inputs()), (rows(0, 1, 2), rows(1, 2)),
                           {"target": 1}),
    "integral": lambda: (IntegratedGradients(net()), rows(),
                         {"target": 0, "n_steps": 3, "integral": "exact"}),
    "noise": lambda: (NoiseTunnel(IntegratedGradients(net())), rows(), {
        "target": 0, "n_steps": 2, "nt_samples": 5, "nt_samples_batch_size": 2, "stdevs": 0.1,
        "return_convergence_delta": True}),
    "shap": lambda: (GradientShap(net()), rows(),
                     {"target": 0, "n_samples": 2, "baselines": rows(2)[:2],
                      "return_convergence_delta": True}),
    "expectation": lambda: (NoiseTunnel(Saliency(net())), rows(), {
        "target": 0, "abs": False, "nt_samples": 20, "stdevs": 0.5, "expectation": "gaussian"}),
    "parameters": lambda: (Saliency(net()), rows(),
                           {"target": 0, "parameters": lx.ParameterBox(relative=0.01)}),
}
INDICES = {
    "int": (2, [2]), "negative": (-1, [4]), "numpy int": (np.int64(1), [1]),
    "0-d tensor": (torch.tensor(3), [3]),
    "slice": (slice(1, None, 2), [1, 3]), "reversed": (slice(None, None, -1), [4, 3, 2, 1, 0]),
    "list": ([3, 0], [3, 0]), "list of bools": ([True, False, False, True, False], [0, 3]),
    "mask": (torch.tensor([False, True, True, False, False]), [1, 2]),
    "array": (np.array([-1, 0]), [4, 0]),
    "int32": (torch.tensor([4, 1], dtype=torch.int32), [4, 1]), "twice": ([1, 1], [1, 1]),
    "empty": (slice(0, 0), []), "empty list": ([], []), "array mask": (np.zeros(5, dtype=bool), []),
}


@functools.cache
def certified(name):
    attribution, x, keywords = CASES[name]()
    torch.manual_seed(0)
    return lx.certify(attribution, x, eps=0.05, **keywords)


def assert_same(one, other, exact=True):
    """Two certificates of the same examples say the same."""
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-12, "atol": 1e-14}
    for field in FIELDS:
        torch.testing.assert_close(getattr(one, field), getattr(other, field), **tolerance)
    assert one.meaning.facts.keys() == other.meaning.facts.keys()
    for key, value in one.meaning.facts.items():
        if isinstance(value, str):
            assert value == other.meaning.facts[key]
        else:
            torch.testing.assert_close(value, other.meaning.facts[key], **tolerance)
    assert (one.attribution, one.method, one.dtype, one.rounding, one.meaning.kind,
            one.features) == (other.attribution, other.method, other.dtype, other.rounding,
                              other.meaning.kind, other.features)


def rows_of(value, index):
    return tuple(part[index] for part in value) if isinstance(value, tuple) else value[index]


@pytest.mark.parametrize("name", INDICES)
def test_examples_are_chosen_as_rows_of_a_tensor(name):
    index, expected = INDICES[name]
    for case in ("saliency", "two inputs", "integral"):
        whole = certified(case)
        part = whole[index]
        assert len(part) == len(expected) and part.perturbation == whole.perturbation
        for field in ("lower", "upper", "nominal", "width"):
            torch.testing.assert_close(getattr(part, field),
                                       rows_of(getattr(whole, field), expected), rtol=0, atol=0)
        assert torch.equal(part.top_k_overlap(2), whole.top_k_overlap(2)[expected])
        assert torch.equal(part.metric("cosine"), whole.metric("cosine")[expected])
    assert torch.equal(whole[index].completeness, whole.completeness[expected])
    assert torch.equal(certified("saliency")[index].spec_upper,
                       certified("saliency").spec_upper[expected])


@pytest.mark.parametrize("case", CASES)
def test_iteration_is_by_example_and_joined_it_is_the_whole_again(case, tmp_path):
    whole = certified(case)
    parts = list(whole)
    assert [len(part) for part in parts] == [1] * COUNT == [1] * len(whole)
    joined = lx.join(parts)
    assert_same(joined, whole)
    assert joined.perturbation == whole.perturbation and joined.versions == whole.versions
    assert_same(lx.join([whole[3:], whole[:3]])[[2, 3, 4, 0, 1]], whole)
    joined.save(tmp_path / "c.npz")
    assert_same(lx.Certificate.load(tmp_path / "c.npz")[1:3], whole[1:3])


def test_deltas_are_those_of_the_examples():
    """Against Captum for each example alone, whose samples are drawn again as they were."""
    x, model = rows(), net()
    attribution, size = NoiseTunnel(IntegratedGradients(model)), 2
    keywords = {"target": 0, "n_steps": 2, "nt_samples": 5, "nt_samples_batch_size": size,
                "stdevs": 0.1}
    torch.manual_seed(0)
    whole = lx.certify(attribution, x, eps=0.05, return_convergence_delta=True, **keywords)
    torch.manual_seed(0)
    noise = [torch.normal(0, torch.tensor(0.1).repeat(COUNT * n, 4)).double().reshape(COUNT, n, 4)
             for n in (2, 2, 1)]
    points = x[:, None] + torch.cat(noise, 1)
    for n in range(COUNT):
        _, delta = IntegratedGradients(model).attribute(points[n], target=0, n_steps=2,
                                                        return_convergence_delta=True)
        torch.testing.assert_close(whole[n].convergence_delta, delta.double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case",
                         ["saliency", "two inputs", "noise", "shap", "expectation", "parameters"])
def test_a_part_is_refined_certified_again_and_attacked_as_the_whole(case):
    whole, index = certified(case), [3, 1]
    part, joined = whole[index], lx.join([whole[:2], whole[2:]])
    functions = torch.randn(COUNT, 3, 4, dtype=torch.float64,
                            generator=torch.Generator().manual_seed(3))
    expected = whole.refiner(functions)
    for other, chosen in ((part, index), (whole[1:][[2, 0]], index), (joined, slice(None)),
                          (joined[index], index), (whole[[1, 1]], [1, 1])):
        for one, side in zip(other.refiner(functions[chosen]), expected, strict=True):
            torch.testing.assert_close(one, side[chosen], rtol=1e-12, atol=1e-14)
    for answer in ("top_k_overlap", "top_k"):
        one, all_ = getattr(part, answer)(2, refine="spec"), getattr(whole, answer)(2,
                                                                                    refine="spec")
        torch.testing.assert_close(one, rows_of(all_, index))

    radii = torch.tensor([0.01, 0.02, 0.03, 0.0, 0.02], dtype=torch.float64)
    again = whole.recertifier(radii)
    assert_same(part.recertifier(radii[index])[:1], again[[3]], exact=False)
    assert_same(part.recertifier(radii[index])[1:], again[[1]], exact=False)
    assert_same(joined.recertifier(radii), again, exact=False)
    assert_same(joined[index].recertifier(radii[index]), again[index], exact=False)
    if case == "expectation":
        return
    distances = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    for metric, options in (("max_change", {}), ("top_k_overlap", {"k": 1}),
                            ("lipschitz", {"distance": distances})):
        # all examples' options decide how the parameters move
        if case == "parameters" and "distance" in options:
            continue
        sides = whole.sandwich(metric, settings=SETTINGS, **options)
        own = {name: value[index] if isinstance(value, torch.Tensor) else value
               for name, value in options.items()}
        for one in (part, lx.join([whole, whole[2:]])[index]):
            found = one.sandwich(metric, settings=SETTINGS, **own)
            for field in ("certified", "found", "low", "high", "worst_inputs", "ratio"):
                torch.testing.assert_close(getattr(found, field),
                                           rows_of(getattr(sides, field), index))
            assert found.worst_parameters.keys() == sides.worst_parameters.keys()


def test_radii_of_a_part_are_those_of_the_whole():
    whole = certified("saliency")

    def steady(certificate):
        return certificate.metric("cosine") > 0.95

    expected = whole.radius(steady, high=1.0, steps=4)
    found = whole[[4, 2]].radius(steady, high=1.0, steps=4)
    assert torch.equal(found.value, expected.value[[4, 2]]) and torch.equal(found.fails,
                                                                            expected.fails[[4, 2]])
    assert len(found.inside) == 2 and bool((found.value > 0).any())
    joined = lx.join([whole[:1], whole[1:]]).radius(steady, high=1.0, steps=4)
    assert torch.equal(joined.value, expected.value)


def test_a_mask_of_a_part_is_that_of_its_examples():
    whole, index = certified("saliency"), [4, 0]
    masks = torch.rand(COUNT, 4, generator=torch.Generator().manual_seed(1)) > 0.5
    sides = whole.sandwich("region_sum", mask=masks, settings=SETTINGS)
    found = whole[index].sandwich("region_sum", mask=masks[index], settings=SETTINGS)
    torch.testing.assert_close(found.certified, sides.certified[index])
    torch.testing.assert_close(found.found, sides.found[index])
    one = whole[index].sandwich("region_sum", mask=masks[0], settings=SETTINGS)
    torch.testing.assert_close(
        one.found, whole.sandwich("region_sum", mask=masks[0], settings=SETTINGS).found[index])
    basis = torch.randn(COUNT, 4, 2, dtype=torch.float64,
                        generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        whole[index].sandwich("tangent_lower", basis=basis[index], settings=SETTINGS).found,
        whole.sandwich("tangent_lower", basis=basis, settings=SETTINGS).found[index])


def test_a_wrong_part_is_found_out():
    part = certified("saliency")[[2, 3]]
    wrong = dataclasses.replace(part, lower=part.nominal, upper=part.nominal)
    with pytest.raises(lx.SoundnessError, match="of example [23], whose bounds"):
        wrong.sandwich("max_change", settings=SETTINGS)


def test_what_does_not_go_with_a_part_is_refused(tmp_path):
    whole = certified("saliency")
    for index, error, match in (
        (5, IndexError, "no example 5: the certificate has 5"),
        (-6, IndexError, "no example -6"), ([0, 7], IndexError, "no example 7"),
        ([True], IndexError, "one bool for each of the 5"),
        (1.0, TypeError, "an int, a slice.*given: 1.0"), ("a", TypeError, "given: 'a'"),
        ((0, 1), TypeError, r"given: \(0, 1\)"), (None, TypeError, "given: None"),
        (True, TypeError, "given: True"), (torch.ones(2), TypeError, "Tensor of torch.float32"),
        (torch.ones(2, 2).long(), TypeError, r"\(2, 2\)"), (["a"], TypeError, "chosen by")):
        with pytest.raises(error, match=match):
            whole[index]
    for ask in (lambda c: c.sandwich(), lambda c: c.radius(lambda c: c.metric("l2") < 1, high=0.1)):
        with pytest.raises(ValueError, match="holds an example twice"):
            ask(whole[[1, 1]])
    with pytest.raises(ValueError, match="no examples"):
        whole[:0].sandwich()
    assert (len(whole[:0].top_k(2, refine="spec")) == len(whole[:0].metric("cosine")) == 0
            and repr(whole[:0]))
    whole.save(tmp_path / "c.npz")
    loaded = lx.join([lx.Certificate.load(tmp_path / "c.npz"), whole])[:2]
    with pytest.raises(ValueError, match="nothing to refine with"):
        loaded.sign(refine="spec")


def test_certificates_that_do_not_fit_are_not_joined():
    whole = certified("saliency")
    model, x = net(), rows()
    others = {
        "attribution": lx.certify(InputXGradient(model), x, eps=0.05, target=0,
                                  spec=torch.eye(4)[:2]),
        "method": lx.certify(Saliency(model), x, eps=0.05, target=0, spec=torch.eye(4)[:2],
                             method="IBP"),
        "dtype": lx.certify(Saliency(mlp(4, 8, 3).float()), x.float(), eps=0.05, target=0,
                            spec=torch.eye(4)[:2]),
        "shape of an example": lx.certify(Saliency(mlp(3, 8, 3)), x[:, :3], eps=0.05, target=0,
                                          spec=torch.eye(3)[:2]),
        "features": dataclasses.replace(whole, features=list("abcd")),
        "spec": lx.certify(Saliency(model), x, eps=0.05, target=0),
        "rounding": dataclasses.replace(whole, rounding="outward"),
        "sense": dataclasses.replace(whole,
                                     meaning=dataclasses.replace(whole.meaning, kind="integral")),
        "convergence_delta": dataclasses.replace(whole, convergence_delta=x[:, 0]),
    }
    for name, other in others.items():
        with pytest.raises(ValueError, match=f"have one {name}: that of certificate 0 is .*, that "
                           "of certificate 1 is"):
            lx.join([whole, other])
    with pytest.raises(ValueError, match="no certificates to join"):
        lx.join([])
    with pytest.raises(TypeError, match="takes certificates; given: Tensor"):
        lx.join([whole, x])
    one, two = (lx.certify(Saliency(model), x, eps=eps, target=0) for eps in (0.1, 0.2))
    words = "of each example one of: linf ball, radius 0.1 | linf ball, radius 0.2"
    assert lx.join([one, two]).perturbation == lx.join([lx.join([one, two])[:2],
                                                        two]).perturbation == words


def certificate(nominal, **changes):
    return Certificate(nominal - 0.5, nominal + 1, nominal, "Saliency", "CROWN", "<a ball>",
                       "float64", 0.1, **changes)


def test_a_frame_has_a_row_for_each_entry():
    pandas = pytest.importorskip("pandas")
    nominal = torch.tensor([[2.0, -3.0], [0.25, 0.0]])
    frame = certificate(nominal, features=("age", "income")).to_frame()
    expected = pandas.DataFrame({
        "example": [0, 0, 1, 1], "feature": ["age", "income"] * 2, "nominal": [2, -3, 0.25, 0],
        "lower": [1.5, -3.5, -0.25, -0.5], "upper": [3, -2, 1.25, 1], "sign": [1, -1, 0, 0]})
    pandas.testing.assert_frame_equal(frame, expected, check_dtype=False)
    assert frame["lower"].dtype == np.float32 and frame.pivot(index="example", columns="feature",
                                                              values="sign").shape
    assert certificate(nominal).to_frame()["feature"].tolist() == [0, 1, 0, 1]
    assert certificate(nominal[:, None]).to_frame()["feature"].tolist() == ["0, 0", "0, 1"] * 2
    pair = Certificate(*((nominal, nominal[:, :1]),) * 3, "a", "b", "c", "float32", 0.1).to_frame()
    assert (pair["input"].tolist() == [0, 0, 1] * 2
            and pair["feature"].tolist()[:3] == ["0, 0", "0, 1", "1, 0"])
    assert certificate(nominal.bfloat16()).to_frame()["nominal"].tolist() == [2, -3, 0.25, 0]
    assert len(certificate(nominal)[:0].to_frame()) == 0


def without(monkeypatch, module):
    """Imports of a module fail from now on."""
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.partition(".")[0] == module:
            raise ImportError(f"No module named {module!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)


def test_a_frame_needs_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # which makes its import fail
    with pytest.raises(ImportError, match="pandas is needed for to_frame.*pip install pandas"):
        certificate(torch.ones(1, 2)).to_frame()


def test_a_notebook_shows_a_table_or_a_picture(monkeypatch):
    nominal = torch.tensor([[0.5, 2.0, -3.0]])
    html = certificate(nominal, features=("a<b", "income", "age"))._repr_html_()
    cells = re.findall(r"<td>(.*?)</td>", html)
    assert "<strong>Certificate of Saliency</strong>" in html and "&lt;a ball&gt;" in cells
    assert cells[-18:] == ["0", "age", "-3", "-3.5", "-2", "\N{MINUS SIGN}", "0", "income", "2",
                           "1.5", "3", "+", "0", "a&lt;b", "0.5", "0", "1.5", ""]
    long = certificate(torch.arange(40.0).reshape(4, 10))._repr_html_()
    assert (long.count("<tr>") == 5 + 1 + 18
            and "6 of 10 entries, of the first 3 of 4 examples" in long)
    # nothing to show, and no error
    assert "nan" in certificate(nominal)[:0]._repr_html_() and math.inf
    images = certificate(torch.rand(2, 1, 4, 4))
    assert 'src="data:image/png;base64,' in images._repr_html_()
    without(monkeypatch, "matplotlib")
    assert "img" not in images._repr_html_() and "<td>0, 3, 3</td>" in certificate(
        torch.arange(16.0).reshape(1, 1, 4, 4))._repr_html_()
