"""What follows from bounds of an attribution, and is asked of a certificate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lirpa_explain.boxes import Box
from lirpa_explain.certificates import box, ranking
from lirpa_explain.certificates import refine as refinement
from lirpa_explain.certificates.layout import (
    Attributions,
    flatten,
    mask_weights,
    require_same_shape,
    unflatten,
)
from lirpa_explain.certificates.metrics import evaluate, lookup, rank_intervals
from lirpa_explain.certificates.names import named_masks
from lirpa_explain.relaxations.ranges import linear_range

_RTOL = {"float64": 1e-9, "float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-2}


class Questions:
    """Signs, ranks, sums, distances and metrics of every attribution between `lower` and
    `upper`.
    """

    lower: Attributions
    upper: Attributions
    nominal: Attributions
    dtype: str
    refiner: refinement.Bounder | None
    features: tuple[str, ...] | None

    @property
    def width(self) -> Attributions:
        """The widths upper - lower, shaped like `nominal`; differentiable in both."""
        return unflatten(self.nominal, flatten(self.upper) - flatten(self.lower))

    def sign(self, refine: str | None = None) -> Attributions:
        """Return the sign of each feature that no perturbation can flip.

        Args:
            refine: "spec" to bound undecided features again by propagation; see `top_k`.

        Returns:
            Shaped like `nominal`, int8: +1 or -1 where it is certain, 0 where the value is or may
            be 0.
        """
        lower, upper = flatten(self.lower), flatten(self.upper)
        if (bound := self._bounder(refine)) is not None:
            lower, upper = refinement.entries(bound, lower, upper)
        return unflatten(self.nominal, box.signs(lower, upper))

    def top_k(self, k: int, absolute: bool = True, refine: str | None = None) -> Attributions:
        """Return which features are among the k largest of their example under every perturbation.

        However ties are broken: a feature that may be tied for the last place is not certain.

        Args:
            k: How many features are the largest, from 1 to the number of features of an example.
            absolute: Whether to rank by |attribution| or by the signed attribution.
            refine: None to decide by the box of bounds, which forgets that features move together;
                "spec" to bound the differences of undecided pairs by propagation through the model,
                which takes longer.

        Returns:
            Shaped like `nominal`, bool.

        Raises:
            TypeError: If k is not an int.
            ValueError: If there are no k features, or the certificate was loaded and cannot be
                refined.
        """
        lower, upper, nominal = self._ranked(k, absolute)
        certain = ranking.certain_top_k(lower, upper, k)
        if (bound := self._bounder(refine)) is not None:
            rivals = refinement.rivals(bound, flatten(self.lower), flatten(self.upper), nominal, k,
                                       absolute)
            certain = certain | refinement.certain_top_k(rivals, nominal, k)
        return unflatten(self.nominal, certain)

    def top_k_overlap(self, k: int, absolute: bool = True, refine: str | None = None) -> Tensor:
        """Return how many of the k largest features must stay among the k largest.

        The minimum of |top k of a, intersected with the top k of `nominal`| over all points a
        between the bounds and all ways of breaking ties: exact for the box. Refined, it is a lower
        bound of what the model itself allows, nowhere smaller.

        Args:
            k: How many features are the largest, from 1 to the number of features of an example.
            absolute: Whether to rank by |attribution| or by the signed attribution.
            refine: None or "spec"; see `top_k`.

        Returns:
            (N,), int64, from 0 to k.

        Raises:
            TypeError: If k is not an int.
            ValueError: If there are no k features, or the certificate was loaded and cannot be
                refined.
        """
        lower, upper, nominal = self._ranked(k, absolute)
        overlap = ranking.top_k_overlap(lower, upper, nominal, k)
        if (bound := self._bounder(refine)) is not None:
            rivals = refinement.rivals(bound, flatten(self.lower), flatten(self.upper), nominal, k,
                                       absolute)
            overlap = torch.maximum(overlap, refinement.least_overlap(rivals, k))
        return overlap

    def region_sum(self, mask: Attributions | list[str],
                   refine: str | None = None) -> tuple[Tensor, Tensor]:
        """Return bounds of the sum of the attribution over a region: sum_i mask_i a_i.

        Args:
            mask: Shaped like `nominal`, or like one example of it; bool, or weights of any sign; or
                a list of names of features.
            refine: None to add up the box; "spec" to bound the sum by propagation, in which errors
                cancel.

        Returns:
            (lower, upper), each (N,).

        Raises:
            ValueError: If the mask has another shape, or the certificate was loaded and cannot be
                refined.
        """
        named = named_masks({"mask": mask}, self.features, self.nominal)
        weights = mask_weights(named["mask"], self.nominal)[:, None]
        sums = linear_range(weights, Box(flatten(self.lower), flatten(self.upper)))
        if (bound := self._bounder(refine)) is not None:
            sums = sums.intersect(Box(*bound(weights)))
        return sums.lower[:, 0], sums.upper[:, 0]

    def max_change(self, norm: float = 2) -> Tensor:
        """Return how far the attribution can move from `nominal`: max of |a - nominal|_norm.

        Args:
            norm: The order of the norm: 1, 2 or math.inf.

        Returns:
            (N,), an upper bound over all perturbations; differentiable in the bounds.

        Raises:
            ValueError: If the norm is another one.
        """
        if norm not in (1, 2, math.inf):
            raise ValueError(f"norm is {norm!r}; pass 1, 2 or math.inf.")
        return box.max_change(flatten(self.lower), flatten(self.upper), flatten(self.nominal), norm)

    def metric(self, name: str, **settings: Any) -> Tensor:
        """Bound a number about the explanation over all perturbations.

        Args:
            name: A key of `lirpa_explain.METRICS`, whose row says what is bounded and from which
                side.
            **settings: Of the metric; masks are shaped like `nominal`, or like one example of it,
                or lists of names of features. For mass_lower and mass_upper also refine="spec", to
                bound the sum as a function of the graph and not from the box alone.

        Returns:
            (N,); never NaN: where bounds are infinite, what holds of every attribution.

        Raises:
            ValueError: If there is no such metric, or a setting is out of range.
            TypeError: If the metric takes no such setting, or wants one that is not given.
        """
        refine = settings.pop("refine", None)
        settings = named_masks(settings, self.features, self.nominal)
        for setting in set(lookup(name).features) & set(settings):
            settings[setting] = mask_weights(settings[setting], self.nominal)
        value = evaluate(name, flatten(self.lower), flatten(self.upper), flatten(self.nominal),
                         **settings)
        bound = self._bounder(refine)
        if bound is None:
            return value
        if settings.get("absolute"):
            bound = bound.absolute() if hasattr(bound, "absolute") else None
        return refinement.mass(bound, name, value, settings.get("mask"))

    def rank_interval(self, absolute: bool = True) -> tuple[Attributions, Attributions]:
        """Return the ranks that each feature can have, the largest having rank 1; exact for the
        box.

        Args:
            absolute: Whether to rank by |attribution| or by the signed attribution.

        Returns:
            (best, worst), each shaped like `nominal`, int64, however ties are broken.
        """
        lower, upper, _ = self._ranked(1, absolute)
        best, worst = rank_intervals(lower, upper)
        return unflatten(self.nominal, best), unflatten(self.nominal, worst)

    def contains(self, attribution: Attributions, rtol: float | None = None) -> Tensor:
        """Return whether an attribution lies between the bounds, in all features of an example.

        There is a tolerance because the bounds, and the attribution, are computed in floating
        point; outward bounds need none.

        Args:
            attribution: Shaped like `nominal`, a tuple where that is one.
            rtol: The tolerance, relative to the largest |bound| of the example. Default: 1e-9 for
                float64, 1e-5 for float32, 1e-2 for half types.

        Returns:
            (N,), bool; False where the attribution is NaN.

        Raises:
            TypeError: If the attribution is neither a tensor nor a tuple of tensors.
            ValueError: If it is not shaped like `nominal`.
        """
        require_same_shape("attribution", attribution, self.nominal)
        rtol = self._rtol if rtol is None else rtol
        return box.contains(flatten(self.lower), flatten(self.upper), flatten(attribution), rtol)

    @property
    def _rtol(self) -> float:
        return _RTOL.get(self.dtype, 1e-2)

    def _bounder(self, refine: str | None) -> refinement.Bounder | None:
        if refine is None:
            return None
        if refine != "spec":
            raise ValueError(f"refine is {refine!r}; pass None or 'spec'.")
        if self.refiner is None:
            raise ValueError("This certificate was loaded, or made without its model: it has "
                             "nothing to refine with. Certify again, and refine before saving.")
        return self.refiner

    def _ranked(self, k: int, absolute: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Check k; return lower, upper and nominal, (N, D) each, of what is ranked."""
        lower, upper = box.ordered_box(flatten(self.lower), flatten(self.upper))
        nominal = flatten(self.nominal)
        ranking.check_k(k, nominal.shape[1])
        if absolute:
            return *box.absolute_box(lower, upper), nominal.abs()
        return lower, upper, nominal
