"""Names of the inputs' columns: where they come from, and which certificates have them."""

import math
from typing import Any

from captum.attr import LayerAttribution
from torch import Tensor

from ..arrays import Names, as_baselines, as_inputs, as_tensors, parameter_of
from ..certificates.names import places


def given_names(features: Any, perturbation: Any, is_tuple: bool) -> Any:
    """The names that a caller gave: as `features`, or by the perturbations of tables.

    Raises:
        ValueError: they contradict each other.
    """
    each = perturbation if isinstance(perturbation, tuple) else (perturbation,)
    of_tables = tuple(getattr(p, "features", None) for p in each)
    if all(names is None for names in of_tables):
        return features
    known = of_tables if is_tuple else of_tables[0]
    if features is not None and _lists(features) != _lists(known):
        raise ValueError("features names other columns, or in another order, than the Table of the "
                         "perturbation: leave it out.")
    return known


def given_tensors(
    attribution: Any,
    inputs: Any,
    keywords: dict[str, Any],
    features: Any = None,
    perturbation: Any = None,
) -> tuple[Any, tuple[Names | None, ...], dict[str, Any]]:
    """Inputs and keywords with tensors in place of arrays and tables, and the columns' names.

    Args:
        attribution: a Captum object, or a function.
        inputs: as the caller gave them.
        keywords: of its `attribute`, or its own.
        features: names of the inputs' columns.
        perturbation: which may have them.
    """
    like = parameter_of(getattr(attribution, "forward_func", attribution))
    inputs, columns = as_inputs(
        inputs, given_names(features, perturbation, isinstance(inputs, tuple)), like
    )
    changed = dict(keywords)
    if "target" in changed:
        changed["target"] = as_tensors(changed["target"])
    if "baselines" in changed:
        changed["baselines"] = as_baselines(changed["baselines"], columns, like)
    return inputs, columns, changed


def check_columns(columns: tuple[Names | None, ...], xs: tuple[Tensor, ...]) -> None:
    """Refuse names that are not one for each feature of their input."""
    for i, (names, x) in enumerate(zip(columns, xs, strict=True)):
        count = math.prod(x.shape[1:])
        if names is not None and len(names) != count:
            which = f"input {i}" if len(xs) > 1 else "the input"
            raise ValueError(
                f"features must name each of the {count} features of {which}; given: "
                f"{len(names)} names."
            )


def entry_names(
    attribution: Any,
    columns: tuple[Names | None, ...],
    xs: tuple[Tensor, ...],
    parts: tuple[Tensor, ...],
) -> Names | None:
    """Names of the entries of an attribution that has one for each feature of the inputs; or
    None.
    """
    inner = getattr(attribution, "attribution_method", attribution)
    is_alike = [p.shape for p in parts] == [x.shape for x in xs]
    if (isinstance(inner, LayerAttribution) or not is_alike
            or all(names is None for names in columns)):
        return None
    if len(xs) == 1:
        return columns[0]
    given = [name for names in columns for name in names or ()]
    is_unique, own = len(set(given)) == len(given), iter(places(parts))
    found: list[str] = []
    for i, (names, x) in enumerate(zip(columns, xs, strict=True)):
        here = [next(own) for _ in range(math.prod(x.shape[1:]))]
        if names is not None:
            here = [name if is_unique else f"{i}: {name}" for name in names]
        found += here
    return tuple(found)


def _lists(names: Any) -> list[Any]:
    return [list(part) if isinstance(part, list | tuple) else part for part in names]
