"""Some of the architectures of tests/fuzz.py, in which every attribution comes around.

`python -m tests.fuzz --count 2000` tries the others.
"""

import pytest
import torch
from captum.attr import NoiseTunnel

import lirpa_explain as lx
from lirpa_explain.graph.rules import RULES
from tests import fuzz, fuzz_problems

FIRST, COUNT = 59, 21


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_certificates_of_random_architectures(seed):
    for which in (0, 1):
        result = fuzz.run(seed, which)
        assert result.outcome not in fuzz.FAILURES, f"{result.outcome}: {result.text}"


def test_every_attribution_comes_around():
    assert (len(fuzz_problems.KINDS) <= 2 * COUNT
            and set(fuzz_problems.KINDS) == set(lx.ATTRIBUTIONS))
    inner = {type(getattr(a, "attribution_method", a)) for a in (
        fuzz.draw_problem(seed, which).attribution for seed in range(FIRST, FIRST + COUNT)
        for which in (0, 1))}
    assert inner >= set(lx.ATTRIBUTIONS) - {NoiseTunnel}


def test_a_seed_is_one_problem():
    first, again = fuzz.draw_problem(7, 0), fuzz.draw_problem(7, 0)
    assert str(first) == str(again)
    for a, b in zip(first.architecture.model.parameters(), again.architecture.model.parameters(),
                    strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("change", "outcome"), [
    (lambda c: c.upper.sub_(c.width), "outside"), (lambda c: c.nominal.add_(1), "differs")],
                         ids=["upper", "nominal"])
def test_a_wrong_certificate_is_found(monkeypatch, change, outcome):
    """Bounds that are too low above, and a nominal value that is not Captum's."""
    right = lx.certify

    def wrong(*args, **keywords):
        certificate = right(*args, **keywords)
        change(certificate)
        return certificate

    problem = next(p for p in (fuzz.draw_problem(seed, 1) for seed in range(100))
                   if type(p.attribution).__name__ == "Saliency" and p.eps > 1e-3
                   and fuzz.outcome_of(p, attacked=False)[0] == "certified")
    monkeypatch.setattr(lx, "certify", wrong)
    assert fuzz.outcome_of(problem, attacked=False)[0] == outcome


def test_tables_and_rules():
    """Counts by outcome, and the rules that no architecture reached."""
    results = [fuzz.Result(0, 0, "Saliency", "IBP", "certified",
                           rules={str(target) for target in RULES}),
               fuzz.Result(0, 1, "LRP", "CROWN", "crash", "text")]
    text = fuzz.report(results, 60.0)
    assert text.startswith("1 architectures, 2 certificates, 1 minutes") and "never: none" in text
    row = next(line for line in text.splitlines() if line.startswith("| LRP"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["LRP", "", "", "", "", "1", "", "",
                                                               ""]
