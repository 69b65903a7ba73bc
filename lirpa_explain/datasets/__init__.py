"""Certificates of data sets: read, certified by workers, kept as Parquet files, read again."""

from .certify import DatasetRun as DatasetRun
from .certify import certify_dataset as certify_dataset
from .results import read_results as read_results
