"""Certifier: certificates of one attribution, whose model is traced and parsed once."""

import dataclasses
import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from auto_LiRPA.perturbations import Perturbation
from torch import Tensor, nn

from . import attributions
from .arguments import check_boundary, check_inputs, check_method, check_seam, check_settings, check_spec, split_method
from .attributions import Plan
from .boundary.moving import Moving, compose_moving
from .boundary.search import remembered
from .bounding.ball import Ball, make_balls
from .bounding.compose import Composed, compose, compose_functions
from .bounding.engine import Engine
from .bounding.optimize import Optimization
from .certificates import Certificate
from .errors import SoundnessError
from .graph import GradientModule, capture
from .nominal import attribute, isolated, no_training_layers
from .operators.bound import Box, flat_rows
from .relaxations.ranges import linear_range
from .selfcheck import around, check_value, enclose

ROWS = 64
"""Rows (examples x path points) bounded at once unless the caller says otherwise."""

TRACES = 8
"""Traces that are kept; the one longest unused goes first."""


@dataclass
class _Trace:
    """A traced model and its bounds; `state` says of what state of the model."""

    module: GradientModule
    engine: Engine
    state: tuple[Any, ...]


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
        self._traces: OrderedDict[Any, _Trace] = OrderedDict()
        if example_inputs is not None:
            xs = check_inputs(example_inputs)
            with isolated(xs[0].device), no_training_layers():
                attribute(attribution, example_inputs, xs, attribute_kwargs)
            with isolated(xs[0].device):
                self._trace(attributions.make_plan(attribution, xs, attribute_kwargs), xs, attribute_kwargs)

    def certify(self, inputs: Tensor | tuple[Tensor, ...], *,
                perturbation: Perturbation | tuple[Perturbation | None, ...] | None = None,
                eps: float | Tensor | tuple[Any, ...] | None = None, norm: float = math.inf,
                clip: tuple[Any, Any] | None = None, method: str | None = None, quadrature: str | None = None,
                spec: Tensor | tuple[Tensor, ...] | None = None, boundary: str | Moving | None = None,
                **attribute_kwargs: Any) -> Certificate:
        """Bound the attribution over every allowed perturbation of these inputs.

        Args:
            inputs: as for `lirpa_explain.certify`, and so all others.
            perturbation: an auto_LiRPA perturbation, or a tuple of them.
            eps: radius of the ball.
            norm: its norm.
            clip: the range of the data.
            method: how to bound, if not as the certifier was made for.
            quadrature: Captum's `method` of IntegratedGradients.
            spec: linear functions of the attribution to bound as well.
            boundary: "fixed", "moving" or a `Moving`, for boundary attributions.
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
            balls = make_balls(inputs, perturbation, eps, norm, clip)
            functions = None if spec is None else check_spec(spec, xs)
        searched: list[Any] = []
        with isolated(xs[0].device), no_training_layers(), remembered(searched):
            nominal, delta = attribute(self.attribution, inputs, xs, keywords)
        flat = torch.cat([flat_rows(part) for part in nominal], 1)
        with isolated(xs[0].device), torch.set_grad_enabled(self.differentiable), remembered(searched):
            plan = check_boundary(boundary, attributions.make_plan(self.attribution, xs, keywords))
            box = self._box(plan, xs, balls, method, keywords, flat)

            def refine(C: Tensor) -> Box:
                """Bounds of linear functions C (N, K, D) of the attribution, each (N, K)."""
                with torch.inference_mode(False), torch.set_grad_enabled(self.differentiable):
                    return self._spec(plan, xs, balls, method, keywords, C, box, flat)

            spec_box = None if functions is None else refine(functions)

        def shaped(rows: Tensor) -> Tensor | tuple[Tensor, ...]:
            parts = tuple(part.reshape(x.shape) for part, x in
                          zip(rows.split([x[0].numel() for x in xs], 1), xs, strict=True))
            return parts if isinstance(inputs, tuple) else parts[0]

        return Certificate(
            lower=shaped(box[0]), upper=shaped(box[1]), nominal=shaped(flat),
            attribution=attributions.name_of(self.attribution), method=method, perturbation=_describe(balls, plan),
            dtype=str(flat.dtype).removeprefix("torch."), elapsed_s=time.perf_counter() - started,
            convergence_delta=delta, versions=_versions(),
            spec_lower=None if spec_box is None else spec_box[0], spec_upper=None if spec_box is None else spec_box[1],
            spec_nominal=None if functions is None else torch.einsum("nkd,nd->nk", functions, flat), refiner=refine,
        )

    def _box(self, plan: Plan, xs: tuple[Tensor, ...], balls: tuple[Ball | None, ...], method: str,
             keywords: dict[str, Any], nominal: Tensor) -> Box:
        """Checked bounds of the attribution, (N, D) each; a trace that the model has outgrown is made anew."""
        trace, is_new = self._trace(plan, xs, keywords)

        def run(balls: tuple[Ball | None, ...], method: str) -> Composed:
            rows = trace.engine.rows_at_once(self.batch_size, method)
            return compose(plan, trace.module, trace.engine, xs, balls, method, rows, self.progress)

        if plan.moving:
            moving = self._moving(plan, xs, balls, method, keywords)
            fixed = run(tuple(None for _ in balls), method)
            composed = dataclasses.replace(fixed, lower=moving[0], upper=moving[1])
        else:
            composed = run(balls, method)
        try:
            check_value(composed, nominal, lambda radius: run(around(xs, radius), "IBP"))
        except SoundnessError:
            if is_new:
                raise
            self._traces.clear()
            return self._box(plan, xs, balls, method, keywords, nominal)
        return enclose((composed.lower, composed.upper), nominal)

    def _moving(self, plan: Plan, xs: tuple[Tensor, ...], balls: tuple[Ball | None, ...], method: str,
                keywords: dict[str, Any]) -> Box:
        """Bounds for every x' at the nearest boundary point of x'."""
        plain = dataclasses.replace(plan, scales=None, baselines=None, noisy=False, multiply=False, absolute=False)
        trace, _ = self._trace(plain, xs, keywords)
        rows = trace.engine.rows_at_once(self.batch_size, method)
        return compose_moving(plan, trace.module, trace.engine, xs, balls, method, rows, self.progress)

    def _spec(self, plan: Plan, xs: tuple[Tensor, ...], balls: tuple[Ball | None, ...], method: str,
              keywords: dict[str, Any], functions: Tensor, box: Box, nominal: Tensor) -> Box:
        """Bounds of linear functions of the attribution: of the box, and by propagation where the plan is linear."""
        lower, upper = linear_range(functions, box)
        if plan.is_row_linear and method != "IBP" and not plan.moving:
            trace, _ = self._trace(plan, xs, keywords, explained=True)
            rows = trace.engine.rows_at_once(self.batch_size, method)
            propagated = compose_functions(plan, trace.module, trace.engine, xs, balls, method, rows, functions,
                                           self.progress)
            lower, upper = torch.maximum(lower, propagated[0]), torch.minimum(upper, propagated[1])
        return enclose((lower, upper), torch.einsum("nkd,nd->nk", functions, nominal))

    def _trace(self, plan: Plan, xs: tuple[Tensor, ...], keywords: dict[str, Any], explained: bool = False
               ) -> tuple[_Trace, bool]:
        """The trace for inputs of these shapes and these constants, and whether it was made just now."""
        extras = attributions.plan.common_fields(xs, keywords)["extras"]
        multiply, outer = (plan.multiply, plan.outer) if explained else (False, None)
        key = (plan.is_plain, multiply, outer, *((x.shape[1:], x.dtype, x.device) for x in xs),
               *(_described(e, len(xs[0])) for e in extras))
        state = _state(self.attribution.forward_func)
        trace = self._traces.pop(key, None)
        is_new = trace is None or trace.state != state
        if trace is None or is_new:
            module = capture(self.attribution.forward_func, xs, extras, path=not plan.is_plain, multiply=multiply,
                             outer=outer)
            trace = _Trace(module, Engine(module, _example(module, xs, plan), self.options, self.memory_limit), state)
        self._traces[key] = trace
        while len(self._traces) > TRACES:
            self._traces.popitem(last=False)
        return trace, is_new


def _described(extra: Any, count: int) -> Any:
    """What a trace holds of a further argument: the shape of one with rows, the value of any other."""
    if not isinstance(extra, Tensor):
        return extra if isinstance(extra, int | float | str | bool | None) else id(extra)
    if extra.ndim and len(extra) == count:
        return "rows", extra.shape[1:], extra.dtype
    return tuple(extra.shape), extra.dtype, extra.detach().cpu().numpy().tobytes()


def _state(forward: Any) -> tuple[Any, ...]:
    """What a trace of a model depends on beside its parameters' values: its modules, their mode, and buffers."""
    model = forward if isinstance(forward, nn.Module) else getattr(forward, "__self__", None)
    if not isinstance(model, nn.Module):
        return ()
    return (*((id(m), m.training) for m in model.modules()), *(id(p) for p in model.parameters()),
            *((id(b), b._version) for b in model.buffers()))


def _example(module: GradientModule, xs: tuple[Tensor, ...], plan: Plan) -> tuple[Tensor, ...]:
    """One example of each of a module's inputs."""
    count = len(xs[0])
    extras = [e[:count] for e in plan.extras if isinstance(e, Tensor) and e.ndim and len(e) == len(plan.points[0])]
    arguments = iter((*extras, xs[0].new_ones(count, *module.cotangent_shape)))

    def value(name: str) -> Tensor:
        kind, number = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
        if kind in ("argument", "cotangent"):
            return next(arguments)
        x = xs[int(number)]
        return x.new_ones(count, *[1] * (x.ndim - 1)) if kind == "scale" else x

    return tuple(map(value, module.input_names))


def _describe(balls: tuple[Ball | None, ...], plan: Plan) -> str:
    words = ["held fixed" if ball is None else ball.words for ball in balls]
    text = words[0] if len(set(words)) == 1 else "; ".join(f"input {i}: {word}" for i, word in enumerate(words))
    if plan.nearest is None:
        return text
    return f"{text}; boundary point " + ("of each x' itself" if plan.moving else "fixed")


def _versions() -> dict[str, str]:
    from . import AUTO_LIRPA_VERSION, __version__

    return {"lirpa_explain": __version__, "auto_LiRPA": AUTO_LIRPA_VERSION, "captum": metadata.version("captum"),
            "torch": torch.__version__}
