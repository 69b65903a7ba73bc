"""What bounds are held against: points of a ball, Captum's values there; is any outside?

`tests/reference.py` computes what this hands on: samples of perturbation sets, exact ranges of
gradients by integer programs, path integrals by quadrature. Attributions are tensors (N, *S), or
tuples of them for several inputs; n points are tensors (n, N, *S).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.reference import (
    exact_gradient_range,
    input_gradient,
    path_integral,
    sample_ball,
    sample_box,
)
from tests.tolerances import ROUNDING, SMALLEST

__all__ = [
    "assert_inside",
    "assert_sound",
    "ball",
    "exact_gradient_range",
    "flat",
    "input_gradient",
    "parts",
    "path_integral",
    "sample_ball",
    "sample_box",
    "values_at",
]


def parts(value: Any) -> tuple[Tensor, ...]:
    """The tensors of an attribution."""
    return tuple(tree_leaves(value))


def flat(value: Any) -> Tensor:
    """All entries of each example (N, D)."""
    return torch.cat([part.detach().flatten(1) for part in parts(value)], 1)


def ball(
    inputs: Any, eps: float, norm: float = math.inf, count: int = 60, seed: int = 0
) -> tuple[Tensor, ...]:
    """Points of the ball around each input, the centre first: (count, N, *S) for each input."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(sample_ball(x, eps, norm, count, generator) for x in parts(inputs))


def values_at(
    attribution: Any, points: tuple[Tensor, ...], *, seed: int | None = None, **keywords: Any
) -> Tensor:
    """Captum's attributions at points.

    Args:
        attribution: One of Captum's.
        points: Of each input, (n, N, *S).
        seed: For attributions that draw noise, which then is the same at each point. Without it,
            all points are rows of one call.
        keywords: Of `attribute`. What has a row for each of the N examples is repeated.

    Returns:
        Values (n, N, D).
    """
    count, examples = points[0].shape[:2]
    if seed is not None:
        calls = map(_like_call, zip(*points, strict=True))
        drawn = [_drawn(attribution.attribute, seed, rows, **keywords) for rows in calls]
        return torch.stack([flat(value) for value in drawn])
    repeated = {name: _repeated(value, examples, count) for name, value in keywords.items()}
    rows = _like_call(tuple(p.flatten(0, 1) for p in points))
    return flat(attribution.attribute(rows, **repeated)).unflatten(0, (count, examples))


def assert_inside(
    bounds: Any, values: Tensor, *, rounding: float | None = None, what: Any = ""
) -> None:
    """No value lies outside, but for rounding.

    Args:
        bounds: What has a `lower` and an `upper` like the attribution, or a pair of them.
        values: (N, D), or n of them (n, N, D).
        rounding: Relative to the largest value; by default that of the dtype.
        what: For the message.
    """
    sides = bounds if isinstance(bounds, tuple) else (bounds.lower, bounds.upper)
    lower, upper = (flat(side) for side in sides)
    assert lower.isfinite().all() and upper.isfinite().all(), f"{what}: a bound is not finite"
    rounding = ROUNDING[values.dtype] if rounding is None else rounding
    slack = rounding * max(float(values.abs().max()), SMALLEST)
    excess = float(torch.maximum(lower - values, values - upper).max())
    assert excess <= slack, f"{what}: a value is {excess:.3g} outside; {slack:.3g} may be rounding"


def assert_sound(
    certificate: Any, attribution: Any, points: tuple[Tensor, ...], *, seed: int | None = None,
    **keywords: Any,
) -> None:
    """Captum's attributions at the points lie inside the certificate."""
    assert_inside(certificate, values_at(attribution, points, seed=seed, **keywords))


def _like_call(rows: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    return rows if len(rows) > 1 else rows[0]


def _drawn(function: Callable[..., Any], seed: int, *arguments: Any, **keywords: Any) -> Any:
    torch.manual_seed(seed)
    return function(*arguments, **keywords)


def _repeated(value: Any, examples: int, count: int) -> Any:
    """An argument of a call on `count` times as many rows."""
    if isinstance(value, list) and len(value) == examples:
        return value * count
    if isinstance(value, Tensor) and value.ndim and len(value) == examples:
        return value.repeat(count, *[1] * (value.ndim - 1))
    if isinstance(value, tuple):
        return tuple(_repeated(part, examples, count) for part in value)
    return value
