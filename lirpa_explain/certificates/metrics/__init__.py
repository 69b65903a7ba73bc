"""Numbers about an explanation that are bounded over every perturbation, one row of a table
each.
"""

from . import (  # noqa: F401  (each fills the table)
    center,
    concentration,
    directions,
    distances,
    importance,
    orders,
    paper,
    regions,
    tangent,
)
from .center import center_of_mass as center_of_mass
from .orders import certain_pairs as certain_pairs
from .orders import rank_intervals as rank_intervals
from .registry import METRICS as METRICS
from .registry import Metric as Metric
from .registry import evaluate as evaluate
from .registry import lookup as lookup
from .registry import register as register
from .tangent import tangent_basis as tangent_basis
