"""What the caller gave to certify, checked."""

import dataclasses
from typing import Any

import torch
from captum._utils.gradient import compute_gradients
from captum.attr._utils.approximation_methods import SUPPORTED_METHODS
from torch import Tensor

from . import attributions
from .boundary.moving import Moving
from .bounding.engine import METHODS
from .bounding.parameters import Parameters
from .errors import UnsupportedAttribution
from .tensors import check_kind


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


def check_settings(batch_size: Any, memory_limit: Any, iterations: Any, lr: Any, differentiable: Any = False) -> None:
    """Refuse what is no number of its kind."""
    if not isinstance(differentiable, bool):
        raise TypeError(f"differentiable must be True or False; given: {differentiable!r}.")
    for name, value, least in (("batch_size", batch_size, 1), ("memory_limit", memory_limit, 2**20),
                               ("iterations", iterations, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name} must be an integer of at least {least}{', or None' * (least > 0)}; given: "
                             f"{value!r}.")
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr <= 1:
        raise ValueError(f"lr must be a number above 0 and at most 1; given: {lr!r}.")


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
        check_kind(part, "spec")
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
