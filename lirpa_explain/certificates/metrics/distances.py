"""How far the attribution can move from its nominal value."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lirpa_explain.certificates.box import max_change
from lirpa_explain.certificates.metrics.registry import Metric, register
from lirpa_explain.certificates.metrics.sums import Sum


def l1(lower: Tensor, upper: Tensor, nominal: Tensor) -> Tensor:
    """Largest l1 distance from the nominal: an upper bound of |a - v|_1, exact, at least 0.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.

    Returns:
        (N,).

    Example:
        >>> v = torch.tensor([[1.0, 2.0]])
        >>> l1(v - 1, v + torch.tensor([[3.0, 0.0]]), v)
        tensor([4.])
    """
    return max_change(lower, upper, nominal, 1)


def l2(lower: Tensor, upper: Tensor, nominal: Tensor) -> Tensor:
    """Largest l2 distance from the nominal: an upper bound of |a - v|_2, exact, at least 0.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.

    Returns:
        (N,).

    Example:
        >>> v = torch.zeros(1, 2)
        >>> l2(v - 3, v + torch.tensor([[1.0, 4.0]]), v)
        tensor([5.])
    """
    return max_change(lower, upper, nominal, 2)


def linf(lower: Tensor, upper: Tensor, nominal: Tensor) -> Tensor:
    """Largest change of a single feature: max |a - v|_inf, an upper bound, exact, at least 0.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.

    Returns:
        (N,).

    Example:
        >>> v = torch.zeros(1, 2)
        >>> linf(v - 3, v + torch.tensor([[1.0, 4.0]]), v)
        tensor([4.])
    """
    return max_change(lower, upper, nominal, math.inf)


def relative(lower: Tensor, upper: Tensor, nominal: Tensor, norm: float = 2) -> Tensor:
    """Largest relative change: an upper bound of |a - v| / |v| (|a| if v = 0), exact, at least 0.

    Captum's `sensitivity_max`, and Quantus' `MaxSensitivity` since 0.5, with the largest change in
    place of the largest one sampled.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.
        norm: 1, 2 or math.inf, for both norms.

    Returns:
        (N,).

    Raises:
        ValueError: another norm.

    Example:
        >>> v = torch.tensor([[3.0, 4.0]])
        >>> relative(v, v + torch.tensor([[0.0, 1.0]]), v)
        tensor([0.2000])
    """
    return max_change(lower, upper, nominal, norm) / _size(nominal, norm)


def _size(nominal: Tensor, norm: float) -> Tensor:
    size = torch.linalg.vector_norm(nominal, ord=_checked(norm), dim=1)
    return torch.where(size == 0, 1.0, size)


def input_relative(lower: Tensor, upper: Tensor, nominal: Tensor,
                   inputs: Tensor | tuple[Tensor, ...], norm: float = 2) -> Tensor:
    """Largest change beside the input's size: an upper bound of |a - v| / |x|, exact, at least 0.

    The norm of the input x is what older versions of Quantus' `MaxSensitivity` divided by. Where x
    = 0: 0 if nothing changes, else inf.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.
        inputs: x, (N, *S) or a tuple.
        norm: 1, 2 or math.inf, for both norms.

    Returns:
        (N,).

    Raises:
        ValueError: another norm, or another number of inputs.

    Example:
        >>> v = torch.tensor([[3.0, 4.0]])
        >>> input_relative(v, v + torch.tensor([[0.0, 1.0]]), v, inputs=torch.tensor([[0.0, 2.0]]))
        tensor([0.5000])
    """
    return _beside(max_change(lower, upper, nominal, _checked(norm)), nominal, inputs, norm)


def _beside(change: Tensor, nominal: Tensor, inputs: Tensor | tuple[Tensor, ...],
            norm: float) -> Tensor:
    """Changes (N,) over the norms of the inputs."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    if any(len(part) != len(nominal) for part in parts):
        raise ValueError(f"inputs must have {len(nominal)} rows, as the attribution; "
                         f"given: {', '.join(str(tuple(part.shape)) for part in parts)}.")
    x = torch.cat([part.detach().reshape(len(part), -1).to(nominal) for part in parts], dim=1)
    return torch.where(change == 0, 0.0, change / torch.linalg.vector_norm(x, ord=norm, dim=1))


def lipschitz(lower: Tensor, upper: Tensor, nominal: Tensor, distance: float | Tensor,
              norm: float = 2) -> Tensor:
    """Local Lipschitz estimate: an upper bound of |a - v| / |x' - x| for |x' - x| >= `distance`.

    A box says nothing of how fast the attribution moves near x: the bound holds for those x' of the
    certified ball with |x' - x| >= distance. Certificates of growing radii, each with the radius
    before as its distance, make a bound for all x' but the nearest. Range: at least 0. Exact for a
    = the farthest point, |x' - x| = distance.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.
        distance: above 0; a number or (N,), in whichever norm of the input.
        norm: 1, 2 or math.inf, of the attribution; Alvarez-Melis and Jaakkola use 2, Quantus 1 by
            default.

    Returns:
        (N,).

    Raises:
        ValueError: another norm, or a distance of 0 or less.

    Source:
        Alvarez-Melis and Jaakkola, On the Robustness of Interpretability Methods, 2018, equation 2.

    Example:
        >>> v = torch.zeros(1, 2)
        >>> lipschitz(v - 3, v + torch.tensor([[1.0, 4.0]]), v, distance=0.5)
        tensor([10.])
    """
    return max_change(lower, upper, nominal, _checked(norm)) / _far(nominal, distance)


def _far(nominal: Tensor, distance: float | Tensor) -> Tensor:
    far = torch.as_tensor(distance, dtype=nominal.dtype, device=nominal.device)
    if not bool((far > 0).all()) or far.shape not in ((), nominal.shape[:1]):
        raise ValueError(f"distance is {distance!r}; pass a number above 0, or a tensor "
                         f"({len(nominal)},) of such.")
    return far


def _checked(norm: float) -> float:
    if norm not in (1, 2, math.inf):
        raise ValueError(f"norm is {norm!r}; pass 1, 2 or math.inf.")
    return norm


def _change(nominal: Tensor, norm: float, then: Callable[[Tensor], Tensor]) -> Sum | None:
    """A function of |a - v| as one of a sum; None for the largest change of a single feature."""
    if norm not in (1, 2):
        return None
    root = torch.sqrt if norm == 2 else torch.clone
    return Sum("absolute" if norm == 1 else "square", torch.ones_like(nominal), nominal,
               then=lambda total: then(root(total.clamp(min=0))))


_EXAMPLES: dict[str, dict[str, int]] = {"input_relative": {"inputs": 0},
                                        "lipschitz": {"distance": 1}}

_SUMS: dict[str, Callable[..., Sum | None]] = {
    "l1": lambda v: _change(v, 1, lambda change: change),
    "l2": lambda v: _change(v, 2, lambda change: change),
    "relative": lambda v, norm=2: _change(v, norm, lambda change: change / _size(v, norm)),
    "input_relative": lambda v, inputs, norm=2: _change(
        v, norm, lambda change: _beside(change, v, inputs, norm)),
    "lipschitz": lambda v, distance, norm=2: _change(
        v, norm, lambda change: change / _far(v, distance)),
}

for _function, _formula, _source in (
    (l1, "|a - v|_1", ""), (l2, "|a - v|_2", ""), (linf, "|a - v|_inf", ""),
    (relative, "|a - v| / |v|", "Yeh et al. 2019; Captum `sensitivity_max`, Quantus "
     "`MaxSensitivity`"),
    (input_relative, "|a - v| / |x|", "Yeh et al. 2019; older Quantus `MaxSensitivity`"),
    (lipschitz, "|a - v| / |x' - x|, |x' - x| >= distance", "Alvarez-Melis and Jaakkola 2018")):
    register(Metric(_function.__name__, _function, "upper", True, "[0, inf)", _formula, _source,
                    worst=math.inf, examples=_EXAMPLES.get(_function.__name__, {}),
                    sums=_SUMS.get(_function.__name__)))
