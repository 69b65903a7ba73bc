"""How far the attribution can move from its nominal value."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lirpa_explain.certificates.box import max_change
from lirpa_explain.certificates.metrics.registry import Metric, register


def l1(lower: Tensor, upper: Tensor, nominal: Tensor) -> Tensor:
    """Largest l1 distance from the nominal attribution: max |a - v|_1, an upper bound, exact, at
    least 0.

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
    """Largest l2 distance from the nominal attribution: max |a - v|_2, an upper bound, exact, at
    least 0.

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
    """Largest relative change: max |a - v| / |v|, an upper bound, exact, at least 0; divided by 1
    where v = 0.

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
    size = torch.linalg.vector_norm(nominal, ord=_checked(norm), dim=1)
    return max_change(lower, upper, nominal, norm) / torch.where(size == 0, 1.0, size)


def input_relative(lower: Tensor, upper: Tensor, nominal: Tensor,
                   inputs: Tensor | tuple[Tensor, ...], norm: float = 2) -> Tensor:
    """Largest change beside the size of the input: max |a - v| / |x|, an upper bound, exact, at
    least 0.

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
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    if any(len(part) != len(nominal) for part in parts):
        raise ValueError(f"inputs must have {len(nominal)} rows, as the attribution; "
                         f"given: {', '.join(str(tuple(part.shape)) for part in parts)}.")
    x = torch.cat([part.detach().reshape(len(part), -1).to(nominal) for part in parts], dim=1)
    change = max_change(lower, upper, nominal, _checked(norm))
    return torch.where(change == 0, 0.0, change / torch.linalg.vector_norm(x, ord=norm, dim=1))


def lipschitz(lower: Tensor, upper: Tensor, nominal: Tensor, distance: float | Tensor,
              norm: float = 2) -> Tensor:
    """Local Lipschitz estimate: max |a - v| / |x' - x|, an upper bound for x' no nearer than
    `distance`.

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
    far = torch.as_tensor(distance, dtype=nominal.dtype, device=nominal.device)
    if not bool((far > 0).all()) or far.shape not in ((), nominal.shape[:1]):
        raise ValueError(f"distance is {distance!r}; pass a number above 0, or a tensor "
                         f"({len(nominal)},) of such.")
    return max_change(lower, upper, nominal, _checked(norm)) / far


def _checked(norm: float) -> float:
    if norm not in (1, 2, math.inf):
        raise ValueError(f"norm is {norm!r}; pass 1, 2 or math.inf.")
    return norm


_EXAMPLES: dict[str, dict[str, int]] = {"input_relative": {"inputs": 0},
                                        "lipschitz": {"distance": 1}}

for _function, _formula, _source in (
    (l1, "|a - v|_1", ""), (l2, "|a - v|_2", ""), (linf, "|a - v|_inf", ""),
    (relative, "|a - v| / |v|", "Yeh et al. 2019; Captum `sensitivity_max`, Quantus "
     "`MaxSensitivity`"),
    (input_relative, "|a - v| / |x|", "Yeh et al. 2019; older Quantus `MaxSensitivity`"),
    (lipschitz, "|a - v| / |x' - x|, |x' - x| >= distance", "Alvarez-Melis and Jaakkola 2018")):
    register(Metric(_function.__name__, _function, "upper", True, "[0, inf)", _formula, _source,
                    worst=math.inf, examples=_EXAMPLES.get(_function.__name__, {})))
