"""certify_prediction(): what the same ball leaves of the prediction that an attribution
explains.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from auto_LiRPA.perturbations import Perturbation
from torch import Tensor

from ..arrays import as_inputs, as_tensors, parameter_of
from ..bounding.margins import Margins
from ..bounding.settings import check_method
from ..bounding.where import Where
from ..boxes import Box
from ..certificates.box import ordered_box
from ..certifying.columns import given_names
from ..certifying.exit import check_numbers, issued_numbers
from ..decision.decision import Decision
from ..decision.search import as_tuple
from ..guards import isolated, no_training_layers
from ..inputs import check_inputs, uncompiled


@dataclass(frozen=True)
class Prediction:
    """Bounds of a prediction that hold for every allowed perturbation, up to rounding.

    Args:
        classes: (N,), the class predicted at the unperturbed input.
        certain: (N,), bool: whether no perturbation changes it, a tie being a change.
        margin: (N,), lower bound of the score of that class less the largest other one.
        confidence: (N,), the softmax probability of that class, unperturbed; the sigmoid's for a
            single output.
        confidence_lower: (N,), a lower bound of what it can become.
        confidence_upper: (N,), an upper bound of that.
    """

    classes: Tensor
    certain: Tensor
    margin: Tensor
    confidence: Tensor
    confidence_lower: Tensor
    confidence_upper: Tensor


@uncompiled
def certify_prediction(forward_func: Callable[..., Tensor], inputs: Tensor | tuple[Tensor, ...], *,
                       perturbation: Perturbation | tuple[Perturbation | None, ...] | None = None,
                       eps: float | Tensor | tuple[Any, ...] | None = None, norm: float = math.inf,
                       clip: tuple[Any, Any] | None = None, additional_forward_args: Any = None,
                       method: str = "CROWN", batch_size: int = 64,
                       parameters: Any = None) -> Prediction:
    """Bound the margins and the confidence of a prediction over the ball in which its explanation
    is certified.

    With margins m_j = z_c - z_j of the class c over each other class j, which are bounded by
    propagation as linear functions of the output: the label is certain where all are above 0, and
    the confidence, which rises in each of them, is 1 / (1 + sum_j exp(-m_j)).

    Args:
        forward_func: the model: scores before softmax, (N, classes), or (N, 1) or (N,) for two
            classes.
        inputs: as for `lirpa_explain.certify`, and so the next four.
        perturbation: an auto_LiRPA perturbation, or a tuple of them.
        eps: radius of the ball.
        norm: its norm.
        clip: the range of the data.
        additional_forward_args: as for Captum; held fixed.
        method: how to bound, a key of `lirpa_explain.METHODS`.
        batch_size: most examples bounded at once.
        parameters: as for `lirpa_explain.certify`: how far the model's parameters may change.

    Returns:
        A `Prediction`.

    Raises:
        ValueError: bad numbers or shapes, or outputs of another shape.
        TypeError: an argument of a wrong type.
        UnsupportedOperation: the model contains an operation that has no bound operator.
        TrainingModeError: a layer is in training mode whose output is then random or depends on the
            batch.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> model = torch.nn.Linear(2, 1).double()
        >>> _ = torch.nn.init.constant_(model.weight, 1.0), torch.nn.init.zeros_(model.bias)
        >>> found = lx.certify_prediction(model, torch.ones(1, 2).double(), eps=0.5)
        >>> found.classes.tolist(), found.certain.tolist(), round(found.margin.item(), 6)
        ([1], [True], 1.0)
    """
    check_method(method)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; pass an int of at least 1.")
    names = given_names(None, perturbation, isinstance(inputs, tuple))
    inputs, _ = as_inputs(inputs, names, parameter_of(forward_func))
    eps, clip = as_tensors(eps), as_tensors(clip)
    xs = check_inputs(inputs)
    where = Where.of(forward_func, inputs, perturbation=perturbation, eps=eps, norm=norm, clip=clip,
                     parameters=parameters, differentiable=False)
    with isolated(xs[0].device, forward_func), no_training_layers():
        decision = Decision(forward_func, xs, as_tuple(additional_forward_args))
        margins = Margins(decision, xs, where.parameters)
        every = torch.arange(decision.count, device=decision.x.device)
        parts = [margins.bounds(index, where.rows(index), method)
                 for index in every.split(batch_size)]
        box = Box(*(torch.cat(side) for side in zip(*parts, strict=True)))
        outputs, value = _outputs(decision), margins.values()
        nominal = torch.einsum("nrk,nk->nr", margins.rivals, outputs)
        terms = torch.einsum("nrk,nk->nr", margins.rivals.abs(),
                             outputs.abs()).amax(1, keepdim=True)
        terms = torch.maximum(terms, box.size.nan_to_num(posinf=0))
        check_numbers(Box.point(nominal), value, terms,
                      "Margins of the traced model, beside the model's own,")
        box = issued_numbers(box, value, terms, "Margins", nominal)
        if (moved := where.parameters) is not None:
            with moved.set_to(moved.draw(True, torch.Generator().manual_seed(0))):
                check_numbers(box, _margins(decision, margins), terms,
                              "With other parameters, margins")
    lower, upper = ordered_box(*box)
    return Prediction(classes=decision.classes, certain=(lower > 0).all(1), margin=lower.amin(1),
                      confidence=_confidence(nominal), confidence_lower=_confidence(lower),
                      confidence_upper=_confidence(upper))


@torch.no_grad()
def _margins(decision: Decision, margins: Margins) -> Tensor:
    """The margins at the examples, (N, R)."""
    return torch.einsum("nrk,nk->nr", margins.rivals, _outputs(decision))


@torch.no_grad()
def _outputs(decision: Decision) -> Tensor:
    """The model's outputs at the examples, (N, K)."""
    every = torch.arange(decision.count, device=decision.x.device)
    return decision.output(decision.x, every).reshape(decision.count, -1)


def _confidence(margins: Tensor) -> Tensor:
    """Infinite margins are limits here: sums that overflow make a confidence of 0."""
    return 1 / (1 + torch.exp(-margins).sum(1))
