"""By what parts of a certificate, and joined ones, are refined, certified again and attacked.

What Captum draws depends on all examples of a call. So a part asks the whole, and keeps its own
rows of the answer: the numbers are the same, and so is the time.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from lirpa_explain.certificates.layout import Attributions, rows, tensors
from lirpa_explain.certificates.metrics import METRICS
from lirpa_explain.certificates.sandwich import Sandwich

if TYPE_CHECKING:
    from lirpa_explain.certificates.certificate import Certificate

SOURCES = {"refiner": "refine", "recertifier": "recertify", "attacker": "attack"}
"""Fields of a certificate that hold what it was made by -> methods of a `Source` for them."""


class Source(Protocol):
    """Stands in for what certificates were made by, where examples are chosen from them."""

    def rows(self, index: Tensor) -> Source:
        """That of some of these examples."""

    def refine(self, functions: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of functions (N, K, D) of the attribution, each (N, K)."""

    def recertify(self, radii: Tensor) -> Certificate:
        """The certificate at radii (N,)."""

    def attack(self, certificate: Certificate, metric: str, **options: Any) -> Sandwich:
        """What `Certificate.sandwich` returns."""


@dataclass(frozen=True)
class Answer:
    """One method of a source, as a field of a certificate."""

    source: Source
    name: str

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What the method returns."""
        return getattr(self.source, self.name)(*args, **options)

    def rows(self, index: Tensor) -> Answer:
        """The same for some of these examples."""
        return Answer(self.source.rows(index), self.name)


def chosen_sources(whole: Certificate, index: Tensor) -> dict[str, Any]:
    """The fields of `SOURCES` for some examples: its own that can choose, else a `Part`'s."""
    part, fields = Part(whole, index), dict[str, Any]()
    for field, name in SOURCES.items():
        own = getattr(whole, field)
        if own is None:
            fields[field] = None
        elif hasattr(own, "rows"):
            fields[field] = own.rows(index)
        else:
            fields[field] = Answer(part, name)
    return fields


def joined_sources(certificates: list[Certificate]) -> dict[str, Any]:
    """The fields of `SOURCES` for all certificates' examples; None of what one of them has not."""
    ends = torch.tensor([len(certificate) for certificate in certificates]).cumsum(0).tolist()
    pieces = tuple(
        (certificate, torch.arange(end - len(certificate), end))
        for certificate, end in zip(certificates, ends, strict=True)
    )
    fields = dict[str, Any]()
    for field, name in SOURCES.items():
        lacks = any(getattr(certificate, field) is None for certificate in certificates)
        fields[field] = None if lacks else Answer(Joined(pieces), name)
    return fields


@dataclass(frozen=True, eq=False)
class Part:
    """Some examples of one certificate.

    Args:
        whole: the certificate.
        index: (B,), which of its examples.
    """

    whole: Certificate
    index: Tensor

    def rows(self, index: Tensor) -> Part:
        """Some of these."""
        return Part(self.whole, self.index[index])

    def refine(self, functions: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of functions (B, K, D), each (B, K); those of the other examples are 0."""
        self._check_once()
        assert self.whole.refiner is not None
        lower, upper = self.whole.refiner(self._spread(functions))
        return lower[self.index], upper[self.index]

    def recertify(self, radii: Tensor) -> Certificate:
        """The certificate at radii (B,); the other examples stay where they are."""
        self._check_once()
        assert self.whole.recertifier is not None
        return self.whole.recertifier(self._spread(radii))[self.index]

    def attack(self, certificate: Certificate, metric: str, **options: Any) -> Sandwich:
        """What is found for these when all are attacked, with the bounds of their certificate.

        Raises:
            ValueError: there are none.
        """
        self._check_once()
        if len(self.index) == 0:
            raise ValueError("There is nothing to attack: the certificate has no examples.")
        assert self.whole.attacker is not None
        bounds: dict[str, Any] = {
            side: self._replaced(getattr(self.whole, side), getattr(certificate, side))
            for side in ("lower", "upper", "nominal")
        }
        # the others take part with the options of the first
        place = torch.zeros(len(self.whole), dtype=torch.long)
        place[self.index.cpu()] = torch.arange(len(self.index))
        everywhere = options_of(metric, options, certificate.nominal, place)
        whole = dataclasses.replace(self.whole, **bounds)
        return self.whole.attacker(whole, metric, **everywhere).rows(self.index)

    def _spread(self, values: Tensor) -> Tensor:
        """Rows of these examples among those of all, which are 0."""
        spread = values.new_zeros(len(self.whole), *values.shape[1:])
        return spread.index_copy(0, self.index, values)

    def _replaced(self, whole: Attributions, part: Attributions) -> Attributions:
        """All examples' rows, with these in their places."""
        replaced = tuple(
            all_rows.index_copy(0, self.index, own.to(all_rows))
            for all_rows, own in zip(tensors(whole), tensors(part), strict=True)
        )
        return replaced if isinstance(whole, tuple) else replaced[0]

    def _check_once(self) -> None:
        if len(self.index.unique()) < len(self.index):
            raise ValueError(
                "The certificate holds an example twice, and its model is asked for each example "
                "once: choose each once."
            )


@dataclass(frozen=True, eq=False)
class Joined:
    """The examples of several certificates.

    Args:
        pieces: each certificate, and where its examples are, (B,).
    """

    pieces: tuple[tuple[Certificate, Tensor], ...]

    def rows(self, index: Tensor) -> Joined:
        """Some of these: of each certificate those that are chosen."""
        chosen, index = [], index.cpu()
        for certificate, where in self.pieces:
            place = {int(at): i for i, at in enumerate(where)}
            mine = [i for i, at in enumerate(index.tolist()) if at in place]
            if mine:
                chosen.append(
                    (certificate[[place[int(index[i])] for i in mine]], torch.tensor(mine))
                )
        return Joined(tuple(chosen))

    def refine(self, functions: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of functions (N, K, D), each (N, K)."""
        if not self.pieces:
            none = functions.new_zeros(functions.shape[:2])
            return none, none
        sides = [
            piece.refiner(functions[where])
            for piece, where in self.pieces
            if piece.refiner is not None
        ]
        lower, upper = (torch.cat(parts)[self._order] for parts in zip(*sides, strict=True))
        return lower, upper

    def recertify(self, radii: Tensor) -> Certificate:
        """The certificate at radii (N,)."""
        from lirpa_explain.certificates.join import join  # which joins these

        self._check_any()
        again = [
            piece.recertifier(radii[where])
            for piece, where in self.pieces
            if piece.recertifier is not None
        ]
        return join(again)[self._order]

    def attack(self, certificate: Certificate, metric: str, **options: Any) -> Sandwich:
        """What is found for each certificate's examples."""
        self._check_any()
        sides = []
        for piece, where in self.pieces:
            assert piece.attacker is not None
            own = options_of(metric, options, certificate.nominal, where)
            sides.append(piece.attacker(certificate[where], metric, **own))
        return Sandwich.joined(sides).rows(self._order)

    @property
    def _order(self) -> Tensor:
        """Where among the pieces' examples, one piece's after the other's, each example is."""
        return torch.cat([where for _, where in self.pieces]).argsort()

    def _check_any(self) -> None:
        if not self.pieces:
            raise ValueError("The certificate has no examples to certify again or to attack.")


def options_of(
    metric: str, options: dict[str, Any], nominal: Attributions, index: Tensor
) -> dict[str, Any]:
    """A metric's options for some examples: their rows of what has a row for each example."""
    counts = METRICS[metric].examples if metric in METRICS else {}
    shapes = [part.shape for part in tensors(nominal)]

    def has_rows(name: str, value: Any) -> bool:
        parts = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(part, Tensor) for part in parts):
            return False
        if name in counts:
            return all(counts[name] in (0, part.ndim) for part in parts)
        return [part.shape for part in parts] == shapes

    return {
        name: rows(value, index) if has_rows(name, value) else value
        for name, value in options.items()
    }
