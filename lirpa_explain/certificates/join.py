"""The examples of several certificates as one certificate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from lirpa_explain.certificates.certificate import Certificate
from lirpa_explain.certificates.examples import OF_EXAMPLES
from lirpa_explain.certificates.layout import joined, tensors
from lirpa_explain.certificates.meaning import Meaning
from lirpa_explain.certificates.refined import FACTS
from lirpa_explain.certificates.sources import joined_sources

Words = Callable[[Certificate], Any]

ALIKE: dict[str, Words] = {
    "attribution": lambda c: c.attribution,
    "method": lambda c: c.method,
    "dtype": lambda c: c.dtype,
    "rounding": lambda c: c.rounding,
    "shape of an example": lambda c: _shapes(c.nominal),
    "device": lambda c: str(c.device),
    "features": lambda c: c.features,
    "sense": lambda c: _said(c.meaning),
    "spec": lambda c: (
        c.spec_lower if c.spec_lower is None else f"{c.spec_lower.shape[1]} functions"
    ),
    "convergence_delta": lambda c: _deltas(c),
}
"""What all certificates that are joined have in common."""


def join(certificates: Iterable[Certificate]) -> Certificate:
    """Make one certificate of several, of the examples of all, one certificate's after the other's.

    It can be refined, certified at other radii and attacked if each of them can; `elapsed_s` is
    the sum.

    Args:
        certificates: Those of one attribution, bounded alike; radii may differ.

    Returns:
        A `Certificate`.

    Raises:
        TypeError: Something else is among them.
        ValueError: There are none, or they differ in what all examples have in common.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model, x = torch.nn.Linear(3, 2), torch.rand(5, 3)
        >>> certifier = lx.Certifier(Saliency(model), target=0)
        >>> whole = lx.join(certifier.certify(rows, eps=0.1) for rows in x.split(2))
        >>> len(whole), len(whole[:2]), whole.lower.shape
        (5, 2, torch.Size([5, 3]))
    """
    parts = list(certificates)
    if not parts:
        raise ValueError("There are no certificates to join.")
    for part in parts:
        if not isinstance(part, Certificate):
            raise TypeError(f"join takes certificates; given: {type(part).__name__}.")
    first = parts[0]
    for name, words in ALIKE.items():
        for i, part in enumerate(parts):
            if words(part) != words(first):
                raise ValueError(
                    f"Certificates that are joined have one {name}: that of certificate 0 is "
                    f"{words(first)}, that of certificate {i} is {words(part)}."
                )
    facts = {
        name: joined([part.meaning.facts[name] for part in parts])
        for name in first.meaning.facts
        if name not in FACTS  # refined rows are each certificate's own
    }
    names = (*OF_EXAMPLES, "convergence_delta")
    return dataclasses.replace(
        first,
        **{name: joined([getattr(part, name) for part in parts]) for name in names},
        perturbation=_perturbation(parts),
        elapsed_s=sum(part.elapsed_s for part in parts),
        versions=_versions(parts),
        meaning=dataclasses.replace(first.meaning, facts=facts),
        brancher=None,
        **joined_sources(parts),
    )


def _shapes(nominal: Any) -> str:
    shapes = ", ".join(str(tuple(part.shape[1:])) for part in tensors(nominal))
    return f"a tuple of {shapes}" if isinstance(nominal, tuple) else shapes


def _said(meaning: Meaning) -> tuple[Any, ...]:
    """The sense, and what it knows of all examples alike."""
    common = {
        name: type(value).__name__ if isinstance(value, Tensor | tuple) else value
        for name, value in meaning.facts.items()
        if name not in FACTS
    }
    return meaning.kind, common, meaning.is_nominal


def _deltas(certificate: Certificate) -> str | None:
    delta = certificate.convergence_delta
    return None if delta is None else f"{len(delta) // max(1, len(certificate))} for each example"


EITHER = "of each example one of: "


def _perturbation(parts: list[Certificate]) -> str:
    """What all say; where they differ, all that some say."""
    said = dict.fromkeys(
        words for part in parts for words in part.perturbation.removeprefix(EITHER).split(" | ")
    )
    return next(iter(said)) if len(said) == 1 else EITHER + " | ".join(said)


def _versions(parts: list[Certificate]) -> dict[str, str]:
    """The versions by which all were made, of each package all that occur."""
    names = dict.fromkeys(name for part in parts for name in part.versions)
    return {
        name: ", ".join(
            dict.fromkeys(part.versions[name] for part in parts if name in part.versions)
        )
        for name in names
    }
