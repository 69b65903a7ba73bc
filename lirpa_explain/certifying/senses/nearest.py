"""Boundary attributions of which every x' has its own nearest boundary point."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...attributions import Plan
from ...bounding.compose import Composed
from ...bounding.moving import Moving, compose_moving
from ...bounding.settings import Bounding
from ..exit import check_holds
from ..nominal import Nominal
from ..request import Request
from .finite import FiniteSum
from .sense import Proven, Sense

if TYPE_CHECKING:
    from ..prover import Prover


@dataclass(frozen=True)
class NearestBoundary(Sense):
    """Bounds for every x' at the nearest boundary point of x', wherever that is.

    Args:
        moving: how hard to enclose these points.
    """

    keyword: ClassVar[str] = "boundary='moving'"

    moving: Moving = Moving()

    @classmethod
    def of(cls, value: Any, **companions: Any) -> Sense:
        """The sense of a value of `boundary`.

        Raises:
            ValueError: it is none of "fixed", "moving" or a `Moving`.
        """
        if not isinstance(value, Moving) and value not in ("fixed", "moving"):
            raise ValueError(f"boundary must be 'fixed', 'moving' or a Moving; given: {value!r}.")
        if value == "fixed":
            return FixedBoundary()
        return cls(value if isinstance(value, Moving) else Moving())

    def check(self, request: Request, plan: Plan, bounding: Bounding) -> None:
        """Refuse attributions without boundary points."""
        super().check(request, plan, bounding)
        check_has_boundary(plan)

    def prove(self, prover: "Prover", plan: Plan, nominal: Nominal) -> Proven:
        """Bounds over regions that contain the boundary points of every x', and the value at those
        of x.
        """

        def moved() -> Composed:
            plain = dataclasses.replace(plan, scales=None, baselines=None, noisy=False,
                                        multiply=False, absolute=False)
            module, engine, rows = prover.traced(plain, prover.bounding.method)
            request, bounding = prover.request, prover.bounding
            (lower, upper), has_region = compose_moving(
                plan, module, engine, request.xs, request.balls, bounding.method, rows, self.moving,
                bounding.progress)
            check_holds(has_region,
                        "A boundary point was found where bound propagation excludes it.")
            value = prover.compose(plan, prover.fixed, prover.bounding.method)
            return dataclasses.replace(value, lower=lower, upper=upper)

        return dataclasses.replace(prover.proven(plan, plan, nominal, moved), propagates=False)

    def words(self, plan: Plan) -> str:
        """Every x' has its own boundary point."""
        return "boundary point of each x' itself"


@dataclass(frozen=True)
class FixedBoundary(FiniteSum):
    """The plain sense, asked for by name: the boundary point found for x is part of the
    attribution.
    """

    def check(self, request: Request, plan: Plan, bounding: Bounding) -> None:
        """Refuse attributions without boundary points."""
        super().check(request, plan, bounding)
        check_has_boundary(plan)


def check_has_boundary(plan: Plan) -> None:
    """Refuse attributions without boundary points."""
    if plan.nearest is None:
        raise ValueError("boundary goes with BoundarySaliency and BoundaryIntegratedGradients; "
                         "this attribution has no boundary point.")
