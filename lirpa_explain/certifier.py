"""Certifier: certificates of one attribution, whose model is traced and parsed once."""

import dataclasses
import functools
import math
import time
from typing import Any

import torch
from auto_LiRPA.perturbations import Perturbation
from torch import Tensor

from . import attributions
from .arguments import (
    check_boundary,
    check_inputs,
    check_method,
    check_parameters,
    check_seam,
    check_settings,
    check_spec,
    split_method,
)
from .attacks.problem import Problem, random_state
from .attacks.sandwich import attacked
from .attributions import Plan
from .boundary.moving import Moving, compose_moving
from .boundary.search import remembered
from .bounding.ball import Ball, check_has_radius, make_balls
from .bounding.bounds import Bounds, interval_bounds, linear_bounds
from .bounding.compose import Composed, compose, compose_functions, sample_bounds
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
from .bounding.optimize import Optimization
from .bounding.parameters import Parameters, make_parameters
from .certificates import Certificate
from .certificates.radius import broadcastable
from .errors import SoundnessError
from .nominal import Nominal, attribute, completeness, evaluating, isolated, no_training_layers
from .operators.bound import Box
from .provenance import describe, versions
from .relaxations.ranges import linear_range
from .selfcheck import around, check_value, enclose
from .traces import Traces

ROWS = 64
"""Rows (examples x path points) bounded at once unless the caller says otherwise."""

OTHERS = ("spec", "integral", "expectation", "confidence", "boundary")
"""Keywords of `Certifier.certify` that `Certifier.bounds` has not."""


class Certifier:
    """Certificates of one attribution; the model is traced and parsed once for inputs of one shape.

    What depends on the call alone (inputs, ball, target, baselines, noise, parameters' values) costs no new trace. A
    changed shape or type, other constant arguments, replaced or changed buffers and a change of mode do.

    Args:
        attribution: an object of one of the classes in `lirpa_explain.ATTRIBUTIONS`.
        example_inputs: inputs (N, *S), or a tuple; if given, the trace is made at once.
        method: a key of `lirpa_explain.METHODS`, the default of `certify`.
        batch_size: most rows (examples x path points) bounded at once, default 64.
        memory_limit: bytes, at least 2**20, that bounds may take beside the model, about; default: no limit but
            what `batch_size` and chunks of 2**22 coefficients imply.
        progress: show a progress bar.
        differentiable: keep the bounds differentiable in the model's parameters.
        iterations: most steps of method "CROWN-Optimized".
        lr: its first step length, above 0 and at most 1.
        **attribute_kwargs: keywords of `attribution.attribute`, the defaults of `certify`.

    Raises:
        As `certify`.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
        >>> certifier = lx.Certifier(Saliency(model), torch.rand(1, 2), target=0)
        >>> wide, narrow = (certifier.certify(torch.rand(4, 2), eps=eps) for eps in (0.1, 0.01))
        >>> bool((narrow.width <= wide.width.max()).all())
        True
    """

    def __init__(self, attribution: Any, example_inputs: Tensor | tuple[Tensor, ...] | None = None, *,
                 method: str = "CROWN", batch_size: int | None = None, memory_limit: int | None = None,
                 progress: bool = False, differentiable: bool = False, iterations: int = 20, lr: float = 0.3,
                 **attribute_kwargs: Any) -> None:
        attributions.lookup(attribution)
        method, attribute_kwargs = split_method(method, None, attribute_kwargs)
        check_method(method)
        check_settings(batch_size, memory_limit, iterations, lr)
        check_seam(attribution)
        self.attribution = attribution
        self.method = method
        self.batch_size = batch_size or ROWS
        self.memory_limit = memory_limit
        self.progress = progress
        self.differentiable = differentiable
        self.options = Optimization(iterations, float(lr))
        self.attribute_kwargs = attribute_kwargs
        self.traces = Traces(self.options, memory_limit)
        if example_inputs is not None:
            xs = check_inputs(example_inputs)
            with isolated(xs[0].device), no_training_layers():
                attribute(attribution, example_inputs, xs, attribute_kwargs)
            with isolated(xs[0].device):
                plan = attributions.make_plan(attribution, xs, attribute_kwargs)
                self.traces.of(attribution, plan, xs, attribute_kwargs)

    def certify(self, inputs: Tensor | tuple[Tensor, ...], *,
                perturbation: Perturbation | tuple[Perturbation | None, ...] | None = None,
                eps: float | Tensor | tuple[Any, ...] | None = None, norm: float = math.inf,
                clip: tuple[Any, Any] | None = None, method: str | None = None, quadrature: str | None = None,
                spec: Tensor | tuple[Tensor, ...] | None = None, integral: str | None = None,
                expectation: str | None = None, confidence: float = 0.999, boundary: str | Moving | None = None,
                parameters: Any = None, **attribute_kwargs: Any) -> Certificate:
        """Bound the attribution over every allowed perturbation of these inputs, and of the model's parameters.

        Args:
            inputs: as for `lirpa_explain.certify`, and so all others.
            perturbation: an auto_LiRPA perturbation, or a tuple of them.
            eps: radius of the ball.
            norm: its norm.
            clip: the range of the data.
            method: how to bound, if not as the certifier was made for.
            quadrature: Captum's `method` of IntegratedGradients.
            spec: linear functions of the attribution to bound as well.
            integral: "exact" to bound the path integral and not the finite sum.
            expectation: "gaussian" or "gaussian-propagated" to bound the expectation under the noise and not the mean
                of samples.
            confidence: with which they hold then.
            boundary: "fixed", "moving" or a `Moving`, for boundary attributions.
            parameters: how far the model's parameters may change.
            **attribute_kwargs: keywords of `attribution.attribute`; they go before those of the certifier.

        Returns:
            A `Certificate`.
        """
        started = time.perf_counter()
        method, keywords = split_method(self.method if method is None else method, quadrature,
                                        {**self.attribute_kwargs, **attribute_kwargs})
        check_method(method)
        xs = check_inputs(inputs)
        with torch.inference_mode(False):
            balls = make_balls(inputs, perturbation, eps, norm, clip, may_be_fixed=parameters is not None)
            with torch.set_grad_enabled(self.differentiable):
                moved = make_parameters(self.attribution.forward_func, parameters)
        problem = Problem(self.attribution, inputs, xs, balls, keywords, random_state(xs[0].device), moved)
        searched: list[Any] = []
        with isolated(xs[0].device), no_training_layers(), remembered(searched):
            nominal = attribute(self.attribution, inputs, xs, keywords)
        with torch.inference_mode(False):
            functions = None if spec is None else check_spec(spec, nominal.parts)
        flat, shaped = nominal.flat, nominal.shaped
        with isolated(xs[0].device), torch.set_grad_enabled(self.differentiable), remembered(searched):
            plan = bounded = check_boundary(boundary, attributions.make_plan(self.attribution, xs, keywords))
            check_parameters(moved, plan, expectation)
            if integral is not None:
                plan, bounded = integral_plans(plan, self.attribution, integral)
            report: dict[str, Any] = {}
            if expectation is not None:
                if integral is not None or self.differentiable:
                    raise ValueError("expectation goes neither with integral nor with differentiable=True: its bounds "
                                     "are statistics of drawn samples of what Captum computes.")
                check_expectation(self.attribution, plan, keywords, expectation, confidence)
                box, value = self._expected(plan, xs, balls, method, keywords, flat, expectation, confidence), flat
                report = {"expectation": expectation, "confidence": confidence, "samples": plan.samples}
            else:
                box, value = self._box(plan, bounded, xs, balls, method, keywords, flat, moved)
                if moved is not None:
                    self._check_elsewhere(plan, bounded, problem, box)
            if integral is not None:
                report = self._integral_report(bounded, xs, method, keywords, nominal)

            def refine(C: Tensor) -> Box:
                """Bounds of linear functions C (N, K, D) of the attribution, each (N, K)."""
                if expectation is not None:
                    return enclose(linear_range(C, box), torch.einsum("nkd,nd->nk", C, value))
                with torch.inference_mode(False), torch.set_grad_enabled(self.differentiable):
                    return self._spec(bounded, xs, balls, method, keywords, C, box, value, moved)

            spec_box = None if functions is None else refine(functions)

        def recertify(radii: Tensor) -> Certificate:
            """The certificate of this call at radii (N,), with the random draws that were made for it."""
            varied = {"norm": check_has_radius(inputs if isinstance(inputs, tuple) else (inputs,), perturbation, balls),
                      "clip": clip, "quadrature": keywords.get("method"), "spec": spec, "integral": integral,
                      "expectation": expectation, "confidence": confidence, "boundary": boundary,
                      "parameters": parameters, **{name: value for name, value in keywords.items() if name != "method"}}
            eps = tuple(None if ball is None else broadcastable(radii, x) for ball, x in zip(balls, xs, strict=True))
            with problem.replayed():
                return self.certify(problem.shaped(xs), eps=eps if isinstance(inputs, tuple) else eps[0], method=method,
                                    **varied)

        return Certificate(
            lower=shaped(box[0]), upper=shaped(box[1]), nominal=shaped(flat),
            attribution=attributions.name_of(self.attribution), method=method,
            perturbation=describe(balls, plan, moved),
            dtype=str(flat.dtype).removeprefix("torch."), elapsed_s=time.perf_counter() - started,
            convergence_delta=nominal.delta, versions=versions(),
            spec_lower=None if spec_box is None else spec_box[0], spec_upper=None if spec_box is None else spec_box[1],
            spec_nominal=None if functions is None else torch.einsum("nkd,nd->nk", functions, flat), refiner=refine,
            integral=integral, attacker=None if plan.nearest else functools.partial(attacked, problem),
            recertifier=recertify, **report,
        )

    def bounds(self, inputs: Tensor | tuple[Tensor, ...], *,
               perturbation: Perturbation | tuple[Perturbation | None, ...] | None = None,
               eps: float | Tensor | tuple[Any, ...] | None = None, norm: float = math.inf,
               clip: tuple[Any, Any] | None = None, method: str | None = None, quadrature: str | None = None,
               parameters: Any = None, **attribute_kwargs: Any) -> Bounds:
        """Bounds alone, for training: differentiable in the model's parameters, and at little cost.

        They are those of `certify`, for the model in eval mode whatever mode it is in. Captum is not called, and the
        bounds do not check themselves: a full certificate of these inputs checks each trace of the model once. By IBP
        they are not moved outward by roundings, so in the end certify by `certify`. An attribution that draws noise
        draws it here as Captum does, from torch's and numpy's generators.

        Args:
            inputs: as for `certify`, and so all others.
            perturbation: an auto_LiRPA perturbation, or a tuple of them.
            eps: radius of the ball.
            norm: its norm.
            clip: the range of the data.
            method: how to bound, if not as the certifier was made for.
            quadrature: Captum's `method` of IntegratedGradients.
            parameters: how far the model's parameters may change.
            **attribute_kwargs: keywords of `attribution.attribute`; they go before those of the certifier.

        Returns:
            `Bounds` of the N attributions, differentiable unless grad mode is off.

        Raises:
            ValueError: a keyword of `certify` that changes what is bounded.
            As `certify`.

        Example:
            >>> import torch, lirpa_explain as lx
            >>> from captum.attr import Saliency
            >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
            >>> certifier = lx.Certifier(Saliency(model), method="IBP", abs=False)
            >>> bounds = certifier.bounds(torch.rand(4, 2), eps=0.1, target=0)
            >>> bounds.width.mean().backward()
            >>> model[0].weight.grad.shape
            torch.Size([3, 2])
        """
        for name in OTHERS:
            if name in attribute_kwargs:
                raise ValueError(f"bounds() takes no {name}; it is for training, certify() bounds other things.")
        method, keywords = split_method(self.method if method is None else method, quadrature,
                                        {**self.attribute_kwargs, **attribute_kwargs})
        check_method(method)
        forward = self.attribution.forward_func
        xs = check_inputs(inputs)
        with torch.inference_mode(False), evaluating(forward):
            balls = make_balls(inputs, perturbation, eps, norm, clip, may_be_fixed=parameters is not None)
            moved = make_parameters(forward, parameters)
            plan = attributions.make_plan(self.attribution, xs, keywords)
            check_parameters(moved, plan, None)
            trace, _ = self.traces.of(self.attribution, plan, xs, keywords)
            if not trace.is_checked:
                self.certify(inputs, perturbation=perturbation, eps=eps, norm=norm, clip=clip, method=method,
                             quadrature=quadrature, parameters=parameters, **attribute_kwargs)
                trace, _ = self.traces.of(self.attribution, plan, xs, keywords)
                trace.is_checked = True
            if method == "IBP":
                return interval_bounds(plan, trace.module, trace.intervals, xs, balls, moved)
            rows = trace.engine.rows_at_once(self.batch_size, method)
            return linear_bounds(plan, trace.module, trace.engine, xs, balls, method, rows, moved)

    def _box(self, plan: Plan, bounded: Plan, xs: tuple[Tensor, ...], balls: tuple[Ball | None, ...], method: str,
             keywords: dict[str, Any], nominal: Tensor, parameters: Parameters | None = None) -> tuple[Box, Tensor]:
        """Checked bounds of an attribution, (N, D) each, and a value within; an outgrown trace is made anew.

        `plan` is that of Captum's value; `bounded` that of what is bounded, made of the same program.
        """
        is_new = self.traces.of(self.attribution, plan, xs, keywords)[1]

        def run(plan: Plan, balls: tuple[Ball | None, ...], method: str, parameters: Parameters | None = None
                ) -> Composed:
            return self._compose(plan, xs, balls, method, keywords, parameters)

        if plan.moving:
            moving = self._moving(plan, xs, balls, method, keywords)
            composed = dataclasses.replace(run(plan, (None,) * len(xs), method), lower=moving[0], upper=moving[1])
        else:
            composed = run(bounded, balls, method, parameters)
        try:
            if bounded is plan:
                value = nominal
            else:
                value = composed.value
                check_value(run(plan, (None,) * len(xs), "IBP"), nominal, lambda r: run(plan, around(xs, r), "IBP"))
            check_value(composed, value, lambda r: run(bounded, around(xs, r), "IBP"))
        except SoundnessError:
            if is_new:
                raise
            self.traces.clear()
            return self._box(plan, bounded, xs, balls, method, keywords, nominal, parameters)
        return enclose((composed.lower, composed.upper), value), value

    @torch.no_grad()
    def _check_elsewhere(self, plan: Plan, bounded: Plan, problem: Problem, box: Box) -> None:
        """The attribution of the model with other parameters must be the trace's with these, and within the bounds.

        A value that the model holds beside its parameters, computed from them once, would not move with them.
        """
        assert problem.parameters is not None
        values = problem.parameters.draw(True, torch.Generator().manual_seed(0))
        xs, keywords = problem.xs, problem.keywords

        def run(plan: Plan, balls: tuple[Ball | None, ...]) -> Composed:
            return self._compose(plan, xs, balls, "IBP", keywords)

        with problem.parameters.set_to(values):
            fixed = (None,) * len(xs)
            value, nominal = run(plan, fixed), problem.attribute(xs, values).flat
            within = value if bounded is plan else run(bounded, fixed)
            try:
                check_value(value, nominal, lambda r: run(plan, around(xs, r)))
                check_value(dataclasses.replace(within, lower=box[0], upper=box[1]), within.value,
                            lambda r: run(bounded, around(xs, r)))
            except SoundnessError as error:
                raise SoundnessError(f"With other parameters: {error} Perhaps the model computes with its parameters "
                                     "in ways that autograd does not see, such as `.data`.") from error

    def _compose(self, plan: Plan, xs: tuple[Tensor, ...], balls: tuple[Ball | None, ...], method: str,
                 keywords: dict[str, Any], parameters: Parameters | None = None) -> Composed:
        """Bounds of a plan, and its value."""
        trace, _ = self.traces.of(self.attribution, plan, xs, keywords)
        rows = trace.engine.rows_at_once(self.batch_size, method)
        with trace.engine.perturbed(parameters):
            return compose(plan, trace.module, trace.engine, xs, balls, method, rows, self.progress)

    def _expected(self, plan: Plan, xs: tuple[Tensor, ...], balls: tuple[Ball | None, ...], method: str,
                  keywords: dict[str, Any], nominal: Tensor, expectation: str, confidence: float) -> Box:
        """Bounds of the expectation that the samples of a plan estimate, (N, D) each."""
        single, sigmas = one_sample(plan, xs), deviations(keywords, len(xs))
        shift = shift_of(xs, balls, sigmas)
        trace, is_new = self.traces.of(self.attribution, plan, xs, keywords)

        def bound(balls: tuple[Ball | None, ...], how: str | None) -> Box:
            composed = self._compose(single, xs, balls, how or method, keywords)
            return composed.lower, composed.upper

        near, far = certified_range(bound, xs, balls, sigmas)
        moving, how = (balls, method) if expectation == PROPAGATED else ((None,) * len(xs), "IBP")
        rows = trace.engine.rows_at_once(self.batch_size, how)
        chunks = sample_bounds(plan, trace.module, trace.engine, xs, moving, how, rows, self.progress)
        samples = summarise(chunks, near, far, plan.samples)
        lower, upper = expectation_bounds(samples, near, far, plan.samples, confidence, shift,
                                          propagated=expectation == PROPAGATED)
        value = samples.value.to(nominal)
        try:
            check_value(Composed(lower, upper, value, samples.magnitude.to(nominal)), nominal,
                        lambda r: self._compose(plan, xs, around(xs, r), "IBP", keywords))
        except SoundnessError:
            if is_new:
                raise
            self.traces.clear()
            return self._expected(plan, xs, balls, method, keywords, nominal, expectation, confidence)
        return enclose((lower, upper), nominal)

    def _integral_report(self, plan: Plan, xs: tuple[Tensor, ...], method: str, keywords: dict[str, Any],
                         nominal: Nominal) -> dict[str, Any]:
        """How far Captum's sum may be from the integral, and from completeness, at the unperturbed input."""
        integral = self._compose(plan, xs, (None,) * len(xs), method, keywords)
        error = torch.maximum(nominal.flat - integral.lower, integral.upper - nominal.flat).clamp(min=0)
        return {"quadrature_error": nominal.shaped(error.detach()),
                "completeness": completeness(self.attribution, xs, plan.baselines or (), keywords, nominal.parts)}

    def _moving(self, plan: Plan, xs: tuple[Tensor, ...], balls: tuple[Ball | None, ...], method: str,
                keywords: dict[str, Any]) -> Box:
        """Bounds for every x' at the nearest boundary point of x'."""
        plain = dataclasses.replace(plan, scales=None, baselines=None, noisy=False, multiply=False, absolute=False)
        trace, _ = self.traces.of(self.attribution, plain, xs, keywords)
        rows = trace.engine.rows_at_once(self.batch_size, method)
        return compose_moving(plan, trace.module, trace.engine, xs, balls, method, rows, self.progress)

    def _spec(self, plan: Plan, xs: tuple[Tensor, ...], balls: tuple[Ball | None, ...], method: str,
              keywords: dict[str, Any], functions: Tensor, box: Box, nominal: Tensor,
              parameters: Parameters | None = None) -> Box:
        """Bounds of linear functions of the attribution: of the box, and by propagation where the plan is linear."""
        lower, upper = linear_range(functions, box)
        if plan.is_row_linear and method != "IBP" and not plan.moving:
            trace, _ = self.traces.of(self.attribution, plan, xs, keywords, explained=True)
            rows = trace.engine.rows_at_once(self.batch_size, method)
            with trace.engine.perturbed(parameters):
                propagated = compose_functions(plan, trace.module, trace.engine, xs, balls, method, rows, functions,
                                               self.progress)
            lower, upper = torch.maximum(lower, propagated[0]), torch.minimum(upper, propagated[1])
        return enclose((lower, upper), torch.einsum("nkd,nd->nk", functions, nominal))
