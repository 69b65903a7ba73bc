"""An attribution's keyword arguments for many copies of one example of a batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..inputs import check_keywords

SHARED = {
    "baselines": ("GradientShap", "DeepLiftShap", "LayerGradientShap", "LayerDeepLiftShap",
                  "NeuronGradientShap", "NeuronDeepLiftShap"),
}
"""Keywords that are a distribution for all examples, and no tensor with a row for each; of these
classes."""

REFUSED = {
    "return_convergence_delta": "a smoothed map has no convergence delta: leave it out",
}
"""Keywords that change what an attribution returns, and what to do."""


def joined(keywords: dict[str, Any], further: dict[str, Any] | None) -> dict[str, Any]:
    """All keywords of an attribution, from a call's own and a dictionary of more.

    Raises:
        TypeError: `further` is no dictionary, or a tensor has no values.
        ValueError: a name is in both, or changes what an attribution returns.
    """
    if further is not None and not isinstance(further, dict):
        raise TypeError("attribute_keywords must be a dictionary from names to values; given: a "
                        f"{type(further).__name__}.")
    further = further or {}
    if twice := set(keywords) & set(further):
        raise ValueError(f"{', '.join(sorted(twice))} is given twice: leave it out of "
                         "attribute_keywords.")
    every = keywords | further
    check_keywords(every)
    for name, advice in REFUSED.items():
        if every.get(name):
            raise ValueError(f"{name}={every[name]!r}: {advice}.")
    return every


def copies(keywords: dict[str, Any], example: int, count: int, examples: int, kinds: tuple[str, ...]
           ) -> dict[str, Any]:
    """The keywords for `count` rows that are all the same example.

    A tensor with a row for each example is one: its row is repeated. Targets are Captum's: one for
    all, or one for each example.

    Args:
        keywords: of `attribute`.
        example: which.
        count: how often.
        examples: N.
        kinds: the names of the attribution's classes, and of those of what it wraps.

    Example:
        >>> copies({"target": [2, 0], "n_steps": 8}, 1, 3, 2, ("IntegratedGradients",))
        {'target': [0, 0, 0], 'n_steps': 8}
    """
    return {name: value if set(SHARED.get(name, ())) & set(kinds)
            else _target(value, example, count, examples) if name == "target"
            else _rows(value, example, count, examples) for name, value in keywords.items()}


def kinds_of(attribution: Any) -> tuple[str, ...]:
    """The names of the classes of an attribution and of the one that it wraps."""
    inner = getattr(attribution, "attribution_method", None)
    own = tuple(kind.__name__ for kind in type(attribution).__mro__)
    return own + (kinds_of(inner) if inner is not None else ())


def _target(target: Any, example: int, count: int, examples: int) -> Any:
    if isinstance(target, Tensor):
        if target.ndim == 0 or len(target) != examples:
            return target
        return target[example: example + 1].repeat(count, *(1,) * (target.ndim - 1))
    if isinstance(target, list):
        if len(target) != examples:
            raise ValueError(f"target is a list of {len(target)}, but there are {examples} "
                             "examples; pass one for each, or one number for all.")
        return [target[example]] * count
    return target


def _rows(value: Any, example: int, count: int, examples: int) -> Any:
    if isinstance(value, Tensor) and value.ndim and len(value) == examples:
        return value[example: example + 1].repeat(count, *(1,) * (value.ndim - 1))
    if type(value) in (tuple, list):
        return type(value)(_rows(part, example, count, examples) for part in value)
    if isinstance(value, dict):
        return {name: _rows(part, example, count, examples) for name, part in value.items()}
    return value
