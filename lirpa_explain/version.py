"""Versions of this package and of the auto_LiRPA that it runs with, which is made to run on today's
torch first.
"""

from . import compat

__version__ = "0.2.0"
AUTO_LIRPA_VERSION = compat.prepare()
