"""Importing without auto_LiRPA says how to get it; importing with it leaves nothing behind."""

import subprocess
import sys
import warnings

import pytest

import lirpa_explain as lx
from lirpa_explain import compat


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


HIDE = ("import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'auto_LiRPA' else find(name, *a)\n")


def test_without_auto_lirpa_the_command_line_says_one_line():
    result = run(f"import sys; sys.argv = ['/usr/bin/lirpa-explain', 'doctor']\n{HIDE}import "
                 "lirpa_explain.cli")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert (result.stderr.startswith("lirpa-explain: ")
            and "pip install --no-deps auto_LiRPA" in result.stderr)
    assert "torch " in result.stdout and "Python " in result.stdout


def test_without_auto_lirpa_the_import_says_how_to_get_it():
    result = run(HIDE + "import lirpa_explain")
    assert result.returncode == 1 and "ImportError" in result.stderr
    assert len(result.stderr.split("ImportError: ")[1].splitlines()) == 1
    assert "pip install --no-deps auto_LiRPA==0.3" in result.stderr
    assert ("pip install --no-deps git+https://github.com/Verified-Intelligence/auto_LiRPA.git"
            in result.stderr)


def test_the_import_leaves_the_process_as_it_was():
    """Neither stand-ins for removed modules nor changed warning filters, and nothing on the
    terminal.
    """
    result = run("import warnings, sys, torch, numpy, captum.attr\nbefore = "
                 "list(warnings.filters)\nimport lirpa_explain\nassert warnings.filters == before, "
                 "warnings.filters\nimport torch.onnx.symbolic_helper as s\nassert not hasattr(s, "
                 "'_set_opset_version')\nassert 'numpy.lib.arraysetops' not in sys.modules")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert "lirpa" not in result.stderr.lower()


def test_parsing_restores_the_exporter():
    settings = compat.exporter_globals()
    before, filters = settings.autograd_inlining, list(warnings.filters)
    with pytest.raises(ZeroDivisionError), compat.parsing():
        assert settings.autograd_inlining is False
        raise ZeroDivisionError
    assert settings.autograd_inlining == before and warnings.filters == filters


def test_the_versions_are_named():
    assert lx.AUTO_LIRPA_VERSION.split(".")[0] == "0"
    assert lx.__version__.count(".") == 2
