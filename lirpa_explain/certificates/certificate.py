"""The result of certifying an explanation: its bounds, where they hold, and what follows from
them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lirpa_explain.certificates import box, storage
from lirpa_explain.certificates import refine as refinement
from lirpa_explain.certificates.examples import choose
from lirpa_explain.certificates.frame import to_frame
from lirpa_explain.certificates.html import html
from lirpa_explain.certificates.layout import (
    Attributions,
    count,
    describe,
    flatten,
    require_same_shape,
    tensors,
)
from lirpa_explain.certificates.meaning import Meaning, fact, packed, unpacked
from lirpa_explain.certificates.names import checked_names, named_masks
from lirpa_explain.certificates.questions import Questions
from lirpa_explain.certificates.radius import Property, Radius, bisect
from lirpa_explain.certificates.refined import Refinable
from lirpa_explain.certificates.sandwich import Sandwich

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class Certificate(Refinable, Questions):
    """Bounds of an attribution that hold for every allowed perturbation.

    lower <= A(x') <= upper, feature by feature, for the attribution A and every x' that
    `perturbation` describes. The bounds are computed in floating point; `rounding` says how they
    are rounded. Where the attribution is a tuple (one tensor for each input), the features of all
    inputs of one example are ranked and measured together.

    It is held like a sequence of its examples: `len(certificate)`, `certificate[i]`, slices, masks
    and lists of examples, `for part in certificate`; each part is a certificate, and
    `lirpa_explain.join` makes one of several.

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
        spec_lower: (N, K), lower bounds of the linear functions that `spec` asked for; None without
            it.
        spec_upper: Upper bounds, likewise.
        spec_nominal: Their values at the unperturbed input.
        refiner: Maps linear functions (N, K, D) of the flattened attribution to bounds of them,
            each (N, K), by bound propagation. Not saved: a loaded certificate has none.
        meaning: What the bounds are bounds of, and what else is known of it: `integral`,
            `quadrature_error`, `completeness`, `expectation`, `confidence` and `samples` read it.
        attacker: What `sandwich` calls with the certificate, a metric and its options. Not saved.
        recertifier: Maps radii (N,) to the certificate of the same call at these; `radius` calls
            it. Not saved.
        brancher: What `refine` calls with the certificate and its arguments. Not saved, nor known
            of chosen examples.
        rounding: "outward" if the bounds hold for what is computed in floating point at every
            input, by proof; "default" if they hold up to rounding, and contain `nominal`.
        features: The names of the entries of an example's attribution, flattened; None where they
            have none.

    Raises:
        TypeError: If a bound is neither a tensor nor a tuple of tensors, or features are no names.
        ValueError: If lower, upper and nominal differ in shape, or there is not a name for each
            entry.

    Example:
        >>> import math
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
    meaning: Meaning = Meaning()
    attacker: Callable[..., Sandwich] | None = None
    recertifier: Callable[[Tensor], Certificate] | None = None
    brancher: Callable[..., Certificate] | None = None
    rounding: str = "default"
    features: tuple[str, ...] | None = None

    integral = fact("integral",
                "\"exact\" if lower and upper bound the integral along the path that A stands "
                "for, at every x' of the perturbation; `nominal` is Captum's finite sum even "
                "then, and may lie outside.")
    quadrature_error = fact("quadrature_error",
                "Like `lower`, with `integral`: certified bound of |nominal - integral| at the "
                "unperturbed input.")
    completeness = fact("completeness",
                "(N,), with `integral` and where Captum defines it: sum_i nominal_i - (f(x) - "
                "f(b)), which is 0 for the integral itself; for a continuous model it is at most "
                "the sum of `quadrature_error`.")
    expectation = fact("expectation",
                "\"gaussian\" or \"gaussian-propagated\" if lower and upper bound the expectation "
                "under Gaussian noise, at every x' of the perturbation; `nominal` is the mean of "
                "the samples drawn.")
    confidence = fact("confidence",
                "With `expectation`, and of smoothed maps: the probability, for each example, "
                "that the samples are such that all of its bounds hold.")
    samples = fact("samples",
                   "Likewise: how many samples of each example were drawn; (N,) of smoothed maps.")

    def __post_init__(self) -> None:
        for name in ("nominal", "lower", "upper"):
            require_same_shape(name, getattr(self, name), self.nominal)
        object.__setattr__(self, "features", checked_names(self.features, self.nominal))

    def __len__(self) -> int:
        """How many examples it has."""
        return count(self.nominal)

    def __getitem__(self, index: Any) -> Certificate:
        """Return the certificate of some of the examples; the numbers stay the same.

        Args:
            index: An int; a slice; or a list, array or tensor of ints, or of a bool for each
                example.

        Returns:
            A certificate, of one example for an int. It can be refined; `radius` and `sandwich`
            take as long as for all examples, since what an attribution draws depends on the others.
            `elapsed_s` is that of all.

        Raises:
            IndexError: If there is no such example.
            TypeError: If the index is something else.
        """
        return choose(self, index)

    def __iter__(self) -> Iterator[Certificate]:
        """Each example's certificate."""
        return (self[i] for i in range(len(self)))

    @property
    def device(self) -> torch.device:
        """Where the bounds are."""
        return tensors(self.nominal)[0].device

    def sandwich(self, metric: str = "max_change", **options: Any) -> Sandwich:
        """Set beside a certified number the strongest change that an attack finds; see
        `lirpa_explain.sandwich`.

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
            raise ValueError("This certificate has nothing to attack: it was loaded, or made "
                             "without its model, or speaks of a smoothed map or of boundary "
                             "points, which would have to be drawn or searched for anew. Certify "
                             "again, in the plain sense, and ask before saving.")
        return self.attacker(self, metric, **named_masks(options, self.features, self.nominal))

    def radius(self, holds: Property, *, high: float, steps: int = 10) -> Radius:
        """Find the largest radius at which a property is certified, by bisection; see
        `lirpa_explain.radius`.

        All else is as in the call that made this certificate: norm, clip, method, keywords, random
        draws.

        Args:
            holds: Maps a certificate to a bool tensor (N,), such as `lambda c: c.top_k_overlap(5)
                == 5`.
            high: The largest radius tried, above 0.
            steps: How often the interval is halved.

        Raises:
            ValueError: there is no model, no radius, or another model than then; and as
                `lirpa_explain.radius`.
        """
        if self.recertifier is None:
            raise ValueError("This certificate was loaded, or made without its model: there is "
                             "nothing to certify at other radii. Certify again, or call "
                             "lirpa_explain.radius with a Certifier.")
        nominal = flatten(self.nominal).detach()
        found = bisect(self.recertifier, nominal, holds, high, steps)
        again = flatten(found.inside.nominal).detach().nan_to_num()
        if not bool(box.contains(again, again, nominal.nan_to_num(), self._rtol).all()):
            raise ValueError("The attribution's model or input was changed; certify again.")
        return found

    def to_frame(self) -> DataFrame:
        """Return all bounds as a pandas table, with a row for each entry of each example.

        Returns:
            The columns `example`; `input`, where the attribution is a tuple; `feature`, by name or
            place; `nominal`, `lower`, `upper`; and `sign`, +1 or -1 where it is certain, else 0; of
            a smoothed map `side` instead, +1 where an entry is certainly important, -1 where it is
            certainly not.

        Raises:
            ImportError: If pandas is missing.
        """
        return to_frame(self)

    def _repr_html_(self) -> str:
        return html(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate to exactly this path, as a numpy .npz archive without pickles.

        Args:
            path: The file to write; an existing one is replaced.
        """
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)
                  if entry.name not in ("refiner", "attacker", "recertifier", "brancher",
                                        "meaning")}
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
        return (f"Certificate of {self.attribution}{self.meaning.title}\n  method        "
                f"{self.method}, {self.dtype}{', rounded outward' * (self.rounding == 'outward')}, "
                f"{self.elapsed_s:.3g} s\n  perturbation  {self.perturbation}\n  shape         "
                f"{describe(self.nominal)}\n  mean width    {mean_width:.4g}\n  "
                f"{self.meaning.certain(lower, upper, flatten(self.nominal))}")

