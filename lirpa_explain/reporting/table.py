"""Certified numbers as a table: a row for each radius and example, a column for each metric."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..certificates import Certificate
from ..certificates.layout import flatten, tensors
from ..certificates.metrics import lookup
from ..measures.prediction import Prediction

Chunks = Sequence[Certificate]
ByRadius = Mapping[float | None, Chunks]
"""Certificates by radius, the examples of each in one or several certificates, in order; None: of
no stated radius."""

PREDICTED = {
    "classes": ("predicted", "the class predicted at the unperturbed input"),
    "certain": ("prediction", "whether it is certain that no perturbation changes the predicted "
                "class"),
    "confidence_lower": ("confidence_lower", "the softmax probability of that class is at least "
                         "this"),
    "confidence_upper": ("confidence_upper", "the softmax probability of that class is at most "
                         "this"),
}
"""Fields of a `Prediction` that become columns: their names, and what they say."""


@dataclass(frozen=True)
class Measure:
    """A metric with its settings.

    Args:
        name: a key of `lirpa_explain.METRICS`.
        settings: its settings; tensors may have a row for each of all examples.

    Example:
        >>> Measure("top_k_overlap", {"k": 3}).label
        'top_k_overlap(k=3)'
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The metric and its settings, for people."""
        words = ", ".join(f"{name}={'...' if isinstance(value, Tensor) else value}"
                          for name, value in self.settings.items())
        return f"{self.name}({words})" if words else self.name

    @property
    def words(self) -> str:
        """What the number is."""
        row = lookup(self.name)
        side = "at most this, whatever the perturbation" if row.direction == "upper" else \
            "at least this, whatever the perturbation"
        return f"{row.formula}; {side}"

    def of(self, chunks: Chunks) -> Tensor:
        """The numbers of all examples, (N,)."""
        counts = [len(tensors(chunk.nominal)[0]) for chunk in chunks]
        stops = torch.tensor(counts).cumsum(0).tolist()
        parts = []
        for chunk, count, stop in zip(chunks, counts, stops, strict=True):
            shape = tensors(chunk.nominal)[0].shape[1:]
            rows = {name: value[stop - count: stop]
                    if isinstance(value, Tensor) and value.shape == (stops[-1], *shape)
                    else value for name, value in self.settings.items()}
            parts.append(chunk.metric(self.name, **rows).detach().cpu())
        return torch.cat(parts)


@dataclass(frozen=True)
class Signs(Measure):
    """The share of the entries that are not 0 whose sign is certain; a 0 has no sign that could be
    open.
    """

    name: str = "certain_signs"

    @property
    def words(self) -> str:
        """What the number is."""
        return "share of the entries that are not 0 whose sign no perturbation changes"

    def of(self, chunks: Chunks) -> Tensor:
        """The numbers of all examples, (N,); 1 where all entries are 0."""
        shares = []
        for chunk in chunks:
            counts = flatten(chunk.nominal) != 0
            certain = (flatten(chunk.sign()) != 0) & counts
            shares.append((certain.sum(1) + 1.0 * ~counts.any(1)) / counts.sum(1).clamp(min=1))
        return torch.cat(shares).detach().cpu()


SIDES = {"smoothed": Measure("importance_agreement")}
"""By what a certificate is of: the share of the features that stay on their side; of others, of the
signs that stay."""


def sides(kind: str) -> Measure:
    """The share of the features that stay on the side where they are: of 0, or of what makes them
    important.
    """
    return SIDES.get(kind, Signs())


def default_measures(features: int, kind: str = "attribution") -> list[Measure]:
    """Metrics that say something of any attribution of so many features.

    Args:
        features: D.
        kind: of what the certificates are, as `Meaning.kind`.
    """
    # that all of the features stay among all of them says nothing
    k = min(5, max(1, features // 2))
    return [sides(kind), Measure("top_k_overlap", {"k": k}), Measure("cosine"),
            Measure("relative", {"norm": 2}), Measure("linf")]


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        name: its header.
        words: what it says.
        values: one for each row.
    """

    name: str
    words: str
    values: list[Any]

    @property
    def is_number(self) -> bool:
        """Whether its cells are numbers."""
        return all(isinstance(value, int | float) and not isinstance(value, bool)
                   for value in self.values)


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Args:
        columns: first those that say what a row is of, then those that are certified.
        certified: how many the latter are.
    """

    columns: list[Column]
    certified: int

    @property
    def rows(self) -> list[list[Any]]:
        """The cells, row by row."""
        return [list(row) for row in zip(*(column.values for column in self.columns), strict=True)]

    def column(self, name: str) -> Column:
        """A column by its name."""
        return next(column for column in self.columns if column.name == name)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a .csv file."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([[column.name for column in self.columns], *self.rows])


def decided_share(certificate: Certificate) -> Tensor:
    """Of a refined certificate: the share of each example's rows that is decided, (N,)."""
    decided, rows = certificate.decided, certificate.rows
    asked = torch.ones_like(decided, dtype=torch.bool) if rows is None else (rows != 0).any(2)
    return ((decided != 0) & asked).sum(1) / asked.sum(1).clamp(min=1) + 1.0 * (asked.sum(1) == 0)


def make_table(certificates: ByRadius, measures: Sequence[Measure],
               names: Sequence[str] | None = None, targets: Sequence[int] | None = None,
               predictions: Mapping[float | None, Prediction] | None = None,
               reached: Mapping[str, Column] | None = None) -> Table:
    """Measure certificates.

    Args:
        certificates: by radius.
        measures: the metrics.
        names: of the examples, (N,).
        targets: the classes explained, (N,).
        predictions: what is certified of the predictions, by radius.
        reached: columns of what attacks found, by the label of the measure that each stands beside.

    Returns:
        A table with a row for each radius and example, in that order.
    """
    count = sum(len(tensors(chunk.nominal)[0]) for chunk in next(iter(certificates.values())))
    times = len(certificates)
    columns = [Column("example", "number of the example", list(range(count)) * times)]
    if names is not None:
        columns.append(Column("name", "name of the example", list(names) * times))
    if targets is not None:
        columns.append(Column("target", "the output that is explained, held fixed",
                              [int(t) for t in targets] * times))
    if None not in certificates:
        columns.append(Column("eps", "radius of the ball",
                              [eps for eps in certificates for _ in range(count)]))
    known = len(columns)
    for measure in measures:
        columns.append(Column(measure.label, measure.words,
                              [value for chunks in certificates.values()
                               for value in measure.of(chunks).tolist()]))
        if reached and measure.label in reached:
            columns.append(reached[measure.label])
    widths = [value for chunks in certificates.values() for chunk in chunks
              for value in (flatten(chunk.upper) - flatten(chunk.lower)).mean(1).tolist()]
    columns.append(Column("mean_width", "mean over the features of upper bound - lower bound",
                          widths))
    every = [chunk for chunks in certificates.values() for chunk in chunks]
    if all(chunk.decided is not None for chunk in every):
        columns.append(Column("decided", "share of what was refined that is decided: certified, or "
                              "refuted by an input", [share for chunk in every
                                                      for share in decided_share(chunk).tolist()]))
    for field_name, (name, words) in PREDICTED.items() if predictions else ():
        columns.append(Column(
            name, words, [value for eps in certificates
                          for value in getattr((predictions or {})[eps], field_name).tolist()]))
    return Table(columns, len(columns) - known)
