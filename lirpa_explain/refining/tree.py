"""Trees of domains, one for each function of a row whose least value is wanted, and what they are
grown for.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from .domains import Decision, Domain

CLOSE = 1e-9
"""Relative distance of a bound and what was found up to which they are taken for equal."""

Leaf = tuple[float, int, Domain, Decision]
"""Its lower bound, a number that tells it from others, the domain, and the decision to split it
by."""


class Grown(NamedTuple):
    """What is known of a tree; replaced as a whole, so that an interruption leaves it whole.

    Args:
        leaves: domains that can be split, the one with the lowest bound first (a heap).
        floor: the lowest bound of those that cannot.
        domains: how many were bounded.
    """

    leaves: tuple[Leaf, ...] = ()
    floor: float = math.inf
    domains: int = 0


Part = tuple[float, Domain, Decision | None]
"""A domain's lower bound, the domain, and what splits it."""

_numbers = itertools.count()


@dataclass(eq=False)
class Tree:
    """Domains that together hold a row's whole ball, with lower bounds of a function on each.

    Args:
        row: of the plan.
        function: (D,), of the row's result; its least value is wanted.
        start: a lower bound that is known.
        found: the least value found.
        reads: which entries of upstream gradients its bound on the whole ball is made of, (n,), by
            node; those that it reads within.
        walked: how many domains it had when it was last walked to a point.
    """

    row: int
    function: Tensor
    start: float = -math.inf
    found: float = math.inf
    grown: Grown = Grown()
    reads: dict[str, Tensor] = field(default_factory=dict)
    walked: int = 0

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Domains that can be split."""
        return self.grown.leaves

    @property
    def domains(self) -> int:
        """How many were bounded."""
        return self.grown.domains

    @property
    def lower(self) -> float:
        """A lower bound of the function."""
        leaves, floor, domains = self.grown
        if not domains:
            return self.start
        return max(self.start, min(leaves[0][0] if leaves else math.inf, floor, self.found))

    def lowest(self, count: int, level: float) -> list[Leaf]:
        """So many leaves with the lowest bounds, of those with bounds below a level."""
        level = min(level, self.grown.floor, self.found)
        return ([leaf for leaf in heapq.nsmallest(count, self.leaves) if leaf[0] < level]
                if count else [])

    def replace(self, gone: set[int], parts: Iterable[Part]) -> None:
        """Put domains in the place of leaves, by number, that they are all of."""
        parts = list(parts)
        leaves, floor, domains = self.grown
        kept = [leaf for leaf in leaves if leaf[1] not in gone]
        live = [part for part in parts if not part[1].is_empty]
        kept += [(lower, next(_numbers), domain, decision)
                 for lower, domain, decision in live if decision is not None]
        heapq.heapify(kept)
        floor = min([floor, *(lower for lower, _, decision in live if decision is None)])
        self.grown = Grown(tuple(kept), floor, domains + len(parts))


@dataclass(eq=False)
class Objective:
    """The least value of a function of one example's attribution, a sum over the rows of its plan.

    Args:
        example: of the certificate.
        function: (D,).
        trees: one for each row.
        weights: with which their values are summed, all positive.
        margin: by how much roundings may have moved the sum.
        threshold: what is to be decided: whether the function exceeds it everywhere; None: its
            value is wanted.
        start: a lower bound that is known.
        found: the least value found.
        point: which of the search's points has it.
        partner: the objective of the negated function.
        tolerance: share of the width of both bounds together up to which they may exceed what was
            found.
        seconds: spent on it.
    """

    example: int
    function: Tensor
    trees: list[Tree]
    weights: list[float]
    margin: float = 0.0
    threshold: float | None = None
    start: float = -math.inf
    found: float = math.inf
    point: int | None = None
    partner: Objective | None = None
    tolerance: float = 0.01
    seconds: float = 0.0

    @property
    def lower(self) -> float:
        """A lower bound, moved outward by roundings."""
        total = sum(w * tree.lower
                    for w, tree in zip(self.weights, self.trees, strict=True)) - self.margin
        return max(self.start, total)

    @property
    def domains(self) -> int:
        """How many domains were bounded for it."""
        return sum(tree.domains for tree in self.trees)

    @property
    def width(self) -> float:
        """Between the bounds from both sides."""
        return 0.0 if self.partner is None else -self.partner.lower - self.lower

    @property
    def decided(self) -> int:
        """1: it exceeds the threshold everywhere; -1: it does not somewhere; 0: that is open, or
        nothing was asked.
        """
        if self.threshold is None:
            return 0
        return int(self.lower > self.threshold) or -int(self.found <= self.threshold)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do for it."""
        if self.threshold is not None and self.decided:
            return True
        if self.threshold is None and math.isfinite(self.found - self.lower):
            least = 4 * self.margin + CLOSE * max(abs(self.found), abs(self.lower))
            if self.found - self.lower <= max(least, self.tolerance * self.width / 2):
                return True
        return all(tree.domains and not tree.leaves for tree in self.trees)

    def lowest(self, count: int) -> list[tuple[Tree, Leaf]]:
        """Leaves to split next, so many at most: of the tree that loses most beside what was found
        of it.
        """
        slack = [w * (tree.found - tree.lower)
                 for w, tree in zip(self.weights, self.trees, strict=True)]
        chosen: list[tuple[Tree, Leaf]] = []
        for i in sorted(range(len(slack)), key=lambda i: -slack[i]):
            tree = self.trees[i]
            chosen += [(tree, leaf) for leaf in tree.lowest(count - len(chosen),
                                                            self._level(tree, self.weights[i]))]
        return chosen

    def _level(self, tree: Tree, weight: float) -> float:
        """The bound from which on a leaf of a tree is good enough."""
        if len(self.trees) > 1:
            return tree.found
        if self.threshold is not None:
            return math.nextafter((self.threshold + self.margin) / weight, math.inf)
        return self.found / weight
