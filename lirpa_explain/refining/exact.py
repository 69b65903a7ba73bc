"""Exact extremes of linear functions of a row, by scipy's HiGHS."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from . import clock
from .program import Program

TOLERANCE = 1e-6
"""HiGHS's own tolerance of constraints and integers, by which its bounds are moved outward: they
are no proof."""

TIGHT = 1e-9
"""The tolerance that it is asked for."""


@dataclass(frozen=True)
class Extreme:
    """What the solver says of the least value of a function.

    Args:
        lower: no value lies below, up to the solver's tolerances.
        point: the variables of the best point found; None if there is none.
        is_optimal: whether it says that this is the least one.
        seconds: how long it took.
    """

    lower: float
    point: np.ndarray | None
    is_optimal: bool
    seconds: float


def minimum(program: Program, function: np.ndarray, seconds: float | None = None,
            gap: float = 0.0) -> Extreme:
    """The least value of a function (D,) of a row's result.

    Args:
        program: of the row.
        function: its coefficients.
        seconds: when to stop; None: when it is exact.
        gap: relative gap at which to stop.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    objective, constant = program.objective @ function, float(program.constant @ function)
    options = {"time_limit": seconds, "mip_rel_gap": gap, "mip_feasibility_tolerance": TIGHT,
               "primal_feasibility_tolerance": TIGHT, "dual_feasibility_tolerance": TIGHT}
    constraints = ([] if not program.rows
                   else [LinearConstraint(program.matrix(), program.least, program.most)])
    started = clock.now()
    # scipy warns that it hands the tolerances to the solver as they are
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unrecognized options", RuntimeWarning)
        found = milp(
            objective, integrality=program.integral, bounds=Bounds(program.lower, program.upper),
            constraints=constraints, options={k: v for k, v in options.items() if v is not None})
    bound = found.mip_dual_bound if found.mip_dual_bound is not None else found.fun
    lower = -np.inf if bound is None or found.status not in (0, 1) else float(bound)
    moved = TOLERANCE * (abs(lower) + abs(constant)) if np.isfinite(lower) else 0.0
    return Extreme(lower + constant - moved, found.x, found.status == 0, clock.now() - started)
