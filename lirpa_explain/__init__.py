"""Explanations of neural networks with certified bounds: Captum's attributions, bounded by auto_LiRPA."""

from . import compat as _compat

AUTO_LIRPA_VERSION = _compat.prepare()
