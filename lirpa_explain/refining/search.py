"""Growing trees of many functions side by side: domains are rows of a batch, and equal ones are
bounded once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from . import clock
from .choose import decisions
from .cuts import ROUNDS
from .domains import Domain
from .patterns import Patterns
from .problem import Problem, point_in
from .tree import Leaf, Objective, Part, Tree
from .walk import walked
from .within import Bounded, Reads

Line = tuple[Domain, Sequence[tuple[Tree, float]]]
"""A domain, and trees of which it is to be a part, with lower bounds that are known on it."""

Job = tuple[Tree, int | None, Domain, float]

T = TypeVar("T")

FUNCTIONS = 16
"""Most functions that one row of a batch bounds."""

PATIENCE = (16, 64, 256, 1024, 4096, 16384, 1 << 62)
"""Domains that an objective gets before the next one's turn, the first time, the second, ...: easy
ones come first."""

AGAIN = 1.2
"""Times the domains that a tree had at its last walk to a point, from which on there is another."""

PROGRAMS = 4
"""Linear programs a batch for points of leaves that are not split up yet."""


FEW = 8
"""Objectives of an example for which patterns are searched at once; else after the second of these
turns."""


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Args:
        seconds: in all; None: no limit.
        domains: for each objective; None: no limit.
        batch: domains bounded at once.
        rounds: of multipliers; 0 leaves half-spaces out.
    """

    seconds: float | None = None
    domains: int | None = None
    batch: int = 64
    rounds: int = ROUNDS


class Search:
    """Grows the trees of objectives until each is done, or time is up.

    Args:
        problem: whose rows the trees are of.
        objectives: the most wanted first.
        limits: when to stop.
        progress: show a bar.
    """

    def __init__(self, problem: Problem, objectives: Sequence[Objective], limits: Limits,
                 progress: bool = False) -> None:
        self.problem, self.objectives, self.limits = problem, objectives, limits
        self.started, self.interrupted = clock.now(), False
        self.bar = tqdm(total=len(objectives), disable=not progress, unit="bound", leave=False)
        self.by_example: dict[int, list[Objective]] = {}
        for objective in objectives:
            self.by_example.setdefault(objective.example, []).append(objective)
        self.stacked = dict[int, Tensor]()
        self.points: list[tuple[int, tuple[Tensor, ...]]] = []
        self.owner = {tree: objective for objective in objectives for tree in objective.trees}
        self.patterns: dict[int, Patterns] = {}
        self.descended: dict[Objective, float] = {}

    @property
    def is_late(self) -> bool:
        """Whether time is up."""
        return self.limits.seconds is not None and clock.now() - self.started >= self.limits.seconds

    def run(self) -> None:
        """Search; stopped by KeyboardInterrupt, what is proven so far stays proven."""
        with self.bar:
            try:
                self.plant()
                for patience in PATIENCE:
                    self.descend(patience)
                    self.grow(patience)
            except KeyboardInterrupt:
                self.interrupted = True

    def plant(self) -> None:
        """Bound the whole balls, or a grid of their inputs."""
        wanted = [tree for objective in self.objectives if not objective.is_done
                  for tree in objective.trees]
        for trees in _parts(wanted, self.limits.batch * FUNCTIONS):
            if self.is_late:
                return
            self._replace([(tree, None, self.problem.whole(tree.row), tree.start)
                           for tree in trees], keep=lambda: not self.problem.splits_inputs)
            if self.problem.splits_inputs:
                self._replace([(tree, None, domain, tree.start) for tree in trees
                               for domain in self.problem.grid(tree.row)])

    def descend(self, patience: int) -> None:
        """Search the patterns of kinks from the best input that is known of each objective, if that
        is a new one.
        """
        for objective in self.objectives:
            example, is_first = objective.example, objective not in self.descended
            if len(self.by_example[example]) > FEW and patience <= PATIENCE[1]:
                continue
            if (self.is_late or objective.is_done
                    or self.descended.get(objective) == objective.found):
                continue
            if self.problem.splits_inputs:
                return
            if example not in self.patterns:
                self.patterns[example] = Patterns(self.problem, example)
            started = clock.now()
            start = self.problem.flat(example) if is_first else self._best(objective)
            for keeps in (False, True):
                self.look(example, self.patterns[example].descend(
                    objective.function, start, keeps,
                    functools.partial(self._is_enough, objective)))
            self.descended[objective] = objective.found
            objective.seconds += clock.now() - started

    def _best(self, objective: Objective) -> Tensor:
        """The best input that is known of an objective, (M,), or its example's own."""
        point = None if objective.point is None else self.points[objective.point][1]
        return self.problem.flat(objective.example, point)

    def _is_enough(self, objective: Objective, value: float) -> bool:
        """Whether there is no use in a lower value than this one."""
        return self.is_late or objective.threshold is not None and value <= objective.threshold

    def grow(self, patience: int) -> None:
        """Give each objective so many domains in all."""
        if self.limits.domains is not None:
            patience = min(patience, self.limits.domains)
        waiting = [o for o in self.objectives if not o.is_done and o.domains < patience]
        while waiting and not self.is_late:
            pairs, half = list[tuple[Tree, Leaf]](), max(1, self.limits.batch // 2)
            each = max(1, half // len(waiting))
            for objective in waiting:
                pairs += objective.lowest(min(each, half - len(pairs)))
                if len(pairs) >= half:
                    break
            if not pairs:
                return
            self._split(pairs)
            waiting = [o for o in waiting
                       if not o.is_done and o.domains < patience and any(t.leaves for t in o.trees)]
            self.bar.update(sum(o.is_done for o in self.objectives) - self.bar.n)

    def _split(self, pairs: list[tuple[Tree, Leaf]]) -> None:
        """Put the halves of leaves in their place."""
        started = clock.now()
        self._replace([(tree, number, half, lower)
                       for tree, (lower, number, domain, decision) in pairs
                       for half in self.problem.halves(domain, decision)])
        for tree, _ in pairs:
            self.owner[tree].seconds += (clock.now() - started) / len(pairs)

    def _replace(self, jobs: Sequence[Job], keep: Callable[[], bool] = lambda: True) -> None:
        """Bound the functions of trees on domains, and put these in the place of leaves.

        Args:
            jobs: trees, numbers of the leaves that are parted, their parts, and lower bounds that
                are known of these.
            keep: whether to do so, asked when they are bounded.
        """
        by_domain: dict[Domain, list[tuple[Tree, float]]] = {}
        for tree, _, domain, lower in jobs:
            by_domain.setdefault(domain, []).append((tree, lower))
        found = self._bounded(by_domain)
        if not keep():
            return
        gone: dict[Tree, set[int]] = {}
        for tree, number, _, _ in jobs:
            gone.setdefault(tree, set()).update(() if number is None else (number,))
        for tree, numbers in gone.items():
            tree.replace(numbers, found[tree])

    def _bounded(self, by_domain: dict[Domain, list[tuple[Tree, float]]]) -> dict[Tree, list[Part]]:
        """Bound functions of trees on domains, of which lower bounds are known: the parts of each
        tree.
        """
        found: dict[Tree, list[Part]] = {}
        again, fresh = list[Line](), dict[Domain, Sequence[tuple[Tree, float]]]()
        for domain, trees in by_domain.items():
            if domain.is_empty:
                for tree, lower in trees:
                    found.setdefault(tree, []).append((lower, domain, None))
                continue
            for part in _parts(trees, FUNCTIONS):
                if domain.is_bounded and not self.problem.feels_inputs or domain in fresh:
                    again.append((domain, part))
                else:
                    domain.is_bounded = False
                    fresh[domain] = part
        for group in (list(fresh.items()), again):
            for lines in _parts(group, self.limits.batch):
                for domain, _ in lines if self.problem.feels_inputs else ():
                    domain.is_bounded = False  # half-spaces, and entries of other functions, anew
                for tree, bounded in self._rows(lines):
                    found.setdefault(tree, []).append(bounded)
        return found

    def _rows(self, lines: Sequence[Line]) -> list[tuple[Tree, Part]]:
        """Bound a batch: parts of trees."""
        most = max(len(trees) for _, trees in lines)
        like = lines[0][1][0][0].function
        functions = like.new_zeros(len(lines), most, len(like))
        for i, (_, trees) in enumerate(lines):
            for j, (tree, _) in enumerate(trees):
                functions[i, j] = tree.function
        domains = [domain for domain, _ in lines]
        bounded = self.problem.bound(domains, functions, self.limits.rounds, self._reads(lines))
        for i in (i for i, domain in enumerate(domains) if domain.whole is None):
            for j, (tree, _) in enumerate(lines[i][1]):
                tree.reads = {name: mask[i, j] for name, mask in bounded.reads.items()}
        chosen = decisions(bounded, domains, self.problem.kinks, self.problem.splits_inputs)
        found = [(tree, (max(lower, value), domain, decision))
                 for (domain, trees), values, ways in zip(lines, bounded.lower.tolist(), chosen,
                                                          strict=True)
                 for (tree, lower), value, decision in zip(trees, values, ways, strict=False)]
        if self.problem.splits_inputs:
            self._look_at_boxes(domains, bounded)
        else:
            self._walk(lines, bounded)
            self._find(domains, found)
        return found

    def _walk(self, lines: Sequence[Line], bounded: Bounded) -> None:
        """Points where kinks lie as the bounds that promise most want them, one for each tree."""
        if not bounded.wants:
            return
        values, best = bounded.lower.tolist(), dict[Tree, tuple[float, int, int]]()
        for i, (domain, trees) in enumerate(lines):
            for j, (tree, _) in enumerate(trees):
                if (not domain.is_empty and values[i][j] < tree.found
                        and tree.domains >= AGAIN * tree.walked and not self.owner[tree].is_done):
                    best[tree] = min(best.get(tree, (math.inf, 0, 0)), (values[i][j], i, j))
        by_row: dict[int, list[tuple[int, int]]] = {}
        for tree, (_, i, j) in best.items():
            tree.walked = max(1, tree.domains)
            by_row.setdefault(tree.row, []).append((i, j))
        for row, chosen in by_row.items():
            at, number = (torch.tensor(index) for index in zip(*chosen, strict=True))
            wants = {name: want[at, number] for name, want in bounded.wants.items()}
            self.look(self.problem.example(row),
                      walked(self.problem, [lines[i][0] for i, _ in chosen], wants))

    def _reads(self, lines: Sequence[Line]) -> Reads:
        """Which entries of upstream gradients the trees of each line read, (B, n), where all trees
        know.
        """
        known = [[tree.reads for tree, _ in trees] for _, trees in lines]
        names = set.intersection(*(set(reads) for some in known for reads in some))
        return {name: torch.stack([torch.stack([reads[name] for reads in some]).any(0)
                                   for some in known]) for name in names}

    def _look_at_boxes(self, domains: Sequence[Domain], bounded: Bounded) -> None:
        """Middles of boxes of the inputs, and the ends that the first function's bound wants."""
        wanted = torch.where(bounded.at[:, 0] > 0, *bounded.box)
        owners = torch.tensor([self.problem.example(domain.row) for domain in domains])
        for example in owners.unique().tolist():
            self.look(example,
                      torch.cat([bounded.box.center, wanted])[(owners == example).repeat(2)])

    def _find(self, domains: Sequence[Domain], parts: Sequence[tuple[Tree, Part]]) -> None:
        """Points of the domains that promise most, or are not split further: evaluated, or proven
        not to exist.
        """
        if not self.problem.cuts.count:
            return
        wanted: dict[Domain, float] = {}
        for tree, (lower, domain, decision) in parts:
            if not domain.is_empty and lower < tree.found:
                urgency = lower - tree.lower if decision is not None else -math.inf
                wanted[domain] = min(urgency, wanted.get(domain, math.inf))
        order = sorted(wanted, key=lambda domain: wanted[domain])
        final = [domain for domain in order if wanted[domain] == -math.inf]
        found: dict[int, list[Tensor]] = {}
        for domain in dict.fromkeys([*final, *order[:PROGRAMS]]):
            point = point_in(self.problem, domain, domains.index(domain))
            if point is not None:
                found.setdefault(self.problem.example(domain.row), []).append(point)
        for example, points in found.items():
            self.look(example, torch.stack(points))

    def look(self, example: int, flat: Tensor) -> None:
        """Evaluate the attribution of an example at points (P, M) of what moves, for all
        objectives.
        """
        points, objectives = self.problem.point(example, flat), self.by_example.get(example, [])
        if not len(flat) or not objectives:
            return
        functions, weight = self._functions(example), self.problem.weight
        values = {row: self.problem.values(row, points) @ functions
                  for row in self.problem.rows_of(example)}
        total = torch.stack([weight(row) * value for row, value in values.items()]).sum(0)
        best, places = total.nan_to_num(nan=torch.inf).min(0)
        kept: dict[int, int] = {}
        for objective, value, index in zip(objectives, best.tolist(), places.tolist(), strict=True):
            if value < objective.found:
                if index not in kept:
                    kept[index] = len(self.points)
                    self.points.append((example, tuple(part[index] for part in points)))
                objective.found, objective.point = value, kept[index]
        for i, (row, value) in enumerate(values.items()):
            # a tree's function has that sign
            least = (value if weight(row) >= 0 else -value).amin(0).tolist()
            for objective, lowest in zip(objectives, least, strict=True):
                objective.trees[i].found = min(objective.trees[i].found, lowest)

    def _functions(self, example: int) -> Tensor:
        """The functions of an example's objectives, (D, K)."""
        if example not in self.stacked:
            self.stacked[example] = torch.stack([o.function for o in self.by_example[example]], 1)
        return self.stacked[example]


def _parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """So many items at a time."""
    return [items[i:i + size] for i in range(0, len(items), size)]
