"""Covering arrays: fewer rows than a full product, in which every pair (or triple) of values is
met.

Most defects show with one value or with two that meet; the full product repeats each pair often.
"""

import itertools
from collections.abc import Iterable
from typing import Any

Met = set[tuple[tuple[int, int], ...]]


def covering(*factors: Iterable[Any], strength: int = 2) -> list[tuple[Any, ...]]:
    """Rows with a value of each factor; all combinations of values of `strength` factors occur.

    Greedy: each row is the first of the product that has most combinations still missing.

    >>> covering("ab", "xy", (1, 2))
    [('a', 'x', 1), ('a', 'y', 2), ('b', 'x', 2), ('b', 'y', 1)]
    """
    values = [list(factor) for factor in factors]
    places = list(itertools.combinations(range(len(values)), strength))
    product = itertools.product(*(range(len(v)) for v in values))
    candidates = [(row, _combinations(row, places)) for row in product]
    missing = set().union(*(met for _, met in candidates))
    rows = []
    while missing:
        row, met = max(candidates, key=lambda candidate: len(candidate[1] & missing))
        missing -= met
        rows.append(tuple(of[i] for of, i in zip(values, row, strict=True)))
    return rows


def _combinations(row: tuple[int, ...], places: list[tuple[int, ...]]) -> Met:
    return {tuple((place, row[place]) for place in chosen) for chosen in places}
