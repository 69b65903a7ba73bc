"""The search for the nearest point where a decision changes.

Projected gradient descent over growing l2 balls finds such a point for most examples; a descent
after Carlini and Wagner looks for a nearer one, and so does gradient descent in smaller balls
towards single rival classes; projections onto the boundary's tangent plane and bisection polish it.
The closest point met is kept. What is random is drawn from a generator of the search's own, the
same for every example: a search always gives the same points.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..boxes import Box
from ..errors import BoundaryNotFound, in_the_name_of
from ..guards import no_training_layers, untouched
from .decision import Decision

HALVINGS = {torch.float64: 50, torch.float32: 24}
"""Bisections of a segment, until its ends are neighbouring numbers."""

HALVINGS_WITHIN = 10
"""Bisections of points that are improved further."""


@dataclass(frozen=True, eq=False)
class BoundaryPoints:
    """Where decisions change, as near to N examples as was found.

    Args:
        points: the points, shaped like the inputs, a tuple for several inputs; on the far side of
            the boundary, so near to it that rounding decides; NaN where none was found.
        found: whether a point was found, (N,).
        distance: l2 distance of the point from its example, (N,); infinite where none was found.
        classes: the predicted classes of the examples, (N,), whose decision changes.
        by_sign: whether the model has a single output, whose sign is the decision.
        certified_distance: nearer than this the decision changes nowhere, (N,), proven by bound
            propagation; None if that was not asked for. The truly nearest point lies between the
            two distances.

    Example:
        >>> from lirpa_explain import find_boundary
        >>> find_boundary(lambda x: x[:, 0] - 1, torch.tensor([[3.0, 7.0]])).points
        tensor([[1., 7.]])
    """

    points: Tensor | tuple[Tensor, ...]
    found: Tensor
    distance: Tensor
    classes: Tensor
    by_sign: bool
    certified_distance: Tensor | None = None

    def require(self) -> None:
        """Raise where no point was found.

        Raises:
            BoundaryNotFound: names the examples.
        """
        missing = (~self.found).nonzero()[:, 0].tolist()
        if missing:
            raise BoundaryNotFound(
                "No point where the decision changes was found for "
                f"example{'s' * (len(missing) > 1)} "
                f"{', '.join(map(str, missing[:20]))}{', ...' * (len(missing) > 20)} of "
                f"{len(self.found)}. Search further: BoundarySearch with larger radii, more steps "
                "or a wider clip. Or leave these examples out, or, for attributions without a "
                "certificate, pass not_found='nan'.")


@dataclass(frozen=True)
class BoundarySearch:
    """How to search for boundary points.

    Args:
        radii: increasing radii of the l2 balls that are searched, above 0, in units of the input;
            an example leaves with the first in which a point is found. The descent that follows is
            not limited by them.
        pgd_steps: steps in each ball, at least 1.
        cw_steps: steps of the Carlini-Wagner descent, at least 0.
        restarts: so many times, gradient descent starts anew, in a ball that is smaller than the
            distance of the closest point so far, towards one rival class after the other; at least
            0.
        polish_steps: projections onto the tangent plane of the boundary, at least 0.
        clip: (low, high), the range of the data, numbers or tensors that broadcast to one example:
            points outside are no data, and not searched. For a single input, or the same for all.
            None for no limit.
        batch_size: most examples searched at once.
        progress: show a progress bar, wherever the search is run.

    Raises:
        ValueError: a bad number.

    Example:
        >>> BoundarySearch(radii=(0.5, 1), clip=(0, 1)).pgd_steps
        20
    """

    radii: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
    pgd_steps: int = 20
    cw_steps: int = 100
    restarts: int = 9
    polish_steps: int = 10
    clip: tuple[Any, Any] | None = None
    batch_size: int = 256
    progress: bool = False

    def __post_init__(self) -> None:
        radii = tuple(self.radii)
        if (not radii or not all(0 < a < float("inf") for a in radii)
                or list(radii) != sorted(set(radii))):
            raise ValueError(f"radii must be increasing numbers above 0; given: {self.radii!r}.")
        for name, least in (("pgd_steps", 1), ("cw_steps", 0), ("restarts", 0), ("polish_steps", 0),
                            ("batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}; given: "
                                 f"{value!r}.")
        if self.clip is not None and (not isinstance(self.clip, tuple | list)
                                      or len(self.clip) != 2):
            raise ValueError(f"clip must be a pair (low, high), or None; given: {self.clip!r}.")

    def range(self, like: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The range of the data for flat examples, (1, D) each; infinite without one.

        Args:
            like: inputs, each (N, *S).
        """
        low, high = (-torch.inf, torch.inf) if self.clip is None else self.clip
        sides = []
        for side in (low, high):
            with in_the_name_of("clip must be a pair of numbers, or of tensors that broadcast to "
                                "one example"):
                parts = [torch.as_tensor(side).to(x).expand(x.shape[1:]).reshape(1, -1)
                         for x in like]
            sides.append(torch.cat(parts, 1))
        return sides[0], sides[1]


_MEMORY: ContextVar[list[tuple[Any, ...]] | None] = ContextVar("boundary searches", default=None)


@contextlib.contextmanager
def remembered(memory: list[tuple[Any, ...]]) -> Iterator[None]:
    """Within, a search that is in the memory is not run again, and examples without a boundary
    point are refused.
    """
    outer = _MEMORY.get()
    token = _MEMORY.set(memory if outer is None else outer)
    try:
        yield
    finally:
        _MEMORY.reset(token)


def is_certifying() -> bool:
    """Whether a certificate is being made."""
    return _MEMORY.get() is not None


def search(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], extras: tuple[Any, ...],
           settings: BoundarySearch, progress: bool = False) -> BoundaryPoints:
    """Search for the nearest boundary point of each example; see `lirpa_explain.find_boundary`.

    Returns:
        Points as a tuple, one (N, *S) for each input.

    Raises:
        ValueError: outputs of another shape, or inputs outside `settings.clip`.
        TrainingModeError: the model is random in training mode.
    """
    memory = _MEMORY.get()
    for known, known_arguments, result in memory or ():
        is_known = known[0] is function and known[1] is settings
        if is_known and _same(known_arguments, (*inputs, *extras)):
            return result
    with untouched(function), no_training_layers():
        result = _Search(Decision(function, inputs, extras), inputs, settings, progress).run()
    if memory is not None:
        memory.append(((function, settings), (*(x.clone() for x in inputs), *extras), result))
    return result


def _same(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return len(first) == len(second) and all(
        a is b or isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
        for a, b in zip(first, second, strict=True))


class _Search:
    """One search: the closest point met so far for each example, and ways to a closer one."""

    def __init__(self, decision: Decision, inputs: tuple[Tensor, ...], settings: BoundarySearch,
                 progress: bool) -> None:
        self.progress = progress or settings.progress
        self.decision, self.settings, self.x = decision, settings, decision.x.detach()
        self.low, self.high = settings.range(inputs)
        if bool((self.x < self.low).any()) or bool((self.x > self.high).any()):
            raise ValueError(
                "The input reaches beyond the clip of the boundary search: its smallest value is "
                f"{float(self.x.min()):.6g}, its largest {float(self.x.max()):.6g}. Give the range "
                "that the data really has, or none; a NoiseTunnel leaves it, so needs none.")
        self.best = torch.full_like(self.x, torch.nan)
        self.distance = self.x.new_full((len(self.x),), torch.inf)

    def run(self) -> BoundaryPoints:
        """Search all examples."""
        settings = self.settings
        every = torch.arange(len(self.x), device=self.x.device).split(settings.batch_size)
        steps = settings.pgd_steps * (len(settings.radii) + settings.restarts) + settings.cw_steps
        steps += settings.polish_steps * (1 + settings.restarts)
        with tqdm(total=len(every) * steps, disable=not self.progress, unit="step",
                  desc="boundary search", leave=False) as self.bar:
            for index in every:
                self._at_once(index)
                self._descend_in_balls(index)
                self._carlini_wagner(index)
                self._polish(index)
                self._restart(index)
        found = self.distance.isfinite()
        return BoundaryPoints(self.decision.split(self.best), found, self.distance,
                              self.decision.classes, self.decision.has_sign)

    def _keep(self, index: Tensor, point: Tensor, margin: Tensor) -> None:
        """Keep points at which the decision has changed, if they are the closest so far."""
        distance = (point - self.x[index]).norm(dim=1)
        closer = (margin <= 0) & (distance < self.distance[index])
        self.best[index[closer]] = point[closer]
        self.distance[index[closer]] = distance[closer]

    def _at_once(self, index: Tensor) -> None:
        """An example that is undecided is a boundary point itself."""
        with torch.no_grad():
            self._keep(index, self.x[index], self.decision.margin(self.x[index], index))

    def _inside(self, index: Tensor, point: Tensor, radius: Tensor | float) -> Tensor:
        """Points moved into balls around their examples, and into the range of the data."""
        step = point - self.x[index]
        step = step * (radius / step.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(max=1)
        return Box(self.low, self.high).nearest(self.x[index] + step)

    def _descend_in_balls(self, index: Tensor) -> None:
        """Descent on the margin within ball after ball, from where the last one ended."""
        point = self.x[index]
        for radius in self.settings.radii:
            for _ in range(self.settings.pgd_steps):
                self.bar.update()
                open_ = self.distance[index] == torch.inf
                if not bool(open_.any()):
                    continue
                which, at = index[open_], point[open_]
                margin, gradient = self.decision.gradient(at, which)
                self._keep(which, at, margin)
                step = 2.5 * radius / self.settings.pgd_steps * _unit(gradient)
                point[open_] = self._inside(which, at - step, radius)
            with torch.no_grad():
                self._keep(index, point, self.decision.margin(point, index))
        self._bisect(index)

    def _restart(self, index: Tensor) -> None:
        """Projected gradient descent in balls a little smaller than the closest point is far.

        The strongest rivals are tried one after the other, from the example itself, then once more
        from random points.
        """
        generator = torch.Generator().manual_seed(0)
        rivals = self.decision.strongest_rivals(index)
        for i in range(self.settings.restarts):
            before = self.distance[index].clone()
            radius = torch.where(before.isfinite(), 0.95 * before, self.settings.radii[-1])[:, None]
            point, rival = self.x[index], rivals[:, i % rivals.shape[1]]
            if i >= rivals.shape[1]:
                direction = _unit(torch.randn(1, self.x.shape[1], generator=generator,
                                              dtype=torch.float64))
                point = self._inside(index, point + radius * direction.to(self.x), radius)
            for _ in range(self.settings.pgd_steps):
                self.bar.update()
                margin, gradient = self.decision.gradient(point, index, rival)
                self._keep(index, point, margin)
                step = 2.5 * radius / self.settings.pgd_steps * _unit(gradient)
                point = self._inside(index, point - step, radius)
            with torch.no_grad():
                self._keep(index, point, self.decision.margin(point, index))
            closer = self.distance[index] < before
            self._bisect(index[closer])
            self._polish(index[closer])

    def _carlini_wagner(self, index: Tensor) -> None:
        """Adam on |x' - x|^2 + c * max(margin, 0), c growing while the decision holds and falling
        while not.
        """
        x, start = self.x[index], self.best[index]
        found = self.distance[index].isfinite()
        point = torch.where(found[:, None], start, x)
        reach = torch.where(found, self.distance[index], self.settings.radii[-1])
        # a step moves the point by about a tenth of its distance
        lr = (0.1 * reach / x.shape[1] ** 0.5)[:, None]
        weight = torch.ones_like(reach)
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for t in range(1, self.settings.cw_steps + 1):
            self.bar.update()
            margin, gradient = self.decision.gradient(point, index)
            self._keep(index, point, margin)
            weight = weight * torch.where(margin > 0, 1.2, 1 / 1.2)
            slope = 2 * (point - x) / reach[:, None].clamp(min=1e-30)
            slope = slope + torch.where(margin > 0, weight, 0.0)[:, None] * _unit(gradient)
            first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope.square()
            step = first / (1 - 0.9**t) / ((second / (1 - 0.99**t)).sqrt() + 1e-12)
            decay = 1 - (t - 1) / self.settings.cw_steps
            point = Box(self.low, self.high).nearest(point - decay * lr * step)
        with torch.no_grad():
            self._keep(index, point, self.decision.margin(point, index))
        self._bisect(index)

    def _polish(self, index: Tensor) -> None:
        """Where the boundary is a plane, the foot of the perpendicular from the example onto it is
        nearest.
        """
        index = index[self.distance[index].isfinite()]
        for step in range(self.settings.polish_steps):
            self.bar.update()
            if not len(index):
                continue
            best, x = self.best[index], self.x[index]
            normal = _unit(self.decision.gradient(best, index)[1])
            foot = x + ((best - x) * normal).sum(1, keepdim=True) * normal
            for mix in (1.0, 0.5**step):  # all the way, and ever shorter, where the boundary bends
                point = self._inside(index, best + mix * (foot - best), torch.inf)
                self._keep(index, *self._pushed(index, point, normal))
        self._bisect(index)

    def _pushed(self, index: Tensor, point: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Points pushed along the normal until the decision has changed, then back onto the
        boundary.
        """
        x, reach = self.x[index], self.distance[index]
        margin = self.decision.margin(point, index).detach()
        for share in (1e-4, 1e-3, 1e-2, 1e-1):
            further = self._inside(index, point - share * reach[:, None] * normal, torch.inf)
            with torch.no_grad():
                new = self.decision.margin(further, index)
            stay = (margin <= 0)[:, None]
            point, margin = torch.where(stay, point, further), torch.where(stay[:, 0], margin, new)
        return (self._nearest_on_segment(index, x, point, HALVINGS_WITHIN),
                torch.where(margin <= 0, margin, 1.0))

    def _bisect(self, index: Tensor) -> None:
        """Move the kept points along the segments to their examples, onto the boundary."""
        index = index[self.distance[index].isfinite()]
        if len(index):
            halvings = HALVINGS.get(self.x.dtype, HALVINGS_WITHIN)
            point = self._nearest_on_segment(index, self.x[index], self.best[index], halvings)
            self._keep(index, point, torch.zeros_like(self.distance[index]))

    @torch.no_grad()
    def _nearest_on_segment(self, index: Tensor, x: Tensor, point: Tensor, halvings: int) -> Tensor:
        """The first change of the decision that bisection meets between x and a point."""
        near, far = torch.zeros_like(x[:, :1]), torch.ones_like(x[:, :1])
        for _ in range(halvings):
            middle = (near + far) / 2
            held = self.decision.margin(x + middle * (point - x), index)[:, None] > 0
            near, far = torch.where(held, middle, near), torch.where(held, far, middle)
        return torch.where(far == 1, point, x + far * (point - x))


def _unit(gradient: Tensor) -> Tensor:
    """Rows of length 1; rows of zeros, or of what is no number, stay where they are."""
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    return gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-30)


def as_tuple(additional_forward_args: Any) -> tuple[Any, ...]:
    """Captum's further arguments as a tuple."""
    if additional_forward_args is None:
        return ()
    return additional_forward_args if isinstance(additional_forward_args,
                                                 tuple) else (additional_forward_args,)


def shaped_like(points: BoundaryPoints, inputs: Any) -> BoundaryPoints:
    """The same points, a tensor or a tuple as the inputs are."""
    return (points
            if isinstance(inputs, tuple) else dataclasses.replace(points, points=points.points[0]))


def with_certified(points: BoundaryPoints, distance: Tensor) -> BoundaryPoints:
    """The same points with certified distances (N,)."""
    return dataclasses.replace(points, certified_distance=distance)
