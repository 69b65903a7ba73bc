"""Who does the work: this process, a pool of processes of our own, or an executor of the
caller's.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

import torch

from ..errors import WorkerDied

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 3
"""Tasks in flight, for each worker: enough that none waits, few enough that little is held."""

MOST_DEATHS = 3
"""How often workers of our own die, without a task done in between, before the run ends."""


class Crew:
    """An executor, and what is known of it.

    Args:
        executor: where tasks go; None: this process does them.
        workers: how many tasks it does at a time, about.
        renew: makes another one when a worker has died; None if that is the caller's.
    """

    def __init__(self, executor: Executor | None, workers: Callable[[], int] = lambda: 1,
                 renew: Callable[[], Executor] | None = None) -> None:
        self.executor, self.workers, self.renew = executor, workers, renew
        self.deaths = 0

    @property
    def shares_memory(self) -> bool:
        """Whether its workers see what this process has."""
        return self.executor is None or isinstance(self.executor, ThreadPoolExecutor)

    def do(self, call: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """What `call` returns for each task, as they are done; those that have not begun at the end
        are given up.

        Yields:
            What a task returned.

        Raises:
            ValueError: the executor is closed.
            WorkerDied: a worker died, and nobody else takes its task.
        """
        if self.executor is None:
            yield from map(call, tasks)
            return
        left, waiting = iter(tasks), dict[Future[R], T]()
        try:
            while True:
                lost = list[T]()
                for task in islice(left, max(0, AHEAD * self.workers() - len(waiting))):
                    waiting[self._submit(call, task)] = task
                if not waiting:
                    return
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    task = waiting.pop(future)
                    if isinstance(future.exception(), BrokenExecutor):
                        lost.append(task)
                    else:
                        yield self._result(future)
                        self.deaths = 0
                if lost:
                    left = chain([*lost, *waiting.values()], left)
                    waiting.clear()
                    self._renew()
        finally:
            for future in waiting:
                future.cancel()

    def _result(self, future: Future[R]) -> R:
        try:
            return future.result()
        except CancelledError as error:
            raise died() from error
        except Exception as error:  # whatever a worker raises
            raise (died() if is_death(error) else error) from error.__cause__

    def _submit(self, call: Callable[[T], R], task: T) -> Future[R]:
        while True:
            try:
                return self.executor.submit(call, task)  # type: ignore[union-attr]
            except BrokenExecutor:
                self._renew()
            except RuntimeError as error:
                raise ValueError(
                    f"The executor is closed ({error}): pass one that runs.") from error

    def _renew(self) -> None:
        """Take another pool.

        Raises:
            WorkerDied: that is not ours to do, or would be in vain.
        """
        self.deaths += 1
        if self.renew is None or self.deaths > MOST_DEATHS:
            raise died()
        self.executor = self.renew()


def died() -> WorkerDied:
    """The error of a worker's death."""
    return WorkerDied("A worker died: it was killed, perhaps because memory ran out. What was "
                      "written is kept; give the call again with a new executor, and with a "
                      "smaller chunk, batch_size or memory_limit if memory is short.")


def is_death(error: BaseException) -> bool:
    """Whether dask gave a task up because the workers died that had it."""
    distributed = sys.modules.get("distributed")
    return distributed is not None and isinstance(error, distributed.KilledWorker)


@contextmanager
def crew_of(executor: Any) -> Iterator[Crew]:
    """A crew for the time of a run.

    Args:
        executor: None for this process; a number of processes; any `concurrent.futures.Executor`,
            which stays open; or a `dask.distributed.Client`.

    Yields:
        The crew.

    Raises:
        TypeError: it is none of these.
        ValueError: the number is not positive, or the executor would hang.
    """
    if executor is None:
        yield Crew(None)
    elif isinstance(executor, int) and not isinstance(executor, bool):
        yield from _own(executor)
    elif isinstance(executor, Executor):
        _check_fork(executor)
        client = getattr(executor, "_client", None)
        yield Crew(executor, _threads(client) if client is not None else _known_workers(executor))
    elif hasattr(executor, "get_executor"):
        yield Crew(executor.get_executor(), _threads(executor))
    else:
        raise TypeError(f"executor is a {type(executor).__name__}; pass None, a number of "
                        "processes, an executor of concurrent.futures, or a dask.distributed "
                        "Client.")


def _check_fork(executor: Executor) -> None:
    """Refuse processes that would wait for ever for threads which a fork does not take along."""
    context = getattr(executor, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork" and torch.get_num_threads() > 1:
        raise ValueError("The executor's processes are forks, in which torch's threads do not run: "
                         "pass a number of processes, or ProcessPoolExecutor(..., "
                         "mp_context=multiprocessing.get_context('spawn')), or call "
                         "torch.set_num_threads(1) before anything else.")


def _own(count: int) -> Iterator[Crew]:
    if count < 1:
        raise ValueError(f"executor is {count}; pass at least 1 process, or None for this one.")
    pools = [_processes(count)]

    def renew() -> Executor:
        pools[-1].shutdown(wait=False, cancel_futures=True)
        pools.append(_processes(count))
        return pools[-1]

    try:
        yield Crew(pools[0], lambda: count, renew)
    finally:
        pools[-1].shutdown(wait=True, cancel_futures=True)


def _processes(count: int) -> ProcessPoolExecutor:
    threads = max(1, torch.get_num_threads() // count)  # together as many as this process would use
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin, (threads,))


def _begin(threads: int) -> None:
    """Start a worker: Ctrl-C is the parent's, and without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _known_workers(executor: Executor) -> Callable[[], int]:
    count = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
    return lambda: count


def _threads(client: Any) -> Callable[[], int]:
    """How many tasks a cluster does at a time, as it grows and shrinks."""
    return lambda: max(1, sum(client.nthreads().values()))
