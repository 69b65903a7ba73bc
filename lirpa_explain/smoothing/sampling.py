"""The draws of a smoothed certificate, made in batches, looked at as planned, and interrupted at
will.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from ..boxes import Box
from .draws import Drawer
from .looks import INTERRUPTED, Looks
from .settings import Smoothing
from .statistics import expectations, scores
from .tally import Tally, row


@dataclass(frozen=True)
class State:
    """What has been drawn, and what may be said of it.

    Args:
        counts: (2, N, 1 + 2 D), int64: tallies of the first draws, which guess the side of each
            entry, and of all others.
        seen: the same as they were when the draws of each example were last looked at.
        error: (N,), the probability with which something that was said then is wrong.
        looks: what is still to come.
        interrupted: whether the run was stopped before its last look.
        elapsed_s: seconds spent on all draws.
    """

    counts: Tensor
    seen: Tensor
    error: Tensor
    looks: Looks
    interrupted: bool = False
    elapsed_s: float = 0.0

    @classmethod
    def start(cls, examples: int, entries: int, looks: Looks) -> State:
        """That of no draws."""
        counts = torch.zeros(2, examples, 1 + 2 * entries, dtype=torch.int64)
        return cls(counts, counts, torch.ones(examples, dtype=torch.float64), looks)

    @property
    def total(self) -> Tally:
        """Of the draws that were looked at."""
        return Tally(self.seen.sum(0))

    @property
    def drawn(self) -> Tensor:
        """(N,), how many draws of each example there are, looked at or not."""
        return self.counts[:, :, 0].sum(0)

    def box(self, settings: Smoothing) -> Box:
        """Bounds of every entry's expectation, (N, D) each, float64."""
        guess, fresh = map(Tally, self.seen)
        return expectations(settings, guess, fresh, self.error)


def all_decided(state: State, settings: Smoothing) -> Tensor:
    """(N,), bool: whether each entry is known to be on its side within the radius of interest."""
    if settings.radius is None:
        return torch.zeros_like(state.drawn, dtype=torch.bool)
    distance = settings.radius / settings.sigma
    low, high = scores(state.box(settings))
    return ((low - distance > 0) | (high + distance < 0)).all(1)


def run(drawer: Drawer, state: State, batch_size: int, progress: bool) -> State:
    """Draw until every look is taken, or all is decided, or somebody interrupts.

    Args:
        drawer: of the attribution.
        state: to go on from; it is not changed.
        batch_size: most noisy inputs at once.
        progress: show a bar.

    Returns:
        The new state; after a KeyboardInterrupt, one that can be gone on from.
    """
    settings, start = drawer.settings, time.perf_counter()
    state = dataclasses.replace(state, counts=state.counts.clone(), interrupted=False)
    last = max((draws for draws, _ in state.looks.pending), default=0)
    left = int((last - state.drawn).clamp(min=0)[~all_decided(state, settings)].sum())
    with tqdm(total=left, desc="draws", unit="draw", disable=None if progress else True) as bar:
        try:
            with drawer.undisturbed():
                while state.looks.pending:
                    (draws, share), active = state.looks.pending[0], ~all_decided(state, settings)
                    _draw(drawer, state, active, draws, batch_size, bar)
                    state = _looked(state, active, share, settings)
                    state = dataclasses.replace(state, looks=state.looks.after_one())
        except KeyboardInterrupt:
            if not state.looks.said:
                state = _looked(state, ~all_decided(state, settings), INTERRUPTED, settings)
            state = dataclasses.replace(state, interrupted=True)
    return dataclasses.replace(state, looks=state.looks.after_saying(),
                               elapsed_s=state.elapsed_s + time.perf_counter() - start)


def _looked(state: State, active: Tensor, share: float, settings: Smoothing) -> State:
    """The state after a look at some of the examples."""
    error = torch.where(active, share * (1 - settings.confidence), state.error)
    seen = torch.where(active[:, None], state.counts, state.seen)
    return dataclasses.replace(state, error=error, seen=seen)


def _draw(drawer: Drawer, state: State, active: Tensor, until: int, batch_size: int, bar: tqdm
          ) -> None:
    """Bring the active examples to so many draws, adding to the state's tallies."""
    examples = active.nonzero()[:, 0].tolist()
    first = min((int(state.drawn[i]) for i in examples), default=until)
    for begin in range(first, until, batch_size):
        end = min(begin + batch_size, until)
        noise = drawer.noise(begin, end)
        for i in examples:
            done = int(state.drawn[i])
            if done >= end:
                continue
            own = tuple(part[done - begin:] for part in noise)
            levels = drawer.steps(i, own, done)
            guesses = max(0, min(drawer.settings.guesses - done, end - done))
            both = torch.stack([row(levels[:guesses]), row(levels[guesses:])])
            # one operation: an interruption leaves all of it, or none
            state.counts[:, i].add_(both)
            bar.update(end - done)
