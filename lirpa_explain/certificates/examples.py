"""Some of a certificate's examples, chosen as rows of a tensor are."""

from __future__ import annotations

import dataclasses
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lirpa_explain.certificates.layout import rows
from lirpa_explain.certificates.refined import OF_ALL
from lirpa_explain.certificates.sources import chosen_sources

if TYPE_CHECKING:
    from lirpa_explain.certificates.certificate import Certificate

OF_EXAMPLES = ("lower", "upper", "nominal", "spec_lower", "spec_upper", "spec_nominal")
"""Fields of a certificate that have a row for each example, where they are not None."""

KINDS = "an int, a slice, or a list, array or tensor of ints or of one bool for each example"


def positions(index: Any, count: int) -> Tensor:
    """Which of so many examples an index chooses, in its order, (B,).

    Raises:
        IndexError: There is no such example, or there are not as many bools as examples.
        TypeError: It is no index of examples.

    Example:
        >>> positions(-1, 3), positions(slice(None, None, -2), 3), positions([True, False, True], 3)
        (tensor([2]), tensor([2, 0]), tensor([0, 2]))
    """
    if isinstance(index, slice):
        return torch.arange(count)[list(range(count)[index])]
    if not isinstance(index, list | np.ndarray | Tensor):
        try:
            if isinstance(index, bool | np.bool_):
                raise TypeError
            index = [operator.index(index)]
        except TypeError:
            raise TypeError(f"Examples are chosen by {KINDS}; given: {_words(index)}.") from None
    try:
        chosen = (
            torch.as_tensor(index, device="cpu") if len(index) else torch.zeros(0, dtype=torch.long)
        )
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ):  # as 0-d tensors, which have no length, and lists of words
        return positions(_number(index), count)
    if chosen.ndim != 1 or chosen.is_floating_point() or chosen.is_complex():
        raise TypeError(f"Examples are chosen by {KINDS}; given: {_words(index)}.")
    if chosen.dtype == torch.bool:
        if len(chosen) != count:
            raise IndexError(
                f"A mask of examples has one bool for each of the {count}; given: {len(chosen)}."
            )
        return chosen.nonzero()[:, 0]
    outside = (chosen < -count) | (chosen >= count)
    if bool(outside.any()):
        raise IndexError(
            f"There is no example {int(chosen[outside][0])}: the certificate has {count}."
        )
    return torch.where(chosen < 0, chosen + count, chosen).long()


def choose(certificate: Certificate, index: Any) -> Certificate:
    """The certificate of these examples; see `Certificate.__getitem__`."""
    chosen = positions(index, len(certificate)).to(certificate.device)
    facts = {
        name: value if name in OF_ALL else rows(value, chosen)
        for name, value in certificate.meaning.facts.items()
    }
    return dataclasses.replace(
        certificate,
        **{name: rows(getattr(certificate, name), chosen) for name in OF_EXAMPLES},
        convergence_delta=_delta(certificate, chosen),
        meaning=dataclasses.replace(certificate.meaning, facts=facts),
        brancher=None,
        **chosen_sources(certificate, chosen),
    )


def _delta(certificate: Certificate, chosen: Tensor) -> Tensor | None:
    """Convergence deltas of some examples; with several for each, these lie side by side."""
    delta = certificate.convergence_delta
    if delta is None or len(certificate) == 0:
        return delta
    return delta.reshape(len(certificate), -1)[chosen].flatten()


def _number(index: Any) -> int:
    """What a 0-d tensor or array of an integer holds."""
    if getattr(index, "ndim", None) == 0 and "int" in str(index.dtype):
        return int(index)
    raise TypeError(f"Examples are chosen by {KINDS}; given: {_words(index)}.")


def _words(index: Any) -> str:
    if isinstance(index, np.ndarray | Tensor):
        return f"{type(index).__name__} of {index.dtype}, {tuple(index.shape)}"
    return f"{index!r:.60}"
