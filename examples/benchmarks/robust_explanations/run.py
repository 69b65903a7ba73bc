"""Runs: one net for each data set, recipe and seed, trained, evaluated and saved; none is done
twice.
"""

import csv
import itertools
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .data import Data
from .evaluate import evaluate
from .nets import ACTIVATIONS
from .settings import Recipe, Setup, setup_of, shortened
from .train import train


@dataclass(frozen=True)
class Run:
    """One net.

    Args:
        data_set: a key of `SETUPS` or `QUICK`.
        label: of the recipe, in tables.
        recipe: how it is trained.
        seed: of the training.
        folder: where the data are; None to download.
        out: where results go.
        short: whether only a glance at the data is wanted.
    """

    data_set: str
    label: str
    recipe: Recipe
    seed: int
    folder: Path | None
    out: Path
    short: bool = False

    @property
    def path(self) -> Path:
        """The file of its figures; the net is beside it."""
        return (self.out / "runs"
                / f"{self.data_set}-{self.label}-{self.recipe.name}-{self.seed}.json")


@cache
def load(data_set: str, folder: Path | None, short: bool) -> tuple[Setup, Data]:
    """A setup and its data, which a process loads once."""
    setup = setup_of(data_set)
    data = setup.load(folder)
    return (shortened(setup), data.subset(2000, 500)) if short else (setup, data)


def perform(run: Run, bar: int | None = None) -> dict[str, Any]:
    """Train and evaluate a net, and save both; a net that is there is evaluated only."""
    setup, data = load(run.data_set, run.folder, run.short)
    weights = run.path.with_suffix(".pt")
    started = time.perf_counter()
    if weights.exists():
        stored = torch.load(weights, weights_only=True)
        net = setup.net(ACTIVATIONS[run.recipe.activation]).eval().requires_grad_(False)
        net.load_state_dict(stored["net"])
        seconds = stored["seconds"]
    else:
        net = train(data, setup, run.recipe, run.seed, bar)
        seconds = time.perf_counter() - started
        replace_by(weights,
                   lambda path: torch.save({"net": net.state_dict(), "seconds": seconds}, path))
    result = {"data_set": run.data_set, "label": run.label, "recipe": run.recipe.name,
              "settings": asdict(run.recipe), "seed": run.seed, "training_s": seconds,
              **evaluate(net, data, setup, run.recipe.activation),
              "total_s": time.perf_counter() - started}
    replace_by(run.path, lambda path: path.write_text(json.dumps(result, indent=1)))
    return result


def replace_by(path: Path, write: Any) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    write(part)
    part.replace(path)


def perform_all(runs: Sequence[Run], jobs: int, threads: int) -> None:
    """Do what is not done yet. Ctrl-C loses the nets that are being trained, and nothing else."""
    left = [run for run in runs if not run.path.exists()]
    with tqdm(total=len(runs), initial=len(runs) - len(left), desc="nets", unit="net") as bar:
        if jobs == 1:
            torch.set_num_threads(threads)
            for run in left:
                bar.set_postfix_str(run.path.stem)
                perform(run, bar=1)
                bar.update()
            return
        pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), start_worker,
                                   (threads,))
        try:
            futures = {pool.submit(perform, run): run for run in left}
            for future in as_completed(futures):
                future.result()
                bar.set_postfix_str(futures[future].path.stem)
                bar.update()
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def start_worker(threads: int) -> None:
    """Ctrl-C reaches the whole group of processes; it is the parent that ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)


def collect(out: Path) -> list[dict[str, Any]]:
    """All finished runs, and results.csv with a line for each of their rows of figures."""
    results = [json.loads(path.read_text()) for path in sorted((out / "runs").glob("*.json"))]
    lines = [{key: result[key] for key in ("data_set", "label", "recipe", "seed", "accuracy",
                                           "majority", "training_s")}
             | row for result in results for row in result["figures"]]
    fields = list(dict.fromkeys(itertools.chain.from_iterable(lines)))

    def write(path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows(lines)

    replace_by(out / "results.csv", write)
    return results
