"""The order of the rooms: none imports one that stands above it, and each knows only the foreign
worlds that it may.

A room is a folder of the package, or a file beside the folders.
"""

import ast
import functools
from pathlib import Path

import pytest

import lirpa_explain

PACKAGE = Path(lirpa_explain.__file__).parent

FLOORS = [
    ["errors", "compat", "registration", "rounding", "tensors", "boxes", "arrays", "extras",
     "unable"],
    ["fingerprint", "explained", "relaxations"],
    ["version", "guards", "inputs", "operators", "certificates"],
    ["graph", "plots", "decision"],
    ["attributions"],
    ["bounding"],
    ["refining"],
    ["certifying"],
    ["attacks", "training", "measures", "certify", "interchange", "smoothing"],
    ["tables", "reporting"],
    ["datasets"],
    ["cli"],
    ["__main__", "__init__"],
]
"""From the ground up."""

FOREIGN = {
    "captum": {"attributions", "bounding", "certifying", "cli", "datasets", "graph", "guards",
               "inputs", "measures", "smoothing", "training"},
    "auto_LiRPA": {"attacks", "bounding", "certify", "certifying", "compat", "measures",
                   "operators", "refining"},
    "auto_LiRPA.BoundedModule": {"bounding"},
    "auto_LiRPA.bound_ops": {"bounding", "operators", "refining"},
    "torch.fx": {"graph"},
    "matplotlib": {"plots"},
    "pyarrow": {"datasets"},
    "distributed": {"cli"},
    "pandas": {"certificates", "datasets"},
    "scipy": {"refining", "smoothing"},
}
"""Worlds of others, and the rooms that know them."""

UP = {("certifying", "attacks")}
"""The arrow that runs up: a certificate can be attacked, and brings along how."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Dotted names of all modules that a file imports, also within functions."""
    package = ["lirpa_explain", *path.relative_to(PACKAGE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{name.name}" for name in node.names}
    return frozenset(found)


FILES = sorted(PACKAGE.rglob("*.py"))
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}


def arrows() -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second."""
    found = set()
    for path in FILES:
        for name in imported(path):
            head, *rest = name.split(".")
            if head == "lirpa_explain" and rest and rest[0] in FLOOR and rest[0] != room_of(path):
                found.add((room_of(path), rest[0]))
    return found


def test_every_room_has_its_floor():
    assert {room_of(path) for path in FILES} == set(FLOOR)


def test_no_room_imports_one_that_stands_above_it_or_beside():
    up = {(low, high) for low, high in arrows() if FLOOR[high] >= FLOOR[low]}
    assert up == UP


@pytest.mark.parametrize("world", FOREIGN)
def test_foreign_worlds_are_known_to_few_rooms(world):
    known = {room_of(path) for path in FILES
             if any(f"{name}.".startswith(f"{world}.") for name in imported(path))}
    assert known == FOREIGN[world]

