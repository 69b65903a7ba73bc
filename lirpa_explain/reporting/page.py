"""report(): certificates as one page to read in a browser, without any other file and without a
network.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from ..certificates import Certificate
from ..certificates.layout import Attributions, flatten, tensors
from ..certificates.names import labels
from ..measures.prediction import Prediction
from ..plots import is_image
from ..smoothing import SmoothedCertificate
from .figures import curve_figure, example_figure
from .found import by_radius as of_radii
from .found import columns as columns_found
from .table import (
    PREDICTED,
    ByRadius,
    Chunks,
    Column,
    Measure,
    Table,
    default_measures,
    make_table,
    sides,
)
from .verdict import MOST, Speaker
from .words import Words

MOST_FEATURES = {True: 10, False: 30}
"""Features of an example that are listed, those with the largest attribution: of an image, and of
anything else."""

Reportable = Certificate | Chunks | Mapping[Any, Certificate | Chunks] | SmoothedCertificate
"""What a report can be of."""

SMOOTHED = (0.25, 0.5, 1.0)
"""Radii at which smoothed certificates are reported where none is of interest, in deviations of the
noise."""


@dataclass(frozen=True)
class Feature:
    """A line of an example's list of features."""

    name: str
    nominal: float
    lower: float
    upper: float
    side: int
    word: str


@dataclass(frozen=True)
class View:
    """One example at one radius."""

    eps: float | None
    figure: str
    features: list[Feature]


@dataclass(frozen=True)
class Detail:
    """One example, to be opened."""

    example: int
    name: str
    target: int | None
    views: list[View]


def report(
    certificates: Reportable, path: str | os.PathLike[str], *,
    inputs: Attributions | None = None, names: Sequence[str] | None = None,
    features: Sequence[str] | None = None, targets: Sequence[int] | Tensor | None = None,
    metrics: Sequence[str | tuple[str, Mapping[str, Any]] | Measure] | None = None,
    predictions: Prediction | Mapping[Any, Prediction] | None = None, title: str | None = None,
    found: Any = None, unit: str = "", words: Mapping[str, str] | None = None, details: int = 200,
    failures: Mapping[str, str] | None = None, progress: bool = False) -> None:
    """Write a report of certificates as one HTML file, for people who were not there.

    It says in plain words, for each radius, for how many examples what is proven, and what that
    does not say. Then come a table that can be sorted with a row for each radius and example, the
    means of the metrics against the radius, and for each example pictures and its features with
    their bounds.

    Args:
        certificates: a certificate; a sequence of them, for further examples; or a mapping from
            radii to one or the other, for the same examples; or a smoothed certificate, which is
            reported at its radius of interest, or at some (other radii: `{radius:
            smoothed.at(radius) for radius in ...}`).
        path: the file to write; an existing one is replaced.
        inputs: what was certified, (N, *S), to show images beside their maps.
        names: of the examples, N.
        features: of the columns of a table; default: the certificates' own.
        targets: the outputs explained, N.
        metrics: keys of `lirpa_explain.METRICS`, or pairs of one and its settings; default: some
            that suit anything.
        predictions: what `certify_prediction` gave, for each radius if these are several.
        title: of the page; default: the attribution's name.
        found: what attacks found: a `Sandwich` of these examples, several, or a mapping from radii
            to one or several. A metric's stands beside the certified number; those of
            "top_k_overlap" and "sign" say of how many examples what is proven of others is refuted.
        unit: of the inputs, and so of radii, such as "standard deviations".
        words: texts in place of those of `lirpa_explain.reporting.WORDS`, by their keys, as for
            another language.
        details: how many examples, the first ones, get pictures and lists.
        failures: why other examples could not be certified, by their names.
        progress: show a progress bar.

    Raises:
        ValueError: names, features or targets are not as many as needed, radii differ in their
            examples, what was found is of other radii or examples, or a text has no such key.
        ImportError: jinja2 or matplotlib is missing.

    Example:
        >>> import pathlib, tempfile, torch, lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model, x = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh()), torch.rand(2, 3)
        >>> certificates = {eps: lx.certify(Saliency(model), x, eps=eps, target=0, abs=False)
        ...                 for eps in (0.01, 0.1)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = pathlib.Path(folder, "report.html")
        ...     lx.report(certificates, page, features=["a", "b", "c"])
        ...     print(page.read_text()[:15])
        <!DOCTYPE html>
    """
    jinja2 = need_jinja2()
    chunks = by_radius(certificates)
    first = next(iter(chunks.values()))[0]
    counts = {eps: sum(len(tensors(part.nominal)[0]) for part in parts)
              for eps, parts in chunks.items()}
    count = counts[next(iter(counts))]
    if set(counts.values()) != {count}:
        raise ValueError(f"All radii must have the same examples; given: {counts}.")
    width = flatten(first.nominal).shape[1]
    for what, given, expected in (("names", names, count), ("targets", targets, count),
                                  ("features", features, width),
                                  ("inputs", None if inputs is None else tensors(inputs)[0],
                                   count)):
        if given is not None and len(given) != expected:
            raise ValueError(f"{what} must be {expected}; given: {len(given)}.")
    measures = [as_measure(metric) for metric in metrics] if metrics is not None \
        else default_measures(width, first.meaning.kind)
    say, sides_found = Words(words), of_radii(found, chunks)
    classes = None if targets is None else [int(target) for target in targets]
    predicted = cast("Mapping[float | None, Prediction] | None",
                     {None: predictions} if isinstance(predictions, Prediction) else predictions)
    reached = columns_found(sides_found, chunks, measures)
    table = make_table(chunks, measures, names, classes, predicted, reached)
    speaker, k = Speaker(say, is_image(first), unit), asked_for(measures, width)
    verdicts = [speaker.at_radius(parts, k, (predicted or {}).get(eps), sides_found.get(eps, ()))
                for eps, parts in chunks.items()]

    radii = [eps for eps in chunks if eps is not None]
    in_unit = f" {unit}" if unit else ""
    curves = [
        (column.name, column.words, curve_figure(radii, column, reached.get(column.name),
                                                 say("radius axis", unit=unit and f" ({unit})")))
        for column in _drawn(table, chunks) if len(radii) > 1 and column not in reached.values()]
    titles = list(names) if names is not None else [str(i) for i in range(count)]
    listed = [_detail(chunks, i, titles[i], None if classes is None else classes[i], inputs,
                      features, say) for i in tqdm(range(min(details, count)), desc="report",
                                                   disable=None if progress else True)]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lirpa_explain.reporting"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = functools.partial(number, say=say)
    page = environment.get_template("report.html").render(
        title=title or say("title", attribution=first.attribution), say=say, certificate=first,
        chunks=chunks, count=count, features=width, radii=radii, verdicts=verdicts, unit=in_unit,
        assumptions=assumptions(first, predicted is not None, say), table=table, curves=curves,
        reached=reached, details=listed, images=is_image(first), failures=dict(failures or {}),
        elapsed=sum(part.elapsed_s for parts in chunks.values() for part in parts))
    with open(path, "w", encoding="utf-8") as file:
        file.write(page)


def asked_for(measures: Sequence[Measure], width: int) -> int:
    """How many of the most important features a report speaks of: as its metrics do, else a few."""
    for measure in measures:
        if measure.name == "top_k_overlap" and set(measure.settings) == {"k"}:
            return int(measure.settings["k"])
    return min(MOST, width)


def need_jinja2() -> Any:
    """The template engine.

    Raises:
        ImportError: it is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("Reports need jinja2: pip install jinja2.") from error
    return jinja2


def by_radius(certificates: Reportable) -> ByRadius:
    """Certificates in the form that tables are made of.

    Raises:
        ValueError: there are none.
        TypeError: something else is among them.
    """
    if isinstance(certificates, SmoothedCertificate):
        certificates = {radius: certificates.at(radius) for radius in smoothed_radii(certificates)}
    given = certificates if isinstance(certificates, Mapping) else {None: certificates}
    chunks = {eps: [part] if isinstance(part, Certificate) else list(part)
              for eps, part in given.items()}
    if not chunks or not all(chunks.values()):
        raise ValueError("There are no certificates to report on.")
    for part in (part for parts in chunks.values() for part in parts):
        if not isinstance(part, Certificate):
            raise TypeError(f"certificates holds a {type(part).__name__}; pass certificates, "
                            "sequences of them, or a mapping from radii to these.")
    return chunks


def smoothed_radii(certificate: SmoothedCertificate) -> list[float]:
    """The radii at which a smoothed certificate is reported: the one of interest, or some."""
    settings = certificate.settings
    return [part * settings.sigma
            for part in SMOOTHED] if settings.radius is None else [settings.radius]


def as_measure(metric: str | tuple[str, Mapping[str, Any]] | Measure) -> Measure:
    """A metric from whichever of the ways of naming one was chosen."""
    if isinstance(metric, Measure):
        return metric
    return Measure(metric) if isinstance(metric, str) else Measure(*metric)


def assumptions(certificate: Certificate, predicted: bool = False,
                say: Words | None = None) -> list[str]:
    """What the bounds say and what they presuppose, sentence by sentence.

    Args:
        certificate: one of those reported.
        predicted: whether predictions are certified as well.
        say: the texts.
    """
    say = say or Words()
    arithmetic = "outward" if certificate.rounding == "outward" else "rounded"
    return [say("good"), say("holds"), say("sound"), certificate.meaning.says,
            say("fixed" if predicted else "fixed alone"), say(arithmetic, dtype=certificate.dtype)]


def number(value: Any, say: Words | None = None) -> str:
    """A cell of a table, for people."""
    if isinstance(value, bool):
        return (say or Words())("yes" if value else "no")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _drawn(table: Table, chunks: ByRadius) -> list[Column]:
    """The numbers that are drawn against the radius."""
    columns = [column for column in table.columns[-table.certified:]
               if column.is_number and column.name != PREDICTED["classes"][0]]
    always = sides(next(iter(chunks.values()))[0].meaning.kind)
    if always.label in [column.name for column in columns]:
        return columns
    values = [value for parts in chunks.values() for value in always.of(parts).tolist()]
    return [Column(always.label, always.words, values), *columns]


def _detail(chunks: ByRadius, example: int, name: str, target: int | None,
            inputs: Attributions | None, features: Sequence[str] | None, say: Words) -> Detail:
    image = None if inputs is None or isinstance(inputs, tuple) else inputs[example]
    views = []
    for eps, parts in chunks.items():
        certificate, row = _find(parts, example)
        figure = example_figure(certificate, row, image, features)
        views.append(View(eps, figure, _features(certificate, row, features, say)))
    return Detail(example, name, target, views)


def _find(chunks: Chunks, example: int) -> tuple[Certificate, int]:
    """The certificate that an example is in, and its row."""
    for chunk in chunks:
        count = len(tensors(chunk.nominal)[0])
        if example < count:
            return chunk, example
        example -= count
    raise IndexError(example)


def _features(certificate: Certificate, row: int, names: Sequence[str] | None,
              say: Words) -> list[Feature]:
    """The features of an example with the largest attribution, largest first; one that is 0 has no
    sign to be open.
    """
    low, value, high = (
        torch.cat([part[row].detach().flatten() for part in tensors(side)]).double().cpu()
        for side in (certificate.lower, certificate.nominal, certificate.upper))
    order = value.abs().argsort(descending=True,
                                stable=True)[:MOST_FEATURES[is_image(certificate)]].tolist()
    named = labels(certificate.features if names is None else names, certificate.nominal)
    meaning = certificate.meaning
    side = (low > meaning.threshold).int() - (high < meaning.threshold).int()
    words = {1: say.named(meaning.above), 0: say("open"), -1: say.named(meaning.below)}
    is_zero = (value == 0) & (side == 0) & (meaning.threshold == 0)
    return [Feature(named[i], float(value[i]), float(low[i]), float(high[i]), int(side[i]),
                    say("zero") if is_zero[i] else words[int(side[i])]) for i in order]
