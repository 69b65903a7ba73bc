"""Points of a ball: projections onto it, and random ones."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..boxes import Box
from ..rounding import INSIDE, least, roundings
from .ball import Ball


def project(ball: Ball, center: Tensor, points: Tensor) -> Tensor:
    """The nearest points of the ball.

    min |y - x|_2 over y in the ball. A ball of norm 2 or 1 is first made smaller by a few
    roundings, so that no point returned lies outside.

    Args:
        ball: the ball of each example.
        center: (N, *S).
        points: (N, *S).

    Returns:
        (N, *S).

    Source:
        For norm 1: Duchi et al., Efficient Projections onto the l1-Ball for Learning in High
        Dimensions, 2008.

    Example:
        >>> from lirpa_explain.bounding.ball import make_balls
        >>> x = torch.zeros(1, 2)
        >>> ball, = make_balls(x, eps=1.0, norm=1)
        >>> project(ball, x, torch.tensor([[2.0, 1.0]])).round(decimals=4).tolist()
        [[1.0, 0.0]]
    """
    if ball.radius is None:
        return Box(ball.low, ball.high).nearest(points)
    move = _free(ball, (points - center).flatten(1))
    radius = ball.radius * (1 - roundings(INSIDE, points.dtype))
    if ball.norm == 2:
        length = torch.linalg.vector_norm(move, dim=1, keepdim=True)
        move = move * (radius / length.clamp(min=least(move.dtype))).clamp(max=1)
    else:
        sizes = move.abs().sort(1, descending=True).values
        ranks = torch.arange(1, sizes.shape[1] + 1, device=sizes.device)
        levels = (sizes.cumsum(1) - radius) / ranks
        count = (sizes > levels).sum(1, keepdim=True).clamp(min=1)
        level = levels.gather(1, count - 1).clamp(min=0)
        move = move.sign() * (move.abs() - level).clamp(min=0)
    return center + move.reshape(points.shape)


def draw(ball: Ball | None, center: Tensor, extreme: bool, generator: torch.Generator) -> Tensor:
    """A random point of each example's ball.

    Args:
        ball: None for an input that is held fixed.
        center: (N, *S).
        extreme: a corner of a box, a point of the sphere of norm 2, a vertex of norm 1; else one
            from the inside.
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
    normal = _free(ball, _random(torch.randn, center.shape, generator).to(center).flatten(1))
    if ball.norm == 1 and extreme:
        largest = normal.abs().argmax(1, keepdim=True)
        move = torch.zeros_like(normal).scatter(1, largest, normal.sign().gather(1, largest))
    else:
        move = normal if ball.norm == 2 else -torch.log1p(-uniform).flatten(1) * normal.sign()
        length = torch.linalg.vector_norm(move, ord=ball.norm, dim=1, keepdim=True)
        move = move / length.clamp(min=least(move.dtype))
    if not extreme:
        move = move * _random(torch.rand, (len(move), 1), generator).to(move) ** (1 / move.shape[1])
    return project(ball, center, center + (ball.radius * move).reshape(center.shape))


def _free(ball: Ball, move: Tensor) -> Tensor:
    """A move (N, D), 0 in the entries that a ball of norm 2 or 1 holds fixed."""
    return move if ball.free is None else move * ball.free.flatten(1)


def _random(kind: Callable[..., Tensor], shape: tuple[int, ...],
            generator: torch.Generator) -> Tensor:
    """Random numbers where the generator is, whatever the default device and type."""
    return kind(shape, generator=generator, dtype=torch.float64, device=generator.device)
