"""Versions of this package and of auto_LiRPA, first made to run on today's torch."""

from . import compat

__version__ = "0.2.0"
AUTO_LIRPA_VERSION = compat.prepare()
