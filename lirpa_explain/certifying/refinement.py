"""Refining a certificate: from what a caller wants to domains, and back to a certificate that is
nowhere wider.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..certificates import Certificate
from ..certificates import refine as pairs
from ..certificates.layout import flatten, mask_weights, unflatten
from ..errors import UnsupportedAttribution
from ..guards import isolated
from ..refining import wanted as ways
from ..refining.problem import Problem
from ..refining.programs import solve
from ..refining.search import Limits, Search
from ..refining.tree import Objective, Tree
from ..refining.wanted import Wanted
from ..relaxations.ranges import linear_range
from .arguments import check_spec
from .conditions import condition, is_condition
from .decide import decided_condition, draws
from .exit import check_numbers
from .prover import Prover
from .senses import Proven

METHODS = ("branch", "exact")


def refined(prover: Prover, proven: Proven, certificate: Certificate, what: Any, spec: Any, *,
            seconds: float | None, tolerance: float, domains: int | None, method: str,
            batch_size: int, progress: bool) -> Certificate:
    """The certificate with the bounds of chosen functions tightened; see `Certificate.refine`."""
    request, plan = prover.request, proven.plan
    _check(prover, proven, method, seconds, tolerance, domains, batch_size)
    nominal = flatten(certificate.nominal).detach()
    box = Box(flatten(certificate.lower), flatten(certificate.upper)).map(Tensor.detach)
    with torch.inference_mode(False), isolated(request.xs[0].device,
                                               request.attribution), torch.no_grad():
        limits, error = Limits(seconds, domains, batch_size), proven.error.detach()
        module, engine, _ = prover.traced(plan, "CROWN", explained=True)
        problem = Problem(plan, module, engine, request.xs, request.balls)
        if spec is None and is_condition(what):
            meets = condition(what, nominal, lambda mask: mask_weights(mask, certificate.nominal))
            return decided_condition(prover, certificate, problem, meets, box, error, limits,
                                     progress)
        wanted = _wanted(certificate, what, spec, box, nominal)
        objectives = _objectives(problem, wanted, box, error, tolerance)
        search = Search(problem, objectives, limits, progress)
        _sample(prover, search)
        if method == "exact":
            search.interrupted = solve(search, seconds)
        else:
            search.run()
        return _result(prover, certificate, wanted, search, box, nominal)


def _check(prover: Prover, proven: Proven, method: str, seconds: Any, tolerance: Any, domains: Any,
           batch_size: Any) -> None:
    """Refuse bad arguments, and what has no rows to refine."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; given: {method!r}.")
    check_limits(seconds, domains, batch_size, tolerance)
    if prover.bounding.rounded:
        raise ValueError("A certificate with rounding='outward' cannot be refined: half-spaces "
                         "have no proven bound of their roundings. Certify with "
                         "rounding='default'.")
    if not proven.plan.is_row_linear or proven.plan.ends is not None:
        raise UnsupportedAttribution("This attribution is no sum of functions of single gradients "
                                     "(a variance, or |.| of a whole path), so it cannot be "
                                     "refined row by row.")


def check_limits(seconds: Any, domains: Any, batch_size: Any, tolerance: Any = None) -> None:
    """Check what says when to stop.

    Raises:
        ValueError: a limit is no number, or too small.
    """
    for name, value, least in (("seconds", seconds, 0.0), ("tolerance", tolerance, 0.0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)
                                  or not value >= least):
            raise ValueError(f"{name} must be a number of at least {least:g}; given: {value!r}.")
    for name, value in (("domains", domains), ("batch_size", batch_size)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)
                                  or value < 1):
            raise ValueError(f"{name} must be an integer of at least 1; given: {value!r}.")


def _wanted(certificate: Certificate, what: Any, spec: Any, box: Box, nominal: Tensor) -> Wanted:
    """The functions that are asked for."""
    if spec is not None:
        what = "width" if isinstance(what, str) and what == "sign" else what
        if what not in ("width", "positive"):
            raise ValueError(f"With spec, what must be 'width' or 'positive'; given: {what!r}.")
        parts = certificate.nominal if isinstance(certificate.nominal,
                                                  tuple) else (certificate.nominal,)
        return ways.given(check_spec(spec, parts), what == "positive")
    if isinstance(what,
                  Tensor) and what.dtype == torch.bool and what.shape == flatten_shape(certificate):
        return ways.chosen(what.reshape(nominal.shape), nominal)
    if isinstance(what, str) and what == "sign":
        return ways.signs(box, nominal)
    if isinstance(what, str) and what == "width":
        return ways.widths(box, nominal)
    if isinstance(what, tuple) and len(what) in (2, 3) and what[0] == "top_k":
        k, absolute = what[1], what[2] if len(what) == 3 else True
        certificate.top_k(k, absolute)  # checks k
        reach = pairs.rivals(_nothing_known, *box, nominal.abs() if absolute else nominal, k,
                             absolute)
        return ways.rivals(reach, box, nominal, k, absolute)
    raise ValueError("what must be 'sign', 'width', ('top_k', k), a bool tensor shaped like the "
                     f"attribution, or, with spec, 'width' or 'positive'; given: {what!r:.80}.")


def _nothing_known(functions: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of functions (N, K, D) of which nothing is known."""
    nothing = torch.full_like(functions[..., 0], math.inf)
    return -nothing, nothing


def flatten_shape(certificate: Certificate) -> torch.Size | None:
    """Shape of an attribution of one tensor."""
    return certificate.nominal.shape if isinstance(certificate.nominal, Tensor) else None


def _objectives(problem: Problem, wanted: Wanted, box: Box, error: Tensor,
                tolerance: float) -> list[Objective]:
    """One for each function whose sign is asked for, two for each whose width is; the most wanted
    first.
    """
    found: list[tuple[int, Objective]] = []
    for n, count in enumerate(wanted.count.tolist()):
        rows = problem.rows_of(n)
        weights = [problem.weight(row) for row in rows]
        for k in range(count):
            sides = []
            for side in (1.0,) if wanted.decides else (1.0, -1.0):
                function = side * wanted.functions[n, k]
                low = float((function.clamp(min=0) * box.lower[n]).sum()
                            + (function.clamp(max=0) * box.upper[n]).sum())
                trees = [Tree(row, math.copysign(1.0, w) * function)
                         for row, w in zip(rows, weights, strict=True)]
                margin = float(function.abs() @ error[n])
                sides.append(Objective(n, function, trees, [abs(w) for w in weights], margin,
                                       0.0 if wanted.decides else None, low, tolerance=tolerance))
            if len(sides) == 2:
                sides[0].partner, sides[1].partner = sides[1], sides[0]
            found += [(k, side) for side in sides]
    return [objective for _, objective in sorted(found, key=lambda pair: pair[0])]


def _sample(prover: Prover, search: Search) -> None:
    """Look at the inputs themselves, and at random points of their balls."""
    for n in search.by_example:
        search.look(n, draws(prover, n))


def _result(prover: Prover, certificate: Certificate, wanted: Wanted, search: Search, box: Box,
            nominal: Tensor) -> Certificate:
    """The tightened certificate, with what was found held against it."""
    functions, (rows, most) = wanted.functions, wanted.functions.shape[:2]
    bounds = list(linear_range(functions, box))
    values, inputs = _found(prover, search)
    place = torch.full((2, rows, most), -1, dtype=torch.long)
    domains, seconds = torch.zeros(rows, most, dtype=torch.long), torch.zeros(rows, most)
    step = 1 if wanted.decides else 2
    for n, objectives in search.by_example.items():
        for i, objective in enumerate(objectives):
            k, side = divmod(i, step)
            target = bounds[side]
            target[n, k] = max(float(target[n, k]), objective.lower) if side == 0 else \
                min(float(target[n, k]), -objective.lower)
            place[side, n, k] = -1 if objective.point is None else objective.point
            domains[n, k] += objective.domains
            seconds[n, k] += objective.seconds
    at_nominal = torch.einsum("nkd,nd->nk", functions, nominal)
    found = [_values_at(values, functions, place[side], at_nominal) for side in (0, 1)]
    sizes = torch.einsum("nkd,nd->nk", functions.abs(), box.size.nan_to_num(posinf=0))
    refined_box = Box(*bounds)
    for value in found:
        check_numbers(refined_box, value, sizes,
                      "Functions of the attribution, at inputs that were found,")
    refined_box = Box(torch.minimum(bounds[0], found[0]), torch.maximum(bounds[1], found[1]))
    decided = (refined_box.lower > 0).to(torch.int8) - (found[0] <= 0).to(torch.int8)
    decided = torch.where(torch.arange(most) < wanted.count[:, None], decided,
                          torch.ones_like(decided))
    facts = {"rows": functions, "lower_rows": refined_box.lower, "upper_rows": refined_box.upper,
             "found_lower": found[0], "found_upper": found[1], "found_lower_at": place[0],
             "found_upper_at": place[1], "found_inputs": inputs, "decided": decided,
             "domains": domains, "seconds": seconds, "refinement_interrupted": search.interrupted}
    new = _entries(functions, refined_box, box)
    return dataclasses.replace(
        certificate, lower=unflatten(certificate.nominal, new.lower),
        upper=unflatten(certificate.nominal, new.upper),
        meaning=dataclasses.replace(certificate.meaning,
                                    facts={**certificate.meaning.facts, **facts}))


def _found(prover: Prover, search: Search) -> tuple[Tensor, Any]:
    """Captum's attributions (P, D) at all points that hold a record, and these points."""
    request = prover.request
    used = sorted({o.point for o in search.objectives if o.point is not None})
    renumbered = {old: new for new, old in enumerate(used)}
    for objective in search.objectives:
        objective.point = None if objective.point is None else renumbered[objective.point]
    points = [search.points[i] for i in used]
    search.points = points
    values = torch.zeros(len(points), request.nominal.flat.shape[1],
                         dtype=request.nominal.flat.dtype)
    waiting: dict[int, list[int]] = {}
    for i, (example, _) in enumerate(points):
        waiting.setdefault(example, []).append(i)
    while any(waiting.values()):
        chosen = {example: places.pop() for example, places in waiting.items() if places}
        moved = tuple(x.clone() for x in request.xs)
        for example, i in chosen.items():
            for x, part in zip(moved, points[i][1], strict=True):
                x[example] = part
        a = request.attribute(moved).flat
        for example, i in chosen.items():
            values[i] = a[example]
    inputs = tuple(torch.stack([p[j] for _, p in points]) if points else x[:0]
                   for j, x in enumerate(request.xs))
    return values, request.shaped(inputs)


def _values_at(values: Tensor, functions: Tensor, place: Tensor, at_nominal: Tensor) -> Tensor:
    """What functions (N, K, D) are at points by number, (N, K); at the inputs themselves where
    there is none.
    """
    if not len(values):
        return at_nominal
    return torch.where(place >= 0, torch.einsum("nkd,nkd->nk", functions,
                                                values[place.clamp(min=0)]), at_nominal)


def _entries(functions: Tensor, rows: Box, box: Box) -> Box:
    """The box cut to the rows that are about a single entry."""
    single = (functions != 0).sum(2) == 1
    lower, upper = box.lower.clone(), box.upper.clone()
    for n, k in single.nonzero().tolist():
        entry = int(functions[n, k].abs().argmax())
        ends = sorted((float(side[n, k]) / float(functions[n, k, entry]) for side in rows))
        lower[n, entry], upper[n, entry] = (max(float(lower[n, entry]), ends[0]),
                                            min(float(upper[n, entry]), ends[1]))
    return Box(lower, upper)
