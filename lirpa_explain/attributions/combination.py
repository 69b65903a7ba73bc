"""Attributions that are linear functions of outputs: sum_j w_j f(m_j * x + (1 - m_j) * b) for masks
m_j.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..graph.program import Program, Values
from .plan import Plan, extras_of, one_each


@dataclass(frozen=True)
class Combination:
    """What is made of the outputs (N, J) at J masked copies of each of N examples.

    Args:
        weights: of the outputs, (N, G, J), or (1, G, J) if they are the same for all examples.
        index: which of the G numbers each entry of the attribution is, (N, D) or (1, D).
        dtype: in which Captum computes the result.
        roundings: most roundings on Captum's way from outputs to an entry, each relative to the
            sizes of all terms; None where it fits a model.
        error: by how much such a fit rounds, in units of the largest output, (N, G) or (1, G).
    """

    weights: Tensor
    index: Tensor
    dtype: torch.dtype
    roundings: int | None = None
    error: Tensor | None = None

    def of_examples(self, chosen: Tensor | None) -> Combination:
        """That of chosen examples, (B,), if not of all."""
        if chosen is None:
            return self
        weights, index = (part if len(part) == 1 else part[chosen]
                          for part in (self.weights, self.index))
        error = self.error if self.error is None or len(self.error) == 1 else self.error[chosen]
        return replace(self, weights=weights, index=index, error=error)

    def of(self, outputs: Tensor) -> Tensor:
        """The G numbers of outputs (N, J): (N, G)."""
        return torch.einsum("ngj,nj->ng", self.weights.expand(len(outputs), -1, -1), outputs)

    def sizes(self, outputs: Tensor) -> Tensor:
        """The sizes of what is added up to them, (N, G)."""
        return torch.einsum("ngj,nj->ng", self.weights.abs().expand(len(outputs), -1, -1),
                            outputs.abs())

    def entries(self, numbers: Tensor) -> Tensor:
        """The attribution (N, D) from its G numbers, (N, G)."""
        return numbers.gather(1, self.index.expand(len(numbers), -1))

    def gathered(self, functions: Tensor) -> Tensor:
        """Linear functions (N, K, D) of the attribution as functions of the outputs, (N, K, J)."""
        count, rows = functions.shape[:2]
        groups = functions.new_zeros(count, rows, self.weights.shape[1])
        groups.scatter_add_(2, self.index[:, None].expand(count, rows, -1), functions)
        return groups @ self.weights.expand(count, -1, -1)


class Permuted:
    """A function of its inputs with masked entries replaced by those of other examples: f(m * x + n
    * z), n = 1 - m.

    Args:
        forward: the function.
        inputs: how many inputs x it has.
        extras: how many further arguments.
    """

    def __init__(self, forward: Callable[..., Tensor], inputs: int, extras: int) -> None:
        self.forward, self.inputs, self.extras = forward, inputs, extras
        self.key = ("permuted", inputs, extras)

    def __call__(self, *arguments: Tensor) -> Tensor:
        """The output, for inputs x and z, further arguments, masks m and n; where z is left out, it
        is x.
        """
        count = self.inputs
        kept, away = arguments[-2 * count:-count], arguments[-count:]
        given = arguments[:-2 * count]
        xs, zs, extras = (given[:count], given[:-self.extras or None][-count:],
                          given[len(given) - self.extras:])
        return self.forward(*(x * m + z * n for x, z, m, n in zip(xs, zs, kept, away, strict=True)),
                            *extras)


class Masked:
    """A function at masked copies of its inputs: of x, further arguments, masks m and fillings s,
    f(m * x + s).

    Args:
        forward: the function.
        inputs: how many inputs it has.
        masked: how many tensors are masked.
        layer: whose activations are masked in place of the inputs; None: the inputs.
        key: equal for equal functions.
    """

    def __init__(self, forward: Callable[..., Tensor], inputs: int, masked: int, layer: Any = None,
                 key: Any = None) -> None:
        self.forward, self.inputs, self.masked, self.layer = forward, inputs, masked, layer
        self.key = ("masked", None if layer is None else layer.key, key)

    def __call__(self, *arguments: Tensor) -> Tensor:
        """The output, for arguments in that order."""
        given, masks = arguments[:-2 * self.masked], arguments[-2 * self.masked:-self.masked]
        fillings = arguments[-self.masked:]
        xs, extras = given[: self.inputs], given[self.inputs:]
        if self.layer is None:
            return self.forward(*(x * m + s for x, m, s in zip(xs, masks, fillings, strict=True)),
                                *extras)
        activations = self.layer.evaluate(self.forward, given)[1]
        moved = tuple(a * m + s for a, m, s in zip(activations, masks, fillings, strict=True))
        return self.layer.replaced(self.forward, given, moved)


def selected_output(*points: str) -> Program:
    """The output that is explained: what the cotangent makes of the model's, at these points side
    by side.
    """

    def compute(call: Callable[..., Tensor], at: Values, cotangent: Tensor) -> tuple[Tensor, ...]:
        output = call(*(x for point in points for x in at[point])) * cotangent
        return (output.flatten(1).sum(1, keepdim=True) if cotangent.ndim > 1 else output[:, None],)

    return Program(("selected output",), points, compute)


def combined(inputs: tuple[Tensor, ...], keywords: dict[str, Any], function: Masked, masks: Tensor,
             baselines: tuple[Tensor, ...], combination: Combination) -> Plan:
    """The plan of a combination of outputs at masked inputs.

    Args:
        inputs: the examples, each (N, *S).
        keywords: of `attribute`, of which the target and further arguments are read.
        function: f.
        masks: 1 where an entry is kept, (N, J, D) or (1, J, D), over all that is masked side by
            side.
        baselines: what takes the place of masked entries, one (N, *T) for each tensor that is
            masked.
        combination: of the outputs.
    """
    count, (masks, combination) = len(inputs[0]), _merged(masks, combination)
    samples = masks.shape[1]
    sizes = [math.prod(b.shape[1:]) for b in baselines]
    parts = [part.expand(count, -1, -1).reshape(count * samples, *b.shape[1:])
             for part, b in zip(masks.split(sizes, 2), baselines, strict=True)]
    fillings = [(1 - part) * b.repeat_interleave(samples, 0)
                for part, b in zip(parts, baselines, strict=True)]
    return Plan(**copies(inputs, keywords, samples, (*parts, *fillings)),
                program=selected_output("input"), function=function, combination=combination)


def copies(inputs: tuple[Tensor, ...], keywords: dict[str, Any], samples: int,
           further: tuple[Tensor, ...]) -> dict[str, Any]:
    """The fields of a plan of so many copies of each example, with further arguments that have a
    row for each copy.
    """
    count, target = len(inputs[0]), keywords.get("target")
    extras = tuple(e.repeat_interleave(samples, 0) if isinstance(e, Tensor) and e.ndim
                   and len(e) == count else e for e in extras_of(keywords))
    each = target if isinstance(target, list) else one_each(target, count)
    return {"points": tuple(x.repeat_interleave(samples, 0) for x in inputs),
            "extras": (*extras, *further),
            "targets": tuple((samples, target) for target in each), "samples": samples}


def _merged(masks: Tensor, combination: Combination) -> tuple[Tensor, Combination]:
    """Each mask of an example once, those that nothing is made of left out where that is so for all
    examples.

    The output at a mask that occurs twice is one number: bounded once, what cancels in its weights
    cancels.
    """
    weights = combination.weights.clone()
    count = max(len(masks), len(weights))
    masks, weights = masks.expand(count, -1, -1), weights.expand(count, -1, -1).clone()
    for own, weight in zip(masks, weights, strict=True):
        _, inverse = torch.unique(own, dim=0, return_inverse=True)
        first = torch.full((int(inverse.max()) + 1,), len(own), device=own.device)
        first = first.scatter_reduce(0, inverse, torch.arange(len(own), device=own.device),
                                     "amin")[inverse]
        weight.copy_(torch.zeros_like(weight).index_add_(1, first, weight))
    kept = (weights != 0).any(1).any(0)
    kept[0] |= not bool(kept.any())
    return masks[:, kept], replace(combination, weights=weights[:, :, kept])


def averaged(plans: Sequence[Plan], examples: int) -> Combination:
    """The mean of combinations at noisy copies of each example, those of an example side by side.

    Args:
        plans: of so many copies each, in order.
        examples: N.
    """
    first = plans[0].combination
    assert first is not None
    parts = []
    for plan in plans:
        assert plan.combination is not None
        own, copies = plan.combination.weights, len(plan.points[0]) // plan.samples // examples
        if len(own) == 1:
            parts.append(own.repeat(1, 1, copies))
        else:  # (N * copies, G, J)
            own = own.unflatten(0, (examples, copies)).transpose(1, 2)
            parts.append(own.flatten(2))
    count = max(map(len, parts))
    total = sum(part.shape[2] for part in parts) // first.weights.shape[2]
    weights = torch.cat([part.expand(count, -1, -1) for part in parts], 2) / total
    index = first.index if len(first.index) == 1 else first.index[:: len(first.index) // examples]
    roundings = None if first.roundings is None else first.roundings + total
    error = None if first.error is None else first.error.amax(0, keepdim=True)
    return replace(first, weights=weights, index=index, roundings=roundings, error=error)


def distinct(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (N, D, J) of each entry as those of distinct numbers, (N, G, J), and which each entry
    is, (N, D).
    """
    found = [torch.unique(own, dim=0, return_inverse=True) for own in weights]
    most = max(len(numbers) for numbers, _ in found)
    padded = [torch.cat([numbers, numbers[:1].expand(most - len(numbers), -1)])
              for numbers, _ in found]
    return torch.stack(padded), torch.stack([index for _, index in found])
