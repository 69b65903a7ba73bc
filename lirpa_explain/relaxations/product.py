"""Planes below and above a product of two bounded factors: McCormick's envelopes and their
mixtures.

For p = g * d with g in [gl, gu], d in [dl, du], and any lam in [0, 1], the mixture of the two upper
planes

    p <= lam (gu d + dl g - gu dl) + (1 - lam) (gl d + du g - gl du)

is an upper plane. Its coefficient of d is k = lam gu + (1 - lam) gl; where gl < 0 < gu the weight
lam = -gl / (gu - gl) makes it 0, and the plane needs nothing but the range of d.
The lower planes are those of (-g) d, negated.

Source: McCormick, Computability of global solutions to factorable nonconvex programs, 1976.
"""

import torch
from torch import Tensor

from ..boxes import Box
from ..rounding import PRODUCT, SLOPE, roundings
from .piecewise import Line

Plane = tuple[Tensor, Tensor, Tensor]
Lines = tuple[Line, Line]


def upper_plane(g: Box, d: Box, t: Box, lines: Lines) -> Plane:
    """An upper plane of g * d(t), as a function of g and t.

    Of the mixtures with lam = 0, 1 and the middle one (without d where g changes sign, lam = 1/2
    elsewhere), that which is lowest in the middle of the box; the middle one unless another is
    lower by more than rounding, because where the lines around d are tight all mixtures tie, and it
    has the coefficients nearest to the derivatives.

    Args:
        g: bounds of the first factor.
        d: bounds of the second factor on the range of t.
        t: bounds of the variable that d is a function of.
        lines: lines below and above d(t).

    Returns:
        (a, b, c) with g * d(t) <= a g + b t + c on the box, each of the broadcast shape.

    Example:
        >>> one = torch.tensor(1.)
        >>> lines = (0 * one, 0 * one), (0 * one, one)
        >>> a, b, c = upper_plane(Box(-one, one), Box(0 * one, one), Box(-one, one), lines)
        >>> float(a), float(b), float(c)
        (0.5, 0.0, 0.5)
    """
    (gl, gu), (dl, du) = g, d
    center_g, center_t = g.center, t.center
    middle = _middle(g)
    size = g.size * d.size
    margin = 1e-6 * (gu - gl) * (du - dl) + roundings(PRODUCT, gl.dtype) * size

    def height(plane: Plane) -> Tensor:
        return plane[0] * center_g + plane[1] * center_t + plane[2]

    best = _mixture(middle, g, d, lines)
    for lam in (torch.zeros_like(middle), torch.ones_like(middle)):
        other = _mixture(lam, g, d, lines)
        lower = height(other) < height(best) - margin
        a, b, c = (torch.where(lower, new, old) for new, old in zip(other, best, strict=True))
        best = a, b, c
    return best


def _middle(g: Box) -> Tensor:
    """The weight lam that leaves no d in the plane where g changes sign; 1/2 elsewhere."""
    gl, gu = g
    crossing = (gl < 0) & (gu > 0)
    width = torch.where(crossing, gu - gl, torch.ones_like(gu))
    return torch.where(crossing, -gl / width, torch.full_like(gl, 0.5))


def _mixture(lam: Tensor, g: Box, d: Box, lines: Lines) -> Plane:
    (gl, gu), (dl, du) = g, d
    a = lam * dl + (1 - lam) * du
    k = lam * gu + (1 - lam) * gl
    k = torch.where(k.abs() <= roundings(SLOPE, k.dtype) * (gu - gl), torch.zeros_like(k), k)
    (lower_slope, lower_offset), (upper_slope, upper_offset) = lines
    positive = k > 0
    b = k * torch.where(positive, upper_slope, lower_slope)
    c = k * torch.where(positive, upper_offset, lower_offset) - lam * gu * dl - (1 - lam) * gl * du
    # The product with a known factor is linear; its terms above cancel, but for roundings as large
    # as the bounds of g.
    known = (dl == du) & torch.ones_like(a, dtype=torch.bool)
    return torch.where(known, dl, a), torch.where(known, 0.0, b), torch.where(known, 0.0, c)


def planes(g: Box, d: Box, t: Box, lines: Lines) -> tuple[Plane, Plane]:
    """Planes below and above g * d(t); see `upper_plane`."""
    return _negated(upper_plane(g.negated(), d, t, lines)), upper_plane(g, d, t, lines)


def plane_family(g: Box, d: Box, t: Box, lines: Lines, family: Lines) -> tuple[Plane, Plane]:
    """Several planes below and several above g * d(t), any convex mixture of which is sound.

    The planes of `planes`, then those of lam = the middle, 0 and 1, the latter two with each pair
    of lines of `family`. The coefficient k of d is linear in lam and 0 at the middle where g
    changes sign, so these span every lam and every mixture of the lines.

    Args:
        g: bounds of the first factor, (*S).
        d: bounds of the second factor on the range of t.
        t: bounds of the variable that d is a function of.
        lines: lines below and above d(t).
        family: further such lines, each tensor (K, *S).

    Returns:
        Planes below and planes above, each tensor (2 + 2 K, *S).
    """
    return (_negated(_upper_family(g.negated(), d, t, lines, family)),
            _upper_family(g, d, t, lines, family))


def _upper_family(g: Box, d: Box, t: Box, lines: Lines, family: Lines) -> Plane:
    zero = torch.zeros_like(g[0])
    members = [upper_plane(g, d, t, lines), _mixture(_middle(g), g, d, lines)]
    for i in range(len(family[0][0])):
        chosen = ((family[0][0][i], family[0][1][i]), (family[1][0][i], family[1][1][i]))
        members += [_mixture(lam, g, d, chosen) for lam in (zero, zero + 1)]
    a, b, c = (torch.stack(torch.broadcast_tensors(*parts)) for parts in zip(*members, strict=True))
    return a, b, c


def _negated(plane: Plane) -> Plane:
    """A plane above (-g) d as one below g d."""
    a, b, c = plane
    return a, -b, -c
