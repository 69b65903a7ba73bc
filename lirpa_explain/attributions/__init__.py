"""Which Captum attributions can be certified, and the sum of gradients, or of outputs, that each
is.
"""

from . import (  # noqa: F401  (each fills the table)
    ablation,
    boundary,
    deep_lift,
    gradient,
    layer,
    lime,
    neuron,
    noise,
    path,
    permutation,
    relevance,
    rules,
    shap,
)
from .plan import ATTRIBUTIONS as ATTRIBUTIONS
from .plan import WHY_NOT as WHY_NOT
from .plan import Plan as Plan
from .plan import lookup as lookup
from .plan import make_plan as make_plan
from .plan import mixes as mixes
from .plan import name_of as name_of
from .plan import refuse_mixed as refuse_mixed
from .plan import register as register
