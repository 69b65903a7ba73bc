"""Models that people explain, at small sizes and with random weights: `MODELS` is the table of
all.
"""

from .kinds import KINDS
from .language import LANGUAGE
from .row import Made, Row
from .science import SCIENCE
from .vision import VISION

MODELS: dict[str, Row] = {**VISION, **LANGUAGE, **SCIENCE, **KINDS}

__all__ = ["MODELS", "Made", "Row"]
