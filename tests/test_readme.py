"""README is true: its Python runs, and commands, its own and the guide's, are the ones that are
tested.
"""

import re
import shlex
import sys
from pathlib import Path

import torch

from lirpa_explain import __version__, compat
from lirpa_explain.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDE = ROOT / "examples" / "guide"


def blocks(text):
    """Pairs of a language and code."""
    return re.findall(r"```(\w+)\n(.*?)```", text, re.S)


def shell(text):
    return [code for language, code in blocks(text) if language == "sh"]


def test_python_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    for code in [code for language, code in blocks(README) if language == "python"]:
        exec(compile(code, "README.md", "exec"), names)
    assert "Certificate of IntegratedGradients" in capsys.readouterr().out
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_commands_run(tmp_path, monkeypatch, capsys):
    """With the files that the text names; every command says that all is well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "nets.py").write_text("import torch\n\n\ndef make_net():\n    return "
                                      "torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), "
                                      "torch.nn.Linear(8, 2))\n")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    torch.save(net.state_dict(), "net.pt")
    (tmp_path / "data.csv").write_text("a,b,c,label\n0.1,0.5,0.9,0\n0.7,0.2,0.4,1\n")
    for line in shell((GUIDE / "command_line.md").read_text())[0].replace("\\\n", "").splitlines():
        command, *arguments = shlex.split(line)
        assert command == "lirpa-explain"
        assert main(arguments) == 0, capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} >= {"results", "checked", "attacked",
                                                          "curve.png"}
    assert (tmp_path / "results" / "report.html").stat().st_size > 10_000


def test_the_console_script_is_that_main():
    text = (ROOT / "setup.cfg").read_text()
    assert re.search(r"^    lirpa-explain = lirpa_explain.cli:main$", text, re.M) and callable(main)


def test_shell_blocks_are_the_commands_that_are_run_elsewhere():
    """.ci/run executes the test command; the examples are run by test_examples; auto_LiRPA's are
    the error's.
    """
    assert {language for language, _ in blocks(README)} == {"sh", "python"}
    quickstart, test = shell(README)
    auto_lirpa = shell((GUIDE / "supported.md").read_text())
    install = "python3 -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt "
    assert quickstart.startswith(install) and test.startswith(install)
    assert (ROOT / shlex.split(quickstart)[-1]).is_file()
    assert ("<!-- test -->\n```sh\n" + test in README
            and "<!-- test -->" in (ROOT / ".ci" / "run").read_text())
    for command in auto_lirpa:
        for part in command.strip().split(" && "):
            assert part in compat.INSTALL_AUTO_LIRPA


def test_the_version_is_written_once_and_cited():
    assert "version = attr: lirpa_explain.version.__version__\n" in (ROOT / "setup.cfg").read_text()
    assert f"\nversion: {__version__}\n" in (ROOT / ".github" / "CITATION.cff").read_text()
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_constraints_cover_what_is_installed():
    """Every requirement of the package and of its extras has the version that is tested."""
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in constraints if "==" in line}
    text = (ROOT / "setup.cfg").read_text()
    listed = text[text.index("install_requires"): text.index("[options.packages.find]")] + \
        text[text.index("[options.extras_require]"): text.index("[tool:pytest]")]
    required = {re.split(r"[><=]", line.strip())[0].lower() for line in listed.splitlines()
                if line.startswith("    ")}
    assert required <= pinned
