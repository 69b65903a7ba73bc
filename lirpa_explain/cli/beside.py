"""Attacks beside certificates: what `lirpa-explain certify --attack` searches for, a file for each
chunk.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..attacks import SANDWICHES
from ..datasets.folder import digest
from ..reporting.found import Reached
from ..reporting.table import Measure
from .job import Job
from .portions import do_all
from .store import Store, load_arrays, save_arrays


def attacked(job: Job, store: Store,
             measures: Sequence[Measure]) -> dict[float | None, list[Reached]]:
    """What attacks find of the metrics, and of the signs, at every radius.

    Args:
        job: whose certificates are attacked.
        store: where what was found is kept.
        measures: the metrics; those that have arrays among their settings are left out.
    """
    goals = [Measure("sign"),
             *(measure for measure in measures if measure.name in SANDWICHES
               and not any(isinstance(value, Tensor) for value in measure.settings.values()))]
    kind = f".attack-{digest([goal.label for goal in goals])[:8]}"
    do_all(job, store, [(kind, functools.partial(write_attacks, goals))])
    found: dict[float | None, list[Reached]] = {}
    for eps in job.arguments.eps:
        parts = [load_arrays(store.path(eps, rows, kind)) for rows in job.chunks]
        found[eps] = [Reached(goal.name, torch.cat([part[f"found {i}"] for part in parts]),
                              goal.settings) for i, goal in enumerate(goals)]
    return found


def write_attacks(goals: Sequence[Measure], job: Job, eps: float, rows: slice, path: Path) -> None:
    """Attack the certificate of a chunk, which raises SoundnessError if anything that is tried
    leaves it.

    Raises:
        KeyboardInterrupt: stopped by the user: half a search is none.
    """
    certificate, arrays = job.certify(eps, rows), {}
    for i, goal in enumerate(goals):
        side = certificate.sandwich(goal.name, settings={"seed": job.arguments.seed},
                                    **goal.settings)
        if side.interrupted:
            raise KeyboardInterrupt
        arrays[f"found {i}"] = side.found
    save_arrays(path, arrays)
