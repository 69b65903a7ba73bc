"""certified_cross_entropy(): robustness of the label, to be trained together with that of the
explanation.
"""

from __future__ import annotations

import math
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bounding.ball import make_balls
from ..bounding.bounds import input_interval
from ..bounding.intervals import IntervalPass
from ..fingerprint import fingerprinted
from ..graph import capture_program
from ..graph.program import output
from ..guards import evaluating
from ..inputs import check_inputs, uncompiled
from ..tensors import check_kind
from .explanation import REDUCTIONS

_PASSES: WeakKeyDictionary[nn.Module, dict[Any, tuple[Any, IntervalPass]]] = WeakKeyDictionary()


@uncompiled
def certified_cross_entropy(
    model: nn.Module, x: Tensor | tuple[Tensor, ...], y: Tensor, *, eps: Any,
    norm: float = math.inf, clip: tuple[Any, Any] | None = None, reduction: str = "mean") -> Tensor:
    """The largest cross-entropy that interval bounds allow over a ball: log(1 + sum_j exp(-m_j)).

    m_j is a lower bound of the score of the label less that of class j, bounded as one linear
    function of what the last layer reads. With one output, class 1 has its score and class 0 the
    score 0.

    Args:
        model: scores before softmax, (N, classes), or (N, 1) or (N,) for two classes; in training
            mode or not, bounded in eval mode.
        x: inputs, (N, *S), or a tuple of such.
        y: labels, (N,).
        eps: radius of the ball.
        norm: its norm, inf, 2 or 1.
        clip: (low, high), the range of the data, for norm inf.
        reduction: "mean" or "sum" over the examples, or "none".

    Returns:
        A scalar, or (N,) with reduction "none", differentiable in the model's parameters. Below log
        2 the label of an example is certain.

    Raises:
        ValueError: bad numbers or shapes, or outputs of another shape.
        UnsupportedOperation: the model contains an operation that has no bound operator.

    Source:
        Gowal et al., On the Effectiveness of Interval Bound Propagation for Training Verifiably
        Robust Models, 2018.

    Example:
        >>> model = nn.Linear(2, 3)
        >>> x, y = torch.rand(4, 2), torch.tensor([0, 2, 1, 0])
        >>> at_x, in_ball = (certified_cross_entropy(model, x, y, eps=eps) for eps in (0.0, 0.1))
        >>> bool(in_ball > at_x), torch.allclose(at_x, F.cross_entropy(model(x), y))
        (True, True)
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}; given: {reduction!r}.")
    xs = check_inputs(x)
    with torch.inference_mode(False):
        balls = make_balls(x, None, eps, norm, clip)
        intervals = _intervals(model, xs)
        boxes = [input_interval(part, ball) for part, ball in zip(xs, balls, strict=True)]
        margins = intervals.linear(xs, boxes, _rivals(y, xs[0], intervals.module.size)).lower
    return REDUCTIONS[reduction](F.softplus(torch.logsumexp(-margins, 1)))


def _intervals(model: nn.Module, xs: tuple[Tensor, ...]) -> IntervalPass:
    """The pass over a model, traced for inputs of these shapes and kept for as long as the model
    lives.
    """
    known = _PASSES.setdefault(model, {})
    key = tuple((x.shape[1:], x.dtype, x.device) for x in xs)
    with evaluating(model):
        if key not in known or not known[key][0].matches(model=model):
            module, made_with = fingerprinted(lambda: capture_program(output(), model, xs),
                                              model=model)
            if len(module.cotangent_shape) > 1 or module.size == 0:
                raise ValueError("The model's outputs must be (N, classes), (N, 1) or (N,); they "
                                 f"are (N, {', '.join(map(str, module.cotangent_shape))}).")
            known[key] = made_with, IntervalPass(module)
    return known[key][1]


def _rivals(y: Tensor, x: Tensor, classes: int) -> Tensor:
    """Margins over the other classes as linear functions of the output, (N, R, K): R = 1 for one
    output, else K - 1.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a tensor of labels; given: {type(y).__name__}.")
    check_kind(y, "y")
    is_label = not y.is_floating_point() and y.dtype != torch.bool
    if y.shape != x.shape[:1] or not is_label or not bool(((0 <= y) & (y < max(2, classes))).all()):
        raise ValueError(f"y must be {len(x)} integer labels from 0 to {max(2, classes) - 1}; "
                         f"given: {y.dtype} of shape {tuple(y.shape)}.")
    if classes == 1:
        return (2 * y - 1).to(x)[:, None, None]
    eye = torch.eye(classes, dtype=x.dtype, device=x.device)
    others = torch.arange(classes, device=y.device)[None] != y[:, None]
    return (eye[y][:, None] - eye[None])[others].reshape(len(y), classes - 1, classes)
