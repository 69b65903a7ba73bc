"""Roundings of floating-point numbers: their unit, how they add up, and how many of them are
allowed for where.

With u the unit roundoff, half of `eps`, every operation of IEEE arithmetic that rounds to nearest
gives x (1 + d) + t with |d| <= u, and |t| <= half of the smallest subnormal number where it
underflows. A sum of n products, added up in any order, is therefore off by at most

    gamma_n * (the sum of their sizes) + n t,        gamma_n = n u / (1 - n u)

(Higham, Accuracy and Stability of Numerical Algorithms, sections 2.2 and 3.1). The scale of
roundings is that of the terms which are summed on the way, not of the result, which may be 0.
"""

import torch
from torch import Tensor

GUARANTEES = {"default": "Captum's rounding at the inputs lies within the bounds, at other inputs "
              "up to rounding", "outward": "what Captum computes in floating point lies within the "
              "bounds at every input of the set"}
"""The options `rounding` of `certify`, and what each guarantees."""

PROBES = 4
"""Times that a value is computed with random roundings, to see how far these carry."""

FAR_PROBES = 2
"""The same where the inputs are as large as they can be, which shows whether roundings are of
another size there."""

SPREAD = 4
"""Units by which such a rounding moves each result at most, relative to its terms: several times
what a sum in blocks is off by, so that all probes together hardly ever move an entry by less than
its rounding."""

REACH = 32
"""Units by which the interval of each step is widened when a contradiction is looked into. No bound
depends on it: it only decides what counts as rounding there."""

LAST = 16
"""Units by which a certificate's ends are moved outward relative to themselves: what computing them
rounds last."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Alarm: by how much of their terms' sizes numbers may lie outside of their bounds where no running
error is known."""

OWN = 64
"""Roundings of an entry's own, beyond those of its sum, that outward bounds allow for: those of
elementary functions (4 units in the last place), of the ends of an interval and of the planes of a
relaxation, a dozen each at most."""


def unit(dtype: torch.dtype) -> float:
    """The unit roundoff u.

    Example:
        >>> unit(torch.float64) == 2.0 ** -53
        True
    """
    return torch.finfo(dtype).eps / 2


def gamma(count: int, dtype: torch.dtype) -> float:
    """What so many roundings may add up to, relative to the sum of the sizes of all terms; infinite
    if not bounded.

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
    """What so many roundings of a sum may add up to, from the sum of the sizes of its terms; for
    itself rounds too.
    """
    return (terms * (1.01 * gamma(count, terms.dtype)) + count * underflow(terms.dtype)).nan_to_num(
        nan=torch.inf)


# Outward, where no bound of each rounding is computed: shares of a size that stand for all
# roundings of one thing.

RELAXED = 32
"""Roundings by which bounds that a relaxation reads are moved outward, of the terms they are sums
of. The derivative of a kink jumps: a bound on the wrong side of 0 by one rounding would be wrong by
a whole neuron."""

JUMP = 16
"""Roundings, of the ends of an interval, within which an end counts as reaching a jump of a
function, or the largest of some values: what an interval's own end is off by where it is a sum of
few terms."""

DECIDED = 20
"""Roundings of its size by which a pre-activation that was decided to lie beyond a jump is taken to
lie beyond it: more than `JUMP`, so that relaxations see it decided, and less than `RELAXED`, by
which all that reads it is widened."""

SECOND_DERIVATIVE = 64
"""Roundings of the terms of a secant's second derivative within which its sign is not known."""

PRODUCT = 64
"""Roundings of a product's size by which planes around it are compared: of equally high ones, any
is right."""

SLOPE = 4
"""Roundings below which a coefficient that is a difference counts as 0: another one would be as
right."""

REGION = 64
"""Roundings of its entries and of its centre's length by which a region of points grows."""

SQUARES = 16
"""Roundings of the squares whose difference is the squared radius of a smaller ball."""

RIVAL = 256
"""Roundings, of scores and their changes in a ball, by which a rival class may seem excluded."""

INSIDE = 32
"""Roundings by which a point is drawn back into a ball that it was projected onto."""

DIRECTION = 4
"""Roundings, of a vector's entries, below which its length after centering is none."""

FOUND = 64
"""Roundings of the largest bound that an attack's alarm allows an attribution beside its
tolerance."""

STEADY = 256
"""Stop: roundings of bounds below which they count as having stopped to change."""


def roundings(count: float, dtype: torch.dtype) -> float:
    """What so many roundings come to, as a share of the size of what is rounded.

    Example:
        >>> roundings(2, torch.float64) == 2.0 ** -51
        True
    """
    return count * torch.finfo(dtype).eps


def at_a_jump(lower: Tensor, upper: Tensor) -> Tensor:
    """Outward: how near to a jump an end of an interval counts as reaching it."""
    return roundings(JUMP, lower.dtype) * torch.maximum(lower.abs(), upper.abs())


def narrow(dtype: torch.dtype, order: float) -> float:
    """Stop: a width, relative to its place, below which a quotient of differences rounds more than
    it says.

    With a remainder of the width to the power n - 1 against roundings divided by it, `order` is 1 /
    n.
    """
    return torch.finfo(dtype).eps ** order


def least(dtype: torch.dtype, power: float = 1.0) -> float:
    """Guard: the smallest number to divide by; with `power` 0.5, by whose square."""
    return torch.finfo(dtype).tiny ** power


def lowest(dtype: torch.dtype) -> float:
    """Guard: a logarithm of nothing, which can be added to itself."""
    return torch.finfo(dtype).min / 4
