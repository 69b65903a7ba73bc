"""`lirpa-explain smooth`: smoothed certificates, a table of metrics, a report, and requirements."""

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..datasets.folder import atomically
from ..reporting.page import smoothed_radii
from ..smoothing import SmoothedCertificate, certify_smoothed
from ..smoothing.settings import Smoothing
from .certify import chosen_measures, conclude
from .job import Job, make_job
from .portions import do_all
from .store import Store

PARTIAL = ".part"
"""The end of the name of a file with the draws of a chunk that was interrupted."""


def run(given: Namespace) -> int:
    """Do what the arguments say.

    Returns:
        0, or 1 if a requirement is not certified.

    Raises:
        ValueError: bad input, and so the other errors of `make_job` and of
            `lirpa_explain.certify_smoothed`.
    """
    if any(wanted.measure is None for wanted in given.require):
        raise ValueError("--require prediction is for `certify`: smoothed certificates say nothing "
                         "of predictions.")
    chosen, settings = chosen_measures(given), settings_of(given)
    Smoothing(**settings)
    job = make_job(given)
    described = {f"--{name}": value for name, value in settings.items() if name != "seed"}
    store = Store(given.out, {"command": "smooth", **job.settings(), **described}, given.restart)
    do_all(job, store, [("", write_smoothed)])
    found = [doubled(job, rows, store.path(None, rows)) for rows in job.chunks]
    radii = given.radii or smoothed_radii(found[0])
    return conclude(job, {radius: [part.at(radius) for part in found] for radius in radii}, chosen)


def settings_of(given: Namespace) -> dict[str, Any]:
    """What the arguments say of the map."""
    return {"sigma": given.sigma, "keep": given.keep, "levels": given.levels,
            "absolute": not given.signed,
            "sum_channels": given.sum_channels, "confidence": given.confidence,
            "radius": given.radius, "nt_samples": given.samples, "seed": given.seed}


def write_smoothed(job: Job, _: None, rows: slice, path: Path) -> None:
    """Draw for a chunk; what was drawn before an interruption is kept.

    Raises:
        KeyboardInterrupt: stopped by the user.
    """
    given, inputs = job.arguments, job.data.inputs[rows]
    part = given.out / "smoothed" / f"{rows.start:05d}-{rows.stop - 1:05d}.npz{PARTIAL}"
    how: dict[str, Any] = {"batch_size": given.batch_size or 64,
                           "attribute_keywords": job.keywords_of(rows)}
    if part.exists():
        found = SmoothedCertificate.load(part).more(job.attribution, inputs, **how)
    else:
        found = certify_smoothed(job.attribution, inputs, features=job.feature_names,
                                 **settings_of(given), **how)
    if found.interrupted:
        atomically(part, found.save)
        raise KeyboardInterrupt
    found.save(path)
    part.unlink(missing_ok=True)


def doubled(job: Job, rows: slice, path: Path) -> SmoothedCertificate:
    """A chunk's certificate, with as many draws as are asked for.

    Raises:
        KeyboardInterrupt: stopped by the user; what was drawn is kept.
    """
    found, given = SmoothedCertificate.load(path), job.arguments
    most = max(int(found.state.drawn.max()), found.settings.nt_samples)
    missing = given.doublings - round(math.log2(most / found.settings.nt_samples))
    if found.interrupted or missing > 0:
        found = found.more(job.attribution, job.data.inputs[rows], doublings=max(missing, 0),
                           batch_size=given.batch_size or 64,
                           attribute_keywords=job.keywords_of(rows), progress=not given.quiet)
        atomically(path, found.save)
        if found.interrupted:
            raise KeyboardInterrupt
    return found
