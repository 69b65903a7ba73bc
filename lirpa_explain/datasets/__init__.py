"""Certificates of whole data sets: read, certified by workers, written as a folder of Parquet
files, read again.
"""

from .certify import DatasetRun as DatasetRun
from .certify import certify_dataset as certify_dataset
from .results import read_results as read_results
