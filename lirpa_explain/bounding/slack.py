"""Which neurons need no tighter bounds: those whose relaxations make little of a layer's gap with
the bounds they have.

What linear bounds of a neuron can gain is at most the gap of its relaxation: how far the planes
above and below are apart. Neurons that make up a given share of a layer's gaps together are left as
they are; their relaxations are sound with any bounds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from auto_LiRPA.bound_ops import Bound
from torch import Tensor

from ..boxes import Box
from ..operators.bound import flat_rows
from ..operators.planes import BoundPlanes
from .network import Readers


def negligible(node: Bound, box: Box, readers: Readers, current: Callable[[Bound], Box],
               share: float) -> Tensor:
    """Entries of a node, in this box, that have no more than a share of the gaps of each reader
    together.

    Args:
        node: the node.
        box: its bounds by now, (B, *S) each.
        readers: the operators that relax it.
        current: the bounds that other nodes have by now.
        share: at least 0 and below 1.

    Returns:
        Boolean tensor (B, *S).
    """
    little = torch.ones_like(box.lower, dtype=torch.bool)
    for reader, _ in readers:
        boxes = [box if n is node else current(n) for n in reader.inputs]
        gap = reader.gap_within(boxes) if isinstance(reader, BoundPlanes) else None
        if gap is None or gap.shape != little.shape:
            return torch.zeros_like(little)
        little &= _least(flat_rows(gap), share).reshape(little.shape)
    return little


def _least(gaps: Tensor, share: float) -> Tensor:
    """The smallest of each row, (B, D), whose sum is at most a share of the row's."""
    ordered, index = gaps.double().sort(1)
    sums = ordered.cumsum(1)
    few = (sums <= share * sums[:, -1:]) & sums[:, -1:].isfinite()
    return torch.zeros_like(few).scatter(1, index, few)
