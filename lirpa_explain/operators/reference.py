"""Upstream gradients times slopes from a reference: DeepLift's max pooling and softmax.

p = g s(z, z0), and t where |z - z0| < eps: Captum takes there the gradient t that has gone the
plain way.

Max pooling. In a window in which the input has its maximum at i and the reference at j, D = z_i -
z0_j, Captum puts back D times the upstream gradient, at i if D > 0 and at j if D < 0, and divides
it by z - z0 there:

    D > 0:  s_i = (z_i - z0_j) / (z_i - z0_i)  and 0 elsewhere,  with g the gradient at the input's
    result D < 0:  s_j = (z_i - z0_j) / (z_j - z0_j)  and 0 elsewhere,  with g the gradient at the
    reference's result

Both lie in [0, 1], because z0_i <= z0_j and z_j <= z_i. Over a box of inputs s is bounded by what
each entry's ends, and those of its window's maximum, leave of that; of entries that nearly tie,
each may be the maximum. Where entries of the reference are equal to the last bit, as those of a
constant baseline are, torch takes the first of them.

Softmax, y(z): s_k = (y_k(z) - y_k(z0)) / (z_k - z0_k), bounded by the ranges of both differences.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import Box
from ..relaxations.ranges import product_range
from ..relaxations.softmax import log_softmax_range
from ..rounding import JUMP, LAST, roundings
from .bound import BoundOperator
from .planes import Plane
from .registry import DOMAIN, Operator, register
from .secant import BoundFromReference
from .windows import Windows

POOLS = {"max_pool": (True, True), "max_pool_above": (True, False), "max_pool_below": (False, True)}
"""Rules of max pooling: whether they count windows in which D > 0, and those in which D < 0."""


def _pool_slope(z: Tensor, z0: Tensor, rule: str, **pool: Any) -> Tensor:
    """The slopes s, (B, C, H, W), of windows that do not overlap; whatever where z = z0."""
    z0 = z0.expand_as(z)
    (top, i), (top0, j) = (F.max_pool2d(x, pool["kernel"], pool["stride"], pool["padding"], 1,
                                        pool["ceil"], return_indices=True) for x in (z, z0))

    def put(values: Tensor, at: Tensor) -> Tensor:
        flat = torch.zeros_like(z).flatten(2).scatter(2, at.flatten(2), values.flatten(2))
        return flat.reshape(z.shape)

    above, below = (float(counts) for counts in POOLS[rule])
    change = above * put((top - top0).clamp(min=0), i) + below * put((top - top0).clamp(max=0), j)
    return change / torch.where(z == z0, 1, z - z0)


class _Share(NamedTuple):
    """One side's slopes (B, C, K, L): their range, and if an entry may, or must, have one."""

    box: Box
    may: Tensor
    must: Tensor


def _pool_slopes(z: Box, z0: Tensor, eps: float, rule: str, rounded: bool, **pool: Any) -> Box:
    """Range of the slopes over a box of inputs; `rounded`: equal entries of z0 may differ too."""
    windows = Windows(z[0].shape[2:], dilation=[1, 1], **pool)
    low, high, fixed = (windows.of(side, -torch.inf) for side in (*z, z0.expand_as(z[0])))
    sizes = (side.nan_to_num(neginf=0).abs().amax(2, keepdim=True) for side in (low, high, fixed))
    margin = roundings(JUMP, low.dtype) * torch.stack(list(sizes)).amax(0)
    least, most, top = (side.amax(2, keepdim=True) for side in (low, high, fixed))
    is_real = fixed > -torch.inf
    equal = fixed == top
    later = equal & (equal.cumsum(2) > 1) & (not rounded)
    may_i, may_j = is_real & (high >= least - margin), is_real & (fixed >= top - margin) & ~later
    must_i, must_j = (may & (may.sum(2, keepdim=True) == 1) for may in (may_i, may_j))

    def ratio(part: Tensor, whole: Tensor, otherwise: float, sign: float) -> Tensor:
        """The ratio moved outward by its roundings; `otherwise` where all is rounding."""
        is_clear = whole > margin
        share = part / torch.where(is_clear, whole, 1) * (1 + sign * roundings(4, low.dtype))
        return torch.where(is_clear, share.clamp(0, 1), otherwise)

    # by a maximum at i that is above that of the reference
    reached = torch.maximum(torch.maximum(low, least), top)
    beyond = torch.maximum(high, reached)
    own = fixed.masked_fill(~is_real, 0)
    above = _Share(Box(torch.where(must_j, 1, ratio(reached - top, reached - own, 0.0, -1.0)),
                       torch.where(must_j, 1, ratio(beyond - top, beyond - own, 1.0, 1.0))),
                   may_i & (high > top - margin), must_i & (low > top + margin))
    below = _Share(
        Box(torch.where(must_i, 1, ratio((top - most).clamp(min=0), top - low, 0.0, -1.0)),
            torch.where(must_i, 1, ratio((top - least).clamp(min=0), top - high, 1.0, 1.0))),
        may_j & (least < top + margin), must_j & (most < top - margin))
    shares = [share for share, counts in zip((above, below), POOLS[rule], strict=True) if counts]
    is_some = torch.stack([share.must for share in shares]).any(0)
    if len(shares) == 2:  # one entry is the maximum of both: its slope is 1 on either side
        is_some = is_some | must_i & must_j
    lowest = torch.stack([torch.where(share.may, share.box.lower, 1) for share in shares]).amin(0)
    highest = torch.stack([torch.where(share.may, share.box.upper, 0) for share in shares]).amax(0)
    return Box(windows.back(torch.minimum(torch.where(is_some, lowest, 0), highest)),
               windows.back(highest))


def _softmax_slope(z: Tensor, z0: Tensor, rule: str, dim: int) -> Tensor:
    return (z.softmax(dim) - z0.expand_as(z).softmax(dim)) / torch.where(z == z0, 1, z - z0)


def _softmax_slopes(z: Box, z0: Tensor, eps: float, rule: str, rounded: bool, dim: int) -> Box:
    """Range of softmax's slopes over a box of inputs, at least eps away from the reference."""
    logs = log_softmax_range(*z.map(lambda side: side.movedim(dim, -1)))
    own = z0.expand_as(z[0]).softmax(dim)
    change = Box(*(side.exp().movedim(-1, dim) - own for side in logs))
    change = change.outward(roundings(LAST, own.dtype) * (change.size + own))
    low, high = z[0] - z0, z[1] - z0
    inverse = Box(torch.where(low > -eps, 1 / high.clamp(min=eps), -1 / (-high).clamp(min=eps)),
                  torch.where(high < eps, 1 / low.clamp(max=-eps), 1 / low.clamp(min=eps)))
    return product_range(change, inverse.outward(roundings(LAST, own.dtype) * inverse.size))


SLOPES: dict[str, tuple[Callable[..., Tensor], Callable[..., Box]]] = {
    **dict.fromkeys(POOLS, (_pool_slope, _pool_slopes)),
    "softmax": (_softmax_slope, _softmax_slopes)}
"""Rules: the slopes, and their range over a box."""


class BoundReferenceGradient(BoundFromReference):
    """p = g s(z, z0) where g, t and z may move and z0 does not; t where z may come near z0.

    Planes are those of g times a number in the range of s, and constants where p may be t.
    """

    reference = 3

    def __init__(self, attr: Any = None, inputs: Any = None, output_index: int = 0,
                 options: Any = None) -> None:
        super().__init__(attr, inputs, output_index, options)
        self.given = dict(self.settings)
        self.eps = self.given.pop("eps")

    def relaxed_inputs(self) -> list[int]:
        return [0, 1, 2]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        moves = boxes[index][1] > boxes[index][0]
        if index == 2:  # the entries of a window, or of a softmax, decide together
            return moves
        slopes, (may, must) = self.slopes(*boxes[2:]), self.near(*boxes[2:])
        return moves & ~must & (may if index == 1 else may | (slopes.lower < slopes.upper))

    def slopes(self, z: Box, z0: Box) -> Box:
        """Smallest and largest slope from z0, which does not move."""
        return SLOPES[self.given["rule"]][1](z, z0[0], self.eps, rounded=self.outward is not None,
                                             **self.given)

    def near(self, z: Box, z0: Box) -> tuple[Tensor, Tensor]:
        """Whether entries may, and whether they must, be so near to their reference that p is t."""
        low, high = z[0] - z0[0], z[1] - z0[0]
        margin = roundings(JUMP, low.dtype) * (z.size + z0[0].abs())
        may = (low < self.eps + margin) & (high > -self.eps - margin)
        return may, (low > margin - self.eps) & (high < self.eps - margin)

    def bound_interval(self, *boxes: Box) -> Box:
        product, (may,
                  must) = product_range(boxes[0], self.slopes(*boxes[2:])), self.near(*boxes[2:])
        sides = zip(product, product.hull(boxes[1]), boxes[1], strict=True)
        return Box(*(torch.where(must, t, torch.where(may, either, own))
                     for own, either, t in sides))

    def planes(self, *boxes: Box) -> tuple[Plane, Plane]:
        slopes, (may, must), ends = (self.slopes(*boxes[2:]), self.near(*boxes[2:]),
                                     self.bound_interval(*boxes))
        zero, one = torch.zeros_like(slopes.lower), torch.ones_like(slopes.lower)

        def plane(first: Tensor, second: Tensor, end: Tensor) -> Plane:
            a, c = _chord(boxes[0], first, second)
            c = torch.where(must, 0, torch.where(may, end, c))
            return torch.where(may, 0, a), torch.where(must, one, 0), zero, zero, c

        below = plane(slopes.upper, slopes.lower, ends.lower)
        return below, plane(slopes.lower, slopes.upper, ends.upper)

    def dependence(self, *sizes: Tensor | None) -> Tensor:
        """Of entries of a window, or of a softmax, on each other: of all on all."""
        return BoundOperator.dependence(self, *sizes)

    def start_mixture(self, functions: int) -> None:
        """There is one plane to choose from."""
        return None


def _chord(g: Box, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The line through (gl, m(gl)) and (gu, m(gu)), m = upper * g for g >= 0, else lower * g.

    For lower <= upper it lies above g s for all s between them; with both exchanged, below.
    """
    crossing = (g[0] < 0) & (g[1] > 0)
    width = torch.where(crossing, g[1] - g[0], 1)
    slope = torch.where(crossing, (upper * g[1] - lower * g[0]) / width,
                        torch.where(g[0] >= 0, upper, lower))
    return slope, torch.where(crossing, upper * g[1] - slope * g[1], 0)


def _reference_gradient(g: Tensor, t: Tensor, z: Tensor, z0: Tensor, rule: str, eps: float,
                        **settings: Any) -> Tensor:
    return torch.where((z - z0).abs() < eps, t, g * SLOPES[rule][0](z, z0, rule=rule, **settings))


ROWS = [Operator("reference_gradient", _reference_gradient, BoundReferenceGradient,
                 "DeepLift's rules for nn.MaxPool1d, nn.MaxPool2d, nn.Softmax")]
for row in ROWS:
    register(row)


def reference_gradient(g: Tensor, t: Tensor, z: Tensor, z0: Tensor, rule: str, eps: float = 1e-10,
                       **settings: Any) -> Tensor:
    """The gradient at a max pooling or softmax by DeepLift's rules; recorded as one operation.

    Args:
        g: gradient at its result; of a max pooling, at each entry that of its window: (B, *S).
        t: what is taken where |z - z0| < eps, (B, *S).
        z: its argument, (B, *S).
        z0: its argument for the reference, (B, *S).
        rule: a key of `SLOPES`.
        eps: where |z - z0| is less, t is taken.
        **settings: of the rule: `kernel`, `stride`, `padding` and `ceil`; or `dim`. Recorded are
            also `module`, its name for messages, and `overlaps`, if its windows do.

    Returns:
        `g s(z, z0)`, (B, *S).
    """
    return torch.ops.lirpa_explain.reference_gradient(
        g, t, z, z0, json.dumps({"rule": rule, "eps": eps} | settings))


@torch.library.custom_op(f"{DOMAIN}::reference_gradient", mutates_args=())
def _recorded(g: Tensor, t: Tensor, z: Tensor, z0: Tensor, settings: str) -> Tensor:
    given = json.loads(settings)
    return _reference_gradient(g, t, z, z0, **{k: v for k, v in given.items()
                                               if k not in ("module", "overlaps")})


_recorded.register_fake(lambda g, t, z, z0, settings: torch.empty_like(z))
