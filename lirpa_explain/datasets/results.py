"""The folder of results, and what is read from it: a table, certificates, a report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..certificates import Certificate
from ..certificates.layout import features as count_of
from ..certificates.layout import tensors
from ..reporting import report
from ..reporting.table import Measure, default_measures
from .folder import Manifest
from .rows import HEADER, RADII, SIDES, certificate_of, need_pyarrow, words_in

MANIFEST = "_manifest.json"
"""Names that begin so are passed over by readers of Parquet folders."""

HOW = "give restart=True to replace them, or another out"


class Results:
    """A folder of Parquet files, one for each chunk, and a file that says what they are of.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[Path]:
        """The files of the chunks, in order."""
        return sorted(self.folder.glob("[0-9]*-[0-9]*.parquet"))

    def names(self) -> set[str]:
        """The names of the files of chunks."""
        return {file.name for file in self.files()}

    def begin(self, settings: Mapping[str, Any], restart: bool) -> str:
        """Make the folder, or see that it is of these settings; returns their fingerprint.

        Raises:
            ValueError: it has results of others.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = Manifest(self.folder / MANIFEST, settings, HOW)
        if restart:
            self.clear()
        if manifest.path.exists():
            manifest.compare()
        elif self.files():
            raise ValueError(f"{self.folder} has results but no {MANIFEST} that says of what: "
                             f"{HOW}.")
        for file in self.folder.glob(".*.tmp"):  # of workers that were killed
            file.unlink()
        manifest.write(fingerprint=manifest.fingerprint)
        return manifest.fingerprint

    def clear(self) -> None:
        """Throw the results away."""
        for file in [*self.files(), self.folder / MANIFEST]:
            file.unlink(missing_ok=True)

    @property
    def manifest(self) -> dict[str, Any]:
        """What the results are of.

        Raises:
            ValueError: the folder has none.
        """
        try:
            return json.loads((self.folder / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.folder} is not a folder of results ({error}): pass the `out` "
                             "of certify_dataset.") from error

    def inputs_of(self, name: str) -> str:
        """The hash of the examples of a file."""
        schema = need_pyarrow().parquet.read_schema(self.folder / name)
        return json.loads(schema.metadata[HEADER])["inputs"]

    def tables(self) -> Iterator[Any]:
        """The rows of each file.

        Yields:
            A pyarrow table for each file.

        Raises:
            ValueError: a file is damaged, or of another run.
        """
        arrow, fingerprint = need_pyarrow(), self.manifest["fingerprint"]
        for file in self.files():
            try:
                table = arrow.parquet.read_table(file)
                found = json.loads(table.schema.metadata[HEADER])["fingerprint"]
            except (arrow.ArrowInvalid, LookupError, TypeError, ValueError) as error:
                raise ValueError(f"{file} cannot be read ({error}): delete it and give the call "
                                 "again.") from error
            if found != fingerprint:
                raise ValueError(f"{file} is of another run than the rest of its folder: delete "
                                 "it.")
            yield table


def read_results(out: str | os.PathLike[str]) -> Any:
    """The results of `certify_dataset` as one pandas table, a row for each example that is done.

    Args:
        out: the folder.

    Returns:
        A `pandas.DataFrame` whose index is the example's number, with its target, bounds, metrics,
        seconds and error (None where it was certified). Where the features have names,
        "lower[NAME]", "nominal[NAME]" and "upper[NAME]" are columns of numbers; else "lower",
        "nominal" and "upper" hold arrays.

    Raises:
        ValueError: the folder has no results, or damaged ones.
        ImportError: pyarrow or pandas is missing.
    """
    arrow, results = need_pyarrow(), Results(Path(out))
    tables = list(results.tables())
    names = next((words["features"] for words in map(words_in, tables) if words is not None), None)
    if not tables:
        raise ValueError(f"{results.folder} has no results yet.")
    try:
        table = arrow.concat_tables(tables, promote_options="permissive").to_pandas()
    except ImportError as error:
        raise ImportError("A table of results needs pandas: pip install pandas.") from error
    table = table.set_index("example").sort_index()
    return table if names is None else _named(table, names)


def _named(table: Any, names: Sequence[str]) -> Any:
    """A column for each feature in place of lists."""
    import pandas

    missing = [float("nan")] * len(names)
    parts, sides = [], [side for side in (*SIDES, RADII) if side in table]
    for side in sides:
        rows = [missing if values is None else values for values in table[side]]
        parts.append(pandas.DataFrame(rows, index=table.index,
                                      columns=[f"{side}[{name}]" for name in names]))
    rest = table.drop(columns=sides)
    return pandas.concat([rest[["target"]], *parts, rest.drop(columns="target")], axis=1)


def certificates_of(results: Results) -> Iterator[tuple[Any, Certificate | None]]:
    """The rows of each file, and the certificate of those that have one.

    Yields:
        A pyarrow table, and its certificate.
    """
    for table in results.tables():
        yield table, certificate_of(table)


def write_report(results: Results, path: str | os.PathLike[str], measures: Sequence[Measure],
                 progress: bool | None) -> None:
    """Write a report of what a folder has.

    Args:
        results: the folder.
        path: the HTML file.
        measures: its columns; none: some that suit anything.
        progress: show a progress bar.

    Raises:
        ValueError: no example was certified.
    """
    certificates: list[Certificate] = []
    names: list[str] = []
    targets: list[Any] = []
    failures: dict[str, str] = {}
    for table, certificate in certificates_of(results):
        columns = table.select(["example", "target", "error"]).to_pydict()
        for number, target, error in zip(*columns.values(), strict=True):
            if error is None:
                names.append(str(number))
                targets.append(target)
            else:
                failures[str(number)] = error
        if certificate is not None:
            certificates.append(certificate)
    if not certificates:
        raise ValueError(f"No example of {results.folder} was certified: there is nothing to "
                         "report.")
    size = sum(map(count_of, tensors(certificates[0].nominal)))
    is_numbered = all(isinstance(target, int) for target in targets)
    report(certificates, path, names=names if failures else None,
           targets=targets if is_numbered else None, features=certificates[0].features,
           metrics=measures or default_measures(size, certificates[0].meaning.kind),
           failures=failures, progress=bool(progress))
