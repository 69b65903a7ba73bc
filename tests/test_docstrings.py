"""Docstrings say what their functions take, yield and raise; files that do not yet are in a list
that only shrinks.

What a function returns is often its one line ("The bounds of ..."), so that ruff's rule for that
does not fit.
"""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lirpa_explain as lx

PACKAGE = Path(lx.__file__).parent
LIST = Path(__file__).with_name("docstrings.txt")
RULES = "DOC102,DOC402,DOC403,DOC501,D417"
MANY = 4
"""From so many arguments on, a public function says what each of them is."""

NESTED = {"bounding/ball.py", "graph/rules/arithmetic.py", "graph/rules/choices.py",
          "graph/rules/comparisons.py", "smoothing/keywords.py"}
"""Files that have a conditional expression within another; none may be added."""


def public_functions(path):
    """The functions of a file that have no underscore before their names, nor have their
    classes.
    """
    def within(node):
        for child in node.body:
            if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
                yield child
            elif isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                yield from within(child)

    return list(within(ast.parse(path.read_text())))


@pytest.fixture(scope="module")
def incomplete():
    """The files with public functions that break a rule, and where."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--preview", "--select", RULES,
               "--output-format",
               "json", "--config", 'lint.pydocstyle.convention = "google"', str(PACKAGE)]
    found = {}
    for entry in json.loads(
        subprocess.run(command, capture_output=True, text=True, check=False).stdout):
        path, line = Path(entry["filename"]), entry["location"]["row"]
        for function in public_functions(path):
            if function.lineno <= line <= function.body[0].end_lineno:
                name = path.relative_to(PACKAGE).as_posix()
                found.setdefault(name, []).append(f"{name}: {function.name}: {entry['message']}")
    return found


def test_the_list_of_incomplete_files_only_shrinks(incomplete):
    listed = set(LIST.read_text().split())
    added = [line for name in incomplete.keys() - listed for line in incomplete[name]]
    assert not added, "say it in the docstring:\n" + "\n".join(added)
    assert not listed - incomplete.keys(), f"complete by now; take it from {LIST.name}"


def test_what_is_public_is_complete(incomplete):
    files = {Path(inspect.getsourcefile(value)).relative_to(PACKAGE).as_posix()
             for name, value in vars(lx).items()
             if not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value))}
    assert {name: incomplete[name] for name in files & incomplete.keys()} == {}


def test_public_functions_of_many_arguments_describe_each():
    for name, value in vars(lx).items():
        if not inspect.isfunction(value) or name.startswith("_"):
            continue
        text = inspect.getdoc(value)
        arguments = [argument.lstrip("*") for argument in inspect.signature(value).parameters]
        if len(arguments) >= MANY:
            assert "Args:" in text, name
            assert [argument for argument in arguments if f"{argument}:" not in text] == [], name


def test_conditional_expressions_are_not_nested():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = [node.test, node.body, node.orelse] if isinstance(node, ast.IfExp) else []
            if any(isinstance(part, ast.IfExp) for part in parts):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == NESTED
