"""Training for explanations that can be certified: losses, baselines, optimizers."""

from .bort import BORT_MODES as BORT_MODES
from .bort import BortAdamW as BortAdamW
from .bort import BortSGD as BortSGD
from .bort import bort_delta as bort_delta
from .bort import bort_groups as bort_groups
from .gradients import input_gradient as input_gradient
from .gradients import smooth_relu as smooth_relu
from .methods import TRAINING_METHODS as TRAINING_METHODS
from .methods import TrainingMethod as TrainingMethod
from .methods import training_loss as training_loss
