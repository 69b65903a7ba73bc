"""The clock that limits of time go by."""

import time

now = time.perf_counter
"""Seconds. `time.process_time` in its place counts what the process computes, on machines where
others are at work."""
