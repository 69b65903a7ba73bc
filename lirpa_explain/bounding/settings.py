"""How something is bounded: the settings of a call, in one object that travels."""

from dataclasses import dataclass
from typing import Any

from captum.attr._utils.approximation_methods import SUPPORTED_METHODS

from ..rounding import GUARANTEES
from .methods import METHODS, Method, lookup
from .optimize import Optimization

ROWS = 64
"""Rows (examples x path points) bounded at once unless the caller says otherwise."""


@dataclass(frozen=True)
class Bounding:
    """How bounds are computed.

    Args:
        method: a key of `lirpa_explain.METHODS`.
        batch_size: most rows (examples x path points) bounded at once; None: `ROWS`.
        memory_limit: bytes, at least 2**20, that tensors of bounds may take beside the model; None:
            no limit but what `batch_size` and the size of coefficients imply.
        iterations: most steps by which a method chooses planes.
        lr: its first step length, above 0 and at most 1.
        progress: show a progress bar.
        differentiable: keep the bounds differentiable in the model's parameters.
        rounding: a key of `rounding.GUARANTEES`.
        slack: from 0 to below 1: the share of a layer's relaxation gaps that neurons may have
            together which are left at interval or other cheap bounds.

    Raises:
        ValueError: a setting is none of its kind.
        TypeError: `differentiable` is no bool.

    Example:
        >>> Bounding("CROWN-IBP", batch_size=8).rows
        8
    """

    method: str = "CROWN"
    batch_size: int | None = None
    memory_limit: int | None = None
    iterations: int = 20
    lr: float = 0.3
    progress: bool = False
    differentiable: bool = False
    rounding: str = "default"
    slack: float = 0.0

    def __post_init__(self) -> None:
        check_method(self.method)
        if not isinstance(self.differentiable, bool):
            raise TypeError("differentiable must be True or False; given: "
                            f"{self.differentiable!r}.")
        if not isinstance(self.rounding, str) or self.rounding not in GUARANTEES:
            raise ValueError(f"rounding must be one of {', '.join(GUARANTEES)}; given: "
                             f"{self.rounding!r}.")
        _check_count("batch_size", self.batch_size, 1)
        _check_count("memory_limit", self.memory_limit, 2**20)
        _check_count("iterations", self.iterations, 0)
        if (isinstance(self.lr, bool) or not isinstance(self.lr, int | float)
                or not 0 < self.lr <= 1):
            raise ValueError(f"lr must be a number above 0 and at most 1; given: {self.lr!r}.")

        if (isinstance(self.slack, bool) or not isinstance(self.slack, int | float)
                or not 0 <= self.slack < 1):
            raise ValueError("slack must be a number of at least 0 and below 1; given: "
                             f"{self.slack!r}.")

    @property
    def row(self) -> Method:
        """What the method bounds, and by what."""
        return lookup(self.method)

    @property
    def rounded(self) -> bool:
        """Whether bounds are of what is computed in floating point."""
        return self.rounding == "outward"

    @property
    def rows(self) -> int:
        """Most rows bounded at once."""
        return self.batch_size or ROWS

    @property
    def optimization(self) -> Optimization:
        """How planes are chosen by a method that does."""
        return Optimization(self.iterations, float(self.lr))


def check_method(method: Any) -> None:
    """Refuse what is no method."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; given: {method!r}. "
                         "(Quadratures of IntegratedGradients are "
                         f"{', '.join(SUPPORTED_METHODS)}.)")


def _check_count(name: str, value: Any, least: int) -> None:
    if value is None and least > 0:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least "
                         f"{least}{', or None' * (least > 0)}; given: {value!r}.")
