"""The integral along a path that Captum's finite sum stands for."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...attributions import Plan
from ...bounding.integral import INTEGRALS, integral_plans
from ...certificates.meaning import Meaning
from ..nominal import Nominal, completeness
from .sense import Proven, Sense

if TYPE_CHECKING:
    from ..prover import Prover

SAYS = "They bound the integral along the path; the nominal value is Captum's finite sum."


@dataclass(frozen=True)
class Integral(Sense):
    """Bounds of the integral; how far from it Captum's sum may be at the inputs is reported.

    Args:
        kind: "exact".

    Raises:
        ValueError: `kind` is something else.
    """

    keyword: ClassVar[str] = "integral"

    kind: Any = "exact"

    def __post_init__(self) -> None:
        if self.kind not in INTEGRALS:
            raise ValueError("integral must be 'exact', or None for the finite sum that Captum "
                             f"computes; given: {self.kind!r}.")

    def prove(self, prover: "Prover", plan: Plan, nominal: Nominal) -> Proven:
        """Bounds of the integral over as many equal sub-intervals as the sum has points."""
        request = prover.request
        finite, whole = integral_plans(plan, request.attribution)
        proven = prover.proven(finite, whole, nominal)
        at_inputs = prover.compose(whole, prover.fixed, prover.bounding.method)
        error = at_inputs.box.farthest(nominal.flat).clamp(min=0)
        facts = {"integral": self.kind, "quadrature_error": nominal.shaped(error.detach()),
                 "completeness": completeness(request.attribution, request.xs, whole.baselines
                                              or (), request.keywords, nominal.parts)}
        return dataclasses.replace(
            proven, meaning=Meaning("integral", f", {self.kind} integral", SAYS, False, facts))
