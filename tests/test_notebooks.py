"""The notebooks of the guide: their code runs, and what is stored in them is small, whole, and of
no machine.
"""

import json
import re
from pathlib import Path

import matplotlib
import pytest
import torch

GUIDE = Path(__file__).parents[1] / "examples" / "guide"
NOTEBOOKS = sorted(GUIDE.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def settings_as_they_were():
    threads = torch.get_num_threads()
    with matplotlib.rc_context():
        yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("settings_as_they_were")
@each_notebook
def test_code_runs(path, tmp_path, monkeypatch):
    """Without a kernel, which takes longer than the code."""
    monkeypatch.chdir(tmp_path)
    shown = []
    names = {"__name__": path.stem, "display": shown.append}
    for cell in code_cells(path):
        code = "".join(line for line in cell["source"] if not line.startswith("%"))
        exec(compile(code, path.name, "exec"), names)


@pytest.mark.slow
@each_notebook
def test_a_kernel_runs_it(path):
    import nbformat
    from nbclient import NotebookClient

    NotebookClient(nbformat.read(path, as_version=4), timeout=300, kernel_name="python3").execute()


@each_notebook
def test_what_is_stored(path):
    text = path.read_text()
    outputs = [output for cell in code_cells(path) for output in cell["outputs"]]
    assert len(text) < 100_000
    assert all(cell["execution_count"] == i + 1 for i, cell in enumerate(code_cells(path)))
    assert not [output for output in outputs
                if output["output_type"] == "error" or output.get("name") == "stderr"]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert pictures and not re.search(r"/(home|root|tmp|usr|Users)/", text)
    links = re.findall(r"\]\(([\w./]+)\)", text)
    assert links and all((GUIDE / link).is_file() for link in links)
