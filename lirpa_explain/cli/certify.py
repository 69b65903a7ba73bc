"""`lirpa-explain certify`: certificates, a table of metrics, attacks beside them, a report, and
requirements.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from ..certificates import Certificate
from ..certificates.layout import flatten
from ..certificates.metrics import lookup
from ..datasets.folder import atomically, digest
from ..measures.prediction import Prediction, certify_prediction
from ..reporting import report
from ..reporting.found import Reached, columns
from ..reporting.page import need_jinja2
from ..reporting.table import Measure, Table, default_measures, make_table
from .beside import attacked
from .job import Job, make_job
from .portions import do_all
from .require import complaints
from .store import Store, load_arrays, save_arrays

CSV = "metrics.csv"


def run(given: Namespace) -> int:
    """Do what the arguments say.

    Returns:
        0, or 1 if a requirement is not certified.

    Raises:
        ValueError: bad input, and so the other errors of `make_job` and of `lirpa_explain.certify`.
    """
    chosen = chosen_measures(given)
    job = make_job(given)
    wants_prediction = given.prediction or any(wanted.measure is None for wanted in given.require)
    refining = {} if given.refine is None else {"--refine": given.refine,
                                                "--seconds": given.seconds}
    store = Store(given.out, {"command": "certify", **job.settings(), **refining}, given.restart)
    do_all(job, store,
           [("", write_certificate), *([(".prediction", write_prediction)] * wants_prediction)])

    certificates = {eps: [Certificate.load(store.path(eps, rows)) for rows in job.chunks]
                    for eps in given.eps}
    predictions = {eps: load_prediction(store, job, eps)
                   for eps in given.eps} if wants_prediction else None
    return conclude(job, certificates, chosen, predictions,
                    partial(attacked, job, store) if given.attack else None)


def chosen_measures(given: Namespace) -> list[Measure]:
    """The metrics that are asked for, once it is certain that these, the required ones and the
    report can be made.

    Raises:
        ValueError: there is no such metric.
        ImportError: a report needs jinja2, which is missing.
    """
    chosen = [Measure(name, settings) for name, settings in given.metric]
    for measure in chosen + _required(given):
        lookup(measure.name)
    if given.report is not None:
        need_jinja2()
        given.report.parent.mkdir(parents=True, exist_ok=True)
    return chosen


def _required(given: Namespace) -> list[Measure]:
    """The metrics that --require names."""
    return [wanted.measure for wanted in given.require if wanted.measure is not None]


def conclude(job: Job, certificates: Mapping[float, Sequence[Certificate]], chosen: list[Measure],
             predictions: Mapping[float, Prediction] | None = None,
             attack: Callable[[Sequence[Measure]], dict[float | None, list[Reached]]]
             | None = None) -> int:
    """Write the table and the report, say what they say, and check requirements.

    Args:
        job: what was certified.
        certificates: of each radius, chunk by chunk.
        chosen: metrics; none: some that suit anything.
        predictions: what is certified of the predictions at each radius.
        attack: what attacks find of the metrics at each radius; None: none is run.

    Returns:
        0, or 1 if a requirement is not certified.
    """
    given, first = job.arguments, next(iter(certificates.values()))[0]
    defaults = default_measures(flatten(first.nominal).shape[1], first.meaning.kind)
    measures = unique((chosen or defaults) + _required(given))
    targets = None if job.targets is None else job.targets.tolist()
    known = cast("Mapping[float | None, Any]", certificates)
    found = attack(measures) if attack is not None else {}
    table = make_table(known, measures, job.data.names, targets, cast("Any", predictions),
                       columns(found, known, measures))
    atomically(given.out / CSV, table.write)
    if given.report is not None:
        atomically(given.report, lambda path: report(
            known, path, inputs=job.data.inputs, names=job.data.names,
            features=given.names or job.data.features, targets=targets, metrics=measures,
            predictions=predictions, found=found or None, progress=not given.quiet))
    if not given.quiet:
        print(summary(table))
        print(f"Written: {given.out / CSV}"
              + (f", {given.report}" if given.report is not None else "")
              + f", {len(job.tasks)} certificate{'s' * (len(job.tasks) > 1)} in {given.out}")
    lines = complaints(given.require, table, given.require_share)
    for line in lines:
        print(line)
    return 1 if lines else 0


def write_certificate(job: Job, eps: float, rows: slice, path: Path) -> None:
    """Certify a chunk, and refine the certificate if that is asked for."""
    certificate, given = job.certify(eps, rows), job.arguments
    if given.refine is not None:
        certificate = certificate.refine(wanted(given.refine), seconds=given.seconds,
                                         progress=not given.quiet)
    certificate.save(path)


def wanted(text: str) -> Any:
    """What --refine says, as `Certificate.refine` takes it.

    Example:
        >>> wanted("top_k:5"), wanted("sign")
        (('top_k', 5), 'sign')
    """
    name, _, number = text.partition(":")
    return ("top_k", int(number)) if name == "top_k" and number.isdigit() else text


def write_prediction(job: Job, eps: float, rows: slice, path: Path) -> None:
    """Certify the predictions of a chunk."""
    save_arrays(path, vars(predict(job, eps, rows)))


def predict(job: Job, eps: float, rows: slice) -> Prediction:
    """What is certified of the predictions of a chunk."""
    method = job.arguments.method
    return certify_prediction(job.model, job.data.inputs[rows], eps=eps, **job.ball, method=method,
                              batch_size=job.arguments.batch_size or 64)


def load_prediction(store: Store, job: Job, eps: float) -> Prediction:
    """The predictions of all examples at one radius."""
    parts = [load_arrays(store.path(eps, rows, ".prediction")) for rows in job.chunks]
    return Prediction(**{entry.name: torch.cat([part[entry.name] for part in parts])
                         for entry in fields(Prediction)})


def unique(measures: Sequence[Measure]) -> list[Measure]:
    """Each of equal name and settings once.

    Raises:
        ValueError: two differ, but not in their names.
    """
    found: dict[str, Measure] = {}
    for measure in measures:
        if digest(found.setdefault(measure.label, measure).settings) != digest(measure.settings):
            raise ValueError(f"Two metrics are both called {measure.label}; ask for one of them at "
                             "a time.")
    return list(found.values())


def summary(table: Table) -> str:
    """The mean of each certified number over the examples, a line for each radius."""
    numbers = [column for column in table.columns[-table.certified:]
               if column.is_number or column.name == "prediction"]
    radii = table.column("eps").values
    lines: list[list[Any]] = [["eps", *(column.name for column in numbers)]]
    for eps in dict.fromkeys(radii):
        chosen = [[value for value, radius in zip(column.values, radii, strict=True)
                   if radius == eps] for column in numbers]
        lines.append([f"{eps:g}", *(f"{sum(values) / len(values):.4g}" for values in chosen)])
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    rows = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines]
    return f"Means over {len(radii) // (len(lines) - 1)} examples\n" + "\n".join(rows)
