"""Moving within a ball: projections onto it, steps of steepest ascent, and points drawn from it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..bounding.ball import Ball

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
    "geometric": lambda done: 0.01**done,
}
"""Step schedules: share of the steps that are done, from 0 to below 1 -> factor of the first step's length."""


def project(ball: Ball, center: Tensor, points: Tensor) -> Tensor:
    """The nearest points of the ball.

    min |y - x|_2 over y in the ball. A ball of norm 2 or 1 is first made smaller by a few roundings, so that no point
    returned lies outside.

    Args:
        ball: the ball of each example.
        center: (N, *S).
        points: (N, *S).

    Returns:
        (N, *S).

    Source:
        For norm 1: Duchi et al., Efficient Projections onto the l1-Ball for Learning in High Dimensions, 2008.

    Example:
        >>> from lirpa_explain.bounding.ball import make_balls
        >>> x = torch.zeros(1, 2)
        >>> ball, = make_balls(x, eps=1.0, norm=1)
        >>> project(ball, x, torch.tensor([[2.0, 1.0]])).round(decimals=4).tolist()
        [[1.0, 0.0]]
    """
    if ball.radius is None:
        return torch.minimum(torch.maximum(points, ball.low), ball.high)
    move = (points - center).flatten(1)
    radius = ball.radius * (1 - 32 * torch.finfo(points.dtype).eps)
    if ball.norm == 2:
        length = torch.linalg.vector_norm(move, dim=1, keepdim=True)
        move = move * (radius / length.clamp(min=torch.finfo(move.dtype).tiny)).clamp(max=1)
    else:
        sizes = move.abs().sort(1, descending=True).values
        ranks = torch.arange(1, sizes.shape[1] + 1, device=sizes.device)
        levels = (sizes.cumsum(1) - radius) / ranks
        count = (sizes > levels).sum(1, keepdim=True).clamp(min=1)
        level = levels.gather(1, count - 1).clamp(min=0)
        move = move.sign() * (move.abs() - level).clamp(min=0)
    return center + move.reshape(points.shape)


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
    flat = gradient.flatten(1)
    if ball.norm == 2:
        direction = flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    else:
        largest = flat.abs().argmax(1, keepdim=True)
        direction = torch.zeros_like(flat).scatter(1, largest, flat.sign().gather(1, largest))
    return project(ball, center, points + (size * ball.radius * direction).reshape(points.shape))


def flip(ball: Ball, center: Tensor, points: Tensor, gradient: Tensor, size: float) -> Tensor:
    """One step towards a corner: the entries that gain most by it, to first order, go to the end of their range.

    Where the attribution is piecewise constant, a gradient says which way to go and not how far. Balls of norm 2 and 1
    have no corners: there it is `ascend`.

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


def draw(ball: Ball | None, center: Tensor, extreme: bool, generator: torch.Generator) -> Tensor:
    """A random point of each example's ball.

    Args:
        ball: None for an input that is held fixed.
        center: (N, *S).
        extreme: a corner of a box, a point of the sphere of norm 2, a vertex of norm 1; else one from the inside.
        generator: on the CPU, so that all devices draw the same.

    Returns:
        (N, *S).
    """
    if ball is None:
        return center
    uniform = _random(torch.rand, center.shape, generator).to(center)
    if ball.radius is None:
        share = uniform.round() if extreme else uniform
        return project(ball, center, torch.lerp(ball.low, ball.high, share))
    normal = _random(torch.randn, center.shape, generator).to(center).flatten(1)
    if ball.norm == 1 and extreme:
        largest = normal.abs().argmax(1, keepdim=True)
        move = torch.zeros_like(normal).scatter(1, largest, normal.sign().gather(1, largest))
    else:
        move = normal if ball.norm == 2 else -torch.log1p(-uniform).flatten(1) * normal.sign()
        move = move / torch.linalg.vector_norm(move, ord=ball.norm, dim=1, keepdim=True)
    if not extreme:
        move = move * _random(torch.rand, (len(move), 1), generator).to(move) ** (1 / move.shape[1])
    return project(ball, center, center + (ball.radius * move).reshape(center.shape))


def _random(kind: Callable[..., Tensor], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random numbers where the generator is, whatever the default device and type."""
    return kind(shape, generator=generator, dtype=torch.float64, device=generator.device)
