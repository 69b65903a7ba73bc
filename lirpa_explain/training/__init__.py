"""Training for certified explanations: differentiable losses on bounds, and schedules of radii and weights."""

from .explanation import ExplanationLoss as ExplanationLoss
from .explanation import explanation_loss as explanation_loss
from .labels import certified_cross_entropy as certified_cross_entropy
from .losses import LOSSES as LOSSES
from .losses import Loss as Loss
from .losses import register as register_loss
from .schedules import Ramp as Ramp

__all__ = ["LOSSES", "ExplanationLoss", "Loss", "Ramp", "certified_cross_entropy", "explanation_loss", "register_loss"]
