"""What a sense says: what it goes with, how it is proven, and what a certificate reports of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from ...attributions import Plan
from ...bounding.settings import Bounding
from ...boxes import Box
from ...certificates.meaning import Meaning
from ..nominal import Nominal
from ..request import Request

if TYPE_CHECKING:
    from ..prover import Prover


@dataclass(frozen=True)
class Proven:
    """What a certificate may claim.

    Args:
        plan: of what is bounded.
        box: its bounds, (N, D) each.
        value: a value within, (N, D).
        traced: the same by the trace that the bounds were computed of.
        propagates: whether bound propagation can say more of linear functions of it than the box
            does.
        error: by how much roundings have moved the box outward, (N, D).
        meaning: the sense in which it is bounded, and what is reported of it.
    """

    plan: Plan
    box: Box
    value: Tensor
    traced: Tensor
    propagates: bool
    error: Tensor
    meaning: Meaning = Meaning()

    def absolute(self) -> "Proven | None":
        """The same of the absolute values, where they are functions of single rows; else None."""
        plan = self.plan
        if plan.steps * plan.samples > 1 or plan.reduction != "mean":
            return None
        return replace(self, plan=replace(plan, absolute=True), box=self.box.absolute(),
                       value=self.value.abs(), traced=self.traced.abs())

    def of(self, examples: Tensor | None) -> "Proven":
        """What of it is about these examples, (B,); all if None. The plan stays that of all."""
        if examples is None:
            return self
        return replace(self, box=self.box.rows(examples), value=self.value[examples],
                       traced=self.traced[examples], error=self.error[examples])


class Sense(ABC):
    """A sense in which an attribution is certified.

    A subclass is a dataclass of what the caller chose, and the row of `SENSES` that makes it of
    `certify`'s keywords.
    """

    keyword: ClassVar[str] = "this sense"
    """What chooses it in a call of `certify`, for messages."""

    rounds_outward: ClassVar[bool] = False
    """Whether its bounds can be those of what is computed in floating point."""

    def check(self, request: Request, plan: Plan, bounding: Bounding) -> None:
        """Refuse what this sense does not go with.

        Args:
            request: what is certified.
            plan: of Captum's value.
            bounding: how bounds are computed.

        Raises:
            ValueError: these arguments do not go together.
            UnsupportedAttribution: the attribution has nothing of the kind.
        """
        if bounding.rounded and (request.parameters is not None or not self.rounds_outward):
            what = "parameters" if self.rounds_outward else self.keyword
            raise ValueError(f"rounding='outward' does not go with {what}: it bounds what Captum "
                             "computes in floating point, with the parameters as they are. Leave "
                             "one of them out.")

        if bounding.rounded and plan.combination is not None and plan.combination.roundings is None:
            raise ValueError("rounding='outward' does not go with KernelShap and Lime: how "
                             "scikit-learn's fit rounds is not proven. Leave it out.")

    @abstractmethod
    def prove(self, prover: "Prover", plan: Plan, nominal: Nominal) -> Proven:
        """Bounds in this sense of the attribution whose plan and nominal value are given,
        checked.
        """

    def is_refined(self, request: Request, plan: Plan) -> bool:
        """Whether its bounds are sums of those of rows that can be split into domains."""
        return False

    def words(self, plan: Plan) -> str:
        """What the sense adds to the description of the perturbation: of boundary attributions,
        which point.
        """
        return "boundary point fixed" if plan.nearest is not None else ""

    @classmethod
    def of(cls, value: Any, **companions: Any) -> "Sense":
        """The sense that a caller chose by a keyword of `certify`, given its value and those of its
        companions.
        """
        return cls(value, **companions)  # type: ignore[call-arg]
