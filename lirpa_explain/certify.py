"""certify(): from a Captum object and an input to bounds that hold for every allowed perturbation."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
import torch
from auto_LiRPA.perturbations import Perturbation
from captum._utils.gradient import compute_gradients
from captum.attr._utils.approximation_methods import SUPPORTED_METHODS
from torch import Tensor, nn

from . import attributions
from .bounding.ball import Ball, make_balls, plain
from .bounding.compose import Composed, compose
from .bounding.engine import METHODS, Engine
from .certificates import Certificate
from .errors import SoundnessError, TrainingModeError, UnsupportedAttribution
from .graph import GradientModule, capture
from .operators.bound import flat_rows

ROWS = 64
"""Rows (examples x path points) bounded at once unless the caller says otherwise."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference between Captum's value and the gradient module's, relative to the sum of all terms' sizes."""

RANDOM_IN_TRAINING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm, nn.RReLU)


def certify(attribution: Any, inputs: Tensor | tuple[Tensor, ...], *,
            perturbation: Perturbation | tuple[Perturbation | None, ...] | None = None,
            eps: float | Tensor | tuple[Any, ...] | None = None, norm: float = math.inf,
            clip: tuple[Any, Any] | None = None, method: str = "CROWN", batch_size: int | None = None,
            progress: bool = False, quadrature: str | None = None, differentiable: bool = False,
            **attribute_kwargs: Any) -> Certificate:
    """Bound a Captum attribution over every allowed perturbation of its input.

    lower <= attribution.attribute(x', **attribute_kwargs) <= upper for every x' in the ball around `inputs`.
    The target, baselines, further arguments and drawn noise are part of the attribution and stay as they are.

    Args:
        attribution: an object of one of the classes in `lirpa_explain.ATTRIBUTIONS`.
        inputs: as for Captum: a tensor (N, *S) or a tuple of them; or auto_LiRPA `BoundedTensor`s, whose own
            perturbation is used.
        perturbation: an auto_LiRPA `PerturbationLpNorm`, or a tuple of them with None for inputs held fixed.
        eps: the short form: radius of the ball, in units of the input; a number, a tensor that broadcasts to the
            input (for norm 2 and 1: one number an example), or a tuple with one for each input.
        norm: with `eps`: math.inf, 2 or 1.
        clip: with `eps` and norm inf: (low, high), the range of the data, to which the ball is cut.
        method: how to bound: "IBP" (fastest, loosest), "CROWN-IBP" or "CROWN" (slowest, tightest). A quadrature of
            IntegratedGradients, which Captum also calls `method`, is passed on to Captum.
        batch_size: most rows (examples x path points) bounded at once; memory grows with it.
        progress: show a progress bar.
        quadrature: Captum's `method` of IntegratedGradients, for use beside `method`.
        differentiable: keep the bounds differentiable in the model's parameters.
        **attribute_kwargs: every keyword of `attribution.attribute`, unchanged.

    Returns:
        A `Certificate`; its `nominal` is what `attribution.attribute` returns.

    Raises:
        ValueError: a bad number or shape, or arguments that Captum rejects, with Captum's reason.
        TypeError: an argument of a wrong type.
        UnsupportedAttribution: the attribution is not one that can be certified.
        UnsupportedOperation: the model contains an operation that has no bound operator.
        TrainingModeError: a layer is in training mode whose output is then random or depends on the batch.
        SoundnessError: the bounds contradict the attribution; never expected.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> from captum.attr import IntegratedGradients
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> certificate = lx.certify(IntegratedGradients(model), torch.rand(3, 2), eps=0.01, target=0, n_steps=8)
        >>> bool(certificate.contains(certificate.nominal).all())
        True
    """
    started = time.perf_counter()
    attributions.lookup(attribution)
    method, attribute_kwargs = _split_method(method, quadrature, attribute_kwargs)
    batch_size = _check_options(method, batch_size)
    xs = _check_inputs(inputs)
    _check_seam(attribution)
    with torch.inference_mode(False):
        balls = make_balls(inputs, perturbation, eps, norm, clip)
    with _isolated(xs[0].device), _no_training_layers():
        nominal, delta = _attribute(attribution, inputs, xs, attribute_kwargs)
    with _isolated(xs[0].device), torch.set_grad_enabled(differentiable):
        plan = attributions.make_plan(attribution, xs, attribute_kwargs)
        extras = attributions.plan.common_fields(xs, attribute_kwargs)["extras"]
        module = capture(attribution.forward_func, xs, extras, path=not plan.is_plain)
        run = functools.partial(compose, plan, module, _engine(module, xs, plan), xs, batch_size=batch_size)
        composed = run(balls, method, progress=progress)
        flat = torch.cat([flat_rows(part) for part in nominal], 1)
        _check_value(composed, flat, lambda radius: run(_around(xs, radius), "IBP"))
        lower, upper = _enclose(composed, flat)

    def shaped(flat: Tensor) -> Tensor | tuple[Tensor, ...]:
        parts = module.split(flat)
        return parts if isinstance(inputs, tuple) else parts[0]

    return Certificate(
        lower=shaped(lower), upper=shaped(upper), nominal=shaped(flat), attribution=attributions.name_of(attribution),
        method=method, perturbation=_describe(balls), dtype=str(flat.dtype).removeprefix("torch."),
        elapsed_s=time.perf_counter() - started, convergence_delta=delta, versions=_versions(),
    )


# What the caller gave


def _split_method(method: Any, quadrature: str | None, kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """`method` names bounds here and a quadrature in Captum; the names do not overlap."""
    if isinstance(method, str) and method in SUPPORTED_METHODS:
        if quadrature is not None:
            raise ValueError(f"Two quadratures were given: method={method!r} and quadrature={quadrature!r}.")
        method, quadrature = "CROWN", method
    return method, kwargs if quadrature is None else {**kwargs, "method": quadrature}


def _check_options(method: Any, batch_size: Any) -> int:
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; given: {method!r}. (Quadratures of "
                         f"IntegratedGradients are {', '.join(SUPPORTED_METHODS)}.)")
    if batch_size is None:
        return ROWS
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, or None; given: {batch_size!r}.")
    return batch_size


def _check_inputs(inputs: Any) -> tuple[Tensor, ...]:
    xs = inputs if isinstance(inputs, tuple) else (inputs,)
    if not xs or not all(isinstance(x, Tensor) for x in xs):
        raise TypeError(f"inputs must be a tensor or a tuple of tensors; given: {type(inputs).__name__}.")
    for x in xs:
        if x.dtype not in TOLERANCE:
            raise TypeError(f"inputs must be float32 or float64; given: {x.dtype}. Convert with .float().")
        if x.ndim == 0 or x.numel() == 0 or len(x) != len(xs[0]):
            raise ValueError("inputs must have at least one example and one feature, the examples in dimension 0 of "
                             f"every input; given shapes: {', '.join(str(tuple(x.shape)) for x in xs)}.")
        if not bool(torch.isfinite(x).all()):
            raise ValueError("inputs contain NaN or infinite values; no ball around them can be certified.")
    if len({x.dtype for x in xs}) > 1 or len({x.device for x in xs}) > 1:
        raise TypeError("all inputs must have one dtype and be on one device.")
    with torch.inference_mode(False):
        return tuple(plain(x).clone() if x.is_inference() else plain(x) for x in xs)


def _check_seam(attribution: Any) -> None:
    """A replaced `gradient_func` would make the attribution a sum of something else."""
    inner = getattr(attribution, "attribution_method", attribution)
    attributions.lookup(inner)
    if getattr(inner, "gradient_func", compute_gradients) is not compute_gradients:
        raise UnsupportedAttribution(
            f"{attributions.name_of(attribution)} has a gradient_func of its own; only Captum's compute_gradients can "
            "be certified."
        )


# Captum


@contextlib.contextmanager
def _isolated(device: torch.device) -> Iterator[None]:
    """Leave torch's and numpy's random generators as they were, and inference mode, which forbids gradients."""
    state = np.random.get_state()
    with torch.inference_mode(False), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(state)


@contextlib.contextmanager
def _no_training_layers() -> Iterator[None]:
    """Refuse layers that are random or depend on the batch in training mode, before they run and change anything."""

    def check(module: nn.Module, _: Any) -> None:
        if module.training and isinstance(module, RANDOM_IN_TRAINING) and getattr(module, "p", 1) > 0:
            raise TrainingModeError(
                f"The model is in training mode, in which its layer {module} is random or depends on the other "
                "examples: call model.eval() first."
            )

    handle = nn.modules.module.register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _attribute(attribution: Any, inputs: Any, xs: tuple[Tensor, ...], kwargs: dict[str, Any]
               ) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Captum's own attributions, and its convergence delta if the caller asked for it."""
    given = tuple(x.detach().requires_grad_() for x in xs)
    try:
        result = attribution.attribute(given if isinstance(inputs, tuple) else given[0], **kwargs)
    except (torch.OutOfMemoryError, TrainingModeError):
        raise
    except TypeError as error:
        raise TypeError(f"Captum's {type(attribution).__name__}.attribute rejects these arguments: {error}") from error
    except (AssertionError, ArithmeticError, AttributeError, LookupError, RuntimeError, ValueError) as error:
        raise ValueError(f"Captum's {type(attribution).__name__}.attribute rejects these arguments: {error}") from error
    delta = None
    if kwargs.get("return_convergence_delta"):
        result, delta = result[0], result[1].detach()
    parts = tuple(part.detach() for part in (result if isinstance(result, tuple) else (result,)))
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise ValueError(f"Captum's {type(attribution).__name__} is NaN or infinite at this input; look at the model's "
                         "weights, the baselines and the further arguments.")
    return parts, delta


def _engine(module: GradientModule, xs: tuple[Tensor, ...], plan: attributions.Plan) -> Engine:
    scales = () if plan.is_plain else tuple(x.new_ones(len(x), *[1] * (x.ndim - 1)) for x in xs)
    shifts = () if plan.is_plain else xs
    count = len(xs[0])
    extras = [e[:count] for e in plan.extras if isinstance(e, Tensor) and e.ndim and len(e) == len(plan.points[0])]
    return Engine(module, (*xs, *scales, *shifts, *extras, xs[0].new_ones(count, *module.cotangent_shape)))


# The check of the certificate against the attribution


def _check_value(composed: Composed, nominal: Tensor, around: Callable[[float], Composed]) -> None:
    """Captum's value must be the gradient module's, and lie within the bounds.

    Two things look like contradictions and are none, and are looked into before one is reported. At a kink one
    rounding can switch a derivative: a difference of the values must be one that moving the input by roundings
    explains. And where no neuron is active all terms vanish, while coefficients round as if it were: the scale of
    roundings is then that of the attribution at other inputs.

    Args:
        composed: bounds and value by the gradient module.
        nominal: Captum's value, (N, D).
        around: interval bounds of the attribution on a ball of a given radius around the inputs.

    Raises:
        SoundnessError: the values contradict each other, or the bounds.
    """
    tolerance = TOLERANCE[nominal.dtype] * composed.magnitude.amax(1, keepdim=True)
    outside = torch.maximum(composed.lower - composed.value, composed.value - composed.upper)
    difference = (composed.value - nominal).abs()
    if bool((outside <= tolerance).all()) and bool((difference <= tolerance).all()):
        return
    far, precision = around(1.0), torch.finfo(nominal.dtype).eps
    scale = torch.maximum(far.lower.abs(), far.upper.abs()).nan_to_num(posinf=0).amax(1, keepdim=True)
    tolerance = torch.maximum(tolerance, 16 * precision * scale)
    if not bool((difference <= tolerance).all()):
        near = around(64 * precision)
        low, high = near.lower - tolerance, near.upper + tolerance
        explained = [(low <= value) & (value <= high) for value in (nominal, composed.value)]
        if not bool(torch.stack(explained).all()):
            worst = int(difference.sub(tolerance).flatten().argmax())
            raise SoundnessError(
                f"The traced gradient gives {composed.value.flatten()[worst]:.9g} where Captum gives "
                f"{nominal.flatten()[worst]:.9g} (entry {worst} of the flattened attribution). The model is not a "
                "fixed function of one example, or this is a defect: please report it."
            )
    if not bool((outside <= tolerance).all()):
        raise SoundnessError(
            f"The attribution lies outside its bounds by up to {float(outside.max()):.3g} (rounding explains "
            f"{float(tolerance.max()):.3g}). This is a defect: please report the model and the input."
        )


def _around(xs: tuple[Tensor, ...], radius: float) -> tuple[Ball | None, ...]:
    """Balls around the inputs, of a radius relative to their largest entry, or to 1 if that is smaller."""
    return make_balls(xs, eps=tuple(radius * x.detach().abs().max().clamp(min=1) for x in xs))


def _enclose(composed: Composed, nominal: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds that contain the nominal value exactly, and not only up to rounding; their derivatives are as before."""
    lower, upper = composed.lower, composed.upper
    return (torch.where(lower > nominal, nominal + (lower - lower.detach()), lower),
            torch.where(upper < nominal, nominal + (upper - upper.detach()), upper))


# For people


def _describe(balls: tuple[Ball | None, ...]) -> str:
    words = ["held fixed" if ball is None else ball.words for ball in balls]
    if len(words) == 1 or len(set(words)) == 1:
        return words[0]
    return "; ".join(f"input {i}: {word}" for i, word in enumerate(words))


def _versions() -> dict[str, str]:
    from . import AUTO_LIRPA_VERSION, __version__

    return {"lirpa_explain": __version__, "auto_LiRPA": AUTO_LIRPA_VERSION, "captum": metadata.version("captum"),
            "torch": torch.__version__}
