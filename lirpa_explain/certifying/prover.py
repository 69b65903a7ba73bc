"""Bounds of one request, checked: what a certificate claims is held against what Captum
computes.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..attributions import Plan
from ..bounding.ball import Ball
from ..bounding.compose import Composed, compose, compose_functions
from ..bounding.engine import Engine
from ..bounding.errors import Reach
from ..bounding.parameters import Parameters
from ..bounding.settings import Bounding
from ..boxes import Box
from ..errors import SoundnessError
from ..graph import GradientModule
from ..relaxations.ranges import linear_range
from ..rounding import OWN, rounded
from .arguments import check_rounded
from .exit import (
    around,
    check_numbers,
    check_value,
    check_within,
    contradicted,
    issued,
    issued_estimates,
    issued_numbers,
    issued_outward,
)
from .nominal import Nominal
from .request import Points, Request
from .senses import Proven
from .traces import Trace, Traces

UNCHECKED, ONCE_CHECKED = 3, 1
"""Other inputs of the balls at which a trace is compared with the attribution: when it is new, and
afterwards."""

T = TypeVar("T")
Balls = tuple[Ball | None, ...]


@dataclass(frozen=True)
class Prover:
    """What the senses prove their bounds with: bounds of plans, and their checks.

    Args:
        request: the attribution, the inputs, and what may change.
        traces: of its model; one that is outgrown is made anew.
        bounding: how bounds are computed.
    """

    request: Request
    traces: Traces
    bounding: Bounding

    @property
    def fixed(self) -> Balls:
        """No ball: all inputs held fixed."""
        return (None,) * len(self.request.xs)

    def proven(self, plan: Plan, bounded: Plan, nominal: Nominal,
               bounds: Callable[[], Composed] | None = None) -> Proven:
        """Bounds of a plan made of the same program as that of Captum's value.

        Args:
            plan: of Captum's value.
            bounded: of what is bounded.
            nominal: that value.
            bounds: computes bounds and value of what is bounded; default: by propagation over the
                balls.
        """
        return self._unless_outgrown(plan,
                                     lambda: self._checked(plan, bounded, nominal.flat, bounds))

    def estimated(self, plan: Plan, bounds: Callable[[], Composed], nominal: Nominal) -> Box:
        """Bounds of what the samples of a plan estimate, whose mean is Captum's value.

        Args:
            plan: of Captum's value.
            bounds: computes bounds, and the mean of the samples.
            nominal: that value.
        """

        def checked() -> Box:
            composed = bounds()
            box = issued_estimates(composed, nominal.flat, lambda r: self._reach(plan, r))
            self._check_elsewhere(plan, plan, None, composed.error)
            return box

        return self._unless_outgrown(plan, checked)

    def functions(self, proven: Proven, functions: Tensor, examples: Tensor | None = None) -> Box:
        """Bounds of linear functions (N, K, D) of what is proven, each (N, K); or of some examples
        (B,).
        """
        bounding, proven = self.bounding, proven.of(examples)
        with torch.inference_mode(False), torch.set_grad_enabled(bounding.differentiable):
            functions = functions.to(proven.traced)
            value, nominal = (torch.einsum("nkd,nd->nk", functions, v.to(functions))
                              for v in (proven.traced, proven.value))
            sizes = torch.einsum("nkd,nd->nk", functions.abs(),
                                 proven.box.size.detach().nan_to_num(posinf=0))
            box = linear_range(functions, proven.box)
            if bounding.rounded:
                box = box.outward(rounded(sizes, functions.shape[2] + OWN))
            # Else the sum of the rows rounds entries that a function cancels.
            counts = proven.plan.steps == proven.plan.samples == 1 or not bounding.rounded
            if proven.propagates and bounding.row.gains_by_functions and counts:
                box = box.intersect(self._propagated(proven, functions, value, sizes, examples))
            return issued_numbers(box, value, sizes, "Linear functions of the attribution", nominal)

    def _propagated(self, proven: Proven, functions: Tensor, value: Tensor, sizes: Tensor,
                    examples: Tensor | None) -> Box:
        """Bounds of linear functions by propagation, through a trace that is compared with that of
        the attribution.
        """
        request, plan, bounding = self.request, proven.plan, self.bounding
        module, engine, rows = self.traced(plan, bounding.method, explained=True)
        engine = engine.over(request.parameters, bounding.rounded)
        box, again = compose_functions(plan, module, engine, request.xs, request.balls,
                                       bounding.method, rows,
                                       functions, bounding.progress, bounding.rounded, examples)
        check_numbers(Box.point(value), again, sizes,
                      "Linear functions of the attribution, traced once more,")
        if not bounding.rounded:
            box = box.outward(torch.einsum("nkd,nd->nk", functions.abs(), proven.error))
        check_numbers(box, again, sizes, "Linear functions of the attribution")
        return box

    def compose(self, plan: Plan, balls: Balls, method: str, parameters: Parameters | None = None,
                points: Points | None = None, rounded: bool = False,
                evaluate: bool = True) -> Composed:
        """Bounds of a plan over balls, and its value; at points in place of the inputs, if they are
        given.
        """
        module, engine, rows = self.traced(plan, method)
        if rounded:
            check_rounded(module)
        return compose(plan, module, engine.over(parameters, rounded), points or self.request.xs,
                       balls, method, rows, self.bounding.progress, rounded, evaluate)

    def _reach(self, plan: Plan, radius: float, points: Points | None = None) -> Composed:
        """All that roundings may make of an attribution on balls of a radius around the inputs, or
        around points.
        """
        module, _, rows = self.traced(plan, "IBP")
        xs = points or self.request.xs
        return compose(plan, module, Reach(module), xs, around(xs, radius), "IBP", rows,
                       rounded=True, evaluate=False)

    def traced(self, plan: Plan, method: str,
               explained: bool = False) -> tuple[GradientModule, Engine, int]:
        """The module that computes a row of a plan, its bounds, and how many rows these take at
        once.
        """
        trace, _ = self._trace(plan, explained)
        return trace.module, trace.engine, trace.engine.rows_at_once(self.bounding.rows, method)

    def _trace(self, plan: Plan, explained: bool = False) -> tuple[Trace, bool]:
        """The trace of what a plan computes, and whether it was made just now."""
        request = self.request
        return self.traces.of(request.attribution, plan, request.xs, request.keywords, explained)

    def _unless_outgrown(self, plan: Plan, prove: Callable[[], T]) -> T:
        """What `prove` returns; should a trace from an earlier call contradict Captum, by a new
        one.
        """
        is_new = self._trace(plan)[1]
        try:
            proven = prove()
        except SoundnessError:
            if is_new:
                raise
            self.traces.clear()
            proven = prove()
        self._trace(plan)[0].is_checked = True
        return proven

    def _checked(self, plan: Plan, bounded: Plan, nominal: Tensor,
                 bounds: Callable[[], Composed] | None) -> Proven:
        """Bounds of `bounded`, compared with Captum's value, or with their own where they are of
        something else.
        """
        rounded, request = self.bounding.rounded, self.request
        composed = bounds() if bounds is not None else self.compose(
            bounded, request.balls, self.bounding.method, request.parameters, rounded=rounded)
        value = nominal
        if bounded is not plan:
            value = composed.value
            check_value(self.compose(plan, self.fixed, "IBP"), nominal,
                        lambda r: self._reach(plan, r))
        if rounded:
            box = issued_outward(composed, value, lambda r: self._reach(bounded, r))
            error = torch.zeros_like(value)
        else:
            box, error = issued(composed, value, lambda r: self._reach(bounded, r))
        self._check_elsewhere(plan, bounded, box, composed.error if bounded is plan else None)
        return Proven(bounded, box, value, composed.value, bounded.is_row_linear, error)

    @torch.no_grad()
    def _check_elsewhere(self, plan: Plan, bounded: Plan, box: Box | None,
                         error: Tensor | None) -> None:
        """The attribution at other inputs of the balls must be the trace's there, and within the
        bounds.

        Where the model reads values out of tensors, or Captum's hooks do something else than the
        formula, both may agree at the inputs themselves and nowhere else. The same goes for a value
        that the model holds beside its parameters, computed from them once, where these move.

        Args:
            plan: of Captum's value.
            bounded: of what the bounds are of.
            box: these bounds, (N, D) each; None: they hold in another sense, and only the trace is
                checked.
            error: how far roundings moved the value at the inputs, (N, D), if the bounds are of
                that value: where no more is to be explained elsewhere, it is not looked into again.
        """
        generator = torch.Generator().manual_seed(0)
        for i in range(ONCE_CHECKED if self._trace(plan)[0].is_checked else UNCHECKED):
            points, values = self.request.draw(i % 2 == 0, generator)
            if plan.nearest is not None:  # elsewhere another boundary point would be the nearest
                points = self.request.xs
            try:
                self._check_at(points, values, plan, bounded, box, error)
            except SoundnessError as error:
                raise contradicted(
                    f"At another input of the ball, or with other parameters: {error} Perhaps the "
                    "model reads values out of tensors in ways that autograd does not see, such as "
                    "`.data` or `numpy()`.") from error

    def _check_at(self, points: Points, values: dict[str, Tensor], plan: Plan, bounded: Plan,
                  box: Box | None, error: Tensor | None) -> None:
        """The same at points, each (N, *S), with values of the parameters that move."""
        if (all(torch.equal(p, x) for p, x in zip(points, self.request.xs, strict=True))
                and not values):
            return
        is_own = bounded is plan
        plan, bounded = (p.moved_to(self.request.xs, points) for p in (plan, bounded))
        with self.request.moved(values):
            nominal = self.request.attribute(points, values).flat
            if error is not None and self._agrees(plan, points, nominal, box, error):
                return
            value = self.compose(plan, self.fixed, "IBP", points=points)
            check_value(value, nominal, lambda r: self._reach(plan, r, points))
            if box is None:
                return
            within = value if is_own else self.compose(bounded, self.fixed, "IBP", points=points)
            within = dataclasses.replace(within, lower=box[0], upper=box[1])
            check_value(within, within.value, lambda r: self._reach(bounded, r, points))
            if self.bounding.rounded:
                check_within(box, nominal)

    def _agrees(self, plan: Plan, points: Points, nominal: Tensor, box: Box | None,
                error: Tensor) -> bool:
        """Whether Captum's value at points is the trace's, up to an error, and lies within the
        bounds.
        """
        ends = self.compose(plan, self.fixed, "IBP", points=points, evaluate=False).box
        agrees = all(bool(((end - nominal).abs() <= error).all()) for end in ends)
        return agrees and (box is None or not bool((Box(*box).outside(nominal) > 0).any()))


@dataclass(frozen=True)
class Refiner:
    """Bounds of linear functions of what is proven, for a certificate of all examples or of some.

    Args:
        prover: proves them.
        proven: of all examples.
        examples: (B,), those of the certificate; None: all.
    """

    prover: Prover
    proven: Proven
    examples: Tensor | None = None

    def __call__(self, functions: Tensor) -> Box:
        """Bounds of functions (B, K, D), each (B, K)."""
        return self.prover.functions(self.proven, functions, self.examples)

    def absolute(self) -> "Refiner | None":
        """The same of the absolute values, where they are functions of single rows; else None."""
        proven = self.proven.absolute()
        return None if proven is None else dataclasses.replace(self, proven=proven)

    def rows(self, index: Tensor) -> "Refiner":
        """The same for some of these examples."""
        return dataclasses.replace(self, examples=index
                                   if self.examples is None else self.examples[index])
