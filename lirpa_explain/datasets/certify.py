"""certify_dataset(): certificates of a whole data set, a file for each chunk of examples."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import pickle
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..attributions import lookup, refuse_mixed
from ..certificates.metrics import lookup as lookup_metric
from ..certifying.certifier import Certifier
from ..fingerprint import contents_of
from ..reporting.page import as_measure, need_jinja2
from ..reporting.table import Measure
from ..smoothing.draws import function_of, words_for
from ..smoothing.settings import Smoothing
from ..smoothing.statistics import need_scipy
from ..version import AUTO_LIRPA_VERSION, __version__
from .examples import Example, Indexed, Streamed, examples_of
from .executors import Crew, crew_of
from .folder import atomically, digest
from .results import Results, write_report
from .rows import need_pyarrow
from .work import (
    Chunk,
    Outcome,
    Payload,
    Work,
    attribution_of,
    digest_of,
    file_of,
    forward_of,
    perform,
)

ENOUGH = 16
"""So many examples that fail, all for one reason and with none certified, are the settings'
fault."""


@dataclass
class DatasetRun:
    """What a run of `certify_dataset` did.

    Args:
        out: the folder of results.
        examples: how many were certified, or tried, in this run.
        skipped: how many were there already.
        failed: reasons of those that could not be certified in this run, by number.
        seconds: how long it took.
    """

    out: Path
    examples: int = 0
    skipped: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count a chunk."""
        self.examples += len(outcome.rows)
        self.failed |= outcome.failed

    def check(self, at_the_end: bool) -> None:
        """Refuse to go on where nothing can be certified.

        Raises:
            ValueError: all examples fail for one reason.
        """
        reasons = set(self.failed.values())
        if self.skipped or len(self.failed) < self.examples or len(reasons) != 1:
            return
        if self.examples >= ENOUGH or at_the_end:
            raise ValueError(f"None of the first {self.examples} examples can be certified, all "
                             f"for one reason: {reasons.pop()}")


def certify_dataset(
    attribution: Any, dataset: Any, *, out: str | os.PathLike[str], executor: Any = None,
    chunk: int = 16, target: Any = None,
    metrics: Sequence[str | tuple[str, Mapping[str, Any]] | Measure] = (),
    features: Sequence[str] | None = None, report: str | os.PathLike[str] | None = None,
    seed: int = 0, restart: bool = False, progress: bool | None = None,
    **settings: Any) -> DatasetRun:
    """Certify an attribution of every example of a data set, and write the results to a folder as
    they come.

    The folder has a Parquet file for each chunk, with a row for each example: its bounds and
    nominal value as lists, metrics, seconds, or why it could not be certified. The same call
    resumes where an earlier one was stopped.

    Args:
        attribution: a Captum object, or a function without arguments that returns one, which each
            worker calls: for models that cannot be pickled, or that each worker loads by itself.
            With sigma, it may return anything that explains.
        dataset: an array (N, *S); a pair of arrays, inputs and targets; a torch `Dataset` or a
            sequence of items; or an iterable of them. An item is an input or (input, target);
            several inputs are a tuple in place of the one. What is indexed is read by the workers,
            an iterable here.
        out: the folder, on a file system that all workers share.
        executor: None for this process; a number of processes on this machine, replaced if one
            dies; any `concurrent.futures.Executor`; or a `dask.distributed.Client`.
        chunk: how many examples are certified at once, and make a file.
        target: for all examples, in place of the data set's: a Captum target, or "predicted" for
            the class that the model predicts for each; None: the data set's.
        metrics: keys of `lirpa_explain.METRICS`, or pairs of one and its settings: a column each.
        features: names of the inputs' columns, as for `certify`.
        report: an HTML file to write at the end; see `lirpa_explain.report`.
        seed: of what attributions draw, together with the example's number.
        restart: throw away the results that are there.
        progress: whether to show a progress bar with the time left; None: on a terminal.
        **settings: keywords of `lirpa_explain.certify`, the same for all examples: eps, norm,
            method, n_steps, ...; or, with sigma among them, of `lirpa_explain.certify_smoothed`:
            bounds are then of the smoothed map at the radius of interest (0 if there is none), and
            the column "radii" says how far each entry is certain.

    Returns:
        A `DatasetRun`: how many examples were done, and which failed, and why.

    Raises:
        ValueError: bad arguments, a folder with other results, a closed executor, something that
            cannot be pickled, or no example that can be certified; each message says what to do.
        TypeError: arguments of wrong types.
        ImportError: pyarrow or pandas is missing.
        UnsupportedAttribution: as `certify`, and so UnsupportedOperation and TrainingModeError. All
            other errors of single examples are recorded and end nothing.
        WorkerDied: a worker of the caller's executor died, and nobody else takes its chunk.

    Example:
        >>> import tempfile, torch, lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(),
        ...                             torch.nn.Linear(3, 2))
        >>> x, y = torch.rand(5, 2), torch.tensor([0, 1, 1, 0, 1])
        >>> with tempfile.TemporaryDirectory() as out:
        ...     run = lx.certify_dataset(Saliency(model), (x, y), out=out, eps=0.01, chunk=2,
        ...                              metrics=["cosine"])
        ...     table = lx.read_results(out)
        >>> run.examples, run.failed, len(table)
        (5, {}, 5)
    """
    need_pyarrow()
    measures = [as_measure(metric) for metric in metrics]
    for measure in measures:
        lookup_metric(measure.name)
    if report is not None:
        need_jinja2()
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk is {chunk!r}; it must be an integer of at least 1.")
    smooths = _check(settings)
    settings |= {} if features is None else {"features": list(features)}
    examples = examples_of(dataset)
    made = attribution_of(attribution, smooths)
    if not smooths:
        lookup(made)
    refuse_mixed(made, "row of a data set")
    results = Results(Path(out).resolve())
    described = _described(made, examples, settings, target, measures, chunk, seed)
    takes_target = "target" in inspect.signature(
        function_of(getattr(made, "attribution_method", made))).parameters
    with crew_of(executor) as crew:
        fingerprint = results.begin(described, restart)
        work = Work(attribution, examples if isinstance(examples, Indexed) else None, settings,
                    target, takes_target, measures, seed, results.folder, fingerprint, smooths)
        run = _run(work, examples, chunk, results, crew, progress)
    if report is not None:
        write_report(results, report, measures, progress)
    return run


def _run(work: Work, examples: Indexed | Streamed, size: int, results: Results, crew: Crew,
         progress: bool | None) -> DatasetRun:
    """Do all chunks that are not there yet."""
    started, run = time.perf_counter(), DatasetRun(results.folder)
    with _calls(work, crew) as call, tqdm(total=examples.count, unit="example", disable=None
                                          if progress is None else not progress) as bar:
        try:
            for outcome in crew.do(call, _missing(examples, size, results, run, bar, crew)):
                run.add(outcome)
                bar.update(len(outcome.rows))
                run.check(at_the_end=False)
            run.check(at_the_end=True)
        except KeyboardInterrupt as stop:
            done = run.skipped + run.examples
            of = "" if examples.count is None else f" of {examples.count}"
            raise KeyboardInterrupt(
                f"{done}{of} examples are done; the same call resumes") from stop
        except ValueError:
            if not run.skipped and len(run.failed) == run.examples:  # there is nothing to keep
                results.clear()
            raise
    run.seconds = time.perf_counter() - started
    return run


def _missing(examples: Indexed | Streamed, size: int, results: Results, run: DatasetRun, bar: Any,
             crew: Crew) -> Iterator[Chunk]:
    """The chunks that are not there yet; those of a stream with their examples."""
    chunks: Iterable[tuple[range, list[Example] | None]]
    if isinstance(examples, Streamed):
        chunks = examples.chunks(size)
    else:
        chunks = ((range(start, min(start + size, examples.count)), None)
                  for start in range(0, examples.count, size))
    there = results.names()
    for rows, given in chunks:
        if file_of(rows) not in there:
            yield rows, given if crew.shares_memory or given is None else pickle.dumps(given)
            continue
        if given is not None and results.inputs_of(file_of(rows)) != digest_of(given):
            raise ValueError(f"{results.folder} has results of other examples than the iterable "
                             f"gives (numbers {rows.start} to {rows.stop - 1}): give restart=True "
                             "to replace them, or another out.")
        run.skipped += len(rows)
        bar.update(len(rows))


@contextmanager
def _calls(work: Work, crew: Crew) -> Iterator[Callable[[Chunk], Outcome]]:
    """What does a chunk, for the time of a run: the work itself, or its pickled copy in the
    folder.
    """
    if crew.shares_memory:
        yield lambda chunk: work.do(*chunk)
        return
    content = pickled(work)
    sha = hashlib.sha256(content).hexdigest()
    path = work.out / f".work-{sha[:16]}"
    atomically(path, lambda temporary: temporary.write_bytes(content))
    try:
        yield functools.partial(perform, Payload(path, sha, uuid.uuid4().hex))
    finally:
        path.unlink(missing_ok=True)


def pickled(work: Work) -> bytes:
    """The work for another process; by cloudpickle, which takes a notebook's classes along, if it
    is installed.

    Raises:
        ValueError: it cannot be pickled; the message says what, and what to do.
    """
    try:
        from cloudpickle import dumps
    except ImportError:
        dumps = pickle.dumps
    for what, part, how in (
        ("The attribution", work.attribution, "pass a function of a module, without arguments, "
         "that returns it"),
        ("The data set", work.dataset, "pass an iterable of it, such as (dataset[i] for i in "
         "range(len(dataset))), which is read here, or make it of what can be pickled"),
        ("A setting", (work.settings, work.target, work.measures), "pass numbers, tensors, "
         "functions of a module")):
        try:
            dumps(part)
        except Exception as error:  # whatever the caller's classes raise
            raise ValueError(f"{what} cannot be pickled, as work in other processes needs "
                             f"({type(error).__name__}: {error}): {how}.") from error
    return dumps(work)


def _check(settings: Mapping[str, Any]) -> bool:
    """Refuse settings that have no use here; returns whether certificates are to be smoothed ones.

    Raises:
        ValueError: the first of them.
    """
    for name in ("inputs", "differentiable"):
        if name in settings:
            raise ValueError(f"certify_dataset takes no {name}.")
    balls = sorted({"eps", "perturbation", "parameters"} & set(settings))
    if "sigma" not in settings:
        if not balls:
            raise ValueError("Give eps, or perturbation or parameters: what the bounds are to hold "
                             "for; or sigma, for smoothed certificates.")
        return False
    if balls:
        raise ValueError(f"sigma makes smoothed certificates, which {balls[0]} does not go with: "
                         "give radius, the l2 radius of interest.")
    need_scipy()
    Smoothing(**{entry.name: settings[entry.name]
                 for entry in fields(Smoothing) if entry.name in settings})
    return True


def _described(attribution: Any, examples: Indexed | Streamed, settings: Mapping[str, Any],
               target: Any, measures: Sequence[Measure], chunk: int, seed: int) -> dict[str, Any]:
    """Whatever determines the results, by name."""
    contents = contents_of(**{"the model": forward_of(attribution), "the attribution": attribution,
                              "the data set": examples if isinstance(examples, Indexed) else None})
    return {**contents, "name": words_for(attribution), "target": _plain(target), "chunk": chunk,
            "seed": seed,
            "metrics": digest([[measure.name, dict(measure.settings)] for measure in measures]),
            **{name: _plain(value) for name, value in settings.items()},
            "lirpa_explain": __version__,
            "code of lirpa_explain": _own_code(), "auto_LiRPA": AUTO_LIRPA_VERSION,
            "torch": torch.__version__, "captum": metadata.version("captum")}


def _plain(value: Any) -> Any:
    """A setting as words or a digest."""
    if isinstance(value, str | int | float | bool | None):
        return value
    return digest(value) if isinstance(value, Tensor) else contents_of(value=value)["value"]


@functools.cache
def _own_code() -> str:
    files = sorted(Path(inspect.getfile(Certifier)).parents[1].rglob("*.py"))
    return digest([file.read_bytes() for file in files])
