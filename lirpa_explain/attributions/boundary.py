"""Boundary attributions: the gradient at, and the path from, the nearest point where the decision
changes.

They are attributions in Captum's manner, which search for the boundary point in each call.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from captum.attr import GradientAttribution, IntegratedGradients, Saliency
from captum.log import log_usage
from torch import Tensor

from ..decision.search import (
    BoundaryPoints,
    BoundarySearch,
    as_tuple,
    is_certifying,
    search,
    shaped_like,
)
from .path import integrated_gradients
from .plan import Plan, common_fields, register


class _BoundaryAttribution(GradientAttribution):
    """What both share: the search, the target it implies, and what happens where nothing was
    found.
    """

    def __init__(self, forward_func: Callable[..., Tensor],
                 search: BoundarySearch | None = None) -> None:
        super().__init__(forward_func)
        if search is not None and not isinstance(search, BoundarySearch):
            raise TypeError(f"search must be a BoundarySearch; given: {type(search).__name__}.")
        self.search = search or BoundarySearch()

    def boundary_points(self, inputs: Tensor | tuple[Tensor, ...],
                        additional_forward_args: Any = None) -> BoundaryPoints:
        """The points that `attribute` uses; `lirpa_explain.find_boundary` bounds their distance
        from below as well.

        Args:
            inputs: as for `attribute`.
            additional_forward_args: likewise.

        Returns:
            `BoundaryPoints`, without certified distances.

        Raises:
            TypeError: the inputs are not tensors of floating-point numbers.
        """
        if not all(isinstance(x, Tensor) and x.is_floating_point() for x in as_tuple(inputs)):
            raise TypeError(
                "inputs must be a tensor of floating-point numbers, or a tuple of them; given: "
                f"{inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__}.")
        xs = tuple(x.detach() for x in as_tuple(inputs))
        return shaped_like(search(self.forward_func, xs, as_tuple(additional_forward_args),
                                  self.search), inputs)

    def found(self, inputs: Tensor | tuple[Tensor, ...], target: Any, additional_forward_args: Any,
              not_found: str = "raise") -> tuple[BoundaryPoints, Any]:
        """The points, and the target: the caller's, or the predicted class if there is more than
        one output.

        Raises:
            BoundaryNotFound: examples have no point, and `not_found` is "raise" or a certificate is
                being made.
            ValueError: `not_found` is another word.
        """
        if not_found not in ("raise", "nan"):
            raise ValueError(f"not_found must be 'raise' or 'nan'; given: {not_found!r}.")
        points = self.boundary_points(inputs, additional_forward_args)
        if not_found == "raise" or is_certifying():
            points.require()
        return points, points.classes if target is None and not points.by_sign else target

    def _like_inputs(self, inputs: Any, parts: tuple[Tensor, ...],
                     found: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Attributions, NaN where no point was found."""
        parts = tuple(torch.where(found.reshape(-1, *[1] * (p.ndim - 1)), p, torch.nan)
                      for p in parts)
        return parts if isinstance(inputs, tuple) else parts[0]


class BoundarySaliency(_BoundaryAttribution):
    """The gradient at the nearest point b where the decision changes: A(x) = grad f_t(b(x)).

    t is the class predicted at x unless a target is given. b(x) is the closest point found by
    `search`.

    Args:
        forward_func: the model, with outputs (N, classes), or (N, 1) or (N,) whose sign is the
            decision.
        search: how to search for the boundary; default `BoundarySearch()`.

    Raises:
        TypeError: `search` is something else.

    Source:
        Wang, Fredrikson, Datta: Robust Models Are More Interpretable Because Attributions Look
            Normal, ICML 2022.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> model = lambda x: torch.stack([x[:, 0] ** 2, x[:, 1]], 1)
        >>> lx.BoundarySaliency(model).attribute(torch.tensor([[2.0, 1.0]])).round(decimals=2)
        tensor([[2.3300, 0.0000]])
    """

    @log_usage()
    def attribute(self, inputs: Any, target: Any = None, abs: bool = False,
                  additional_forward_args: Any = None, not_found: str = "raise") -> Any:
        """Attribute to the inputs.

        Args:
            inputs: a tensor (N, *S) or a tuple of them.
            target: as for Captum's `Saliency`; None for the predicted class of each example.
            abs: whether to return absolute values; Captum's `Saliency` has True, the paper False.
            additional_forward_args: as for Captum.
            not_found: "raise", or "nan" to return NaN for examples without a boundary point.

        Returns:
            Attributions, shaped like the inputs.

        Raises:
            BoundaryNotFound: no boundary point was found for some examples, and `not_found` is
                "raise".
        """
        points, target = self.found(inputs, target, additional_forward_args, not_found)
        at = tuple(torch.where(points.found.reshape(-1, *[1] * (x.ndim - 1)), b,
                               x.detach()).requires_grad_()
                   for b, x in zip(as_tuple(points.points), as_tuple(inputs), strict=True))
        plain = Saliency(self.forward_func)
        plain.gradient_func = self.gradient_func
        result = plain.attribute(at, target=target, abs=abs,
                                 additional_forward_args=additional_forward_args)
        return self._like_inputs(inputs, result, points.found)


class BoundaryIntegratedGradients(_BoundaryAttribution):
    """Integrated gradients along the path from the nearest point b where the decision changes.

    A(x) = (x - b(x)) * sum_k w_k grad f_t(b(x) + s_k (x - b(x))), t the class predicted at x unless
    a target is given.

    Args:
        forward_func: the model, with outputs (N, classes), or (N, 1) or (N,) whose sign is the
            decision.
        multiply_by_inputs: as for Captum's `IntegratedGradients`: whether to multiply by x - b.
        search: how to search for the boundary; default `BoundarySearch()`.

    Raises:
        TypeError: `search` is something else.

    Source:
        Wang, Fredrikson, Datta: Robust Models Are More Interpretable Because Attributions Look
            Normal, ICML 2022.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> model = lambda x: torch.stack([2 * x[:, 0], x[:, 1]], 1)
        >>> lx.BoundaryIntegratedGradients(model).attribute(torch.tensor([[1.0, 0.5]])).round(
        ...     decimals=2)
        tensor([[1.2000, -0.0000]])
    """

    def __init__(self, forward_func: Callable[..., Tensor], multiply_by_inputs: bool = True,
                 search: BoundarySearch | None = None) -> None:
        super().__init__(forward_func, search)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the sum of gradients is multiplied by x - b."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """It does, as Captum's `IntegratedGradients`."""
        return True

    @log_usage()
    def attribute(self, inputs: Any, target: Any = None, additional_forward_args: Any = None,
                  n_steps: int = 50,
                  method: str = "gausslegendre", internal_batch_size: int | None = None,
                  return_convergence_delta: bool = False, not_found: str = "raise") -> Any:
        """Attribute to the inputs.

        Args:
            inputs: a tensor (N, *S) or a tuple of them.
            target: as for Captum's `IntegratedGradients`; None for the predicted class of each
                example.
            additional_forward_args: likewise.
            n_steps: likewise.
            method: likewise. The default is Captum's; the paper's code has "riemann_trapezoid",
                whose weights in Captum sum to (n_steps - 1) / n_steps.
            internal_batch_size: likewise.
            return_convergence_delta: likewise.
            not_found: "raise", or "nan" to return NaN for examples without a boundary point.

        Returns:
            Attributions, shaped like the inputs; with them (N,) convergence deltas if asked for.

        Raises:
            BoundaryNotFound: no boundary point was found for some examples, and `not_found` is
                "raise".
        """
        points, target = self.found(inputs, target, additional_forward_args, not_found)
        baselines = tuple(torch.where(points.found.reshape(-1, *[1] * (x.ndim - 1)), b, x.detach())
                          for b, x in zip(as_tuple(points.points), as_tuple(inputs), strict=True))
        plain = IntegratedGradients(self.forward_func, self.multiplies_by_inputs)
        plain.gradient_func = self.gradient_func
        result = plain.attribute(as_tuple(inputs), baselines=baselines, target=target,
                                 n_steps=n_steps, method=method,
                                 additional_forward_args=additional_forward_args,
                                 internal_batch_size=internal_batch_size,
                                 return_convergence_delta=return_convergence_delta)
        if not return_convergence_delta:
            return self._like_inputs(inputs, result, points.found)
        parts, delta = result
        return (self._like_inputs(inputs, parts, points.found),
                torch.where(points.found, delta, torch.nan))


@dataclasses.dataclass(frozen=True)
class Nearest:
    """Whose decision a plan's baselines are boundary points of, and how they were searched for."""

    function: Callable[..., Tensor]
    options: BoundarySearch


@register(BoundarySaliency, "grad f(b), b the nearest point found where the decision changes")
def boundary_saliency(attribution: BoundarySaliency, inputs: tuple[Tensor, ...],
                      keywords: dict[str, Any]) -> Plan:
    """Plan of BoundarySaliency: a path whose only point is its start."""
    points, target = attribution.found(inputs, keywords.get("target"),
                                       keywords.get("additional_forward_args"))
    nearest = Nearest(attribution.forward_func, attribution.search)
    return Plan(**common_fields(inputs, {**keywords, "target": target}),
                baselines=as_tuple(points.points),
                scales=torch.zeros(1, dtype=torch.float64), weights=torch.ones(1),
                absolute=bool(keywords.get("abs", False)), nearest=nearest)


@register(BoundaryIntegratedGradients, "(x - b) * sum_k w_k grad f(b + s_k (x - b)), b the nearest "
          "point found where the decision changes")
def boundary_integrated_gradients(attribution: BoundaryIntegratedGradients,
                                  inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> Plan:
    """Plan of BoundaryIntegratedGradients: that of IntegratedGradients with the boundary points as
    baselines.
    """
    points, target = attribution.found(inputs, keywords.get("target"),
                                       keywords.get("additional_forward_args"))
    plan = integrated_gradients(attribution, inputs,
                                {**keywords, "target": target, "baselines": points.points})
    return dataclasses.replace(plan, nearest=Nearest(attribution.forward_func, attribution.search))
