"""`Table`, of all that users can extend: it replaces nothing unasked, and names what it has.

A table may hold, beside its own rows, rows that it makes of those of another table, such as the
objective of each metric. They follow the other table: a metric that is registered later has an
objective from then on.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")
Row = TypeVar("Row")
Other = TypeVar("Other")

MOST = 50
"""So many keys a message lists; of a larger table those that are most like what was asked for."""


class UnknownName(ValueError, KeyError):
    """A table has no row of that name."""

    __str__ = Exception.__str__  # KeyError's shows quotation marks around the message


class Table(MutableMapping[Key, Row], Generic[Key, Row]):
    """Rows by their keys; a mapping that says what it has when it is asked for something else.

    Args:
        kind: what a row is, in the singular, for messages.
        call: the code that adds a row, for messages.
        complaints: what is wrong with a row, given its key and the row, in phrases; none if nothing
            is.
        error: what is raised for a key that there is not.
        spell: a key, for messages.
        source: another table, of whose rows this one makes some of its own.
        make: from a row of that table to the rows made of it, by their keys here.
        reserved: keys that nothing may have.

    Example:
        >>> table = Table("colour", "colours.add(name, value)",
        ...               lambda name, row: [] if row else ["is empty"])
        >>> table.add("red", "#f00")
        '#f00'
        >>> table.add("red", "#e00")
        Traceback (most recent call last):
        ValueError: The colour 'red' is already registered; choose another name, or pass ...
        >>> table["rad"]
        Traceback (most recent call last):
        lirpa_explain.registration.UnknownName: There is no colour 'rad'; there are red. Add ...
        >>> table.add("blue", "")
        ''
        >>> table.lint()
        ["colour 'blue' is empty"]
    """

    def __init__(self, kind: str, call: str, complaints: Callable[[Key, Row], list[str]], *,
                 error: type[Exception] = UnknownName, spell: Callable[[Any], str] = str,
                 source: "Table[Any, Any] | None" = None,
                 make: Callable[[Any], Mapping[Key, Row]] | None = None,
                 reserved: tuple[Key, ...] = ()) -> None:
        self.kind, self.call = kind, call
        self._complaints, self._error, self._spell = complaints, error, spell
        self._own: dict[Key, Row] = {}
        self._source, self._make, self._reserved = source, make, reserved
        self._dependents: list[Table[Any, Any]] = []
        self._changes = 0
        self._made: dict[Key, Row] = {}
        self._made_of = -1
        if source is not None:
            source._dependents.append(self)

    def add(self, key: Key, row: Row, *, overwrite: bool = False) -> Row:
        """Add a row, and return it.

        Args:
            key: its key.
            row: the new row.
            overwrite: replace a row of that key.

        Raises:
            ValueError: the key is taken, here or in a table made of this one, and `overwrite` is
                False.
        """
        if not overwrite:
            self.refuse_taken(key)
            for table in self._dependents:
                for made in table.rows_of(row):
                    table.refuse_taken(made)
        self[key] = row
        return row

    def refuse_taken(self, *keys: Key) -> None:
        """Raise ValueError if one of the keys is taken.

        Raises:
            ValueError: one is; the message says how to replace it.
        """
        taken = [repr(self._spell(key)) for key in keys if key in self or key in self._reserved]
        if taken:
            verb = "is" if len(taken) == 1 else "are"
            raise ValueError(
                f"The {self.kind} {', '.join(taken)} {verb} already registered; choose another "
                "name, or pass overwrite=True to replace it for the whole process.")

    def unknown(self, key: Any) -> str:
        """The message about a key that there is not."""
        names = sorted(self._spell(name) for name in self)
        near = difflib.get_close_matches(self._spell(key), names, 5, 0.4)
        meant = difflib.get_close_matches(self._spell(key), near, 1, 0.8)
        if len(names) > MOST:
            words = f"nearest of the {len(names)} there are: {', '.join(near) or 'none'}"
        elif meant:
            words = f"did you mean {meant[0]!r}? There are {', '.join(names)}"
        else:
            words = f"there are {', '.join(names)}"
        return f"There is no {self.kind} {self._spell(key)!r}; {words}. Add one with {self.call}."

    def lint(self) -> list[str]:
        """What is wrong with the rows, a line each."""
        return [f"{self.kind} {self._spell(key)!r} {complaint}" for key, row in self.items()
                for complaint in [*_misnamed(key, row), *self._complaints(key, row)]]

    def rows_of(self, row: Any) -> Mapping[Key, Row]:
        """The rows that are made of a row of the source."""
        return {} if self._make is None else self._make(row)

    def _rows_made(self) -> dict[Key, Row]:
        """The rows made of those of the source, as it is now."""
        if self._source is not None and self._made_of != self._source._version:
            self._made = {key: made for row in self._source.values()
                          for key, made in self.rows_of(row).items()}
            self._made_of = self._source._version
        return self._made

    @property
    def _version(self) -> int:
        """How often the table has changed, by itself or with its source."""
        return self._changes + (0 if self._source is None else self._source._version)

    def __getitem__(self, key: Key) -> Row:
        if key in self._own:
            return self._own[key]
        made = self._rows_made()
        if key in made:
            return made[key]
        raise self._error(self.unknown(key))

    def __setitem__(self, key: Key, row: Row) -> None:
        self._own[key] = row
        self._changes += 1

    def __delitem__(self, key: Key) -> None:
        """Remove a row of the table's own; one that is made of another table's goes with that."""
        del self._own[key]
        self._changes += 1

    def __contains__(self, key: object) -> bool:
        return key in self._own or key in self._rows_made()

    def get(self, key: Any, default: Any = None) -> Any:
        """The row of that key, or else the default."""
        return self[key] if key in self else default

    def __iter__(self) -> Iterator[Key]:
        return iter(self._own | self._rows_made())

    def __len__(self) -> int:
        return len(self._own | self._rows_made())

    def __repr__(self) -> str:
        return f"Table of {len(self)}, {self.kind}: {', '.join(map(self._spell, self))}"


def _misnamed(key: Any, row: Any) -> list[str]:
    """A complaint if a row says another name than its key."""
    name = getattr(row, "name", key)
    return [] if name == key else [f"is called {name!r} in its row"]


def empty(row: Any, *fields: str) -> list[str]:
    """Complaints about fields of a row that should have text and have none."""
    return [f"has no {field}" for field in fields if not getattr(row, field)]


def unless(*conditions: tuple[bool, str]) -> list[str]:
    """Complaints, each with what must hold for it not to be made."""
    return [complaint for holds, complaint in conditions if not holds]
