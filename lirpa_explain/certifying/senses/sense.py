"""What a sense says: what it goes with, how it is proven, and what a certificate reports of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...attributions import Plan
from ...certificates.meaning import Meaning
from ...operators.bound import Box
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
        propagates: whether bound propagation can say more of linear functions of it than the box does.
        meaning: the sense in which it is bounded, and what is reported of it.
    """

    plan: Plan
    box: Box
    value: Tensor
    propagates: bool
    meaning: Meaning = Meaning()


class Sense(ABC):
    """A sense in which an attribution is certified.

    A subclass is a dataclass of what the caller chose, and the row of `SENSES` that makes it of `certify`'s keywords.
    """

    def check(self, request: Request, plan: Plan, differentiable: bool) -> None:
        """Refuse what this sense does not go with.

        Args:
            request: what is certified.
            plan: of Captum's value.
            differentiable: whether bounds are to be differentiable in the model's parameters.

        Raises:
            ValueError: these arguments do not go together.
            UnsupportedAttribution: the attribution has nothing of the kind.
        """
        return

    @abstractmethod
    def prove(self, prover: "Prover", plan: Plan, nominal: Nominal) -> Proven:
        """Bounds in this sense of the attribution whose plan and nominal value are given, checked."""

    def words(self, plan: Plan) -> str:
        """What the sense adds to the description of the perturbation, if anything."""
        return ""

    @classmethod
    def of(cls, value: Any, **companions: Any) -> "Sense":
        """The sense that a caller chose by a keyword of `certify`, given its value and those of its companions."""
        return cls(value, **companions)  # type: ignore[call-arg]
