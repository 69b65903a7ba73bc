"""The pages for readers are true: their Python runs, their links lead somewhere, their tables are
the registries'.
"""

import importlib
import re
from pathlib import Path

import pytest
from auto_LiRPA.bound_op_map import bound_op_map

import lirpa_explain as lx
from lirpa_explain import tables
from lirpa_explain.operators import ACTIVATIONS
from lirpa_explain.training import LOSSES
from tests.test_architecture import FLOORS

ROOT = Path(__file__).parents[1]
GUIDE = sorted((ROOT / "examples" / "guide").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *GUIDE]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
WITHOUT_PYTHON = {"command_line", "supported"}
MADE = {"dataset": lambda names: len(names["certain"]) <= len(names["table"]) == 40}
"""What holds of the names that a page's Python leaves, beside what it asserts itself."""

EXTENSIBLE = (lx.METRICS, lx.METHODS, LOSSES, lx.OPERATORS, ACTIVATIONS, lx.ATTRIBUTIONS,
              bound_op_map)


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def prose(page):
    """The text of a page without its code."""
    return re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.S)


def anchors(page):
    """Those that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture
def tables_as_they_were():
    before = [dict(table) for table in EXTENSIBLE]
    yield
    for table, rows in zip(EXTENSIBLE, before, strict=True):
        for key in set(table) - set(rows):
            del table[key]


@pytest.mark.usefixtures("tables_as_they_were")
@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.stem)
def test_python_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    code = blocks(page.read_text(), "python")
    assert bool(code) == (page.stem not in WITHOUT_PYTHON)
    for block in code:
        exec(compile(block, page.name, "exec"), names)
    assert page.stem not in MADE or MADE[page.stem](names)


@each_page
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in links:
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            assert path.startswith("https://"), link
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists() and ROOT in there.parents, link
        assert not anchor or anchor in anchors(there), link


@each_page
def test_lines_are_no_longer_than_the_screen(page):
    """But for tables, commands and pictures, which cannot be broken."""
    text = re.sub(r"```(?!python)(\w+)\n.*?```", "", page.read_text(), flags=re.S)
    assert not [line for line in text.splitlines()
                if len(line) > 100 and not line.startswith(("|", "!["))]


def test_links_lead_from_the_readme_to_every_page():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            links = re.findall(r"\]\(([^)\s#]+\.md)", prose(page))
            waiting += [path
                        for link in links if (path := (page.parent / link).resolve()).is_file()]
    assert set(PAGES) - reached == set()


def test_tables_are_those_of_the_registries_each_in_one_place():
    found = []
    for page in PAGES:
        text = page.read_text()
        command = "python -m lirpa_explain.tables README.md examples/guide"
        assert tables.fill(text) == text, f"run `{command}`"
        found += re.findall(r"<!-- table: (\w+) -->", text)
    assert sorted(found) == sorted(tables.tables())


def test_modules_and_files_that_are_named_exist():
    """`lirpa_explain.x.y` can be imported or looked up, `tests/x.py` and `examples/x.py` are
    there.
    """
    for page in PAGES:
        for word in re.findall(r"`(lirpa_explain(?:\.\w+)+)", page.read_text()):
            parts = word.split(".")
            found = importlib.import_module(parts[0])
            for part in parts[1:]:
                if not hasattr(found, part):
                    importlib.import_module(f"{found.__name__}.{part}")
                found = getattr(found, part)
        for path in re.findall(r"`((?:tests|examples)/[\w/]+\.\w+)`", page.read_text()):
            assert (ROOT / path).is_file(), f"{page.name}: {path}"


def test_the_rooms_of_the_architecture_are_those_of_the_package():
    text = (ROOT / "examples" / "guide" / "architecture.md").read_text()
    lines = re.findall(r"^\| ((?:`\w+` ?)+)\|", text, re.M)
    assert [re.findall(r"`(\w+)`", line) for line in lines] == FLOORS[:-1]
