"""Certificates as rows of a Parquet file, one for each example, and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..certificates import Certificate
from ..certificates.layout import flatten, tensors
from ..certificates.meaning import Meaning
from .examples import Example

SIDES = ("lower", "nominal", "upper")
KNOWN = ("example", "target", *SIDES, "seconds", "error")
"""Columns that every file has."""

RADII = "radii"
"""The column of smoothed certificates that says within which l2 radius each entry stays on its
side."""

SPECIFIED = ("spec_lower", "spec_nominal", "spec_upper")
WORDS = ("attribution", "method", "perturbation", "dtype", "versions", "rounding", "features")
HEADER = b"lirpa_explain"
"""Where a file says what its rows are of."""

Rows = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class Part:
    """Examples that were certified together.

    Args:
        first: the place of the first of them in the chunk.
        certificate: theirs.
        metrics: numbers (N,), by the name of their column.
        columns: further ones, (N, D) each.
    """

    first: int
    certificate: Certificate
    metrics: dict[str, Tensor]
    columns: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def need_pyarrow() -> Any:
    """The Parquet library.

    Raises:
        ImportError: it is missing.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Results of data sets need pyarrow and pandas: pip install "
                          "'lirpa_explain[datasets]', or pip install pyarrow pandas.") from error
    return pyarrow


def write_rows(path: Path, rows: range, examples: Sequence[Example], parts: Sequence[Part],
               failed: dict[int, str], labels: Sequence[str], header: dict[str, Any]) -> None:
    """Write a chunk.

    Args:
        path: the file.
        rows: numbers of the examples.
        examples: these, one for each number.
        parts: what was certified.
        failed: reasons, by place in the chunk.
        labels: columns of the metrics.
        header: what else the file says of itself.
    """
    arrow = need_pyarrow()
    seconds = [0.0] * len(rows)
    columns: dict[str, list[Any]] = {side: [None] * len(rows) for side in SIDES}
    columns |= {label: [None] * len(rows) for label in labels}
    for part in parts:
        for name, values in _columns(part).items():
            columns.setdefault(name,
                               [None] * len(rows))[part.first: part.first + len(values)] = values
        count = len(tensors(part.certificate.nominal)[0])
        seconds[part.first: part.first + count] = [part.certificate.elapsed_s / count] * count
    bounds = arrow.list_(arrow.float32() if _is_single(examples) else arrow.float64())
    kinds = {name: arrow.float64() if name in labels else bounds for name in columns}
    targets = [example.target for example in examples]
    is_number = all(target is None or isinstance(target, int) for target in targets)
    fields = [("example", arrow.array(rows, arrow.int64())),
              ("target",
               arrow.array(targets, arrow.int64() if is_number else arrow.list_(arrow.int64()))),
              *((name, arrow.array(values, kinds[name])) for name, values in columns.items()),
              ("seconds", arrow.array(seconds, arrow.float64())),
              ("error",
               arrow.array([failed.get(place) for place in range(len(rows))], arrow.string()))]
    table = arrow.table(dict(fields))
    words = header | ({"certificate": words_of(parts[0].certificate)} if parts else {})
    arrow.parquet.write_table(table.replace_schema_metadata({HEADER: json.dumps(words)}), path)


def _is_single(examples: Sequence[Example]) -> bool:
    return any(x.dtype == torch.float32 for example in examples for x in example.inputs)


def _columns(part: Part) -> dict[str, list[Any]]:
    """The columns of what was certified together, a value for each of its examples."""
    certificate = part.certificate
    columns = {side: _lists(flatten(getattr(certificate, side))) for side in SIDES}
    count = len(columns["nominal"])
    for name in SPECIFIED:
        if getattr(certificate, name) is not None:
            columns[name] = _lists(getattr(certificate, name))
    if certificate.convergence_delta is not None:
        columns["convergence_delta"] = _lists(certificate.convergence_delta.reshape(count, -1))
    for name, value in certificate.meaning.facts.items():
        if isinstance(value, Tensor | tuple):
            columns[f"fact.{name}"] = _lists(_flat(value))
    columns |= {name: _lists(values) for name, values in part.columns.items()}
    return columns | {label: values.double().tolist() for label, values in part.metrics.items()}


def _flat(value: Any) -> Tensor:
    """A fact about each example, (N, D) or (N, 1)."""
    return value[:, None] if isinstance(value, Tensor) and value.ndim == 1 else flatten(value)


def _lists(rows: Tensor) -> list[Any]:
    return list(rows.detach().cpu().numpy())


def words_of(certificate: Certificate) -> dict[str, Any]:
    """What is said of all examples of a certificate alike."""
    meaning = {entry.name: getattr(certificate.meaning, entry.name)
               for entry in dataclasses.fields(Meaning) if entry.name != "facts"}
    facts = certificate.meaning.facts
    kinds = {name: "rows" if isinstance(value, Tensor) and value.ndim == 1 else "attributions"
             for name, value in facts.items() if isinstance(value, Tensor | tuple)}
    return {**{name: getattr(certificate, name) for name in WORDS}, "meaning": meaning,
            "fact columns": kinds,
            "facts": {name: value for name, value in facts.items() if name not in kinds},
            "shapes": [list(part.shape[1:]) for part in tensors(certificate.nominal)],
            "is_tuple": isinstance(certificate.nominal, tuple)}


def words_in(table: Any) -> dict[str, Any] | None:
    """What a file says of its certificate; None if no example has one."""
    return json.loads(table.schema.metadata[HEADER]).get("certificate")


def certificate_of(table: Any) -> Certificate | None:
    """The certificate of a file's rows, of those that have one; None if none has."""
    words = words_in(table)
    if words is None:
        return None
    kept = table.filter(table["error"].is_null())
    dtype = getattr(torch, words["dtype"])
    shapes = [tuple(shape) for shape in words["shapes"]]

    def rows(name: str) -> Tensor:
        return torch.tensor(kept[name].to_pylist(), dtype=dtype)

    def shaped(name: str) -> Tensor | tuple[Tensor, ...]:
        flat = rows(name).split([math.prod(shape) for shape in shapes], dim=1)
        parts = tuple(part.reshape(-1, *shape) for part, shape in zip(flat, shapes, strict=True))
        return parts if words["is_tuple"] else parts[0]

    facts = words["facts"] | {
        name: shaped(f"fact.{name}") if kind == "attributions" else rows(f"fact.{name}")[:, 0]
        for name, kind in words["fact columns"].items()}
    found: dict[str, Any] = {side: shaped(side) for side in SIDES}
    found |= {name: rows(name) for name in SPECIFIED if name in kept.column_names}
    found |= {name: words[name] for name in WORDS}
    if "convergence_delta" in kept.column_names:
        found["convergence_delta"] = rows("convergence_delta").flatten()
    return Certificate(**found, elapsed_s=sum(kept["seconds"].to_pylist()),
                       meaning=Meaning(**words["meaning"], facts=facts))
