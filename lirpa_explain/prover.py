"""Bounds of one call, checked: what a certificate claims is held against what Captum computes."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from .arguments import check_rounded
from .attacks.problem import Problem
from .attributions import Plan
from .boundary.moving import compose_moving
from .bounding.ball import Ball
from .bounding.compose import Composed, compose, compose_functions, sample_bounds
from .bounding.engine import Engine
from .bounding.errors import Reach
from .bounding.expectation import (
    PROPAGATED,
    certified_range,
    check_expectation,
    deviations,
    expectation_bounds,
    one_sample,
    shift_of,
    summarise,
)
from .bounding.integral import integral_plans
from .bounding.parameters import Parameters
from .errors import SoundnessError
from .graph import GradientModule
from .nominal import Nominal, completeness
from .operators.bound import Box
from .operators.terms import size_of
from .relaxations.ranges import linear_range
from .rounding import OWN, outward, rounded, unit
from .selfcheck import around, check_value, check_within, enclose, end_error
from .traces import Trace, Traces

ORDINARY = 2 ** 10
"""Units in the last place, of the mean size of samples, by which their mean may be off before it is looked into."""

T = TypeVar("T")
Balls = tuple[Ball | None, ...]


@dataclass(frozen=True)
class Claim:
    """What a certificate claims.

    Args:
        plan: of what is bounded.
        box: its bounds, (N, D) each.
        value: a value within, (N, D).
        propagates: whether bound propagation can say more of linear functions of it than the box does.
        error: by how much roundings have moved the box outward, (N, D).
        report: fields of the certificate that say in which sense it is bounded.
    """

    plan: Plan
    box: Box
    value: Tensor
    propagates: bool
    error: Tensor
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prover:
    """Claims about an attribution, in each sense that a caller can ask for.

    Args:
        problem: the attribution, the inputs, and what may change.
        traces: of its model; one that is outgrown is made anew.
        method: a key of `lirpa_explain.METHODS`.
        batch_size: most rows bounded at once.
        progress: show a progress bar.
        differentiable: keep the bounds differentiable in the model's parameters.
        rounded: whether bounds shall hold for what Captum computes in floating point.
    """

    problem: Problem
    traces: Traces
    method: str
    batch_size: int
    progress: bool
    differentiable: bool
    rounded: bool = False

    def attribution(self, plan: Plan, nominal: Nominal) -> Claim:
        """What Captum computes, as `plan` describes it."""
        return self._claim(plan, plan, nominal)

    def integral(self, plan: Plan, nominal: Nominal, integral: str) -> Claim:
        """The integral that Captum's finite sum stands for, and how far from it that sum may be at the inputs."""
        attribution, xs = self.problem.attribution, self.problem.xs
        finite, whole = integral_plans(plan, attribution, integral)
        claim = self._claim(finite, whole, nominal)
        at_inputs = self._compose(whole, self._fixed, self.method)
        error = torch.maximum(nominal.flat - at_inputs.lower, at_inputs.upper - nominal.flat).clamp(min=0)
        return dataclasses.replace(claim, report={
            "integral": integral, "quadrature_error": nominal.shaped(error.detach()),
            "completeness": completeness(attribution, xs, whole.baselines or (), self.problem.keywords, nominal.parts)})

    def expectation(self, plan: Plan, nominal: Nominal, expectation: str, confidence: float) -> Claim:
        """The expectation that the samples of a plan estimate."""
        check_expectation(self.problem.attribution, plan, self.problem.keywords, expectation, confidence)
        value = nominal.flat
        box = self._unless_outgrown(plan, lambda: self._expected(plan, value, expectation, confidence))
        return Claim(plan, enclose(box, value), value, False, torch.zeros_like(value),
                     {"expectation": expectation, "confidence": confidence, "samples": plan.samples})

    def functions(self, claim: Claim, functions: Tensor) -> Box:
        """Bounds of linear functions (N, K, D) of what is claimed, each (N, K)."""
        problem, plan = self.problem, claim.plan
        with torch.inference_mode(False), torch.set_grad_enabled(self.differentiable):
            lower, upper = linear_range(functions, claim.box)
            error = torch.einsum("nkd,nd->nk", functions.abs(), claim.error)
            if self.rounded:
                sizes = torch.einsum("nkd,nd->nk", functions.abs(), size_of(claim.box).detach())
                lower, upper = outward(lower, upper, rounded(sizes, functions.shape[2] + OWN))
            is_one = plan.steps == plan.samples == 1  # else the sum of the rows rounds entries that a function cancels
            if claim.propagates and self.method != "IBP" and (is_one or not self.rounded):
                module, engine, rows = self._traced(plan, self.method, explained=True)
                with engine.perturbed(problem.parameters, self.rounded):
                    propagated = compose_functions(plan, module, engine, problem.xs, problem.balls, self.method, rows,
                                                   functions, self.progress, self.rounded)
                propagated = propagated if self.rounded else outward(*propagated, error)
                lower, upper = torch.maximum(lower, propagated[0]), torch.minimum(upper, propagated[1])
            return enclose((lower, upper), torch.einsum("nkd,nd->nk", functions, claim.value))

    @property
    def _fixed(self) -> Balls:
        """No ball: all inputs held fixed."""
        return (None,) * len(self.problem.xs)

    def _claim(self, plan: Plan, bounded: Plan, nominal: Nominal) -> Claim:
        """Bounds of `bounded`, made of the same program as `plan`, which is that of Captum's value."""
        box, value, error = self._unless_outgrown(plan, lambda: self._checked(plan, bounded, nominal.flat))
        if self.problem.parameters is not None:
            self._check_elsewhere(plan, bounded, box)
        return Claim(bounded, box, value, bounded.is_row_linear and not bounded.moving, error)

    def _unless_outgrown(self, plan: Plan, prove: Callable[[], T]) -> T:
        """What `prove` returns; should a trace from an earlier call contradict Captum, by a new one."""
        is_new = self._trace(plan)[1]
        try:
            return prove()
        except SoundnessError:
            if is_new:
                raise
            self.traces.clear()
            return prove()

    def _checked(self, plan: Plan, bounded: Plan, nominal: Tensor) -> tuple[Box, Tensor, Tensor]:
        """Bounds (N, D) each, a value within, (N, D), and by how much roundings have moved the bounds outward."""
        value = nominal
        composed = self._moving(plan) if plan.moving else self._compose(
            bounded, self.problem.balls, self.method, self.problem.parameters, self.rounded)
        if bounded is not plan:
            value = composed.value
            check_value(self._compose(plan, self._fixed), nominal, lambda r: self._reach(plan, r))
        check_value(composed, value, lambda r: self._reach(bounded, r))
        box = composed.lower, composed.upper
        if self.rounded:
            check_within(box, value)
            return box, value, torch.zeros_like(value)
        error = end_error(composed)
        return enclose(outward(*box, error), value), value, error

    @torch.no_grad()
    def _check_elsewhere(self, plan: Plan, bounded: Plan, box: Box) -> None:
        """The attribution of the model with other parameters must be the trace's with these, and within the bounds.

        A value that the model holds beside its parameters, computed from them once, would not move with them.
        """
        problem = self.problem
        assert problem.parameters is not None
        values = problem.parameters.draw(True, torch.Generator().manual_seed(0))
        with problem.parameters.set_to(values):
            value, nominal = self._compose(plan, self._fixed), problem.attribute(problem.xs, values).flat
            within = value if bounded is plan else self._compose(bounded, self._fixed)
            try:
                check_value(value, nominal, lambda r: self._reach(plan, r))
                check_value(dataclasses.replace(within, lower=box[0], upper=box[1]), within.value,
                            lambda r: self._reach(bounded, r))
            except SoundnessError as error:
                raise SoundnessError(f"With other parameters: {error} Perhaps the model computes with its parameters "
                                     "in ways that autograd does not see, such as `.data`.") from error

    def _expected(self, plan: Plan, nominal: Tensor, expectation: str, confidence: float) -> Box:
        """Bounds of the expectation that the samples of a plan estimate, (N, D) each."""
        xs, balls = self.problem.xs, self.problem.balls
        single, sigmas = one_sample(plan, xs), deviations(self.problem.keywords, len(xs))
        shift = shift_of(xs, balls, sigmas)

        def bound(balls: Balls, how: str | None) -> Box:
            composed = self._compose(single, balls, how or self.method)
            return composed.lower, composed.upper

        near, far = certified_range(bound, xs, balls, sigmas)
        propagated = expectation == PROPAGATED
        moving, how = (balls, self.method) if propagated else (self._fixed, "IBP")
        module, engine, rows = self._traced(plan, how)
        chunks = sample_bounds(plan, module, engine, xs, moving, how, rows, self.progress)
        samples = summarise(chunks, near, far, plan.samples)
        lower, upper = expectation_bounds(samples, near, far, plan.samples, confidence, shift, propagated=propagated)
        error = ORDINARY * unit(nominal.dtype) * samples.magnitude.to(nominal)
        check_value(Composed(lower, upper, samples.value.to(nominal), error), nominal,
                    lambda r: self._reach(plan, r))
        return lower, upper

    def _moving(self, plan: Plan) -> Composed:
        """Bounds for every x' at the nearest boundary point of x', and the value at that of x."""
        plain = dataclasses.replace(plan, scales=None, baselines=None, noisy=False, multiply=False, absolute=False)
        module, engine, rows = self._traced(plain, self.method)
        lower, upper = compose_moving(plan, module, engine, self.problem.xs, self.problem.balls, self.method, rows,
                                      self.progress)
        return dataclasses.replace(self._compose(plan, self._fixed, self.method), lower=lower, upper=upper)

    def _compose(self, plan: Plan, balls: Balls, method: str = "IBP", parameters: Parameters | None = None,
                 rounded: bool = False) -> Composed:
        """Bounds of a plan over balls, and its value."""
        module, engine, rows = self._traced(plan, method)
        if rounded:
            check_rounded(module)
        with engine.perturbed(parameters, rounded):
            return compose(plan, module, engine, self.problem.xs, balls, method, rows, self.progress, rounded)

    def _reach(self, plan: Plan, radius: float) -> Composed:
        """All that roundings may make of an attribution on balls of a radius around the inputs."""
        module, _, rows = self._traced(plan, "IBP")
        xs = self.problem.xs
        return compose(plan, module, Reach(module), xs, around(xs, radius), "IBP", rows, rounded=True, evaluate=False)

    def _traced(self, plan: Plan, method: str, explained: bool = False) -> tuple[GradientModule, Engine, int]:
        """The module that computes a row of a plan, its bounds, and how many rows these take at once."""
        trace, _ = self._trace(plan, explained)
        return trace.module, trace.engine, trace.engine.rows_at_once(self.batch_size, method)

    def _trace(self, plan: Plan, explained: bool = False) -> tuple[Trace, bool]:
        """The trace of what a plan computes, and whether it was made just now."""
        problem = self.problem
        return self.traces.of(problem.attribution, plan, problem.xs, problem.keywords, explained)
