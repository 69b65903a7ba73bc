"""Certified beside found: the two sides between which the worst case lies, and the alarm if they
cross.
"""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..certificates import Certificate, Sandwich
from ..certificates.layout import flatten, mask_weights, unflatten
from ..certificates.metrics import METRICS, Metric
from ..certifying.exit import contradicted
from ..certifying.request import Points, Request
from ..registration import Table, empty
from ..rounding import FOUND, TOLERANCE, roundings
from .attack import AttackResult, Attributions, run
from .metrics import certified_worsening
from .objectives import objective, share
from .search import Settings, Values, Watch

Coupling = Callable[..., tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Coupled:
    """One row of the table: a certified number, and the objective whose largest value it bounds.

    Args:
        certified: `certified(certificate, **options) -> (N,)`.
        objective: `objective(**options) -> (name, its options)`.
        words: what the number is, for people.
    """

    certified: Callable[..., Tensor]
    objective: Coupling
    words: str


def _of_metric(metric: Metric) -> dict[str, Coupled]:
    """A metric beside the objective of that name."""
    return {metric.name: Coupled(functools.partial(certified_worsening, metric.name),
                                 functools.partial(_itself, metric.name),
                                 f"by how much this gets worse: {metric.formula}")}


def _itself(name: str, /, **options: Any) -> tuple[str, dict[str, Any]]:
    return name, options


SANDWICHES: Table[str, Coupled] = Table(
    "coupled metric", "lirpa_explain.attacks.couple(name, words, objective, certified)",
    lambda name, row: empty(row, "words"), source=METRICS, make=_of_metric, reserved=("width",))


def couple(name: str, words: str, objective: Coupling, certified: Callable[..., Tensor], *,
           overwrite: bool = False) -> None:
    """Set a certified number and an objective beside each other.

    Args:
        name: name of the metric.
        words: what it is, for people.
        objective: from the metric's options to the objective's name and options.
        certified: `certified(certificate, **options) -> (N,)`, an upper bound of that objective.
        overwrite: replace a row of that name.

    Raises:
        ValueError: the name is taken and `overwrite` is False.
    """
    SANDWICHES.add(name, Coupled(certified, objective, words), overwrite=overwrite)


def _region_change(certificate: Certificate, mask: Attributions) -> Tensor:
    box = Box(*certificate.region_sum(mask))
    nominal = flatten(certificate.nominal)
    value = (mask_weights(mask, certificate.nominal) * nominal).sum(1)
    return box.farthest(value)


def _share_of(certificate: Certificate, mask: Attributions) -> Tensor:
    nominal = flatten(certificate.nominal)
    return (mask_weights(mask, certificate.nominal) * share(nominal)).sum(1)


def _may_flip(certificate: Certificate) -> Tensor:
    return ((flatten(certificate.nominal) != 0) & (flatten(certificate.sign()) == 0)).sum(1)


couple("max_change", "|a - nominal| in the norm `norm`",
       lambda norm=2: ({1: "l1", 2: "l2"}.get(norm, "linf"), {}),
       lambda certificate, norm=2: certificate.max_change(norm))
couple("sign", "how many entries that are not 0 may lose their sign", lambda: ("sign_flips", {}),
       _may_flip)
couple("region_sum", "|change of the sum over the region `mask`|",
       lambda mask: ("region_sum", {"mask": mask}), _region_change)
couple("region", "share of the mass of |a| that the region `mask` may gain",
       lambda mask: ("region", {"mask": mask}), lambda certificate,
       mask: certificate.metric("share_upper", mask=mask) - _share_of(certificate, mask))


def sandwich(certificate: Certificate, metric: str = "max_change", *,
             path: str | os.PathLike[str] | None = None,
             entries: int = 4, settings: dict[str, Any] | None = None, **options: Any) -> Sandwich:
    """Attack what a certificate certifies, and set what was found beside it.

    The attack starts from the very call that was certified: its inputs, ball, keywords and random
    draws.

    Both sides say by how much the metric may get worse than at the unperturbed input: of a metric
    that is bounded from above, its increase; of one that is bounded from below, its decrease. For
    distances that is the metric itself.

    Args:
        certificate: as `certify` returned it; not a loaded one.
        metric: a key of `lirpa_explain.SANDWICHES`, such as those of `lirpa_explain.METRICS`; or
            "width" for the mean over all entries of upper - lower.
        path: where a counterexample is saved, should there be one; default: a temporary file, named
            in the error.
        entries: for "width": how many entries of each example, the widest first, are pushed up and
            down one by one.
        settings: of the search: `samples`, `restarts`, `steps`, `step`, `schedule`, `sharpness`,
            `seed`, `batch_size`, `progress`, as for `attack`.
        **options: of the metric: its settings in `lirpa_explain.METRICS`; `norm` of "max_change",
            `mask` of "region" and "region_sum".

    Returns:
        A `Sandwich`.

    Raises:
        SoundnessError: an attribution was found outside of the bounds, or a number beyond the
            certified one. The counterexample is saved with `torch.save` as a dictionary of tensors.
        ValueError: an unknown metric, bad options, or a certificate that has nothing to be
            attacked.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(),
        ...                             torch.nn.Linear(4, 2))
        >>> certificate = lx.certify(Saliency(model), torch.rand(2, 3), eps=0.1, target=0)
        >>> bool((lx.sandwich(certificate, "max_change", norm=2).ratio > 0.99).all())
        True
    """
    return certificate.sandwich(metric, path=path, entries=entries, settings=settings, **options)


def attacked(request: Request, certificate: Certificate, metric: str, *,
             path: str | os.PathLike[str] | None = None,
             entries: int = 4, settings: dict[str, Any] | None = None, **options: Any) -> Sandwich:
    """What `sandwich` returns, for a certificate of this request.

    Raises:
        ValueError: an unknown metric, bad options, or a certificate that has nothing to be
            attacked.
    """
    if metric != "width" and metric not in SANDWICHES:
        raise ValueError(f"metric must be one of width, {', '.join(SANDWICHES)}; given: "
                         f"{metric!r}.")
    if not certificate.meaning.is_nominal:
        raise ValueError("This certificate bounds not the attribution but its "
                         f"{certificate.meaning.kind}, which cannot be evaluated exactly at other "
                         "inputs. Certify in the plain sense to compare.")
    given = Settings(**(settings or {}))
    with torch.no_grad():
        alarm = _Alarm(certificate, request, path)
        if metric == "width":
            return _width(certificate, request, alarm, given, entries, **options)
        row = SANDWICHES[metric]
        try:
            name, chosen = row.objective(**options)
        except TypeError as error:
            raise ValueError(
                f"The metric {metric!r}, {row.words}, was given bad options: {error}.") from error
        goal = objective(name, chosen)
        certified = row.certified(certificate, **options).detach()
        result = run(request, goal, given, alarm)
        alarm.compare(metric, certified,
                      row.certified(alarm.widened(certificate), **options).detach(), result)
    return Sandwich(metric, certified, result.value, result.worst_inputs, result.low, result.high,
                    result.steps,
                    result.fallback, result.interrupted, result.worst_parameters, options)


def _width(certificate: Certificate, request: Request, alarm: Watch, settings: Settings,
           entries: int) -> Sandwich:
    """Widths: what the extremes of all entries span that were met while the widest ones were
    pushed.
    """
    widths = flatten(certificate.upper) - flatten(certificate.lower)
    order = widths.topk(min(entries, widths.shape[1]), 1).indices
    goals = [objective(name, {"entry": entry}) for entry in order.T
             for name in ("increase", "decrease")]
    results: list[AttackResult] = []
    for i, goal in enumerate(goals or [objective("linf")]):
        changed = {"samples": settings.samples if i == 0 else 0, "seed": settings.seed + i}
        results.append(run(request, goal, Settings(**{**vars(settings), **changed}), alarm))
        if results[-1].interrupted:
            break
    low = torch.stack([flatten(r.low) for r in results]).amin(0)
    high = torch.stack([flatten(r.high) for r in results]).amax(0)
    shaped = request.nominal.shaped
    return Sandwich("width", widths.mean(1), (high - low).mean(1), None, shaped(low), shaped(high),
                    sum(r.steps for r in results), results[0].fallback, results[-1].interrupted)


class _Alarm:
    """Raises SoundnessError as soon as an attribution leaves its certificate, with the
    counterexample saved.

    Bounds and attributions are rounded: only what the tolerance of the self-check does not explain
    is reported.
    """

    def __init__(self, certificate: Certificate, request: Request,
                 path: str | os.PathLike[str] | None) -> None:
        self.request, self.path = request, path
        self.lower, self.upper, nominal = (
            flatten(part).detach()
            for part in (certificate.lower, certificate.upper, certificate.nominal))
        self.names = certificate.features
        sizes = torch.cat([self.lower, self.upper], 1).nan_to_num(0, 0, 0).abs()
        self.rtol = TOLERANCE.get(nominal.dtype, 1e-2)
        self.slack = (self.rtol * sizes.amax(1, keepdim=True)
                      + roundings(FOUND, nominal.dtype) * sizes.max())
        difference = (request.nominal.flat - nominal).abs()
        if not bool((difference <= self.slack).all()):
            raise ValueError("The attribution at the unperturbed input is no longer the "
                             f"certificate's: it differs by {float(difference.max()):.3g}. The "
                             "model was changed; certify again.")

    def __call__(self, points: Points, a: Tensor, values: Values) -> None:
        """Compare the attributions (N, D) at points, and at values of the parameters, with the
        bounds.
        """
        outside = Box(self.lower, self.upper).outside(a) - self.slack
        if bool((outside <= 0).all()):
            return
        example, entry = divmod(int(outside.nan_to_num(torch.inf).argmax()), a.shape[1])
        name = "" if self.names is None else f" ({self.names[entry]})"
        self.ring(f"{float(a[example, entry]):.9g} was found for entry {entry}{name} of the "
                  f"flattened attribution of example {example}, whose bounds are "
                  f"[{float(self.lower[example, entry]):.9g}, "
                  f"{float(self.upper[example, entry]):.9g}].", points, a, example, values)

    def widened(self, certificate: Certificate) -> Certificate:
        """The certificate, its bounds moved out by the tolerance: what may be found for all that
        rounding explains.
        """
        lower, upper = (unflatten(certificate.nominal, side)
                        for side in (self.lower - self.slack, self.upper + self.slack))
        return dataclasses.replace(certificate, lower=lower, upper=upper)

    def compare(self, metric: str, certified: Tensor, at_most: Tensor,
                result: AttackResult) -> None:
        """Compare the numbers (N,) of a metric; at_most are those certified of the widened
        bounds.
        """
        rounding = roundings(FOUND, self.lower.dtype)
        excess = result.value - at_most - self.rtol * at_most.abs() - rounding
        if bool((excess <= 0).all()):
            return
        example = int(excess.nan_to_num(torch.inf).argmax())
        points = result.worst_inputs if isinstance(result.worst_inputs,
                                                   tuple) else (result.worst_inputs,)
        self.ring(f"{metric} is {float(result.value[example]):.9g} at an input of the ball of "
                  f"example {example}, certified is at most {float(certified[example]):.9g}.",
                  points, flatten(result.attribution), example,
                  {name: value[example] for name, value in result.worst_parameters.items()})

    def ring(self, words: str, points: Points, a: Tensor, example: int, values: Values) -> None:
        """Save the counterexample and raise."""
        content: dict[str, Any] = {"inputs": self.request.xs, "worst_inputs": points,
                                   "attribution": a, "lower": self.lower, "upper": self.upper}
        content = {name: [t.detach().cpu().clone() for t in value] if isinstance(value, tuple) else
                   value.detach().cpu().clone() for name, value in content.items()}
        path = self.path
        if path is None:
            handle, path = tempfile.mkstemp(prefix="counterexample-", suffix=".pt")
            os.close(handle)
        parameters = {name: value.detach().cpu().clone() for name, value in values.items()}
        torch.save({**content, "example": example, "worst_parameters": parameters}, path)
        raise contradicted(f"The certificate is wrong: {words} The counterexample was saved to "
                           f"{path}; torch.load reads it. This is a defect: please report the "
                           "model and that file.")
