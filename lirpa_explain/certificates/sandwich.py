"""The two sides between which the worst case of a metric lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lirpa_explain.certificates.layout import Attributions, joined, rows

OF_EXAMPLES = ("certified", "found", "worst_inputs", "low", "high", "worst_parameters")
"""Fields of a `Sandwich` that have a row for each example."""


@dataclass(frozen=True, eq=False)
class Sandwich:
    """The worst case of a metric, from both sides: found <= worst case <= certified, for each
    example.

    Args:
        metric: its name.
        certified: the certificate's number, (N,).
        found: that of the worst input found, (N,).
        worst_inputs: that input, in the form of the inputs; None for "width", to which many inputs
            contribute.
        low: smallest value of each entry at any input tried, in the form of the attribution.
        high: largest value of each entry.
        steps: how many attributions were computed.
        fallback: why no gradients were followed; "" if they were.
        interrupted: whether the search was stopped early.
        worst_parameters: the parameters that moved, by name, (N, *shape), as they were at each
            example's worst input.
        options: the settings of the metric.
    """

    metric: str
    certified: Tensor
    found: Tensor
    worst_inputs: Attributions | None
    low: Attributions
    high: Attributions
    steps: int
    fallback: str = ""
    interrupted: bool = False
    worst_parameters: dict[str, Tensor] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, index: Tensor) -> Sandwich:
        """The same of some examples, (B,)."""
        return replace(self, **{name: rows(getattr(self, name), index) for name in OF_EXAMPLES})

    @staticmethod
    def joined(sides: Sequence[Sandwich]) -> Sandwich:
        """Those of one metric as one, of the examples of all."""
        return replace(
            sides[0],
            **{name: joined([getattr(side, name) for side in sides]) for name in OF_EXAMPLES},
            steps=sum(side.steps for side in sides),
            interrupted=any(side.interrupted for side in sides),
            fallback="; ".join(dict.fromkeys(side.fallback for side in sides if side.fallback)))

    @property
    def ratio(self) -> Tensor:
        """Certified / found, at least 1 up to rounding; 1 where both are 0, infinite where only
        `found` is: (N,).
        """
        return torch.where(self.certified == self.found, torch.ones_like(self.found),
                           self.certified / self.found)

    def __repr__(self) -> str:
        lines = [f"Sandwich of {self.metric}, {self.steps} attributions tried"]
        for i in range(min(10, len(self.found))):
            found, certified, ratio = (float(side[i])
                                       for side in (self.found, self.certified, self.ratio))
            lines.append(f"  example {i}: {found:.4g} found <= {certified:.4g} certified, ratio "
                         f"{ratio:.4g}")
        return "\n".join(lines)
