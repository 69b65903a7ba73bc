"""The examples run, and what they print and draw is consistent."""

import contextlib
import gzip
import importlib
import importlib.util
import io
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from auto_LiRPA.bound_op_map import bound_op_map
from matplotlib.image import imread

import lirpa_explain as lx
from lirpa_explain.operators import ACTIVATIONS

EXAMPLES = Path(__file__).parent.parent / "examples"
COUNT = 4


def test_an_activation_of_ones_own(monkeypatch):
    for table in (lx.OPERATORS, ACTIVATIONS, bound_op_map):  # as they were, afterwards
        for name in ("snake", "snake_gradient", "lirpa_explain::snake",
                     "lirpa_explain::snake_gradient"):
            monkeypatch.setitem(table, name, None)
            del table[name]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        certificate, sampled = runpy.run_path(str(EXAMPLES / "add_an_operator.py"))["main"]()
    assert (certificate.lower <= sampled).all() and (sampled <= certificate.upper).all()
    spread = (sampled.amax(0) - sampled.amin(0)).mean()
    assert spread < certificate.width.mean() < 3 * spread
    assert "100.0%" in printed.getvalue()


def without_arguments(name):
    """What the main function of an example returns that takes no options, and the lines it
    prints.
    """
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        result = runpy.run_path(str(EXAMPLES / name))["main"]()
    return result, printed.getvalue().splitlines()


def test_an_attribution_of_ones_own():
    before = set(lx.ATTRIBUTIONS)
    try:
        (certificate, sampled), lines = without_arguments("add_an_attribution.py")
    finally:
        for kind in set(lx.ATTRIBUTIONS) - before:
            del lx.ATTRIBUTIONS[kind]
    assert (certificate.lower <= sampled).all() and (sampled <= certificate.upper).all()
    spread = (sampled.amax(0) - sampled.amin(0)).mean()
    assert (spread < certificate.width.mean() < 6 * spread
            and certificate.attribution == "MeanGradient")
    assert "100.0%" in lines[0]


def test_a_metric_of_ones_own():
    assert "lead" not in lx.METRICS
    try:
        sides, lines = without_arguments("add_a_metric.py")
    finally:
        lx.METRICS.pop("lead", None)
    assert (0 < sides.found).all() and (sides.found <= sides.certified).all()
    assert len(lines) == 5 and "in 4 of 4 explanations" in lines[0]


def test_the_pictures_of_the_guide_are_drawn(tmp_path):
    """As they are stored, but for the digits that are chosen from and the patients."""
    certificate, certified, found = importlib.import_module("examples.picture").main(
        ["--examples", "3", "--epochs", "4", "--patients", "2", "--out", str(tmp_path)])
    assert len(certificate) == 1 and certificate.contains(certificate.nominal).all()
    assert (all(0 < low <= high for low, high in zip(found, certified, strict=True))
            and certified == sorted(certified))
    stored = {path.name for path in (EXAMPLES / "guide").glob("*.png")}
    assert stored == {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        height, width, _ = imread(path).shape
        assert (imread(EXAMPLES / "guide" / path.name).shape[0] == height
                and path.stat().st_size < 30_000)
        # names of features differ
        assert abs(imread(EXAMPLES / "guide" / path.name).shape[1] - width) < 200


def test_the_gallery_draws_a_row_for_each_attribution(tmp_path):
    out, names = tmp_path / "gallery.png", ["Saliency", "DeepLift", "GuidedGradCam", "LayerGradCam"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        certificates = runpy.run_path(str(EXAMPLES / "gallery.py"))["main"](["--out", str(out),
                                                                             "--only", *names])
    assert list(certificates) == names == [line.split()[0]
                                           for line in printed.getvalue().splitlines()]
    assert all(certificate.contains(certificate.nominal).all()
               for certificate in certificates.values())
    height, width, _ = imread(out).shape
    assert width == 880 and height == pytest.approx(80 * 2.1 * len(names), abs=2)


def test_training_certifies_signs():
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        plain, certified = runpy.run_path(str(EXAMPLES / "train_certified.py"))["main"](["--epochs",
                                                                                         "8"])
    for row, line in zip((plain, certified), printed.getvalue().splitlines()[1:], strict=True):
        assert line.split() == [row.label, f"{row.accuracy:.1%}", f"{row.majority:.1%}",
                                f"{row.signs:.1%}"]
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
    for (label, examples, signs, overlap, certified, sampled), row in zip(printed, rows,
                                                                          strict=True):
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
    """What the example of boundary attributions returns, prints and saves, for a few examples and
    little training.
    """
    main = runpy.run_path(str(EXAMPLES / "boundary.py"))["main"]
    out = tmp_path_factory.mktemp("boundary") / "figure.png"
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(
        io.StringIO()) as bars:
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
        assert (label == row.label
                and float(accuracy.rstrip("%")) == pytest.approx(100 * row.accuracy, abs=0.06))
        for printed, pair in zip(pairs, row[2:], strict=True):
            assert [float(number) for number in printed.split("/")] == pytest.approx(pair, abs=6e-4)
    assert "boundary search" in bars and "gradient" in bars
    height, width, _ = imread(out).shape
    assert 500 <= height <= 1500 and 1000 <= width <= 3000


def test_mnist_is_read_from_files_of_both_kinds(tmp_path):
    load = runpy.run_path(str(EXAMPLES / "boundary.py"))["load"]
    count = {"train": 3, "t10k": 2}
    pixels = {kind: np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
              for kind, n in count.items()}
    labels = {kind: np.arange(n, dtype=np.uint8) for kind, n in count.items()}
    for kind in count:
        for name, array in (("images-idx3", pixels[kind]), ("labels-idx1", labels[kind])):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big")
                                                             for size in array.shape)
            (tmp_path / f"{kind}-{name}-ubyte.gz").write_bytes(
                gzip.compress(header + array.tobytes()))
    np.savez(tmp_path / "mnist.npz", x_train=pixels["train"], x_test=pixels["t10k"],
             y_train=labels["train"], y_test=labels["t10k"])
    for path in (tmp_path, tmp_path / "mnist.npz"):
        train_images, test_images, train_labels, test_labels = load(path)
        assert train_images.shape == (3, 1, 28, 28) and test_images.shape == (2, 1, 28, 28)
        assert torch.equal((test_images[:, 0] * 255).round().byte(), torch.tensor(pixels["t10k"]))
        assert train_labels.tolist() == [0, 1, 2] and test_labels.tolist() == [0, 1]


def run(name, *arguments):
    """What the main function of an example returns, and the lines it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        result = runpy.run_path(str(EXAMPLES / name))["main"]([str(argument)
                                                               for argument in arguments])
    return result, printed.getvalue().splitlines()


def test_images_are_drawn_a_row_each(tmp_path):
    out = tmp_path / "images.png"
    (certificate, prediction), lines = run("images.py", "--examples", 2, "--epochs", 3, "--out",
                                           out)
    assert (len(lines) == len(prediction.classes) == 2
            and certificate.attribution == "InputXGradient")
    for line, label, certain in zip(lines, prediction.classes.tolist(), prediction.certain.tolist(),
                                    strict=True):
        assert f"called {label}" in line and ("certainly" in line) == certain
    assert (certificate.metric("cosine") > 0.7).all()
    height, width, _ = imread(out).shape
    assert height == pytest.approx(80 * 2.6 * 2, abs=2) and width > 800


def test_images_reads_mnist_from_a_folder(tmp_path):
    load = runpy.run_path(str(EXAMPLES / "images.py"))["load"]
    for kind, n in (("train", 3), ("t10k", 2)):
        pixels, labels = np.full((n, 28, 28), n, np.uint8), np.arange(n, dtype=np.uint8)
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big")
                                                             for size in array.shape)
            (tmp_path / f"{kind}-{name}-ubyte.gz").write_bytes(
                gzip.compress(header + array.tobytes()))
    train_images, test_images, train_labels, test_labels = load(tmp_path)
    assert train_images.shape == (3, 1, 28, 28) and test_images.shape == (2, 1, 28, 28)
    assert ((train_images == 3 / 255).all() and train_labels.tolist() == [0, 1, 2]
            and test_labels.tolist() == [0, 1])


def test_radii_are_bracketed_and_broken_beyond(tmp_path):
    out = tmp_path / "radius.png"
    rows, lines = run("radius.py", "--examples", 2, "--steps", 3, "--out", out)
    for row, line in zip(rows, lines[-len(rows):], strict=True):
        assert line.startswith(row.words) and f"{row.certified[0]:.4f}, {row.fails[0]:.4f}" in line
        assert (row.certified < row.fails).all() and (row.certified < row.broken).all()
    assert any((row.certified > 0).any() for row in rows) and any(row.broken.isfinite().any()
                                                                  for row in rows)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_what_is_sampled_is_below_what_is_attacked_and_certified():
    """With Quantus' metrics too, where it is installed."""
    rows, lines = run("sandwich.py", "--examples", 3, "--samples", 10)
    assert len(rows) == 1 + 3 * (importlib.util.find_spec("quantus") is not None)
    for row, line in zip(rows, lines[-len(rows):], strict=True):
        assert line.startswith(row.label)
        assert ((row.sampled <= row.attacked * (1 + 1e-4)).all()
                and (row.attacked <= row.certified * (1 + 1e-4)).all())
        assert row.attacked.mean() > 0


PEOPLE = """\
39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, Cuba, <=50K
52, Private, 83311, Masters, 14, Married-civ-spouse, Sales, Husband, White, Male, 15024, 0, 45, United-States, >50K
28, ?, 338409, HS-grad, 9, Divorced, Sales, Unmarried, Black, Female, 0, 0, 40, United-States, <=50K
37, Private, 284582, Masters, 14, Married-civ-spouse, Sales, Wife, Black, Female, 0, 0, 40, United-States, >50K
"""  # noqa: E501


@pytest.fixture
def adult(tmp_path):
    """A folder with a few invented records in UCI's format, whose test file starts with a comment
    and ends in dots.
    """
    (tmp_path / "adult.data.gz").write_bytes(gzip.compress((PEOPLE * 8 + "\n").encode()))
    dotted = "|1x3 Cross validator\n" + PEOPLE.replace("50K\n", "50K.\n")
    (tmp_path / "adult.test.gz").write_bytes(gzip.compress(dotted.encode()))
    return tmp_path


def test_adult_is_read_as_numbers(adult):
    table = runpy.run_path(str(EXAMPLES / "tabular_fairness.py"))["read_adult"](adult)
    (x, labels), (test, test_labels) = table.training, table.test
    assert x.shape == (24, len(table.names)) and test.shape == (3, len(table.names))
    assert labels[:3].tolist() == test_labels.tolist() == [0, 1, 1] and torch.equal(x[:3], test)
    row = dict(zip(table.names, test[2].tolist(), strict=True))
    assert (row["age"] == 37 and row["sex: Female"] == 1 and row["sex: Male"] == 0
            and row["education: Masters"] == 1)
    chosen = [name for name, is_protected in zip(table.names, table.protected, strict=True)
              if is_protected]
    assert chosen == ["race: Black", "race: White", "sex: Female", "sex: Male"]
    assert [name
            for name, is_number in zip(table.names, table.numerical, strict=True) if is_number] == [
                "age", "education-num", "capital-gain", "capital-loss", "hours-per-week"]


@pytest.mark.parametrize("data", ["cancer", "adult"])
def test_fairness_is_certified_beside_the_label(data, adult, tmp_path):
    out = tmp_path / "fair.png"
    rows, lines = run("tabular_fairness.py", "--examples", 12, "--out", out,
                      *(["--data", adult] * (data == "adult")))
    assert ("stand-in" in lines[0]) == (data == "cancer")
    for row, line in zip(rows, lines[-len(rows):], strict=True):
        assert f"{row.fair:.1%}" in line.split()
        assert 0 <= row.both <= min(row.label, row.fair) <= 1 and row.fair + row.broken <= 1 + 1e-6
    assert [row.fair for row in rows] == sorted((row.fair for row in rows), reverse=True)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_report_shows_each_patient(tmp_path):
    page = tmp_path / "page.html"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        certificates = runpy.run_path(str(EXAMPLES / "report.py"))["main"](
            ["--examples", "2", "--eps", "0.005", "0.02", "--out", str(page)])
    assert list(certificates) == [0.005, 0.02]
    assert (certificates[0.005].width < certificates[0.02].width).any()
    text = page.read_text()
    assert (text.count("<details") >= 2 and "worst concave points" in text
            and str(page) in printed.getvalue())
