"""alpha-beta-CROWN itself on our questions: LIRPA_EXPLAIN_ABCROWN names the folder
complete_verifier of a checkout.

The Python that runs the tests must have what the checkout needs, its auto_LiRPA among it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.truth import sample_box

FOLDER = os.environ.get("LIRPA_EXPLAIN_ABCROWN")
ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "alpha_beta_crown"

#: Question, configuration -> what it must say.
ANSWERS = {
    ("iris-top", "crown"): "safe-incomplete",
    ("iris-protected", "crown"): "safe-incomplete",
    ("iris-sign", "input_split"): "safe",
    ("iris-above", "input_split"): "safe",
    ("iris-near", "input_split"): "safe",
    ("iris-broken", "input_split"): "unsafe-bab",
}


@pytest.fixture
def questions(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import attributions

    return attributions


@pytest.mark.slow
@pytest.mark.skipif(FOLDER is None, reason="LIRPA_EXPLAIN_ABCROWN names no folder")
@pytest.mark.parametrize(("name", "configuration"), ANSWERS)
def test_it_answers_questions_about_attributions(name, configuration, questions, tmp_path):
    asked = questions.QUESTIONS[name]
    query = tmp_path / f"{name}.vnnlib"
    query.write_text(asked.module().vnnlib(eps=asked.eps, clip=(0, 1)))
    entry = f'Customized({str(EXAMPLE / "attributions.py")!r}, "question", {name!r})'
    command = [sys.executable, "abcrown.py", "--config", str(EXAMPLE / f"{configuration}.yaml"),
               "--model", entry,
               "--input_shape", *map(str, asked.inputs.shape), "--vnnlib_path", str(query),
               "--results_file", str(tmp_path / "out.txt")]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    told = subprocess.run(command, cwd=str(FOLDER), env=os.environ | {"PYTHONPATH": paths},
                          capture_output=True, text=True, check=False, timeout=300)
    answer = re.search(r"Result: (\S+)", told.stdout)
    assert answer is not None, told.stdout[-2000:] + told.stderr[-2000:]
    assert answer[1] == ANSWERS[name, configuration]


@pytest.mark.slow
def test_the_questions_are_what_captum_computes(questions):
    """Whatever answers them: the margins, with torch's ReLUs, are those of Captum's attribution at
    any point.
    """
    for asked in questions.QUESTIONS.values():
        x, model = asked.inputs, questions.trained(asked.network)[0]
        module = asked.module()
        assert bool((module(x) > 0).all())
        for point in sample_box(x - asked.eps, x + asked.eps, 5, torch.Generator().manual_seed(0)):
            captum = asked.attribution(model).attribute(point, **asked.keywords).detach().flatten(1)
            torch.testing.assert_close(module(point), module.margins(captum), rtol=1e-4, atol=1e-4)
