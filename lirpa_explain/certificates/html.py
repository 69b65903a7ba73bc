"""A certificate as a notebook shows it: words, and a small table, or a picture of images."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from lirpa_explain.certificates.box import signs
from lirpa_explain.certificates.layout import flatten
from lirpa_explain.certificates.names import labels

if TYPE_CHECKING:
    from lirpa_explain.certificates.certificate import Certificate

EXAMPLES, ENTRIES = 3, 6
"""So many examples are shown, and of each the entries with the largest attribution."""

SIGNS = {1: "+", -1: "\N{MINUS SIGN}", 0: ""}

HEADER = ("example", "feature", "attribution", "lower", "upper", "certain")

PICTURES: list[Callable[[Certificate, int], str | None]] = []
"""What draws the first examples, so many at most, as the address of a picture; None if it cannot.

Rooms that know how to draw stand above this one, and are added by `@drawn`."""


def drawn(
    draw: Callable[[Certificate, int], str | None],
) -> Callable[[Certificate, int], str | None]:
    """Decorator: show what this function draws."""
    PICTURES.append(draw)
    return draw


def html(certificate: Certificate) -> str:
    """See `Certificate._repr_html_`."""
    title, *lines = repr(certificate).splitlines()
    facts = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(words)}</td></tr>"
        for name, words in map(_split, lines)
    )
    shown = next(
        (picture for draw in PICTURES if (picture := draw(certificate, EXAMPLES)) is not None), None
    )
    body = (
        _table(certificate)
        if shown is None
        else f'<img alt="bounds of the attribution" src="{shown}">'
    )
    return f"<div><strong>{escape(title)}</strong><table>{facts}</table>{body}</div>"


def _split(line: str) -> tuple[str, str]:
    """Name and words of a line of the certificate's text."""
    name, _, words = line.strip().partition("  ")
    return name, words.strip()


def _table(certificate: Certificate) -> str:
    """The entries with the largest attribution of the first examples, with their bounds."""
    part = certificate[:EXAMPLES]
    lower, nominal, upper = (
        flatten(side).detach().double().cpu() for side in (part.lower, part.nominal, part.upper)
    )
    threshold = certificate.meaning.threshold
    certain, names = (signs(lower - threshold, upper - threshold),
                      labels(part.features, part.nominal))
    largest = nominal.abs().argsort(dim=1, descending=True, stable=True)[:, :ENTRIES].tolist()
    rows = [
        [
            str(n),
            names[i],
            *(f"{float(side[n, i]):.4g}" for side in (nominal, lower, upper)),
            SIGNS[int(certain[n, i])],
        ]
        for n, entries in enumerate(largest)
        for i in entries
    ]
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    head = "".join(f"<th>{name}</th>" for name in HEADER)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>" + _left_out(
        len(certificate), nominal.shape[1]
    )


def _left_out(count: int, width: int) -> str:
    """What the table does not show."""
    if count <= EXAMPLES and width <= ENTRIES:
        return ""
    return (f"<p>The largest {min(width, ENTRIES)} of {width} entries, of the first "
            f"{min(count, EXAMPLES)} of {count} examples; to_frame() has all.</p>")
