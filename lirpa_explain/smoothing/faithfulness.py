"""What the model makes of inputs without, or with nothing but, the entries that are certain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..certificates.layout import flatten
from ..errors import in_the_name_of
from ..guards import isolated
from ..inputs import check_inputs
from .certificate import SmoothedCertificate
from .keywords import copies
from .radii import of_entries
from .statistics import scores

MODES = ("deletion", "insertion")
"""Whether entries are taken from the input, or added to the baseline."""


@dataclass(frozen=True)
class FaithfulnessCurve:
    """The model's output as the entries go, or come, in the certified order.

    Args:
        mode: "deletion" or "insertion".
        shares: (K,), shares of the entries, from 0 to 1.
        outputs: (N, K), the output explained.
        certified: (N,), the share that is certainly important: the first so many entries are the
            same at every x' of the ball, as a set.
    """

    mode: str
    shares: Tensor
    outputs: Tensor
    certified: Tensor

    @property
    def area(self) -> Tensor:
        """(N,), below the curve, by trapezoids: small for deletion, large for insertion if
        faithful.
        """
        return torch.trapezoid(self.outputs, self.shares.to(self.outputs), dim=1)


def faithfulness(certificate: SmoothedCertificate, forward_func: Callable[..., Tensor],
                 inputs: Tensor, *, target: Any = None, mode: str = "deletion", steps: int = 20,
                 baselines: float | Tensor = 0.0, additional_forward_args: Any = None,
                 radius: float | None = None) -> FaithfulnessCurve:
    """Delete, or insert, an input's entries from the most certainly important to the least.

    First come the entries that stay important within the largest radius, then those that are open,
    by the mean of their draws, and last those that stay unimportant within the largest radius.

    Args:
        certificate: of maps over the inputs; one entry a pixel moves all of its channels.
        forward_func: the model.
        inputs: (N, *S), those of the certificate.
        target: as for Captum: the output that is explained.
        mode: "deletion": from the input to the baseline; "insertion": the other way round.
        steps: how many equal parts the entries are dealt into.
        baselines: what deleted entries are: a number, or a tensor that broadcasts to the inputs.
        additional_forward_args: as for Captum.
        radius: of the certainly important entries that `certified` counts; default: as of
            `SmoothedCertificate.labels`.

    Returns:
        A `FaithfulnessCurve`.

    Raises:
        ValueError: another mode, no steps, or maps that are not over the inputs.
        TypeError: inputs are a tuple.

    Source:
        Petsiuk, Das and Saenko, RISE: Randomized Input Sampling for Explanation, 2018 (deletion and
        insertion), along the order of the certificate.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; pass {' or '.join(map(repr, MODES))}.")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps must be an int of at least 1; given: {steps!r}.")
    (x,) = _only(check_inputs(inputs))
    places = _places(certificate, x)
    ranks = certified_order(certificate).argsort(1).to(x.device)
    entries = ranks.shape[1]
    shares = torch.arange(steps + 1, dtype=torch.float64) / steps
    counts = (shares * entries).round().to(ranks)
    base = torch.as_tensor(baselines, dtype=x.dtype, device=x.device).expand_as(x)
    keywords = {"target": target, "additional_forward_args": additional_forward_args}
    outputs = []
    with isolated(x.device, forward_func), torch.no_grad():
        for i in range(len(x)):
            moved = (ranks[i] < counts[:, None]).reshape(-1, *places)
            kept = moved if mode == "insertion" else ~moved
            points = torch.where(kept, x[i], base[i])
            outputs.append(_outputs(forward_func, points,
                                    copies(keywords, i, steps + 1, len(x), ())))
    certain = (flatten(certificate.labels(radius)) > 0).double().mean(1)
    return FaithfulnessCurve(mode, shares, torch.stack(outputs).cpu(), certain)


def certified_order(certificate: SmoothedCertificate) -> Tensor:
    """The numbers of an example's entries from the most certainly important on, (N, D)."""
    low, _ = scores(certificate.expectations)
    own = of_entries(certificate)
    signed = torch.where(low > 0, own, -own)
    mean = certificate.state.total.mean(certificate.settings.levels)
    by_mean = mean.argsort(dim=1, descending=True, stable=True)
    by_radius = signed.gather(1, by_mean).argsort(dim=1, descending=True, stable=True)
    return by_mean.gather(1, by_radius)


def _only(xs: tuple[Tensor, ...]) -> tuple[Tensor]:
    if len(xs) != 1:
        raise TypeError(f"faithfulness takes one input; given: a tuple of {len(xs)}.")
    return (xs[0],)


def _places(certificate: SmoothedCertificate, x: Tensor) -> tuple[int, ...]:
    """The shape in which an example's entries broadcast to the input."""
    maps = certificate.at_input
    if isinstance(maps, tuple):
        (maps,) = _only(maps)
    shape, whole = tuple(maps.shape[1:]), tuple(x.shape[1:])
    if len(maps) == len(x) and shape == whole:
        return shape
    if len(maps) == len(x) and certificate.settings.sum_channels and shape == whole[1:]:
        return (1, *shape)
    raise ValueError(f"The certificate's maps have the shape {tuple(maps.shape)}, the inputs "
                     f"{tuple(x.shape)}; faithfulness needs a map with an entry, or a pixel, of "
                     "each.")


def _outputs(forward_func: Callable[..., Tensor], points: Tensor, keywords: dict[str, Any]
             ) -> Tensor:
    from captum._utils.common import _run_forward

    with in_the_name_of("The model rejects these arguments"):
        result = _run_forward(forward_func, points, keywords["target"],
                              keywords["additional_forward_args"])
    if result.shape[:1] != points.shape[:1] or result.numel() != len(points):
        raise ValueError(f"The target selects outputs of the shape {tuple(result.shape)} for "
                         f"{len(points)} inputs; pass one that selects a number of each.")
    return result.reshape(-1)
