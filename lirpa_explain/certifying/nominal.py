"""Captum's own attribution, computed without leaving traces in the caller's process."""

from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from ..certificates.layout import Attributions, flatten, unflatten
from ..errors import UnsupportedAttribution, in_the_name_of
from ..guards import untouched


@dataclass(frozen=True)
class Nominal:
    """What Captum computes.

    Args:
        parts: one attribution (N, *T) for each input, or for each tensor that a layer returns.
        is_tuple: whether Captum returns more than one tensor, or a tuple of one.
        delta: its convergence delta, if the caller asked for it; one or more for each example, side
            by side.
    """

    parts: tuple[Tensor, ...]
    is_tuple: bool
    delta: Tensor | None

    @property
    def flat(self) -> Tensor:
        """All parts side by side, (N, D)."""
        return flatten(self.parts)

    def shaped(self, flat: Tensor) -> Attributions:
        """Rows (N, D) in the form of Captum's result."""
        return unflatten(self.parts if self.is_tuple else self.parts[0], flat)


def attribute(attribution: Any, inputs: Any, xs: tuple[Tensor, ...],
              kwargs: dict[str, Any]) -> Nominal:
    """Captum's own attributions, and its convergence delta if the caller asked for it."""
    # models write into inputs
    given = tuple(x.detach().clone().requires_grad_(x.is_floating_point()) for x in xs)
    name = type(attribution).__name__
    with untouched(attribution), in_the_name_of(f"Captum's {name}.attribute rejects these "
                                                "arguments"):
        result = attribution.attribute(given if isinstance(inputs, tuple) else given[0], **kwargs)
    delta = None
    if kwargs.get("return_convergence_delta"):
        result, delta = result
        delta = torch.stack(delta, 1) if isinstance(delta, list) else delta  # one for each layer
        delta = _by_example(delta.detach(), len(xs[0]), kwargs)
    parts = tuple(part.detach() for part in torch.utils._pytree.tree_leaves(result))
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise ValueError(f"Captum's {name} is NaN or infinite at this input; look at the model's "
                         "weights, the baselines and the further arguments.")
    if not all(part.ndim and len(part) == len(xs[0]) for part in parts):
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise UnsupportedAttribution(
            f"Captum's {name} has shape {shapes} for {len(xs[0])} examples; only results with "
            "one row for each example can be certified."
        )
    return Nominal(parts, isinstance(result, tuple | list), delta)


def _by_example(delta: Tensor, count: int, kwargs: dict[str, Any]) -> Tensor:
    """Convergence deltas, several for each of so many examples, those of an example side by side.

    Captum computes the samples of a `NoiseTunnel` some at a time if asked to, and has those of all
    examples one such group after the other.
    """
    samples = kwargs.get("nt_samples", 5)
    size = kwargs.get("nt_samples_batch_size") or samples
    if size >= samples or len(delta) % (count * samples):
        return delta
    each = len(delta) // samples
    groups = delta.split([each * min(size, samples - i) for i in range(0, samples, size)])
    return torch.cat([group.reshape(count, -1) for group in groups], 1).flatten()


def completeness(attribution: Any, xs: tuple[Tensor, ...], baselines: tuple[Tensor, ...],
                 kwargs: dict[str, Any], parts: tuple[Tensor, ...]) -> Tensor | None:
    """Captum's convergence delta of attributions, sum_i a_i - (f(x) - f(b)), (N,); None where
    Captum defines none.
    """
    if not isinstance(attribution, IntegratedGradients) or not attribution.multiplies_by_inputs:
        return None
    with torch.no_grad():
        return attribution.compute_convergence_delta(
            parts, tuple(b.expand_as(x) for b, x in zip(baselines, xs, strict=True)), xs,
            target=kwargs.get("target"),
            additional_forward_args=kwargs.get("additional_forward_args"))
