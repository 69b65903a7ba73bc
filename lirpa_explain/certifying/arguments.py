"""What the caller gave to certify, checked."""

from typing import Any

import torch
from captum._utils.gradient import compute_gradients
from captum.attr._utils.approximation_methods import SUPPORTED_METHODS
from torch import Tensor

from .. import attributions
from ..bounding.parameters import Parameters
from ..errors import UnsupportedAttribution
from ..graph import GradientModule
from ..tensors import check_kind


def split_method(method: Any, quadrature: str | None,
                 kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """`method` names bounds here and a quadrature in Captum; the names do not overlap."""
    if isinstance(method, str) and method in SUPPORTED_METHODS:
        if quadrature is not None:
            raise ValueError(f"Two quadratures were given: method={method!r} and "
                             f"quadrature={quadrature!r}.")
        method, quadrature = "CROWN", method
    return method, kwargs if quadrature is None else {**kwargs, "method": quadrature}


def check_seam(attribution: Any) -> None:
    """A replaced `gradient_func` would make the attribution a sum of something else."""
    inner = getattr(attribution, "attribution_method", attribution)
    attributions.lookup(inner)
    if getattr(inner, "gradient_func", compute_gradients) is not compute_gradients:
        raise UnsupportedAttribution(f"{attributions.name_of(attribution)} has a gradient_func of "
                                     "its own; only Captum's compute_gradients can be certified.")


def check_parameters(parameters: Parameters | None, plan: attributions.Plan) -> None:
    """Refuse parameters that move where something is read from the model outside of what is
    bounded.
    """
    if parameters is not None and plan.nearest is not None:
        raise UnsupportedAttribution("A boundary attribution cannot be certified under changes of "
                                     "the parameters: the boundary points move with them, and are "
                                     "searched for with those given.")


def check_spec(spec: Any, xs: tuple[Tensor, ...]) -> Tensor:
    """Linear functions of an attribution as one tensor (N, K, D).

    Args:
        spec: one tensor for each part of the attribution, in a tuple if there are several: (K, *S),
            or (N, K, *S) for functions that differ from example to example.
        xs: the attribution's parts, each (N, *S).
    """
    parts = spec if isinstance(spec, tuple) else (spec,)
    if len(parts) != len(xs) or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError("spec must be a tensor, or a tuple with one tensor for each of the "
                        f"{len(xs)} parts of the attribution; given: {type(spec).__name__}.")
    flat = []
    for part, x in zip(parts, xs, strict=True):
        check_kind(part, "spec")
        C = part.detach().to(x)
        if C.ndim == x.ndim:
            C = C[None].expand(len(x), *C.shape)
        if (C.ndim != x.ndim + 1 or len(C) != len(x) or C.shape[2:] != x.shape[1:]
                or C.shape[1] == 0):
            raise ValueError(f"spec must have the shape (K, {', '.join(map(str, x.shape[1:]))}), "
                             f"or that with N = {len(x)} before it, K >= 1; given: "
                             f"{tuple(part.shape)}.")
        if not bool(torch.isfinite(C).all()):
            raise ValueError("spec contains NaN or infinite values.")
        flat.append(C.flatten(2))
    if len({C.shape[1] for C in flat}) > 1:
        raise ValueError("spec must have equally many functions for each part.")
    return torch.cat(flat, 2)


def check_rounded(module: GradientModule) -> None:
    """Refuse a module whose roundings have no bound."""
    if any(step.operator in ("secant_gradient", "reference_gradient") for step in module.steps):
        raise ValueError("rounding='outward' does not bound DeepLift: where an activation hardly "
                         "differs from its reference, the quotient of both differences is all "
                         "rounding. Leave rounding out.")
    parameter = next(module.parameters(), None)
    if parameter is not None and parameter.is_cuda and parameter.dtype == torch.float32 and (
            torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32):
        raise ValueError("rounding='outward' needs products in full precision: set "
                         "torch.backends.cudnn.allow_tf32 and "
                         "torch.backends.cuda.matmul.allow_tf32 to False, or certify in float64.")
