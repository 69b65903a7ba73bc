"""The expectation under Gaussian noise that the samples of a NoiseTunnel estimate."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ...attributions import Plan
from ...attributions.plan import name_of
from ...bounding.ball import Ball
from ...bounding.compose import Composed, sample_bounds
from ...bounding.expectation import (
    EXPECTATIONS,
    PROPAGATED,
    certified_range,
    check_has_expectation,
    deviations,
    expectation_bounds,
    one_sample,
    shift_of,
    summarise,
)
from ...bounding.settings import Bounding
from ...boxes import Box
from ...certificates.meaning import Meaning
from ...errors import UnsupportedAttribution
from ...rounding import unit
from ..exit import check_holds
from ..nominal import Nominal
from ..request import Request
from .sense import Proven, Sense

if TYPE_CHECKING:
    from ..prover import Prover


ORDINARY = 2 ** 10
"""Units in the last place, of the mean size of samples, by which their mean may be off before it is
looked into."""


@dataclass(frozen=True)
class Expectation(Sense):
    """Bounds of E a(x' + e) over the noise e, at a confidence, for every x' of the ball.

    Args:
        kind: a key of `bounding.expectation.EXPECTATIONS`.
        confidence: probability, for each example, that all of its bounds hold; between 0 and 1.

    Raises:
        ValueError: `kind` or `confidence` is something else.
    """

    keyword: ClassVar[str] = "expectation"

    kind: Any = "gaussian"
    confidence: Any = 0.999

    def __post_init__(self) -> None:
        if self.kind not in EXPECTATIONS:
            raise ValueError(f"expectation must be one of {', '.join(EXPECTATIONS)}, or None for "
                             f"the noise that was drawn; given: {self.kind!r}.")
        is_number = isinstance(self.confidence,
                               int | float) and not isinstance(self.confidence, bool)
        if not is_number or not 0 < self.confidence < 1:
            raise ValueError("confidence must be a number between 0 and 1, such as 0.999; given: "
                             f"{self.confidence!r}.")

    def check(self, request: Request, plan: Plan, bounding: Bounding) -> None:
        """Refuse what is not the expectation of something bounded under noise."""
        super().check(request, plan, bounding)
        if bounding.differentiable:
            raise ValueError("expectation goes neither with integral nor with differentiable=True: "
                             "its bounds are statistics of drawn samples of what Captum computes.")
        if request.parameters is not None:
            raise ValueError("expectation does not go with parameters: what smoothing says of "
                             "other inputs, it does not say of other parameters. Certify the mean "
                             "of the samples that are drawn.")
        if plan.nearest is not None:
            raise UnsupportedAttribution(f"{name_of(request.attribution)} has no certified "
                                         "expectation: each noisy input has a boundary point of "
                                         "its own.")
        check_has_expectation(request.attribution, plan, request.keywords)

    def prove(self, prover: "Prover", plan: Plan, nominal: Nominal) -> Proven:
        """Bounds from the samples that the plan describes."""
        box = prover.estimated(plan, lambda: self._bounds(prover, plan, nominal), nominal)
        facts = {"expectation": self.kind, "confidence": self.confidence, "samples": plan.samples}
        title = (f", expectation ({self.kind})\n"
                 f"  confidence    {self.confidence:g} an example, {plan.samples} samples")
        says = (f"They bound the expectation under Gaussian noise ({self.kind}), for each example "
                f"with probability {self.confidence:g} over the {plan.samples} samples drawn; the "
                "nominal value is the mean of these.")
        meaning = Meaning("expectation", title, says, False, facts)
        return Proven(plan, box, nominal.flat, nominal.flat, False, torch.zeros_like(nominal.flat),
                      meaning)

    def _bounds(self, prover: "Prover", plan: Plan, nominal: Nominal) -> Composed:
        """Bounds of the expectation, with the mean of the samples as their value."""
        request = prover.request
        xs, balls = request.xs, request.balls
        single, sigmas = one_sample(plan, xs), deviations(request.keywords, len(xs))
        shift = shift_of(xs, balls, sigmas)

        def bound(balls: tuple[Ball | None, ...], how: str | None) -> Box:
            return prover.compose(single, balls, how or prover.bounding.method).box

        near, far = certified_range(bound, xs, balls, sigmas)
        propagated = self.kind == PROPAGATED
        moving, how = (balls, prover.bounding.method) if propagated else (prover.fixed, "IBP")
        module, engine, rows = prover.traced(plan, how)
        chunks = sample_bounds(plan, module, engine, xs, moving, how, rows,
                               prover.bounding.progress)
        samples = summarise(chunks, near, far, plan.samples)
        check_holds(samples.within,
                    "A sample of the attribution lies beyond its range over all inputs.")
        lower, upper = expectation_bounds(samples, near, far, plan.samples, self.confidence, shift,
                                          propagated=propagated)
        error = ORDINARY * unit(nominal.flat.dtype) * samples.magnitude.to(nominal.flat)
        return Composed(lower, upper, samples.value.to(nominal.flat), error)
