"""`lirpa-explain attack`: the strongest change found, beside what is certified."""

import csv
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..attacks import OBJECTIVES, SANDWICHES
from ..attacks import attack as search
from ..certificates.layout import tensors
from ..datasets.folder import atomically
from .job import Job, make_job
from .portions import do_all
from .store import Store, load_arrays, save_arrays

CSV = "attack.csv"
HEADER = ("example", "name", "target", "eps", "objective", "certified", "found", "ratio")


def run(given: Namespace) -> int:
    """Do what the arguments say.

    Returns:
        0.

    Raises:
        ValueError: bad input, and so the other errors of `make_job`, `certify` and `attack`.
    """
    name, options = given.objective
    if name not in {*SANDWICHES, *OBJECTIVES, "width"}:
        raise ValueError(f"There is no objective {name!r}; there are "
                         f"{', '.join(sorted({*SANDWICHES, *OBJECTIVES}))}, width.")
    job = make_job(given)
    store = Store(given.out, {
        "command": "attack", **job.settings(), "objective": name, "objective's settings": options,
        **{f"--{key}": vars(given)[key] for key in ("samples", "restarts", "steps")}},
                  given.restart)
    do_all(job, store, [("", write_attack)])
    atomically(given.out / CSV, lambda path: write_table(path, job, store, name))
    if not given.quiet:
        print(f"Written: {given.out / CSV}, worst inputs beside it in {given.out}")
    return 0


def write_attack(job: Job, eps: float, rows: slice, path: Path) -> None:
    """Attack a chunk, and write what was found."""
    save_arrays(path, attack(job, eps, rows))


def attack(job: Job, eps: float, rows: slice) -> dict[str, Tensor | None]:
    """Attack a chunk: the number found and where; and the certified one, if there is one.

    Raises:
        KeyboardInterrupt: stopped by the user: half a search is none.
    """
    given = job.arguments
    name, options = given.objective
    settings: dict[str, Any] = {key: vars(given)[key]
                                for key in ("samples", "restarts", "steps", "seed")}
    result: Any
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The attack was stopped")  # it is no result here
        if name in SANDWICHES or name == "width":
            result = job.certify(eps, rows).sandwich(name, settings=settings, **options)
            certified, found = result.certified, result.found
        else:
            with job.seeded(rows):
                result = search(job.attribution, job.data.inputs[rows], eps=eps, **job.ball,
                                objective=name,
                                options=options, **settings, **job.keywords_of(rows))
            certified, found = None, result.value
    if result.interrupted:
        raise KeyboardInterrupt
    points = () if result.worst_inputs is None else tensors(result.worst_inputs)
    return {"certified": certified, "found": found,
            **{f"worst_inputs{i or ''}": p for i, p in enumerate(points)}}


def write_table(path: Path, job: Job, store: Store, objective: str) -> None:
    """Write a row for each radius and example."""
    lines: list[list[Any]] = []
    for eps, rows in job.tasks:
        arrays = load_arrays(store.path(eps, rows))
        found = arrays["found"].double()
        certified = (arrays["certified"].double()
                     if "certified" in arrays else torch.full_like(found, torch.nan))
        ratio = torch.where(certified == found, torch.ones_like(found), certified / found)
        for i, example in enumerate(range(rows.start, rows.stop)):
            target = "" if job.targets is None else int(job.targets[example])
            numbers = ["" if number.isnan() else float(number)
                       for number in (certified[i], found[i], ratio[i])]
            name = "" if job.data.names is None else job.data.names[example]
            lines.append([example, name, target, eps, objective, *numbers])
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *lines])
