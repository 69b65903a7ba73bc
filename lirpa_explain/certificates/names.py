"""Names of the entries of an attribution, in the order in which its parts are flattened side by side."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from lirpa_explain.certificates.layout import Attributions, features, tensors


def is_names(value: Any) -> bool:
    """Whether a value is names: a list or tuple of words."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(name, str) for name in value)


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
        raise ValueError(f"features must name each of the {count} entries of an example's attribution; given: "
                         f"{len(names)} names.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"features has the name {twice!r} twice; each entry needs a name of its own.")
    return tuple(names)


def nearest(name: str, names: Collection[str]) -> str:
    """What to say of a name that there is not: the one that is most like it, or those there are."""
    near = difflib.get_close_matches(name, list(names), 1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}."


def places(nominal: Attributions) -> list[str]:
    """Where each entry is, such as 0, 3, 5 for channel, row and column; with several inputs, after which it is of."""
    parts = tensors(nominal)
    return [", ".join(map(str, ([part] if len(parts) > 1 else []) + place))
            for part, tensor in enumerate(parts)
            for place in torch.ones(tensor.shape[1:]).nonzero().tolist()]


def labels(names: Sequence[str] | None, nominal: Attributions) -> Sequence[str]:
    """The names, or places where there are none."""
    return places(nominal) if names is None else names


def mask_of(chosen: Sequence[str], names: Sequence[str] | None, nominal: Attributions) -> Attributions:
    """The entries of these names as a mask, shaped like one example.

    Raises:
        ValueError: One is none of the names, or there are none.
    """
    if names is None:
        raise ValueError(f"mask has the names {', '.join(chosen)}, but the certificate's features have none: certify "
                         "with features=[...], or pass a tensor.")
    for name in chosen:
        if name not in names:
            raise ValueError(f"There is no feature {name!r}; {nearest(name, names)}")
    row = torch.tensor([name in set(chosen) for name in names], device=tensors(nominal)[0].device)
    split = row.split([features(part) for part in tensors(nominal)])
    shaped = tuple(mask.reshape(part.shape[1:]) for mask, part in zip(split, tensors(nominal), strict=True))
    return shaped if isinstance(nominal, tuple) else shaped[0]


def named_masks(settings: Mapping[str, Any], names: Sequence[str] | None, nominal: Attributions) -> dict[str, Any]:
    """Settings of a metric, with masks in place of names."""
    return {key: mask_of(value, names, nominal) if is_names(value) else value for key, value in settings.items()}
