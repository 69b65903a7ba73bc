"""Training for certified explanations: differentiable losses on bounds, and schedules of radii and weights."""

from .explanation import ExplanationLoss as ExplanationLoss
from .explanation import explanation_loss as explanation_loss
from .losses import LOSSES as LOSSES
from .losses import Loss as Loss
from .losses import register as register_loss  # noqa: F401
