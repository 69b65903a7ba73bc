"""Conditions on an explanation as a whole, such as "cosine >= 0.9", by domains on each of which the box decides."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from ..boxes import Box
from .choose import decisions
from .domains import Decision, Domain
from .inside import inside, is_empty
from .problem import Problem
from .search import PROGRAMS, Limits
from .within import Bounded

Meets = Callable[[Tensor, Tensor, int], Tensor]
"""Maps lower and upper bounds (B, D) of an example's attributions to by how much they meet a condition, (B,): from 0 on
they do, below 0 they do not; at a point it is exact."""


@dataclass(eq=False)
class Condition:
    """Whether a condition holds at every input of an example's ball.

    Args:
        example: of the certificate; its plan has one row.
        start: bounds of its attribution, each (D,).
        margin: by how much roundings move them, (D,).
        point: an input where the condition fails, each (*S); None while none is found.
        value: by how much it is missed there.
        box: the hull of all domains that are left or hold, each (D,); None while nothing was bounded.
    """

    example: int
    start: Box
    margin: Tensor
    leaves: list[tuple[float, int, Domain, Decision]] = field(default_factory=list)
    is_stuck: bool = False
    is_planted: bool = False
    point: tuple[Tensor, ...] | None = None
    value: float = 0.0
    domains: int = 0
    seconds: float = 0.0

    @property
    def decided(self) -> int:
        """1: it holds everywhere; -1: not at `point`; 0: open."""
        if self.point is not None:
            return -1
        return int(self.is_planted and not self.leaves and not self.is_stuck)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.is_planted and (self.point is not None or not self.leaves)


class ConditionSearch:
    """Splits the balls of conditions until each is decided, or time is up.

    Args:
        problem: whose rows are the examples.
        conditions: one for each of some examples.
        meets: the condition.
        limits: when to stop.
        progress: show a bar.
    """

    def __init__(self, problem: Problem, conditions: Sequence[Condition], meets: Meets, limits: Limits,
                 progress: bool = False) -> None:
        self.problem, self.conditions, self.meets, self.limits = problem, conditions, meets, limits
        self.progress, self.numbers, self.interrupted = progress, itertools.count(), False
        self.started = time.perf_counter()

    def run(self) -> None:
        """Search; stopped by KeyboardInterrupt, what is decided stays decided."""
        most = self.limits.seconds
        with tqdm(total=len(self.conditions), disable=not self.progress, unit="condition", leave=False) as bar:
            try:
                self._bound([(c, self.problem.whole(c.example)) for c in self.conditions])
                while most is None or time.perf_counter() - self.started < most:
                    jobs = self._halves()
                    if not jobs:
                        return
                    self._bound(jobs)
                    bar.update(sum(c.is_done for c in self.conditions) - bar.n)
            except KeyboardInterrupt:
                self.interrupted = True

    def _halves(self) -> list[tuple[Condition, Domain]]:
        """Both parts of the domains that miss their condition most, some of each."""
        limit = self.limits.domains
        waiting = [c for c in self.conditions if not c.is_done and (limit is None or c.domains < limit)]
        each = max(1, self.limits.batch // 2 // max(1, len(waiting)))
        jobs = []
        for condition in sorted(waiting, key=lambda c: c.domains)[: self.limits.batch // 2]:
            for _, _, domain, decision in condition.leaves[:each]:
                jobs += [(condition, half) for half in self.problem.halves(domain, decision)]
        return jobs

    def _bound(self, jobs: Sequence[tuple[Condition, Domain]]) -> None:
        """Bound all entries on domains; what is decided is left out, the rest become leaves in place of their wholes."""
        started, size = time.perf_counter(), self.limits.batch
        for start in range(0, len(jobs), size):
            part = jobs[start:start + size]
            size_of = len(part[0][0].margin)
            eye = torch.eye(size_of, dtype=part[0][0].margin.dtype)
            functions = torch.cat([eye, -eye]).expand(len(part), -1, -1)
            domains = [domain for _, domain in part]
            for domain in domains:
                domain.is_bounded = False
            bounded = self.problem.bound(domains, functions, self.limits.rounds)
            margin = torch.stack([c.margin for c, _ in part])
            whole = Box(*(torch.stack([c.start[i] for c, _ in part]) for i in (0, 1)))
            box = Box(bounded.lower[:, :size_of], -bounded.lower[:, size_of:]).outward(margin).intersect(whole)
            self._keep(part, bounded, box.ordered())
        for condition, _ in jobs:
            condition.seconds += (time.perf_counter() - started) / len(jobs)

    def _keep(self, part: Sequence[tuple[Condition, Domain]], bounded: Bounded, box: Box) -> None:
        """New leaves, or none."""
        domains = [domain for _, domain in part]
        met = torch.cat([self.meets(box.lower[i:i + 1], box.upper[i:i + 1], c.example)
                         for i, (c, _) in enumerate(part)]).tolist()
        size = box.lower.shape[1]
        loose = Bounded(bounded.lower, bounded.at, {n: g.sum(1, keepdim=True) for n, g in bounded.gains.items()})
        chosen = decisions(loose, domains, self.problem.kinks)
        programs = 0
        for i, (condition, domain) in enumerate(part):
            condition.leaves = [leaf for leaf in condition.leaves if not leaf[2].decisions < domain.decisions]
            heapq.heapify(condition.leaves)
            condition.is_planted = True
            condition.domains += 1
            if domain.is_empty or met[i] >= 0 or condition.point is not None:
                continue
            decision = chosen[i][0]
            if decision is None or programs < PROGRAMS:
                programs += decision is not None
                self._look(condition, domain, i)
            if domain.is_empty or condition.point is not None:
                continue
            if decision is None:
                condition.is_stuck = True
            else:
                heapq.heappush(condition.leaves, (met[i], next(self.numbers), domain, decision))
        assert size == box.upper.shape[1]

    def _look(self, condition: Condition, domain: Domain, row: int) -> None:
        """Evaluate a point of a domain, or prove that there is none."""
        if not self.problem.cuts.count:
            return
        ground, cuts = self.problem.schedule.ground, self.problem.cuts
        found = inside(ground, cuts, row)
        if found is None:
            return
        if found.slack < 0 and found.multipliers is not None:
            domain.is_empty |= is_empty(ground, cuts, row, found.multipliers)
        elif found.point is not None:
            self.look(condition, found.point[None])

    def look(self, condition: Condition, flat: Tensor) -> None:
        """Evaluate points (P, M) of what moves."""
        points = self.problem.point(condition.example, flat)
        a = self.problem.attributions(condition.example, points)
        met = torch.cat([self.meets(one[None], one[None], condition.example) for one in a])
        worst = int(met.argmin())
        if float(met[worst]) < min(0.0, condition.value):
            condition.value, condition.point = float(met[worst]), tuple(part[worst] for part in points)
