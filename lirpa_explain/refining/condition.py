"""Conditions on an explanation as a whole, such as "cosine >= 0.9", by domains on each of which the
box decides.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from ..boxes import Box
from ..certificates.metrics.sums import Bounder
from . import clock
from .choose import decisions
from .domains import Decision, Domain
from .problem import Problem, point_in
from .search import PROGRAMS, Limits
from .tree import Leaf
from .within import Bounded


class Meets(Protocol):
    """A condition on attributions."""

    def __call__(self, box: Box, examples: Tensor) -> Tensor:
        """By how much bounds (B, D) of attributions of these examples (B,) meet it, (B,): from 0 on
        they do.
        """

    def at(self, attributions: Tensor, examples: Tensor) -> Tensor:
        """The same of attributions (B, D) themselves, exactly."""

    def by_sums(self, bounder: Bounder, box: Box, met: Tensor, examples: Tensor) -> Tensor | None:
        """The same by bounds of linear functions as well, given what it is by the box; None if
        these say nothing.
        """


Job = tuple["Condition", int, Domain]
"""A condition, the number of the leaf that is parted, -1 for the ball, and a part of it."""


class Left(NamedTuple):
    """What is known of a domain that is not empty: by how much its box (D,) meets a condition, and
    what splits it.
    """

    met: float
    domain: Domain
    way: Decision | None
    box: Box


@dataclass(eq=False)
class Condition:
    """Whether a condition holds at every input of an example's ball.

    Args:
        example: of the certificate; its plan has one row.
        start: bounds of its attribution, each (D,).
        margin: by how much roundings move them, (D,).
        met: by how much these bounds meet it.
        leaves: domains on which it is open, with by how much the box misses it; None before the
            ball is bounded.
        floor: the least by which it is met on all other domains, which are decided or cannot be
            split.
        hull: bounds of the attribution on these, (D,) each; None while there are none.
        point: the input where it is met least, each (*S); None while none was looked at.
        value: by how much it is met there.
        domains: how many were bounded.
        seconds: about how long that took.
    """

    example: int
    start: Box
    margin: Tensor
    met: float
    leaves: tuple[Leaf, ...] | None = None
    floor: float = math.inf
    hull: Box | None = None
    point: tuple[Tensor, ...] | None = None
    value: float = math.inf
    domains: int = 0
    seconds: float = 0.0

    @property
    def lower(self) -> float:
        """The least by which it is met anywhere, as far as is proven."""
        if self.leaves is None:
            return self.met
        return max(self.met, min(self.floor, *(leaf[0] for leaf in self.leaves), self.value))

    @property
    def decided(self) -> int:
        """1: it holds everywhere; -1: not at `point`; 0: open."""
        if self.value < 0:
            return -1
        return int(self.lower >= 0)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.decided != 0 or self.leaves == ()


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
        found: dict[Condition, list[Left]] = {c: [] for c, _, _ in jobs}
        for start in range(0, len(jobs), self.limits.batch):
            part = [(condition, domain)
                    for condition, _, domain in jobs[start:start + self.limits.batch]]
            for condition, left in self._left(part):
                found[condition].append(left)
        gone = {number for _, number, _ in jobs}
        for condition, parts in found.items():
            kept = [leaf for leaf in condition.leaves or () if leaf[1] not in gone]
            new = [(left.met, next(self.numbers), left.domain, left.way) for left in parts
                   if left.met < 0 and left.way is not None]
            for left in parts:
                if left.met >= 0 or left.way is None:
                    condition.floor = min(condition.floor, left.met)
                    condition.hull = (left.box
                                      if condition.hull is None else condition.hull.hull(left.box))
            condition.leaves = (*kept, *new)
            condition.domains += sum(c is condition for c, _, _ in jobs)
            condition.seconds += (clock.now() - started) / len(found)

    def _left(self, part: Sequence[tuple[Condition, Domain]]) -> list[tuple[Condition, Left]]:
        """Of a batch of domains, those that are not empty, by how much they meet it, and how to
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
        met = self.meets(box, torch.tensor([c.example for c, _ in part]))
        loose = replace(bounded, gains={name: gain.sum(1, keepdim=True)
                                        for name, gain in bounded.gains.items()})
        ways = [way for way,
                in decisions(loose, domains, self.problem.kinks, self.problem.splits_inputs)]
        self._find(part, bounded, met.tolist(), ways)
        kept = [i for i, domain in enumerate(domains) if not domain.is_empty]
        self._by_sums(part, box, met, ways, [i for i in kept if float(met[i]) < 0])
        return [(part[i][0],
                 Left(float(met[i]), domains[i], ways[i], Box(*(side[i] for side in box))))
                for i in kept]

    def _find(self, part: Sequence[tuple[Condition, Domain]], bounded: Bounded,
              met: Sequence[float], ways: Sequence[Decision | None]) -> None:
        """Points of domains on which the box does not decide: of all that are not split, and of the
        worst others.
        """
        if self.problem.splits_inputs:
            for (condition, _), middle in zip(part, bounded.box.center, strict=True):
                self.look(condition, middle[None])
        order = sorted(range(len(part)), key=lambda i: (ways[i] is not None, met[i]))
        wanted = [i for i in order if met[i] < 0 and not part[i][1].is_empty]
        for programs, i in enumerate(wanted if self.problem.cuts.count else ()):
            if ways[i] is None or programs < PROGRAMS:
                point = point_in(self.problem, part[i][1], i)
                if point is not None:
                    self.look(part[i][0], point[None])

    def _by_sums(self, part: Sequence[tuple[Condition, Domain]], box: Box, met: Tensor,
                 ways: list[Decision | None], which: Sequence[int]) -> None:
        """Where the condition is on sums: by how much they meet it as functions of the domain, in
        place.

        They are split by what these functions gain by.
        """
        if not which:
            return
        domains, margin = ([part[i][1] for i in which],
                           torch.stack([part[i][0].margin for i in which]))
        seen: list[Bounded] = []

        def bounder(functions: Tensor) -> Box:
            for domain in domains:
                domain.is_bounded = domain.is_bounded and not self.problem.feels_inputs
            count = functions.shape[1]
            both = torch.cat([functions, -functions], 1)
            seen.append(self.problem.bound(domains, both, self.limits.rounds))
            lower = seen[-1].lower
            error = torch.einsum("bkd,bd->bk", functions.abs(), margin)
            return Box(lower[:, :count], -lower[:, count:]).outward(error).ordered()

        index = torch.tensor(which)
        found = self.meets.by_sums(bounder, box.rows(index), met[index],
                                   torch.tensor([part[i][0].example for i in which]))
        if found is None:
            return
        met[index] = found
        gains = {name: gain.sum(1, keepdim=True) for name, gain in seen[0].gains.items()}
        chosen = decisions(replace(seen[0], gains=gains), domains, self.problem.kinks,
                           self.problem.splits_inputs)
        for i, (way,) in zip(which, chosen, strict=True):
            ways[i] = way or ways[i]

    def look(self, condition: Condition, flat: Tensor) -> None:
        """Evaluate points (P, M) of what moves."""
        points = self.problem.point(condition.example, flat)
        a = self.problem.attributions(condition.example, points)
        met = self.meets.at(a, torch.full((len(a),), condition.example))
        worst = int(met.argmin())
        if float(met[worst]) < condition.value:
            condition.value, condition.point = (float(met[worst]),
                                                tuple(part[worst] for part in points))
