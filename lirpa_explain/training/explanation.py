"""explanation_loss(): certified bounds of a model's own explanations as a term of its training
loss.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from captum.attr import Saliency
from torch import Tensor, nn

from ..attributions.plan import extras_of
from ..bounding.bounds import Bounds
from ..certificates.layout import mask_weights
from ..certifying.certifier import Certifier
from ..errors import in_the_name_of
from ..guards import evaluating, isolated
from ..inputs import check_inputs, uncompiled
from ..tensors import check_kind
from .losses import LOSSES, Loss

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"mean": Tensor.mean, "sum": Tensor.sum,
                                                     "none": lambda each: each}


class ExplanationLoss:
    """A loss on certified bounds of a model's explanations: call it on each batch, and add it to
    the loss.

    The model may be in training mode. The bounds are those of the model in eval mode, with dropout
    as the identity and the running statistics of batch normalizations; nothing of the model is
    changed, and no gradient is accumulated but by `backward`. It is traced at the first batch, of
    which one full certificate checks the trace against Captum.

    Args:
        model: the model.
        eps: radius of the ball, the default of each call.
        norm: its norm, inf, 2 or 1.
        clip: (low, high), the range of the data, for norm inf; costs a little time.
        attribution: what is explained: a Captum class, or any function that makes an attribution
            object of the model, such as `lambda model: NoiseTunnel(IntegratedGradients(model))`.
            None: the gradient of the target's score, `Saliency` with abs=False.
        method: how to bound, a key of `lirpa_explain.METHODS`; "IBP" is fastest by far.
        loss: a key of `LOSSES`; or a sum of losses of the same bounds: a dictionary from keys to
            weights.
        options: settings of that loss, such as {"k": 5}; of a sum, a dictionary from keys to their
            settings.
        reduction: "mean" or "sum" over the examples of a batch, or "none".
        **keywords: keywords of `Certifier.bounds`, such as
            parameters=lx.ParameterBox(relative=0.02) for changes of the parameters, and so of the
            attribution's `attribute`, such as n_steps=20.

    Raises:
        ValueError: no such loss or reduction, or a setting that the loss has not.
        TypeError: the model is no module.
        As `lirpa_explain.certify`.

    Example:
        >>> import lirpa_explain as lx
        >>> from torch.nn import functional as F
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x, y = torch.rand(4, 2), torch.tensor([0, 1, 1, 0])
        >>> signs = lx.training.ExplanationLoss(model, eps=0.1, loss="signs",
        ...                                     options={"margin": 0.2})
        >>> (F.cross_entropy(model(x), y) + 0.1 * signs(x, y)).backward()
    """

    def __init__(self, model: nn.Module, *, eps: float | Tensor | tuple[Any, ...] | None = None,
                 norm: float = math.inf, clip: tuple[Any, Any] | None = None,
                 attribution: Callable[[Any], Any] | None = None, method: str = "IBP",
                 loss: str | Mapping[str, float] = "width", options: dict[str, Any] | None = None,
                 reduction: str = "mean", **keywords: Any) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module; given: {type(model).__name__}.")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}; given: "
                             f"{reduction!r}.")
        self.terms, self.reduction = _terms(loss, dict(options or {})), reduction
        if attribution is None:
            attribution, keywords = Saliency, {"abs": False, **keywords}
        self.model, self.eps, self.ball, self.keywords = (model, eps, {"norm": norm, "clip": clip},
                                                          keywords)
        self.certifier = Certifier(attribution(model), method=method)
        self.outputs: dict[Any, int] = {}

    @uncompiled
    def __call__(self, x: Tensor | tuple[Tensor, ...], y: Any = None, *,
                 eps: float | Tensor | tuple[Any, ...] | None = None, **keywords: Any) -> Tensor:
        """The loss of a batch.

        Args:
            x: inputs, (N, *S), or a tuple of such.
            y: which output each example's explanation is of, a Captum target such as labels (N,);
                not read by models of one output.
            eps: radius of the ball, if not as the loss was made for.
            **keywords: as those of the loss, and before them; `target` goes before `y`.

        Returns:
            A scalar, or (N,) with reduction "none", differentiable in the model's parameters unless
            grad mode is off.
        """
        bounds = self.bounds(x, y, eps=eps, **keywords)
        terms = [weight * self._term(row, bounds, options) for row, weight, options in self.terms]
        return REDUCTIONS[self.reduction](torch.stack(terms).sum(0))

    def bounds(self, x: Tensor | tuple[Tensor, ...], y: Any = None, *,
               eps: float | Tensor | tuple[Any, ...] | None = None, **keywords: Any) -> Bounds:
        """The bounds that the loss is a function of; arguments as for calls."""
        keywords = {**self.ball, **self.keywords, **keywords}
        if "perturbation" not in keywords:
            keywords["eps"] = self.eps if eps is None else eps
        keywords.setdefault("target", None if self._has_one_output(x, keywords) else y)
        return self.certifier.bounds(x, **keywords)

    def _term(self, row: Loss, bounds: Bounds, options: dict[str, Any]) -> Tensor:
        """One loss, (N,)."""
        masks = {name: mask_weights(options[name], bounds.shaped(bounds.lower.detach()))
                 for name in row.features if name in options}
        return row.function(bounds, **{**options, **masks})

    def _has_one_output(self, x: Tensor | tuple[Tensor, ...], keywords: dict[str, Any]) -> bool:
        """Whether there is nothing to choose a target from; found out by running the model on
        inputs of a new shape.
        """
        xs = check_inputs(x)
        forward, key = self.certifier.attribution.forward_func, tuple(part.shape[1:] for part in xs)
        if key not in self.outputs:
            with evaluating(forward), isolated(xs[0].device, forward), in_the_name_of(
                "The model rejects these inputs"):
                output = forward(*xs, *extras_of(keywords))
            if not isinstance(output, Tensor):
                raise ValueError("The model must return one tensor; it returned "
                                 f"{type(output).__name__}.")
            check_kind(output, "The model's output")
            self.outputs[key] = output.shape[1:].numel()
        return self.outputs[key] == 1


def _terms(loss: str | Mapping[str, float],
           options: dict[str, Any]) -> list[tuple[Loss, float, dict[str, Any]]]:
    """The losses that are added up, with their weights and settings."""
    weights, settings = (({loss: 1.0}, {loss: options})
                         if isinstance(loss, str) else (dict(loss), options))
    if not weights or set(settings) - set(weights):
        raise ValueError(f"loss names {', '.join(weights) or 'nothing'}; options has settings of "
                         f"{', '.join(map(str, settings)) or 'nothing'}. Give weights of some "
                         "losses, and settings of these.")
    terms = [(LOSSES[name], float(weight), dict(settings.get(name) or {}))
             for name, weight in weights.items()]
    for row, _, given in terms:
        try:
            inspect.signature(row.function).bind(None, **given)
        except TypeError as error:
            raise ValueError(f"The loss {row.name!r}: {error}; its options are: "
                             f"{', '.join(row.settings) or 'none'}.") from None
    return terms


def explanation_loss(
    model: nn.Module, x: Tensor | tuple[Tensor, ...], y: Any = None, *,
    eps: float | Tensor | tuple[Any, ...] | None = None, norm: float = math.inf,
    clip: tuple[Any, Any] | None = None, attribution: Callable[[Any], Any] | None = None,
    method: str = "IBP", loss: str | Mapping[str, float] = "width",
    options: dict[str, Any] | None = None, reduction: str = "mean", **keywords: Any) -> Tensor:
    """A loss on certified bounds of a model's explanations, for a training loop of any kind.

    `ExplanationLoss` as a function. Traces are kept for as long as the model lives, and do not keep
    it alive. For a function that explains something else than the model itself, such as a wrapper
    around it, they are kept for as long as that function lives: define it once, outside of the
    loop.

    Args:
        model: the model, in training mode or not.
        x: inputs, (N, *S), or a tuple of such.
        y: which output each example's explanation is of: labels (N,), or another Captum target; not
            read by models of one output.
        eps: radius of the ball.
        norm: its norm, inf, 2 or 1.
        clip: (low, high), the range of the data, for norm inf.
        attribution: as for `ExplanationLoss`, and so all others.
        method: how to bound.
        loss: a key of `LOSSES`, or a dictionary from keys to weights.
        options: settings of that loss.
        reduction: "mean", "sum" or "none"; the paper's loss is "width" with "sum".
        **keywords: keywords of the attribution.

    Returns:
        A scalar, or (N,) with reduction "none", differentiable in the model's parameters unless
        grad mode is off.

    Raises:
        As `ExplanationLoss`.

    Source:
        Wicker et al., Robust Explanation Constraints for Neural Networks, ICLR 2023.

    Example:
        >>> import lirpa_explain as lx
        >>> from torch.nn import functional as F
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x, y = torch.rand(4, 2), torch.tensor([0, 1, 1, 0])
        >>> loss = F.cross_entropy(model(x), y) + 0.1 * lx.training.explanation_loss(model, x, y,
        ...                                                                          eps=0.05)
        >>> loss.backward()
    """
    made = ExplanationLoss(model, eps=eps, norm=norm, clip=clip, attribution=attribution,
                           method=method, loss=loss,
                           options=options, reduction=reduction, **keywords)
    explains_model = attribution is None or made.certifier.attribution.forward_func is model
    known = _KNOWN.setdefault(model, WeakKeyDictionary()).setdefault(
        ExplanationLoss if explains_model else attribution,
        {"traces": made.certifier.traces, "outputs": {}})
    made.certifier.traces, made.outputs = known["traces"], known["outputs"]
    return made(x, y)


_KNOWN: WeakKeyDictionary[nn.Module, WeakKeyDictionary[Any, dict[str, Any]]] = WeakKeyDictionary()
"""What is known of each model: traces and output shapes, by the function that makes what is
explained of it."""
