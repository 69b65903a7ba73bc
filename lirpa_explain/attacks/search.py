"""The search for the worst input: random points, corners, and projected gradient ascent with
restarts.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from ..boxes import Box
from ..certifying.request import Points, Request
from .derivative import Derivative, derivative_of
from .objectives import Objective
from .steps import SCHEDULES, ascend, flip
from .surrogate import Softened

Values = dict[str, Tensor]
Watch = Callable[[Points, Tensor, Values], None]


@dataclass(frozen=True)
class Settings:
    """How long and how to search; see `attack` for the fields."""

    samples: int = 60
    restarts: int = 3
    steps: int = 20
    step: float = 1.0
    schedule: str = "cosine"
    sharpness: tuple[float, float] = (0.3, 3.0)
    output_weight: float = 0.0
    seed: int = 0
    batch_size: int = 256
    progress: bool = False

    def __post_init__(self) -> None:
        for name, least in (("samples", 0), ("restarts", 0), ("steps", 1), ("batch_size", 1),
                            ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}; given: "
                                 f"{value!r}.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}; given: "
                             f"{self.schedule!r}.")
        if (isinstance(self.step, bool) or not isinstance(self.step, int | float)
                or not 0 < self.step <= 2):
            raise ValueError("step must be a number above 0 and at most 2, a share of the radius; "
                             f"given: {self.step!r}.")
        if len(self.sharpness) != 2 or not all(s > 0 for s in self.sharpness):
            raise ValueError("sharpness must be a pair of numbers above 0; given: "
                             f"{self.sharpness!r}.")
        if not self.output_weight >= 0:
            raise ValueError(f"output_weight must be at least 0; given: {self.output_weight!r}.")

    @property
    def evaluations(self) -> int:
        """How many attributions are computed, the unperturbed one among them."""
        return 1 + self.samples + self.restarts * (self.steps + 1)


class Search:
    """One run: every attribution it meets is Captum's own, and is remembered.

    Args:
        request: what is attacked.
        objective: what is maximised.
        settings: how.
        watch: called with the points, the attributions (N, D) and the values of the parameters of
            every evaluation; may raise.
    """

    def __init__(self, request: Request, objective: Objective, settings: Settings,
                 watch: Watch | None = None) -> None:
        self.request, self.objective, self.settings, self.watch = (
            request, objective, settings, watch)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.nominal = request.nominal.flat
        self.output = request.output(request.xs).detach() if settings.output_weight else None
        self.points = request.xs
        nominal = request.parameters.nominal if request.parameters else {}
        self.common, self.total = nominal, -torch.inf  # of all examples together
        self.values = {name: value.expand(len(self.nominal), *value.shape)
                       for name, value in nominal.items()}
        self.attribution = self.low = self.high = self.nominal
        self.value = self.score = torch.full_like(self.nominal[:, 0], -torch.inf)
        self.steps, self.interrupted, self.fallback = 0, False, ""

    def run(self) -> None:
        """Search; stopping it by KeyboardInterrupt keeps what was found."""
        settings = self.settings
        with tqdm(total=settings.evaluations, disable=not settings.progress, unit="attribution",
                  leave=False) as bar:
            self.bar = bar
            try:
                self.evaluate(self.request.xs, self.common)
                for i in range(settings.samples):
                    self.evaluate(*self.draw(extreme=i % 2 == 0))
                if settings.restarts:
                    self.ascend()
            except KeyboardInterrupt:
                self.interrupted = True
                warnings.warn("The attack was stopped; what it had found until then is returned.",
                              stacklevel=3)

    def evaluate(self, points: Points, values: Values) -> Tensor:
        """The attribution (N, D) at points and at values of the parameters; the best of each
        example is kept.
        """
        a = self.request.attribute(points, values).flat
        self.steps += 1
        self.bar.update()
        if self.watch is not None:
            self.watch(points, a, values)
        value = self._score(self.objective.value, a)
        with self.request.moved(values):
            score = value - self._penalty(points)
        better = score > self.score
        self.value, self.score = (torch.where(better, value, self.value),
                                  torch.where(better, score, self.score))
        self.attribution = torch.where(better[:, None], a, self.attribution)
        self.points = tuple(_where(better, p, q) for p, q in zip(points, self.points, strict=True))
        self.values = {name: _where(better, value[None], self.values[name])
                       for name, value in values.items()}
        total = score.sum().item()
        if total > self.total:
            self.common, self.total = values, total
        self.low, self.high = Box(self.low, self.high).hull(Box.point(a))
        return a

    def draw(self, extreme: bool) -> tuple[Points, Values]:
        """A random point of all balls, and of the parameters."""
        return self.request.draw(extreme, self.generator)

    def ascend(self) -> None:
        """Ascent from the best point so far, and from random ones: towards corners and along
        gradients, in turn.
        """
        settings = self.settings
        derivative = derivative_of(self.request, settings.batch_size)
        if isinstance(derivative, str):
            self.fallback = derivative
            for i in range(settings.restarts * (settings.steps + 1)):
                self.evaluate(*self.draw(extreme=i % 2 == 0))
            return
        soft = self._softened(derivative)
        first, last = settings.sharpness
        for restart in range(settings.restarts):
            points, values = (self.points,
                              self.common) if restart == 0 else self.draw(extreme=restart % 2 == 0)
            # a penalty keeps the best inside
            move = flip if restart % 2 == 0 and self.output is None else ascend
            for step in range(settings.steps):
                done = step / settings.steps
                self.evaluate(points, values)
                soft.sharpness = first * (last / first) ** (step / max(1, settings.steps - 1))
                gradients, slopes = self._gradients(derivative, soft, points, values)
                size = settings.step * SCHEDULES[settings.schedule](done)
                points = tuple(p if ball is None else move(ball, x, p, g, size)
                               for ball, x, p, g in zip(self.request.balls, self.request.xs, points,
                                                        gradients, strict=True))
                if self.request.parameters:
                    values = self.request.parameters.ascend(values, slopes, size)
            self.evaluate(points, values)

    def _softened(self, derivative: Derivative) -> Softened:
        """The module with its jumps smoothed on the scale of the ball."""
        xs = self.request.xs
        soft = Softened(derivative.module, len(xs[0]))
        for extreme in (True, False):
            points, values = self.draw(extreme)
            for (sample, start, _), (_, moved, _) in zip(derivative.chunks(xs),
                                                         derivative.chunks(points), strict=True):
                soft.measure(derivative.rows.example[sample], start, moved,
                             self.request.moved(values))
        return soft

    def _gradients(self, derivative: Derivative, soft: Softened, points: Points, values: Values
                   ) -> tuple[Points, Values]:
        """Ascent directions: the slope of the objective at the change that the smoothed attribution
        makes.

        That of the parameters is one for all examples together.
        """
        tensors = self.request.parameters.tensors if self.request.parameters else {}
        start = derivative(self.request.xs, soft)

        def cotangent(a: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = (self.nominal + a - start).requires_grad_()
                total = self._score(self.objective.surrogate, leaf).sum()
                if not total.requires_grad:  # a count without a surrogate
                    return self._noise(a)
                slope, = torch.autograd.grad(total, leaf, allow_unused=True, materialize_grads=True)
            slope = slope.nan_to_num(0, 0, 0)
            return torch.where((slope == 0).all(1, keepdim=True), self._noise(a), slope)

        with self.request.moved(values):
            pulled = derivative.pull_back(points, cotangent, soft, tuple(tensors.values()))
        pulled = tuple(g.nan_to_num(0, 0, 0) for g in pulled)
        gradients, slopes = (list(pulled[:len(points)]),
                             dict(zip(tensors, pulled[len(points):], strict=True)))
        if self.output is not None:
            with torch.enable_grad(), self.request.moved(values):
                leaves = tuple(p.detach().requires_grad_() for p in points)
                penalty = torch.autograd.grad(self._penalty(leaves).sum(), leaves,
                                              allow_unused=True, materialize_grads=True)
            gradients = [g - p for g, p in zip(gradients, penalty, strict=True)]
        still = torch.stack([(g == 0).flatten(1).all(1) for g in gradients]).all(0)
        return tuple(_where(still, self._noise(g), g) for g in gradients), slopes

    def _penalty(self, points: Points) -> Tensor:
        """What Dombrowski et al. subtract: a multiple of the squared change of the model's output,
        (N,).
        """
        if self.output is None:
            return torch.zeros_like(self.nominal[:, 0])
        change = self.request.output(points) - self.output
        penalty = self.settings.output_weight * change.square().sum(1)
        return (penalty if torch.is_grad_enabled() and any(p.requires_grad for p in points)
                else penalty.detach())

    def _score(self, score: Callable[..., Tensor], a: Tensor) -> Tensor:
        return score(a, self.nominal, self.request.shapes, **self.objective.options)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=torch.float64,
                           device=self.generator.device).to(like)


def _where(rows: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """The rows (N,) of one tensor (N, *S) where true, of another elsewhere."""
    return torch.where(rows.reshape(-1, *[1] * (other.ndim - 1)), chosen, other)
