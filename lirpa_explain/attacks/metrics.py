"""Every certified metric as an objective: by how much it gets worse than at the unperturbed input.

The value is always the metric's own, at the one point that was found. Ranks and counts, which are
piecewise constant, have a surrogate that can be differentiated.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..certificates import Certificate
from ..certificates.layout import flatten, mask_weights, tensors
from ..certificates.metrics import Metric, evaluate, lookup

Shapes = tuple[tuple[int, ...], ...]
Score = Callable[..., Tensor]


def mask_rows(mask: Any, like: Tensor, shapes: Shapes) -> Tensor:
    """A mask or map, for one example or all, or a tuple of them for the parts, as rows (N, D)."""
    parts = tuple(part.reshape(len(like), *shape) for part, shape in
                  zip(like.split([math.prod(shape) for shape in shapes], 1), shapes, strict=True))
    return mask_weights(mask, parts if len(parts) > 1 else parts[0])


def at_point(name: str, a: Tensor, nominal: Tensor, shapes: Shapes, **settings: Any) -> Tensor:
    """A metric of one attribution: its row's `at`, or the bound over the box that holds nothing
    else.

    Args:
        name: a key of `lirpa_explain.METRICS`.
        a: (N, D).
        nominal: (N, D).
        shapes: shape of one example of each part of the attribution.
        **settings: of the metric; masks are shaped like the attribution, or like one example of it.

    Returns:
        (N,).

    Example:
        >>> import torch
        >>> v = torch.tensor([[3.0, 2.0, 1.0]])
        >>> at_point("kendall", torch.tensor([[3.0, 1.0, 2.0]]), v, ((3,),)).item()
        0.3333333432674408
    """
    metric = lookup(name)
    settings = _as_rows(metric, settings, a, shapes)
    if metric.at is not None:
        return metric.at(a, nominal, **settings).to(a)
    return evaluate(name, a, a, nominal, **settings).to(a)


def _as_rows(metric: Metric, settings: dict[str, Any], a: Tensor, shapes: Shapes) -> dict[str, Any]:
    """The settings, those that are shaped like the attribution as rows (N, D)."""
    return {name: mask_rows(value, a, shapes) if name in metric.features else value
            for name, value in settings.items()}


def worsening(metric: Metric) -> tuple[Score, Score]:
    """The objective of a metric, and what is differentiated.

    It is the metric's increase if that is bounded from above, else its decrease.
    """
    sign = 1 if metric.direction == "upper" else -1

    def value(a: Tensor, nominal: Tensor, shapes: Shapes, **settings: Any) -> Tensor:
        return sign * (at_point(metric.name, a, nominal, shapes, **settings)
                       - at_point(metric.name, nominal, nominal, shapes, **settings))

    signature = inspect.signature(metric.function)  # with its settings
    setattr(value, "__signature__", signature)  # noqa: B010
    surrogate = metric.surrogate
    if surrogate is None:
        return value, value
    return value, lambda a, nominal, shapes, **settings: surrogate(
        a, nominal, **_as_rows(metric, settings, a, shapes))


def certified_worsening(name: str, certificate: Certificate, **settings: Any) -> Tensor:
    """An upper bound of that objective over a certificate, (N,)."""
    nominal = flatten(certificate.nominal)
    shapes = tuple(tuple(part.shape[1:]) for part in tensors(certificate.nominal))
    still = at_point(name, nominal, nominal, shapes, **settings)
    change = certificate.metric(name, **settings) - still
    return change if lookup(name).direction == "upper" else -change
