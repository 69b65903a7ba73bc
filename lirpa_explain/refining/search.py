"""Growing trees of many functions side by side: domains are rows of a batch, and equal ones are bounded once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from .choose import decisions
from .cuts import ROUNDS
from .domains import Domain
from .inside import inside, is_empty
from .problem import Problem
from .tree import Leaf, Objective, Tree

FUNCTIONS = 16
"""Most functions that one row of a batch bounds."""

PATIENCE = (16, 64, 256, 1024, 4096, 16384, 1 << 62)
"""Domains that an objective gets before the next one's turn, the first time, the second, ...: easy ones come first."""

PROGRAMS = 4
"""Linear programs a batch for points of leaves that are not split up yet."""


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

    def __init__(self, problem: Problem, objectives: Sequence[Objective], limits: Limits, progress: bool = False
                 ) -> None:
        self.problem, self.objectives, self.limits, self.progress = problem, objectives, limits, progress
        self.started, self.interrupted = time.perf_counter(), False
        self.by_example: dict[int, list[Objective]] = {}
        for objective in objectives:
            self.by_example.setdefault(objective.example, []).append(objective)
        self.points: list[tuple[int, tuple[Tensor, ...]]] = []
        self.owner = {tree: objective for objective in objectives for tree in objective.trees}

    @property
    def is_late(self) -> bool:
        """Whether time is up."""
        return self.limits.seconds is not None and time.perf_counter() - self.started >= self.limits.seconds

    def run(self) -> None:
        """Search; stopped by KeyboardInterrupt, what is proven so far stays proven."""
        with tqdm(total=len(self.objectives), disable=not self.progress, unit="bound", leave=False) as self.bar:
            try:
                self._plant()
                for patience in PATIENCE:
                    self._grow(patience)
            except KeyboardInterrupt:
                self.interrupted = True

    def _plant(self) -> None:
        """Bound the whole balls."""
        wanted = [tree for objective in self.objectives if not objective.is_done for tree in objective.trees]
        for part in _parts(wanted, self.limits.batch * FUNCTIONS):
            if self.is_late:
                return
            self._bound([(tree, self.problem.whole(tree.row), tree.start) for tree in part])

    def _grow(self, patience: int) -> None:
        """Give each objective so many domains in all."""
        if self.limits.domains is not None:
            patience = min(patience, self.limits.domains)
        waiting = [o for o in self.objectives if not o.is_done and o.domains < patience]
        while waiting and not self.is_late:
            pairs, half = list[tuple[Tree, Leaf]](), max(1, self.limits.batch // 2)
            each = max(1, half // len(waiting))
            for objective in waiting:
                pairs += objective.leaves(min(each, half - len(pairs)))
                if len(pairs) >= half:
                    break
            if not pairs:
                return
            self._split(pairs)
            waiting = [o for o in waiting if not o.is_done and o.domains < patience and any(t.leaves for t in o.trees)]
            self.bar.update(sum(o.is_done for o in self.objectives) - self.bar.n)

    def _split(self, pairs: list[tuple[Tree, Leaf]]) -> None:
        """Split leaves, and bound their halves."""
        done = 0
        try:
            jobs = []
            for tree, (lower, _, domain, decision) in pairs:
                assert decision is not None
                jobs += [(tree, half, lower) for half in self.problem.halves(domain, decision)]
            started = time.perf_counter()
            self._bound(jobs)
            done = len(pairs)
            for tree, _ in pairs:
                self.owner[tree].seconds += (time.perf_counter() - started) / len(pairs)
        finally:
            for tree, leaf in pairs[done:]:
                tree.give_back(leaf)

    def _bound(self, jobs: Sequence[tuple[Tree, Domain, float]]) -> None:
        """Bound the functions of trees on domains, of larger ones a lower bound being known, and add them as leaves.

        Nothing is added to any tree before all is bounded, so that an interruption leaves them whole.
        """
        by_domain: dict[Domain, list[tuple[Tree, float]]] = {}
        for tree, domain, lower in jobs:
            by_domain.setdefault(domain, []).append((tree, lower))
        lines = [(domain, list(part)) for domain, trees in by_domain.items() if not domain.is_empty
                 for part in _parts(trees, FUNCTIONS)]
        again, fresh = list[tuple[Domain, list[tuple[Tree, float]]]](), dict[Domain, list[tuple[Tree, float]]]()
        for domain, trees in lines:
            if domain.is_bounded and not self.problem.feels_inputs or domain in fresh:
                again.append((domain, trees))
            else:
                domain.is_bounded = False
                fresh[domain] = trees
        added = [(tree, lower, domain, None) for domain, trees in by_domain.items() if domain.is_empty
                 for tree, lower in trees]
        for group in (list(fresh.items()), again):
            for some in _parts(group, self.limits.batch):
                added += self._rows(list(some))
        for tree, value, domain, decision in added:
            tree.add(value, domain, decision)

    def _rows(self, lines: list[tuple[Domain, list[tuple[Tree, float]]]]) -> list[tuple[Tree, float, Domain, object]]:
        """Bound a batch; what is to be added to which tree."""
        most = max(len(trees) for _, trees in lines)
        like = lines[0][1][0][0].function
        functions = like.new_zeros(len(lines), most, len(like))
        for i, (_, trees) in enumerate(lines):
            for j, (tree, _) in enumerate(trees):
                functions[i, j] = tree.function
        domains = [domain for domain, _ in lines]
        bounded = self.problem.bound(domains, functions, self.limits.rounds)
        chosen = decisions(bounded, domains, self.problem.kinks)
        added = [(tree, max(lower, value), domain, decision)
                 for (domain, trees), values, ways in zip(lines, bounded.lower.tolist(), chosen, strict=True)
                 for (tree, lower), value, decision in zip(trees, values, ways, strict=False)]
        self._find(domains, added, bounded.at)
        return added

    def _find(self, domains: Sequence[Domain], added: list[tuple[Tree, float, Domain, object]], at: Tensor) -> None:
        """Points of the domains that promise most, or are not split further: evaluated, or proven not to exist."""
        if not self.problem.cuts.count:
            return
        wanted: dict[Domain, float] = {}
        for tree, value, domain, decision in added:
            if domain.is_empty or value >= tree.found:
                continue
            urgency = value - tree.lower if decision is not None else -float("inf")
            wanted[domain] = min(urgency, wanted.get(domain, float("inf")))
        order = sorted(wanted, key=lambda domain: wanted[domain])
        final = [domain for domain in order if wanted[domain] == -float("inf")]
        for domain in dict.fromkeys([*final, *order[:PROGRAMS]]):
            row = domains.index(domain)
            found = inside(self.problem.schedule.ground, self.problem.cuts, row)
            if found is None:
                return
            if found.slack < 0 and found.multipliers is not None:
                domain.is_empty |= is_empty(self.problem.schedule.ground, self.problem.cuts, row, found.multipliers)
            elif found.point is not None:
                self.look(domain.row // (self.problem.plan.samples * self.problem.plan.steps), found.point[None])

    def look(self, example: int, flat: Tensor) -> None:
        """Evaluate the attribution of an example at points (P, M) of what moves, for all objectives."""
        points = self.problem.point(example, flat)
        values = {row: self.problem.values(row, points) for row in self.problem.rows_of(example)}
        total = sum(self.problem.weight(row) * value for row, value in values.items())
        kept: dict[int, int] = {}
        for objective in self.by_example.get(example, []):
            best = (total @ objective.function).nan_to_num(nan=torch.inf).min(0)
            if float(best.values) < objective.found:
                index = int(best.indices)
                if index not in kept:
                    kept[index] = len(self.points)
                    self.points.append((example, tuple(part[index] for part in points)))
                objective.found, objective.point = float(best.values), kept[index]
            for tree in objective.trees:
                tree.found = min(tree.found, float((values[tree.row] @ tree.function).min()))


def _parts(items: Sequence, size: int) -> list[Sequence]:  # type: ignore[type-arg]
    return [items[i:i + size] for i in range(0, len(items), size)]
