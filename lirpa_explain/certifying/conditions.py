"""Conditions such as "cosine >= 0.9", as text, and by how much bounds meet them."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..certificates.metrics import evaluate, lookup

SIDES = {">=": "lower", "<=": "upper"}
"""The side from which a metric must be bounded for a comparison to be certified."""


@dataclass(frozen=True)
class MetricCondition:
    """A metric compared with a number.

    Args:
        name: a key of `lirpa_explain.METRICS`.
        comparison: ">=" or "<=".
        bound: the number.
        settings: of the metric; those shaped like the attribution flat, (N, D).
        nominal: the attributions at the inputs, (N, D).
    """

    name: str
    comparison: str
    bound: float
    nominal: Tensor
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, lower: Tensor, upper: Tensor, example: int) -> Tensor:
        """By how much bounds (B, D) of an example's attributions meet it, (B,): from 0 on they
        do.
        """
        features = lookup(self.name).features
        settings = {key: value[example].expand_as(lower) if key in features else value
                    for key, value in self.settings.items()}
        value = evaluate(self.name, lower, upper, self.nominal[example].expand_as(lower),
                         **settings)
        met = value.to(lower) - self.bound
        return met if self.comparison == ">=" else -met


def is_condition(what: Any) -> bool:
    """Whether something is a condition's text, alone or with settings."""
    text = (what[0]
            if isinstance(what, tuple) and len(what) == 2 and isinstance(what[1], dict) else what)
    return isinstance(text, str) and any(sign in text for sign in SIDES)


def condition(what: Any, nominal: Tensor, flat: Any) -> MetricCondition:
    """Read "METRIC >= NUMBER" or "METRIC:SETTING=VALUE,... <= NUMBER", or a tuple of that and
    further settings.

    Args:
        what: the text, or the tuple.
        nominal: the attributions, (N, D).
        flat: maps a setting that is shaped like the attribution to (N, D).

    Raises:
        ValueError: it is not of that form, or asks for what the metric's bound cannot certify.
    """
    text, given = what if isinstance(what, tuple) else (what, {})
    match = re.fullmatch(r"\s*(\w+)\s*(?::\s*(.*?))?\s*(>=|<=)\s*(\S+)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is not of the form 'METRIC >= NUMBER' or 'METRIC:SETTING=VALUE "
                         "<= NUMBER'.")
    name, pairs, comparison, number = match.groups()
    metric = lookup(name)
    if metric.direction != SIDES[comparison]:
        other = next(sign for sign, side in SIDES.items() if side == metric.direction)
        raise ValueError(f"{text!r} cannot be certified: {name} is bounded from "
                         f"{'above' if metric.direction == 'upper' else 'below'} only; ask for "
                         f"{name} {other} NUMBER.")
    settings = {**dict(_setting(pair) for pair in (pairs or "").split(",") if pair.strip()),
                **given}
    for feature in set(metric.features) & set(settings):
        settings[feature] = flat(settings[feature])
    try:
        found = MetricCondition(name, comparison, float(number), nominal, settings)
    except ValueError as error:
        raise ValueError(f"{text!r} compares with {number!r}, which is not a number.") from error
    found(nominal[:1], nominal[:1], 0)  # complains of wrong settings at once
    return found


def _setting(pair: str) -> tuple[str, Any]:
    name, _, value = pair.partition("=")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()


def holds_at(condition: MetricCondition, attributions: Tensor) -> Tensor:
    """Whether it holds at points with attributions (P, D) of examples 0 to P - 1, (P,), bool."""
    return torch.cat([condition(a[None], a[None], n) for n, a in enumerate(attributions)]) >= 0
