"""CROWN, and after it once more with the kinks that matter most to the result bounded by planes
that are chosen for them.

What a pre-activation matters is, for all functions of the result together, the size of the
coefficients that arrive at the relaxations it decides times their gaps. A kink's gradient jumps, so
that a tighter bound is of use to the result if it decides the kink's side, and chosen planes narrow
bounds by a few per cent: those count that are nearly decided. All other nodes keep what CROWN found
of them, and what is still open is bounded again where relaxations before it have changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from auto_LiRPA.bound_ops import Bound
from torch import Tensor

from ..boxes import Box
from ..operators.bound import flat_rows
from .forward import Forms
from .gains import KINKS, gains, watching
from .methods import Method, lookup
from .network import Network, Readers
from .optimize import Optimization
from .schedule import Schedule

STEPS = 5
"""Most steps of the descent for a kink; further ones narrow a bound by little."""

NEARLY = 0.2
"""A kink this share of its bounds' width from being decided counts for 1 / e of one at the end."""

FINE = 64
"""Gains are compared up to the root of this order of 2: those that differ by roundings are equal,
and the first comes first, in a batch as in its rows."""


class Tightened(Schedule):
    """CROWN or CROWN-Optimized, with chosen planes for a share of the open kinks.

    Args:
        network: what is bounded.
        method: by what the result is bounded in the end; see `Method.is_linear_throughout`.
        share: above 0 and at most 1: the share of each row's open pre-activations.
        **how: as of `Schedule`.
    """

    def __init__(self, network: Network, method: Method, *how: Any, share: float) -> None:
        super().__init__(network, lookup("CROWN"), *how)
        self.last, self.share = method, share
        self._known: dict[str, Box] = {}
        self._most: dict[str, Tensor] = {}

    def result(self, functions: Tensor | None) -> Box:
        """Bounds of the output or of functions of it, nowhere wider than CROWN's."""
        operators = self.network.relaxations_before(self.network.result)
        seen: dict[str, Tensor] = {}
        with watching(operators, _sums(seen)):
            plain = super().result(functions)
        self._most = self._chosen(gains(operators, seen, True))
        if not self._most and self.last == self.method:
            return plain
        if self._most:
            self.network.reopen()
            self.bound_within()
        with self._by(self.last, self.options):
            return plain.intersect(super().result(functions)).ordered()

    def _start(self, node: Bound) -> Box:
        box, known = super()._start(node), self._known.get(node.name)
        return box if known is None else box.intersect(known).ordered()

    def _bounded(self, node: Bound, readers: Readers, forms: Forms | None) -> Box:
        box = super()._bounded(node, readers, forms)
        if node.name in self._most:
            few = replace(self.options, iterations=min(STEPS, self.options.iterations))
            with self._by(lookup("CROWN-Optimized"), few):
                box = self._tightened(node, box, self._most[node.name])
        self._known[node.name] = box
        return box

    @contextlib.contextmanager
    def _by(self, method: Method, options: Optimization) -> Iterator[None]:
        """Bound by another method for a while."""
        before = self.method, self.options
        self.method = self.portions.method = method
        self.options = options
        try:
            yield
        finally:
            self.method, self.options = before
            self.portions.method = self.method

    @torch.no_grad()
    def _chosen(self, gain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The entries with the largest gains of each row, by node; bool, of the node's shape.

        Args:
            gain: (B, 1, n), by node.
        """
        nodes = [node for node in self.network.nodes if node.name in gain
                 and len(self.network.relaxations_before(node))]  # the bounds of others are exact
        if not nodes:
            return {}
        parts = [gain[node.name][:, 0] * self._nearness(node) for node in nodes]
        order = (torch.cat(parts, 1).nan_to_num(0.0).log2() * FINE).round()
        most = (self.share * order.isfinite().sum(1, keepdim=True)).ceil()
        first = torch.argsort(order, dim=1, descending=True, stable=True)
        places = torch.arange(order.shape[1], device=order.device).expand_as(first)
        chosen = torch.zeros_like(first, dtype=torch.bool).scatter(1, first, places < most)
        by_node = zip(nodes, chosen.split([part.shape[1] for part in parts], 1), strict=True)
        return {node.name: mask for node, mask in by_node if mask.any()}

    def _nearness(self, node: Bound) -> Tensor:
        """How near the entries of a kink's input are to one side, from 0 to 1; of others, 1."""
        lower, upper = self.network.current(node).map(flat_rows)
        readers = [reader for reader in self.network.relaxations_before(self.network.result)
                   if any(n is node for n in reader.inputs)]
        if not all(reader.operator.name in KINKS for reader in readers):
            return torch.ones_like(lower)
        beyond = torch.minimum(-lower, upper) / (upper - lower)
        return (-beyond / NEARLY).exp().nan_to_num(0.0)


def _sums(seen: dict[str, Tensor]) -> Callable[[str, Tensor], None]:
    """Adds up the sizes of coefficients over all functions, (1, B, *output), by operator."""

    def see(name: str, A: Tensor) -> None:
        size = A.detach().abs().sum(0, keepdim=True)
        seen[name] = seen[name] + size if name in seen else size

    return see
