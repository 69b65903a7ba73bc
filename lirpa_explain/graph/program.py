"""What is recorded for one row: torch code that computes gradients at points which depend on the
perturbed inputs.

A row has the inputs x, which may be perturbed, and tensors of its own, which may not. Points are
affine in x, entry by entry, so a ball of any kind around x stays exact.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

Values = Mapping[str, tuple[Tensor, ...]]
Compute = Callable[[Callable[..., Tensor], Values, Any], tuple[Tensor, ...]]


class Places(Protocol):
    """Where B rows of a plan lie: what their tensors are made of. Each method is asked for one
    input of the model.
    """

    @property
    def scale(self) -> Tensor:
        """Place of each row on its path, (B,)."""

    @property
    def next_scale(self) -> Tensor:
        """The following place on that path, (B,)."""

    @property
    def cotangent(self) -> Tensor:
        """What the model's output is multiplied by, (B, *T)."""

    def x(self, i: int) -> Tensor:
        """The input, (B, *S)."""

    def noise(self, i: int) -> Tensor:
        """What is added to it, (B, *S)."""

    def baseline(self, i: int) -> Tensor | None:
        """Its baseline, (B, *S); None where there is no path."""

    def partner(self, i: int) -> Tensor:
        """That input of another example, (B, *S)."""

    def argument(self, i: int) -> Tensor:
        """What is made of the model's further arguments that have rows, (B, ...)."""


@dataclass(frozen=True)
class RowTensor:
    """A kind of tensor that rows have.

    Args:
        make: `make(places, i)` is that of input i, at places of a plan.
        example: one for rows of an input, (B, *S), to record a program with.
        summed: whether it is a sum of what Captum adds up in another order, so that roundings move
            it.
        single: whether there is one, and not one for each input of the model.
    """

    make: Callable[[Places, int], Tensor]
    example: Callable[[Tensor], Tensor] = torch.zeros_like
    summed: bool = False
    single: bool = False


@dataclass(frozen=True)
class Point:
    """A tensor for each input of the model, from that input and tensors of the row.

    Args:
        tensors: the row's tensors that are read, one for each input, by name.
        function: `function(x, *tensors)`, affine in x.
    """

    tensors: Mapping[str, RowTensor]
    function: Callable[..., Tensor]


def offset(places: Places, i: int) -> Tensor:
    """The noise less the baseline of an input: what the multiplier adds to it."""
    baseline = places.baseline(i)
    return places.noise(i) if baseline is None else places.noise(i) - baseline


def _column(scale: Tensor, x: Tensor) -> Tensor:
    """A number for each row, (B,), in a shape that broadcasts to x."""
    return scale.reshape(-1, *[1] * (x.ndim - 1))


def _shift(places: Places, i: int, scale: Tensor) -> Tensor:
    """S e + (1 - s) b."""
    noise, baseline = places.noise(i), places.baseline(i)
    column = _column(scale, noise)
    return column * noise if baseline is None else column * noise + (1 - column) * baseline


def _ones(x: Tensor) -> Tensor:
    return x.new_ones(len(x), *[1] * (x.ndim - 1))


POINTS: dict[str, Point] = {
    "input": Point({}, lambda x: x),
    "noisy": Point({"noise": RowTensor(lambda at, i: at.noise(i), summed=True)}, lambda x,
                   noise: x + noise),
    "path": Point({
        "scale": RowTensor(lambda at, i: _column(at.scale, at.x(i)), _ones),
        "shift": RowTensor(lambda at, i: _shift(at, i, at.scale), summed=True),
    }, lambda x, scale, shift: x * scale + shift),
    "next": Point({
        "next_scale": RowTensor(lambda at, i: _column(at.next_scale, at.x(i)), _ones),
        "next_shift": RowTensor(lambda at, i: _shift(at, i, at.next_scale), summed=True),
    }, lambda x, scale, shift: x * scale + shift),
    "difference": Point({"offset": RowTensor(offset, summed=True)}, lambda x, offset: x + offset),
    "baseline": Point({"baseline": RowTensor(lambda at, i: _given(at.baseline(i)))}, lambda x,
                      baseline: baseline),
    "partner": Point({"partner": RowTensor(lambda at, i: at.partner(i))}, lambda x,
                     partner: partner),
}
"""The points that a program can ask for: the input; with its noise; on a path; the following one on
that path; the input minus its baseline; that baseline; the input of another example, which is
perturbed as that example is. Scales have one entry for each row, (B, 1, ..., 1), all others (B,
*S)."""


def _given(baseline: Tensor | None) -> Tensor:
    if baseline is None:
        raise ValueError("This program reads a baseline; the plan has none. Give "
                         "Plan(baselines=...).")
    return baseline


KINDS: dict[str, RowTensor] = {
    "x": RowTensor(lambda at, i: at.x(i)),
    **{name: tensor for point in POINTS.values() for name, tensor in point.tensors.items()},
    "alpha": RowTensor(lambda at, i: at.scale, single=True),
    "argument": RowTensor(lambda at, i: at.argument(i)),
    "cotangent": RowTensor(lambda at, i: at.cotangent, single=True),
}
"""All tensors that rows have, by name: the input itself, those of points, the place on the path as
a number, arguments of the model, and the cotangent."""


def input_names(kind: str, count: int) -> list[str]:
    """Names of a recorded module's inputs of one kind.

    Example:
        >>> input_names("shift", 2), input_names("alpha", 1)
        (['shift0', 'shift1'], ['alpha'])
    """
    return [kind] if KINDS[kind].single else [f"{kind}{i}" for i in range(count)]


@dataclass(frozen=True)
class Program:
    """What a row computes.

    Args:
        key: equal for programs that compute the same.
        points: names of the points, of `POINTS`, that it reads.
        compute: `compute(call, points, cotangent)` returns tensors (B, *T), the row's results.
            `call(*tensors)` is the model with its further arguments; `points` maps each name to a
            tensor (B, *S) for each input, and "alpha" to one tensor (B,) if `alpha` is True;
            `cotangent` is what the model's output is multiplied by before it is differentiated.
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
        """Equal for programs that are equal, and without their function, which may hold the
        model.
        """
        return self.key, self.points, self.alpha, self.differentiates

    def tensors(self) -> dict[str, RowTensor]:
        """The row's tensors of which there is one for each input, by name."""
        return {name: tensor for point in self.points
                for name, tensor in POINTS[point].tensors.items()}


def output() -> Program:
    """The model's output itself."""

    def compute(call: Callable[..., Tensor], points: Values, _: None) -> tuple[Tensor, ...]:
        return (call(*points["input"]),)

    return Program(("output",), ("input",), compute, differentiates=False)


def gradient(point: str = "input") -> Program:
    """The gradient at a point with respect to it."""

    def compute(call: Callable[..., Tensor], points: Values,
                cotangent: Tensor) -> tuple[Tensor, ...]:
        zs = leaves(points[point])
        return torch.autograd.grad(call(*zs), zs, cotangent)

    return Program(("gradient", point), (point,), compute)


def multiplied(program: Program) -> Program:
    """What a program computes for each input, times that input minus its baseline."""

    def compute(call: Callable[..., Tensor], points: Values,
                cotangent: Tensor) -> tuple[Tensor, ...]:
        results = program.compute(call, points, cotangent)
        return tuple(result * factor
                     for result, factor in zip(results, points["difference"], strict=True))

    return Program((program.key, "multiplied"), (*program.points, "difference"), compute,
                   program.alpha)


def segment_gradient() -> Program:
    """The gradient at b + s (x - b) with respect to it, where the place s on the path may be
    perturbed too.

    That point is a product of what may move, so it is bounded by planes in x and s and not by a box
    around the path.
    """

    def compute(call: Callable[..., Tensor], points: Values,
                cotangent: Tensor) -> tuple[Tensor, ...]:
        place, = points["alpha"]
        zs = leaves(tuple(
            baseline + place.reshape(-1, *[1] * (difference.ndim - 1)) * difference
            for baseline, difference in zip(points["baseline"], points["difference"], strict=True)))
        return torch.autograd.grad(call(*zs), zs, cotangent)

    return Program(("segment gradient",), ("difference", "baseline"), compute, alpha=True)


def noisy(program: Program) -> Program:
    """A program at the input with its noise, in place of the input."""
    if "input" not in program.points:
        return program

    def compute(call: Callable[..., Tensor], points: Values,
                cotangent: Tensor) -> tuple[Tensor, ...]:
        return program.compute(call, {**points, "input": points["noisy"]}, cotangent)

    points = dict.fromkeys("noisy" if point == "input" else point for point in program.points)
    return Program((program.key, "noisy"), tuple(points), compute, program.alpha)


def leaves(tensors: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The same values as tensors that a gradient can be taken with respect to."""
    return tuple(x.detach().requires_grad_() for x in tensors)
