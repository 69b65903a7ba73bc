"""attack(): the strongest change of an attribution that is found within a ball, and the input that
makes it.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from auto_LiRPA.perturbations import Perturbation
from torch import Tensor

from ..arrays import as_tensors
from ..bounding.where import Where
from ..certifying.columns import given_tensors
from ..certifying.posed import Poser
from ..certifying.request import Request, random_state
from ..guards import isolated
from ..inputs import check_attribution, check_keywords, check_known, uncompiled
from .objectives import Objective
from .objectives import objective as lookup
from .search import Search, Settings, Watch

Attributions = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class AttackResult:
    """The worst input found for each example, and what the attribution is there.

    Args:
        worst_inputs: in the form of the inputs, each (N, *S); within the ball.
        attribution: Captum's own at `worst_inputs`, in the form that Captum returns.
        value: the objective there, (N,).
        nominal: the attribution at the unperturbed inputs.
        low: smallest value of each entry at any point that was tried.
        high: largest value of each entry.
        steps: how many attributions were computed.
        objective: the name of what was maximised.
        fallback: why no gradients were followed and points drawn at random instead; "" if they
            were.
        interrupted: whether the search was stopped early.
        worst_parameters: the parameters that moved, by name, as they were for each example at its
            worst input: (N, *shape); empty if none did.
    """

    worst_inputs: Attributions
    attribution: Attributions
    value: Tensor
    nominal: Attributions
    low: Attributions
    high: Attributions
    steps: int
    objective: str
    fallback: str = ""
    interrupted: bool = False
    worst_parameters: dict[str, Tensor] = field(default_factory=dict)


@uncompiled
def attack(attribution: Any, inputs: Tensor | tuple[Tensor, ...], *,
           perturbation: Perturbation | tuple[Perturbation | None, ...] | None = None,
           eps: float | Tensor | tuple[Any, ...] | None = None, norm: float = math.inf,
           clip: tuple[Any, Any] | None = None, objective: str | Objective = "l2",
           options: dict[str, Any] | None = None, samples: int = 60, restarts: int = 3,
           steps: int = 20,
           step: float = 1.0, schedule: str = "cosine", sharpness: tuple[float, float] = (0.3, 3.0),
           output_weight: float = 0.0, seed: int = 0, batch_size: int = 256, progress: bool = False,
           parameters: Any = None, perturb: str | None = None, fixed: Any = None,
           **attribute_kwargs: Any) -> AttackResult:
    """Search a ball for the input at which an attribution changes most.

    Maximises objective(A(x'), A(x)) over x' in the ball, for each example: random points and
    corners first, then ascent from the best of them and from random ones: in a box the first,
    third, ... restart moves the entries that gain most to the ends of their ranges, the others are
    projected gradient ascent. The value is always that of Captum's own attribution; only directions
    come from a copy of the model whose kinks are smoothed. What is found is a lower bound of the
    worst case, as a certificate is an upper bound.

    Args:
        attribution: a Captum object. Of a class that is not in `lirpa_explain.ATTRIBUTIONS`, or for
            a model that cannot be traced, gradients are unknown: more points are drawn instead, and
            the result says so.
        inputs: as for `certify`, and so `perturbation`, `eps`, `norm` and `clip`.
        perturbation: an auto_LiRPA perturbation, or a tuple of them.
        eps: radius of the ball.
        norm: its norm: math.inf, 2 or 1.
        clip: the range of the data.
        objective: a key of `lirpa_explain.OBJECTIVES`, or an `Objective`.
        options: the objective's own: `k` of "top_k" and "top_k_lost", `mask` of "region" and
            "region_sum", `target` of "target_map", `entry` of "increase" and "decrease", flat or an
            index tuple.
        samples: random points, half of them corners (norm 2: on the sphere; norm 1: vertices).
        restarts: of the gradient ascent; 0 for random points alone.
        steps: of each ascent.
        step: length of the first step as a share of the radius, above 0 and at most 2; twice the
            share of the entries that a step towards a corner moves.
        schedule: how steps shorten: "constant", "linear", "cosine" or "geometric".
        sharpness: of the smoothed kinks at the first and at the last step: how many times narrower
            they are than the mean change of what enters them between the input and random points of
            the ball.
        output_weight: multiple of the squared change of the model's output that is subtracted from
            the objective while searching, so that the prediction stays (Dombrowski et al.).
        seed: of the search. The attribution draws from the global generators as they are, the same
            at every point.
        batch_size: most rows (examples x path points) differentiated at once.
        progress: show a progress bar.
        parameters: as for `certify`: how far the model's parameters may change, which are searched
            as well. At each step they are the same for all examples: attack one example at a time
            for the strongest attack on each.
        perturb: as for `certify`: with "layer", `worst_inputs` are worst outputs of the layer.
        fixed: as for `certify`.
        **attribute_kwargs: every keyword of `attribution.attribute`, unchanged.

    Returns:
        An `AttackResult`, each example's best over the whole search. Stopped by KeyboardInterrupt,
        what it had found.

    Raises:
        ValueError: a bad number, shape or name, or arguments that Captum rejects, with Captum's
            reason.
        TypeError: an argument of a wrong type.
        TrainingModeError: a layer is in training mode whose output is then random or depends on the
            batch.

    Source:
        Ghorbani, Abid and Zou, Interpretation of Neural Networks is Fragile, 2019; Dombrowski et
        al., Explanations can be manipulated and geometry is to blame, 2019.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(),
        ...                             torch.nn.Linear(4, 2))
        >>> x = torch.rand(2, 3)
        >>> found = lx.attack(Saliency(model), x, eps=0.1, objective="l2", steps=5, target=0)
        >>> bool((found.value
        ...       <= lx.certify(Saliency(model), x, eps=0.1, target=0).max_change(2)).all())
        True
    """
    check_attribution(attribution)
    check_known(attribution, attribute_kwargs, attack)
    check_keywords(attribute_kwargs)
    inputs, columns, keywords = given_tensors(attribution, inputs, attribute_kwargs,
                                              perturbation=perturbation)
    eps, clip = as_tensors(eps), as_tensors(clip)
    poser = Poser(attribution, perturb)
    posed = poser.pose(inputs, keywords)
    where = Where.of(
        attribution.forward_func, posed.call.inputs, perturbation=perturbation, eps=eps, norm=norm,
        clip=clip, parameters=parameters, differentiable=False, fixed=fixed, ids=posed.ids)
    poser.check_parameters(posed, where.parameters)
    request = Request(posed, where, random_state(posed.call.xs[0].device), posed.names_of(columns))
    settings = Settings(samples, restarts, steps, step, schedule, sharpness, output_weight, seed,
                        batch_size, progress)
    return run(request, lookup(objective, options) if isinstance(objective, str) else objective,
               settings)


def run(request: Request, objective: Objective, settings: Settings,
        watch: Watch | None = None) -> AttackResult:
    """Attack a request; `watch` sees every point and attribution that is tried."""
    with isolated(request.xs[0].device, request.attribution), torch.no_grad():
        search = Search(request, objective, settings, watch)
        search.run()
    shaped = request.nominal.shaped
    return AttackResult(
        worst_inputs=request.shaped(tuple(p.clone() for p in search.points)),
        attribution=shaped(search.attribution), value=search.value, nominal=shaped(search.nominal),
        low=shaped(search.low), high=shaped(search.high), steps=search.steps,
        objective=objective.name, fallback=search.fallback, interrupted=search.interrupted,
        worst_parameters={name: value.clone() for name, value in search.values.items()})
