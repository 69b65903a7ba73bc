"""Docstrings say what their functions take, yield and raise.

What a function returns is often its one line ("The bounds of ..."), so that ruff's rule for that
does not fit.
"""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import lirpa_explain as lx

PACKAGE = Path(lx.__file__).parent
RULES = "DOC102,DOC402,DOC403,DOC501,D417"
MANY = 4
"""From so many arguments on, a public function says what each of them is."""


def public_functions(path):
    """Functions of a file without an underscore before their or their classes' names."""
    def within(node):
        for child in node.body:
            if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
                yield child
            elif isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                yield from within(child)

    return list(within(ast.parse(path.read_text())))


def test_public_functions_say_what_they_take_and_raise():
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--preview", "--select", RULES,
               "--output-format", "json", "--config", 'lint.pydocstyle.convention = "google"',
               str(PACKAGE)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    missing = []
    for entry in json.loads(result.stdout):
        path, line = Path(entry["filename"]), entry["location"]["row"]
        missing += [f"{path.relative_to(PACKAGE)}: {function.name}: {entry['message']}"
                    for function in public_functions(path)
                    if function.lineno <= line <= function.body[0].end_lineno]
    assert not missing, "say it in the docstring:\n" + "\n".join(missing)


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
    assert not found, "give a part a name, or write an if statement"
