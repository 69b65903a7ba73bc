"""The terms that an operator adds up for each entry of its result: what the roundings there are
relative to.

A size is an upper bound of a value's absolute value, or, where values cancel, of the sum of the
sizes of what it was made of: kernels of normalizations and softmax add up in other orders than the
steps of a module do, so a chain of sums and products (`CARRIED`) hands on the sizes of its terms
and not those of its sums.
"""

from collections.abc import Sequence
from functools import singledispatch

import torch
from torch import Tensor

from ..boxes import Box
from .activation import BoundActivation, BoundActivationGradient, BoundMultiply
from .affine import BoundAffine
from .bound import BoundOperator
from .choice import BoundChoice, BoundLarger, BoundRest
from .direction import BoundDirection, shortest
from .known import BoundKnown
from .matrix import BoundMatrixProduct
from .max_pooling import BoundMaxPool, BoundMaxPoolGradient
from .moves import BoundLookup
from .normalization import BoundVariance
from .order import BoundPick, BoundPut, BoundRanked
from .reference import BoundReferenceGradient
from .secant import BoundSecantGradient
from .softmax import BoundLogSoftmax, BoundLogSumExp, BoundWeightedCenter
from .windows import Windows

EXACT = frozenset({"reshape", "expand", "permute", "slice", "place", "concatenate", "pad", "pick",
                   "lookup"})
"""Operators that round nothing."""

CARRIED = EXACT | {"put", "add", "sum", "mean", "scale", "divide", "center", "multiply", "known"}
"""Operators whose result's size is that of its terms: what comes next may have been computed from
these."""

RELATIVE = frozenset({
    "kink", "kink_gradient", "select", "stabilized_gradient", "power", "power_gradient", "exp",
    "exp_gradient", "log",
    "log_gradient", "sin", "cos", "probability", "inverse_root", "elu", "elu_gradient", "hardtanh",
    "hardtanh_gradient",
    "clamp", "clamp_gradient", "absolute", "absolute_gradient", "sign", "window", "threshold",
    "threshold_gradient",
    "hardshrink", "hardshrink_gradient", "softshrink_gradient", "larger_gradient",
})
"""Functions of one variable whose roundings are relative to their value; of all others also to
their argument, and in gradients to the upstream gradient, as in 1 - tanh(z)^2."""


@singledispatch
def terms(operator: BoundOperator, boxes: Sequence[Box], sizes: Sequence[Tensor],
          result: Tensor) -> Tensor:
    """Upper bound of the sum of the sizes of all terms of each entry: of the value, and of what
    bounds it.

    Args:
        operator: the operator.
        boxes: where its inputs lie, each (B, *S); parameters are points without rows.
        sizes: of the inputs, at least those of their boxes.
        result: size of the result, (B, *output).

    Returns:
        (B, *output), or what broadcasts to it.
    """
    return result


def has_terms(operator: BoundOperator) -> bool:
    """Whether there is a rule for an operator."""
    return terms.dispatch(type(operator)) is not terms.dispatch(object)


@terms.register
def _affine(operator: BoundAffine, boxes: Sequence[Box], sizes: Sequence[Tensor],
            result: Tensor) -> Tensor:
    weights = sizes[1:] if operator.traits.magnitude is None else [box[0] for box in boxes[1:]]
    return operator.added(sizes[0], *weights)


@terms.register
def _activation(operator: BoundActivation, boxes: Sequence[Box], sizes: Sequence[Tensor],
                result: Tensor) -> Tensor:
    return result if operator.operator.name in RELATIVE else result + boxes[0].size


@terms.register
def _activation_gradient(operator: BoundActivationGradient, boxes: Sequence[Box],
                         sizes: Sequence[Tensor], result: Tensor) -> Tensor:
    return result if operator.operator.name in RELATIVE else result + boxes[0].size


@terms.register
def _multiply(operator: BoundMultiply, boxes: Sequence[Box], sizes: Sequence[Tensor],
              result: Tensor) -> Tensor:
    return sizes[0] * sizes[1]


@terms.register
def _direction(operator: BoundDirection, boxes: Sequence[Box], sizes: Sequence[Tensor],
               result: Tensor) -> Tensor:
    """Where its length may be 0 only the range is used, which is at most 1."""
    inverse = boxes[1].size
    return torch.where(inverse < 0.5 / shortest(inverse.dtype), boxes[0].size * inverse,
                       1.0).expand(result.shape)


@terms.register
def _secant(operator: BoundSecantGradient, boxes: Sequence[Box], sizes: Sequence[Tensor],
            result: Tensor) -> Tensor:
    """(phi(z) - phi(z0)) / (z - z0): values of phi, of size |phi(0)| + |z| about, round by
    themselves.
    """
    distance = (boxes[1][0] - boxes[2][0]).abs().clamp(min=operator.eps)
    values = boxes[1].size + boxes[2].size + 2 * operator.at_zero
    return result + boxes[0].size * (1 + values / distance)


@terms.register
def _reference(operator: BoundReferenceGradient, boxes: Sequence[Box], sizes: Sequence[Tensor],
               result: Tensor) -> Tensor:
    """A quotient of differences, as `_secant`: what is divided rounds by itself."""
    distance = (boxes[2][0] - boxes[3][0]).abs().clamp(min=operator.eps)
    return result + boxes[0].size * (1 + (boxes[2].size + boxes[3].size + 1) / distance)


@terms.register
def _matrix_product(operator: BoundMatrixProduct, boxes: Sequence[Box], sizes: Sequence[Tensor],
                    result: Tensor) -> Tensor:
    return boxes[0].size @ boxes[1].size


@terms.register
def _variance(operator: BoundVariance, boxes: Sequence[Box], sizes: Sequence[Tensor],
              result: Tensor) -> Tensor:
    dims = operator.settings["dims"]
    size = boxes[0].size
    return (size + size.mean(dims, keepdim=True)).square().mean(dims, keepdim=True)


@terms.register
def _max_pool(operator: BoundMaxPool, boxes: Sequence[Box], sizes: Sequence[Tensor],
              result: Tensor) -> Tensor:
    """The value is exact; planes above it add up the entries of a window."""
    size = boxes[0].size
    return Windows(size.shape[2:], **operator.pooling).of(size).sum(2).reshape(result.shape)


@terms.register
def _max_pool_gradient(operator: BoundMaxPoolGradient, boxes: Sequence[Box],
                       sizes: Sequence[Tensor], result: Tensor) -> Tensor:
    """Wherever the maximum of a window may be."""
    windows = Windows(boxes[1][0].shape[2:], **operator.pooling)
    size = boxes[0].size.flatten(2)[:, :, None]
    return windows.back(size.expand(-1, -1, windows.positions, -1).contiguous())


@terms.register
def _ranked(operator: BoundRanked, boxes: Sequence[Box], sizes: Sequence[Tensor],
            result: Tensor) -> Tensor:
    """The value is exact; planes around it add up the entries of a group."""
    groups = operator.groups(boxes[0].lower)
    return groups.join(
        groups.of(boxes[0].size).sum(-1, keepdim=True).expand_as(groups.split(result)))


@terms.register
def _put(operator: BoundPut, boxes: Sequence[Box], sizes: Sequence[Tensor],
         result: Tensor) -> Tensor:
    """Wherever it may be put."""
    groups = operator.groups(boxes[1].lower)
    entries = groups.of(result)
    return groups.back(groups.split(boxes[0].size).sum(-1, keepdim=True).expand_as(entries))


@terms.register
def _pick(operator: BoundPick, boxes: Sequence[Box], sizes: Sequence[Tensor],
          result: Tensor) -> Tensor:
    groups = operator.groups(boxes[0].lower)
    return groups.join(
        groups.of(boxes[0].size).sum(-1, keepdim=True).expand_as(groups.split(result)))


@terms.register
def _larger(operator: BoundLarger, boxes: Sequence[Box], sizes: Sequence[Tensor],
            result: Tensor) -> Tensor:
    """The value is exact; planes around it add up the difference, too."""
    return boxes[0].size + boxes[1].size + boxes[2].size


@terms.register
def _choice(operator: BoundChoice, boxes: Sequence[Box], sizes: Sequence[Tensor],
            result: Tensor) -> Tensor:
    return boxes[0].size + boxes[1].size + boxes[2].size + 0 * result


@terms.register
def _rest(operator: BoundRest, boxes: Sequence[Box], sizes: Sequence[Tensor],
          result: Tensor) -> Tensor:
    return boxes[0].size + boxes[1].size


@terms.register
def _log_softmax(operator: BoundLogSoftmax, boxes: Sequence[Box], sizes: Sequence[Tensor],
                 result: Tensor) -> Tensor:
    """x_i - max_j x_j - log sum_j exp(x_j - max): what is far below the maximum, such as a mask,
    counts for itself.
    """
    largest = Box(*boxes[0].map(lambda side: side.amax(operator.settings["dim"],
                                                       keepdim=True))).size
    return boxes[0].size + 2 * largest + result + 1


@terms.register
def _log_sum_exp(operator: BoundLogSumExp, boxes: Sequence[Box], sizes: Sequence[Tensor],
                 result: Tensor) -> Tensor:
    return 2 * boxes[0].size.amax(operator.settings["dim"], keepdim=True) + result + 1


@terms.register
def _weighted_center(operator: BoundWeightedCenter, boxes: Sequence[Box], sizes: Sequence[Tensor],
                     result: Tensor) -> Tensor:
    dim, total = operator.settings["dim"], operator.settings["total"]
    g = 2 * boxes[0].size.amax(dim, keepdim=True)
    return (g * (2 * boxes[1].size.sum(dim, keepdim=True) + (total or 0.0))).expand(result.shape)


@terms.register
def _lookup(operator: BoundLookup, boxes: Sequence[Box], sizes: Sequence[Tensor],
            result: Tensor) -> Tensor:
    return result


@terms.register
def _known(operator: BoundKnown, boxes: Sequence[Box], sizes: Sequence[Tensor],
           result: Tensor) -> Tensor:
    """What is known holds for exact numbers; rounded ones may lie beyond."""
    return sizes[0]
