"""The result of certifying an explanation: its bounds, where they hold, and what follows from them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from lirpa_explain.boxes import Box
from lirpa_explain.certificates import box, ranking, storage
from lirpa_explain.certificates import refine as refinement
from lirpa_explain.certificates.layout import (
    Attributions,
    describe,
    flatten,
    mask_weights,
    require_same_shape,
    unflatten,
)
from lirpa_explain.certificates.meaning import Meaning, fact, packed, unpacked
from lirpa_explain.certificates.metrics import evaluate, lookup, rank_intervals
from lirpa_explain.certificates.radius import Property, Radius, bisect
from lirpa_explain.certificates.refined import Refinable
from lirpa_explain.certificates.sandwich import Sandwich
from lirpa_explain.relaxations.ranges import linear_range

_RTOL = {"float64": 1e-9, "float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-2}

_NOT_SAVED = ("refiner", "absolute_refiner", "attacker", "recertifier", "brancher", "meaning")


@dataclass(frozen=True, eq=False, repr=False)
class Certificate(Refinable):
    """Bounds of an attribution that hold for every allowed perturbation.

    lower <= A(x') <= upper, feature by feature, for the attribution A and every x' that `perturbation`
    describes. The bounds are computed in floating point; `rounding` says how they are rounded. Where the
    attribution is a tuple (one tensor for each input), the features of all inputs of one example are ranked
    and measured together.

    Args:
        lower: (N, *S), or a tuple of such tensors.
        upper: Like `lower`.
        nominal: Like `lower`; the attribution at the unperturbed input.
        attribution: What is certified, e.g. "NoiseTunnel(IntegratedGradients)".
        method: How it was bounded, e.g. "CROWN".
        perturbation: Where the bounds hold, in words.
        dtype: The type the bounds were computed in, e.g. "float32".
        elapsed_s: How long that took, in seconds.
        convergence_delta: What Captum returned beside the attribution, if it was asked to.
        versions: The versions of the packages involved, by name.
        spec_lower: (N, K), lower bounds of the linear functions that `spec` asked for; None without it.
        spec_upper: Upper bounds, likewise.
        spec_nominal: Their values at the unperturbed input.
        refiner: Maps linear functions (N, K, D) of the flattened attribution to bounds of them, each (N, K),
            by bound propagation. Not saved: a loaded certificate has none.
        absolute_refiner: The same of the absolute values of the attribution.
        meaning: What the bounds are bounds of, and what else is known of it: `integral`, `quadrature_error`,
            `completeness`, `expectation`, `confidence` and `samples` read it.
        attacker: What `sandwich` calls with the certificate, a metric and its options. Not saved.
        recertifier: Maps radii (N,) to the certificate of the same call at these; `radius` calls it. Not saved.
        brancher: What `refine` calls with the certificate and its arguments. Not saved.
        rounding: "outward" if the bounds hold for what is computed in floating point at every input, by proof;
            "default" if they hold up to rounding, and contain `nominal`.

    Raises:
        TypeError: If a bound is neither a tensor nor a tuple of tensors.
        ValueError: If lower, upper and nominal differ in shape.

    Example:
        >>> cert = Certificate(
        ...     lower=torch.tensor([[2.0, -1.0, -0.5]]),
        ...     upper=torch.tensor([[3.0, -0.5, 0.5]]),
        ...     nominal=torch.tensor([[2.5, -0.75, 0.25]]),
        ...     attribution="Saliency",
        ...     method="CROWN",
        ...     perturbation="every x' with |x' - x|_inf <= 0.01",
        ...     dtype="float32",
        ...     elapsed_s=0.25,
        ... )
        >>> cert
        Certificate of Saliency
          method        CROWN, float32, 0.25 s
          perturbation  every x' with |x' - x|_inf <= 0.01
          shape         (1, 3)
          mean width    0.8333
          signs         66.7% of the entries that are not 0 certified
        >>> cert.width
        tensor([[1.0000, 0.5000, 1.0000]])
        >>> cert.sign()
        tensor([[ 1, -1,  0]], dtype=torch.int8)
        >>> cert.top_k(1)
        tensor([[ True, False, False]])
        >>> cert.top_k_overlap(2)
        tensor([1])
        >>> cert.max_change(norm=math.inf)
        tensor([0.7500])
        >>> cert.contains(cert.nominal)
        tensor([True])
    """

    lower: Attributions
    upper: Attributions
    nominal: Attributions
    attribution: str
    method: str
    perturbation: str
    dtype: str
    elapsed_s: float
    convergence_delta: Tensor | None = None
    versions: dict[str, str] = field(default_factory=dict)
    spec_lower: Tensor | None = None
    spec_upper: Tensor | None = None
    spec_nominal: Tensor | None = None
    refiner: refinement.Bounder | None = None
    absolute_refiner: refinement.Bounder | None = None
    meaning: Meaning = Meaning()
    attacker: Callable[..., Sandwich] | None = None
    recertifier: Callable[[Tensor], Certificate] | None = None
    brancher: Callable[..., Certificate] | None = None
    rounding: str = "default"

    integral = fact("integral", """"exact" if lower and upper bound the integral along the path that A stands for, at
    every x' of the perturbation; `nominal` is Captum's finite sum even then, and may lie outside.""")
    quadrature_error = fact("quadrature_error", """Like `lower`, with `integral`: certified bound of
    |nominal - integral| at the unperturbed input.""")
    completeness = fact("completeness", """(N,), with `integral` and where Captum defines it: sum_i nominal_i -
    (f(x) - f(b)), which is 0 for the integral itself; for a continuous model it is at most the sum of
    `quadrature_error`.""")
    expectation = fact("expectation", """"gaussian" or "gaussian-propagated" if lower and upper bound the expectation
    under Gaussian noise, at every x' of the perturbation; `nominal` is the mean of the samples drawn.""")
    confidence = fact("confidence", """With `expectation`: the probability, for each example, that the samples are such
    that all of its bounds hold.""")
    samples = fact("samples", "With `expectation`: how many samples of each example were drawn.")

    def __post_init__(self) -> None:
        for name in ("nominal", "lower", "upper"):
            require_same_shape(name, getattr(self, name), self.nominal)

    @property
    def width(self) -> Attributions:
        """The widths upper - lower, shaped like `nominal`; differentiable in both."""
        return unflatten(self.nominal, flatten(self.upper) - flatten(self.lower))

    def sign(self, refine: str | None = None) -> Attributions:
        """Return the sign of each feature that no perturbation can flip.

        Args:
            refine: "spec" to bound undecided features again by propagation; see `top_k`.

        Returns:
            Shaped like `nominal`, int8: +1 or -1 where it is certain, 0 where the value is or may be 0.
        """
        lower, upper = flatten(self.lower), flatten(self.upper)
        if (bound := self._bounder(refine)) is not None:
            lower, upper = refinement.entries(bound, lower, upper)
        return unflatten(self.nominal, box.signs(lower, upper))

    def top_k(self, k: int, absolute: bool = True, refine: str | None = None) -> Attributions:
        """Return which features are among the k largest of their example under every perturbation.

        Args:
            k: How many features are the largest.
            absolute: Whether to rank by |attribution| or by the signed attribution.
            refine: None to decide by the box of bounds; "spec" to bound the differences of undecided pairs by
                propagation through the model, which takes longer.

        Returns:
            Shaped like `nominal`, bool.

        Raises:
            TypeError, ValueError: If k is no int from 1 to the number of features, or nothing can be refined.
        """
        lower, upper, nominal = self._ranked(k, absolute)
        certain = ranking.certain_top_k(lower, upper, k)
        if (bound := self._bounder(refine)) is not None:
            rivals = refinement.rivals(bound, flatten(self.lower), flatten(self.upper), nominal, k, absolute)
            certain = certain | refinement.certain_top_k(rivals, nominal, k)
        return unflatten(self.nominal, certain)

    def top_k_overlap(self, k: int, absolute: bool = True, refine: str | None = None) -> Tensor:
        """Return how many of the k largest features must stay among the k largest.

        The minimum over all points between the bounds and all ways of breaking ties: exact for the box. Refined, it is
        a lower bound of what the model itself allows, nowhere smaller.

        Args:
            k: How many features are the largest, from 1 to the number of features of an example.
            absolute: Whether to rank by |attribution| or by the signed attribution.
            refine: None or "spec"; see `top_k`.

        Returns:
            (N,), int64, from 0 to k.

        Raises:
            TypeError, ValueError: If k is no int from 1 to the number of features, or nothing can be refined.
        """
        lower, upper, nominal = self._ranked(k, absolute)
        overlap = ranking.top_k_overlap(lower, upper, nominal, k)
        if (bound := self._bounder(refine)) is not None:
            rivals = refinement.rivals(bound, flatten(self.lower), flatten(self.upper), nominal, k, absolute)
            overlap = torch.maximum(overlap, refinement.least_overlap(rivals, k))
        return overlap

    def region_sum(self, mask: Attributions, refine: str | None = None) -> tuple[Tensor, Tensor]:
        """Return bounds of the sum of the attribution over a region: sum_i mask_i a_i.

        Args:
            mask: Shaped like `nominal`, or like one example of it; bool, or weights of any sign.
            refine: None to add up the box; "spec" to bound the sum by propagation, in which errors cancel.

        Returns:
            (lower, upper), each (N,).

        Raises:
            ValueError: If the mask has another shape, or the certificate was loaded and cannot be refined.
        """
        weights = mask_weights(mask, self.nominal)[:, None]
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
            name: A key of `lirpa_explain.METRICS`, whose row says what is bounded and from which side.
            **settings: Of the metric; masks are shaped like `nominal`, or like one example of it. For mass_lower and
                mass_upper also refine="spec", to bound the sum as a function of the graph and not from the box alone.

        Returns:
            (N,); never NaN: where bounds are infinite, what holds of every attribution.

        Raises:
            ValueError: If there is no such metric, a setting is out of range, or it cannot be refined.
            TypeError: If the metric takes no such setting, or wants one that is not given.
        """
        refine = settings.pop("refine", None)
        for setting in set(lookup(name).features) & set(settings):
            settings[setting] = mask_weights(settings[setting], self.nominal)
        value = evaluate(name, flatten(self.lower), flatten(self.upper), flatten(self.nominal), **settings)
        if self._bounder(refine) is None:
            return value
        bounders = self.refiner, self.absolute_refiner
        return refinement.mass(bounders[bool(settings.get("absolute"))], name, value, settings.get("mask"))

    def rank_interval(self, absolute: bool = True) -> tuple[Attributions, Attributions]:
        """Return the ranks that each feature can have, the largest having rank 1; exact for the box.

        Args:
            absolute: Whether to rank by |attribution| or by the signed attribution.

        Returns:
            (best, worst), each shaped like `nominal`, int64, however ties are broken.
        """
        lower, upper, _ = self._ranked(1, absolute)
        best, worst = rank_intervals(lower, upper)
        return unflatten(self.nominal, best), unflatten(self.nominal, worst)

    def sandwich(self, metric: str = "max_change", **options: Any) -> Sandwich:
        """Set beside a certified number the strongest change that an attack finds; see `lirpa_explain.sandwich`.

        Args:
            metric: A key of `lirpa_explain.SANDWICHES`, or "width".
            **options: The metric's, and those of `lirpa_explain.sandwich`.

        Returns:
            A `Sandwich`: certified, found, and their ratio.

        Raises:
            SoundnessError: If an attribution was found outside of the bounds.
            ValueError: If the metric is unknown, or the certificate cannot be attacked.
        """
        if self.attacker is None:
            raise ValueError("This certificate has nothing to attack: it was loaded, or made without its model, or "
                             "speaks of boundary points, which an attack would have to search for anew. Certify again, "
                             "and ask before saving.")
        return self.attacker(self, metric, **options)

    def radius(self, holds: Property, *, high: float, steps: int = 10) -> Radius:
        """Find the largest radius at which a property is certified, by bisection; see `lirpa_explain.radius`.

        All else is as in the call that made this certificate: norm, clip, method, keywords, random draws.

        Args:
            holds: Maps a certificate to a bool tensor (N,), such as `lambda c: c.top_k_overlap(5) == 5`.
            high: The largest radius tried, above 0.
            steps: How often the interval is halved.

        Raises:
            As `lirpa_explain.radius`; ValueError if there is no model, no radius, or another model than then.
        """
        if self.recertifier is None:
            raise ValueError("This certificate was loaded, or made without its model: there is nothing to certify at "
                             "other radii. Certify again, or call lirpa_explain.radius with a Certifier.")
        nominal = flatten(self.nominal).detach()
        found = bisect(self.recertifier, nominal, holds, high, steps)
        again = flatten(found.inside.nominal).detach().nan_to_num()
        if not bool(box.contains(again, again, nominal.nan_to_num(), self._rtol).all()):
            raise ValueError("The attribution's model or input was changed; certify again.")
        return found

    def contains(self, attribution: Attributions, rtol: float | None = None) -> Tensor:
        """Return whether an attribution lies between the bounds, in all features of an example.

        There is a tolerance because both are computed in floating point; outward bounds need none.

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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate to exactly this path, as a numpy .npz archive without pickles.

        Args:
            path: The file to write; an existing one is replaced.
        """
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in _NOT_SAVED}
        storage.write(path, values | packed(self.meaning))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Certificate:
        """Read a certificate that `save` wrote.

        Args:
            path: The file to read.

        Returns:
            The same certificate, bit by bit, on the CPU and without gradients.

        Raises:
            ValueError: If the file is not a certificate, or one of another format.
        """
        return cls(**unpacked(storage.read(path)))

    def __repr__(self) -> str:
        lower, upper = flatten(self.lower).detach(), flatten(self.upper).detach()
        mean_width = (upper - lower).float().mean().item()
        certain, nonzero = box.signs(lower, upper) != 0, flatten(self.nominal) != 0
        certified = (certain & nonzero).sum().item() / max(1, nonzero.sum().item())
        return (
            f"Certificate of {self.attribution}{self.meaning.title}\n"
            f"  method        {self.method}, {self.dtype}{', rounded outward' * (self.rounding == 'outward')}, "
            f"{self.elapsed_s:.3g} s\n"
            f"  perturbation  {self.perturbation}\n"
            f"  shape         {describe(self.nominal)}\n"
            f"  mean width    {mean_width:.4g}\n"
            f"  signs         {certified:.1%} of the entries that are not 0 certified"
        )

    @property
    def _rtol(self) -> float:
        return _RTOL.get(self.dtype, 1e-2)

    def _bounder(self, refine: str | None) -> refinement.Bounder | None:
        if refine is None:
            return None
        if refine != "spec":
            raise ValueError(f"refine is {refine!r}; pass None or 'spec'.")
        if self.refiner is None:
            raise ValueError("This certificate was loaded, or made without its model: it has nothing to refine with. "
                             "Certify again, and refine before saving.")
        return self.refiner

    def _ranked(self, k: int, absolute: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Check k; return lower, upper and nominal, (N, D) each, of what is ranked."""
        lower, upper = box.ordered_box(flatten(self.lower), flatten(self.upper))
        nominal = flatten(self.nominal)
        ranking.check_k(k, nominal.shape[1])
        if absolute:
            return *box.absolute_box(lower, upper), nominal.abs()
        return lower, upper, nominal
