"""Explanations of neural networks with certified bounds: Captum's attributions, bounded by auto_LiRPA."""

from . import compat as _compat

__version__ = "0.1.0"
AUTO_LIRPA_VERSION = _compat.prepare()

from . import training as training  # noqa: E402
from .attacks import OBJECTIVES as OBJECTIVES  # noqa: E402  (auto_LiRPA must be prepared first)
from .attacks import SANDWICHES as SANDWICHES  # noqa: E402
from .attacks import AttackResult as AttackResult  # noqa: E402
from .attacks import Sandwich as Sandwich  # noqa: E402
from .attacks import attack as attack  # noqa: E402
from .attacks import sandwich as sandwich  # noqa: E402
from .attributions import ATTRIBUTIONS as ATTRIBUTIONS  # noqa: E402
from .attributions.boundary import BoundaryIntegratedGradients as BoundaryIntegratedGradients  # noqa: E402
from .attributions.boundary import BoundarySaliency as BoundarySaliency  # noqa: E402
from .boundary.find import find_boundary as find_boundary  # noqa: E402
from .boundary.gap import BaselineSensitivity as BaselineSensitivity  # noqa: E402
from .boundary.gap import BoundaryGap as BoundaryGap  # noqa: E402
from .boundary.gap import baseline_sensitivity as baseline_sensitivity  # noqa: E402
from .boundary.gap import boundary_gap as boundary_gap  # noqa: E402
from .boundary.moving import Moving as Moving  # noqa: E402
from .boundary.search import BoundaryPoints as BoundaryPoints  # noqa: E402
from .boundary.search import BoundarySearch as BoundarySearch  # noqa: E402
from .bounding.ball import Ball as Ball  # noqa: E402
from .bounding.engine import METHODS as METHODS  # noqa: E402
from .bounding.parameters import ParameterBox as ParameterBox  # noqa: E402
from .certificates import METRICS as METRICS  # noqa: E402
from .certificates import Certificate as Certificate  # noqa: E402
from .certificates import Radius as Radius  # noqa: E402
from .certificates import tangent_basis as tangent_basis  # noqa: E402
from .certifier import Certifier as Certifier  # noqa: E402
from .certify import certify as certify  # noqa: E402
from .errors import BoundaryNotFound as BoundaryNotFound  # noqa: E402
from .errors import CaptumWarning as CaptumWarning  # noqa: E402
from .errors import LirpaExplainError as LirpaExplainError  # noqa: E402
from .errors import SoundnessError as SoundnessError  # noqa: E402
from .errors import TrainingModeError as TrainingModeError  # noqa: E402
from .errors import UnsupportedAttribution as UnsupportedAttribution  # noqa: E402
from .errors import UnsupportedOperation as UnsupportedOperation  # noqa: E402
from .explained import channels as channels  # noqa: E402
from .explained import label_free as label_free  # noqa: E402
from .explained import subspace as subspace  # noqa: E402
from .graph import GradientModule as GradientModule  # noqa: E402
from .graph import capture as capture  # noqa: E402
from .operators import OPERATORS as OPERATORS  # noqa: E402
from .plots import plot_bars as plot_bars  # noqa: E402
from .plots import plot_curve as plot_curve  # noqa: E402
from .plots import plot_grid as plot_grid  # noqa: E402
from .plots import plot_image as plot_image  # noqa: E402
from .prediction import Prediction as Prediction  # noqa: E402
from .prediction import certify_prediction as certify_prediction  # noqa: E402
from .radius import radius as radius  # noqa: E402
from .reporting import report as report  # noqa: E402
