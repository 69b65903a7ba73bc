"""How much of the attribution lies in a subspace, such as the tangent space of the data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lirpa_explain.boxes import Box
from lirpa_explain.certificates.metrics.angle import least_cosine
from lirpa_explain.certificates.metrics.registry import Metric, register
from lirpa_explain.relaxations.ranges import linear_range

from ...rounding import roundings


def tangent_lower(lower: Tensor, upper: Tensor, nominal: Tensor, basis: Tensor) -> Tensor:
    """Least share of the attribution in a subspace T: a lower bound of |proj_T a| / |a|, from 0 to
    1.

    |proj_T a| >= <a, w> for every unit w of T: the share is at least the cosine of a with the
    nominal's projection. It is also at least the smallest |proj_T a| that the ranges of its
    coordinates allow, over the largest |a|. The share of a = 0 is 0.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.
        basis: (D, k) or (N, D, k); its columns span T, and need be neither orthogonal nor
            independent.

    Returns:
        (N,).

    Raises:
        ValueError: the basis has another shape.

    Source:
        Bordt et al., The Manifold Hypothesis for Gradient-Based Explanations, 2023.

    Example:
        >>> v = torch.tensor([[3.0, 4.0]])
        >>> tangent_lower(v, v, v, torch.tensor([[1.0], [0.0]]))
        tensor([0.6000])
    """
    box, v, q = _prepared(lower, upper, nominal, basis)
    (shortest, _), (_, longest) = _lengths(linear_range(q.mT, box)), _lengths(box)
    by_length = torch.where(shortest > 0, shortest / torch.where(longest > 0, longest, 1.0), 0.0)
    inside = least_cosine(*box, _part(v, lambda w: _projected(q, w)))
    return torch.maximum(inside, by_length).clamp(0, 1).to(nominal)


def tangent_upper(lower: Tensor, upper: Tensor, nominal: Tensor, basis: Tensor) -> Tensor:
    """Largest share of the attribution in a subspace T: an upper bound of |proj_T a| / |a|, from 0
    to 1.

    With s the least share in the orthogonal complement, bounded as in `tangent_lower` by a cosine:
    sqrt(1 - s^2); also no more than the largest |proj_T a| over the smallest |a|. The share of a =
    0 is 0.

    Args:
        lower: (N, D).
        upper: (N, D).
        nominal: (N, D), v.
        basis: as of `tangent_lower`.

    Returns:
        (N,).

    Raises:
        ValueError: the basis has another shape.

    Source:
        Bordt et al., The Manifold Hypothesis for Gradient-Based Explanations, 2023.

    Example:
        >>> v = torch.tensor([[3.0, 4.0]])
        >>> tangent_upper(v - 1, v, v, torch.tensor([[1.0], [0.0]]))
        tensor([0.7071])
    """
    box, v, q = _prepared(lower, upper, nominal, basis)
    complement = least_cosine(*box, _part(v, lambda w: w - _projected(q, w))).clamp(min=0)
    (_, longest), (shortest, _) = _lengths(linear_range(q.mT, box)), _lengths(box)
    by_length = torch.where(longest == 0, 0.0, longest / shortest)  # inf where a = 0 is possible
    return torch.minimum((1 - complement.square()).clamp(min=0).sqrt(),
                         by_length).clamp(0, 1).to(nominal)


def tangent_basis(decoder: Callable[[Tensor], Tensor], latent: Tensor) -> Tensor:
    """The tangent space of the images of a decoder: an orthonormal basis of the columns of its
    Jacobian.

    Args:
        decoder: maps (N, k) to (N, *S), each row by itself.
        latent: (N, k).

    Returns:
        (N, D, k); columns beyond the rank of the Jacobian are 0.

    Raises:
        ValueError: latent is not (N, k).

    Source:
        Bordt et al., The Manifold Hypothesis for Gradient-Based Explanations, 2023.

    Example:
        >>> tangent_basis(lambda z: z @ torch.tensor([[0.0, 2.0, 0.0]]), torch.ones(1, 1)).abs()
        tensor([[[0.],
                 [1.],
                 [0.]]])
    """
    if latent.ndim != 2:
        raise ValueError(f"latent has the shape {tuple(latent.shape)}; pass (N, k).")
    columns = []
    for i in range(latent.shape[1]):
        direction = torch.zeros_like(latent)
        direction[:, i] = 1
        columns.append(torch.autograd.functional.jvp(decoder, latent.detach(),
                                                     direction)[1].flatten(1))
    return orthonormal(torch.stack(columns, dim=2)).to(latent)


def orthonormal(basis: Tensor) -> Tensor:
    """An orthonormal basis (..., D, k) of the span of the columns, float64; columns beyond its rank
    are 0.

    Singular values below max(D, k) roundings of the largest count as 0, as in scipy.linalg.orth.
    """
    left, values, _ = torch.linalg.svd(basis.double(), full_matrices=False)
    tolerance = roundings(max(basis.shape[-2:]), basis.dtype) * values[..., :1]
    kept = left * ((values > tolerance) & (values > 0))[..., None, :]
    return torch.nn.functional.pad(kept, (0, basis.shape[-1] - kept.shape[-1]))


def _prepared(lower: Tensor, upper: Tensor, nominal: Tensor,
              basis: Tensor) -> tuple[Box, Tensor, Tensor]:
    """Everything in float64, and the basis orthonormal, (N, D, k)."""
    if (not isinstance(basis, Tensor) or basis.ndim not in (2, 3) or basis.shape[-2]
            != nominal.shape[1] or (basis.ndim == 3 and len(basis) != len(nominal))):
        given = tuple(basis.shape) if isinstance(basis, Tensor) else type(basis).__name__
        rows, size = nominal.shape
        raise ValueError(f"basis must be ({size}, k) or ({rows}, {size}, k), vectors as columns; "
                         f"given: {given}.")
    q = orthonormal(basis.detach().to(nominal.device))
    low, high, v = (t.detach().double() for t in (lower, upper, nominal))
    return Box(low, high), v, q.expand(len(v), *q.shape[-2:])


def _projected(q: Tensor, v: Tensor) -> Tensor:
    return (q @ (q.mT @ v[..., None]))[..., 0]


def _part(v: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    """A projection of v; 0 where only rounding is left of v, which lies in no subspace."""
    part = project(project(v))
    norm = torch.linalg.vector_norm
    return torch.where(norm(part, dim=1, keepdim=True) > 1e-12 * norm(v, dim=1, keepdim=True), part,
                       0.0)


def _lengths(box: Box) -> tuple[Tensor, Tensor]:
    """The smallest and the largest length of a point of a box."""
    low, high = box.absolute()
    return torch.linalg.vector_norm(low, dim=1), torch.linalg.vector_norm(high, dim=1)


def _share_at(a: Tensor, nominal: Tensor, basis: Tensor) -> Tensor:
    q = orthonormal(basis.detach().to(a.device)).to(a)
    length = torch.linalg.vector_norm(a, dim=1)
    inside = torch.linalg.vector_norm((q.mT @ a[..., None])[..., 0], dim=1)
    return torch.where(length == 0, 0.0, inside / torch.where(length == 0, 1.0, length))


register(Metric("tangent_lower", tangent_lower, "lower", False, "[0, 1]", "|proj_T a| / |a|",
                "Bordt et al. 2023", worst=0, examples={"basis": 3}, at=_share_at))
register(Metric("tangent_upper", tangent_upper, "upper", False, "[0, 1]", "|proj_T a| / |a|",
                "Bordt et al. 2023", worst=1, examples={"basis": 3}, at=_share_at))
