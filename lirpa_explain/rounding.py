"""Roundings of floating-point numbers: their unit, how they add up, and how many of them are allowed for where.

With u the unit roundoff, half of `eps`, every operation of IEEE arithmetic that rounds to nearest gives
x (1 + d) + t with |d| <= u, and |t| <= half of the smallest subnormal number where it underflows. A sum of n products,
added up in any order, is therefore off by at most

    gamma_n * (the sum of their sizes) + n t,        gamma_n = n u / (1 - n u)

(Higham, Accuracy and Stability of Numerical Algorithms, sections 2.2 and 3.1). The scale of roundings is that of the
terms which are summed on the way, not of the result, which may be 0.
"""

import torch
from torch import Tensor

ROUNDINGS = {"default": "Captum's rounding at the inputs lies within the bounds, at other inputs up to rounding",
             "outward": "what Captum computes in floating point lies within the bounds at every input of the set"}
"""The options `rounding` of `certify`, and what each guarantees."""

PROBES = 4
"""Times that a value is computed with random roundings, to see how far these carry."""

FAR_PROBES = 2
"""The same where the inputs are as large as they can be, which shows whether roundings are of another size there."""

SPREAD = 3
"""Units by which such a rounding moves each result at most, relative to its terms: several times what a sum in blocks
is off by, so that all probes together hardly ever move an entry by less than its rounding."""

REACH = 32
"""Units by which the interval of each step is widened when a contradiction is looked into. No bound depends on it:
it only decides what counts as rounding there."""

LAST = 16
"""Units by which a certificate's ends are moved outward relative to themselves: what computing them rounds last."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Alarm: by how much of their terms' sizes numbers may lie outside of their bounds where no running error is known."""

OWN = 64
"""Roundings of an entry's own, beyond those of its sum, that outward bounds allow for: those of elementary functions
(4 units in the last place), of the ends of an interval and of the planes of a relaxation, a dozen each at most."""


def unit(dtype: torch.dtype) -> float:
    """The unit roundoff u.

    Example:
        >>> unit(torch.float64) == 2.0 ** -53
        True
    """
    return torch.finfo(dtype).eps / 2


def gamma(count: int, dtype: torch.dtype) -> float:
    """What so many roundings may add up to, relative to the sum of the sizes of all terms; infinite if not bounded.

    Example:
        >>> gamma(2**52, torch.float64), gamma(2**53, torch.float64)
        (1.0, inf)
    """
    share = count * unit(dtype)
    return share / (1 - share) if share < 1 else float("inf")


def underflow(dtype: torch.dtype) -> float:
    """What a result that underflows may be off by: one subnormal number."""
    return torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def rounded(terms: Tensor, count: int) -> Tensor:
    """What so many roundings of a sum may add up to, from the sum of the sizes of its terms; for itself rounds too."""
    return (terms * (1.01 * gamma(count, terms.dtype)) + count * underflow(terms.dtype)).nan_to_num(nan=torch.inf)
