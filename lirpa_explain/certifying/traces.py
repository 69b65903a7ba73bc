"""Traces of one model: what is captured and parsed once for inputs of one shape, and when that is
outgrown.
"""

import functools
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..attributions import Plan
from ..attributions.plan import extras_of
from ..bounding.engine import Engine
from ..bounding.intervals import IntervalPass
from ..bounding.settings import Bounding
from ..fingerprint import Fingerprint, fingerprinted, pieces_of
from ..graph import GradientModule, capture_program, reads_alike
from ..guards import untouched

KEPT = 8
"""Traces that are kept; the one longest unused goes first."""

@dataclass
class Trace:
    """A traced model and its bounds.

    Args:
        module: what a row computes.
        engine: bounds of it.
        made_with: what the model computed with when it was traced.
        is_checked: whether a certificate by it has held.
    """

    module: GradientModule
    engine: Engine
    made_with: Fingerprint
    is_checked: bool = False

    @functools.cached_property
    def intervals(self) -> IntervalPass:
        """Interval bounds without the engine."""
        return IntervalPass(self.module)


class Traces:
    """The traces of an attribution's model.

    Args:
        bounding: how bounds are computed.
    """

    def __init__(self, bounding: Bounding) -> None:
        self.bounding = bounding
        self._kept: OrderedDict[Any, Trace] = OrderedDict()

    def of(self, attribution: Any, plan: Plan, xs: tuple[Tensor, ...], keywords: dict[str, Any],
           explained: bool = False) -> tuple[Trace, bool]:
        """The trace for inputs of these shapes and these constants, and whether it was made just
        now.

        Args:
            attribution: the Captum object.
            plan: of it.
            xs: the inputs, each (N, *S).
            keywords: of its `attribute`.
            explained: whether multiplier and outer map of the plan belong to what is traced.
        """
        extras = plan.first_extras(len(xs[0]), extras_of(keywords))
        program, outer = plan.row_program(explained), plan.outer if explained else None
        function = attribution.forward_func if plan.function is None else plan.function
        key = (program.identity, getattr(plan.function, "key", None), outer,
               *((x.shape[1:], x.dtype, x.device) for x in xs),
               *(_described(e, len(xs[0])) for e in extras))
        trace, forward = self._kept.pop(key, None), attribution.forward_func
        is_new = trace is None or not trace.made_with.matches(forward=forward) or \
            not reads_alike(trace.module, function, xs, extras)
        if trace is None or is_new:
            with untouched(attribution):
                module, made_with = fingerprinted(
                    lambda: capture_program(program, function, xs, extras, outer=outer),
                    forward=forward)
            how = self.bounding
            engine = Engine(module, module.example, how.optimization, how.memory_limit,
                            float(how.slack))
            trace = Trace(module, engine, made_with)
        self._kept[key] = trace
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return trace, is_new

    def clear(self) -> None:
        """Forget all traces."""
        self._kept.clear()


def _described(extra: Any, count: int) -> Hashable:
    """What a trace holds of a further argument: the shape of one with rows, the contents of any
    other.
    """
    if isinstance(extra, Tensor) and extra.ndim and len(extra) == count:
        return "rows", extra.shape[1:], extra.dtype
    return frozenset(pieces_of(argument=extra).items())
