"""What is certified and attacked: an attribution, its inputs and arguments, the ball, and the draws
to replay.
"""

import functools
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import attributions
from ..arrays import Names
from ..bounding.ball import Ball
from ..bounding.parameters import Parameters
from ..bounding.points import draw
from ..bounding.where import Where
from ..guards import isolated, no_training_layers
from .nominal import Nominal, attribute
from .posed import Posed

Points = tuple[Tensor, ...]


@dataclass(frozen=True)
class Request:
    """An attribution as a function of what is perturbed: whatever it draws, it draws the same at
    all points.

    Args:
        posed: the call of Captum's, whose inputs are what is perturbed.
        where: the balls of the inputs and the boxes of the parameters.
        state: of the random generators of torch, the GPU, numpy and Python at which the attribution
            starts.
        columns: the names of each input's features; None where they have none.
    """

    posed: Posed
    where: Where
    state: tuple[Any, ...]
    columns: tuple[Names | None, ...] = ()

    @property
    def attribution(self) -> Any:
        """A Captum object."""
        return self.posed.call.attribution

    @property
    def inputs(self) -> Any:
        """What is perturbed, a tensor or a tuple."""
        return self.posed.call.inputs

    @property
    def xs(self) -> Points:
        """The same as a tuple of plain tensors, each (N, *S)."""
        return self.posed.call.xs

    @property
    def keywords(self) -> dict[str, Any]:
        """Keywords of `attribution.attribute`."""
        return self.posed.call.keywords

    @property
    def balls(self) -> tuple[Ball | None, ...]:
        """The ball of each input, None if it is held fixed."""
        return self.where.balls

    @property
    def parameters(self) -> Parameters | None:
        """Those parameters of the model that move; None if none does."""
        return self.where.parameters

    @functools.cached_property
    def nominal(self) -> Nominal:
        """The attribution at the unperturbed inputs."""
        return self.attribute(self.xs)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one example of each part of the attribution."""
        return tuple(tuple(part.shape[1:]) for part in self.nominal.parts)

    def attribute(self, points: Points, values: dict[str, Tensor] | None = None) -> Nominal:
        """Captum's own attribution at points, each (N, *S), of the model with values of the
        parameters that move.
        """
        keywords = {k: v for k, v in self.keywords.items() if k != "return_convergence_delta"}
        if callable(keywords.get("baselines")):
            keywords["baselines"] = self._constant(keywords["baselines"])
        with self.replayed(), no_training_layers(), self.moved(values):
            return attribute(self.attribution, self.inputs, points, keywords)

    def draw(self, extreme: bool, generator: torch.Generator) -> tuple[Points, dict[str, Tensor]]:
        """Random points of the balls, each (N, *S), and values of the parameters that move; corners
        if `extreme`.
        """
        points = tuple(draw(ball, x, extreme, generator)
                       for x, ball in zip(self.xs, self.balls, strict=True))
        return points, self.parameters.draw(extreme,
                                            generator) if self.parameters is not None else {}

    def output(self, points: Points) -> Tensor:
        """The model's output at points, flat: (N, M); differentiable."""
        extras = attributions.plan.extras_of(self.keywords)
        return self.attribution.forward_func(*points, *extras).reshape(len(points[0]), -1)

    def shaped(self, points: tuple[Any, ...]) -> Any:
        """What there is one of for each input, such as points, in the form in which the caller gave
        the inputs.
        """
        return points if isinstance(self.inputs, tuple) else points[0]

    def _constant(self, baselines: Callable[..., Any]) -> Callable[..., Any]:
        """A function for baselines that draws as it does at the unperturbed inputs, whatever the
        inputs.
        """
        given = self.shaped(self.xs)

        @functools.wraps(baselines)
        def drawn(*args: Any) -> Any:
            return baselines(*([given] if args else []))

        # Captum counts the parameters.
        setattr(drawn, "__signature__", inspect.signature(baselines))  # noqa: B010
        return drawn

    def moved(self, values: dict[str, Tensor] | None) -> AbstractContextManager[None]:
        """The model with these values of its parameters; none, or None: those it has."""
        return (self.parameters.set_to(values)
                if self.parameters is not None and values else nullcontext())

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """The random generators as they were, and afterwards as they are."""
        device = self.xs[0].device
        with isolated(device):
            cpu, cuda, numpy, python = self.state
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda, device)
            np.random.set_state(numpy)
            random.setstate(python)
            yield


def random_state(device: torch.device | None) -> tuple[Any, ...]:
    """State of the generators that attributions draw from."""
    cuda = (torch.cuda.get_rng_state(device)
            if device is not None and device.type == "cuda" else None)
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()
