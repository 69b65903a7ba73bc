"""Training for explanations that can be certified: losses, baselines, optimizers."""

from .bort import BORT_MODES as BORT_MODES
from .bort import BortAdamW as BortAdamW
from .bort import BortSGD as BortSGD
from .bort import bort_delta as bort_delta
from .bort import bort_groups as bort_groups
