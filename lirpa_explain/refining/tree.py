"""Trees of domains, one for each function of a row whose least value is wanted, and what they are grown for."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .domains import Decision, Domain

Leaf = tuple[float, int, Domain, Decision | None]
"""Its lower bound, a number that tells it from others, the domain, and the decision to split it by, if there is one."""


@dataclass(eq=False)
class Tree:
    """Domains that together hold a row's whole ball, with lower bounds of a function on each.

    Args:
        row: of the plan.
        function: (D,), of the row's result; its least value is wanted.
        start: a lower bound that is known.
        leaves: domains that can be split, the one with the lowest bound first.
        floor: the lowest bound of those that cannot.
        found: the least value found.
        domains: how many were bounded.
    """

    row: int
    function: Tensor
    start: float = -math.inf
    leaves: list[Leaf] = field(default_factory=list)
    floor: float = math.inf
    found: float = math.inf
    domains: int = 0
    _numbers: itertools.count = field(default_factory=itertools.count)

    @property
    def lower(self) -> float:
        """A lower bound of the function."""
        least = min(self.leaves[0][0] if self.leaves else math.inf, self.floor)
        return max(self.start, min(least, self.found)) if self.domains else self.start

    @property
    def is_whole(self) -> bool:
        """Whether nothing was bounded yet."""
        return self.domains == 0

    def add(self, lower: float, domain: Domain, decision: Decision | None) -> None:
        """A domain that is a part of one that was taken; `decision` splits it, None: nothing does."""
        self.domains += 1
        if domain.is_empty:
            return
        if decision is None:
            self.floor = min(self.floor, lower)
        else:
            heapq.heappush(self.leaves, (lower, next(self._numbers), domain, decision))

    def take(self, level: float) -> Leaf | None:
        """The leaf with the lowest bound, if that is below a level, taken out of the tree."""
        if not self.leaves or self.leaves[0][0] >= min(level, self.floor, self.found):
            return None
        return heapq.heappop(self.leaves)

    def give_back(self, leaf: Leaf) -> None:
        """Put back a leaf that was not split after all."""
        heapq.heappush(self.leaves, leaf)


@dataclass(eq=False)
class Objective:
    """The least value of a function of one example's attribution, a sum over the rows of its plan.

    Args:
        example: of the certificate.
        function: (D,).
        trees: one for each row.
        weights: with which their values are summed, all positive.
        margin: by how much roundings may have moved the sum.
        threshold: what is to be decided: whether the function exceeds it everywhere; None: its value is wanted.
        start: a lower bound that is known.
        found: the least value found.
        point: which of the search's points has it.
        partner: the objective of the negated function.
        tolerance: share of the width of both bounds together up to which they may exceed what was found.
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
        total = sum(w * tree.lower for w, tree in zip(self.weights, self.trees, strict=True)) - self.margin
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
        """1: it exceeds the threshold everywhere; -1: it does not somewhere; 0: that is open, or nothing was asked."""
        if self.threshold is None:
            return 0
        return int(self.lower > self.threshold) or -int(self.found <= self.threshold)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do for it."""
        if self.threshold is not None and self.decided:
            return True
        if self.threshold is None and self.found - self.lower <= self.tolerance * self.width / 2:
            return True
        return all(not tree.leaves and not tree.is_whole for tree in self.trees)

    def leaves(self, count: int) -> list[tuple[Tree, Leaf]]:
        """Leaves to split next, so many at most: of the tree that loses most beside what was found of it."""
        slack = [w * (tree.found - tree.lower) for w, tree in zip(self.weights, self.trees, strict=True)]
        chosen: list[tuple[Tree, Leaf]] = []
        for i in sorted(range(len(slack)), key=lambda i: -slack[i]):
            tree = self.trees[i]
            level = self._level(tree, self.weights[i])
            while len(chosen) < count and (leaf := tree.take(level)) is not None:
                chosen.append((tree, leaf))
        return chosen

    def _level(self, tree: Tree, weight: float) -> float:
        """The bound from which on a leaf of a tree is good enough."""
        if len(self.trees) > 1:
            return tree.found
        if self.threshold is not None:
            return math.nextafter((self.threshold + self.margin) / weight, math.inf)
        return self.found / weight
