"""The tables of what is supported, made from the registries.

`python -m lirpa_explain.tables` prints them; `python -m lirpa_explain.tables README.md
examples/guide` writes them into a file and all pages of a folder, each between the lines `<!--
table: NAME -->` and `<!-- end -->`.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from .attacks import OBJECTIVES
from .attributions import ATTRIBUTIONS, WHY_NOT
from .bounding.methods import METHODS
from .certificates import METRICS
from .graph.refusals import REFUSALS
from .operators import OPERATORS
from .smoothing import RADII
from .training import LOSSES


def markdown(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown.

    Example:
        >>> print(markdown(("a", "b"), [("1", "2")]))
        | a | b |
        | --- | --- |
        | 1 | 2 |
    """
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
                     for line in lines)


def tables() -> dict[str, str]:
    """Every table by name."""
    return {
        "attributions": markdown(("Captum class", "what is bounded"),
                                 [(f"`{kind.__name__}`", row.formula)
                                  for kind, row in ATTRIBUTIONS.items()]),
        "not_certified": markdown(("of Captum", "not certified, because"), WHY_NOT.items()),
        "objectives": markdown(("objective", "what an attack maximises"),
                               [(f"`{name}`", row.words)
                                for name, row in OBJECTIVES.items() if name not in METRICS]),
        "methods": markdown(("method", "bounds"),
                            [(f"`{name}`", row.words) for name, row in METHODS.items()]),
        "metrics": markdown(("metric", "number", "range", "bounded from", "settings", "source"),
                            _metrics()),
        "radii": markdown(("radius", "of what"),
                          [(f"`{name}`", row.words) for name, row in RADII.items()]),
        "losses": markdown(("loss", "number, for each example", "0 certifies", "options", "source"),
                           _losses()),
        "refusals": markdown(("refused", "because", "instead"),
                             [(row.what, row.why, row.instead) for row in REFUSALS]),
        "operators": markdown(("operator", "torch", "auto_LiRPA's own"), _operators()),
    }


def _metrics() -> list[tuple[str, ...]]:
    return [(f"`{name}`", row.formula, row.range, ("above" if row.direction == "upper" else "below")
             + (", exact" if row.exact else ""),
             ", ".join(f"`{setting}`" for setting in row.settings), row.source)
            for name, row in METRICS.items()]


def _losses() -> list[tuple[str, ...]]:
    return [(f"`{name}`", row.formula, row.zero,
             ", ".join(f"`{setting}`" for setting in row.settings), row.source)
            for name, row in LOSSES.items()]


def _operators() -> list[tuple[str, ...]]:
    """One line for each operator; a gradient of which the same is said stands beside its
    function.
    """
    lines: dict[tuple[str, str], list[str]] = {}
    for name, row in OPERATORS.items():
        of_function = OPERATORS.get(name.removesuffix("_gradient"), row)
        same = (row.covers, row.auto_lirpa) == (of_function.covers, of_function.auto_lirpa)
        lines.setdefault((row.covers, of_function.name if same else name), []).append(f"`{name}`")
    return [(", ".join(names), covers, OPERATORS[first].auto_lirpa)
            for (covers, first), names in lines.items()]


def fill(text: str) -> str:
    """Replace the contents of every table in a text.

    Raises:
        ValueError: the text names a table that there is not.
    """
    made = tables()

    def replace(match: re.Match[str]) -> str:
        if match[1] not in made:
            raise ValueError(f"There is no table {match[1]!r}; there are {', '.join(made)}.")
        return f"<!-- table: {match[1]} -->\n{made[match[1]]}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", replace, text, flags=re.S)


def main(arguments: list[str]) -> None:
    """Print the tables, or write them into the files, and the Markdown files of the folders,
    given.
    """
    for path in map(Path, arguments):
        for page in sorted(path.glob("*.md")) if path.is_dir() else [path]:
            page.write_text(fill(page.read_text()))
    if not arguments:
        print("\n\n".join(tables().values()))


if __name__ == "__main__":
    main(sys.argv[1:])
