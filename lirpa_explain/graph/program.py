"""What is recorded for one row: torch code that computes gradients at points which depend on the perturbed inputs.

A row has the inputs x, which may be perturbed, and tensors of its own, which may not. Points are affine in x, entry by
entry, so a ball of any kind around x stays exact.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Values = Mapping[str, tuple[Tensor, ...]]
Compute = Callable[[Callable[..., Tensor], Values, Any], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Point:
    """A tensor for each input of the model, from that input and tensors of the row.

    Args:
        tensors: names of the row's tensors that are read, one for each input.
        function: `function(x, *tensors)`, affine in x.
    """

    tensors: tuple[str, ...]
    function: Callable[..., Tensor]


POINTS: dict[str, Point] = {
    "input": Point((), lambda x: x),
    "noisy": Point(("noise",), lambda x, noise: x + noise),
    "path": Point(("scale", "shift"), lambda x, scale, shift: x * scale + shift),
    "next": Point(("next_scale", "next_shift"), lambda x, scale, shift: x * scale + shift),
    "difference": Point(("offset",), lambda x, offset: x + offset),
    "baseline": Point(("baseline",), lambda x, baseline: baseline),
}
"""The points that a program can ask for: the input; with its noise; on a path; the following one on that path; the
input minus its baseline; that baseline. Scales have one entry for each row, (B, 1, ..., 1), all others (B, *S)."""


@dataclass(frozen=True)
class Program:
    """What a row computes.

    Args:
        key: equal for programs that compute the same.
        points: names of the points, of `POINTS`, that it reads.
        compute: `compute(call, points, cotangent)` returns tensors (B, *T), the row's results. `call(*tensors)` is the
            model with its further arguments; `points` maps each name to a tensor (B, *S) for each input, and "alpha" to
            one tensor (B,) if `alpha` is True; `cotangent` is what the model's output is multiplied by before it is
            differentiated.
        alpha: whether the row's place on the path is read.
        differentiates: whether the cotangent is read; None is passed if not.
    """

    key: Hashable
    points: tuple[str, ...]
    compute: Compute = field(compare=False)
    alpha: bool = False
    differentiates: bool = True

    @property
    def identity(self) -> Hashable:
        """Equal for programs that are equal, and without their function, which may hold the model."""
        return self.key, self.points, self.alpha, self.differentiates

    def tensors(self) -> list[str]:
        """Names of the row's tensors, of which there is one for each input."""
        return list(dict.fromkeys(name for point in self.points for name in POINTS[point].tensors))


def output() -> Program:
    """The model's output itself."""

    def compute(call: Callable[..., Tensor], points: Values, _: None) -> tuple[Tensor, ...]:
        return (call(*points["input"]),)

    return Program(("output",), ("input",), compute, differentiates=False)


def gradient(point: str = "input") -> Program:
    """The gradient at a point with respect to it."""

    def compute(call: Callable[..., Tensor], points: Values, cotangent: Tensor) -> tuple[Tensor, ...]:
        zs = leaves(points[point])
        return torch.autograd.grad(call(*zs), zs, cotangent)

    return Program(("gradient", point), (point,), compute)


def multiplied(program: Program) -> Program:
    """What a program computes for each input, times that input minus its baseline."""

    def compute(call: Callable[..., Tensor], points: Values, cotangent: Tensor) -> tuple[Tensor, ...]:
        results = program.compute(call, points, cotangent)
        return tuple(result * factor for result, factor in zip(results, points["difference"], strict=True))

    return Program((program.key, "multiplied"), (*program.points, "difference"), compute, program.alpha)


def segment_gradient() -> Program:
    """The gradient at b + s (x - b) with respect to it, where the place s on the path may be perturbed too.

    That point is a product of what may move, so it is bounded by planes in x and s and not by a box around the path.
    """

    def compute(call: Callable[..., Tensor], points: Values, cotangent: Tensor) -> tuple[Tensor, ...]:
        place, = points["alpha"]
        zs = leaves(tuple(baseline + place.reshape(-1, *[1] * (difference.ndim - 1)) * difference
                          for baseline, difference in zip(points["baseline"], points["difference"], strict=True)))
        return torch.autograd.grad(call(*zs), zs, cotangent)

    return Program(("segment gradient",), ("difference", "baseline"), compute, alpha=True)


def noisy(program: Program) -> Program:
    """A program at the input with its noise, in place of the input."""
    if "input" not in program.points:
        return program

    def compute(call: Callable[..., Tensor], points: Values, cotangent: Tensor) -> tuple[Tensor, ...]:
        return program.compute(call, {**points, "input": points["noisy"]}, cotangent)

    points = dict.fromkeys("noisy" if point == "input" else point for point in program.points)
    return Program((program.key, "noisy"), tuple(points), compute, program.alpha)


def leaves(tensors: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The same values as tensors that a gradient can be taken with respect to."""
    return tuple(x.detach().requires_grad_() for x in tensors)
