"""Certifier: certificates of one attribution, whose model is traced and parsed once."""

import dataclasses
import functools
import inspect
import math
import time
from typing import Any

import torch
from auto_LiRPA.perturbations import Perturbation
from torch import Tensor

from .. import attributions
from ..arrays import as_tensors
from ..attacks.sandwich import attacked
from ..bounding.bounds import Bounds, interval_bounds, linear_bounds
from ..bounding.moving import Moving
from ..bounding.settings import Bounding
from ..bounding.where import Where
from ..boxes import Box
from ..certificates import Certificate
from ..decision.search import remembered
from ..guards import evaluating, isolated, no_training_layers
from ..inputs import check_keywords, check_known, uncompiled
from .arguments import check_parameters, check_seam, check_spec, split_method
from .columns import check_columns, entry_names, given_tensors
from .nominal import Nominal
from .posed import Poser
from .provenance import describe, versions
from .prover import Prover, Refiner
from .refinement import refined
from .request import Request, random_state
from .senses import SENSES, FiniteSum, Integral, Proven, Sense, sense_of
from .traces import Traces


class Certifier:
    """Certificates of one attribution; the model is traced and parsed once for inputs of one shape.

    What depends on the call alone (inputs, ball, target, baselines, noise, parameters' values)
    costs no new trace. A changed shape or type, other constant arguments, replaced or changed
    buffers and a change of mode do.

    Args:
        attribution: an object of one of the classes in `lirpa_explain.ATTRIBUTIONS`.
        example_inputs: inputs (N, *S), or a tuple; if given, the trace is made at once.
        method: a key of `lirpa_explain.METHODS`, the default of `certify`.
        batch_size: most rows (examples x path points) bounded at once, default 64.
        memory_limit: bytes, at least 2**20, that tensors of bounds may take beside the model;
            default: no limit but what `batch_size` and chunks of 2**22 coefficients imply.
        progress: show a progress bar.
        differentiable: keep the bounds differentiable in the model's parameters.
        iterations: most steps of method "CROWN-Optimized".
        lr: its first step length, above 0 and at most 1.
        rounding: "default" or "outward", the default of `certify`.
        perturb: "input" or "layer", the default of `certify`.
        features: names of the inputs' columns, the default of `certify`.
        slack: a number from 0 to below 1. Neurons that make up at most this share of a layer's
            relaxation gaps together keep interval or other cheap bounds: faster, and a little
            wider; bounds hold all the same.
        **attribute_kwargs: keywords of `attribution.attribute`, the defaults of `certify`.

    Raises:
        As `certify`.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(),
        ...                             torch.nn.Linear(3, 2))
        >>> certifier = lx.Certifier(Saliency(model), torch.rand(1, 2), target=0)
        >>> wide, narrow = (certifier.certify(torch.rand(4, 2), eps=eps) for eps in (0.1, 0.01))
        >>> bool((narrow.width <= wide.width.max()).all())
        True
    """

    @uncompiled
    def __init__(
        self, attribution: Any, example_inputs: Tensor | tuple[Tensor, ...] | None = None, *,
        method: str = "CROWN", batch_size: int | None = None, memory_limit: int | None = None,
        progress: bool = False, differentiable: bool = False, iterations: int = 20, lr: float = 0.3,
        rounding: str = "default", perturb: str | None = None, features: Any = None,
        slack: float = 0.0, **attribute_kwargs: Any) -> None:
        attributions.lookup(attribution)
        check_known(attribution, attribute_kwargs, Certifier, Certifier.certify)
        method, attribute_kwargs = split_method(method, None, attribute_kwargs)
        self.bounding = Bounding(method, batch_size, memory_limit, iterations, lr, progress,
                                 differentiable, rounding, slack)
        check_seam(attribution)
        self.attribution = attribution
        self.attribute_kwargs = attribute_kwargs
        self.poser = Poser(attribution, perturb)
        self.features = features
        self.traces = Traces(self.bounding)
        if example_inputs is not None:
            example_inputs, columns, attribute_kwargs = given_tensors(
                attribution, example_inputs, attribute_kwargs, features)
            posed = self.poser.pose(example_inputs, attribute_kwargs)
            call = posed.call
            check_columns(posed.names_of(columns), call.xs)
            with isolated(call.xs[0].device, attribution), no_training_layers():
                posed.nominal  # noqa: B018  (which Captum may refuse)
            with isolated(call.xs[0].device, attribution):
                plan = attributions.make_plan(call.attribution, call.xs, call.keywords)
                self.traces.of(call.attribution, plan, call.xs, call.keywords)

    @uncompiled
    def certify(self, inputs: Tensor | tuple[Tensor, ...], *,
                perturbation: Perturbation | tuple[Perturbation | None, ...] | None = None,
                eps: float | Tensor | tuple[Any, ...] | None = None, norm: float = math.inf,
                clip: tuple[Any, Any] | None = None, method: str | None = None,
                quadrature: str | None = None,
                spec: Tensor | tuple[Tensor, ...] | None = None, integral: str | None = None,
                expectation: str | None = None, confidence: float = 0.999,
                boundary: str | Moving | None = None,
                sense: Sense | None = None, parameters: Any = None, rounding: str | None = None,
                perturb: str | None = None, fixed: Any = None, features: Any = None,
                **attribute_kwargs: Any) -> Certificate:
        """Bound the attribution over every allowed perturbation of these inputs, and of the model's
        parameters.

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
            expectation: "gaussian" or "gaussian-propagated" to bound the expectation under the
                noise and not the mean of samples.
            confidence: with which they hold then.
            boundary: "fixed", "moving" or a `Moving`, for boundary attributions.
            sense: what is bounded, as an object, where no keyword chooses it.
            parameters: how far the model's parameters may change.
            rounding: "default" or "outward", if not as the certifier was made for.
            perturb: "input" or "layer", if not as the certifier was made for.
            fixed: what is held fixed of what is perturbed.
            features: names of the inputs' columns, if not as the certifier was made for.
            **attribute_kwargs: keywords of `attribution.attribute`; they go before those of the
              certifier.

        Returns:
            A `Certificate`.
        """
        check_known(self.attribution, attribute_kwargs, self.certify)
        bounding, keywords = self._settings(method, quadrature, attribute_kwargs, rounding)
        chosen = sense_of({"sense": sense, "integral": integral, "expectation": expectation,
                           "boundary": boundary, "confidence": confidence})
        inputs, columns, keywords = given_tensors(self.attribution, inputs, keywords, self.features
                                                  if features is None else features, perturbation)
        eps, clip, spec = (as_tensors(value) for value in (eps, clip, spec))
        posed = self.poser.pose(inputs, keywords, perturb, isinstance(chosen, Integral))
        columns = posed.names_of(columns)
        check_columns(columns, posed.call.xs)
        where = Where.of(
            self.attribution.forward_func, posed.call.inputs, perturbation=perturbation, eps=eps,
            norm=norm, clip=clip, parameters=parameters, differentiable=bounding.differentiable,
            fixed=fixed, ids=posed.ids)
        self.poser.check_parameters(posed, where.parameters)
        request = Request(posed, where, random_state(posed.call.xs[0].device), columns)
        return self._certificate(request, bounding, chosen, spec)

    @uncompiled
    def refine(self, inputs: Tensor | tuple[Tensor, ...], what: Any = "sign",
               spec: Tensor | tuple[Tensor, ...] | None = None, *, seconds: float | None = None,
               tolerance: float = 0.01, domains: int | None = None, refine_method: str = "branch",
               refine_batch_size: int = 64, progress: bool = False, **settings: Any) -> Certificate:
        """Certify, and tighten the bounds of chosen functions; see `Certificate.refine`.

        Args:
            inputs: as for `certify`.
            what: as for `Certificate.refine`, and so the others.
            spec: linear functions of the attribution.
            seconds: when to stop refining.
            tolerance: share of the width that may be left open.
            domains: most domains for each function.
            refine_method: "branch" or "exact".
            refine_batch_size: domains bounded at once.
            progress: show a bar.
            **settings: of `certify`, such as `eps`.

        Returns:
            The refined `Certificate`.
        """
        certificate = self.certify(inputs, **settings)
        return certificate.refine(what, spec, seconds=seconds, tolerance=tolerance, domains=domains,
                                  method=refine_method, batch_size=refine_batch_size,
                                  progress=progress)

    def _certificate(self, request: Request, bounding: Bounding, sense: Sense,
                     spec: Any) -> Certificate:
        """The certificate of a request, bounded so, in that sense."""
        started = time.perf_counter()
        prover = Prover(request, self.traces, bounding)
        device, searched = request.xs[0].device, list[Any]()
        with isolated(device, self.attribution), no_training_layers(), remembered(searched):
            nominal = request.posed.nominal
        with torch.inference_mode(False):
            functions = None if spec is None else check_spec(spec, nominal.parts)
        with isolated(device, self.attribution), torch.set_grad_enabled(
            bounding.differentiable), remembered(searched):
            plan = attributions.make_plan(request.attribution, request.xs, request.keywords)
            check_parameters(request.parameters, plan)
            sense.check(request, plan, bounding)
            proven = sense.prove(prover, plan, nominal)
            # Captum rounds some attributions to float32
            box = Box(*proven.box).of_type(nominal.flat.dtype)
            specified = {} if functions is None else _specified(prover, proven, functions, nominal)
        return Certificate(
            lower=nominal.shaped(box.lower), upper=nominal.shaped(box.upper),
            nominal=nominal.shaped(nominal.flat),
            attribution=attributions.name_of(self.attribution),
            method=bounding.method,
            perturbation=describe(request.where, request.posed.place, sense.words(plan),
                                  request.columns),
            dtype=str(nominal.flat.dtype).removeprefix("torch."),
            elapsed_s=time.perf_counter() - started,
            convergence_delta=nominal.delta, versions=versions(), meaning=proven.meaning,
            rounding=bounding.rounding,
            features=entry_names(self.attribution, request.columns, request.xs, nominal.parts),
            refiner=Refiner(prover, proven),
            recertifier=functools.partial(self._at_radii, request, bounding, sense, spec),
            brancher=functools.partial(refined, prover, proven)
            if sense.is_refined(request, plan) else None,
            attacker=None if plan.nearest else functools.partial(attacked, request), **specified,
        )

    def _at_radii(self, request: Request, bounding: Bounding, sense: Sense, spec: Any,
                  radii: Tensor) -> Certificate:
        """The certificate of a request at radii (N,), with the random draws that were made for
        it.
        """
        attributions.refuse_mixed(request.attribution, "radius")
        resized = dataclasses.replace(request, where=request.where.resized(request.xs, radii))
        with request.replayed():
            return self._certificate(resized, bounding, sense, spec)

    @uncompiled
    def bounds(self, inputs: Tensor | tuple[Tensor, ...], *,
               perturbation: Perturbation | tuple[Perturbation | None, ...] | None = None,
               eps: float | Tensor | tuple[Any, ...] | None = None, norm: float = math.inf,
               clip: tuple[Any, Any] | None = None, method: str | None = None,
               quadrature: str | None = None,
               parameters: Any = None, perturb: str | None = None, fixed: Any = None,
               **attribute_kwargs: Any) -> Bounds:
        """Bounds alone, for training: differentiable in the model's parameters, and at little cost.

        They are those of `certify`, for the model in eval mode whatever mode it is in. Captum is
        not called, and the bounds do not check themselves: a full certificate of these inputs
        checks each trace of the model once. By IBP they are not moved outward by roundings, so in
        the end certify by `certify`. An attribution that draws noise draws it here as Captum does,
        from torch's and numpy's generators.

        Args:
            inputs: as for `certify`, and so all others.
            perturbation: an auto_LiRPA perturbation, or a tuple of them.
            eps: radius of the ball.
            norm: its norm.
            clip: the range of the data.
            method: how to bound, if not as the certifier was made for.
            quadrature: Captum's `method` of IntegratedGradients.
            parameters: how far the model's parameters may change.
            perturb: "input" or "layer", if not as the certifier was made for. A layer's output,
                around which the ball is then, is a constant: bounds do not differentiate in the
                parameters that it is computed from.
            fixed: what is held fixed of what is perturbed.
            **attribute_kwargs: keywords of `attribution.attribute`; they go before those of the
              certifier.

        Returns:
            `Bounds` of the N attributions, differentiable unless grad mode is off.

        Raises:
            ValueError: a keyword of `certify` that changes what is bounded.
            As `certify`.

        Example:
            >>> import torch, lirpa_explain as lx
            >>> from captum.attr import Saliency
            >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(),
            ...                             torch.nn.Linear(3, 2))
            >>> certifier = lx.Certifier(Saliency(model), method="IBP", abs=False)
            >>> bounds = certifier.bounds(torch.rand(4, 2), eps=0.1, target=0)
            >>> bounds.width.mean().backward()
            >>> model[0].weight.grad.shape
            torch.Size([3, 2])
        """
        for name in ("spec", "sense", *SENSES,
                     *(other for _, others in SENSES.values() for other in others)):
            if name in attribute_kwargs:
                raise ValueError(f"bounds() takes no {name}; it is for training, certify() bounds "
                                 "other things.")
        check_known(self.attribution, attribute_kwargs, self.bounds)
        bounding, keywords = self._settings(method, quadrature, attribute_kwargs)
        forward = self.attribution.forward_func
        inputs, _, keywords = given_tensors(self.attribution, inputs, keywords, self.features,
                                            perturbation)
        eps, clip = as_tensors(eps), as_tensors(clip)
        with torch.inference_mode(False), evaluating(forward):
            posed = self.poser.pose(inputs, keywords, perturb)
            attribution, xs, keywords = posed.call.attribution, posed.call.xs, posed.call.keywords
            where = Where.of(forward, posed.call.inputs, perturbation=perturbation, eps=eps,
                             norm=norm, clip=clip,
                             parameters=parameters, fixed=fixed, ids=posed.ids)
            self.poser.check_parameters(posed, where.parameters)
            plan = attributions.make_plan(attribution, xs, keywords)
            check_parameters(where.parameters, plan)
            trace, _ = self.traces.of(attribution, plan, xs, keywords)
            if not trace.is_checked:
                request = Request(posed, where, random_state(xs[0].device))
                self._certificate(request, bounding, FiniteSum(), None)
                trace, _ = self.traces.of(attribution, plan, xs, keywords)
            if bounding.row.is_interval_pass:
                return interval_bounds(plan, trace.module, trace.intervals, xs, where.balls,
                                       where.parameters)
            rows = trace.engine.rows_at_once(bounding.rows, bounding.method)
            return linear_bounds(plan, trace.module, trace.engine, xs, where.balls, bounding.method,
                                 rows, where.parameters)

    def perturbed(self, inputs: Tensor | tuple[Tensor, ...], **settings: Any) -> tuple[Tensor, ...]:
        """What `certify` would perturb: the inputs, or the layer's outputs at them, each (N, *S).

        Args:
            inputs: as for `certify`.
            **settings: of `certify`.
        """
        own = inspect.signature(self.certify).parameters
        keywords = {name: value for name, value in settings.items() if name not in own}
        return self.poser.pose(inputs, {**self.attribute_kwargs, **keywords},
                               settings.get("perturb")).call.xs

    def _settings(self, method: str | None, quadrature: str | None, given: dict[str, Any],
                  rounding: str | None = None) -> tuple[Bounding, dict[str, Any]]:
        """How to bound, and the keywords of `attribution.attribute`, those given before those of
        the certifier.
        """
        method, keywords = split_method(self.bounding.method if method is None else method,
                                        quadrature, {**self.attribute_kwargs, **given})
        check_keywords(keywords)
        rounding = self.bounding.rounding if rounding is None else rounding
        return dataclasses.replace(self.bounding, method=method, rounding=rounding), keywords


def _specified(prover: Prover, proven: Proven, functions: Tensor,
               nominal: Nominal) -> dict[str, Any]:
    """Fields of a certificate about linear functions (N, K, D) of the attribution."""
    lower, upper = prover.functions(proven, functions)
    return {"spec_lower": lower, "spec_upper": upper,
            "spec_nominal": torch.einsum("nkd,nd->nk", functions, nominal.flat)}
