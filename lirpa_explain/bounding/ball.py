"""The set of inputs a certificate speaks of: a ball around each example, one for each input
tensor.
"""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from auto_LiRPA import BoundedTensor, PerturbationLpNorm
from torch import Tensor

from ..tensors import check_kind, plain
from .words import radius_words

NORMS = (math.inf, 2, 1)


@dataclass(frozen=True)
class Ball:
    """All x' with |x' - x|_norm <= radius; for norm inf a box, whose sides may differ.

    Args:
        norm: inf, 2 or 1.
        low: smallest value of each entry over the ball, (N, *S).
        high: largest value of each entry, (N, *S).
        radius: (N, 1) for norm 2 and 1; None for norm inf.
        words: the perturbation for people.
        named: the same, given the names of the features; None where these add nothing.
        common: (1, *S), the radius of the box around the ball, if it is the same for all examples;
            else None.
        free: (N, *S), bool: the entries that move, of a ball of norm 2 or 1 in which some are held
            fixed; else None.
    """

    norm: float
    low: Tensor
    high: Tensor
    radius: Tensor | None
    words: str
    common: Tensor | None = None
    named: Callable[[Sequence[str]], str] | None = None
    free: Tensor | None = None

    def rows(self, index: Tensor) -> PerturbationLpNorm:
        """The balls of these examples, one for each row, as auto_LiRPA takes them."""
        if self.radius is None:
            return PerturbationLpNorm(norm=math.inf, x_L=self.low[index], x_U=self.high[index])
        with np.errstate(divide="ignore"):  # auto_LiRPA divides by 1 - 1 / norm
            if self.free is not None:
                return HeldPerturbation(self.norm, self.radius[index], self.free[index])
            return PerturbationLpNorm(norm=self.norm, eps=self.radius[index])

    def held(self, x: Tensor, fixed: Tensor) -> "Ball":
        """The points of the ball around x, (N, *S), that agree with it where `fixed`, (N, *S), is
        True.
        """
        low, high = (torch.where(fixed, x, side) for side in (self.low, self.high))
        count, named = f", {int(fixed.sum())} of {fixed.numel()} entries held fixed", self.named
        free = None if self.radius is None else ~fixed if self.free is None else ~fixed & self.free
        return replace(self, low=low, high=high, words=self.words + count, common=None, free=free,
                       named=None if named is None else lambda names: named(names) + count)


class HeldPerturbation(PerturbationLpNorm):
    """A ball of norm 2 or 1 in which some entries are held fixed.

    Intervals, for which auto_LiRPA reads norm and radius alone, are those of the whole ball.

    Args:
        norm: 2 or 1.
        eps: radii, (B, 1).
        free: (B, *S), bool: the entries that move.
    """

    def __init__(self, norm: float, eps: Tensor, free: Tensor) -> None:
        super().__init__(norm=norm, eps=eps)
        self.free = free

    def concretize(self, x: Tensor, A: Any, sign: int = -1, *rest: Any, **keywords: Any) -> Any:
        """As auto_LiRPA's, where coefficients of entries that are held fixed reach their values
        alone.
        """
        if not isinstance(A, Tensor):
            return super().concretize(x, A, sign, *rest, **keywords)
        flat, free = A.flatten(2), self.free.flatten(1)[:, None]
        value = super().concretize(x, flat * free, sign, *rest, **keywords)
        return value + torch.where(free, 0, flat).matmul(x.flatten(1)[:, :, None]).squeeze(
            -1).reshape(value.shape)


def make_balls(inputs: Tensor | tuple[Tensor, ...], perturbation: Any = None, eps: Any = None,
               norm: float = math.inf,
               clip: Any = None, may_be_fixed: bool = False) -> tuple[Ball | None, ...]:
    """The balls of all inputs, from whichever of the ways of giving them the caller chose.

    Args:
        inputs: one tensor or a tuple, each (N, *S); `BoundedTensor`s bring their own perturbation.
        perturbation: an auto_LiRPA `PerturbationLpNorm`, or a tuple of them with None for inputs
            held fixed.
        eps: radius: a number, a tensor that broadcasts to the input (for norm 2 and 1: one number
            an example), or a tuple with one of these, or None for a fixed input, for each input.
        norm: inf, 2 or 1; used with `eps`.
        clip: (low, high), numbers or tensors, to which a ball of norm inf is cut; used with `eps`.
        may_be_fixed: whether all inputs may be held fixed, and none of the ways chosen: something
            else moves.

    Returns:
        One `Ball` for each input; None for inputs held fixed.

    Raises:
        ValueError: no perturbation or two of them, or bad numbers.
        TypeError: an argument of a wrong type.

    Example:
        >>> ball, = make_balls(torch.tensor([[0.0, 0.5]]), eps=0.25, clip=(0, 1))
        >>> ball.low.tolist(), ball.high.tolist()
        ([[0.0, 0.25]], [[0.25, 0.75]])
    """
    xs = inputs if isinstance(inputs, tuple) else (inputs,)
    carried = [getattr(x, "ptb", None) if isinstance(x, BoundedTensor) else None for x in xs]
    given = {"perturbation": perturbation is not None, "eps": eps is not None,
             "a BoundedTensor": any(p is not None for p in carried)}
    if may_be_fixed and not any(given.values()):
        return (None,) * len(xs)
    if sum(given.values()) != 1:
        chosen = " and ".join(name for name, is_given in given.items() if is_given) or "none"
        raise ValueError("Give the perturbation in exactly one way: eps, perturbation, or "
                         f"BoundedTensor inputs; given: {chosen}.")
    if eps is not None:
        radii = _each(eps, len(xs), "eps")
        clips = _each(clip, len(xs), "clip", pair=True)
        balls = tuple(None if e is None else _from_eps(plain(x), e, norm, c)
                      for x, e, c in zip(xs, radii, clips, strict=True))
    else:
        if clip is not None or norm != math.inf:
            raise ValueError("clip and norm go with eps; an auto_LiRPA perturbation has its own.")
        perturbations = (carried
                         if perturbation is None else _each(perturbation, len(xs), "perturbation"))
        balls = tuple(None if p is None else _from_perturbation(plain(x), p)
                      for x, p in zip(xs, perturbations, strict=True))
    if all(ball is None for ball in balls) and not may_be_fixed:
        raise ValueError("All inputs are held fixed; perturb at least one of them.")
    return balls


def check_has_radius(inputs: tuple[Tensor, ...], perturbation: Any,
                     balls: tuple[Ball | None, ...]) -> float:
    """The norm of balls that can be made again with another radius.

    Args:
        inputs: each (N, *S), as the caller gave them.
        perturbation: as the caller gave it.
        balls: made of these.

    Raises:
        ValueError: there are none, they are boxes given by x_L and x_U, or of several norms.
    """
    carried = ([getattr(x, "ptb", None) for x in inputs]
               if perturbation is None else _each(perturbation, len(inputs), "perturbation"))
    if any(getattr(p, end, None) is not None for p in carried for end in ("x_L", "x_U")):
        raise ValueError("The certificate's box was given by x_L and x_U, and so has no radius to "
                         "vary; certify with eps, and with clip for the range of the data.")
    norms = {ball.norm for ball in balls if ball is not None}
    if not norms:
        raise ValueError("The certificate's inputs are held fixed: there is no radius to vary; "
                         "certify with eps.")
    if len(norms) > 1:
        raise ValueError(f"The certificate's balls are of the norms {sorted(norms)}; certify with "
                         "eps and one norm.")
    return norms.pop()


def _each(value: Any, count: int, name: str, pair: bool = False) -> Sequence[Any]:
    """One value for each of `count` inputs, from one value or a tuple of them."""
    is_tuple = (isinstance(value, tuple)
                and not (pair and not any(isinstance(v, tuple) or v is None for v in value)))
    if not is_tuple:
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} entries for {count} inputs; give one for each, "
                         "None for inputs held fixed.")
    return value


def _from_eps(x: Tensor, eps: Any, norm: float, clip: Any) -> Ball:
    if isinstance(norm, bool) or norm not in NORMS:
        raise ValueError(f"norm must be math.inf, 2 or 1; given: {norm!r}.")
    if isinstance(eps, bool) or not isinstance(eps, numbers.Real | Tensor) or \
            isinstance(eps, Tensor) and (eps.is_complex() or eps.dtype == torch.bool):
        kind = f"a tensor of {eps.dtype}" if isinstance(eps, Tensor) else type(eps).__name__
        advice = (" Radii by name: perturbation=Table(features, ...).around(inputs, eps)."
                  * isinstance(eps, Mapping))
        raise TypeError(f"eps must be a number or a tensor; given: {kind}.{advice}")
    given = radius = _like(eps, x)
    if not bool(torch.isfinite(radius).all()) or bool((radius < 0).any()):
        raise ValueError(f"eps must be finite and at least 0; given: {eps}.")
    per_example = torch.Size((x.shape[0], *[1] * (x.ndim - 1)))
    shape = x.shape if norm == math.inf else per_example
    try:
        radius = radius.broadcast_to(shape)
    except RuntimeError:
        per = "" if norm == math.inf else ", one number an example for norm 2 and 1"
        raise ValueError(f"eps of shape {tuple(radius.shape)} does not broadcast to "
                         f"{tuple(shape)}{per}.") from None
    if norm != math.inf:
        if clip is not None:
            raise ValueError("clip needs norm=math.inf: an l1 or l2 ball cut by a range has no "
                             "exact bounds here.")
        words = f"l{norm:g} ball, radius {radius_words(given, x.ndim)}"
        return Ball(norm, x - radius, x + radius, radius.reshape(-1, 1), words, _common(eps, x))
    low, high, cut = x - radius, x + radius, ""
    if clip is not None:
        low, high = _cut(x, low, high, clip)
        cut = f", within [{_number(clip[0])}, {_number(clip[1])}]"

    def named(names: Sequence[str] | None) -> str:
        return f"linf ball, radius {radius_words(given, x.ndim, names)}{cut}"

    return Ball(norm, low, high, None, named(None), _common(eps, x) if clip is None else None,
                named if given.numel() > 1 else None)


def _common(eps: Any, x: Tensor) -> Tensor | None:
    """A radius that is one number, as a row of entries."""
    return None if isinstance(eps, Tensor) else x.new_full((1, *x.shape[1:]), float(eps))


def _cut(x: Tensor, low: Tensor, high: Tensor, clip: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(clip, tuple | list) or len(clip) != 2:
        raise TypeError(f"clip must be a pair (low, high); given: {clip!r}.")
    if not all(isinstance(c, numbers.Real | Tensor) for c in clip):
        raise TypeError(f"clip must be a pair (low, high) of numbers or tensors; given: {clip!r}.")
    try:
        floor, ceiling = (_like(c, x).broadcast_to(x.shape) for c in clip)
    except RuntimeError:
        raise ValueError(f"clip's numbers or tensors must broadcast to {tuple(x.shape)}, the shape "
                         "of the input.") from None
    if not bool((floor <= x).all()) or not bool((x <= ceiling).all()):
        raise ValueError(f"The input reaches beyond clip={clip}: its smallest value is "
                         f"{float(x.min()):.6g}, its largest {float(x.max()):.6g}. Give the range "
                         "that the data really has.")
    return torch.maximum(low, floor), torch.minimum(high, ceiling)


def _like(value: Any, x: Tensor) -> Tensor:
    """A number or tensor in the type of x at once: torch's own default would round float64 numbers
    to float32.
    """
    if isinstance(value, Tensor):
        check_kind(value, "eps, clip, x_L and x_U")
    try:
        return plain(torch.as_tensor(value, dtype=x.dtype, device=x.device))
    except OverflowError:
        raise ValueError(f"A number is too large for {x.dtype}: {value!r:.40}.") from None


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else "tensor"


def _from_perturbation(x: Tensor, perturbation: Any) -> Ball:
    if not isinstance(perturbation, PerturbationLpNorm):
        raise TypeError("perturbation must be auto_LiRPA's PerturbationLpNorm; given: "
                        f"{type(perturbation).__name__}.")
    norm = float(perturbation.norm)
    low, high = getattr(perturbation, "x_L", None), getattr(perturbation, "x_U", None)
    if norm != math.inf:
        if low is not None or high is not None:
            raise ValueError("x_L and x_U go with norm inf; give an l1 or l2 ball by eps alone.")
        return _from_eps(x, perturbation.eps, norm, None)
    if low is None and high is None:
        return _from_eps(x, perturbation.eps, norm, None)
    if low is None or high is None:
        ball = _from_eps(x, perturbation.eps, norm, None)
        low = ball.low if low is None else low
        high = ball.high if high is None else high
    try:
        low, high = (_like(side, x).broadcast_to(x.shape) for side in (low, high))
    except RuntimeError:
        raise ValueError(
            f"x_L and x_U must have the shape of the input, {tuple(x.shape)}.") from None
    if not bool((low <= x).all()) or not bool((x <= high).all()):
        raise ValueError("x_L <= input <= x_U must hold everywhere: the certificate is about a set "
                         "around the input.")
    return Ball(norm, low, high, None, getattr(perturbation, "words", "box given by x_L and x_U"))
