"""The plain sense: what Captum computes at every allowed input, its finite sums and drawn noise
included.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...attributions import Plan
from ..nominal import Nominal
from .sense import Proven, Sense

if TYPE_CHECKING:
    from ..prover import Prover
    from ..request import Request


@dataclass(frozen=True)
class FiniteSum(Sense):
    """lower <= attribution.attribute(x') <= upper."""

    rounds_outward: ClassVar[bool] = True

    def is_refined(self, request: "Request", plan: Plan) -> bool:
        """Unless parameters move, boundary points would have to be searched for, or rows are
        joined.
        """
        return request.parameters is None and plan.nearest is None and plan.combination is None

    def prove(self, prover: "Prover", plan: Plan, nominal: Nominal) -> Proven:
        """Bounds of the sum that the plan describes."""
        return prover.proven(plan, plan, nominal)
