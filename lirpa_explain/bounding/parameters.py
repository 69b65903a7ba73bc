"""The set of parameters a certificate speaks of: a box around each parameter of the model that may
change.
"""

import fnmatch
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from auto_LiRPA import PerturbationLpNorm
from torch import Tensor, nn

from ..boxes import Box
from ..operators.bound import MovingParameter
from ..rounding import roundings

FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16}
QUANTIZATIONS = ("int8", *FLOATS)

ROUNDINGS = roundings(8 * 127, torch.float32)
"""Roundings of the int8 grid's own arithmetic, in float32, as a share of its step."""

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers whose weight has its output channels in dimension 1."""


@dataclass(frozen=True)
class ParameterBox:
    """How far each entry of a parameter may move: |W' - W| <= relative |W| + absolute, or as
    rounding moves it.

    Args:
        relative: share of the entry's own size, at least 0.
        absolute: the same for all entries, at least 0.
        quantization: "int8": rounded to the symmetric grid of step max |W| / 127; "bf16", "fp16":
            rounded to the nearest number of that type. What is rounded are the parameters, not what
            is computed from them.
        per_channel: "int8": one grid for each output channel of a weight, and not one for the
            tensor.
        bias: whether biases move too: parameters whose own name contains "bias".

    Raises:
        ValueError: numbers or a combination of them that mean nothing.

    Example:
        >>> ParameterBox(relative=0.5).radius(torch.tensor([-2.0, 1.0])).tolist()
        [1.0, 0.5]
        >>> # 2 / 254, and roundings
        >>> ParameterBox(quantization="int8").radius(torch.tensor([-2.0, 1.0])).tolist()
        [0.00787..., 0.00787...]
    """

    relative: float = 0.0
    absolute: float = 0.0
    quantization: str | None = None
    per_channel: bool = False
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("relative", "absolute"):
            value = getattr(self, name)
            if (isinstance(value, bool) or not isinstance(value, int | float)
                    or not 0 <= value < math.inf):
                raise ValueError(f"{name} must be a finite number of at least 0; given: {value!r}.")
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise ValueError(f"quantization must be one of {', '.join(QUANTIZATIONS)}, or None; "
                             f"given: {self.quantization!r}.")
        if self.quantization is not None and (self.relative or self.absolute):
            raise ValueError("quantization says how far parameters move; leave out relative and "
                             "absolute.")
        if self.per_channel and self.quantization != "int8":
            raise ValueError("per_channel goes with quantization='int8'.")

    def radius(self, weight: Tensor, channel: int = 0) -> Tensor:
        """How far each entry of a parameter may move, in its shape; differentiable.

        Args:
            weight: the parameter.
            channel: the dimension of its output channels.
        """
        if self.quantization is None:
            return self.relative * weight.abs() + self.absolute
        if self.quantization == "int8":
            return _half_step(weight, channel if self.per_channel and weight.ndim > 1 else None)
        return _half_ulp(weight, self.quantization)

    def box(self, weight: Tensor, channel: int) -> Box:
        """Bounds of a parameter."""
        radius = self.radius(weight, channel)
        return Box(weight - radius, weight + radius)

    def __str__(self) -> str:
        if self.quantization is not None:
            text = f"rounded to {self.quantization}{' per channel' * self.per_channel}"
        else:
            terms = ([f"{self.relative:.6g} |W|"] * (self.relative > 0)
                     + [f"{self.absolute:.6g}"] * (self.absolute > 0))
            text = f"|W' - W| <= {' + '.join(terms) or '0'}"
        return text + ", biases fixed" * (not self.bias)


def _half_step(weight: Tensor, channel: int | None) -> Tensor:
    """Half a step of the symmetric int8 grid, max |W| / 254, and what its own arithmetic rounds."""
    dims = [d for d in range(weight.ndim) if d != channel]
    largest = weight.abs().amax(dims, keepdim=True) if dims else weight.abs()
    return (largest / 127 * (0.5 + ROUNDINGS)).expand_as(weight)


@torch.no_grad()
def _half_ulp(weight: Tensor, name: str) -> Tensor:
    """Half the distance of neighbouring numbers of a type around each entry; 0 where that is 0."""
    limits = torch.finfo(FLOATS[name])
    if not bool(torch.isfinite(weight.to(FLOATS[name])).all()):
        raise ValueError(f"A parameter has entries up to {float(weight.abs().max()):.6g}, which "
                         f"overflow in {name}: its largest number is {limits.max:.6g}.")
    exponent = torch.frexp(weight).exponent - 1  # |W| in [2^e, 2^(e + 1))
    smallest = math.frexp(limits.tiny)[1] - 1
    half = torch.ldexp(torch.full_like(weight, limits.eps / 2), exponent.clamp(min=smallest))
    return torch.where(weight == 0, torch.zeros_like(half), half)


@dataclass(frozen=True)
class Parameters:
    """Boxes of a model's parameters, each parameter once, whatever the number of its names.

    Args:
        tensors: the parameters that move, by name.
        boxes: bounds of each.
        words: the set for people.
    """

    tensors: dict[str, Tensor]
    boxes: dict[str, Box]
    words: str

    def of(self, tensor: Tensor) -> MovingParameter | None:
        """What the engine needs to know of a parameter; None if it does not move."""
        name = next((name for name, own in self.tensors.items() if own is tensor), None)
        return None if name is None else MovingParameter(self.boxes[name], (name,))

    def within(self, module: nn.Module) -> dict[str, MovingParameter]:
        """A module's own parameters that move, by their names in it."""
        found = {name: self.of(tensor) for name, tensor in module.named_parameters(recurse=False)}
        return {name: parameter for name, parameter in found.items() if parameter is not None}

    def draw(self, extreme: bool, generator: torch.Generator) -> dict[str, Tensor]:
        """A random point of all boxes: a corner, or one from the inside; the same on all
        devices.
        """
        values = {}
        for name, (lower, upper) in self.boxes.items():
            share = torch.rand(lower.shape, generator=generator, dtype=torch.float64,
                               device=generator.device)
            share = share.to(lower)
            values[name] = torch.lerp(lower.detach(), upper.detach(),
                                      share.round() if extreme else share)
        return values

    def ascend(self, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor],
               size: float) -> dict[str, Tensor]:
        """One step of steepest ascent, `size` times the radius of each box, that stays within."""
        moved = {}
        for name, box in self.boxes.items():
            still = box.map(torch.Tensor.detach)
            step = size / 2 * still.width * gradients[name].sign()
            moved[name] = still.nearest(values[name] + step)
        return moved

    @property
    def nominal(self) -> dict[str, Tensor]:
        """The values that the model has."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    @contextmanager
    def set_to(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """While it is active, the model's own parameters have these values, and can be
        differentiated by.
        """
        own = {name: (self.tensors[name].data, self.tensors[name].requires_grad) for name in values}
        try:
            for name, value in values.items():
                self.tensors[name].data = value.detach()
                self.tensors[name].requires_grad_()
            yield
        finally:
            for name, (data, requires_grad) in own.items():
                self.tensors[name].data = data
                self.tensors[name].requires_grad_(requires_grad)


def make_parameters(forward: Any, given: Any) -> Parameters | None:
    """The boxes of a model's parameters, from whichever of the ways of giving them the caller
    chose.

    Args:
        forward: the model, or a method of it.
        given: a `ParameterBox` or auto_LiRPA `PerturbationLpNorm` of norm inf for all parameters;
            or a dictionary from names, or patterns of them as `fnmatch` has them, to one of these,
            or to None for those held fixed: of the entries that match, the last counts.

    Returns:
        The parameters that move; None if none does.

    Raises:
        TypeError: `given` is something else.
        ValueError: a name or pattern matches nothing, the model is not known, or a box does not
            contain its parameter.
    """
    if given is None:
        return None
    named = dict(_module(forward).named_parameters())  # tied ones once
    patterns = given if isinstance(given, Mapping) else {"*": given}
    aliases = _aliases(_module(forward))
    chosen: dict[str, Any] = {}
    for pattern, value in patterns.items():
        _check(value)
        matched = {aliases[name]: None
                   for name in aliases if fnmatch.fnmatchcase(name, str(pattern))}
        if not matched:
            raise ValueError(f"No parameter matches {pattern!r}; the model has: "
                             f"{', '.join(named) or 'none'}.")
        chosen.update(dict.fromkeys(matched, value))
    channels = {id(m.weight): 1 for m in _module(forward).modules() if isinstance(m, TRANSPOSED)}
    boxes = {name: _box(name, named[name], chosen[name], channels.get(id(named[name]), 0))
             for name in named if chosen.get(name) is not None}
    boxes = {name: box for name, box in boxes.items() if bool((box[0] < box[1]).any())}
    if not boxes:
        return None
    return Parameters({name: named[name] for name in boxes}, boxes, _words(patterns))


def _module(forward: Any) -> nn.Module:
    model = forward if isinstance(forward, nn.Module) else getattr(forward, "__self__", None)
    if not isinstance(model, nn.Module):
        raise ValueError("parameters needs an attribution of an nn.Module, or of a method of one: "
                         f"this one's function is a {type(forward).__name__}, whose parameters "
                         "have no names.")
    return model


def _aliases(model: nn.Module) -> dict[str, str]:
    """All names of each parameter -> the first of them."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(p), name)
            for name, p in model.named_parameters(remove_duplicate=False)}


def _check(value: Any) -> None:
    if value is None or isinstance(value, ParameterBox):
        return
    if not isinstance(value, PerturbationLpNorm):
        raise TypeError("parameters must be a ParameterBox, an auto_LiRPA PerturbationLpNorm, or a "
                        "dictionary from names or patterns to one of these or None; given: "
                        f"{type(value).__name__}.")
    if float(value.norm) != math.inf:
        raise ValueError(f"Perturbations of parameters must have norm inf; given: {value.norm}.")


def _box(name: str, weight: Tensor, value: Any, channel: int) -> Box:
    if isinstance(value, ParameterBox):
        radius_of = value if value.bias or "bias" not in name.rpartition(".")[2] else ParameterBox()
        return radius_of.box(weight, channel)
    low, high = getattr(value, "x_L", None), getattr(value, "x_U", None)
    eps: Any = 0 if value.eps is None else value.eps

    def like(side: Any) -> Tensor:
        return torch.as_tensor(side, dtype=weight.dtype, device=weight.device)

    try:
        lower = (weight - like(eps) if low is None else like(low)).broadcast_to(weight.shape)
        upper = (weight + like(eps) if high is None else like(high)).broadcast_to(weight.shape)
    except RuntimeError:
        raise ValueError(
            f"The perturbation of {name} must have its shape, {tuple(weight.shape)}.") from None
    if not bool(Box(lower, upper).contains(weight).all()):
        raise ValueError(f"x_L <= parameter <= x_U must hold everywhere, and does not for {name}.")
    return Box(lower, upper)


def _words(patterns: Mapping[Any, Any]) -> str:
    others = {False: "in a given box", True: "held fixed"}
    words = [str(value) if isinstance(value, ParameterBox) else others[value is None]
             for value in patterns.values()]
    if list(patterns) == ["*"]:
        return f"parameters {words[0]}"
    return "parameters " + "; ".join(f"{pattern}: {word}"
                                     for pattern, word in zip(patterns, words, strict=True))
