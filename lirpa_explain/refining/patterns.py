"""Local search over patterns: which kinks lie on which side, changed where that gains most.

Between its kinks the gradient of a piecewise-linear model is constant, and what is made of it is
affine: a low value is a pattern of sides, and an input that has it. From an input on, each open
kink's side is changed in the backward pass alone, which says what that would gain. Inputs with the
best of these patterns are looked for in the ball, by descent to the half-spaces of all kinks, each
made of the pre-activation's own derivatives. The best of what they come to is the next input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import operators
from ..graph.module import Step
from ..operators.bound import flat_rows
from .ground import Ground
from .problem import Problem

MOST = 256
"""Kinks that are changed, those nearest to their places if more are open."""

TRIED = 16
"""Patterns that inputs are looked for with, at each step."""

ROUNDS = 60
"""Steps of that descent."""

MOVES = 40
"""Most patterns in a row."""

MARGIN = 1e-3
"""How far inside of a half-space an input is to lie, as a share of what its value can change by."""


@dataclass(frozen=True)
class Kinks:
    """Open kinks at an input: O of them.

    Args:
        value: pre-activations, each divided by the length of its derivatives, (O,).
        slope: these derivatives, of length 1, (O, M).
        gain: by how much the objective would fall with the other side, (O,).
        margin: how far from 0 the value is to be, (O,).
    """

    value: Tensor
    slope: Tensor
    gain: Tensor
    margin: Tensor


class Patterns:
    """The patterns of one example.

    Args:
        problem: whose rows of this example are bounded on their whole balls.
        example: which.
    """

    def __init__(self, problem: Problem, example: int) -> None:
        self.problem, self.example = problem, example
        self.rows = torch.tensor(problem.rows_of(example))
        self.weights = problem.inputs[0].new_tensor(
            [problem.weight(row) for row in self.rows.tolist()])
        self.names, owners = self._open_kinks()
        self.name, self.place, self.entry = torch.tensor(owners, dtype=torch.long).reshape(-1, 3).T
        _, values, balls, _ = problem.rows.take(self.rows[:1])
        self.ground = Ground.of(values, balls)

    def _open_kinks(self) -> tuple[list[str], list[list[int]]]:
        """Names of pre-activations that gradients read, and for each open kink: name, row and
        entry, by number.
        """
        reads = {step.inputs[1]
                 for step in self.problem.module.steps if step.operator == "kink_gradient"}
        nodes = {node: name
                 for node, name in self.problem.schedule.network.values.items() if name in reads}
        names, owners = sorted(set(nodes.values())), list[list[int]]()
        for place, row in enumerate(self.rows.tolist()):
            whole = self.problem.whole(row)
            for node, name in nodes.items():
                box = whole.box(node)
                if box is not None:
                    is_open = (box.lower < 0) & (box.upper > 0)
                    owners += [[names.index(name), place, i]
                               for i in is_open.nonzero()[:, 0].tolist()]
        return names, owners

    def descend(self, function: Tensor, start: Tensor, keeps: bool,
                enough: Callable[[float], bool]) -> Tensor:
        """Inputs (P, M) of what moves at which a function of the attribution is ever lower; P may
        be 0.

        Args:
            function: (D,).
            start: where the search starts, (M,).
            keeps: whether all other kinks are to stay where they are, or those alone that gain
                nothing.
            enough: whether a value is low enough, or time is up.
        """
        found, x, best = list[Tensor](), start, float(self._values(start[None]) @ function)
        for _ in range(MOVES if len(self.name) else 0):
            if enough(best):
                break
            points = self._with_patterns(x, self._kinks(x, function), keeps)
            if not len(points):
                break
            values = (self._values(points) @ function).nan_to_num(nan=torch.inf)
            if not float(values.min()) < best - 1e-12 * abs(best):
                break
            x, best = points[int(values.argmin())], float(values.min())
            found.append(x)
        return torch.stack(found) if found else start.new_zeros(0, len(start))

    def _values(self, flat: Tensor) -> Tensor:
        """The attribution at inputs (P, M)."""
        return self.problem.attributions(self.example, self.problem.point(self.example, flat))

    def _kinks(self, x: Tensor, function: Tensor) -> Kinks:
        """What is known of the kinks at an input (M,), and what changing them gains."""
        with torch.no_grad():
            results, z = self._run(x.expand(len(self.rows), -1), self.rows, None)
        at = torch.stack([z[name][place, entry] for name, place, entry in self._owners()])
        chosen = at.abs().topk(min(MOST, len(at)), largest=False).indices
        name, place = self.name[chosen], self.place[chosen]
        with torch.enable_grad():
            leaf = x.expand(len(chosen), -1).clone().requires_grad_()
            changed, z = self._run(leaf, self.rows[place], chosen)
            own = torch.stack([z[self.names[i]][k, entry] for k, (i, entry) in enumerate(
                zip(name.tolist(), self.entry[chosen].tolist(), strict=True))])
            slope, = torch.autograd.grad(own.sum(), leaf)
        length = torch.linalg.vector_norm(slope, dim=1).clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
        slope = slope / length[:, None]
        fall = (results @ function)[place] - changed.detach() @ function
        return Kinks(own.detach() / length, slope, fall * self.weights[place],
                     MARGIN * self.ground.spread(slope * self.ground.radius[0]))

    def _owners(self) -> list[tuple[str, int, int]]:
        return [(self.names[i], place, entry) for i, place, entry in
                zip(self.name.tolist(), self.place.tolist(), self.entry.tolist(), strict=True)]

    def _run(self, flat: Tensor, rows: Tensor,
             changed: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """What rows compute at inputs (B, M), and pre-activations; in each row one kink's side may
        be changed.

        Args:
            flat: the inputs.
            rows: of the plan, (B,).
            changed: which kink, (B,), for the backward pass alone.
        """
        _, values, balls, _ = self.problem.rows.take(rows)
        parts = iter(flat.split(self.ground.sizes, 1))
        balls = (*balls, *[None] * (len(values) - len(balls)))
        given = tuple(v if ball is None else next(parts).reshape(v.shape)
                      for v, ball in zip(values, balls, strict=True))
        seen = dict[str, Tensor]()

        def call(step: Step, *tensors: Tensor) -> Tensor:
            if step.operator == "kink_gradient" and step.inputs[1] in self.names:
                z = seen[step.inputs[1]] = flat_rows(tensors[1])
                if changed is not None:
                    mine = (self.name[changed] == self.names.index(step.inputs[1])).nonzero()[:, 0]
                    sign = torch.ones_like(z)
                    sign[mine, self.entry[changed][mine]] = -1
                    tensors = (tensors[0], (sign * z).reshape(tensors[1].shape))
            return operators.call(step.operator, *tensors, **step.settings)

        return flat_rows(self.problem.module.run(call, given)), seen

    def _with_patterns(self, x: Tensor, kinks: Kinks, keeps: bool) -> Tensor:
        """Inputs (P, M) of the ball that come nearest to having the patterns that promise most."""
        gain, best = kinks.gain.topk(min(TRIED, len(kinks.gain)))
        best = best[gain > 0]
        side = torch.where(kinks.value < 0, -1.0, 1.0).to(x).repeat(len(best), 1)
        each = torch.arange(len(best))
        side[each, best] *= -1
        counts = torch.ones_like(side) if keeps else (kinks.gain < 0).to(side).repeat(len(best), 1)
        counts[each, best] = 1
        steep = torch.linalg.eigvalsh(kinks.slope @ kinks.slope.T).amax()
        points = ahead = x.repeat(len(best), 1)
        pace = 1.0
        for _ in range(ROUNDS if len(best) else 0):
            short = kinks.margin - side * (kinks.value + (ahead - x) @ kinks.slope.T)
            step = (counts * side * short.clamp(min=0)) @ kinks.slope
            new = self.problem.drawn(self.example, ahead + step / steep)
            following = (1 + (1 + 4 * pace**2) ** 0.5) / 2
            ahead, points, pace = new + (pace - 1) / following * (new - points), new, following
        return points
