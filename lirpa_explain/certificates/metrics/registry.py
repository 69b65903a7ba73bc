"""The table of metrics: numbers about an explanation, bounded over every point of a box.

A row bounds one number m(a) of an attribution a from one side: "upper" is at least max m(a) over
the box, "lower" at most min m(a). Functions take flat tensors lower, upper and nominal, (N, D)
each, and give (N,).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lirpa_explain.certificates.box import ordered_box
from lirpa_explain.registration import Table, empty, unless


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Args:
        name: its key.
        function: `function(lower, upper, nominal, **settings) -> (N,)`.
        direction: "upper" or "lower": the side from which the number is bounded.
        exact: whether the bound is attained by some point of the box.
        range: where the number lies, for people.
        formula: the number m(a), for people; v is the nominal attribution.
        source: where it comes from.
        worst: what holds of every box: the answer where a bound or the nominal value is infinite or
            NaN; inf for counts up to D.
        takes_infinite: whether the function itself deals with infinite bounds.
        features: settings that are shaped like the attribution.
        examples: settings that may have a row for each example -> how many dimensions they have
            then; 0: always.
        at: `at(a, nominal, **settings) -> (N,)`, the number m(a) itself; by default the bound over
            the box that holds nothing but a. It is for metrics whose bound is slow, or is more than
            m(a) even there.
        surrogate: `surrogate(a, nominal, **settings) -> (N,)`, what an attack differentiates, which
            grows as the metric gets worse; by default the metric itself.
    """

    name: str
    function: Callable[..., Tensor]
    direction: str
    exact: bool
    range: str
    formula: str
    source: str
    worst: float
    takes_infinite: bool = False
    features: tuple[str, ...] = ()
    examples: Mapping[str, int] = field(default_factory=dict)
    at: Callable[..., Tensor] | None = None
    surrogate: Callable[..., Tensor] | None = None

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of what the function takes beside the box."""
        return tuple(inspect.signature(self.function).parameters)[3:]


def _takes(function: Callable[..., Tensor] | None, settings: tuple[str, ...]) -> bool:
    """Whether a function of (a, nominal) takes these settings, if there is one."""
    return function is None or tuple(inspect.signature(function).parameters)[2:] == settings


METRICS: Table[str, Metric] = Table(
    "metric", "lirpa_explain.certificates.metrics.register(Metric(...))",
    lambda name, row: empty(row, "range", "formula") + unless(
        (set(row.features) <= set(row.settings), "has features that are no settings"),
        (set(row.examples) <= set(row.settings), "has rows of settings that are none"),
        (_takes(row.at, row.settings), "takes other settings at a point"),
        (_takes(row.surrogate, row.settings), "has a surrogate that takes other settings")))


def register(metric: Metric, *, overwrite: bool = False) -> Metric:
    """Add a metric to the table.

    Args:
        metric: the new row.
        overwrite: replace a row of that name.

    Returns:
        The row.

    Raises:
        ValueError: the name is taken and `overwrite` is False, or the direction is none.
    """
    if metric.direction not in ("upper", "lower"):
        raise ValueError(f"direction is {metric.direction!r}; pass 'upper' or 'lower'.")
    return METRICS.add(metric.name, metric, overwrite=overwrite)


def lookup(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    return METRICS[name]


def evaluate(name: str, lower: Tensor, upper: Tensor, nominal: Tensor, **settings: Any) -> Tensor:
    """Bound a metric over a box.

    Rows with an infinite or NaN end or nominal value get what holds of every box, unless the metric
    takes infinite bounds.

    Args:
        name: a key of `METRICS`.
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D).
        **settings: of the metric.

    Returns:
        (N,), in the type of `nominal`, or int64 for counts; never NaN.

    Raises:
        ValueError: there is no such metric, or a setting is out of range.
        TypeError: the metric takes no such setting, or wants one that is not given.

    Example:
        >>> nominal = torch.tensor([[3.0, 4.0]])
        >>> evaluate("l1", nominal - 1, nominal + 2, nominal)
        tensor([4.])
    """
    metric = lookup(name)
    try:
        inspect.signature(metric.function).bind(lower, upper, nominal, **settings)
    except TypeError as error:
        raise TypeError(f"The metric {name!r}: {error}; its settings are: "
                        f"{', '.join(metric.settings) or 'none'}.") from None
    if lower.ndim != 2 or not lower.shape == upper.shape == nominal.shape or lower.shape[1] == 0:
        raise ValueError("lower, upper and nominal must be (N, D) with D >= 1; given: "
                         f"{tuple(lower.shape)}, {tuple(upper.shape)}, {tuple(nominal.shape)}.")
    if not nominal.is_floating_point():
        raise TypeError(f"nominal is of type {nominal.dtype}; pass floating point.")
    lower, upper = ordered_box(lower, upper)
    usable = nominal.isfinite().all(1)
    if not metric.takes_infinite:
        usable = usable & (lower.isfinite() & upper.isfinite()).all(1)
    lower, upper, nominal = (t.masked_fill(~usable[:, None], 0) for t in (lower, upper, nominal))
    value = metric.function(lower, upper, nominal, **settings)
    usable = usable & ~value.isnan()  # sums may overflow
    # A count is at most that of the features.
    worst = metric.worst if value.is_floating_point() else int(min(metric.worst, nominal.shape[1]))
    return torch.where(usable, value, torch.full_like(value, worst))
