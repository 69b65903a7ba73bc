"""Bounds within domains of what is asked alone: of a product with the input, the entries that the
functions have.

Attributions that are multiplied by the input end in a product, entry by entry, whose relaxation
reads both factors. A function of a few entries needs bounds of these factors' entries, and of no
others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from auto_LiRPA.bound_ops import Bound
from auto_LiRPA.perturbations import Perturbation
from torch import Tensor

from ..bounding.network import Readers
from ..boxes import Box
from ..operators.activation import BoundMultiply
from .cuts import ROUNDS
from .domains import Domain
from .within import Bounded, Reads, WithinDomains


class AskedDomains(WithinDomains):
    """CROWN within domains, for functions that depend on some entries of the result."""

    def run(self, inputs: tuple[Tensor, ...], balls: tuple[Perturbation | None, ...],
            domains: Sequence[Domain], functions: Tensor | None, rounds: int = ROUNDS,
            reads: Reads | None = None) -> Bounded | None:
        """As of `WithinDomains`; entries of the factors on which no function depends keep interval
        bounds.
        """
        self.asked = None if functions is None else (functions != 0).any(1)
        self.factors: set[str] = set()
        return super().run(inputs, balls, domains, functions, rounds, reads)

    def _open_entries(self, node: Bound, box: Box, readers: Readers) -> Tensor:
        found, result = super()._open_entries(node, box, readers), self.network.result
        is_factor = (isinstance(result, BoundMultiply)
                     and all(reader is result for reader, _ in readers))
        if self.asked is None or not is_factor or found[0].numel() != self.asked.shape[1]:
            return found
        self.factors.add(node.name)
        return found & self.asked.reshape(found.shape)

    def _is_news(self, node: Bound, like: Tensor, domains: Sequence[Domain]) -> Tensor:
        # What was asked of a larger domain may have been something else.
        found = super()._is_news(node, like, domains)
        return torch.ones_like(found) if node.name in self.factors else found
