"""Traces of one model: what is captured and parsed once for inputs of one shape, and when that is outgrown."""

import functools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .attributions import Plan
from .attributions.plan import extras_of
from .bounding.engine import Engine
from .bounding.intervals import IntervalPass
from .bounding.optimize import Optimization
from .graph import GradientModule, capture_program
from .guards import model_of, untouched

KEPT = 8
"""Traces that are kept; the one longest unused goes first."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Modules whose buffers a trace reads whenever it runs."""


@dataclass
class Trace:
    """A traced model and its bounds; `state` says of what state of the model, `is_checked` that a certificate held."""

    module: GradientModule
    engine: Engine
    state: tuple[Any, ...]
    is_checked: bool = False

    @functools.cached_property
    def intervals(self) -> IntervalPass:
        """Interval bounds without the engine."""
        return IntervalPass(self.module)


class Traces:
    """The traces of an attribution's model.

    Args:
        options: how method "CROWN-Optimized" optimises.
        memory_limit: bytes that coefficients may take, or None.
    """

    def __init__(self, options: Optimization, memory_limit: int | None) -> None:
        self.options, self.memory_limit = options, memory_limit
        self._kept: OrderedDict[Any, Trace] = OrderedDict()

    def of(self, attribution: Any, plan: Plan, xs: tuple[Tensor, ...], keywords: dict[str, Any],
           explained: bool = False) -> tuple[Trace, bool]:
        """The trace for inputs of these shapes and these constants, and whether it was made just now.

        Args:
            attribution: the Captum object.
            plan: of it.
            xs: the inputs, each (N, *S).
            keywords: of its `attribute`.
            explained: whether multiplier and outer map of the plan belong to what is traced.
        """
        extras = extras_of(keywords)
        program, outer = plan.row_program(explained), plan.outer if explained else None
        function = attribution.forward_func if plan.function is None else plan.function
        key = (program.identity, getattr(plan.function, "key", None), outer,
               *((x.shape[1:], x.dtype, x.device) for x in xs), *(_described(e, len(xs[0])) for e in extras))
        state = state_of(attribution.forward_func)
        trace = self._kept.pop(key, None)
        is_new = trace is None or trace.state != state
        if trace is None or is_new:
            with untouched(attribution):
                module = capture_program(program, function, xs, extras, outer=outer)
            trace = Trace(module, Engine(module, module.example, self.options, self.memory_limit), state)
        self._kept[key] = trace
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return trace, is_new

    def clear(self) -> None:
        """Forget all traces."""
        self._kept.clear()


def _described(extra: Any, count: int) -> Any:
    """What a trace holds of a further argument: the shape of one with rows, the value of any other."""
    if not isinstance(extra, Tensor):
        return extra if isinstance(extra, int | float | str | bool | None) else id(extra)
    if extra.ndim and len(extra) == count:
        return "rows", extra.shape[1:], extra.dtype
    return tuple(extra.shape), extra.dtype, extra.detach().cpu().numpy().tobytes()


def state_of(forward: Any) -> tuple[Any, ...]:
    """What a trace of a model depends on: its modules, their mode, and buffers' values.

    It reads parameters, and the statistics of batch normalizations, whenever it runs.
    """
    model = model_of(forward)
    if model is None:
        return ()
    return (*((id(m), m.training) for m in model.modules()), *(id(p) for p in model.parameters()),
            *((id(b), type(m) not in BATCH_NORMS and b._version)
              for m in model.modules() for b in m.buffers(recurse=False)))
