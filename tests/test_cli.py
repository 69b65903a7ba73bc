"""The command line: what it writes is what the library computes; it resumes; bad input is one line
that helps.
"""

import contextlib
import csv
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import (
    FeaturePermutation,
    GradientShap,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from PIL import Image

import lirpa_explain as lx
from lirpa_explain.attacks.search import Search
from lirpa_explain.attributions import ATTRIBUTIONS
from lirpa_explain.cli import main, portions
from lirpa_explain.cli.doctor import is_right
from lirpa_explain.cli.job import Job
from lirpa_explain.cli.model import make_attribution
from lirpa_explain.cli.store import Store, once
from lirpa_explain.cli.values import call, value
from lirpa_explain.datasets.folder import digest
from lirpa_explain.smoothing.draws import Drawer
from tests.test_datasets import Copied

NETS = '''
import os
import signal
import torch
from torch import nn

def table():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

def image():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))

module = table()
number = 5

def fails():
    raise RuntimeError("no weights\\nhere")

def returns_none():
    return None

replace = os.replace

def die_at_second(source, destination):
    """Stands in for os.replace: the process is killed when the second chunk is written but has no
    name yet."""
    if destination.name.startswith("00002-"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, destination)

if os.path.exists("kill"):
    os.replace = die_at_second
'''

BASE = ["certify", "--model", "cli_nets:table", "--attribution", "Saliency", "--set", "abs=False",
        "--quiet"]


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    """A current directory with models, weights, and inputs of every kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "cli_nets.py").write_text(NETS)
    (tmp_path / "broken.py").write_text("import torch\n\nx = 1 / 0\n")
    rows = np.random.default_rng(0).random((5, 4))
    np.save("x.npy", rows)
    np.savez("two.npz", a=rows, b=2 * rows)
    np.save("labels.npy", np.array([0, 1, 2, 1, 0]))
    np.save("words.npy", np.array(["a", 1], dtype=object), allow_pickle=True)
    with open("x.csv", "w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c", "d", "y"],
                                    *([*row, i % 3] for i, row in enumerate(rows.tolist()))])
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n3,high\n")
    os.mkdir("images")
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"images/{i}.png")
    return tmp_path


@pytest.fixture()
def nets(folder):
    """The module of the models, as a user would import it."""
    sys.path.insert(0, str(folder))
    return importlib.import_module("cli_nets")


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def load(folder, eps, *names):
    return [lx.Certificate.load(Path(folder) / f"eps-{eps!r}" / f"{name}.npz") for name in names]


def test_certificates_and_metrics_are_the_librarys(folder, nets, capsys):
    torch.save(torch.nn.Linear(4, 3).state_dict(), "other.pt")
    other = nets.table()
    torch.nn.init.constant_(other[0].bias, 0.1)
    torch.save(other.state_dict(), "net.pt")
    arguments = [*BASE, "--inputs", "x.csv", "--target", "column:y", "--eps", "0.01", "1/8",
                 "--state-dict", "net.pt",
                 "--dtype", "float64", "--clip", "0", "1", "--chunk", "3", "--out", "out",
                 "--prediction", "--metric", "top_k_overlap:k=2", "--metric", "cosine"]
    assert main(arguments) == 0
    x, y = torch.from_numpy(np.load("x.npy")), torch.tensor([0, 1, 2, 0, 1])
    written = rows_of("out/metrics.csv")
    for i, eps in enumerate((0.01, 0.125)):
        expected = lx.certify(Saliency(other.double().eval()), x, eps=eps, clip=(0, 1), target=y,
                              abs=False)
        saved = load("out", eps, "00000-00002", "00003-00004")
        for side in ("lower", "nominal", "upper"):
            torch.testing.assert_close(torch.cat([getattr(part, side) for part in saved]),
                                       getattr(expected, side), rtol=1e-9, atol=1e-12)
        prediction = lx.certify_prediction(other, x, eps=eps, clip=(0, 1))
        for n, row in enumerate(written[5 * i: 5 * i + 5]):
            assert (int(row["example"]), int(row["target"]), float(row["eps"])) == (n, int(y[n]),
                                                                                    eps)
            assert int(row["top_k_overlap(k=2)"]) == int(expected.top_k_overlap(2)[n])
            assert float(row["cosine"]) == pytest.approx(float(expected.metric("cosine")[n]),
                                                         rel=1e-9)
            assert row["prediction"] == str(bool(prediction.certain[n]))
            assert float(row["confidence_lower"]) == pytest.approx(
                float(prediction.confidence_lower[n]), rel=1e-9)
    assert len(written) == 10
    assert capsys.readouterr() == ("", "")
    assert main([*arguments, "--out", "other", "--state-dict", "other.pt"]) == 2
    assert "do not fit the model" in capsys.readouterr().err


def test_refining_says_what_share_is_decided(folder, nets, capsys):
    arguments = [*BASE, "--inputs", "x.npy", "--eps", "0.3", "--dtype", "float64", "--out",
                 "refined", "--target", "0"]
    assert main([*arguments, "--refine", "sign", "--seconds", "20"]) == 0
    x = torch.from_numpy(np.load("x.npy"))
    plain = lx.certify(Saliency(nets.table().double().eval()), x, eps=0.3, target=0, abs=False)
    saved, = load("refined", 0.3, "00000-00004")
    assert bool((saved.lower >= plain.lower).all() and (saved.upper <= plain.upper).all())
    asked = (saved.rows != 0).any(2)
    assert torch.equal(asked.sum(1), (plain.sign() == 0).sum(1))
    for n, row in enumerate(rows_of("refined/metrics.csv")):
        share = float((saved.decided[n][asked[n]] != 0).double().mean()) if asked[n].any() else 1.0
        assert float(row["decided"]) == pytest.approx(share)
    assert main([*arguments, "--refine", "sign", "--seconds", "-1"]) == 2
    assert "seconds" in capsys.readouterr().err


def test_the_summary_has_the_means(folder, capsys):
    assert main([*[a for a in BASE if a != "--quiet"], "--inputs", "x.npy", "--eps", "0.1", "--out",
                 "out", "--metric", "linf"]) == 0
    header, line = capsys.readouterr().out.splitlines()[1:3]
    mean = np.mean([float(row["linf"]) for row in rows_of("out/metrics.csv")])
    assert dict(zip(header.split(), line.split(), strict=True))["linf"] == f"{mean:.4g}"


def test_examples_that_depend_on_each_other_are_in_one_file(folder, nets, capsys):
    arguments = ["certify", "--model", "cli_nets:table", "--attribution", "FeaturePermutation",
                 "--inputs", "x.npy",
                 "--eps", "0.1", "--seed", "4", "--target", "1", "--quiet", "--out", "out"]
    assert main([*arguments, "--chunk", "4"]) == 2 and "give --chunk 5" in capsys.readouterr().err
    assert main(arguments) == 0
    model = nets.table().eval()
    torch.manual_seed(4)
    expected = FeaturePermutation(model).attribute(torch.from_numpy(np.load("x.npy")).float(),
                                                   target=1)
    torch.testing.assert_close(load("out", 0.1, "00000-00004")[0].nominal, expected)


def test_noise_depends_on_the_seed_alone_and_predicted_classes_are_explained(folder, nets):
    model = nets.table().eval()
    arguments = ["--noise-tunnel", "--set", "nt_samples=2", "--set", "stdevs=0.1", "--inputs",
                 "x.npy", "--eps", "0.05", "--seed", "7", "--chunk", "4"]
    assert main([*BASE, *arguments, "--out", "out"]) == 0
    x = torch.from_numpy(np.load("x.npy")).float()
    for start, name in ((0, "00000-00003"), (4, "00004-00004")):
        torch.manual_seed(7 + start)
        part = x[start: start + 4]
        expected = NoiseTunnel(Saliency(model)).attribute(part, nt_samples=2, stdevs=0.1, abs=False,
                                                          target=model(part).argmax(1))
        torch.testing.assert_close(load("out", 0.05, name)[0].nominal, expected)
    before = torch.random.get_rng_state()
    assert main([*BASE, *arguments, "--model", "cli_nets:module", "--out", "again"]) == 0
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(*[load(out, 0.05, "00000-00003")[0].upper for out in ("out", "again")])


@pytest.mark.parametrize(("arguments", "make", "keywords"), [
    (["--attribution", "IntegratedGradients", "--set", "n_steps=3", "--set",
      "multiply_by_inputs=False"],
     lambda net: IntegratedGradients(net, multiply_by_inputs=False), {"n_steps": 3}),
    (["--attribution", "LayerGradCam", "--layer", "0", "--set", "relu_attributions=True"],
     lambda net: LayerGradCam(net, net[0]), {"relu_attributions": True}),
])
def test_images_and_keywords_of_classes(folder, nets, arguments, make, keywords):
    assert main([*BASE[:1], "--model", "cli_nets:image", *arguments, "--inputs", "images",
                 "--target", "1", "--eps", "1/255", "--out", "out", "--quiet"]) == 0
    pixels = np.stack([np.asarray(Image.open(f"images/{i}.png")) for i in range(2)])
    x = torch.from_numpy(pixels / 255).movedim(-1, 1).float()
    expected = lx.certify(make(nets.image().eval()), x, eps=1 / 255, target=1, **keywords)
    saved, = load("out", 1 / 255, "00000-00001")
    torch.testing.assert_close(saved.lower, expected.lower)
    torch.testing.assert_close(saved.nominal, expected.nominal)
    assert [row["name"] for row in rows_of("out/metrics.csv")] == ["0.png", "1.png"]


def test_arrays_from_files_are_keywords_and_settings(folder, nets):
    np.save("baselines.npy", np.random.default_rng(1).random((3, 4)))
    np.save("mask.npy", np.array([True, False, False, True]))
    assert main(["certify", "--model", "cli_nets:module", "--attribution", "GradientShap",
                 "--inputs", "two.npz", "--array", "b", "--examples", "1:3", "--target",
                 "labels.npy", "--set", "baselines=@baselines.npy", "--set", "n_samples=2", "--eps",
                 "0.01", "--metric", "share_upper:mask=@mask.npy", "--out", "out", "--quiet"]) == 0
    torch.manual_seed(0)
    np.random.seed(0)
    x = torch.from_numpy(2 * np.load("x.npy")).float()[1:3]
    expected = lx.certify(GradientShap(nets.table().eval()), x, eps=0.01,
                          target=torch.tensor([1, 2]), n_samples=2,
                          baselines=torch.from_numpy(np.load("baselines.npy")).float())
    share = expected.metric("share_upper", mask=torch.tensor([True, False, False, True])).tolist()
    written = [float(row["share_upper(mask=...)"]) for row in rows_of("out/metrics.csv")]
    assert written == pytest.approx(share, rel=1e-5)


def test_every_class_can_be_made():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.ReLU())
    for kind in ATTRIBUTIONS.keys() - {NoiseTunnel}:
        layer = "0" if kind.__name__.startswith(("Layer", "Neuron", "Internal",
                                                 "GuidedGradCam")) else None
        made, rest = make_attribution(kind.__name__, model, layer, False, {"n_steps": 5})
        assert type(made) is kind and rest == {"n_steps": 5}
        assert getattr(getattr(made, "grad_cam", made), "layer", None) is (None if layer is None
                                                                           else model[0])
        tunnel, _ = make_attribution(kind.__name__, model, layer, True, {})
        assert type(tunnel) is NoiseTunnel and type(tunnel.attribution_method) is kind


@pytest.mark.parametrize(("requirement", "share", "code"), [
    ("cosine >= -1", "1", 0), ("cosine >= 1.01", "1", 1), ("cosine >= 1.01", "0", 0),
    ("linf <= 1000", "1", 0),
    ("top_k_overlap:k=2 >= 3", "0.5", 1), ("prediction", "1", 1), ("prediction", "0.2", 0),
])
def test_requirements(folder, nets, capsys, requirement, share, code):
    """Of the five predictions two are certain at this radius."""
    eps = 0.25
    assert main([*BASE, "--inputs", "x.npy", "--eps", str(eps), "--out", "out", "--require",
                 requirement, "--require-share", share]) == code
    told = capsys.readouterr().out
    if code == 0:
        assert told == ""
    elif requirement == "prediction":
        x = torch.from_numpy(np.load("x.npy")).float()
        certain = lx.certify_prediction(nets.table().eval(), x, eps=eps).certain
        assert 0.2 <= certain.float().mean() < 1
        failing = ", ".join(str(i) for i in range(5) if not certain[i])
        assert (told.strip() == "prediction is not certified at eps 0.25 for "
                f"{5 - int(certain.sum())} of 5 examples: {failing}")
    else:
        assert (told.strip() == f"{requirement} is not certified at eps 0.25 for 5 of 5 examples: "
                "0, 1, 2, 3, 4")


def test_an_interrupted_run_resumes(folder, monkeypatch, capsys):
    arguments = [*BASE, "--inputs", "x.npy", "--eps", "0.1", "--chunk", "2", "--out", "out"]
    certify, done = Job.certify, []

    def stopped(self, eps, rows):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(rows)
        return certify(self, eps, rows)

    monkeypatch.setattr(Job, "certify", stopped)
    assert main(arguments) == 130
    assert (capsys.readouterr().err == "lirpa-explain: Interrupted: 2 of 3 parts are done. The "
            "same command resumes.\n")
    assert not Path("out/metrics.csv").exists()
    done.clear()
    assert main(arguments) == 0
    assert done == [slice(4, 5)]
    # of a further radius
    assert main([*arguments, "--eps", "0.1", "0.2"]) == 130 and done[1:] == [slice(0, 2)]
    assert len(rows_of("out/metrics.csv")) == 5


def test_a_killed_process_leaves_no_half_file_and_resumes(folder):
    arguments = ["certify", "--model", "cli_nets:table", "--attribution", "InputXGradient",
                 "--inputs", "x.npy", "--eps", "0.1", "--chunk", "2", "--quiet", "--out"]
    (folder / "kill").touch()
    environment = {**os.environ, "PYTHONPATH": str(Path(lx.__file__).parents[1]),
                   "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-m", "lirpa_explain", *arguments, "out"],
                            env=environment, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    first = folder / "out" / "eps-0.1" / "00000-00001.npz"
    assert [path.name for path in first.parent.glob("*.npz")] == [first.name]
    assert list(first.parent.glob(".00002-00003*.tmp"))  # written, but without its name
    written = first.stat().st_mtime_ns
    (folder / "kill").unlink()
    assert main([*arguments, "out"]) == main([*arguments, "whole"]) == 0
    assert first.stat().st_mtime_ns == written
    assert Path("out/metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()


@pytest.mark.parametrize(("change", "names"), [
    (["--norm", "2"], ["--norm (inf there, 2 now)"]),
    (["--set", "abs=True"], ["--set abs (False there, True now)"]),
    (["--examples", "2"], ["inputs", "targets"]),
    (["--model", "cli_nets:fresh"], ["weights of the model"]),
])
def test_a_changed_setting_is_refused_and_restart_replaces(folder, nets, capsys, monkeypatch,
                                                           change, names):
    monkeypatch.setattr(nets, "fresh",
                        lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(),
                                                    torch.nn.Linear(8, 3)), raising=False)
    arguments = [*BASE, "--inputs", "x.npy", "--eps", "0.1", "--target", "1", "--out", "out"]
    assert main(arguments) == 0
    before = Path("out/metrics.csv").read_bytes()
    assert main([*arguments, *change]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "--restart" in told and all(name in told for name in names)
    assert main([*arguments, *change, "--restart"]) == 0
    assert Path("out/metrics.csv").read_bytes() != before


def test_a_damaged_folder_is_refused(folder, capsys):
    arguments = [*BASE, "--inputs", "x.npy", "--eps", "0.1", "--out", "out"]
    assert main(arguments) == 0
    manifest = folder / "out" / "manifest.json"
    content = manifest.read_text()
    for damage in (lambda: manifest.unlink(), lambda: manifest.write_text(content[:50])):
        damage()
        assert main(arguments) == 2
        assert "--restart" in capsys.readouterr().err
    manifest.write_text(content)
    file = folder / "out" / "eps-0.1" / "00000-00004.npz"
    file.write_bytes(file.read_bytes()[:200])
    assert main(arguments) == 2
    assert str(file.name) in capsys.readouterr().err


GOOD = {"--model": "cli_nets:table", "--inputs": "x.npy", "--attribution": "Saliency",
        "--eps": "0.1", "--out": "out"}


@pytest.mark.parametrize(("change", "message"), [
    ({"--model": "cli_nets"}, "module:function"),
    ({"--model": "no_such_nets:table"}, "No module named 'no_such_nets'"),
    ({"--model": "cli_nets:tabel"}, "has no 'tabel'"),
    ({"--model": "cli_nets:number"}, "is a int"),
    ({"--model": "cli_nets:fails"}, "RuntimeError: no weights here (cli_nets.py, line"),
    ({"--model": "cli_nets:returns_none"}, "must return an nn.Module"),
    ({"--model": "broken:x"}, "ZeroDivisionError: division by zero (broken.py, line 3)"),
    ({"--state-dict": "x.npy"}, "torch.save(model.state_dict(), path)"),
    ({"--state-dict": "none.pt"}, "No such file"),
    ({"--inputs": "none.npy"}, "none.npy"),
    ({"--inputs": "cli_nets.py"}, ".npy, .npz or .csv"),
    ({"--inputs": "words.npy"}, "array of numbers"),
    ({"--inputs": "two.npz"}, "arrays a, b; name one of them with --array"),
    ({"--inputs": "bad.csv"}, "line 3, column b: 'high' is not a number"),
    ({"--inputs": "labels.npy"}, "(examples, features"),
    ({"--inputs": "."}, "has no images"),
    ({"--inputs": "images"}, "cannot be called on inputs of shape (2, 3, 6, 6)"),
    ({"--shape": "3,3"}, "does not fit examples of 4 numbers"),
    ({"--examples": "9:"}, "none of the 5 examples"),
    ({"--target": "column:y"}, "goes with inputs in a .csv"),
    ({"--target": "column:z", "--inputs": "x.csv"}, "no column 'z'; it has a, b, c, d, y"),
    ({"--target": "nowhere"}, "--target nowhere"),
    ({"--target": "x.npy"}, "one column of integers"),
    ({"--target": "9"}, "Captum"),
    ({"--attribution": "LimeBase"}, "there are IntegratedGradients"),
    ({"--attribution": "NoiseTunnel"}, "--noise-tunnel"),
    ({"--attribution": "LayerGradCam"}, "--layer"),
    ({"--attribution": "LayerGradCam", "--layer": "conv"}, "no layer 'conv'; it has 0, 1, 2"),
    ({"--layer": "0"}, "takes no layer"),
    ({"--attribution": "LayerActivation", "--layer": "0", "--target": "1"}, "has no target"),
    ({"--set": "n_steps=5"}, "Saliency has no keyword 'n_steps'; it has abs"),
    ({"--set": "method=CROWN"}, "give --method"),
    ({"--set": "abs=__import__('os').mkdir('evaluated')"}, "is not a value"),
    ({"--set": "abs"}, "NAME=VALUE"),
    ({"--eps": "-1"}, "--eps"),
    ({"--eps": "big"}, "2/255"),
    ({"--norm": "3"}, "'3' is not one of inf, 2, 1"),
    ({"--method": "alpha"}, "CROWN-IBP"),
    ({"--chunk": "0"}, "at least 1"),
    ({"--device": "abacus"}, "no device of this machine"),
    ({"--metric": "cosin"}, "no metric 'cosin'; there are"),
    ({"--metric": "top_k_overlap"}, "settings are: k, absolute"),
    ({"--require": "cosine"}, "'METRIC >= NUMBER'"),
    ({"--require": "cosine <= 0.5"}, "bounded from below only; ask for cosine >= NUMBER"),
    ({"--require": "linf <= small"}, "not a number"),
    ({"--require-share": "2"}, "from 0 to 1"),
    ({"--out": "x.npy"}, "x.npy"),
    ({"--unknown": "1"}, "--help lists the options"),
])
def test_bad_input_is_one_line_that_says_what_to_change(folder, capsys, change, message):
    arguments = [part for pair in {**GOOD, **change}.items() for part in pair]
    assert main(["certify", *arguments, "--quiet"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("lirpa-explain: ") and told.err.count("\n") == 1
    assert message in told.err
    assert not Path("evaluated").exists()


def test_errors_of_ours_keep_their_traceback(folder, monkeypatch):
    monkeypatch.setattr(Job, "certify", lambda *_: {}["a defect"])
    with pytest.raises(KeyError, match="a defect"):
        main([*BASE, "--inputs", "x.npy", "--eps", "0.1", "--out", "out"])


def test_nothing_is_unpickled(folder, capsys):
    class Trap:
        def __reduce__(self):
            return os.mkdir, ("unpickled",)

    torch.save({"0.weight": Trap()}, "trap.pt")
    np.save("trap.npy", np.array([Trap()]), allow_pickle=True)
    for change in ({"--state-dict": "trap.pt"}, {"--inputs": "trap.npy"},
                   {"--set": "abs=@trap.npy"}):
        assert main(["certify",
                     *[part for pair in {**GOOD, **change}.items() for part in pair]]) == 2
    assert capsys.readouterr().err.count("\n") == 3
    assert not Path("unpickled").exists()


def test_attacks_are_set_beside_certificates(folder, nets):
    arguments = ["attack", "--model", "cli_nets:table", "--attribution", "Saliency", "--set",
                 "abs=False", "--inputs", "x.npy", "--eps", "0.2", "--steps", "3", "--samples", "8",
                 "--restarts", "1", "--chunk", "3", "--quiet", "--out"]
    assert main([*arguments, "sides", "--objective", "max_change:norm=inf"]) == 0
    model, x = nets.table().eval(), torch.from_numpy(np.load("x.npy")).float()
    target = model(x).argmax(1)
    saliency = Saliency(model)
    nominal = saliency.attribute(x, target=target, abs=False)
    worst = torch.cat([torch.from_numpy(np.load(f"sides/eps-0.2/{name}.npz")["worst_inputs"])
                       for name in ("00000-00002", "00003-00004")])
    assert float((worst - x).abs().max()) <= 0.2 + 1e-6
    change = (saliency.attribute(worst, target=target, abs=False) - nominal).abs().amax(1)
    bound = lx.certify(saliency, x, eps=0.2, target=target, abs=False).max_change(torch.inf)
    for n, row in enumerate(rows_of("sides/attack.csv")):
        assert float(row["found"]) == pytest.approx(float(change[n]), rel=1e-4)
        assert float(row["certified"]) == pytest.approx(float(bound[n]), rel=1e-4)
        assert float(row["ratio"]) == pytest.approx(float(row["certified"]) / float(row["found"]),
                                                    rel=1e-6)
        assert float(row["ratio"]) >= 1
    assert main([*arguments, "alone", "--objective", "top_k:k=1"]) == 0
    assert all(row["certified"] == "" and float(row["found"]) >= 0
               for row in rows_of("alone/attack.csv"))


def test_half_an_attack_is_none(folder, monkeypatch, capsys):
    def stop(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Search, "ascend", stop)
    assert main(["attack", "--model", "cli_nets:table", "--attribution", "Saliency", "--inputs",
                 "x.npy", "--eps", "0.2", "--out", "out", "--quiet"]) == 130
    assert "0 of 1 parts are done. The same command resumes." in capsys.readouterr().err
    assert not list(Path("out").glob("eps-*/*.npz"))


def test_pictures_of_saved_certificates(folder, capsys):
    certified = ["--eps", "0.1", "0.2", "--quiet", "--out"]
    assert main([*BASE[:-1], "--inputs", "x.npy", *certified, "rows"]) == 0
    assert main(["certify", "--model", "cli_nets:image", "--attribution", "Saliency", "--inputs",
                 "images", *certified, "maps"]) == 0
    for out, arguments in {
        "bars.png": ["rows/eps-0.1/00000-00004.npz", "--example", "2", "--names", "a,b,c,d",
                     "--most", "3"],
        "maps.png": ["maps/eps-0.2/00000-00001.npz", "--inputs", "images", "--example", "1",
                     "--sign", "positive"],
        "curve.png": ["rows", "--metric", "top_k_overlap:k=2"],
    }.items():
        assert main(["plot", *arguments, "--out", out]) == 0
        with Image.open(out) as picture:
            assert picture.width > 300 and len(picture.convert("L").getcolors()) > 2
    capsys.readouterr()
    for arguments, message in {
        ("rows/eps-0.1/00000-00004.npz", "--example", "9"): "examples 0 to 4",
        ("x.npy",): "not a certificate", ("images",): "no certificates"}.items():
        assert main(["plot", *arguments, "--out", "never.png"]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and message in told
    assert not Path("never.png").exists()


SMOOTH = ["smooth", "--model", "cli_nets:table", "--attribution", "Occlusion", "--set",
          "sliding_window_shapes=(1,)", "--inputs", "x.npy", "--sigma", "0.25", "--keep", "0.5",
          "--samples", "60", "--chunk", "3", "--quiet"]


def test_smoothed_certificates_are_the_librarys_and_drawn(folder, nets, capsys):
    assert main([*SMOOTH, "--out", "out", "--report", "page.html", "--radii", "0.05", "0.1",
                 "--seed", "3"]) == 0
    model, x = nets.table().eval(), torch.from_numpy(np.load("x.npy")).float()
    expected = lx.certify_smoothed(Occlusion(model), x, sigma=0.25, keep=0.5, nt_samples=60, seed=3,
                                   target=model(x).argmax(1), sliding_window_shapes=(1,))
    files = sorted(Path("out/smoothed").glob("*.npz"))
    found = torch.cat([lx.SmoothedCertificate.load(file).radii for file in files])
    torch.testing.assert_close(found, expected.radii)
    for n, row in enumerate(rows_of("out/metrics.csv")):
        share = expected.at([0.05, 0.1][n // 5]).metric("importance_agreement")[n % 5]
        assert float(row["importance_agreement"]) == pytest.approx(float(share), abs=1e-9)
    assert "smoothed map" in Path("page.html").read_text()
    for out, arguments in {"bars.png": [str(files[0]), "--radius", "0.05"],
                           "curve.png": ["out"]}.items():
        assert main(["plot", *arguments, "--out", out]) == 0
        with Image.open(out) as picture:
            assert picture.width > 300 and len(picture.convert("L").getcolors()) > 2
    capsys.readouterr()
    required = [*SMOOTH, "--seed", "3", "--out", "out", "--require"]
    assert main([*required, "top_k_overlap:k=2 >= 3"]) == 1
    assert capsys.readouterr().out.count("is not certified at eps") == 3
    assert (main([*required, "prediction"]) == 2
            and "say nothing of predictions" in capsys.readouterr().err)


def test_draws_that_were_interrupted_go_on_and_are_doubled(folder, monkeypatch, capsys):
    steps, calls = Drawer.steps, []

    def stopped(self, *arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return steps(self, *arguments)

    arguments = [*SMOOTH, "--batch-size", "16", "--out"]
    monkeypatch.setattr(Drawer, "steps", stopped)
    assert main([*arguments, "out"]) == 130 and list(Path("out/smoothed").glob("*.part"))
    monkeypatch.setattr(Drawer, "steps", steps)
    assert main([*arguments, "out", "--doublings", "1"]) == 0
    assert main([*arguments, "whole", "--doublings", "1"]) == 0
    for file in sorted(Path("whole/smoothed").iterdir()):
        resumed, whole = (lx.SmoothedCertificate.load(Path(out) / "smoothed" / file.name)
                          for out in ("out", "whole"))
        assert torch.equal(resumed.state.counts, whole.state.counts) and (whole.draws == 120).all()


@pytest.mark.parametrize(("change", "words"), [
    (["--sigma", "0"], "not a finite number above 0"), (["--keep", "1"], "keep must be"),
    (["--samples", "5"], "nt_samples=5 is too few"), (["--set", "target=1"], "give --target"),
    (["--set", "method=IBP"], "no keyword 'method'"), (["--radius", "-1"], "not a radius"),
    (["--eps", "0.1"], "--eps")])
def test_bad_settings_of_smoothing(folder, capsys, change, words):
    assert main([*SMOOTH, "--out", "out", *change]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and words in told


def test_what_is_supported_is_listed(capsys):
    assert main(["ops", "metrics", "objectives"]) == 0
    told = capsys.readouterr().out
    assert (all(f"`{name}`" in told for name in (*lx.METRICS, *lx.OBJECTIVES))
            and "`convolution`" not in told)
    assert main(["ops"]) == 0
    told = capsys.readouterr().out
    assert all(f"`{name}`" in told for name in lx.OPERATORS) and "`GradientShap`" in told
    assert main(["ops", "colours"]) == 2


def test_the_doctor_says_what_is_missing_and_notices_wrong_certificates(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name: None if name == "PIL" else find(name))
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert f"auto_LiRPA {lx.AUTO_LIRPA_VERSION} (" in told and f"torch {torch.__version__}" in told
    assert "pillow is missing, for folders of images as inputs\n" in told
    assert "To have what is missing: pip install 'lirpa_explain[" in told
    assert is_right("CROWN")

    def shifted(*arguments, **keywords):
        found = lx.certify(*arguments, **keywords)
        return lx.Certificate(lower=found.lower + 0.1, upper=found.upper, nominal=found.nominal,
                              attribution="",
                              method="", perturbation="", dtype="float64", elapsed_s=0)

    monkeypatch.setattr("lirpa_explain.cli.doctor.certify", shifted)
    assert main(["doctor"]) == 2
    assert "WRONG by IBP, CROWN-IBP" in capsys.readouterr().out


def test_help_and_values():
    assert main(["certify", "--help"]) == 0
    assert value('{"a": true}') == {"a": True} and value("True") is True and value("none") is None
    assert call("x:mask=(1, 2),k=3") == ("x", {"mask": (1, 2), "k": 3})
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})
    assert digest(torch.zeros(2)) != digest(torch.zeros(2, 1))


def test_a_file_is_whole_or_not_there(tmp_path):
    store = Store(tmp_path, {"a": 1})
    path = store.path(0.1, slice(0, 4))

    def half(target):
        target.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        once(path, half)
    assert list(path.parent.iterdir()) == []
    assert once(path, lambda target: target.write_text("whole"))
    assert not once(path, half) and path.read_text() == "whole"


SHARED = [*BASE, "--inputs", "x.npy", "--eps", "0.01", "0.1", "--chunk", "2", "--prediction",
          "--noise-tunnel", "--set", "nt_samples=2", "--set", "stdevs=0.1", "--dtype", "float64"]


def assert_same_results(folder):
    """Whoever did the work."""
    assert (folder / "one/metrics.csv").read_text() == (folder / "two/metrics.csv").read_text()
    names = ("00000-00001", "00002-00003", "00004-00004")
    for eps in (0.01, 0.1):
        for one, two in zip(load("one", eps, *names), load("two", eps, *names), strict=True):
            assert torch.equal(one.lower, two.lower) and torch.equal(one.upper, two.upper)


def test_work_elsewhere_gives_the_same(folder, monkeypatch):
    """By an executor that sees what is pickled alone; a chunk that is there is not done again."""

    @contextlib.contextmanager
    def elsewhere(given):
        yield Copied()

    assert main([*SHARED, "--out", "one"]) == 0
    monkeypatch.setattr(portions, "executor_of", elsewhere)
    assert main([*SHARED, "--out", "two", "--workers", "2"]) == 0
    assert_same_results(folder)
    times = {path: path.stat().st_mtime_ns for path in (folder / "two").rglob("*.npz")}
    assert main([*SHARED, "--out", "two"]) == 0
    assert times == {path: path.stat().st_mtime_ns for path in (folder / "two").rglob("*.npz")}


@pytest.mark.slow
@pytest.mark.parametrize("who", ["workers", "scheduler"])
def test_processes_share_the_work(who, folder):
    """Two of this machine, and those of a dask cluster."""
    assert main([*SHARED, "--out", "one"]) == 0
    if who == "workers":
        done = subprocess.run([sys.executable, "-m", "lirpa_explain", *SHARED, "--out", "two",
                               "--workers", "2"],
                              env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
        assert done.returncode == 0
    else:
        from distributed import LocalCluster

        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            assert main([*SHARED, "--out", "two", "--scheduler", cluster.scheduler_address]) == 0
    assert_same_results(folder)


def test_who_does_the_work_is_said_once(folder, capsys):
    assert main([*SHARED, "--out", "two", "--workers", "2", "--scheduler", "tcp://nobody:1"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main([*SHARED, "--out", "two", "--workers", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
