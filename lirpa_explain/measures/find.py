"""find_boundary(): the boundary points of examples, and how near to nearest they are."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..bounding.margins import Margins
from ..bounding.settings import check_method
from ..boxes import Box
from ..certifying.exit import check_numbers
from ..decision.decision import Decision
from ..decision.search import (
    BoundaryPoints,
    BoundarySearch,
    as_tuple,
    search,
    shaped_like,
    with_certified,
)
from ..guards import isolated, no_training_layers
from ..inputs import check_inputs, uncompiled


@uncompiled
def find_boundary(forward_func: Callable[..., Tensor], inputs: Tensor | tuple[Tensor, ...], *,
                  additional_forward_args: Any = None, search_options: BoundarySearch | None = None,
                  certified: bool = True, method: str = "CROWN", batch_size: int = 64,
                  progress: bool = False) -> BoundaryPoints:
    """The nearest points found at which the predicted class changes, and how much nearer the
    nearest can be.

    certified_distance <= min { |z - x|_2 : the decision at z is another one, or a tie } <=
    distance. The decision is for the largest output, or by the sign of a single one. Not finding a
    point proves nothing.

    Args:
        forward_func: the model: outputs (N, classes), (N, 1) or (N,).
        inputs: a tensor (N, *S) or a tuple of them, whose distances count together.
        additional_forward_args: as for Captum; held fixed.
        search_options: how to search; default `BoundarySearch()`.
        certified: whether to bound the distance from below. Where no point was found, radii up to
            the largest that was searched are tried.
        method: how to bound, a key of `lirpa_explain.METHODS`.
        batch_size: most examples bounded at once.
        progress: show progress bars.

    Returns:
        `BoundaryPoints`; look at `found`.

    Raises:
        ValueError: bad inputs or method, outputs of another shape, or inputs outside the search's
            clip.
        UnsupportedOperation: the model contains an operation that has no bound operator; pass
            certified=False.
        TrainingModeError: a layer is in training mode whose output is then random or depends on the
            batch.

    Source:
        Wang, Fredrikson, Datta: Robust Models Are More Interpretable Because Attributions Look
            Normal, ICML 2022.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> model = torch.nn.Linear(2, 1).double()
        >>> _ = torch.nn.init.constant_(model.weight, 1.0), torch.nn.init.zeros_(model.bias)
        >>> points = lx.find_boundary(model, torch.ones(1, 2).double())
        >>> round(points.distance.item(), 2), round(points.certified_distance.item(), 2)
        (1.41, 1.41)
    """
    check_method(method)
    xs = check_inputs(inputs)
    settings = search_options or BoundarySearch()
    extras = as_tuple(additional_forward_args)
    with isolated(xs[0].device, forward_func):
        found = search(forward_func, xs, extras, settings, progress)
    if certified:
        with isolated(xs[0].device, forward_func), no_training_layers():
            reach = torch.where(found.found, found.distance, settings.radii[-1])
            margins = Margins(Decision(forward_func, xs, extras), xs)
            distance = margins.certified_distance(reach, method, batch_size, progress)
            _check(margins, found, distance, reach, method, batch_size)
            found = with_certified(found, distance)
    return shaped_like(found, inputs)


def _check(margins: Margins, found: BoundaryPoints, distance: Tensor, reach: Tensor, method: str,
           batch_size: int) -> None:
    """Certified distances are at most those found, and bounds within them hold the margins at the
    examples.
    """
    possible = Box(torch.zeros_like(distance), torch.where(found.found, found.distance, torch.inf))
    check_numbers(possible, distance, reach, "Certified distances")
    every = torch.arange(len(distance), device=distance.device)
    lower = torch.cat([margins.lower(index, distance[index], method)
                       for index in every.split(batch_size)])
    value = margins.values()
    above = Box(lower, torch.full_like(lower, torch.inf))
    check_numbers(above, value, value.abs().amax(1, keepdim=True) + 1, "Margins")
