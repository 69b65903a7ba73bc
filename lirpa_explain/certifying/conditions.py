"""Conditions such as "cosine >= 0.9", as text, and by how much bounds meet them."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..certificates.metrics import evaluate, lookup
from ..certificates.metrics.sums import Bounder
from ..certificates.refine import propagated, whole_of

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

    def __call__(self, box: Box, examples: Tensor) -> Tensor:
        """By how much bounds (B, D) of examples' attributions meet it, (B,): from 0 on they do."""
        value = evaluate(self.name, *box, self.nominal[examples], **self._settings_of(examples))
        return self._met(value.to(box.lower))

    def at(self, attributions: Tensor, examples: Tensor) -> Tensor:
        """The same of attributions (B, D) themselves."""
        metric, settings = lookup(self.name), self._settings_of(examples)
        if metric.at is None:
            return self(Box.point(attributions), examples)
        return self._met(
            metric.at(attributions, self.nominal[examples], **settings).to(attributions))

    def by_sums(self, bounder: Bounder, box: Box, met: Tensor, examples: Tensor) -> Tensor | None:
        """The same by bounds of linear functions as well, given what it is by the box; None if
        these say nothing.
        """
        settings, nominal = self._settings_of(examples), self.nominal[examples]
        if whole_of(self.name, nominal, settings) is None:
            return None
        value = self.bound + (met if self.comparison == ">=" else -met)
        return self._met(propagated(bounder, self.name, box, nominal, value, settings))

    def _met(self, value: Tensor) -> Tensor:
        met = value - self.bound
        return met if self.comparison == ">=" else -met

    def _settings_of(self, examples: Tensor) -> dict[str, Any]:
        """The settings for rows that belong to these examples."""
        metric, chosen = lookup(self.name), dict(self.settings)
        for key, value in self.settings.items():
            dimensions = 2 if key in metric.features else metric.examples.get(key)
            if isinstance(value, tuple) and key in metric.examples:
                chosen[key] = tuple(part[examples] for part in value)
            elif isinstance(value, Tensor) and dimensions in (0, value.ndim):
                chosen[key] = value[examples]
        return chosen


def is_condition(what: Any) -> bool:
    """Whether something is a condition's text, alone or with settings."""
    has_settings = isinstance(what, tuple) and len(what) == 2 and isinstance(what[1], dict)
    text = what[0] if has_settings else what
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
    if metric.of_two:
        raise ValueError(f"{text!r} cannot be refined: {name} is a number of two attributions, and "
                         "a ball is refined in parts, of which each holds one. Refine the entries, "
                         "what='width', and ask for the metric then.")
    settings = {**dict(_setting(pair) for pair in (pairs or "").split(",") if pair.strip()),
                **given}
    for feature in set(metric.features) & set(settings):
        settings[feature] = flat(settings[feature])
    try:
        found = MetricCondition(name, comparison, float(number), nominal, settings)
    except ValueError as error:
        raise ValueError(f"{text!r} compares with {number!r}, which is not a number.") from error
    found.at(nominal, torch.arange(len(nominal)))  # complains of wrong settings at once
    return found


def _setting(pair: str) -> tuple[str, Any]:
    name, _, value = pair.partition("=")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()

