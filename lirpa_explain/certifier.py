"""Certifier: certificates of one attribution, whose model is traced and parsed once."""

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
    check_rounding,
    check_seam,
    check_sense,
    check_settings,
    check_spec,
    split_method,
)
from .attacks.problem import Problem, random_state
from .attacks.sandwich import attacked
from .boundary.moving import Moving
from .boundary.search import remembered
from .bounding.ball import check_has_radius, make_balls
from .bounding.bounds import Bounds, interval_bounds, linear_bounds
from .bounding.optimize import Optimization
from .bounding.parameters import make_parameters
from .certificates import Certificate
from .certificates.radius import broadcastable
from .nominal import attribute, evaluating, isolated, no_training_layers
from .provenance import describe, versions
from .prover import Prover
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
        rounding: "default" or "outward", the default of `certify`.
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
                 rounding: str = "default", **attribute_kwargs: Any) -> None:
        attributions.lookup(attribution)
        method, attribute_kwargs = split_method(method, None, attribute_kwargs)
        check_method(method)
        check_settings(batch_size, memory_limit, iterations, lr)
        check_seam(attribution)
        check_rounding(rounding)
        self.attribution = attribution
        self.method = method
        self.rounding = rounding
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
                parameters: Any = None, rounding: str | None = None, **attribute_kwargs: Any) -> Certificate:
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
            rounding: "default" or "outward", if not as the certifier was made for.
            **attribute_kwargs: keywords of `attribution.attribute`; they go before those of the certifier.

        Returns:
            A `Certificate`.
        """
        started = time.perf_counter()
        method, keywords = self._keywords(method, quadrature, attribute_kwargs)
        check_sense(integral, expectation, self.differentiable, parameters)
        rounding = self.rounding if rounding is None else rounding
        check_rounding(rounding, integral, expectation, parameters, boundary)
        xs = check_inputs(inputs)
        device = xs[0].device
        with torch.inference_mode(False):
            balls = make_balls(inputs, perturbation, eps, norm, clip, may_be_fixed=parameters is not None)
            with torch.set_grad_enabled(self.differentiable):
                moved = make_parameters(self.attribution.forward_func, parameters)
        problem = Problem(self.attribution, inputs, xs, balls, keywords, random_state(device), moved)
        prover = Prover(problem, self.traces, method, self.batch_size, self.progress, self.differentiable,
                        rounding == "outward")
        searched: list[Any] = []
        with isolated(device), no_training_layers(), remembered(searched):
            nominal = attribute(self.attribution, inputs, xs, keywords)
        with torch.inference_mode(False):
            functions = None if spec is None else check_spec(spec, nominal.parts)
        with isolated(device), torch.set_grad_enabled(self.differentiable), remembered(searched):
            plan = check_boundary(boundary, attributions.make_plan(self.attribution, xs, keywords))
            check_parameters(moved, plan)
            if expectation is not None:
                claim = prover.expectation(plan, nominal, expectation, confidence)
            elif integral is not None:
                claim = prover.integral(plan, nominal, integral)
            else:
                claim = prover.attribution(plan, nominal)
            report = dict(claim.report)
            if functions is not None:
                report["spec_lower"], report["spec_upper"] = prover.functions(claim, functions)
                report["spec_nominal"] = torch.einsum("nkd,nd->nk", functions, nominal.flat)

        def recertify(radii: Tensor) -> Certificate:
            """The certificate of this call at radii (N,), with the random draws that were made for it."""
            given = inputs if isinstance(inputs, tuple) else (inputs,)
            norm = check_has_radius(given, perturbation, balls)
            eps = tuple(None if ball is None else broadcastable(radii, x) for ball, x in zip(balls, xs, strict=True))
            with problem.replayed():
                return self.certify(
                    problem.shaped(xs), eps=problem.shaped(eps), norm=norm, clip=clip, method=method, spec=spec,
                    quadrature=keywords.get("method"), integral=integral, expectation=expectation,
                    confidence=confidence, boundary=boundary, parameters=parameters, rounding=rounding,
                    **{name: value for name, value in keywords.items() if name != "method"})

        return Certificate(
            lower=nominal.shaped(claim.box[0]), upper=nominal.shaped(claim.box[1]),
            nominal=nominal.shaped(nominal.flat), attribution=attributions.name_of(self.attribution), method=method,
            perturbation=describe(balls, plan, moved), dtype=str(nominal.flat.dtype).removeprefix("torch."),
            elapsed_s=time.perf_counter() - started, convergence_delta=nominal.delta, versions=versions(),
            refiner=functools.partial(prover.functions, claim), recertifier=recertify, rounding=rounding,
            attacker=None if plan.nearest else functools.partial(attacked, problem), **report,
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
        method, keywords = self._keywords(method, quadrature, attribute_kwargs)
        forward = self.attribution.forward_func
        xs = check_inputs(inputs)
        with torch.inference_mode(False), evaluating(forward):
            balls = make_balls(inputs, perturbation, eps, norm, clip, may_be_fixed=parameters is not None)
            moved = make_parameters(forward, parameters)
            plan = attributions.make_plan(self.attribution, xs, keywords)
            check_parameters(moved, plan)
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

    def _keywords(self, method: str | None, quadrature: str | None, given: dict[str, Any]
                  ) -> tuple[str, dict[str, Any]]:
        """How to bound, and the keywords of `attribution.attribute`, those given before those of the certifier."""
        method, keywords = split_method(self.method if method is None else method, quadrature,
                                        {**self.attribute_kwargs, **given})
        check_method(method)
        return method, keywords
