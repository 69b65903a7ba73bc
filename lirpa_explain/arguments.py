"""What the caller gave to certify, checked."""

import dataclasses
from typing import Any

import torch
from captum._utils.gradient import compute_gradients
from captum.attr._utils.approximation_methods import SUPPORTED_METHODS
from torch import Tensor

from . import attributions
from .boundary.moving import Moving
from .bounding.ball import plain
from .bounding.engine import METHODS
from .bounding.parameters import Parameters
from .errors import UnsupportedAttribution
from .graph import GradientModule
from .rounding import GUARANTEES

DTYPES = (torch.float64, torch.float32)


def split_method(method: Any, quadrature: str | None, kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """`method` names bounds here and a quadrature in Captum; the names do not overlap."""
    if isinstance(method, str) and method in SUPPORTED_METHODS:
        if quadrature is not None:
            raise ValueError(f"Two quadratures were given: method={method!r} and quadrature={quadrature!r}.")
        method, quadrature = "CROWN", method
    return method, kwargs if quadrature is None else {**kwargs, "method": quadrature}


def check_method(method: Any) -> None:
    """Refuse what is no method."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; given: {method!r}. (Quadratures of "
                         f"IntegratedGradients are {', '.join(SUPPORTED_METHODS)}.)")


def check_settings(batch_size: Any, memory_limit: Any, iterations: Any, lr: Any) -> None:
    """Refuse what is no number of its kind."""
    for name, value, least in (("batch_size", batch_size, 1), ("memory_limit", memory_limit, 2**20),
                               ("iterations", iterations, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name} must be an integer of at least {least}{', or None' * (least > 0)}; given: "
                             f"{value!r}.")
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr <= 1:
        raise ValueError(f"lr must be a number above 0 and at most 1; given: {lr!r}.")


def check_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """The inputs as a tuple of plain tensors (N, *S) of one floating-point type, all finite."""
    xs = inputs if isinstance(inputs, tuple) else (inputs,)
    if not xs or not all(isinstance(x, Tensor) for x in xs):
        raise TypeError(f"inputs must be a tensor or a tuple of tensors; given: {type(inputs).__name__}.")
    for x in xs:
        if x.dtype not in DTYPES:
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


def check_seam(attribution: Any) -> None:
    """A replaced `gradient_func` would make the attribution a sum of something else."""
    inner = getattr(attribution, "attribution_method", attribution)
    attributions.lookup(inner)
    if getattr(inner, "gradient_func", compute_gradients) is not compute_gradients:
        raise UnsupportedAttribution(
            f"{attributions.name_of(attribution)} has a gradient_func of its own; only Captum's compute_gradients can "
            "be certified."
        )


def check_boundary(boundary: Any, plan: attributions.Plan) -> attributions.Plan:
    """The plan of the sense in which a boundary attribution is certified."""
    if not (boundary is None or isinstance(boundary, Moving) or boundary in ("fixed", "moving")):
        raise ValueError(f"boundary must be 'fixed', 'moving' or a Moving; given: {boundary!r}.")
    if boundary is not None and plan.nearest is None:
        raise ValueError("boundary goes with BoundarySaliency and BoundaryIntegratedGradients; this attribution has no "
                         "boundary point.")
    return dataclasses.replace(plan, moving=Moving() if boundary == "moving" else
                               boundary if isinstance(boundary, Moving) else None)


def check_sense(integral: Any, expectation: Any, differentiable: bool, parameters: Any) -> None:
    """Refuse senses of a certificate that do not go together."""
    if expectation is None:
        return
    if integral is not None or differentiable:
        raise ValueError("expectation goes neither with integral nor with differentiable=True: its bounds are "
                         "statistics of drawn samples of what Captum computes.")
    if parameters is not None:
        raise ValueError("expectation does not go with parameters: what smoothing says of other inputs, it does not "
                         "say of other parameters. Certify the mean of the samples that are drawn.")


def check_parameters(parameters: Parameters | None, plan: attributions.Plan) -> None:
    """Refuse parameters that move where something is read from the model outside of what is bounded."""
    if parameters is not None and plan.nearest is not None:
        raise UnsupportedAttribution("A boundary attribution cannot be certified under changes of the parameters: the "
                                     "boundary points move with them, and are searched for with those given.")


def check_spec(spec: Any, xs: tuple[Tensor, ...]) -> Tensor:
    """Linear functions of an attribution as one tensor (N, K, D).

    Args:
        spec: one tensor for each part of the attribution, in a tuple if there are several: (K, *S), or (N, K, *S) for
            functions that differ from example to example.
        xs: the attribution's parts, each (N, *S).
    """
    parts = spec if isinstance(spec, tuple) else (spec,)
    if len(parts) != len(xs) or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"spec must be a tensor, or a tuple with one tensor for each of the {len(xs)} parts of the "
                        f"attribution; given: {type(spec).__name__}.")
    flat = []
    for part, x in zip(parts, xs, strict=True):
        C = part.detach().to(x)
        if C.ndim == x.ndim:
            C = C[None].expand(len(x), *C.shape)
        if C.ndim != x.ndim + 1 or len(C) != len(x) or C.shape[2:] != x.shape[1:] or C.shape[1] == 0:
            raise ValueError(f"spec must have the shape (K, {', '.join(map(str, x.shape[1:]))}), or that with N = "
                             f"{len(x)} before it, K >= 1; given: {tuple(part.shape)}.")
        if not bool(torch.isfinite(C).all()):
            raise ValueError("spec contains NaN or infinite values.")
        flat.append(C.flatten(2))
    if len({C.shape[1] for C in flat}) > 1:
        raise ValueError("spec must have equally many functions for each part.")
    return torch.cat(flat, 2)


def check_rounding(rounding: Any, integral: Any = None, expectation: Any = None, parameters: Any = None,
                   boundary: Any = None) -> None:
    """Refuse what is no way of rounding, and senses of a certificate that are not bounded outward."""
    if not isinstance(rounding, str) or rounding not in GUARANTEES:
        raise ValueError(f"rounding must be one of {', '.join(GUARANTEES)}; given: {rounding!r}.")
    given = {"integral": integral, "expectation": expectation, "parameters": parameters,
             "boundary='moving'": None if boundary in (None, "fixed") else boundary}
    chosen = [name for name, value in given.items() if value is not None]
    if rounding == "outward" and chosen:
        raise ValueError(f"rounding='outward' does not go with {' and '.join(chosen)}: it bounds what Captum computes "
                         "in floating point, with the parameters as they are. Leave one of them out.")


def check_rounded(module: GradientModule) -> None:
    """Refuse a module whose roundings have no bound."""
    if any(step.operator == "secant_gradient" for step in module.steps):
        raise ValueError("rounding='outward' does not bound DeepLift: where an activation hardly differs from its "
                         "reference, the quotient of both differences is all rounding. Leave rounding out.")
    parameter = next(module.parameters(), None)
    if parameter is not None and parameter.is_cuda and parameter.dtype == torch.float32 and (
            torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32):
        raise ValueError("rounding='outward' needs products in full precision: set torch.backends.cudnn.allow_tf32 and "
                         "torch.backends.cuda.matmul.allow_tf32 to False, or certify in float64.")
