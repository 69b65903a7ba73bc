"""What a report says first, and what it says of attacks: counted again here, example by example."""

import math
import re

import numpy as np
import pytest
import torch
from captum.attr import Saliency

import lirpa_explain as lx
from lirpa_explain.cli import main
from lirpa_explain.reporting import WORDS
from lirpa_explain.reporting.found import Reached
from lirpa_explain.reporting.page import _features
from lirpa_explain.reporting.table import Signs
from lirpa_explain.reporting.verdict import Speaker, decided_sides, percent_of
from lirpa_explain.reporting.words import Words
from tests.nets import mlp

X = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def certificates():
    certifier = lx.Certifier(Saliency(mlp(4, 8, 3)), target=0, abs=False)
    return {eps: certifier.certify(X, eps=eps, clip=(0, 2)) for eps in (0.01, 0.2)}


def made_up(lower, nominal, upper):
    return lx.Certificate(
        lower=torch.tensor([lower]), upper=torch.tensor([upper]), nominal=torch.tensor([nominal]),
        attribution="Saliency", method="CROWN", perturbation="made up", dtype="float32",
        elapsed_s=0.0)


def test_counts_are_those_of_the_certificates(certificates):
    prediction = lx.certify_prediction(mlp(4, 8, 3), X, eps=0.2)
    certificate = certificates[0.2]
    lost = torch.tensor([1.0, 0, 0, 0, 0, 2.0], dtype=torch.float64)
    said = Speaker(Words()).at_radius([certificate], 2, prediction,
                                      [Reached("top_k_overlap", lost, {"k": 2})])
    stay, same = certificate.top_k_overlap(2) == 2, prediction.certain
    predicted, top, both, signs = said.verdicts
    assert [said.certain for said in (predicted, top, both)] == [int(n.sum())
                                                                 for n in (same, stay, same & stay)]
    broken = [bool(a > 0 and not b) for a, b in zip(lost, stay, strict=True)]
    assert top.refuted == both.refuted == sum(broken) and predicted.refuted == signs.refuted == 0
    assert signs.certain == sum(bool(row.all()) for row in certificate.sign() != 0)
    assert ("an attack found" in top.more + both.more
            and "no attack was run" in predicted.more + signs.more)
    for verdict in said.verdicts:
        assert verdict.certain + verdict.refuted + verdict.open == verdict.total == 6
        assert verdict.text.startswith(f"In {verdict.certain} of 6 examples ")


def test_nothing_is_refuted_that_was_searched_with_other_settings(certificates):
    lost = torch.full((6,), 3.0, dtype=torch.float64)
    for options in ({"k": 3}, {"k": 2, "absolute": False}):
        said = Speaker(Words()).at_radius([certificates[0.2]], 2, None,
                                          [Reached("top_k_overlap", lost, options)])
        assert said.verdicts[0].refuted == 0


def test_zeros_are_no_open_signs():
    certificate = made_up([0.0, -1.0, 1.0], [0.0, 0.0, 2.0], [0.0, 1.0, 3.0])
    certain, counts = decided_sides(certificate)
    assert counts.tolist() == [[False, False, True]] and certain.tolist() == [[False, False, True]]
    assert Signs().of([certificate]).tolist() == [1]
    assert Signs().of([made_up([0.0], [0.0], [0.0])]).tolist() == [1]
    assert Signs().of([made_up([-1.0, 1.0], [1.0, 2.0], [2.0, 3.0])]).tolist() == [0.5]
    assert {line.name: line.word for line in _features(certificate, 0, None, Words())} == {
        "0": "zero", "1": "zero", "2": "positive"}
    said = Speaker(Words()).at_radius([certificate], 1, None, [])
    assert said.verdicts[1].certain == 1 and "100 %" in said.verdicts[1].more


def test_a_confidence_is_said():
    smoothed = lx.certify_smoothed(Saliency(mlp(4, 8, 3)), X, sigma=0.2, nt_samples=50,
                                   confidence=0.99, target=0)
    said = Speaker(Words()).at_radius([smoothed.at(0.05)], 1, None, [])
    assert "each example with probability 0.99 over what was drawn" in said.title
    important, unimportant = ((smoothed.at(0.05).lower > 0.5), (smoothed.at(0.05).upper < 0.5))
    assert said.verdicts[1].certain == int((important | unimportant).all(1).sum())


def test_sizes_have_no_direction():
    said = Speaker(Words()).at_radius([made_up([0.0, 1.0], [1.0, 2.0], [2.0, 3.0])], 1, None, [])
    assert len(said.verdicts) == 1


@pytest.mark.parametrize(("perturbation", "words"), [
    ("linf ball, radius 0.01, within [0, 1]", "Whatever change of at most 0.01 (1 % of the range "
     "from 0 to 1) in each pixel, in all of them at once"),
    ("linf ball, radius 1e-05", "Whatever change of at most 1e-05 in each pixel, in all of them at "
     "once"),
    ("l2 ball, radius 0.5, within [-1, 1]", "Whatever change of at most 0.5 in all, as a Euclidean "
     "distance"),
    ("l1 ball, radius 2", "Whatever change of at most 2 in all, added up over the pixels"),
    ("linf ball, radius 0.1 to 0.3 by example", "Whatever change within: linf ball, radius 0.1 to "
     "0.3 by example"),
])
def test_balls_in_words(perturbation, words):
    assert Speaker(Words(), image=True).title(perturbation) == words


def test_the_unit_is_said():
    title = Speaker(Words(), unit="mm").title("linf ball, radius 3, within [0, 9]")
    assert title == "Whatever change of at most 3 mm in each feature, in all of them at once"


def test_no_share_is_rounded_to_all_or_nothing():
    assert [percent_of(share) for share in (0.0, 0.001, 50.04, 99.999, 100.0)] == ["0", "0.1", "50",
                                                                                   "99.9", "100"]


def test_what_was_found_stands_beside_what_is_certified(certificates, tmp_path):
    settings = {"samples": 4, "restarts": 1, "steps": 4}
    found = {eps: [certificate.sandwich("cosine", settings=settings),
                   certificate.sandwich("linf", settings=settings)]
             for eps, certificate in certificates.items()}
    lx.report(certificates, tmp_path / "page.html", metrics=["cosine", "linf", "relative"],
              found=found)
    text = (tmp_path / "page.html").read_text()
    heads = [re.sub(r"<wbr>", "", head)
             for head in re.findall(r'title="[^"]*">(.*?)</button>', text)]
    assert heads == ["example", "eps", "cosine", "cosine_found", "linf", "linf_found", "relative",
                     "mean_width"]
    rows = [re.findall(r'data-value="([^"]*)"', row)
            for row in re.findall(r"<tr>\n?(<td.*?)</tr>", text, re.S)[:12]]
    for row, side, linf in zip(rows, torch.cat([found[eps][0].found for eps in certificates]),
                               torch.cat([found[eps][1].found for eps in certificates]),
                               strict=True):
        assert (float(row[3]) == pytest.approx(1 - float(side))
                and float(row[5]) == pytest.approx(float(linf)))
        assert float(row[2]) <= float(row[3]) + 1e-9 and float(row[5]) <= float(row[4]) + 1e-9
    assert WORDS["beside"] in text


def test_every_text_can_be_said_otherwise(certificates, tmp_path):
    """A page in capitals: what is left of the English is names, numbers, and what certificates
    themselves say.
    """
    names = re.compile(r"\{\w+\}")
    loud = {key: "".join(part if names.fullmatch(part) else part.upper()
                         for part in re.split(r"(\{\w+\})", text))
            for key, text in WORDS.items() if key != "language"}
    prediction = {eps: lx.certify_prediction(mlp(4, 8, 3), X, eps=eps) for eps in certificates}
    lx.report(certificates, tmp_path / "page.html", words=loud, predictions=prediction,
              failures={"7": "NO"}, details=2,
              metrics=["cosine"], targets=[0] * 6, unit="MM", title="PAGE")
    text = (tmp_path / "page.html").read_text()
    text = re.sub(r"<(script|style|button|dd|title).*?</\1>|<[^>]*>|\{\{.*?\}\}", " ", text,
                  flags=re.S)
    kept = {"float"}  # of float64
    said = lx.reporting.page.assumptions(certificates[0.01])[3]
    captions = " ".join(re.findall(r"<figcaption>(.*?)</figcaption>",
                                   (tmp_path / "page.html").read_text()))
    left = set(re.findall(r"[a-z]{2,}", text)) - kept - set(re.findall(r"[a-z]+", said + captions))
    assert left == set()


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"words": {"verdikt": "x"}}, ValueError, "no key 'verdikt'"),
    ({"words": {"time": "{seconds}"}}, ValueError, "fills in seconds; it may fill in nothing"),
    ({"found": {0.5: []}}, ValueError, "found has the radius 0.5"),
    ({"found": {0.01: [3]}}, TypeError, "found holds a int"),
    ({"found": {0.01: Reached("cosine", torch.zeros(2))}}, ValueError, "has 2 examples; the "
     "certificates have 6"),
])
def test_wrong_arguments(certificates, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        lx.report(certificates, tmp_path / "never.html", **change)


def test_the_command_attacks_beside_its_certificates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "nets_of_verdict.py").write_text("import torch\nfrom tests.nets import "
                                                 "mlp\n\n\ndef make():\n    return mlp(4, 8, 3)\n")
    np.save("x.npy", X.numpy())
    command = ["certify", "--model", "nets_of_verdict:make", "--inputs", "x.npy", "--dtype",
               "float64", "--target", "0", "--attribution", "Saliency", "--set", "abs=False",
               "--eps", "0.05", "--out", "results", "--attack", "--metric", "top_k_overlap:k=2",
               "--metric", "cosine", "--chunk", "4", "--report", "page.html"]
    assert main(command) == 0, capsys.readouterr().err
    header, *rows = [line.split(",")
                     for line in (tmp_path / "results" / "metrics.csv").read_text().splitlines()]
    certified, found = header.index("cosine"), header.index("cosine_found")
    assert found == certified + 1 and len(rows) == 6
    assert all(float(row[certified]) <= float(row[found]) + 1e-12
               and not math.isnan(float(row[found])) for row in rows)
    text = (tmp_path / "page.html").read_text()
    assert "an attack reached this" in text and "top_<wbr>k_<wbr>overlap(k=2)_<wbr>found" in text
    files = sorted(path.name for path in (tmp_path / "results").glob("eps-*/*attack*"))
    before = [(tmp_path / "results" / "eps-0.05" / name).stat().st_mtime_ns for name in files]
    assert len(files) == 2 and main(command) == 0  # again: nothing is done twice
    assert before == [(tmp_path / "results" / "eps-0.05" / name).stat().st_mtime_ns
                      for name in files]
