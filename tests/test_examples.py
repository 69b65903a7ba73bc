"""The examples run, and what they print and draw is consistent."""

import contextlib
import io
import runpy
from pathlib import Path

import pytest
import torch
from auto_LiRPA.bound_op_map import bound_op_map
from matplotlib.image import imread

import lirpa_explain as lx

EXAMPLES = Path(__file__).parent.parent / "examples"
COUNT = 4


def test_an_activation_of_ones_own(monkeypatch):
    for table in (lx.OPERATORS, bound_op_map):  # as they were, afterwards
        for name in ("snake", "snake_gradient", "lirpa_explain::snake", "lirpa_explain::snake_gradient"):
            monkeypatch.setitem(table, name, None)
            del table[name]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        certificate, sampled = runpy.run_path(str(EXAMPLES / "add_an_operator.py"))["main"]()
    assert (certificate.lower <= sampled).all() and (sampled <= certificate.upper).all()
    spread = (sampled.amax(0) - sampled.amin(0)).mean()
    assert spread < certificate.width.mean() < 3 * spread
    assert "100.0%" in printed.getvalue()


def test_the_gallery_draws_a_row_for_each_attribution(tmp_path):
    out, names = tmp_path / "gallery.png", ["Saliency", "DeepLift", "GuidedGradCam", "LayerGradCam"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        certificates = runpy.run_path(str(EXAMPLES / "gallery.py"))["main"](["--out", str(out), "--only", *names])
    assert list(certificates) == names == [line.split()[0] for line in printed.getvalue().splitlines()]
    assert all(certificate.contains(certificate.nominal).all() for certificate in certificates.values())
    height, width, _ = imread(out).shape
    assert width == 880 and height == pytest.approx(80 * 2.1 * len(names), abs=2)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """What the quickstart returns, prints and saves, for a few examples."""
    main = runpy.run_path(str(EXAMPLES / "quickstart.py"))["main"]
    out = tmp_path_factory.mktemp("quickstart") / "figure.png"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the script does
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            rows = main(["--examples", str(COUNT), "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    return rows, printed.getvalue().splitlines(), out


def test_the_figures_of_the_table_are_consistent(quickstart):
    rows, _, _ = quickstart
    *classes, total = rows
    assert total.label == "all"
    assert total.examples == sum(row.examples for row in classes) == COUNT
    for row in rows:
        assert 0 < row.sampled <= row.certified
        assert 0 <= row.overlap <= 5
        assert 0.5 < row.signs <= 1  # a certificate that says little would be no example
    assert total.overlap == min(row.overlap for row in classes)
    assert total.certified == max(row.certified for row in classes)
    assert total.sampled == max(row.sampled for row in classes)


def test_the_printed_table_is_what_is_returned(quickstart):
    rows, lines, _ = quickstart
    accuracy = next(line for line in lines if line.startswith("test accuracy"))
    assert float(accuracy.removeprefix("test accuracy").rstrip("%")) >= 95
    start = 1 + next(i for i, line in enumerate(lines) if line.startswith("class"))
    printed = [line.split() for line in lines[start:] if line]
    assert len(printed) == len(rows)
    for (label, examples, signs, overlap, certified, sampled), row in zip(printed, rows, strict=True):
        assert (label, int(examples), int(overlap)) == (row.label, row.examples, row.overlap)
        assert float(signs.rstrip("%")) == pytest.approx(100 * row.signs, abs=0.06)
        assert float(certified) == pytest.approx(row.certified, abs=1e-4)
        assert float(sampled) == pytest.approx(row.sampled, abs=1e-4)


def test_the_picture_is_saved(quickstart):
    _, _, out = quickstart
    assert out.read_bytes().startswith(b"\x89PNG")
    height, width, _ = imread(out).shape
    assert 200 <= height <= 1000
    assert 800 <= width <= 3000
    assert 5_000 < out.stat().st_size < 500_000
