"""Every table that users can extend: it refuses overwrites, names what it has, and is complete."""

import pytest
from captum.attr import LimeBase

import lirpa_explain as lx
from lirpa_explain.graph.rules import RULES
from lirpa_explain.operators import ACTIVATIONS
from lirpa_explain.registration import Table
from lirpa_explain.training import LOSSES, TRAINING_METHODS

TABLES = {table.kind: table for table in (
    lx.OPERATORS, ACTIVATIONS, RULES, lx.ATTRIBUTIONS, lx.METRICS, lx.OBJECTIVES, lx.SANDWICHES,
    LOSSES, TRAINING_METHODS, lx.METHODS)}
each_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)

ABSENT = {
    "operator": ("thanh", "tanh", KeyError), "activation": ("thanh", "tanh", KeyError),
    "metric": ("l3", "l2", ValueError), "objective": ("l3", "l2", ValueError),
    "coupled metric": ("l3", "l2", ValueError),
    "attribution": (LimeBase, "Saliency", lx.UnsupportedAttribution),
    "lowering rule": ("aten.tanhh.default", "aten.tanh.default", lx.UnsupportedOperation),
    "loss": ("widht", "width", ValueError), "training method": ("pdg", "pgd", ValueError),
    "method of bounding": ("CRWN", "CROWN", ValueError)}
"""Keys that there are not, keys that the message must name, and what is raised."""


@each_table
def test_nothing_is_wrong_with_any_row(table):
    assert table.lint() == []


@each_table
def test_a_taken_key_is_refused(table):
    key, row = next(iter(table.items()))
    message = f"The {table.kind} '.*' is already registered.*overwrite=True"
    with pytest.raises(ValueError, match=message):
        table.add(key, row)
    assert table[key] is row


@each_table
def test_a_key_that_there_is_not_is_answered_with_those_there_are(table):
    key, named, error = ABSENT[table.kind]
    assert key not in table and table.get(key) is None
    with pytest.raises(error) as raised:
        table[key]
    message = str(raised.value)
    name = getattr(key, "__name__", key)
    assert message.startswith(f"There is no {table.kind} {name!r}; ") and f" {named}" in message
    assert message.endswith(f"Add one with {table.call}.")


@pytest.fixture
def colours():
    """A table, and one that is made of it: of each colour a light and a dark one."""
    source: Table[str, str] = Table("colour", "colours.add(...)", lambda name, row: [])
    made: Table[str, str] = Table(
        "shade", "shades.add(...)",
        lambda name, row: [] if row.startswith("shade") else ["is no shade"], source=source,
        make=lambda row: {f"{side} {row}": f"shade of {row}" for side in ("light", "dark")})
    source.add("r", "red")
    made.add("sky", "shade of azure")
    return source, made


def test_rows_made_of_another_tables_follow_it(colours):
    source, made = colours
    assert dict(made) == {"sky": "shade of azure", "light red": "shade of red",
                          "dark red": "shade of red"}
    lengths: Table[str, int] = Table("length", "none", lambda name, row: [], source=made,
                                     make=lambda row: {f"{row}!": len(row)})
    assert lengths["shade of red!"] == 12 and lengths["shade of azure!"] == 14
    source.add("g", "green")
    assert "shade of green!" in lengths
    assert made["dark green"] == "shade of green" and "light green" in made and len(made) == 5
    source.add("g", "grass", overwrite=True)
    assert "dark green" not in made and made["dark grass"] == "shade of grass"
    del source["r"]
    assert set(made) == {"sky", "light grass", "dark grass"}


def test_keys_are_taken_across_tables(colours):
    source, made = colours
    with pytest.raises(ValueError, match="The shade 'dark red' is already registered"):
        made.add("dark red", "another")
    made.add("dark blue", "shade")
    with pytest.raises(ValueError, match="The shade 'dark blue' is already registered"):
        source.add("b", "blue")
    assert "b" not in source
    made.add("dark red", "another", overwrite=True)  # a row of one's own goes before
    assert made["dark red"] == "another" and made.lint() == ["shade 'dark red' is no shade"]
