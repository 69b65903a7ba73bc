"""Training for certified explanations: losses on bounds, schedules, the methods they compete with,
optimizers.
"""

from .bort import BORT_MODES as BORT_MODES
from .bort import BortAdamW as BortAdamW
from .bort import BortSGD as BortSGD
from .bort import bort_delta as bort_delta
from .bort import bort_groups as bort_groups
from .explanation import ExplanationLoss as ExplanationLoss
from .explanation import explanation_loss as explanation_loss
from .gradients import input_gradient as input_gradient
from .gradients import smooth_relu as smooth_relu
from .labels import certified_cross_entropy as certified_cross_entropy
from .losses import LOSSES as LOSSES
from .losses import Loss as Loss
from .losses import register as register_loss
from .methods import TRAINING_METHODS as TRAINING_METHODS
from .methods import TrainingMethod as TrainingMethod
from .methods import register as register_method
from .methods import training_loss as training_loss
from .schedules import Ramp as Ramp

__all__ = ["BORT_MODES", "LOSSES", "TRAINING_METHODS", "BortAdamW", "BortSGD", "ExplanationLoss",
           "Loss", "Ramp", "TrainingMethod", "bort_delta", "bort_groups", "certified_cross_entropy",
           "explanation_loss",
           "input_gradient", "register_loss", "register_method", "smooth_relu", "training_loss"]
