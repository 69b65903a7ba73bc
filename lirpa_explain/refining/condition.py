"""Conditions on an explanation as a whole, such as "cosine >= 0.9", by domains on each of which the
box decides.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from ..boxes import Box
from . import clock
from .choose import decisions
from .domains import Decision, Domain
from .problem import Problem, point_in
from .search import PROGRAMS, Limits
from .tree import Leaf

Meets = Callable[[Tensor, Tensor, int], Tensor]
"""Maps lower and upper bounds (B, D) of an example's attributions to by how much they meet a
condition, (B,): from 0 on they do, below 0 they do not; at a point it is exact."""

Job = tuple["Condition", int, Domain]
"""A condition, the number of the leaf that is parted, -1 for the ball, and a part of it."""


@dataclass(eq=False)
class Condition:
    """Whether a condition holds at every input of an example's ball.

    Args:
        example: of the certificate; its plan has one row.
        start: bounds of its attribution, each (D,).
        margin: by how much roundings move them, (D,).
        leaves: domains on which it is open, with by how much the box misses it; None before the
            ball is bounded.
        is_stuck: whether some of them cannot be split.
        point: an input where the condition fails, each (*S); None while none is found.
        value: by how much it is missed there.
        domains: how many were bounded.
        seconds: about how long that took.
    """

    example: int
    start: Box
    margin: Tensor
    leaves: tuple[Leaf, ...] | None = None
    is_stuck: bool = False
    point: tuple[Tensor, ...] | None = None
    value: float = 0.0
    domains: int = 0
    seconds: float = 0.0

    @property
    def decided(self) -> int:
        """1: it holds everywhere; -1: not at `point`; 0: open."""
        if self.point is not None:
            return -1
        return int(self.leaves == () and not self.is_stuck)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.point is not None or self.leaves == ()


class ConditionSearch:
    """Splits the balls of conditions until each is decided, or time is up.

    Args:
        problem: whose rows are the examples.
        conditions: one for each of some examples.
        meets: the condition.
        limits: when to stop.
        progress: show a bar.
    """

    def __init__(self, problem: Problem, conditions: Sequence[Condition], meets: Meets,
                 limits: Limits, progress: bool = False) -> None:
        self.problem, self.conditions, self.meets, self.limits = problem, conditions, meets, limits
        self.progress, self.numbers, self.interrupted = progress, itertools.count(), False
        self.started = clock.now()

    def run(self) -> None:
        """Search; stopped by KeyboardInterrupt, what is decided stays decided."""
        most = self.limits.seconds
        with tqdm(total=len(self.conditions), disable=not self.progress, unit="condition",
                  leave=False) as bar:
            try:
                self._replace([(c, -1, self.problem.whole(c.example))
                               for c in self.conditions if not c.is_done])
                while most is None or clock.now() - self.started < most:
                    jobs = self._halves()
                    if not jobs:
                        return
                    self._replace(jobs)
                    bar.update(sum(c.is_done for c in self.conditions) - bar.n)
            except KeyboardInterrupt:
                self.interrupted = True

    def _halves(self) -> list[Job]:
        """Both parts of the domains that miss their condition most, some of each."""
        limit = self.limits.domains
        waiting = [c for c in self.conditions
                   if not c.is_done and (limit is None or c.domains < limit)]
        each = max(1, self.limits.batch // 2 // max(1, len(waiting)))
        jobs: list[Job] = []
        for condition in sorted(waiting, key=lambda c: c.domains)[: self.limits.batch // 2]:
            for _, number, domain, decision in heapq.nsmallest(each, condition.leaves or ()):
                jobs += [(condition, number, half)
                         for half in self.problem.halves(domain, decision)]
        return jobs

    def _replace(self, jobs: Sequence[Job]) -> None:
        """Bound all entries on domains, and put what stays open in the place of leaves."""
        started = clock.now()
        found: dict[Condition, list[tuple[float, Domain, Decision | None]]] = {
            c: [] for c, _, _ in jobs}
        for start in range(0, len(jobs), self.limits.batch):
            part = [(condition, domain)
                    for condition, _, domain in jobs[start:start + self.limits.batch]]
            for condition, left in self._left(part):
                found[condition].append(left)
        gone = {number for _, number, _ in jobs}
        for condition, parts in found.items():
            condition.is_stuck = condition.is_stuck or any(way is None for _, _, way in parts)
            kept = [leaf for leaf in condition.leaves or () if leaf[1] not in gone]
            new = [(met, next(self.numbers), domain, way)
                   for met, domain, way in parts if way is not None]
            condition.leaves = (*kept, *new)
            condition.domains += sum(c is condition for c, _, _ in jobs)
            condition.seconds += (clock.now() - started) / len(found)

    def _left(self, part: Sequence[tuple[Condition, Domain]]
              ) -> list[tuple[Condition, tuple[float, Domain, Decision | None]]]:
        """Of a batch of domains, those on which the box does not decide the condition, and how to
        split them.
        """
        domains, like = [domain for _, domain in part], part[0][0].margin
        for domain in domains:
            domain.is_bounded = False
        eye = torch.eye(len(like), dtype=like.dtype)
        bounded = self.problem.bound(domains, torch.cat([eye, -eye]).expand(len(part), -1, -1),
                                     self.limits.rounds)
        sides = Box(bounded.lower[:, :len(like)], -bounded.lower[:, len(like):])
        box = sides.outward(torch.stack([c.margin for c, _ in part])).intersect(
            Box(*(torch.stack([c.start[i] for c, _ in part]) for i in (0, 1)))).ordered()
        met = torch.cat([self.meets(box.lower[i:i + 1], box.upper[i:i + 1], c.example)
                         for i, (c, _) in enumerate(part)]).tolist()
        loose = replace(bounded, gains={name: gain.sum(1, keepdim=True)
                                        for name, gain in bounded.gains.items()})
        ways = decisions(loose, domains, self.problem.kinks, self.problem.splits_inputs)
        if self.problem.splits_inputs:
            for (condition, _), middle in zip(part, bounded.box.center, strict=True):
                self.look(condition, middle[None])
        left = []
        order = sorted(range(len(part)), key=lambda i: (ways[i][0] is not None, met[i]))
        for programs, i in enumerate(j for j in order if met[j] < 0 and not domains[j].is_empty):
            condition, domain = part[i]
            if self.problem.cuts.count and (ways[i][0] is None or programs < PROGRAMS):
                point = point_in(self.problem, domain, i)
                if point is not None:
                    self.look(condition, point[None])
            if not domain.is_empty:
                left.append((condition, (met[i], domain, ways[i][0])))
        return left

    def look(self, condition: Condition, flat: Tensor) -> None:
        """Evaluate points (P, M) of what moves."""
        points = self.problem.point(condition.example, flat)
        a = self.problem.attributions(condition.example, points)
        met = torch.cat([self.meets(one[None], one[None], condition.example) for one in a])
        worst = int(met.argmin())
        if float(met[worst]) < min(0.0, condition.value):
            condition.value, condition.point = (float(met[worst]),
                                                tuple(part[worst] for part in points))
