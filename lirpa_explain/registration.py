"""Rows of the tables that users can extend: nothing is replaced silently, and what is not there is named."""

from typing import Any, TypeVar

Row = TypeVar("Row")


def add(table: dict[str, Row], name: str, row: Row, kind: str, overwrite: bool) -> None:
    """Put a row into a table.

    Args:
        table: from names to rows.
        name: its key.
        row: the new row.
        kind: what the rows are, in the singular.
        overwrite: replace a row of that name.

    Raises:
        ValueError: the name is taken and `overwrite` is False.
    """
    if name in table and not overwrite:
        raise ValueError(f"The {kind} {name!r} is already registered; choose another name, or pass overwrite=True to "
                         "replace it for the whole process.")
    table[name] = row


def find(table: dict[str, Row], name: Any, kind: str, call: str) -> Row:
    """The row of that name.

    Args:
        table: from names to rows.
        name: its key.
        kind: what the rows are, in the singular.
        call: the code that adds a row.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in table:
        raise ValueError(f"There is no {kind} {name!r}; there are {', '.join(table)}. Add one with {call}.")
    return table[name]
