"""A smoothed certificate: draws of a map, and what they prove of it within every radius."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..certificates import Certificate, storage
from ..certificates.layout import Attributions, describe, flatten, unflatten
from ..certificates.meaning import Meaning
from ..certificates.radius import Property
from ..certifying.columns import given_tensors
from ..inputs import check_inputs
from . import radii
from .draws import Drawer
from .keywords import joined
from .looks import Looks
from .sampling import State, run
from .settings import Smoothing
from .statistics import shift

UNCHANGED = 1e-3
"""Relative difference of two attributions at the same input up to which they are of the same
model."""


@dataclass(frozen=True, eq=False, repr=False)
class SmoothedCertificate:
    """What is known, at a confidence, of a smoothed attribution map at every radius.

    The smoothed map s(x) = E h(x + e), e ~ N(0, sigma^2 I), is the mean of sparsified attributions
    under noise: how often an entry is among the largest. An entry is important where s > 1/2. All
    that is said of an example holds together with probability `settings.confidence` over the draws,
    whatever the model and the attribution are.

    Args:
        at_input: (N, *S), or a tuple: the attribution at the unperturbed input, as it is ranked.
        state: the draws and their sums.
        settings: of the map.
        attribution: what is smoothed, in words.
        inputs: a digest of the inputs.
        dtype: the type that attributions are computed in.
        versions: of the packages involved, by name.
        drawer: the attribution, to go on with. Not saved: a loaded certificate has none.
        features: names of the entries of an example.

    Example:
        >>> import lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model = torch.nn.Linear(4, 2)
        >>> _ = torch.nn.init.constant_(model.weight, 1.0)
        >>> with torch.no_grad():
        ...     model.weight[0, 2] = 5.0
        >>> found = lx.certify_smoothed(Saliency(model), torch.rand(1, 4), sigma=0.5, keep=0.25,
        ...                             nt_samples=200, target=0)
        >>> found.labels(0.5)
        tensor([[-1, -1,  1, -1]], dtype=torch.int8)
        >>> found.at(0.5).top_k(1)
        tensor([[False, False,  True, False]])
    """

    at_input: Attributions
    state: State
    settings: Smoothing
    attribution: str
    inputs: str
    dtype: str
    versions: dict[str, str] = field(default_factory=dict)
    drawer: Drawer | None = None
    features: tuple[str, ...] | None = None

    @property
    def nominal(self) -> Attributions:
        """The mean of the draws, shaped like the attribution: an estimate of the smoothed map."""
        return unflatten(self.at_input, self.state.total.mean(self.settings.levels))

    @cached_property
    def expectations(self) -> Box:
        """Bounds of the smoothed map at the unperturbed input, (N, D) each."""
        return self.state.box(self.settings)

    @property
    def draws(self) -> Tensor:
        """(N,), from how many draws of each example all this follows."""
        return self.state.total.draws

    @property
    def interrupted(self) -> bool:
        """Whether draws are outstanding; `more` makes them."""
        return self.state.interrupted

    @property
    def radii(self) -> Attributions:
        """The l2 radius within which each entry stays on its side of 1/2; 0 where that is open.

        sigma Phi^-1(lower) for important entries, -sigma Phi^-1(upper) for unimportant ones: for
        all entries, and at all radii, at once.
        """
        return unflatten(self.at_input, radii.of_entries(self))

    def labels(self, radius: float | None = None) -> Attributions:
        """Which entries are certainly important, which unimportant, within a radius.

        Args:
            radius: l2; default: the one of interest, or else 0.

        Returns:
            Shaped like the attribution, int8: +1 important, -1 unimportant, 0 open.
        """
        certificate = self.at(radius)
        lower, upper = flatten(certificate.lower), flatten(certificate.upper)
        return unflatten(self.at_input, (lower > 0.5).to(torch.int8) - (upper < 0.5).to(torch.int8))

    def certified(self, radius: float | None = None) -> Tensor:
        """The share of an example's entries that are certainly important or unimportant, (N,)."""
        return (flatten(self.labels(radius)) != 0).double().mean(1)

    def at(self, radius: float | Tensor | None = None) -> Certificate:
        """The certificate of the smoothed map at every x' within an l2 radius: all metrics,
        pictures, reports.

        Its bounds are Phi(Phi^-1(p) -+ radius / sigma), for bounds p at the input itself. All that
        follows from the box holds of the map at each x', at the confidence stated, and so do the
        certificates of all other radii, together.

        Args:
            radius: l2, of one number or one for each example, (N,); default: the one of interest,
                or else 0.

        Raises:
            ValueError: a radius is negative or not finite.
        """
        radius = (self.settings.radius or 0.0) if radius is None else radius
        count = len(self.draws)
        distances = torch.as_tensor(radius, dtype=torch.float64)
        if distances.shape not in ((), (count,)) or not bool(
                (distances.isfinite() & (distances >= 0)).all()):
            raise ValueError("radius must be a finite number of at least 0, or one for each of the "
                             f"{count} examples; given: {radius!r}.")
        nominal = self.state.total.mean(self.settings.levels)
        moved = shift(self.expectations, distances.expand(count)[:, None] / self.settings.sigma)
        lower, upper = moved.hull(Box.point(nominal))
        return Certificate(
            lower=unflatten(self.at_input, lower), upper=unflatten(self.at_input, upper),
            nominal=unflatten(self.at_input, nominal), attribution=self.attribution,
            method="randomised smoothing", perturbation=_within(distances), dtype=self.dtype,
            elapsed_s=self.state.elapsed_s, versions=self.versions, meaning=self._meaning(),
            recertifier=self.at, features=self.features)

    def radius(self, holds: str | Property, **options: Any) -> Tensor:
        """The l2 radius within which something is certain, without drawing anything.

        Args:
            holds: a key of `lirpa_explain.smoothing.RADII`, whose radius is a formula; or, for
                anything else, a function that maps a `Certificate` to a bool tensor (N,), whose
                radius is found by bisection.
            **options: of the row, such as k; with a function, `high` (the largest radius tried,
                default 4 sigma) and `steps` (default 40).

        Returns:
            (N,); 0 where it is not certain at any radius above 0, inf where it always is.

        Raises:
            ValueError: there is no such row, or an option is out of range.
            TypeError: the row takes no such option, or wants one that is not given.
        """
        return radii.find(self, holds, options)

    def more(self, attribution: Any = None, inputs: Any = None, *,
             doublings: int | None = None, batch_size: int = 64, progress: bool = False,
             attribute_keywords: dict[str, Any] | None = None, **attribute_kwargs: Any
             ) -> SmoothedCertificate:
        """Go on drawing, and return the certificate of all draws, these and the new ones.

        The numbers of draws that are looked at are fixed beforehand, each twice the one before, and
        share the error: so the confidence holds whatever made you go on. Where all entries of an
        example are decided at the radius of interest, nothing more is drawn for it.

        Args:
            attribution: as of `certify_smoothed`; needed for a certificate that was loaded.
            inputs: as of `certify_smoothed`, likewise, with `attribute_kwargs`.
            doublings: how often the number of draws is doubled; default: 0 after an interruption,
                to make the draws that are outstanding, else 1.
            batch_size: most noisy inputs at once.
            progress: show a bar.
            attribute_keywords: as of `certify_smoothed`.
            **attribute_kwargs: as of `certify_smoothed`.

        Raises:
            ValueError: there is no attribution, or another one, or other inputs, than in the call
                that made the certificate.
        """
        keywords = joined(attribute_kwargs, attribute_keywords)
        drawer = self._drawer(attribution, inputs, keywords)
        checked(batch_size)
        if doublings is None:
            doublings = 0 if self.state.looks.pending else 1
        if not isinstance(doublings, int) or isinstance(doublings, bool) or doublings < 0:
            raise ValueError(f"doublings must be an int of at least 0; given: {doublings!r}.")
        state = self.state
        last = max([draws for draws, _ in state.looks.pending], default=int(state.drawn.max()))
        if state.looks.pending:
            state = run(drawer, state, batch_size, progress)
        if doublings and not state.interrupted:
            state = dataclasses.replace(state, looks=state.looks.doubled(last, doublings))
            state = run(drawer, state, batch_size, progress)
        return dataclasses.replace(self, state=state, drawer=drawer)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate to exactly this path, as a numpy .npz archive without pickles."""
        storage.write(path, {
            "at_input": self.at_input, "counts": self.state.counts, "seen": self.state.seen,
            "error": self.state.error, "looks": self.state.looks.packed(),
            "interrupted": self.state.interrupted,
            "elapsed_s": self.state.elapsed_s, "settings": dataclasses.asdict(self.settings),
            "attribution": self.attribution, "inputs": self.inputs, "dtype": self.dtype,
            "versions": self.versions, "features": self.features and list(self.features)},
                      type(self).__name__)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SmoothedCertificate:
        """Read a certificate that `save` wrote.

        Raises:
            ValueError: the file is not one, or one of another format.
        """
        values = storage.read(path, cls.__name__)
        settings = Smoothing(**values.pop("settings"))
        state = State(looks=Looks.unpacked(values.pop("looks")), **{
            name: values.pop(name)
            for name in ("counts", "seen", "error", "interrupted", "elapsed_s")})
        names = values.pop("features")
        return cls(state=state, settings=settings, features=names and tuple(names), **values)

    def __repr__(self) -> str:
        important, unimportant, count = self._counts()
        settings = self.settings
        radius = "" if settings.radius is None else f" within l2 radius {settings.radius:g}"
        return (
            f"SmoothedCertificate of {self.attribution}\n"
            f"  map           the largest {settings.keep:.3g} of the entries under noise of "
            f"deviation {settings.sigma:g}\n"
            f"  draws         {_range(self.draws)} an example"
            f"{', interrupted' * self.interrupted}, {self.state.elapsed_s:.3g} s\n"
            f"  confidence    {settings.confidence:g} an example\n"
            f"  shape         {describe(self.at_input)}\n"
            f"  certified     {(important + unimportant) / count:.1%} of the entries{radius}: "
            f"{important / count:.1%} important, {unimportant / count:.1%} unimportant")

    def _counts(self) -> tuple[int, int, int]:
        labels = flatten(self.labels())
        return int((labels > 0).sum()), int((labels < 0).sum()), labels.numel()

    def _meaning(self) -> Meaning:
        settings = self.settings
        drawn = _range(self.draws)
        title = (f", smoothed with noise of deviation {settings.sigma:g}\n"
                 f"  confidence    {settings.confidence:g} an example, {drawn} draws")
        what = "the share of noisy inputs" if settings.levels == 1 else \
            f"the mean, over noisy inputs and in {settings.levels} steps, of the level"
        says = (f"They bound the smoothed map: for each entry {what} x' + e, e ~ N(0, "
                f"{settings.sigma:g}^2 I), at which it is among the largest {settings.keep:.3g} of "
                f"the entries; an entry is important above 1/2. For each example all bounds hold "
                f"with probability {settings.confidence:g} over the {drawn} draws, at all radii at "
                "once; the nominal value is the mean of the draws at the unperturbed input.")
        facts = {"confidence": settings.confidence, "samples": self.draws,
                 "sigma": settings.sigma, "keep": settings.keep, "levels": settings.levels}
        return Meaning("smoothed", title, says, False, facts, 0.5, "important", "unimportant")

    def _drawer(self, attribution: Any, inputs: Any, keywords: dict[str, Any]) -> Drawer:
        """The attribution to go on with, checked to be the one that the draws are of."""
        if attribution is None and inputs is None and not keywords:
            if self.drawer is None:
                raise ValueError("This certificate was loaded: pass the attribution, the inputs "
                                 "and the attribution's keywords to go on with.")
            return self.drawer
        if attribution is None or inputs is None:
            raise ValueError("Pass both the attribution and the inputs, with the attribution's "
                             "keywords, or none of them.")
        inputs, _, keywords = given_tensors(attribution, inputs, keywords, self.features)
        xs = check_inputs(inputs)
        drawer = Drawer(attribution, xs, isinstance(inputs, tuple), keywords, self.settings)
        if drawer.digest != self.inputs:
            raise ValueError("These are other inputs than those of the certificate; draws of both "
                             "would not make one map. Pass the same, or certify anew.")
        now, then = flatten(drawer.at_input()), flatten(self.at_input)
        if now.shape != then.shape or bool(
                ((now - then).abs() > UNCHANGED * then.abs().amax()).any()):
            raise ValueError("The attribution at the inputs is not the one of the certificate: "
                             "pass the same model, attribution and keywords, or certify anew.")
        return drawer


def checked(batch_size: Any) -> int:
    """A number of rows at once.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size must be an int of at least 1; given: {batch_size!r}.")
    return batch_size


def _range(draws: Tensor) -> str:
    least, most = int(draws.min()), int(draws.max())
    return str(most) if least == most else f"{least} to {most}"


def _within(distances: Tensor) -> str:
    if distances.ndim == 0 or bool((distances == distances[0]).all()):
        return f"l2 ball, radius {float(distances.max()):.6g}"
    return (f"l2 balls, radii {float(distances.min()):.6g} to {float(distances.max()):.6g}, one "
            "for each example")
