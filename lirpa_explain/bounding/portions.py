"""How many functions are bounded at once: so many as memory is known, or measured, to hold."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Hashable, Iterator

from ..errors import MemoryLimitTooSmall
from .memory import Memory
from .meter import Meter
from .methods import Method

FIRST = 0.5
"""Share of what the widths of layers allow that is measured first, where nothing is known of
functions, ..."""

GROWTH = 4
"""... and by how many times later portions may be larger than the one before."""

COUNTED = 0.8
"""Share of a limit that counted tensors may take; the rest is for what is not counted, and for
memory in pieces."""

RESERVED = 0.1
"""Share of a limit that a portion may take in any case, while what is kept leaves so much."""

HELD = 0.2
"""Share of a limit that freed memory may take before it is given back to the system."""

PLENTY = 4
"""Nothing is measured, which takes time, where a limit has room for so many functions of each
neuron of a layer."""

SPARE = 1.1
"""By this a limit that would do exceeds what was counted."""


class Portions:
    """Portions of functions of the nodes of a network, for the time of one call.

    Without a limit their sizes follow from the widths of layers. With one, each portion is
    measured, and the next is as large as its memory allows. Should a single function be too much,
    one of each later node is bounded, so as to know the limit that would do.

    Args:
        memory: the budget.
        method: by what is bounded.
        known: bytes of one function, by what functions these are; kept from call to call.
    """

    def __init__(self, memory: Memory, method: Method, known: dict[Hashable, float]) -> None:
        self.memory, self.method, self.known = memory, method, known
        self._meter: Meter | None = None
        self._least = 0

    @contextlib.contextmanager
    def measured(self, rows: int) -> Iterator[None]:
        """Count memory, if there is a limit of it, and refuse in the end what exceeded it.

        Args:
            rows: how many are bounded.

        Raises:
            MemoryLimitTooSmall: one function of each row was too much.
        """
        limit = self.memory.limit
        if (limit is None
                or self.memory.functions_at_once(rows, self.method) >= PLENTY * self.memory.width):
            yield
            return
        with Meter(int(HELD * limit)) as self._meter:
            yield
        self._meter = None
        if self._least:
            least = int(SPARE * self._least)
            raise MemoryLimitTooSmall(limit, max(least, limit + 1), rows)

    @property
    def room(self) -> int | None:
        """Bytes that are left; None: there is no limit."""
        return (None if self._meter is None or self.memory.limit is None
                else self.memory.limit - self._meter.live)

    def of(self, key: Hashable, count: int, rows: int, width: int | None = None) -> Iterator[slice]:
        """Portions of so many functions, each to be bounded before the next is asked for.

        Args:
            key: what they are functions of.
            count: how many there are, for each row.
            rows: how many rows.
            width: the most coefficients that one has in a layer; None: those of the whole widest
                layer.

        Yields:
            Each portion's place among the functions.
        """
        meter = self._meter
        if meter is None:
            size = self.memory.functions_at_once(rows, self.method, width)
            yield from (slice(start, start + size) for start in range(0, count, size))
            return
        key, start, last = (key, rows, self.method.name), 0, 0
        while start < count and not (self._least and start):
            before = meter.restart()
            size = min(self._size(key, rows, last), count - start)
            yield slice(start, start + size)
            start, last = start + size, size
            self.known[key] = max(1.0, (meter.peak - max(before, meter.live)) / size)
            if size == 1 and meter.peak > (self.memory.limit or 0):
                self._refuse(meter.peak, rows)
        if self._least:
            self._least = max(self._least, meter.peak)

    def _size(self, key: Hashable, rows: int, last: int) -> int:
        """Of the next portion."""
        if self._least:
            return 1
        limit, left = self.memory.limit or 0, self.room or 0
        room = min(left, max(left - (1 - COUNTED) * limit, RESERVED * limit))
        if key not in self.known:
            each = self.memory.item_size * self.method.tensors * rows * self.memory.width
            return max(1, int(FIRST * room / each))
        return max(1, min(int(room / self.known[key]), GROWTH * last or sys.maxsize))

    def _refuse(self, peak: int, rows: int) -> None:
        """One function was too much: see what the others would take, unless fewer rows would do."""
        if rows > 1:
            raise MemoryLimitTooSmall(self.memory.limit or 0, int(SPARE * peak), rows)
        self._least = max(self._least, peak)
