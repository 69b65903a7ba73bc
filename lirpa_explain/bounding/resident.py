"""Memory of the process that is held for nothing: freed pieces that the C library keeps for
later.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable
from pathlib import Path

PAGES = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of the process in memory; 0 where the system does not say (Linux does)."""
    try:
        return int(PAGES.read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def give_back() -> None:
    """Let the C library return freed memory to the system, where it is glibc."""
    if (trim := _trim()) is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another library; TypeError: Windows
        return None
