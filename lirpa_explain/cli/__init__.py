"""The command line, `lirpa-explain` or `python -m lirpa_explain`."""

from .main import main as main
