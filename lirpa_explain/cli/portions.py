"""The work of a command in portions, a radius and a chunk each, done here, by processes, or by a
cluster.
"""

import functools
import os
import pickle
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..datasets.executors import crew_of
from ..datasets.work import ONE_AT_A_TIME
from .job import Job, make_job
from .store import Store, once

Write = Callable[[Job, Any, slice, Path], None]
"""Writes the file of a radius and a chunk; a function of a module, so that other processes find
it."""


@dataclass(frozen=True)
class Portion:
    """What is to be done at one radius for one chunk.

    Args:
        eps: the radius; None of draws, which are of none.
        rows: the examples.
        files: those to write, and what writes each.
    """

    eps: float | None
    rows: slice
    files: tuple[tuple[Path, Write], ...]

    def do(self, job: Job) -> None:
        """Write the files that are not there yet."""
        with ONE_AT_A_TIME:
            for path, write in self.files:
                once(path, functools.partial(write, job, self.eps, self.rows))


def do_all(job: Job, store: Store, work: Sequence[tuple[str, Write]]) -> None:
    """Write every file that is not there yet.

    Args:
        job: whose radii and chunks.
        store: where.
        work: kinds of files, and what writes one.

    Raises:
        KeyboardInterrupt: stopped by the user; what is written is whole.
        WorkerDied: processes died again and again.
    """
    given = job.arguments
    portions = [Portion(eps, rows, tuple((store.path(eps, rows, kind).resolve(), write)
                                         for kind, write in work)) for eps, rows in job.tasks]
    missing = [portion
               for portion in portions if not all(path.exists() for path, _ in portion.files)]
    done = len(portions) - len(missing)
    with executor_of(given) as executor, crew_of(executor) as crew, tqdm(total=len(
        portions), initial=done, unit="chunk", disable=True if given.quiet else None) as bar:
        if crew.shares_memory:
            results = crew.do(lambda portion: portion.do(job), missing)
        else:
            results = crew.do(functools.partial(do_elsewhere, given, os.getcwd()), missing)
        try:
            for _ in results:
                done += 1
                bar.update()
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"{done} of {len(portions)} parts are done") from stop


def do_elsewhere(given: Namespace, folder: str, portion: Portion) -> None:
    """Do a portion in a process that has nothing yet but the arguments.

    Args:
        given: the arguments.
        folder: in which they were given: names of files and modules may start there.
        portion: what to do.
    """
    with ONE_AT_A_TIME:
        if os.getcwd() != folder:
            os.chdir(folder)
        key = pickle.dumps(given)
        if key not in _MADE:
            _MADE.clear()
            _MADE[key] = make_job(given)
        portion.do(_MADE[key])


_MADE: dict[bytes, Job] = {}
"""The job of this process, with what it has traced."""


@contextmanager
def executor_of(given: Namespace) -> Iterator[Any]:
    """What --workers and --scheduler ask for, as `crew_of` takes it.

    Yields:
        None for this process, a number of processes, or a client of dask.

    Raises:
        ValueError: both are given, or there is no such scheduler.
        ImportError: dask is missing.
    """
    if given.scheduler is None:
        yield given.workers if given.workers > 1 else None
        return
    if given.workers > 1:
        raise ValueError("--workers are processes of this machine, --scheduler has its own: give "
                         "one of them.")
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("--scheduler needs dask: pip install 'lirpa_explain[dask]', or pip "
                          "install distributed.") from error
    try:
        client = Client(given.scheduler)
    except OSError as error:  # a timeout, too
        raise ValueError(f"There is no dask scheduler at {given.scheduler}: {error}") from error
    with client:
        yield client
