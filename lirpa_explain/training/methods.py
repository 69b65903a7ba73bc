"""The table of training methods: ours beside those it is compared with, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..registration import Table, empty
from . import baselines
from .baselines import Task
from .explanation import explanation_loss


@dataclass(frozen=True)
class TrainingMethod:
    """One row of the table.

    Args:
        function: `function(model, x, y, *, eps, **settings) -> scalar`.
        words: what it is, in one line.
        source: where it comes from.
        replaces_task: whether it is the loss itself; otherwise it is added to the task's, with a
            weight.
    """

    function: Callable[..., Tensor]
    words: str
    source: str
    replaces_task: bool


TRAINING_METHODS: Table[str, TrainingMethod] = Table(
    "training method", "lirpa_explain.training.register_method(name, function, ...)",
    lambda name, row: empty(row, "words", *([] if name == "plain" else ["source"])))


def register(name: str, function: Callable[..., Tensor], words: str, source: str, *,
             replaces_task: bool = False, overwrite: bool = False) -> None:
    """Add a training method to the table.

    Args:
        name: its key.
        function: `function(model, x, y, *, eps, **settings) -> scalar`; if it replaces the task's
            loss, with a keyword `task(logits, y) -> scalar`.
        words: what it is, in one line.
        source: where it comes from.
        replaces_task: whether it is the loss itself.
        overwrite: replace a row of that name.

    Raises:
        ValueError: the name is taken and `overwrite` is False.
    """
    TRAINING_METHODS.add(name, TrainingMethod(function, words, source, replaces_task),
                         overwrite=overwrite)


def training_loss(name: str, model: nn.Module, x: Tensor, y: Tensor, *, eps: float,
                  weight: float = 1.0, task: Task = F.cross_entropy,
                  base: Callable[..., Tensor] | None = None, **settings: Any) -> Tensor:
    """What a method minimises: task(f(x), y) + weight * penalty, or the loss that it puts in the
    task's place.

    With a `base`, such as adversarial training of the prediction: base(f, x, y) + weight * penalty.

    Args:
        name: a key of `TRAINING_METHODS`.
        model: the classifier, from (N, *S) to logits (N, C).
        x: (N, *S).
        y: (N,), int64, targets.
        eps: radius of the ball in which explanations shall be robust.
        weight: of the penalty, at least 0; a method that replaces the task's loss has none, and
            ignores it.
        task: the task's loss.
        base: `base(model, x, y, task=task) -> scalar`, what the penalty is added to, such as
            another method's `partial(training_loss, "pgd", eps=0.02)`; default: the task's loss of
            the inputs themselves.
        **settings: of the method.

    Returns:
        A scalar, differentiable in the model's parameters.

    Raises:
        ValueError: there is no such method, or `base` is given for one that replaces the task's
            loss.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> x, y = torch.rand(5, 3), torch.tensor([0, 1, 0, 1, 1])
        >>> training_loss("l2_alignment", model, x, y, eps=0.1, weight=0.5).backward()
        >>> adversarial = partial(training_loss, "pgd", eps=0.05)
        >>> training_loss("certified", model, x, y, eps=0.1, weight=0.5,
        ...               base=adversarial).backward()
    """
    method = TRAINING_METHODS[name]
    if not method.replaces_task:
        return (base or baselines.plain)(model, x, y, task=task) + weight * method.function(
            model, x, y, eps=eps, **settings)
    if base is not None:
        raise ValueError(
            f"{name!r} replaces the task's loss and is added to nothing; base is for penalties: "
            f"{', '.join(key for key, row in TRAINING_METHODS.items() if not row.replaces_task)}.")
    return method.function(model, x, y, eps=eps, task=task, **settings)


register("plain", baselines.plain, "the task's loss", "", replaces_task=True)
register("pgd", baselines.pgd, "adversarial training of the prediction", "Madry et al. 2018",
         replaces_task=True)
register("atex", baselines.atex, "equal predictions across the direction of the explanation",
         "Tang et al. 2022")
register("hessian", baselines.hessian, "curvature |H v|^2 of the target's logit",
         "Dombrowski et al. 2022")
register("softplus", baselines.softplus, "softplus for ReLU, and weight decay",
         "Dombrowski et al. 2022", replaces_task=True)
register("l2_alignment", baselines.l2_alignment, "|g(x + z) - g(x)|^2, z random", "Joo et al. 2023")
register("cosine_alignment", baselines.cosine_alignment, "(1 - cos(g(x + z), g(x))) / 2, z random",
         "Joo et al. 2023")
register("ig_sum_norm", baselines.ig_sum_norm, "adversarial training of loss and path attribution",
         "Chen et al. 2019", replaces_task=True)
register("smoothing", baselines.smoothing, "Gaussian noise on the inputs", "Cohen et al. 2019",
         replaces_task=True)
register("certified", explanation_loss, "certified bounds of the explanation",
         "Wicker et al. 2023; this package")
