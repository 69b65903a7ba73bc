"""Deciding a condition on explanations as a whole, for each example of a certificate."""

import dataclasses

import torch
from torch import Tensor

from ..boxes import Box
from ..certificates import Certificate
from ..certificates.layout import unflatten
from ..errors import UnsupportedAttribution
from ..operators.bound import flat_rows
from ..refining.condition import Condition, ConditionSearch
from ..refining.problem import Problem
from ..refining.search import Limits
from .conditions import MetricCondition
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
    """The certificate with a condition's `decided`, `lower_rows` and costs, (N, 1) each.

    Raises:
        UnsupportedAttribution: The attribution is a sum over a path or over samples.
    """
    if problem.plan.steps * problem.plan.samples > 1:
        raise UnsupportedAttribution("A condition on an attribution that is a sum over a path or "
                                     "over samples cannot be refined as a whole. Refine its "
                                     "entries, what='width', and ask for the metric then, with "
                                     "refine='spec' if its row in METRICS has sums.")
    every = meets(box, torch.arange(len(error))).tolist()
    conditions = [Condition(n, Box(box.lower[n], box.upper[n]), error[n], met)
                  for n, met in enumerate(every)]
    search = ConditionSearch(problem, conditions, meets, limits, progress)
    for condition in conditions:
        if not condition.is_done:
            search.look(condition, draws(prover, condition.example))
    search.run()
    new = _tightened(conditions, box)
    found, place, inputs = _confirmed(prover, conditions, meets, new)
    lower = torch.tensor([c.lower for c in conditions], dtype=found.dtype)
    check_numbers(Box(lower, torch.full_like(lower, torch.inf)), found,
                  found.abs() + abs(meets.bound),
                  f"Values of {meets.name} at inputs that were found")
    lower = torch.minimum(lower, found)
    decided = (lower >= 0).to(torch.int8) - (found < 0).to(torch.int8)
    facts = {"decided": decided[:, None],
             "domains": torch.tensor([[c.domains] for c in conditions]),
             "lower_rows": lower[:, None], "found_lower": found[:, None],
             "found_lower_at": place[:, None],
             "found_inputs": inputs, "seconds": torch.tensor([[c.seconds] for c in conditions]),
             "refinement_interrupted": search.interrupted}
    nominal, meaning = certificate.nominal, certificate.meaning
    return dataclasses.replace(
        certificate, lower=unflatten(nominal, new.lower), upper=unflatten(nominal, new.upper),
        meaning=dataclasses.replace(meaning, facts={**meaning.facts, **facts}))


def _tightened(conditions: list[Condition], box: Box) -> Box:
    """The box cut to what holds on all domains, of the examples whose domains are all known."""
    lower, upper = box.lower.clone(), box.upper.clone()
    for c in conditions:
        if c.leaves == () and c.hull is not None:
            own = Box(box.lower[c.example], box.upper[c.example])
            lower[c.example], upper[c.example] = own.intersect(c.hull).ordered()
    return Box(lower, upper)


def _confirmed(prover: Prover, conditions: list[Condition], meets: MetricCondition, box: Box
               ) -> tuple[Tensor, Tensor, Tensor | tuple[Tensor, ...]]:
    """By how much Captum's attributions meet the condition at the points that were found, (N,), and
    these points.

    At the inputs themselves where none was looked at.
    """
    request, points = prover.request, tuple(x.clone() for x in prover.request.xs)
    for condition in conditions:
        if condition.point is not None:
            for x, part in zip(points, condition.point, strict=True):
                x[condition.example] = part
    a = request.attribute(points).flat
    check_numbers(box, a, box.size.amax(1, keepdim=True), "Attributions at inputs that were found")
    return meets.at(a, torch.arange(len(a))), torch.arange(len(conditions)), request.shaped(points)
