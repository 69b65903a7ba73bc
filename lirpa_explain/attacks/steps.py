"""Moving within a ball: steps of steepest ascent, and towards corners."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..bounding.ball import Ball
from ..bounding.points import project
from ..rounding import least

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
    "geometric": lambda done: 0.01**done,
}
"""Step schedules: share of the steps that are done, from 0 to below 1 -> factor of the first step's
length."""


def ascend(ball: Ball, center: Tensor, points: Tensor, gradient: Tensor, size: float) -> Tensor:
    """One step of steepest ascent in the ball's norm, projected onto the ball.

    Args:
        ball: the ball of each example.
        center: (N, *S).
        points: (N, *S), where the gradient was taken.
        gradient: (N, *S).
        size: length of the step, as a share of the radius.

    Returns:
        (N, *S).
    """
    if ball.radius is None:
        return project(ball, center, points + size / 2 * (ball.high - ball.low) * gradient.sign())
    flat = gradient.flatten(1) if ball.free is None else (gradient * ball.free).flatten(1)
    if ball.norm == 2:
        direction = flat / torch.linalg.vector_norm(flat, dim=1,
                                                    keepdim=True).clamp(min=least(flat.dtype))
    else:
        largest = flat.abs().argmax(1, keepdim=True)
        direction = torch.zeros_like(flat).scatter(1, largest, flat.sign().gather(1, largest))
    return project(ball, center, points + (size * ball.radius * direction).reshape(points.shape))


def flip(ball: Ball, center: Tensor, points: Tensor, gradient: Tensor, size: float) -> Tensor:
    """One step towards a corner: the entries that gain most by it, to first order, go to the end of
    their range.

    Where the attribution is piecewise constant, a gradient says which way to go and not how far.
    Balls of norm 2 and 1 have no corners: there it is `ascend`.

    Args:
        ball: the ball of each example.
        center: (N, *S).
        points: (N, *S), where the gradient was taken.
        gradient: (N, *S).
        size: twice the share of the entries that move, at least one of each example.

    Returns:
        (N, *S).
    """
    if ball.radius is not None:
        return ascend(ball, center, points, gradient, size)
    ends = torch.where(gradient > 0, ball.high, ball.low)
    gain = (gradient * (ends - points)).flatten(1)
    chosen = gain.topk(math.ceil(size / 2 * gain.shape[1]), 1).indices
    moved = torch.zeros_like(gain, dtype=torch.bool).scatter(1, chosen, True) & (gain > 0)
    return torch.where(moved.reshape(points.shape), ends, points)
