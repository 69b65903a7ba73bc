"""The pages of the guide are true: their Python runs, block after block."""

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "examples" / "guide").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    assert blocks
    for code in blocks:
        exec(compile(code, page.name, "exec"), names)
