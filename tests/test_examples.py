"""The examples run, and what they print and draw is consistent."""

import contextlib
import gzip
import io
import runpy
from pathlib import Path

import numpy as np
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


def test_training_certifies_signs():
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        plain, certified = runpy.run_path(str(EXAMPLES / "train_certified.py"))["main"](["--epochs", "8"])
    for row, line in zip((plain, certified), printed.getvalue().splitlines()[1:], strict=True):
        assert line.split() == [row.label, f"{row.accuracy:.1%}", f"{row.majority:.1%}", f"{row.signs:.1%}"]
        assert row.accuracy > 0.9 > row.majority
    assert certified.signs > plain.signs and certified.accuracy > plain.accuracy - 0.02


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


@pytest.fixture(scope="module")
def boundary(tmp_path_factory):
    """What the example of boundary attributions returns, prints and saves, for a few examples and little training."""
    main = runpy.run_path(str(EXAMPLES / "boundary.py"))["main"]
    out = tmp_path_factory.mktemp("boundary") / "figure.png"
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as bars:
        rows = main(["--examples", "2", "--epochs", "8", "--out", str(out)])
    return rows, printed.getvalue().splitlines(), bars.getvalue(), out


def test_gaps_at_the_boundary_close(boundary):
    rows, _, _, _ = boundary
    standard, *robust = rows
    assert [row.label for row in rows] == ["standard", "adversarial", "smoothed"]
    for row in rows:
        assert row.accuracy > 0.75
        assert row.distance[0] >= row.distance[1] > 0
        for found, certified in row[3:]:
            assert 0 < found <= certified
    for row in robust:
        assert row.distance[0] > standard.distance[0] or row.distance[1] > standard.distance[1]
        assert row.gap[0] < standard.gap[0] and row.gap[1] < standard.gap[1]


def test_the_boundary_table_and_picture_are_what_is_returned(boundary):
    rows, lines, bars, out = boundary
    for line, row in zip(lines[-len(rows):], rows, strict=True):
        label, accuracy, *pairs = line.split()
        assert label == row.label and float(accuracy.rstrip("%")) == pytest.approx(100 * row.accuracy, abs=0.06)
        for printed, pair in zip(pairs, row[2:], strict=True):
            assert [float(number) for number in printed.split("/")] == pytest.approx(pair, abs=6e-4)
    assert "boundary search" in bars and "gradient" in bars
    height, width, _ = imread(out).shape
    assert 500 <= height <= 1500 and 1000 <= width <= 3000


def test_mnist_is_read_from_files_of_both_kinds(tmp_path):
    load = runpy.run_path(str(EXAMPLES / "boundary.py"))["load"]
    count = {"train": 3, "t10k": 2}
    pixels = {kind: np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8) for kind, n in count.items()}
    labels = {kind: np.arange(n, dtype=np.uint8) for kind, n in count.items()}
    for kind in count:
        for name, array in (("images-idx3", pixels[kind]), ("labels-idx1", labels[kind])):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (tmp_path / f"{kind}-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    np.savez(tmp_path / "mnist.npz", x_train=pixels["train"], x_test=pixels["t10k"], y_train=labels["train"],
             y_test=labels["t10k"])
    for path in (tmp_path, tmp_path / "mnist.npz"):
        train_images, test_images, train_labels, test_labels = load(path)
        assert train_images.shape == (3, 1, 28, 28) and test_images.shape == (2, 1, 28, 28)
        assert torch.equal((test_images[:, 0] * 255).round().byte(), torch.tensor(pixels["t10k"]))
        assert train_labels.tolist() == [0, 1, 2] and test_labels.tolist() == [0, 1]
