"""Models that people explain: the table of examples/benchmarks/models.py, of which two rows are
tried each time.
"""

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "examples" / "benchmarks"))
models = importlib.import_module("models")

pytestmark = pytest.mark.filterwarnings("ignore")


def assert_certified(name):
    with torch.random.fork_rng():
        result = models.measure(models.MODELS[name], points=10)
    assert result["result"] == "certified"
    assert result["outside"] <= 1e-5 and math.isfinite(result["/ value"])


@pytest.mark.parametrize("name", ["additive mask", "scattered"])
def test_small_models_are_certified(name):
    assert_certified(name)


def test_a_refusal_is_a_line_of_the_table(monkeypatch, capsys, tmp_path):
    """Beside it a library that is not there, and the same as a file."""
    def spectrum():
        return models.Made(lambda x: torch.fft.rfft(x).abs(), (torch.rand(1, 4),))

    rows = {"spectrum": models.Row(spectrum),
            "of a library": models.Row(spectrum, library="no_such_library")}
    monkeypatch.setattr(models, "MODELS", rows)
    monkeypatch.setattr(models, "in_process", lambda name, row,
                        args: models.measure(row, args.points))
    lines = models.main(["--out", str(tmp_path / "table.csv")])
    assert [line[0] for line in lines] == list(rows)
    assert (lines[0][-1].startswith("UnsupportedOperation")
            and lines[1][-1] == "no_such_library is not installed")
    assert "of a library" in capsys.readouterr().out
    assert (tmp_path / "table.csv").read_text().splitlines()[0].startswith("model,library")


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_models_of_libraries_are_certified(name):
    if lacking := models.MODELS[name].missing():
        pytest.skip(f"{lacking} is not installed")
    assert_certified(name)
