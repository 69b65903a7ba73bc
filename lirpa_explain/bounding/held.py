"""Which entries of the inputs are held fixed, from the ways of saying so."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

Fixed = tuple[Tensor | None, ...] | None


def fixed_entries(fixed: Any, xs: tuple[Tensor, ...], ids: tuple[Tensor, ...] = ()) -> Fixed:
    """Where each input is held fixed: bool tensors of their shapes; None where nothing is.

    Args:
        fixed: None; a bool tensor, True where the input stays, whose dimensions are the first ones
            of the input, such as (N, T) for (N, T, E), each of them of the input's size or 1; a
            tuple with one of these, or None, for each input; or a list or set of token ids that
            stay wherever they are.
        xs: the inputs that move, each (N, *S).
        ids: what they were made of, among them the token ids.

    Raises:
        TypeError: it is something else, or ids where there are no tokens.
        ValueError: a shape does not fit.

    Example:
        >>> ids, h = torch.tensor([[5, 0]]), torch.zeros(1, 2, 3)
        >>> fixed_entries([0], (h,), (ids,))[0].tolist()
        [[[False, False, False], [True, True, True]]]
    """
    if fixed is None:
        return None
    if isinstance(fixed, list | set | frozenset):
        fixed = _where(fixed, ids)
    parts = fixed if isinstance(fixed, tuple) else (fixed,) * len(xs)
    if len(parts) != len(xs):
        raise ValueError(f"fixed has {len(parts)} entries for {len(xs)} inputs; give one for each, "
                         "None where nothing is held fixed.")
    return tuple(None if part is None else _like(part, x)
                 for part, x in zip(parts, xs, strict=True))


def _where(tokens: Iterable[Any], ids: tuple[Tensor, ...]) -> Tensor:
    """Where token ids are among these tokens."""
    found = [i for i in ids if not i.is_floating_point()]
    chosen = list(tokens)
    if not found or not all(isinstance(token, int) and not isinstance(token, bool)
                            for token in chosen):
        raise TypeError("fixed must be a bool tensor, a tuple of them, or, with token ids as "
                        f"inputs and perturb='layer', a list of token ids; given: {chosen!r:.60}.")
    return torch.isin(found[0], torch.tensor(chosen, dtype=found[0].dtype, device=found[0].device))


def _like(part: Any, x: Tensor) -> Tensor:
    """A mask of an input's first dimensions as one of all."""
    if not isinstance(part, Tensor) or part.dtype != torch.bool:
        kind = f"a tensor of {part.dtype}" if isinstance(part, Tensor) else type(part).__name__
        raise TypeError("fixed must be a bool tensor, True where an input is held fixed; given: "
                        f"{kind}.")
    first = tuple(x.shape[: part.ndim])
    if part.ndim > x.ndim or any(size not in (1, full)
                                 for size, full in zip(part.shape, first, strict=True)):
        raise ValueError(f"fixed must have the shape {first}, or fewer of the dimensions of "
                         f"{tuple(x.shape)}; given: {tuple(part.shape)}.")
    return part.to(x.device).reshape(*part.shape, *[1] * (x.ndim - part.ndim)).expand(x.shape)
