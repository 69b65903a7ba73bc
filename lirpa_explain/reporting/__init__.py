"""Certificates as tables and as pages to read."""

from .page import report as report
from .words import WORDS as WORDS
