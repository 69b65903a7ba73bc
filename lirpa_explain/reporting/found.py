"""What attacks found, beside what is certified: sandwiches of a report's certificates, in the scale
of its metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..attacks.metrics import at_point
from ..certificates import METRICS, Certificate, Sandwich
from ..certificates.layout import count, flatten, tensors
from ..certificates.metrics import lookup
from .table import ByRadius, Column, Measure


@dataclass(frozen=True)
class Reached:
    """What an attack made of a metric, for each example.

    Args:
        metric: its name, a key of `lirpa_explain.SANDWICHES`.
        found: by how much it got worse, (N,).
        options: its settings.
    """

    metric: str
    found: Tensor
    options: Mapping[str, Any] = field(default_factory=dict)


Found = Mapping[float | None, Sequence[Reached]]
"""What was found of all examples by radius, each of another metric."""


def by_radius(found: Any, chunks: ByRadius) -> Found:
    """What was found in that form.

    Args:
        found: one or several of them, or a mapping from radii to one or several.
        chunks: the certificates.

    Raises:
        ValueError: they are not of these radii and examples.
        TypeError: something else is among them.
    """
    if found is None:
        return {}
    given = found if isinstance(found, Mapping) else {None: found}
    sides: dict[float | None, list[Reached]] = {}
    for eps, parts in given.items():
        if eps not in chunks:
            raise ValueError(f"found has the radius {eps}, of which there is no certificate; there "
                             f"are {', '.join(map(str, chunks))}.")
        expected = sum(count(chunk.nominal) for chunk in chunks[eps])
        several = [parts] if isinstance(parts, Sandwich | Reached) else list(parts)
        sides[eps] = [_checked(part, expected) for part in several]
    return sides


def _checked(part: Any, expected: int) -> Reached:
    """What was found of so many examples."""
    if not isinstance(part, Sandwich | Reached):
        raise TypeError(f"found holds a {type(part).__name__}; pass what Certificate.sandwich "
                        "returns.")
    if len(part.found) != expected:
        raise ValueError(f"A sandwich of {part.metric} has {len(part.found)} examples; the "
                         f"certificates have {expected}.")
    return Reached(part.metric, part.found.detach().double().cpu(), part.options)


def of_measure(sides: Iterable[Reached], name: str, settings: Mapping[str, Any]) -> Reached | None:
    """What was found of a metric with these settings, if it was looked for."""
    for side in sides:
        if side.metric == name and _equal(side.options, settings):
            return side
    return None


def reached(measure: Measure, chunks: Sequence[Certificate], side: Reached) -> Tensor:
    """The metric at the worst input that was found, (N,): the number at the nominal attribution,
    and how much worse.
    """
    stills = []
    for chunk in chunks:
        nominal = flatten(chunk.nominal)
        shapes = tuple(tuple(part.shape[1:]) for part in tensors(chunk.nominal))
        stills.append(at_point(measure.name, nominal, nominal, shapes, **measure.settings))
    still = torch.cat(stills).double().cpu()
    return still + side.found if METRICS[measure.name].direction == "upper" else still - side.found


def columns(found: Found, chunks: ByRadius, measures: Sequence[Measure]) -> dict[str, Column]:
    """What was found of those measures of which there is a sandwich at every radius, by their
    labels.
    """
    made = {}
    for measure in measures:
        sides = [of_measure(found.get(eps, ()), measure.name, measure.settings) for eps in chunks]
        if measure.name in METRICS and all(side is not None for side in sides):
            values = [value for parts, side in zip(chunks.values(), sides, strict=True)
                      if side is not None for value in reached(measure, parts, side).tolist()]
            made[measure.label] = Column(f"{measure.label}_found",
                                         f"{lookup(measure.name).formula}; an attack reached this, "
                                         "so the worst case lies between the two", values)
    return made


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether settings are the same; tensors entry by entry."""
    if one.keys() != other.keys():
        return False
    return all(torch.equal(torch.as_tensor(value), torch.as_tensor(other[key]))
               if isinstance(value, Tensor) else value == other[key] for key, value in one.items())
