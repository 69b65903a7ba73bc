"""Names of the entries of an attribution, its parts flattened side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lirpa_explain.arrays import check_among, check_once, is_names
from lirpa_explain.certificates.layout import Attributions, features, tensors


def checked_names(names: Any, nominal: Attributions) -> tuple[str, ...] | None:
    """Names as a certificate holds them.

    Args:
        names: One word for each entry of an example; None for none.
        nominal: The attribution that has these entries.

    Raises:
        TypeError: They are no words.
        ValueError: They are not as many as entries, or a name comes twice.
    """
    if names is None:
        return None
    if not is_names(names):
        raise TypeError(f"features must be a list of names; given: {names!r:.80}.")
    count = sum(map(features, tensors(nominal)))
    if len(names) != count:
        raise ValueError(
            f"features must name each of the {count} entries of an example's attribution; given: "
            f"{len(names)} names."
        )
    check_once(names, "features")
    return tuple(names)


def places(nominal: Attributions) -> list[str]:
    """Where each entry is, such as 0, 3, 5 for channel, row, column; after its input, of
    several.
    """
    parts = tensors(nominal)
    return [
        ", ".join(map(str, ([part] if len(parts) > 1 else []) + place))
        for part, tensor in enumerate(parts)
        for place in torch.ones(tensor.shape[1:]).nonzero().tolist()
    ]


def labels(names: Sequence[str] | None, nominal: Attributions) -> Sequence[str]:
    """The names, or places where there are none."""
    return places(nominal) if names is None else names


def mask_of(
    chosen: Sequence[str], names: Sequence[str] | None, nominal: Attributions
) -> Attributions:
    """The entries of these names as a mask, shaped like one example.

    Raises:
        ValueError: One is none of the names, or there are none.
    """
    if names is None:
        raise ValueError(
            f"mask has the names {', '.join(chosen)}, but the certificate's features have none: "
            "certify with features=[...], or pass a tensor."
        )
    check_among(chosen, names, "feature")
    row = torch.tensor([name in set(chosen) for name in names], device=tensors(nominal)[0].device)
    split = row.split([features(part) for part in tensors(nominal)])
    shaped = tuple(
        mask.reshape(part.shape[1:]) for mask, part in zip(split, tensors(nominal), strict=True)
    )
    return shaped if isinstance(nominal, tuple) else shaped[0]


def named_masks(
    settings: Mapping[str, Any], names: Sequence[str] | None, nominal: Attributions
) -> dict[str, Any]:
    """Settings of a metric, with masks in place of names."""
    return {
        key: mask_of(value, names, nominal) if is_names(value) else value
        for key, value in settings.items()
    }
