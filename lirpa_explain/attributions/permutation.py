"""FeaturePermutation: features taken from other examples of the batch, as Captum draws these."""

import math
from typing import Any

import torch
from captum.attr import FeaturePermutation
from torch import Tensor

from ..errors import UnsupportedAttribution, in_the_name_of
from .ablation import Recorder, ablated
from .combination import Combination, Permuted, copies, selected_output
from .plan import Plan, extras_of, register

Tensors = tuple[Tensor, ...]

IGNORED = ("inputs", "target", "additional_forward_args", "show_progress", "baselines")
"""Keywords on which the permutations do not depend."""


@register(FeaturePermutation,
          "f(x) - f(x with the feature's entries of another, drawn example of the batch)",
          mixes=True)
def feature_permutation(attribution: FeaturePermutation, inputs: Tensors,
                        keywords: dict[str, Any]) -> Plan:
    """Plan of FeaturePermutation; draws permutations from torch's generator as Captum does.

    The example whose features another one takes is perturbed as well, in its own ball.
    """
    origins = _origins(attribution, inputs, keywords)
    count, samples = origins.shape[:2]
    own = torch.arange(count, device=origins.device)[:, None, None]
    sizes = [math.prod(x.shape[1:]) for x in inputs]
    partners = tuple(_partner(part, own) for part in origins.split(sizes, 2))
    moved = (origins != own).any(0)  # a feature that stays in one example is still its feature
    masks = (~moved).to(inputs[0])[None]
    weights, index = ablated(masks, averaged=False)
    kept = [part.expand(count, -1, -1).reshape(count * samples, *x.shape[1:])
            for part, x in zip(masks.split(sizes, 2), inputs, strict=True)]
    fields = copies(inputs, keywords, samples, (*kept, *(1 - part for part in kept)))
    return Plan(**fields, program=selected_output("input", "partner"), partners=partners,
                function=Permuted(attribution.forward_func, len(inputs), len(extras_of(keywords))),
                combination=Combination(weights, index, inputs[0].dtype, 4))


def _origins(attribution: FeaturePermutation, inputs: Tensors, keywords: dict[str, Any]) -> Tensor:
    """Which example each entry of each example comes from, at each call of the function, (N, J, D).

    Captum's own class is run on inputs that are the numbers of the examples, and nothing else.
    """
    recorder, count = Recorder(), len(inputs[0])
    numbers = tuple(torch.arange(count, device=x.device).to(x).reshape(
        -1, *[1] * (x.ndim - 1)).expand_as(x).clone() for x in inputs)
    settings = {name: value for name, value in keywords.items() if name not in IGNORED}
    many = len(inputs) > 1 or isinstance(settings.get("feature_mask"), tuple)
    with in_the_name_of("Captum's FeaturePermutation.attribute rejects these arguments"):
        FeaturePermutation(recorder, attribution.perm_func).attribute(
            numbers if many else numbers[0], **settings)
    found = recorder.rows(count)
    if not bool(((found == found.round()) & (found >= 0) & (found < count)).all()):
        raise UnsupportedAttribution("FeaturePermutation cannot be certified with a perm_func that "
                                     "does more than move entries from one example of the batch to "
                                     "another.")
    return found.long()


def _partner(origins: Tensor, own: Tensor) -> Tensor:
    """The one other example that an input's entries come from, (N * J,), or that example itself."""
    other = torch.where(origins == own, -1, origins)
    most = other.amax(2)
    if not bool(((other == -1) | (other == most[:, :, None])).all()):
        raise UnsupportedAttribution("FeaturePermutation cannot be certified with a perm_func that "
                                     "takes a feature's entries from several examples.")
    return torch.where(most < 0, own[:, :, 0], most).flatten()
