"""Attributions as they come, a tensor or a tuple of them, and as rows of features, (N, D)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# one (N, *S) for each input; a tuple where the user passed one
Attributions = Tensor | tuple[Tensor, ...]


def tensors(value: Attributions) -> tuple[Tensor, ...]:
    """The parts of an attribution."""
    return value if isinstance(value, tuple) else (value,)


def features(tensor: Tensor) -> int:
    """How many features an example of one part has."""
    return math.prod(tensor.shape[1:])


def count(value: Attributions) -> int:
    """How many examples an attribution has."""
    return len(tensors(value)[0])


def rows(value: Any, index: Tensor) -> Any:
    """Some examples of a tensor, or of each tensor in a tuple or dictionary; anything else as it
    is.

    Example:
        >>> rows((torch.arange(3), None), torch.tensor([2, 0]))
        (tensor([2, 0]), None)
    """
    if isinstance(value, Tensor):
        return value[index]
    if isinstance(value, tuple):
        return tuple(rows(part, index) for part in value)
    return ({name: rows(part, index) for name, part in value.items()}
            if isinstance(value, dict) else value)


def joined(values: Sequence[Any]) -> Any:
    """The examples of all, one after the other: of tensors, or tuples or dictionaries of them; else
    the first.

    Example:
        >>> joined([(torch.arange(2), None), (torch.arange(1), None)])
        (tensor([0, 1, 0]), None)
    """
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, tuple):
        return tuple(joined(parts) for parts in zip(*values, strict=True))
    return {name: joined([value[name] for value in values])
            for name in first} if isinstance(first, dict) else first


def flatten(value: Attributions) -> Tensor:
    """The features of all inputs of an example side by side, (N, D)."""
    return torch.cat([part.reshape(len(part), features(part)) for part in tensors(value)], dim=1)


def describe(value: Attributions) -> str:
    """The shapes, for messages."""
    shapes = ", ".join(str(tuple(part.shape)) for part in tensors(value))
    return f"a tuple of {shapes}" if isinstance(value, tuple) else shapes


def require_same_shape(name: str, value: Attributions, nominal: Attributions) -> None:
    """Raise unless a value is made of tensors of the shapes of `nominal`.

    Raises:
        TypeError: one of them holds something else.
        ValueError: the shapes differ.
    """
    for part in tensors(value):
        if not isinstance(part, Tensor):
            raise TypeError(f"{name} holds a {type(part).__name__}; pass a Tensor, or a tuple of "
                            "Tensors.")
    if describe(value) != describe(nominal):
        raise ValueError(f"{name} has the shape {describe(value)}, but the nominal attribution has "
                         f"{describe(nominal)}; pass one of the same shape.")


def unflatten(nominal: Attributions, rows: Tensor) -> Attributions:
    """Undo `flatten`: (N, D) back to the shapes of `nominal`."""
    if isinstance(nominal, Tensor):
        return rows.reshape(nominal.shape)
    parts = rows.split([features(part) for part in nominal], dim=1)
    return tuple(part.reshape(shape.shape) for part, shape in zip(parts, nominal, strict=True))


def mask_weights(mask: Attributions, nominal: Attributions) -> Tensor:
    """A mask, shaped like `nominal` or one example of it, as weights (N, D).

    Raises:
        ValueError: it has another shape.
    """
    parts = []
    if not all(isinstance(part, Tensor) for part in tensors(mask)):
        raise ValueError("mask must be a tensor, or a tuple of them; given: "
                         f"{type(mask).__name__}.")
    for part, shape in zip(tensors(mask), tensors(nominal), strict=False):
        if part.shape not in (shape.shape, shape.shape[1:]):
            raise ValueError(f"mask must be shaped like the attribution, {describe(nominal)}, or "
                             f"like one example of it; given: {describe(mask)}.")
        parts.append(part.to(shape).expand_as(shape))
    if len(parts) != len(tensors(nominal)) or len(parts) != len(tensors(mask)):
        raise ValueError(f"mask must have one tensor for each of the {len(tensors(nominal))} "
                         "inputs.")
    return flatten(tuple(parts))
