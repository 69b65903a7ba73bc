"""The benchmark of training methods: its data, the paper's rule, and a whole run in small."""

import csv
import gzip
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from sklearn.model_selection import train_test_split
from torch import nn
from torch.func import functional_call

from examples.benchmarks.robust_explanations import __main__ as program
from examples.benchmarks.robust_explanations import (
    data,
    evaluate,
    figures,
    paper_rule,
    settings,
    tables,
)
from examples.benchmarks.robust_explanations.train import cosine, train

RUN = ["cancer", "--quick", "--methods", "plain", "softplus", "certified"]


# A whole run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What `--quick` writes for one data set and three methods."""
    out = tmp_path_factory.mktemp("robust_explanations")
    program.main([*RUN, "--out", str(out)])
    return out / "quick"


def results_of(out):
    return {path.stem.split("-")[1]: json.loads(path.read_text())
            for path in (out / "runs").glob("*.json")}


def test_our_loss_certifies_more_than_the_others(run):
    results = results_of(run)
    assert set(results) == {"plain", "softplus", "certified"}
    for result in results.values():
        assert result["accuracy"] > 0.9 and not tables.failed(result)
    fair = {label: tables.figure(result, "fair", "certified", "input", 0.05)
            for label, result in results.items()}
    width = {label: tables.figure(result, "width", "certified", "input", 0.05)
             for label, result in results.items()}
    assert fair["certified"] == 1 > fair["plain"] and width["certified"] < 0.4 * width["plain"]


def test_certified_figures_and_attacked_ones_enclose_the_truth(run):
    for result in results_of(run).values():
        sizes = {(row["perturbation"], row["size"]) for row in result["figures"]}
        assert sizes == {("input", 0.05), ("parameters", 0.02)}
        for key in sizes:
            rows = {row["bounds"]: row
                    for row in result["figures"] if (row["perturbation"], row["size"]) == key}
            assert set(rows) - {"paper"} == {"IBP", "CROWN", "certified", "attack"}
            assert ("paper" in rows) == (result["label"] != "softplus")
            assert rows["certified"]["outside"] <= 1e-5
            certified, attack = rows["certified"], rows["attack"]
            for name in ("fair", "fair signed", "region", "signs"):
                assert max(rows[m][name] for m in ("IBP",
                                                   "CROWN")) <= certified[name] <= attack[name]
            assert min(rows[m]["width"] for m in ("IBP",
                                                  "CROWN")) >= certified["width"] >= attack["width"]


def test_what_is_written_is_what_was_found(run):
    results = results_of(run)
    with (run / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == sum(len(result["figures"]) for result in results.values())
    plain = results["plain"]
    line = next(line
                for line in lines if line["label"] == "plain" and line["bounds"] == "certified")
    assert float(line["width"]) == tables.figure(plain, "width", "certified", "input", 0.05)
    text = (run / "RESULTS.md").read_text()
    assert (f"| plain | default | 1 | {plain['accuracy']:.3f} |  |" in text
            and "FAILED** (" not in text)
    assert f"Majority share {plain['majority']:.3f}" in text and "![accuracy" in text
    height, width, _ = imread(run / "cancer.png").shape
    assert 400 < height < 1000 < 2 * width < 3000


def test_finished_runs_are_not_done_again(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in (run / "runs").iterdir()}
    lost = next(path for path in before
                if path.name.startswith("cancer-plain") and path.suffix == ".json")
    figures = json.loads(lost.read_text())["figures"]
    lost.unlink()
    program.main([*RUN, "--out", str(run.parent)])
    after = {path: path.stat().st_mtime_ns for path in (run / "runs").iterdir()}
    # not even its net is trained again
    assert {path for path in after if after[path] != before[path]} == {lost}
    assert json.loads(lost.read_text())["figures"] == figures
    assert "3 nets" in capsys.readouterr().out


def test_a_constant_answer_has_failed(run):
    plain = results_of(run)["plain"]
    constant = {**plain, "accuracy": plain["majority"] + 0.019, "seed": 1}
    assert tables.failed(constant)
    assert "**FAILED** (1 of 2)" in tables.document([plain, constant], "command")


def test_nets_that_ours_do_not_match_are_named():
    def net(label, recipe, accuracy, share, seed=0):
        row = {"bounds": "certified", "perturbation": "input", "size": 0.05, "fair": share}
        return {"data_set": "cancer", "label": label, "recipe": recipe, "seed": seed,
                "accuracy": accuracy, "majority": 0.5, "figures": [row]}

    nets = [net("certified", "a", 0.95, 0.5), net("certified", "b", 0.9, 1.0),
            net("plain", "default", 0.99, 0.0),
            net("pgd", "weaker", 0.94, 0.5), net("pgd", "between", 0.93, 0.8),
            net("softplus", "s", 0.96, 0.1, 0), net("softplus", "s", 0.92, 0.3, 1)]
    assert tables.unmatched(nets) == ["`pgd` (between): accuracy 0.930, certified 0.800"]
    assert tables.unmatched(nets[:4]) == []


def test_what_is_certified_at_one_size_is_at_smaller_ones():
    rows = [{"bounds": "certified", "perturbation": perturbation, "size": size, "fair": share}
            for perturbation, size, share in (("input", 0.01, 0.6), ("input", 0.025, 0.1),
                                              ("input", 0.05, 0.4), ("parameters", 0.05, 0.9))]
    net = {"figures": [*rows, {**rows[2], "bounds": "attack", "fair": 1.0}]}
    shares = [tables.certified_share(net, "fair", "input", size) for size in (0.01, 0.025, 0.05)]
    assert shares == [0.6, 0.4, 0.4]
    assert tables.certified_share(net, "signs", "input", 0.01) is None


def test_curves_are_drawn_through_what_is_best():
    points = [(0.5, 0.9, False), (1.0, 0.8, False), (1.0, 0.85, False), (0.2, 0.9, False),
              (0.1, 0.95, True)]
    assert figures.front(points) == ([1.0, 0.5, 0.1], [0.85, 0.9, 0.95])


def test_unknown_data_sets_are_refused(capsys):
    with pytest.raises(SystemExit):
        program.main(["iris"])
    assert "credit_default" in capsys.readouterr().err


def test_a_stopped_attack_gives_no_figures(monkeypatch):
    net, x, y = make_net("shallow")
    nominal = evaluate.input_gradient(net, x, y, create_graph=False).flatten(1)
    explained = evaluate.Explained(net, x, y, nominal, torch.zeros(6, dtype=torch.bool), 1)
    found = evaluate.lx.attack

    def stopped(*arguments, **keywords):
        return replace(found(*arguments, **keywords), interrupted=True)

    monkeypatch.setattr(evaluate.lx, "attack", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate.attacked(explained, 0.1, 0.0)


# The settings


def test_every_data_set_has_recipes_of_every_method():
    for name, setup in {**settings.SETUPS, **settings.QUICK}.items():
        rows = settings.recipes(name)
        assert list(rows) == [*settings.BASELINES,
                              "certified"] and setup.headline in evaluate.FIGURES
        for label, recipes in rows.items():
            names = [recipe.name for recipe in recipes]
            assert (len(set(names)) == len(names) > 0
                    and all("/" not in name for name in names)), label


def test_outer_settings_of_other_methods_have_one_seed():
    nets = list(settings.trials("adult", 3))
    seeds: dict[tuple[str, str], list[int]] = {}
    for label, recipe, seed in nets:
        seeds.setdefault((label, recipe.name), []).append(seed)
    assert [seeds["pgd", name] for name in ("eps_factor=0.5", "default", "eps_factor=2")] == [
        [0], [0, 1, 2], [0]]
    assert all(len(own) == 3
               for (label, _), own in seeds.items() if label in ("certified", "plain"))
    assert len(nets) == len({(label, recipe.name, seed) for label, recipe, seed in nets})
    assert all(seed == 0 for _, _, seed in settings.trials("digits", 3, quick=True))


def test_what_ours_have_beside_the_bounds_is_trained_alone_too():
    for name, controls in settings.CONTROLS.items():
        nets = list(settings.trials(name, 3))
        for label, rows in controls.items():
            for control in rows:
                assert ([seed for key, recipe, seed in nets if (key, recipe) == (label, control)]
                        == [0, 1, 2])
                assert any(ours.adam_decay == control.adam_decay
                           for ours in settings.CERTIFIED[name])


def test_the_rate_falls_to_nothing():
    rates = [cosine(share, 0.5) for share in (0, 0.5, 0.75, 1)]
    assert rates == pytest.approx([1, 1, 0.5, 0])


def test_a_penalty_can_be_added_to_another_method():
    setup = replace(settings.setup_of("cancer"), epochs=2)
    examples = setup.load(None).subset(64, 8)
    x = examples.test_x

    def logits(**fields):
        # the full radius at once
        return train(examples, setup, settings.Recipe(warmup=0.0, **fields), seed=0)(x)

    alone = logits(method="pgd", eps_factor=0.5)
    # of weight 0
    assert torch.equal(logits(method="certified", base="pgd", base_factor=0.5), alone)
    assert not torch.equal(logits(method="certified"), alone)
    assert not torch.equal(logits(method="certified", base="pgd", base_factor=0.5, weight=0.1),
                           alone)


# The paper's rule


def make_net(kind):
    torch.manual_seed(0)
    if kind == "cnn":
        net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Conv2d(2, 3, 2), nn.ReLU(),
                            nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
        return net.double(), torch.rand(4, 1, 7, 7, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    sizes = {"shallow": (6, 8, 3), "deep": (6, 8, 7, 3), "linear": (6, 3)}[kind]
    layers = [nn.Flatten(), nn.Linear(*sizes[:2])]
    for pair in zip(sizes[1:-1], sizes[2:], strict=True):
        layers += [nn.ReLU(), nn.Linear(*pair)]
    return (nn.Sequential(*layers).double(), torch.rand(4, 6, dtype=torch.float64),
            torch.tensor([0, 1, 2, 1]))


class Passed(torch.autograd.Function):
    """A ReLU whose gradient is 1: what the paper's rule takes the first one for."""

    @staticmethod
    def forward(ctx, z):
        return z.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        return g


class First(nn.Module):
    def forward(self, z):
        return Passed.apply(z)


def bounded_by_the_rule(net, x, y):
    """The function whose value the rule does bound: (z_t - 1) grad z_t, past the first ReLU."""
    layers = list(net)
    first = next((i for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)), None)
    if first is not None:
        layers[first] = First()
    return paper_rule.paper_explanation(nn.Sequential(*layers), x, y)


@pytest.mark.parametrize("kind", ["linear", "shallow", "deep", "cnn"])
def test_the_papers_rule_bounds_another_function(kind):
    net, x, y = make_net(kind)
    still = paper_rule.paper_bounds(net, x, y, 0.0)
    for side in still:
        torch.testing.assert_close(side, bounded_by_the_rule(net, x, y))
    assert paper_rule.share_outside(net, x, y, 0.0, still) == (0 if kind == "linear" else 1)
    eps, gamma = 0.1, 0.05
    low, high = paper_rule.paper_bounds(net, x, y, eps, gamma)
    assert (low < high).all()
    for _ in range(20):
        with torch.no_grad():
            moved = {name: p + gamma / 2 * (1 if "bias" in name else p.abs())
                     * (2 * torch.randint(2, p.shape) - 1) for name, p in net.named_parameters()}
        point = x + eps * (2 * torch.randint(2, x.shape) - 1)
        other = make_net(kind)[0]
        other.load_state_dict(moved)
        value = bounded_by_the_rule(other, point, y)
        assert (low - 1e-9 <= value).all() and (value <= high + 1e-9).all()


def test_the_certified_box_is_within_that_of_each_method_and_holds():
    net, x, y = make_net("deep")
    nominal = evaluate.input_gradient(net, x, y, create_graph=False).flatten(1)
    explained = evaluate.Explained(net, x, y, nominal, torch.arange(6) < 2, 1)
    certifier = evaluate.lx.Certifier(evaluate.Saliency(net), abs=False)
    boxes = evaluate.certified(explained, certifier, ("IBP", "CROWN"), 0.0, 0.05)
    low, high = boxes["certified"]
    for _ in range(20):
        moved = {name: p + 0.05 * p.abs() * (2 * torch.randint(2, p.shape) - 1)
                 for name, p in net.named_parameters()}
        a = evaluate.input_gradient(lambda z, moved=moved: functional_call(net, moved, z), x, y,
                                    create_graph=False)
        assert (low - 1e-9 <= a).all() and (a <= high + 1e-9).all()
    for method in ("IBP", "CROWN"):
        assert (boxes[method][0] <= low).all() and (high <= boxes[method][1]).all()
    assert set(evaluate.summary(replace(explained, mask=torch.zeros(6, dtype=torch.bool)), low,
                                high)) == {"region", "width", "signs"}


# The data


def test_the_split_is_scikit_learns():
    rows, labels = [[str(i)] for i in range(53)], list(range(53))
    train, test, parts = data.split(rows, labels)
    expected = train_test_split(labels, test_size=0.2, random_state=42)
    assert [list(part) for part in parts] == expected
    assert [[int(row[0]) for row in part] for part in (train, test)] == expected


def test_tables_are_scaled_and_encoded():
    train, test = [["1", "b", "x"], ["3", "a", "x"]], [["5", "c", "y"]]
    made = data.one_hot(train, test, numeric=(0,), protected=(1,), labels=([0, 1], [1]))
    assert made.train_x.tolist() == [[0, 0, 1, 0, 1, 0], [1, 1, 0, 0, 1, 0]]
    assert made.test_x.tolist() == [[2, 0, 0, 1, 0, 1]] and made.protected == (1, 2, 3)
    assert made.majority == 1 and len(made.subset(1, 1).train_x) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small files in the layout of the real ones."""
    folder = tmp_path_factory.mktemp("data")
    adult = ("39, Private, 7, HS-grad, 13, Divorced, Sales, Husband, White, Male, {}, 0, 40, Cuba, "
             "{}")
    lines = [adult.format(i, ">50K" if i % 2 else "<=50K") for i in range(4)]
    generator = np.random.default_rng(0)
    files = {
        "adult/adult.data.gz": "\n".join([*lines, lines[0].replace("Sales", "?"), ""]),
        "adult/adult.test.gz": "\n".join(["|1x3 Cross validator",
                                          *(line + "." for line in lines[:3]), ""]),
        "german_credit/german.csv": "\n".join(
            ",".join(["A1", *(str(i) for _ in range(7)), f"A9{i % 2}",
                      *("3" for _ in range(11)), str(1 + i % 2)]) for i in range(10)),
        "credit_default/credit-card-clients.csv": "\n".join(
            [",".join("abcdefghijklmnopqrstuvwx"),
             *(",".join([str(i), str(1 + i % 2), *("2" for _ in range(21)),
                         str(i % 2)]) for i in range(10))]),
    }
    for kind, count in (("train", 3), ("t10k", 2)):
        for name, array in (("images-idx3",
                             generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
                            ("labels-idx1", np.arange(count, dtype=np.uint8))):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big")
                                                             for size in array.shape)
            files[f"mnist/{kind}-{name}-ubyte.gz"] = header + array.tobytes()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        content = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (folder / "medmnist").mkdir()
    for name, channels in (("breast", ()), ("derma", (3,))):
        arrays = {f"{part}_images": generator.integers(0, 256, (n, 28, 28, *channels),
                                                       dtype=np.uint8)
                  for part, n in (("train", 3), ("test", 2))}
        labels = {"train_labels": [[0], [1], [1]], "test_labels": [[1], [0]]}
        np.savez(folder / "medmnist" / f"{name}mnist.npz", **arrays, **labels)
    return folder


def test_adult_and_german_are_read(folder):
    adult = data.adult(folder)
    assert len(adult.train_x) == 4 and len(adult.test_x) == 3 and adult.test_y.tolist() == [0, 1, 0]
    assert adult.train_x.shape[1] == 6 + 7 and len(adult.protected) == 2
    german = data.german(folder)
    assert (len(german.train_x) == 8 and len(german.protected) == 2
            and set(german.train_y.tolist()) == {0, 1})
    credit = data.credit_default(folder)
    assert credit.train_x.shape == (8, 13 + 2 + 9) and credit.protected == (13, 14)
    assert torch.equal(credit.train_x[:, 14], credit.train_y.float())


def test_images_are_read(folder):
    mnist = data.mnist(folder)
    assert (mnist.train_x.shape == (3, 1, 28, 28) and mnist.test_y.tolist() == [0, 1]
            and mnist.train_x.max() <= 1)
    for name, channels in (("breast", 1), ("derma", 3)):
        images = data.medical(name)(folder)
        assert images.train_x.shape == (3, channels, 28, 28) and images.test_y.tolist() == [1, 0]
        pixels = np.load(folder / "medmnist" / f"{name}mnist.npz")["test_images"].reshape(2, 28, 28,
                                                                                          channels)
        assert float(images.test_x[1, -1, 2, 5] * 255) == pytest.approx(pixels[1, 2, 5, -1])


def test_what_is_downloaded_is_what_the_files_hold(folder, monkeypatch):
    """By stand-ins for the libraries that download, of the same names and attributes."""
    def frame(rows):
        return SimpleNamespace(
            frame=SimpleNamespace(astype=lambda kind: SimpleNamespace(values=np.array(rows))))

    adult = [[row for row in data.read_csv(
        gzip.decompress((folder / f"adult/adult.{part}.gz").read_bytes()).decode())
              if len(row) == 15] for part in ("test", "data")]
    german = data.read_csv((folder / "german_credit" / "german.csv").read_text())
    tables = {1590: [[cell.removesuffix(".") for cell in row] for row in sum(adult, [])],
              31: [[*row[:20], "good" if row[20] == "1" else "bad"] for row in german],
              42477: data.read_csv(
                  (folder / "credit_default" / "credit-card-clients.csv").read_text())[1:]}
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda data_id,
                        as_frame: frame(tables[data_id]))
    monkeypatch.setattr(data, "ADULT_TEST", 3)

    digits, files = data.mnist(folder), np.load(folder / "medmnist" / "breastmnist.npz")
    made = {True: (digits.train_x, digits.train_y), False: (digits.test_x, digits.test_y)}
    torchvision = SimpleNamespace(MNIST=lambda root, train, download: SimpleNamespace(
        data=(made[train][0][:, 0] * 255).round().to(torch.uint8), targets=made[train][1]))
    medmnist = SimpleNamespace(INFO={"breastmnist": {"python_class": "BreastMNIST"}},
                               BreastMNIST=lambda split, download: SimpleNamespace(
                                   imgs=files[f"{split}_images"], labels=files[f"{split}_labels"]))
    for name, module in (("torchvision", SimpleNamespace(datasets=torchvision)),
                         ("torchvision.datasets", torchvision), ("medmnist", medmnist)):
        monkeypatch.setitem(sys.modules, name, module)
    for load in (data.adult, data.german, data.credit_default, data.mnist, data.medical("breast")):
        for part, other in zip(vars(load(None)).values(), vars(load(folder)).values(), strict=True):
            assert torch.equal(part, other) if torch.is_tensor(part) else part == other
