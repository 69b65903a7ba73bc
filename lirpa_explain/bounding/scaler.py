"""What a scaler does to the columns of a table: z = (x - mean) / scale."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arrays import check_among


class Scaling(NamedTuple):
    """Mean and scale of each column, float64, (D,)."""

    mean: Tensor
    scale: Tensor

    def like(self, rows: Tensor) -> "Scaling":
        """The same in the type and on the device of rows."""
        return Scaling(self.mean.to(rows), self.scale.to(rows))


def scaling_of(scaler: Any, features: tuple[str, ...]) -> Scaling:
    """Mean and scale of all columns.

    Args:
        scaler: an object with `mean_` and `scale_`, such as sklearn's StandardScaler that was
            fitted; a pair (mean, scale) of numbers, sequences or dictionaries by name; or None.
            With names of its own (`feature_names_in_`, or a dictionary's) it scales these alone.
        features: the names of all columns.

    Raises:
        TypeError: it is none of these.
        ValueError: it has other columns, or a number that is no mean or no scale.

    Example:
        >>> scaling_of(({"a": 3}, 2), ("a", "b")).mean
        tensor([3., 0.], dtype=torch.float64)
    """
    own = getattr(scaler, "feature_names_in_", None)
    if hasattr(scaler, "mean_") and hasattr(scaler, "scale_"):
        pair = scaler.mean_ if getattr(scaler, "with_mean", True) else None, scaler.scale_
    elif scaler is None or isinstance(scaler, tuple) and len(scaler) == 2:
        pair = scaler or (0.0, 1.0)
    else:
        raise TypeError(
            "scaler must have mean_ and scale_, as sklearn's StandardScaler has once it is "
            "fitted, or be a pair (mean, scale), with which rows are (data - mean) / scale; "
            f"given: {type(scaler).__name__}."
        )
    names = features if own is None else tuple(map(str, own))
    check_among(names, features, "column")
    mean, scale = (
        _by_column(side, names, features, rest) for side, rest in zip(pair, (0.0, 1.0), strict=True)
    )
    if not bool(mean.isfinite().all()) or not bool((scale.isfinite() & (scale > 0)).all()):
        raise ValueError("The scaler's means must be finite, and its scales finite and above 0.")
    return Scaling(mean, scale)


def _by_column(
    given: Any, names: tuple[str, ...], features: tuple[str, ...], rest: float
) -> Tensor:
    """One side of a scaler for each of the features, `rest` for those that it does not have."""
    given = rest if given is None else given  # as of a StandardScaler without scales
    if isinstance(given, Mapping):
        check_among(given, features, "column")
        names, given = tuple(given), list(given.values())
    values = torch.as_tensor(given, dtype=torch.float64, device="cpu").flatten()
    if len(values) not in (1, len(names)):
        raise ValueError(
            f"The scaler has {len(values)} columns, the table {len(names)}: {', '.join(names)}. "
            "One of some columns needs their names: fit it to a DataFrame, or give "
            "dictionaries by name."
        )
    column = torch.full((len(features),), rest, dtype=torch.float64)
    column[[features.index(name) for name in names]] = values
    return column
