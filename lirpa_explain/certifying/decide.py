"""Deciding a condition on explanations as a whole, for each example of a certificate."""

import dataclasses

import torch
from torch import Tensor

from ..boxes import Box
from ..certificates import Certificate
from ..errors import UnsupportedAttribution
from ..operators.bound import flat_rows
from ..refining.condition import Condition, ConditionSearch
from ..refining.problem import Problem
from ..refining.search import Limits
from .conditions import MetricCondition, holds_at
from .exit import check_numbers
from .prover import Prover

SAMPLES = 32
"""Random points of each ball that are looked at first, half of them corners."""


def draws(prover: Prover, example: int) -> Tensor:
    """An example itself, and random points of its ball: (P, M), flat over the inputs that move."""
    request, generator = prover.request, torch.Generator().manual_seed(0)
    points = [request.xs] + [request.draw(i % 2 == 0, generator)[0] for i in range(SAMPLES)]
    return torch.cat([torch.cat([flat_rows(point[i][example:example + 1]) for point in points])
                      for i, ball in enumerate(request.balls) if ball is not None], 1)


def decided_condition(prover: Prover, certificate: Certificate, problem: Problem,
                      meets: MetricCondition, box: Box,
                      error: Tensor, limits: Limits, progress: bool) -> Certificate:
    """The certificate with what is known of a condition: `decided`, `domains` and `seconds`, (N, 1)
    each.
    """
    if problem.plan.steps * problem.plan.samples > 1:
        raise UnsupportedAttribution("A condition on an attribution that is a sum over a path or "
                                     "over samples cannot be refined as a whole; refine its "
                                     "entries: what='width'.")
    conditions = [Condition(n, Box(box.lower[n], box.upper[n]), error[n])
                  for n in range(len(error))]
    for condition in conditions:
        n = condition.example
        if float(meets(box.lower[n:n + 1], box.upper[n:n + 1], n)) >= 0:
            condition.leaves = ()
    search = ConditionSearch(problem, conditions, meets, limits, progress)
    for condition in conditions:
        if not condition.is_done:
            search.look(condition, draws(prover, condition.example))
    search.run()
    decided, place, inputs = _confirmed(prover, conditions, meets, box)
    column = torch.tensor([[c.domains] for c in conditions])
    facts = {"decided": decided[:, None], "domains": column, "found_lower_at": place[:, None],
             "found_inputs": inputs, "seconds": torch.tensor([[c.seconds] for c in conditions]),
             "refinement_interrupted": search.interrupted}
    meaning = certificate.meaning
    return dataclasses.replace(
        certificate, meaning=dataclasses.replace(meaning, facts={**meaning.facts, **facts}))


def _confirmed(prover: Prover, conditions: list[Condition], meets: MetricCondition, box: Box
               ) -> tuple[Tensor, Tensor, Tensor | tuple[Tensor, ...]]:
    """What is decided, refutations only where Captum's attribution breaks the condition at the
    point that was found.
    """
    request, points = prover.request, tuple(x.clone() for x in prover.request.xs)
    for condition in conditions:
        if condition.point is not None:
            for x, part in zip(points, condition.point, strict=True):
                x[condition.example] = part
    a = request.attribute(points).flat
    check_numbers(box, a, box.size.amax(1, keepdim=True), "Attributions at inputs that were found")
    broken = ~holds_at(meets, a)
    decided = torch.tensor([c.decided for c in conditions], dtype=torch.int8)
    decided = torch.where((decided == -1) & ~broken, torch.zeros_like(decided), decided)
    kept = (decided == -1).nonzero()[:, 0]
    place = torch.full((len(conditions),), -1, dtype=torch.long)
    place[kept] = torch.arange(len(kept))
    return decided, place, request.shaped(tuple(x[kept] for x in points))
