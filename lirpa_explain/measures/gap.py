"""Two claims about boundary attributions as measurements: the gap to the plain attribution, and the
baseline's weight.

Each number is a pair: what was found, and what is certain not to be exceeded.
"""

from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import IntegratedGradients, Saliency
from torch import Tensor

from ..attributions import Plan, lookup, make_plan
from ..attributions.boundary import BoundaryIntegratedGradients, BoundarySaliency
from ..bounding.ball import make_balls
from ..bounding.engine import Engine
from ..bounding.moving import Moving
from ..bounding.region import Region
from ..bounding.segments import compose_segments
from ..bounding.settings import ROWS, check_method
from ..boxes import Box
from ..certificates import Certificate
from ..certificates.layout import flatten, unflatten
from ..certifying.arguments import check_seam, split_method
from ..certifying.certifier import Certifier
from ..certifying.exit import check_numbers, issued_numbers
from ..decision.search import BoundarySearch, as_tuple, remembered
from ..errors import UnsupportedAttribution, in_the_name_of
from ..graph import capture
from ..guards import isolated, no_training_layers
from ..inputs import check_inputs, check_keywords, uncompiled


@dataclass(frozen=True, eq=False)
class BoundaryGap:
    """How far boundary attributions are from plain ones, for N examples.

    Args:
        found: |A_b(x) - A(x)|_2 with the boundary point that was found, (N,).
        certified: an upper bound of it wherever the nearest boundary point is, (N,).
        plain_norm: |A(x)|_2, to compare with, (N,).
        distance: l2 distance of the boundary point that was found, (N,).
        boundary: the certificate of the boundary attribution.
        plain: the plain attribution, shaped like the inputs.
    """

    found: Tensor
    certified: Tensor
    plain_norm: Tensor
    distance: Tensor
    boundary: Certificate
    plain: Tensor | tuple[Tensor, ...]


@uncompiled
def boundary_gap(attribution: BoundarySaliency | BoundaryIntegratedGradients,
                 inputs: Tensor | tuple[Tensor, ...], *,
                 baselines: Any = None, method: str = "CROWN", quadrature: str | None = None,
                 batch_size: int | None = None, memory_limit: int | None = None,
                 progress: bool = False, pieces: int = 1, **attribute_kwargs: Any) -> BoundaryGap:
    """The distance between a boundary attribution and the plain one: |A_b(x) - A(x)|_2 for each
    example.

    Compared are BoundarySaliency with Saliency(abs=False), and BoundaryIntegratedGradients with
    IntegratedGradients from `baselines`. The upper bound holds for the nearest boundary point
    wherever it is: it is certified over all places that are no further than the point found and
    that bound propagation does not exclude.

    Args:
        attribution: the boundary attribution.
        inputs: a tensor (N, *S) or a tuple of them.
        baselines: of IntegratedGradients, as for Captum; default 0.
        method: how to bound, a key of `lirpa_explain.METHODS`.
        quadrature: Captum's `method` of IntegratedGradients.
        batch_size: most rows bounded at once, default 64.
        memory_limit: bytes that bounds may take, about.
        progress: show progress bars.
        pieces: see `Moving`.
        **attribute_kwargs: keywords of `attribution.attribute`.

    Returns:
        A `BoundaryGap`.

    Raises:
        UnsupportedAttribution: the attribution is of another class.
        BoundaryNotFound: no boundary point was found for some examples.
        ValueError: bad arguments, as for `lirpa_explain.certify`.

    Source:
        Wang, Fredrikson, Datta: Robust Models Are More Interpretable Because Attributions Look
            Normal, ICML 2022.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> gap = lx.boundary_gap(lx.BoundarySaliency(torch.nn.Linear(2, 3)), torch.zeros(1, 2))
        >>> # the gradient of a linear model is the same everywhere
        >>> gap.found.item(), round(gap.certified.item(), 4)
        (0.0, 0.0)
    """
    if type(attribution) not in (BoundarySaliency, BoundaryIntegratedGradients):
        raise UnsupportedAttribution("boundary_gap needs a BoundarySaliency or a "
                                     "BoundaryIntegratedGradients; given: "
                                     f"{type(attribution).__name__}.")
    method, keywords = split_method(method, quadrature, attribute_kwargs)
    check_keywords(keywords)
    xs = check_inputs(inputs)
    searched: list[Any] = []
    with isolated(xs[0].device, attribution), no_training_layers(), remembered(searched):
        points, target = attribution.found(inputs, keywords.get("target"),
                                           keywords.get("additional_forward_args"))
        keywords["target"] = target
        plain = _plain(attribution, inputs, baselines, keywords)
        certifier = Certifier(attribution, method=method, batch_size=batch_size,
                              memory_limit=memory_limit, progress=progress)
        certificate = certifier.certify(inputs, eps=0.0, boundary=Moving(pieces),
                                        quadrature=keywords.pop("method", None), **keywords)
    value, lower, upper, nominal = (
        flatten(a) for a in (plain, certificate.lower, certificate.upper, certificate.nominal))
    certified = torch.maximum((upper - value).abs(), (lower - value).abs()).norm(dim=1)
    found = (nominal - value).norm(dim=1)
    possible = Box(torch.zeros_like(found), certified)
    check_numbers(possible, found, value.norm(dim=1) + found, "Distances that were found")
    return BoundaryGap(found, certified, value.norm(dim=1), points.distance, certificate, plain)


def _plain(attribution: Any, inputs: Any, baselines: Any, keywords: dict[str, Any]) -> Any:
    """The plain attribution, by Captum."""
    keywords = {name: value for name, value in keywords.items() if name != "not_found"}
    given = tuple(x.detach().requires_grad_() for x in as_tuple(inputs))
    given = given if isinstance(inputs, tuple) else given[0]
    if isinstance(attribution, BoundarySaliency) and baselines is not None:
        raise ValueError("baselines go with BoundaryIntegratedGradients; a gradient has none.")
    with in_the_name_of("Captum's plain attribution rejects these arguments"):
        return _by_captum(attribution, given, baselines, keywords)


def _by_captum(attribution: Any, given: Any, baselines: Any, keywords: dict[str, Any]) -> Any:
    """What its `attribute` returns."""
    if isinstance(attribution, BoundarySaliency):
        result = Saliency(attribution.forward_func).attribute(given, **{"abs": False, **keywords})
    else:
        plain = IntegratedGradients(attribution.forward_func, attribution.multiplies_by_inputs)
        result = plain.attribute(given, baselines=baselines, **keywords)
    return tuple(r.detach() for r in result) if isinstance(result, tuple) else result.detach()


@dataclass(frozen=True, eq=False)
class BaselineSensitivity:
    """How far integrated gradients can move when only their baseline does, for N examples.

    Args:
        found: the largest l2 change that was found, (N,).
        certified: an upper bound of all changes, (N,).
        norm: |A(x)|_2, to compare with, (N,).
        lower: lower bounds of the attribution for all baselines, (N, D).
        upper: upper bounds, (N, D).
    """

    found: Tensor
    certified: Tensor
    norm: Tensor
    lower: Tensor
    upper: Tensor


@uncompiled
def baseline_sensitivity(
    attribution: IntegratedGradients | BoundaryIntegratedGradients,
    inputs: Tensor | tuple[Tensor, ...], *, eps: float, norm: float = 2,
    clip: tuple[Any, Any] | None = None, samples: int = 8, method: str = "CROWN",
    quadrature: str | None = None, batch_size: int = ROWS, progress: bool = False,
    **attribute_kwargs: Any) -> BaselineSensitivity:
    """How far integrated gradients move when their baseline moves: max |A(x; b') - A(x; b)|_2 over
    |b' - b| <= eps.

    The baseline b is that of the attribution: `baselines` of IntegratedGradients, or the boundary
    point.

    Args:
        attribution: the attribution, whose input is held fixed.
        inputs: a tensor (N, *S) or a tuple of them.
        eps: radius of the ball around the baseline, at least 0.
        norm: of that ball: math.inf, 2 or 1.
        clip: (low, high), the range of the data, numbers, to which the ball is cut.
        samples: baselines that are tried, drawn from torch's generator; at least 1.
        method: how to bound, a key of `lirpa_explain.METHODS`.
        quadrature: Captum's `method` of IntegratedGradients.
        batch_size: most rows bounded at once.
        progress: show a progress bar.
        **attribute_kwargs: keywords of `attribution.attribute`.

    Returns:
        A `BaselineSensitivity`.

    Raises:
        UnsupportedAttribution: the attribution is of another class.
        BoundaryNotFound: no boundary point was found for some examples.
        ValueError: bad arguments, as for `lirpa_explain.certify`.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> from captum.attr import IntegratedGradients
        >>> model = torch.nn.Linear(2, 1).double()
        >>> change = lx.baseline_sensitivity(IntegratedGradients(model), torch.ones(1, 2).double(),
        ...                                  eps=0.1)
        >>> bool(change.found <= change.certified)
        True
    """
    if type(attribution) not in (IntegratedGradients, BoundaryIntegratedGradients):
        raise UnsupportedAttribution("baseline_sensitivity needs IntegratedGradients or "
                                     "BoundaryIntegratedGradients; given: "
                                     f"{type(attribution).__name__}.")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples must be an integer of at least 1; given: {samples!r}.")
    lookup(attribution)
    check_seam(attribution)
    method, keywords = split_method(method, quadrature, attribute_kwargs)
    check_method(method)
    check_keywords(keywords)
    xs = check_inputs(inputs)
    range_ = BoundarySearch(clip=clip).range(xs)
    with isolated(xs[0].device, attribution), no_training_layers(), remembered([]), torch.no_grad():
        plan = make_plan(attribution, xs, keywords)
        assert plan.baselines is not None
        baselines = tuple(b.expand_as(x) for b, x in zip(plan.baselines, xs, strict=True))
        balls = make_balls(baselines, eps=eps, norm=norm)
        every = torch.arange(len(xs[0]), device=xs[0].device)
        region = Region.of(baselines, baselines, balls, every).cut(*range_)
        box = _segment_bounds(attribution.forward_func, xs, plan, region, method, batch_size,
                              progress)
    with isolated(xs[0].device, attribution):
        value = _from_baseline(attribution, xs, baselines, plan, keywords)
    terms = box.size.nan_to_num(posinf=0).amax(1, keepdim=True)
    box = issued_numbers(box, value, terms, "Integrated gradients")
    found = torch.zeros_like(value[:, 0])
    for _ in range(samples):
        points = as_tuple(unflatten(xs, _sampled(region, norm, eps)))
        with isolated(xs[0].device, attribution):
            moved = _from_baseline(attribution, xs, points, plan, keywords)
        check_numbers(box, moved, terms, "Integrated gradients from another baseline")
        found = torch.maximum(found, (moved - value).norm(dim=1))
    certified = torch.maximum((box[1] - value).abs(), (box[0] - value).abs()).norm(dim=1)
    return BaselineSensitivity(found, certified, value.norm(dim=1), *box)


def _segment_bounds(function: Any, xs: tuple[Tensor, ...], plan: Plan, starts: Region, method: str,
                    batch_size: int, progress: bool) -> Box:
    """Bounds of integrated gradients whose path starts anywhere in regions, and ends in the
    inputs.
    """
    module = capture(function, xs, plan.extras)
    engine = Engine(module, module.example)
    every = torch.arange(len(xs[0]), device=xs[0].device)
    ends = Region.of(xs, xs, tuple(None for _ in xs), every)
    return compose_segments(plan, module, engine, starts, ends, every, ends.difference(starts),
                            method, batch_size, progress)


def _from_baseline(attribution: Any, xs: tuple[Tensor, ...], baselines: tuple[Tensor, ...],
                   plan: Plan, keywords: dict[str, Any]) -> Tensor:
    """Integrated gradients from given baselines, flat, by Captum."""
    plain = IntegratedGradients(attribution.forward_func, attribution.multiplies_by_inputs)
    kept = {k: v for k, v in keywords.items()
            if k in ("additional_forward_args", "n_steps", "method", "internal_batch_size")}
    target = plan.targets[0][1]
    with in_the_name_of("Captum's IntegratedGradients.attribute rejects these arguments"):
        given = tuple(x.detach().requires_grad_() for x in xs)
        result = plain.attribute(given, baselines=baselines, target=target, **kept)
    return flatten(tuple(r.detach() for r in result))


def _sampled(region: Region, norm: float, eps: float) -> Tensor:
    """A point of each row's ball, on its surface but for the cut, (B, D)."""
    step = torch.randn_like(region.center) if norm == 2 else 2 * torch.rand_like(region.center) - 1
    if norm == 1:
        step = torch.zeros_like(step).scatter(1, step.abs().argmax(1, keepdim=True),
                                              1.0) * step.sign()
    step = step / step.norm(p=norm, dim=1, keepdim=True) if norm != torch.inf else step.sign()
    return Box(region.low, region.high).nearest(region.center + eps * step)
