"""How large a radius may be for something to be certain: formulas, since bounds are known at all
radii.

With bounds p of the smoothed map at the input and z = Phi^-1(p), the bounds at radius r are
z_low - r / sigma and z_high + r / sigma, so that an entry passes a fixed value, or another entry,
at a radius that can be solved for.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..certificates.layout import mask_weights
from ..certificates.radius import Property, bisect
from ..certificates.ranking import check_k
from ..registration import Table, empty
from .statistics import scores

if TYPE_CHECKING:
    from .certificate import SmoothedCertificate

FARTHEST = 4.0
"""A bisection goes up to so many deviations of the noise, where hardly anything is certain."""


@dataclass(frozen=True)
class CertainWithin:
    """Something that may be certain, and within which radius it is.

    Args:
        name: its key.
        words: what is certain.
        function: maps a `SmoothedCertificate`, and options, to radii (N,).
    """

    name: str
    words: str
    function: Callable[..., Tensor]


RADII: Table[str, CertainWithin] = Table(
    "certified radius", "lirpa_explain.smoothing.radii.RADII.add(name, CertainWithin(...))",
    lambda name, row: empty(row, "words"))


def find(certificate: SmoothedCertificate, holds: str | Property,
         options: dict[str, Any]) -> Tensor:
    """The radii of a row, or of any property of certificates; see `SmoothedCertificate.radius`.

    Raises:
        TypeError: the row has no such options.
    """
    function = search(holds) if callable(holds) else RADII[holds].function
    try:
        inspect.signature(function).bind(certificate, **options)
    except TypeError as error:
        known = list(inspect.signature(function).parameters)[1:]
        raise TypeError(f"The radius of {getattr(holds, '__name__', holds)!r}: {error}; its "
                        f"options are: {', '.join(known) or 'none'}.") from None
    return function(certificate, **options)


def search(holds: Property) -> Callable[..., Tensor]:
    """The radius of a property that has no formula, by bisection on certificates that cost no
    draws.
    """

    def radius(certificate: SmoothedCertificate, high: float | None = None, steps: int = 40
               ) -> Tensor:
        like = certificate.state.total.mean(certificate.settings.levels)
        most = FARTHEST * certificate.settings.sigma if high is None else high
        return bisect(certificate.at, like, holds, most, steps).value

    return radius


def of_entries(certificate: SmoothedCertificate) -> Tensor:
    """The radius within which each entry stays on its side of 1/2, (N, D); 0 where that is open."""
    low, high = scores(certificate.expectations)
    return certificate.settings.sigma * torch.maximum(low, -high).clamp(min=0)


def importance(certificate: SmoothedCertificate, mask: Any = None) -> Tensor:
    """Every entry of a region stays important or unimportant, as it is.

    Args:
        certificate: of the map.
        mask: shaped like the attribution, or like one example of it; default: all entries.
    """
    own = of_entries(certificate)
    if mask is not None:
        own = own.masked_fill(mask_weights(mask, certificate.at_input) == 0, math.inf)
    return own.amin(1)


def share(certificate: SmoothedCertificate, least: float = 0.5) -> Tensor:
    """At least so large a share of the entries is certainly important or unimportant.

    Args:
        certificate: of the map.
        least: from 0 to 1.

    Raises:
        ValueError: `least` is out of that range.
    """
    if not 0 <= least <= 1:
        raise ValueError(f"least is {least!r}; pass a share from 0 to 1.")
    own = of_entries(certificate).sort(1, descending=True).values
    count = math.ceil(least * own.shape[1] - 1e-9)
    return own[:, count - 1] if count else torch.full_like(own[:, 0], math.inf)


def top_k_overlap(certificate: SmoothedCertificate, k: int, least: int | None = None) -> Tensor:
    """At least so many of the k entries that are largest now are among the k largest.

    With m = k - least + 1, z_m the m-th smallest lower score of the k, and w_m the m-th largest
    upper score of the others: sigma (z_m - w_m) / 2.

    Args:
        certificate: of the map.
        k: from 1 to the number of entries.
        least: from 1 to k; default: all k.

    Source:
        Levine, Singla and Feizi, Certifiably Robust Interpretation in Deep Learning, 2019.
    """
    low, high = scores(certificate.expectations)
    check_k(k, low.shape[1])
    least = k if least is None else least
    check_k(least, k)
    top = certificate.state.total.mean(certificate.settings.levels).topk(k).indices
    lost = k - least + 1
    if lost > low.shape[1] - k:
        return torch.full_like(low[:, 0], math.inf)
    weakest = low.gather(1, top).topk(lost, largest=False).values[:, -1]
    rival = high.scatter(1, top, -math.inf).topk(lost).values[:, -1]
    return (certificate.settings.sigma * (weakest - rival) / 2).clamp(min=0)


def order(certificate: SmoothedCertificate, larger: int, smaller: int) -> Tensor:
    """One entry stays larger than another one: sigma (z_larger - z_smaller) / 2.

    Args:
        certificate: of the map.
        larger: the entry's number, as the attribution is flattened.
        smaller: the other's.

    Raises:
        ValueError: there is no such entry.
    """
    low, high = scores(certificate.expectations)
    for name, index in (("larger", larger), ("smaller", smaller)):
        if not isinstance(index, int) or not 0 <= index < low.shape[1]:
            raise ValueError(f"{name} is {index!r}; pass the number of an entry, from 0 to "
                             f"{low.shape[1] - 1}.")
    return (certificate.settings.sigma * (low[:, larger] - high[:, smaller]) / 2).clamp(min=0)


def localisation(certificate: SmoothedCertificate, mask: Any, least: float = 0.5) -> Tensor:
    """At least so large a share of all important entries lies in a region.

    The share falls in steps, where an entry of the region ceases to be certainly important or one
    outside to be certainly unimportant: these radii are all tried.

    Args:
        certificate: of the map.
        mask: shaped like the attribution, or like one example of it; bool, or 0 and 1.
        least: from 0 to 1.

    Raises:
        ValueError: `least` is out of that range.
    """
    if not 0 <= least <= 1:
        raise ValueError(f"least is {least!r}; pass a share from 0 to 1.")
    inside = mask_weights(mask, certificate.at_input) != 0
    low, high = scores(certificate.expectations)
    sigma = certificate.settings.sigma
    important = (sigma * low).clamp(min=0).where(inside, 0.0).sort(1).values
    unimportant = (-sigma * high).clamp(min=0).where(~inside, math.inf).sort(1).values
    tried = torch.cat([important, unimportant.nan_to_num(posinf=0.0)], dim=1).sort(1).values
    size = tried.shape[1] // 2
    # At a radius just below one of these: entries whose own radius is at least that.
    certain = size - torch.searchsorted(important, tried)
    possible = torch.searchsorted(unimportant, tried)
    holds = (certain > 0) & (certain >= least * (certain + possible)) & (tried > 0)
    if least == 0:
        return torch.full_like(tried[:, 0], math.inf)
    return torch.where(holds, tried, 0.0).amax(1)


for name, function in (("importance", importance), ("share", share),
                       ("top_k_overlap", top_k_overlap), ("order", order),
                       ("localisation", localisation)):
    words = (function.__doc__ or "").partition("\n")[0].rstrip(".")
    RADII.add(name, CertainWithin(name, words, function))
