"""Schedules of radii and weights: numbers that are functions of the step, so that a checkpoint
resumes exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

SHAPES: dict[str, Callable[[float, float, float], float]] = {
    "linear": lambda start, stop, t: start + (stop - start) * t,
    "smooth": lambda start, stop, t: start + (stop - start) * t * t * (3 - 2 * t),
    "exponential": lambda start, stop, t: start * (stop / start) ** t,
}
"""How a ramp gets from `start` to `stop` as t goes from 0 to 1."""


class Ramp:
    """A number that rises, or falls, over a stretch of steps: a radius eps or gamma, or the weight
    of a loss.

    `ramp(step)` is a function of the step alone; `ramp.value` that of the steps counted so far by
    `ramp.step()`.

    Args:
        start: its value up to step `begin`.
        stop: its value from step `end` on.
        end: the step at which it arrives; steps count from 0.
        begin: the step at which it sets out: so many are for warming up.
        shape: a key of `SHAPES`: "linear", "smooth" (no kinks at the ends), or "exponential" (both
            ends above 0).

    Raises:
        ValueError: no such shape, `end` before `begin`, or numbers that are not finite or not of
            the shape.

    Example:
        >>> eps = Ramp(0.0, 0.1, end=300, begin=100)
        >>> eps(50), eps(200), eps(1000)
        (0.0, 0.05, 0.1)
    """

    def __init__(self, start: float, stop: float, *, end: int, begin: int = 0,
                 shape: str = "linear") -> None:
        if shape not in SHAPES:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}; given: {shape!r}.")
        if not 0 <= begin <= end:
            raise ValueError(f"0 <= begin <= end must hold; given: begin={begin}, end={end}.")
        if (not (math.isfinite(start) and math.isfinite(stop))
                or shape == "exponential" and min(start, stop) <= 0):
            raise ValueError("start and stop must be finite, and above 0 for an exponential ramp; "
                             f"given: {start}, {stop}.")
        self.start, self.stop, self.begin, self.end, self.shape = start, stop, begin, end, shape
        self.steps = 0

    def __call__(self, step: int) -> float:
        """Its value at a step."""
        if step <= self.begin and self.begin < self.end:
            return self.start
        if step >= self.end:
            return self.stop
        return SHAPES[self.shape](self.start, self.stop,
                                  (step - self.begin) / (self.end - self.begin))

    @property
    def value(self) -> float:
        """Its value now."""
        return self(self.steps)

    def step(self) -> None:
        """Count a step."""
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything that it is, for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved.

        Raises:
            ValueError: the state is none of a ramp.
        """
        if state.keys() != vars(self).keys():
            raise ValueError(f"The state of a ramp has {', '.join(vars(self))}; given: "
                             f"{', '.join(state)}.")
        vars(self).update(state)

    def __repr__(self) -> str:
        return (f"Ramp({self.start:g}, {self.stop:g}, end={self.end}, begin={self.begin}, "
                f"shape={self.shape!r}): {self.value:g} at step {self.steps}")
