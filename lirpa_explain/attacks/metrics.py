"""Every certified metric as an objective: by how much it gets worse than at the unperturbed input.

The value is always the metric's own, at the one point that was found. Ranks and counts, which are piecewise constant,
have a surrogate that can be differentiated.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..certificates import Certificate, ranking
from ..certificates.layout import flatten, tensors
from ..certificates.metrics import METRICS, evaluate, lookup
from ..certificates.metrics.orders import mid_ranks
from ..certificates.metrics.tangent import orthonormal
from .objectives import Score, Shapes, margin, mask_rows, opposed, register

Point = Callable[..., Tensor]


def at_point(name: str, a: Tensor, nominal: Tensor, shapes: Shapes, **settings: Any) -> Tensor:
    """A metric of one attribution: its bound over the box that holds nothing else, or a shorter formula for it.

    Args:
        name: a key of `lirpa_explain.METRICS`.
        a: (N, D).
        nominal: (N, D).
        shapes: shape of one example of each part of the attribution.
        **settings: of the metric; masks are shaped like the attribution, or like one example of it.

    Returns:
        (N,).

    Example:
        >>> v = torch.tensor([[3.0, 2.0, 1.0]])
        >>> at_point("kendall", torch.tensor([[3.0, 1.0, 2.0]]), v, ((3,),)).item()
        0.3333333432674408
    """
    for feature in set(lookup(name).features) & set(settings):
        settings[feature] = mask_rows(settings[feature], a, shapes)
    if name in POINTS:
        return POINTS[name](a, nominal, **settings)
    return evaluate(name, a, a, nominal, **settings).to(a)


def worsening(name: str) -> Score:
    """The objective of a metric: its increase if it is bounded from above, else its decrease."""
    sign = 1 if lookup(name).direction == "upper" else -1

    def value(a: Tensor, nominal: Tensor, shapes: Shapes, **settings: Any) -> Tensor:
        return sign * (at_point(name, a, nominal, shapes, **settings)
                       - at_point(name, nominal, nominal, shapes, **settings))

    setattr(value, "__signature__", inspect.signature(lookup(name).function))  # noqa: B010  (its settings)
    return value


def certified_worsening(name: str, certificate: Certificate, **settings: Any) -> Tensor:
    """An upper bound of that objective over a certificate, (N,)."""
    nominal = flatten(certificate.nominal)
    shapes = tuple(tuple(part.shape[1:]) for part in tensors(certificate.nominal))
    change = certificate.metric(name, **settings) - at_point(name, nominal, nominal, shapes, **settings)
    return change if lookup(name).direction == "upper" else -change


def _cosine(a: Tensor, nominal: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(nominal, dim=1)
    return torch.where(lengths == 0, 0.0, (a * nominal).sum(1) / torch.where(lengths == 0, 1.0, lengths))


def _pearson(a: Tensor, nominal: Tensor) -> Tensor:
    return _cosine(_centered(a), _centered(nominal))


def _centered(a: Tensor) -> Tensor:
    """Deviations from the mean; 0 where they are nothing but rounding."""
    deviation = a - a.mean(1, keepdim=True)
    rounding = 4 * torch.finfo(a.dtype).eps * a.shape[1] ** 0.5 * a.abs().amax(1, keepdim=True)
    return torch.where(torch.linalg.vector_norm(deviation, dim=1, keepdim=True) > rounding, deviation, 0.0)


def _gini(a: Tensor, nominal: Tensor) -> Tensor:
    """sum_i (2 i - D - 1) |a|_(i) / (D sum |a|), |a|_(i) ascending: the sum over pairs, sorted."""
    sizes = a.abs().sort(1).values
    size = a.shape[1]
    weights = 2 * torch.arange(1, size + 1, device=a.device) - size - 1
    total = size * sizes.sum(1)
    return torch.where(total > 0, (weights * sizes).sum(1) / torch.where(total > 0, total, 1.0), 0.0)


def _tangent(a: Tensor, nominal: Tensor, basis: Tensor) -> Tensor:
    q = orthonormal(basis.detach().to(a.device)).to(a)
    length = torch.linalg.vector_norm(a, dim=1)
    inside = torch.linalg.vector_norm((q.mT @ a[..., None])[..., 0], dim=1)
    return torch.where(length == 0, 0.0, inside / torch.where(length == 0, 1.0, length))


def _scored(absolute: bool, a: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor]:
    return (a.abs(), nominal.abs()) if absolute else (a, nominal)


def _pairs(a: Tensor, nominal: Tensor, count: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over pairs of a function of sign(a_i - a_j) sign(v_i - v_j); a row at a time takes 8 D^2 bytes."""
    size = a.shape[1]
    if size == 1:
        return torch.ones_like(a[:, 0])
    rows = [count((one[:, None] - one).sign() * (v[:, None] - v).sign()) for one, v in zip(a, nominal, strict=True)]
    return torch.stack(rows).to(a) / (size * (size - 1))


def _kendall(a: Tensor, nominal: Tensor, absolute: bool = True) -> Tensor:
    return _pairs(*_scored(absolute, a, nominal), torch.sum)


def _pair_order(a: Tensor, nominal: Tensor, absolute: bool = True) -> Tensor:
    return _pairs(*_scored(absolute, a, nominal), lambda products: (products > 0).sum())


def _spearman(a: Tensor, nominal: Tensor, absolute: bool = True) -> Tensor:
    ranks, reference = (mid_ranks(scores, scores)[0] for scores in _scored(absolute, a, nominal))
    size = a.shape[1]
    return (1 - 6 * (ranks - reference).square().sum(1) / max(1, size * (size**2 - 1))).to(a)


def _top_k_overlap(a: Tensor, nominal: Tensor, k: int, absolute: bool = True) -> Tensor:
    ranking.check_k(k, a.shape[1])
    scores, reference = _scored(absolute, a, nominal)
    return ranking.top_k_overlap(scores, scores, reference, k).to(a)


POINTS: dict[str, Point] = {
    "cosine": _cosine,
    "pearson": _pearson,
    "cosine_distance": lambda a, nominal: (1 - _cosine(a, nominal)) / 2,
    "gini": _gini,
    "tangent_lower": _tangent,
    "tangent_upper": _tangent,
    "pair_order": _pair_order,
    "kendall": _kendall,
    "spearman": _spearman,
    "top_k_overlap": _top_k_overlap,
    "untargeted": lambda a, nominal: (a - nominal).abs().mean(1),
}
"""Metrics whose bound over a box without width is slow, or speaks of more than that point: the number there. (Ranks are
bounded over boxes that hold the nominal too.)"""


def _disorder(a: Tensor, nominal: Tensor, shapes: Shapes, absolute: bool = True) -> Tensor:
    """Smoothed count of pairs out of order: those 1, 2, 4, ... places apart in the nominal's order."""
    scores, reference = _scored(absolute, a, nominal)
    order = reference.argsort(1)
    scores, reference = scores.gather(1, order), reference.gather(1, order)
    result, gap = 0 * scores.sum(1), 1
    while gap < scores.shape[1]:
        result = result + opposed(scores[:, gap:] - scores[:, :-gap], reference[:, gap:] - reference[:, :-gap], shapes)
        gap *= 2
    return result


def _above(a: Tensor, nominal: Tensor, shapes: Shapes, threshold: float = 0.0) -> Tensor:
    """Smoothed count of the |a_i| above the threshold."""
    scale = nominal.abs().mean(1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny ** 0.5) / 4
    return torch.sigmoid((a.abs() - threshold) / scale).sum(1)


def _intrusion(a: Tensor, nominal: Tensor, shapes: Shapes, mask: Any, k: int, absolute: bool = False) -> Tensor:
    """By how much the strongest protected features exceed the others whose places they would take."""
    protected = mask_rows(mask, a, shapes) == 1
    scores = a.abs() if absolute else a
    floor = scores.detach().amin(1, keepdim=True)
    inside = torch.where(protected, scores, floor).topk(k, 1).values
    outside = torch.where(protected, floor, scores).topk(k, 1).values.flip(1)
    gaps = inside - outside
    return gaps.clamp(max=0).sum(1) + gaps[:, 0]


def _intrusion_of_one(a: Tensor, nominal: Tensor, shapes: Shapes, mask: Any, k: int = 5, absolute: bool = False
                      ) -> Tensor:
    """The same of the strongest protected feature alone."""
    protected = mask_rows(mask, a, shapes) == 1
    scores = a.abs() if absolute else a
    floor = scores.detach().amin(1, keepdim=True)
    return (torch.where(protected, scores, floor).amax(1)
            - torch.where(protected, floor, scores).topk(k, 1).values[:, -1])


SURROGATES: dict[str, Score | None] = {
    **dict.fromkeys(("l1", "l2", "linf", "relative", "input_relative", "lipschitz", "cosine", "pearson",
                     "cosine_distance", "gini", "mass_lower", "mass_upper", "share_lower", "share_upper",
                     "center_shift", "targeted_region", "untargeted", "tangent_lower", "tangent_upper")),
    **dict.fromkeys(("pair_order", "kendall", "spearman"), _disorder),
    "top_k_overlap": margin,
    "sign_agreement": opposed,
    "effective_complexity": _above,
    "protected_top_k": _intrusion,
    "targeted_fairness": _intrusion_of_one,
}
"""Every metric that is attacked, and what is differentiated; None where that is the metric itself."""

for _name, _surrogate in SURROGATES.items():
    register(_name, f"by how much this gets worse: {METRICS[_name].formula}", _surrogate)(worsening(_name))
