"""What an attack maximises, as a function of the attribution and of that at the unperturbed input.

Each objective is a row of a table. Its value may be piecewise constant, such as a number of flipped
signs; it then has a surrogate that can be differentiated and grows with it.
"""

import inspect
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..certificates.metrics import METRICS, Metric
from ..certificates.metrics.surrogates import margin, opposed
from ..registration import Table, empty
from ..rounding import least
from .metrics import Score, Shapes, mask_rows, worsening


@dataclass(frozen=True)
class Objective:
    """One row of the table: a number (N,) of an attribution, 0 where nothing changed or nothing was
    gained.

    Args:
        name: its name.
        words: what it is, for people.
        value: `value(a, nominal, shapes, **options) -> (N,)` of attributions (N, D) and the shapes
            of one example of their parts.
        surrogate: of the same arguments: what gradients are taken of.
        options: the caller's options.
    """

    name: str
    words: str
    value: Score
    surrogate: Score
    options: dict[str, Any] = field(default_factory=dict)


def _of_metric(metric: Metric) -> dict[str, Objective]:
    """A metric as an objective."""
    words = f"by how much this gets worse: {metric.formula}"
    return {metric.name: Objective(metric.name, words, *worsening(metric))}


OBJECTIVES: Table[str, Objective] = Table(
    "objective", "@lirpa_explain.attacks.register(name, words)",
    lambda name, row: empty(row, "words"), source=METRICS, make=_of_metric)


def register(name: str, words: str, surrogate: Score | None = None, *, overwrite: bool = False
             ) -> Callable[[Score], Score]:
    """Decorator: add a function `value(a, nominal, shapes, **options)` to the table.

    Args:
        name: its name.
        words: what it is, for people.
        surrogate: what is differentiated in its place.
        overwrite: replace a row of that name.

    Raises:
        ValueError: the name is taken and `overwrite` is False.
    """
    def decorate(value: Score) -> Score:
        OBJECTIVES.add(name, Objective(name, words, value, surrogate or value), overwrite=overwrite)
        return value

    return decorate


def objective(name: str, options: dict[str, Any] | None = None) -> Objective:
    """The objective of that name, with its options checked.

    Args:
        name: a key of `OBJECTIVES`.
        options: its own options, such as {"k": 5}.

    Raises:
        ValueError: there is none of that name, or an option is missing or unknown; the message
            lists those there are.

    Example:
        >>> objective("sign_flips").value(-torch.ones(1, 2), torch.ones(1, 2), ((2,),))
        tensor([2.])
    """
    row, options = OBJECTIVES[name], dict(options or {})
    parameters = list(inspect.signature(row.value).parameters.values())[3:]
    known = {p.name for p in parameters}
    required = {p.name for p in parameters if p.default is p.empty}
    if not set(options) <= known or not required <= set(options):
        raise ValueError(f"The objective {name!r} has the options "
                         f"{', '.join(sorted(known)) or 'none'}, of which "
                         f"{', '.join(sorted(required)) or 'none'} must be given; given: "
                         f"{', '.join(sorted(options)) or 'none'}.")
    return Objective(row.name, row.words, row.value, row.surrogate, options)


def _entry(a: Tensor, entry: Any, shapes: Shapes) -> Tensor:
    """One entry of each row.

    Args:
        a: attributions, (N, D).
        entry: an index of the flattened attribution, or a tensor with one for each row; or a tuple:
            an index of one example, after the number of the part where the attribution has several.
        shapes: of one example of each part.
    """
    if isinstance(entry, tuple):
        entry = _flat_index(entry, shapes)
    try:
        index = torch.as_tensor(entry, device=a.device).expand(len(a))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError("entry must be an index of the flattened attribution, a tensor with one "
                         f"for each of the {len(a)} examples, or a tuple that is an index of one "
                         f"example; given: {entry!r:.80}.") from error
    whole = not index.is_floating_point() and index.dtype != torch.bool
    if not whole or bool(((index < 0) | (index >= a.shape[1])).any()):
        raise ValueError("entry must be an index of the flattened attribution, 0 to "
                         f"{a.shape[1] - 1}; given: {entry}.")
    return a.gather(1, index.long()[:, None])[:, 0]


def _flat_index(entry: tuple[Any, ...], shapes: Shapes) -> int:
    """An index tuple as one of the flattened attribution."""
    places = _whole_numbers(entry)
    part, index = (places[0], places[1:]) if len(shapes) > 1 and places else (0, places)
    if (len(places) != len(entry) or not 0 <= part < len(shapes) or len(index) != len(shapes[part])
            or not all(0 <= i < size for i, size in zip(index, shapes[part], strict=True))):
        form = f"an index of the shape {shapes[0]}" if len(shapes) == 1 else \
            f"(part, *index) with an index of one of the shapes {', '.join(map(str, shapes))}"
        raise ValueError(f"entry, as a tuple, must be {form}; given: {entry!r:.80}.")
    start = sum(math.prod(shape) for shape in shapes[:part])
    flat = 0
    for i, size in zip(index, shapes[part], strict=True):
        flat = flat * size + i
    return start + flat


def _whole_numbers(entry: tuple[Any, ...]) -> tuple[int, ...]:
    """The entries of a tuple; none where one is no whole number, of Python, numpy or torch."""
    if any(getattr(i, "dtype", type(i)) in (bool, torch.bool) for i in entry):
        return ()
    try:
        return tuple(map(operator.index, entry))
    except TypeError:
        return ()


@register("increase", "how far one entry goes up: a_i - nominal_i")
def increase(a: Tensor, nominal: Tensor, shapes: Shapes, entry: Any) -> Tensor:
    """Growth of entry i of the flattened attribution."""
    return _entry(a - nominal, entry, shapes)


@register("decrease", "how far one entry goes down: nominal_i - a_i")
def decrease(a: Tensor, nominal: Tensor, shapes: Shapes, entry: Any) -> Tensor:
    """Loss of entry i of the flattened attribution."""
    return _entry(nominal - a, entry, shapes)


@register("region_sum", "|sum over a region of a - nominal|")
def region_sum(a: Tensor, nominal: Tensor, shapes: Shapes, mask: Any) -> Tensor:
    """Change of sum_i mask_i a_i."""
    return (mask_rows(mask, a, shapes) * (a - nominal)).sum(1).abs()


def _scores(a: Tensor, nominal: Tensor, k: int, absolute: bool) -> tuple[Tensor, Tensor]:
    """What is ranked of both."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= a.shape[1]:
        raise ValueError(f"k must be an integer from 1 to {a.shape[1]}, the number of features; "
                         f"given: {k!r}.")
    return (a.abs(), nominal.abs()) if absolute else (a, nominal)


def share(a: Tensor) -> Tensor:
    """Each entry's share of the mass, |a_i| / sum_j |a_j|."""
    return a.abs() / a.abs().sum(1, keepdim=True).clamp(min=least(a.dtype))


@register("top_k", "share of the mass that the k largest features lose (Ghorbani et al. 2019)")
def top_k(a: Tensor, nominal: Tensor, shapes: Shapes, k: int) -> Tensor:
    """Loss of sum_{i in B} |a_i| / sum_j |a_j|, B the k features largest in |nominal|."""
    top = _scores(a, nominal, k, True)[1].topk(k, 1).indices
    return (share(nominal) - share(a)).gather(1, top).sum(1)


def _flat(surrogate: Callable[..., Tensor]) -> Score:
    """A surrogate that asks for no shapes."""
    return lambda a, nominal, shapes, **options: surrogate(a, nominal, **options)


@register("top_k_lost", "how many of the k largest features are no longer among them",
          _flat(margin))
def top_k_lost(a: Tensor, nominal: Tensor, shapes: Shapes, k: int, absolute: bool = True) -> Tensor:
    """The size k minus |top k of a, intersected with the top k of nominal|."""
    scores, reference = _scores(a, nominal, k, absolute)
    top, before = (torch.zeros_like(s).scatter(1, s.topk(k, 1).indices, 1)
                   for s in (scores, reference))
    return k - (top * before).sum(1)


@register("sign_flips", "how many entries no longer have the sign they had", _flat(opposed))
def sign_flips(a: Tensor, nominal: Tensor, shapes: Shapes) -> Tensor:
    """Number of entries with nominal_i != 0 and a_i nominal_i <= 0."""
    return ((nominal != 0) & (a.sign() != nominal.sign())).sum(1).to(a)


def _centre(a: Tensor, shapes: Shapes) -> Tensor:
    """Mass centre of |a| in the last two dimensions (the last, if there is one), in pixels: (N, 2)
    or (N, 1).
    """
    if len(shapes) != 1 or not shapes[0]:
        raise ValueError("mass_centre is defined for an attribution of one tensor with at least "
                         "one feature dimension.")
    shape = shapes[0][-2:]
    shares = share(a).reshape(len(a), -1, *shape).sum(1)
    axes = [torch.arange(n, device=a.device, dtype=a.dtype) for n in shape]
    places = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([(shares.flatten(1) * place.flatten()).sum(1) for place in places], 1)


@register("mass_centre", "how far the centre of |a| moves, in pixels (Ghorbani et al. 2019)")
def mass_centre(a: Tensor, nominal: Tensor, shapes: Shapes) -> Tensor:
    """Distance |C(a) - C(nominal)|_2 with C = sum_i |a_i| position_i / sum_i |a_i|."""
    return torch.linalg.vector_norm(_centre(a, shapes) - _centre(nominal, shapes), dim=1)


@register("region",
          "share of the mass that a region gains (targeted attack of Ghorbani et al. 2019)")
def region(a: Tensor, nominal: Tensor, shapes: Shapes, mask: Any) -> Tensor:
    """Growth of sum_{i in A} |a_i| / sum_j |a_j|, A the region."""
    return (mask_rows(mask, a, shapes) * (share(a) - share(nominal))).sum(1)


@register("target_map",
          "how much nearer a given map comes, in squared l2 distance (Dombrowski et al. 2019)")
def target_map(a: Tensor, nominal: Tensor, shapes: Shapes, target: Any) -> Tensor:
    """Loss of |a - t|_2^2, t the map."""
    wanted = mask_rows(target, a, shapes)
    return (nominal - wanted).square().sum(1) - (a - wanted).square().sum(1)
