"""Explanations of neural networks with certified bounds: Captum's attributions, bounded by
auto_LiRPA.
"""

from . import compat as _compat
from .unable import leave_as_command as _leave_as_command

try:
    from .version import AUTO_LIRPA_VERSION as AUTO_LIRPA_VERSION
    from .version import __version__ as __version__
except ImportError as _error:
    _leave_as_command(str(_error))
    raise

# auto_LiRPA is prepared now, and what follows may import it.
# isort: split

from . import training as training
from .attacks import OBJECTIVES as OBJECTIVES
from .attacks import SANDWICHES as SANDWICHES
from .attacks import AttackResult as AttackResult
from .attacks import Sandwich as Sandwich
from .attacks import attack as attack
from .attacks import sandwich as sandwich
from .attributions import ATTRIBUTIONS as ATTRIBUTIONS
from .attributions.boundary import BoundaryIntegratedGradients as BoundaryIntegratedGradients
from .attributions.boundary import BoundarySaliency as BoundarySaliency
from .bounding.ball import Ball as Ball
from .bounding.methods import METHODS as METHODS
from .bounding.moving import Moving as Moving
from .bounding.parameters import ParameterBox as ParameterBox
from .bounding.substitutions import substitutions as substitutions
from .bounding.table import Table as Table
from .bounding.whole import AttributionModule as AttributionModule
from .certificates import METRICS as METRICS
from .certificates import Certificate as Certificate
from .certificates import Radius as Radius
from .certificates import join as join
from .certificates import tangent_basis as tangent_basis
from .certify import certify as certify
from .certifying.certifier import Certifier as Certifier
from .datasets import DatasetRun as DatasetRun
from .datasets import certify_dataset as certify_dataset
from .datasets import read_results as read_results
from .decision.search import BoundaryPoints as BoundaryPoints
from .decision.search import BoundarySearch as BoundarySearch
from .errors import BoundaryNotFound as BoundaryNotFound
from .errors import CaptumWarning as CaptumWarning
from .errors import LirpaExplainError as LirpaExplainError
from .errors import MemoryLimitTooSmall as MemoryLimitTooSmall
from .errors import SoundnessError as SoundnessError
from .errors import TrainingModeError as TrainingModeError
from .errors import UnsupportedAttribution as UnsupportedAttribution
from .errors import UnsupportedOperation as UnsupportedOperation
from .errors import WorkerDied as WorkerDied
from .explained import channels as channels
from .explained import from_layer as from_layer
from .explained import label_free as label_free
from .explained import subspace as subspace
from .graph import GradientModule as GradientModule
from .graph import capture as capture
from .interchange import PROPERTIES as PROPERTIES
from .interchange import MarginModule as MarginModule
from .interchange import export as export
from .interchange import load_onnx as load_onnx
from .interchange import replay as replay
from .measures.find import find_boundary as find_boundary
from .measures.gap import BaselineSensitivity as BaselineSensitivity
from .measures.gap import BoundaryGap as BoundaryGap
from .measures.gap import baseline_sensitivity as baseline_sensitivity
from .measures.gap import boundary_gap as boundary_gap
from .measures.monotone import Monotone as Monotone
from .measures.monotone import certify_monotone as certify_monotone
from .measures.negative import Negative as Negative
from .measures.negative import certify_negative as certify_negative
from .measures.prediction import Prediction as Prediction
from .measures.prediction import certify_prediction as certify_prediction
from .measures.radius import radius as radius
from .operators import OPERATORS as OPERATORS
from .plots import plot_bars as plot_bars
from .plots import plot_curve as plot_curve
from .plots import plot_grid as plot_grid
from .plots import plot_image as plot_image
from .reporting import report as report
from .smoothing import SmoothedCertificate as SmoothedCertificate
from .smoothing import certify_smoothed as certify_smoothed
from .smoothing import plot_importance as plot_importance
