"""Smoothed certificates: what of any attribution's map under Gaussian noise an l2 ball cannot
change.
"""

from .certificate import SmoothedCertificate as SmoothedCertificate
from .certify import certify_smoothed as certify_smoothed
from .faithfulness import FaithfulnessCurve as FaithfulnessCurve
from .faithfulness import faithfulness as faithfulness
from .pictures import plot_importance as plot_importance
from .radii import RADII as RADII
from .regions import grid_cell as grid_cell
from .regions import localisation as localisation
from .regions import rectangle as rectangle
from .settings import Smoothing as Smoothing
