"""The exact method: each objective as a mixed-integer program."""

from __future__ import annotations

from typing import Any

import torch

from . import clock
from .exact import minimum
from .ground import Ground
from .program import Program
from .search import Search
from .tree import Grown


def solve(search: Search, seconds: float | None) -> bool:
    """Bound the trees of all objectives by integer programs; whether that was interrupted.

    Raises:
        UnsupportedOperation: the model is not piecewise linear, or a ball is no box.
    """
    started, programs, problem = clock.now(), dict[int, Any](), search.problem
    search.plant()
    try:
        for objective in search.objectives:
            for tree in objective.trees:
                if objective.is_done:
                    break
                left = None if seconds is None else seconds - (clock.now() - started)
                if left is not None and left <= 0:
                    return False
                if tree.row not in programs:
                    programs[tree.row] = _program(problem, tree.row)
                found = minimum(programs[tree.row], tree.function.double().numpy(), left)
                objective.seconds += found.seconds
                tree.grown = Grown((), max(tree.lower, found.lower), tree.domains + 1)
                if found.point is not None:
                    size = sum(search.problem.schedule.ground.sizes)
                    flat = torch.as_tensor(found.point[:size]).to(tree.function)
                    search.look(objective.example, flat[None])
    except KeyboardInterrupt:
        return True
    return False


def _program(problem: Any, row: int) -> Program:
    """The program of a row, with bounds of its whole ball."""
    domain = problem.whole(row)
    _, values, balls, _ = problem.rows.take(torch.tensor([row]))
    names = problem.schedule.network.values
    boxes = {names[name]: domain.box(name) for name in domain.boxes}
    moving = [i < len(balls) and balls[i] is not None for i in range(len(values))]
    return Program(problem.module, values, Ground.of(values, balls), moving, boxes)
