"""Training for certified explanations: losses on bounds, schedules, the methods ours is compared with, optimizers."""

from .bort import BORT_MODES as BORT_MODES
from .bort import BortAdamW as BortAdamW
from .bort import BortSGD as BortSGD
from .bort import bort_delta as bort_delta
from .bort import bort_groups as bort_groups
from .explanation import ExplanationLoss as ExplanationLoss
from .explanation import explanation_loss as explanation_loss
from .gradients import input_gradient as input_gradient
from .gradients import smooth_relu as smooth_relu
from .losses import LOSSES as LOSSES
from .losses import Loss as Loss
from .losses import register as register_loss  # noqa: F401
from .methods import TRAINING_METHODS as TRAINING_METHODS
from .methods import TrainingMethod as TrainingMethod
from .methods import register as register_method  # noqa: F401
from .methods import training_loss as training_loss
