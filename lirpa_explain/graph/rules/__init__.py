"""The table from ATen operations to operators: one short rule each.

A rule is called with the builder and the operation's arguments, in which tensors are `Rows`, `Live`
or constants. It appends steps and returns the value of the result.
"""

from . import (  # noqa: F401  (each fills the table)
    activations,
    arithmetic,
    choices,
    comparisons,
    elementary,
    layers,
    moves,
    normalization,
    norms,
    order,
    places,
    powers,
    references,
    resampling,
    shapes,
    softmax,
)
from .choices import EXACT as EXACT
from .choices import MOVE as MOVE
from .choices import MULTIPLY as MULTIPLY
from .choices import lower_with_comparisons as lower_with_comparisons
from .table import OF_GIVEN as OF_GIVEN
from .table import PASS_THROUGH as PASS_THROUGH
from .table import RULES as RULES
from .table import rule as rule
