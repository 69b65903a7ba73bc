"""Whole data sets: stored is what certify computes; runs resume, record failures, do not mix."""

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import (
    FeaturePermutation,
    IntegratedGradients,
    LayerActivation,
    NoiseTunnel,
    Saliency,
)
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import lirpa_explain as lx
from lirpa_explain.datasets import certify as running
from lirpa_explain.datasets.executors import Crew, crew_of
from lirpa_explain.datasets.results import Results, certificates_of
from lirpa_explain.datasets.work import Work
from lirpa_explain.fingerprint import contents_of
from tests.nets import mlp

SETTINGS = {"eps": 0.02, "n_steps": 4, "method": "CROWN"}
SIDES = ("lower", "nominal", "upper")
COUNT = 7


def make_net(seed: int = 0) -> nn.Module:
    return mlp(4, 6, 3, activation=nn.Tanh, seed=seed)


def make_attribution() -> IntegratedGradients:
    """A factory, as workers call it."""
    return IntegratedGradients(make_net())


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(COUNT, 4, dtype=torch.float64, generator=generator), torch.arange(COUNT) % 3


class Items(Dataset):
    """A data set that reads item by item, and cannot read some."""

    def __init__(self, x, y, bad=()):
        self.x, self.y, self.bad = x, y, bad

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if i in self.bad:
            raise OSError(f"file {i} is damaged")
        return self.x[i].numpy(), self.y[i]


class Stream(IterableDataset):
    """A data set without a length."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return iter(zip(self.x, self.y.tolist(), strict=True))


class Unpicklable(Items):
    """A data set that stays where it is."""

    def __reduce__(self):
        raise TypeError("it holds an open file")


class Copied(concurrent.futures.Executor):
    """An executor that shares no memory, as far as one process can; dies as told."""

    def __init__(self, deaths=0):
        self.deaths, self.seen = deaths, []

    def submit(self, call, /, *args, **kwargs):
        import pickle

        future = concurrent.futures.Future()
        try:
            call, args = pickle.loads(pickle.dumps((call, args)))
            if self.deaths:
                self.deaths -= 1
                raise concurrent.futures.BrokenExecutor("killed")
            future.set_result(call(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def stored(out):
    """Bounds of all examples, as arrays."""
    table = lx.read_results(out)
    return {side: torch.tensor(np.stack(table[side].to_list())) for side in SIDES}


def assert_as_certified(out, certificate):
    for side, values in stored(out).items():
        torch.testing.assert_close(values, getattr(certificate, side).flatten(1), rtol=1e-9,
                                   atol=1e-12)


@pytest.fixture(scope="module")
def expected(data):
    """What certify says of all examples."""
    return lx.certify(make_attribution(), data[0], target=data[1], **SETTINGS)


@pytest.mark.parametrize(("form", "executor"), [
    ("arrays", None), ("arrays", "copied"), ("tensors", "threads"), ("items", "copied"),
    ("stream", None), ("stream", "copied"), ("generator", "threads"), ("list", None)])
def test_every_bound_is_certifys(form, executor, data, expected, tmp_path):
    x, y = data
    dataset = {"arrays": (x.numpy(), y.numpy()), "tensors": TensorDataset(x, y),
               "items": Items(x, y), "stream": Stream(x, y), "generator": zip(x, y, strict=True),
               "list": list(zip(x, y, strict=True))}[form]
    workers = {"threads": concurrent.futures.ThreadPoolExecutor(2),
               "copied": Copied()}.get(executor)
    run = lx.certify_dataset(make_attribution(), dataset, out=tmp_path, executor=workers, chunk=3,
                             metrics=["cosine"], **SETTINGS)
    assert_as_certified(tmp_path, expected)
    table = lx.read_results(tmp_path)
    assert (run.examples, run.skipped, run.failed) == (COUNT, 0, {})
    assert table.index.tolist() == list(range(COUNT)) and table["target"].tolist() == y.tolist()
    np.testing.assert_allclose(table["cosine"], expected.metric("cosine"), rtol=1e-9)
    assert (table["seconds"] > 0).all() and table["error"].isna().all()
    assert not list(tmp_path.glob(".*"))  # neither the work nor halves of files


@pytest.mark.parametrize("kind",
                         ["factory", "layer", "several inputs", "no target", "predicted", "spec"])
def test_other_attributions_and_targets(kind, data, tmp_path):
    x, y = data
    settings = {"eps": 0.02}
    if kind == "factory":
        run, expected = make_attribution, lx.certify(make_attribution(), x, target=y, n_steps=4,
                                                     **settings)
        settings["n_steps"] = 4
        dataset = (x, y)
    elif kind == "layer":
        net = make_net()
        run, dataset = LayerActivation(net, net[0]), (x, y)
        expected = lx.certify(LayerActivation(net, net[0]), x, **settings)
    elif kind == "several inputs":
        run = Saliency(Summed())
        dataset = [((a, 2 * a), int(b)) for a, b in zip(x, y, strict=True)]
        expected = lx.certify(run, (x, 2 * x), target=y, **settings)
    elif kind == "no target":
        run, dataset = Saliency(Single()), x
        expected = lx.certify(run, x, **settings)
    elif kind == "predicted":
        run, dataset, net = Saliency(make_net()), x, make_net()
        expected = lx.certify(run, x, target=net(x).argmax(1), **settings)
        settings["target"] = "predicted"
    else:
        run, dataset = Saliency(make_net()), (x, y)
        settings |= {"spec": torch.eye(4, dtype=torch.float64)[:2], "abs": False}
        expected = lx.certify(run, x, target=y, **settings)
    lx.certify_dataset(run, dataset, out=tmp_path, chunk=4, **settings)
    (_, first), (_, second) = certificates_of(Results(tmp_path))
    for name in (*SIDES, *(["spec_lower", "spec_upper"] if kind == "spec" else [])):
        whole = getattr(expected, name)
        parts = whole if isinstance(whole, tuple) else (whole,)
        for i, part in enumerate(parts):
            found = [getattr(c, name)[i] if isinstance(whole, tuple) else getattr(c, name)
                     for c in (first, second)]
            torch.testing.assert_close(torch.cat(found), part, rtol=1e-9, atol=1e-12)
    assert (first.attribution, first.perturbation, first.dtype) == (
        expected.attribution, expected.perturbation, expected.dtype)


class Summed(nn.Module):
    """A model of two inputs."""

    def __init__(self):
        super().__init__()
        self.net = make_net()

    def forward(self, a, b):
        return self.net(a) * 0.5 + torch.tanh(self.net(b))


class Single(nn.Module):
    """A model with one output."""

    def __init__(self):
        super().__init__()
        self.net = make_net()

    def forward(self, x):
        return self.net(x)[:, 0]


def test_facts_of_other_senses_are_kept(data, tmp_path):
    x, y = data
    settings = {"eps": 0.01, "n_steps": 4, "integral": "exact"}
    lx.certify_dataset(make_attribution(), (x, y), out=tmp_path, chunk=COUNT, **settings)
    expected = lx.certify(make_attribution(), x, target=y, **settings)
    (_, found), = certificates_of(Results(tmp_path))
    assert found.integral == "exact" and found.meaning.says == expected.meaning.says
    for name in ("quadrature_error", "completeness"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-9,
                                   atol=1e-12)


def function_that_explains():
    """A factory of something that is no class of Captum's."""
    net = make_net()

    def explain(x, target):
        point = x.detach().requires_grad_()
        return torch.autograd.grad(net(point)[range(len(x)), target].sum(), point)[0]

    return explain


@pytest.mark.parametrize(("attribution", "executor", "chunk"), [
    (Saliency(make_net()), Copied(), 3), (function_that_explains, None, 4)])
def test_smoothed_certificates_are_rows_whatever_the_chunks(attribution, executor, chunk, data,
                                                            tmp_path):
    settings = {"sigma": 0.2, "keep": 0.5, "nt_samples": 60, "radius": 0.05}
    run = lx.certify_dataset(attribution, data, out=tmp_path / "out", executor=executor,
                             chunk=chunk, features=list("abcd"), metrics=["importance_agreement"],
                             report=tmp_path / "page.html", **settings)
    assert (run.examples, run.failed) == (COUNT, {})
    made = attribution() if attribution is function_that_explains else attribution
    expected = lx.certify_smoothed(made, data[0], target=data[1], **settings)
    table = lx.read_results(tmp_path / "out")
    for name, values in (("radii", expected.radii), ("lower", expected.at(0.05).lower),
                         ("nominal", expected.nominal)):
        stored = torch.tensor(table[[f"{name}[{letter}]" for letter in "abcd"]].to_numpy())
        torch.testing.assert_close(stored, values, rtol=1e-6, atol=1e-9)
    assert (table["importance_agreement"].to_list()
            == expected.at(0.05).metric("importance_agreement").tolist())
    assert "smoothed map" in (tmp_path / "page.html").read_text()


def test_what_is_drawn_depends_on_the_seed_and_the_example_alone(data, tmp_path):
    x, y = data
    settings = {"eps": 0.01, "nt_samples": 2, "stdevs": 0.1, "abs": False, "chunk": 3}
    runs = [(None, 0), (Copied(), 0), (None, 5)]
    attribution = NoiseTunnel(Saliency(make_net()))
    for i, (executor, seed) in enumerate(runs):
        torch.rand(i)
        state = torch.get_rng_state()
        lx.certify_dataset(attribution, (x, y), out=tmp_path / str(i), executor=executor,
                           seed=seed, **settings)
        assert torch.equal(torch.get_rng_state(), state)
    one, two, other = (stored(tmp_path / str(i))["nominal"] for i in range(3))
    assert torch.equal(one, two) and not torch.equal(one, other)
    torch.manual_seed(5 + 3)
    expected = attribution.attribute(x[3:6], target=y[3:6], nt_samples=2, stdevs=0.1, abs=False)
    torch.testing.assert_close(other[3:6], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("executor", [None, "copied"])
def test_failing_examples_are_recorded(executor, data, tmp_path):
    """Others of a chunk are certified; failing: damaged, NaN, of another shape, of no class."""
    x, y = data
    broken = x.clone()
    broken[1, 2] = torch.nan
    items = [(a, int(b)) for a, b in zip(broken, y, strict=True)]
    items[4] = (items[4][0][:3], 1)
    items[5] = (items[5][0], 17)
    run = lx.certify_dataset(make_attribution(), Items(*_columns(items), bad=(6,)),
                             out=tmp_path / "out", chunk=4,
                             executor=Copied() if executor else None, report=tmp_path / "page.html",
                             metrics=["cosine"], features=["a", "b", "c", "d"], **SETTINGS)
    assert sorted(run.failed) == [1, 4, 5, 6] and run.examples == COUNT
    table = lx.read_results(tmp_path / "out")
    for row, words in ((1, "NaN"), (4, "4 names"), (5, "index 17 is out of bounds"),
                       (6, "file 6 is damaged")):
        assert words in table["error"][row] == run.failed[row]
        assert (table.loc[row, [f"{side}[a]" for side in SIDES]].isna().all()
                and np.isnan(table["cosine"][row]))
    kept = [0, 2, 3]
    expected = lx.certify(make_attribution(), x[kept], target=y[kept], **SETTINGS)
    for i, name in enumerate("abcd"):
        for side in SIDES:
            np.testing.assert_allclose(table[f"{side}[{name}]"][kept],
                                       getattr(expected, side)[:, i], rtol=1e-9)
    page = (tmp_path / "page.html").read_text()
    assert "4 further examples could not be certified" in page and "file 6 is damaged" in page


def _columns(items):
    class Column(list):
        pass

    return [_Array(a) for a, _ in items], Column(b for _, b in items)


class _Array:
    """An array that `Items` asks for its numbers."""

    def __init__(self, tensor):
        self.tensor = tensor

    def numpy(self):
        return self.tensor.numpy()


@pytest.mark.parametrize("form", ["arrays", "stream"])
def test_a_run_that_is_stopped_resumes(form, data, expected, tmp_path, monkeypatch):
    x, y = data
    dataset = (x, y) if form == "arrays" else Stream(x, y)
    do, done = Work.do, []

    def stopped(work, rows, given=None):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(rows)
        return do(work, rows, given)

    monkeypatch.setattr(Work, "do", stopped)
    with pytest.raises(KeyboardInterrupt, match="4.*examples are done; the same call resumes"):
        lx.certify_dataset(make_attribution(), dataset, out=tmp_path, chunk=2, **SETTINGS)
    times = {file: file.stat().st_mtime_ns for file in Results(tmp_path).files()}
    assert len(times) == 2 and len(lx.read_results(tmp_path)) == 4
    (tmp_path / ".000000004-000000005.parquet.1.tmp").write_bytes(b"half")
    monkeypatch.setattr(Work, "do", do)
    run = lx.certify_dataset(make_attribution, dataset, out=tmp_path, chunk=2, **SETTINGS)
    assert (run.examples, run.skipped) == (COUNT - 4, 4) and not list(tmp_path.glob(".*"))
    assert all(file.stat().st_mtime_ns == was for file, was in times.items())
    assert_as_certified(tmp_path, expected)


def test_other_settings_are_refused(data, tmp_path):
    x, y = data
    call = {"attribution": make_attribution(), "dataset": (x, y), "out": tmp_path, "chunk": 4,
            **SETTINGS}
    lx.certify_dataset(**call)
    lx.certify_dataset(**call | {"attribution": make_attribution(), "executor": Copied()})
    for change, words in (
        ({"eps": 0.03}, "eps (0.02 there, 0.03 now)"), ({"chunk": 3}, "chunk (4 there, 3 now)"),
        ({"attribution": IntegratedGradients(make_net(1))}, "the model"),
        ({"attribution": Saliency(make_net())}, "name (IntegratedGradients there, Saliency now)"),
        ({"dataset": (x + 1, y)}, "the data set"), ({"metrics": ["cosine"]}, "metrics"),
        ({"baselines": 0.1}, "baselines")):
        with pytest.raises(ValueError, match="results of another run, which differs in:") as caught:
            lx.certify_dataset(**call | change)
        assert words in str(caught.value) and "restart=True" in str(caught.value)
    lx.certify_dataset(**call | {"eps": 0.03, "restart": True})
    assert_as_certified(tmp_path,
                        lx.certify(make_attribution(), x, target=y, **SETTINGS | {"eps": 0.03}))


def test_a_stream_of_other_examples_is_refused(data, tmp_path):
    x, y = data
    lx.certify_dataset(make_attribution(), Stream(x, y), out=tmp_path, chunk=4, **SETTINGS)
    with pytest.raises(ValueError,
                       match=r"other examples than the iterable gives \(numbers 4 to 6\)"):
        lx.certify_dataset(make_attribution(), Stream(torch.cat([x[:6], x[:1]]), y), out=tmp_path,
                           chunk=4, **SETTINGS)


def test_files_that_do_not_belong_are_refused(data, tmp_path):
    x, y = data
    for name, eps in (("a", 0.02), ("b", 0.03)):
        lx.certify_dataset(make_attribution(), (x, y), out=tmp_path / name, chunk=4,
                           **SETTINGS | {"eps": eps})
    first, second = Results(tmp_path / "a").files()
    second.write_bytes((tmp_path / "b" / second.name).read_bytes())
    with pytest.raises(ValueError, match="of another run than the rest"):
        lx.read_results(tmp_path / "a")
    second.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="cannot be read.*delete it"):
        lx.read_results(tmp_path / "a")
    with pytest.raises(ValueError, match="not a folder of results"):
        lx.read_results(tmp_path)
    (tmp_path / "a" / "_manifest.json").unlink()
    with pytest.raises(ValueError, match="no _manifest.json that says of what"):
        lx.certify_dataset(make_attribution(), (x, y), out=tmp_path / "a", **SETTINGS)


CLOSED = concurrent.futures.ThreadPoolExecutor(1)
CLOSED.shutdown()
BAD = {
    "closed": ({"executor": CLOSED}, ValueError, "executor is closed"),
    "none": ({"executor": 0}, ValueError, "at least 1 process"),
    "executor": ({"executor": "four"}, TypeError, "executor is a str"),
    "chunk": ({"chunk": 0}, ValueError, "chunk is 0"),
    "no ball": ({"eps": None}, ValueError, "eps"),
    "metric": ({"metrics": ["beauty"]}, ValueError, "beauty"),
    "loader": ({"dataset": DataLoader(TensorDataset(torch.rand(3, 4)))}, TypeError,
               r"loader\.dataset"),
    "mapping": ({"dataset": {"x": 1}}, TypeError, "dataset is a dict"),
    "number": ({"dataset": 3}, TypeError, "dataset is a int"),
    "unequal": ({"dataset": (torch.rand(3, 4), torch.arange(2))}, ValueError, r"\(3, 4\), \(2,\)"),
    "empty": ({"dataset": torch.rand(0, 4)}, ValueError, "empty"),
    "parts": ({"dataset": iter([(1, 2, 3)])}, TypeError, "an item has 3 parts"),
    "class": ({"attribution": Saliency}, TypeError, "attribution is a type"),
    "factory": ({"attribution": make_net}, TypeError, "function returned a Sequential"),
    "differentiable": ({"differentiable": True}, ValueError, "takes no differentiable"),
    "permutation": ({"attribution": FeaturePermutation(make_net())}, lx.UnsupportedAttribution,
                    "no row of a data set"),
    "sigma": ({"sigma": 0.0}, ValueError, "sigma makes smoothed certificates, which eps does not "
              "go with"),
    "everyone fails": ({"eps": -1.0}, ValueError, "None of the first 7 examples.*for one reason"),
    "unpicklable data": ({"dataset": Unpicklable(*2 * (torch.rand(3, 4),)), "executor": Copied()},
                         ValueError, "data set cannot be pickled.*open file.*pass an iterable"),
    "unknown attribution": ({"attribution": type("Mine", (Saliency,), {})(make_net())},
                            lx.UnsupportedAttribution, "Mine cannot be certified"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, data, tmp_path):
    change, error, words = BAD[case]
    call = {"attribution": make_attribution(), "dataset": data, "out": tmp_path,
            **SETTINGS} | change
    call = {name: value for name, value in call.items() if value is not None}
    with pytest.raises(error, match=words):
        lx.certify_dataset(**call)
    assert not Results(tmp_path).files()
    if case == "everyone fails":
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("settings", "words"), [
    ({"sigma": 0.0}, "sigma must be a finite number above 0"),
    ({"sigma": 0.1, "keep": 1.0}, "keep must be"),
    ({"sigma": 0.1, "keep": 0.5, "nt_samples": 5}, "nt_samples=5 is too few"),
    ({}, "or sigma, for smoothed")])
def test_bad_settings_of_smoothed_certificates(settings, words, data, tmp_path):
    with pytest.raises(ValueError, match=words):
        lx.certify_dataset(Saliency(make_net()), data, out=tmp_path, **settings)


def test_an_attribution_that_cannot_be_pickled_says_what_to_do(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)  # as where it is not installed
    net = make_net()
    with pytest.raises(ValueError, match="attribution cannot be pickled.*function of a module"):
        lx.certify_dataset(Saliency(lambda x: net(x)), data, out=tmp_path, executor=Copied(),
                           eps=0.1)


def test_a_model_that_cannot_be_certified_ends_the_run(data, tmp_path):
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).double().train()
    with pytest.raises(lx.TrainingModeError):
        lx.certify_dataset(Saliency(net), data, out=tmp_path, eps=0.1)


def test_the_folder_must_be_there_for_the_worker(data, tmp_path, monkeypatch):
    class Elsewhere(Copied):
        def submit(self, call, /, *args):
            for file in tmp_path.glob(".work-*"):
                file.unlink()
            return super().submit(call, *args)

    monkeypatch.setattr(running, "perform", _forgetful)
    with pytest.raises(ValueError, match="folder that all workers share"):
        lx.certify_dataset(make_attribution(), data, out=tmp_path, executor=Elsewhere(), **SETTINGS)


def _forgetful(payload, chunk):
    from lirpa_explain.datasets import work

    work._LOADED.clear()
    return work.perform(payload, chunk)


def test_pools_of_our_own_are_replaced_and_those_of_others_are_not():
    pools = [Copied(deaths=2), Copied(deaths=1), Copied()]
    crew = Crew(pools[0], lambda: 2, lambda: pools.pop(0))
    pools.pop(0)
    assert sorted(crew.do(abs, range(-9, 0))) == list(range(1, 10)) and not pools
    with pytest.raises(lx.WorkerDied, match="was killed"):
        list(Crew(Copied(deaths=1), lambda: 1).do(abs, [1]))
    with pytest.raises(lx.WorkerDied):  # again and again
        list(Crew(Copied(deaths=1), lambda: 1, lambda: Copied(deaths=9)).do(abs, [1, 2]))


def test_forks_would_hang():
    torch.set_num_threads(2)
    try:
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(
            "fork")) as pool, pytest.raises(ValueError, match="spawn"), crew_of(pool):
            pass
    finally:
        torch.set_num_threads(1)


def test_contents_are_the_same_for_equal_objects():
    """Of parameters, code and what functions close over."""
    first, again, other = make_net(), make_net(), make_net(1)
    assert contents_of(m=first) == contents_of(m=again) != contents_of(m=other)

    def scaled(factor):
        return lambda x: factor * x

    assert contents_of(f=scaled(2)) == contents_of(f=scaled(2)) != contents_of(f=scaled(3))
    assert contents_of(s={"a", "b"}) == contents_of(s={"b", "a"})


@pytest.mark.slow
def test_contents_are_those_that_another_process_finds():
    code = ("import lirpa_explain, torch; from lirpa_explain.fingerprint import contents_of; "
            "torch.manual_seed(0);print(contents_of(m=torch.nn.Linear(2, 1), s={'a', 'b', 'c'}, "
            "f=lambda x: x in {'p', 'q'}))")
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")}
    assert len(found) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pool", "dask"])
def test_a_worker_that_is_killed_costs_its_chunk_and_no_more(kind, data, tmp_path):
    """Two workers, one killed in the middle; in the end all examples have certify's bounds."""
    x = torch.cat([data[0]] * 40)
    y = torch.cat([data[1]] * 40)
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run([sys.executable, str(script), kind, str(tmp_path)], capture_output=True,
                          text=True,
                          timeout=300, env={**os.environ, "PYTHONPATH": str(script.parents[1])})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "killed" in done.stdout
    expected = lx.certify(make_attribution(), data[0], target=data[1], **SETTINGS)
    for side, values in stored(tmp_path).items():
        assert len(values) == len(x) == len(y)
        torch.testing.assert_close(values[:COUNT], getattr(expected, side), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(values, values[:COUNT].repeat(40, 1), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_run_that_is_killed_resumes(tmp_path):
    """Killed twice with all that it has, without a chance to say so."""
    script = Path(__file__).with_name("killed.py")
    for _ in range(2):
        before = len(list(tmp_path.glob("0*.parquet")))
        run = subprocess.Popen([sys.executable, str(script), "none", str(tmp_path)],
                               env={**os.environ, "PYTHONPATH": str(script.parents[1])})
        while len(list(tmp_path.glob("0*.parquet"))) < before + 3:
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert 6 <= len(list(tmp_path.glob("0*.parquet"))) < 70
    subprocess.run([sys.executable, str(script), "none", str(tmp_path)], check=True,
                   env={**os.environ, "PYTHONPATH": str(script.parents[1])})
    assert len(lx.read_results(tmp_path)) == 40 * COUNT
