"""Draws of a sparsified attribution under noise: the same for a seed, whatever the batches are.

Draw j has noise of its own, from a counter of its own in a counter-based generator, and the same
for every example: what is drawn for an example depends neither on the others beside it nor on how
many draws are made at once. All is drawn on the CPU, in float64.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attributions.plan import name_of, refuse_mixed
from ..certificates.layout import Attributions
from ..errors import UnsupportedAttribution, in_the_name_of
from ..guards import isolated, no_training_layers
from .keywords import copies, kinds_of
from .settings import Smoothing
from .sparsify import entries, steps

STREAM = 0x5D00
"""The second half of the generator's key."""

ALONE = 1e-3
"""Relative difference of an example's attribution alone and within a batch from which on it is none
of rounding."""


def normal(seed: int, draw: int, size: int) -> np.ndarray:
    """Standard normal numbers of one draw, (size,), float64."""
    bits = np.random.Philox(key=np.array([seed, STREAM], dtype=np.uint64),
                            counter=np.array([0, 0, 0, draw], dtype=np.uint64))
    return np.random.Generator(bits).standard_normal(size)


@dataclass(frozen=True)
class Drawer:
    """An attribution at noisy copies of examples.

    Args:
        attribution: an object with a method `attribute`, or a function.
        xs: the inputs, (N, *S) each.
        is_tuple: whether they are given as a tuple.
        keywords: of the attribution.
        settings: of the map.
    """

    attribution: Any
    xs: tuple[Tensor, ...]
    is_tuple: bool
    keywords: dict[str, Any]
    settings: Smoothing

    @property
    def name(self) -> str:
        """The attribution's name, for people."""
        return words_for(self.attribution)

    @property
    def digest(self) -> str:
        """A fingerprint of the inputs."""
        total = hashlib.blake2b(digest_size=16)
        for x in self.xs:
            total.update(f"{tuple(x.shape)} {x.dtype}".encode())
            total.update(x.detach().cpu().contiguous().numpy().tobytes())
        return total.hexdigest()

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Leave models and random generators as they are, and refuse layers that draw in training
        mode.
        """
        with isolated(self.xs[0].device, self.attribution), no_training_layers():
            yield

    def at_input(self) -> Attributions:
        """The attribution at the unperturbed inputs, as it is ranked; a tuple where Captum's is
        one.
        """
        refuse_mixed(self.attribution, "smoothed map")
        still = tuple(torch.zeros_like(x[:1]) for x in self.xs)
        with self.undisturbed():
            rows = [self.parts(example, still, 0) for example in range(len(self.xs[0]))]
        parts = tuple(torch.cat(part).cpu() for part in zip(*rows, strict=True))
        return parts if self.is_tuple or len(parts) > 1 else parts[0]

    def noise(self, first: int, last: int) -> tuple[Tensor, ...]:
        """The noise of the draws from `first` to before `last`, (M, *S) for each input."""
        sizes = [x[0].numel() for x in self.xs]
        drawn = np.stack([normal(self.settings.seed, j, sum(sizes)) for j in range(first, last)])
        parts = torch.from_numpy(drawn * self.settings.sigma).split(sizes, dim=1)
        return tuple(part.reshape(-1, *x.shape[1:]).to(x)
                     for part, x in zip(parts, self.xs, strict=True))

    def parts(self, example: int, shifts: tuple[Tensor, ...], first: int) -> tuple[Tensor, ...]:
        """The attribution at one example's copies, moved by (M, *S) for each input: (M, *T) each.

        Args:
            example: which.
            shifts: the noise.
            first: the number of its first draw, from which attributions that draw are seeded.
        """
        count, examples = len(shifts[0]), len(self.xs[0])
        points = tuple((x[example] + shift).requires_grad_()
                       for x, shift in zip(self.xs, shifts, strict=True))
        keywords = copies(self.keywords, example, count, examples, kinds_of(self.attribution))
        seeded(self.settings.seed, first)
        function = function_of(self.attribution)
        with in_the_name_of(f"{self.name} rejects these arguments"):
            result = function(points if self.is_tuple else points[0], **keywords)
        parts = tuple(torch.utils._pytree.tree_leaves(result))
        self._check(parts, count)
        return entries(tuple(part.detach() for part in parts), self.settings.sum_channels)

    def steps(self, example: int, shifts: tuple[Tensor, ...], first: int) -> Tensor:
        """The levels that the entries reach, (M, D), int64, on the CPU; see `sparsify.steps`."""
        rows = flat(self.parts(example, shifts, first))
        return steps(rows, self.settings.kept(rows.shape[1]), self.settings.absolute).cpu()

    def check_rows_are_independent(self, batch_size: int) -> None:
        """Refuse attributions in which the rows of a batch affect one another.

        Raises:
            UnsupportedAttribution: an example's attribution is another one within a batch, and it
                draws nothing that could explain it.
        """
        if batch_size == 1:
            return
        shifts = self.noise(0, 2)
        with self.undisturbed():
            within = flat(self.parts(0, shifts, 0))[1]
            alone, again = (flat(self.parts(0, tuple(shift[1:] for shift in shifts), first))[0]
                            for first in (1, 2))
        gap = ALONE * (within.abs() + alone.abs()).amax()
        if torch.equal(alone, again) and bool((within - alone).abs().gt(gap).any()):
            raise UnsupportedAttribution(
                f"{self.name} of an example depends on the other rows of its batch, and noisy "
                "copies must not affect one another: pass batch_size=1.")

    def _check(self, parts: tuple[Any, ...], count: int) -> None:
        for part in parts:
            if not isinstance(part, Tensor) or part.ndim < 1 or len(part) != count:
                given = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise UnsupportedAttribution(
                    f"{self.name} gives {given} for {count} examples; only results with one row "
                    "for each example can be smoothed.")
            if not part.is_floating_point():
                raise UnsupportedAttribution(f"{self.name} gives {part.dtype}; what is smoothed "
                                             "must be floating point.")
            if bool(part.isnan().any()):
                raise ValueError(f"{self.name} is NaN at a noisy input, within some deviations "
                                 f"of sigma={self.settings.sigma} of yours; look at the model.")


def words_for(attribution: Any) -> str:
    """The name of what explains."""
    if not hasattr(attribution, "attribute"):
        return getattr(attribution, "__name__", type(attribution).__name__)
    return name_of(attribution)


def function_of(attribution: Any) -> Callable[..., Any]:
    """What explains inputs: an object's method `attribute`, or a function itself."""
    return getattr(attribution, "attribute", attribution)


def flat(parts: tuple[Tensor, ...]) -> Tensor:
    """All entries of an example in a row, (M, D)."""
    return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)


def seeded(seed: int, draw: int) -> None:
    """Seed the generators that an attribution may draw from, differently for each draw."""
    number = (seed * 0x9E3779B1 + draw + 1) % 2**32
    seeds: tuple[Callable[[int], Any], ...] = (torch.manual_seed, np.random.seed, random.seed)
    for set_seed in seeds:
        set_seed(number)
