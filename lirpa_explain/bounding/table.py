"""Rows of a table: radii by column in the data's own units, categories that are one-hot, whole numbers, a scaler."""

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from auto_LiRPA import PerturbationLpNorm
from torch import Tensor

from ..arrays import as_inputs, check_once, is_frame, is_names, nearest
from ..boxes import Box
from ..rounding import unit
from .words import FEW

ROUNDED = 8
"""Roundings of the scaler's own arithmetic, by which a box of scaled rows is moved outward."""

WHOLE = 1e-6
"""How far from a whole number, or from 0 and 1, an entry may be beside what scaling and unscaling rounds."""


class TableBox(PerturbationLpNorm):
    """The box that a `Table` describes around rows, as auto_LiRPA's perturbation, with words and names.

    Args:
        table: the table.
        rows: (N, D), as the model takes them.
        eps: the radius of each column that moves, in the data's units.
        factors: (N,), multiples of the radii; default: 1.
    """

    def __init__(self, table: "Table", rows: Tensor, eps: Mapping[str, float], factors: Tensor | None = None) -> None:
        box = table.box(rows, eps, rows.new_ones(len(rows)) if factors is None else factors.to(rows))
        super().__init__(norm=math.inf, x_L=box.lower, x_U=box.upper)
        self.table, self.rows, self.radii = table, rows, eps
        self.features, self.words = table.features, table.words(eps, factors)

    def resized(self, factors: Tensor) -> "TableBox":
        """The same with all radii times factors, (N,)."""
        return TableBox(self.table, self.rows, self.radii, factors)


class Table:
    """What the columns of a table are, so that radii are given by name and in the data's own units.

    The model's inputs are rows z = (x - mean) / scale of the data x. `around` makes boxes of these, moved outward by
    what the scaler rounds, that `certify`, `attack` and `certify_prediction` take as `perturbation`.

    Args:
        features: the names of the columns, in the model's order.
        scaler: what was fitted to the data: an object with `mean_` and `scale_`, such as sklearn's StandardScaler; or
            a pair (mean, scale) of numbers, sequences or dictionaries by name. With names of its own
            (`feature_names_in_`, or a dictionary's) it scales these columns alone. Default: the data is not scaled.
        fixed: columns and groups that are held fixed.
        groups: one-hot columns by the name of what they encode. Unless held fixed, a row's category may be any other:
            the box contains all one-hot rows of the group.
        integer: columns of whole numbers, whose radii are rounded down.
        ranges: by column, the (smallest, largest) value that the data can have, in its own units; None for no end.

    Raises:
        TypeError: features are no names, or the scaler is none.
        ValueError: a name that is no column, one that comes twice or contradicts another, or a bad number.

    Example:
        >>> table = Table(["age", "income", "sex"], scaler=([40, 3000, 0], [10, 1000, 1]), fixed=["sex"], integer=["age"])
        >>> z = torch.tensor([[0.5, -1.0, 1.0]], dtype=torch.float64)  # of age 45 and income 2000
        >>> box = table.around(z, {"age": 2.5, "income": 100})
        >>> [round(side, 6) for side in (box.x_U - z).flatten().tolist()]
        [0.2, 0.1, 0.0]
        >>> box.words
        'linf box, age up to 2, income up to 100 in their own units; the rest held fixed'
    """

    def __init__(self, features: Sequence[str], *, scaler: Any = None, fixed: Iterable[str] = (),
                 groups: Mapping[str, Sequence[str]] | None = None, integer: Iterable[str] = (),
                 ranges: Mapping[str, tuple[float | None, float | None]] | None = None) -> None:
        names = list(features)
        if not is_names(names):
            raise TypeError(f"features must be a list of names; given: {features!r:.80}.")
        check_once(names, "features")
        self.features = tuple(map(str, names))
        self.groups = {name: tuple(columns) for name, columns in (groups or {}).items()}
        self._check(name for columns in self.groups.values() for name in columns)
        check_once([*self.groups, *(name for columns in self.groups.values() for name in columns)], "groups")
        self.fixed, self.integer = self._named(fixed, "fixed"), self._named(integer, "integer")
        self._check((name for name in self.fixed if name not in self.groups), "column or group")
        self._check(self.integer)
        self.ranges = dict(ranges or {})
        self._check(self.ranges)
        self.mean, self.scale = self._scaler(scaler)

    def around(self, inputs: Any, eps: float | Mapping[str, float] = 0.0) -> TableBox:
        """The box around rows.

        Args:
            inputs: rows as the model takes them, so scaled: (N, D), a tensor, an array or a DataFrame.
            eps: radius of each column in the data's own units, by name; others are held fixed. A number is that of
                all columns but those held fixed and those of groups. Groups move by themselves.

        Raises:
            TypeError: radii are neither a number nor a dictionary.
            ValueError: a bad name or radius, or a row that is not as the table says.
        """
        rows, _ = as_inputs(inputs, self.features)
        if not isinstance(rows, Tensor) or rows.ndim != 2 or rows.shape[1] != len(self.features):
            given = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(f"The table has rows of {len(self.features)} columns, (N, {len(self.features)}); given: "
                             f"{given}.")
        rows = rows.detach().to(torch.float32) if is_frame(inputs) else rows.detach()
        return TableBox(self, rows, self._radii(eps))

    def box(self, rows: Tensor, eps: Mapping[str, float], factors: Tensor) -> Box:
        """The box around rows (N, D) with radii times factors (N,), in the model's units."""
        mean, scale = (side.to(rows) for side in (self.mean, self.scale))
        data = rows * scale + mean
        slack = ROUNDED * unit(rows.dtype) * (data.abs() + mean.abs())
        low, high = data.clone(), data.clone()
        for name, radius in eps.items():
            i = self.features.index(name)
            reach = factors * radius
            if name in self.integer:
                self._check_whole(name, data[:, i], slack[:, i])
                reach = (reach + WHOLE * (reach > 0)).floor()
            least, most = self._range(name, data[:, i], slack[:, i])
            low[:, i] = torch.maximum(data[:, i] - reach, least)
            high[:, i] = torch.minimum(data[:, i] + reach, most)
        for name in self._moving_groups:
            columns = [self.features.index(column) for column in self.groups[name]]
            self._check_one_hot(name, data[:, columns], slack[:, columns])
            share = factors.clamp(max=1)[:, None]
            low[:, columns] = data[:, columns] * (1 - share)
            high[:, columns] = data[:, columns] + (1 - data[:, columns]) * share
        moves = high > low
        slack = ROUNDED * unit(rows.dtype) * (torch.maximum(low.abs(), high.abs()) + mean.abs())
        lower, upper = ((side - mean) / scale for side in (low - slack, high + slack))
        return Box(torch.where(moves, torch.minimum(lower, rows), rows),
                   torch.where(moves, torch.maximum(upper, rows), rows))

    def words(self, eps: Mapping[str, float], factors: Tensor | None = None) -> str:
        """What moves, for people."""
        radii = {name: math.floor(r + WHOLE) if name in self.integer and factors is None else r
                 for name, r in eps.items() if r > 0}
        if len(radii) > FEW:
            moved = [f"{len(radii)} columns up to {min(radii.values()):.6g} to {max(radii.values()):.6g} in their own units"]
        else:
            moved = [", ".join(f"{name} up to {r:.6g}" for name, r in radii.items()) + " in their own units"] if radii else []
        moved += [f"{name} any of {len(self.groups[name])}" for name in self._moving_groups]
        columns = len(radii) + sum(len(self.groups[name]) for name in self._moving_groups)
        rest = "" if columns == len(self.features) else "the rest held fixed" if moved else "all columns held fixed"
        times = ""
        if factors is not None and factors.numel():
            ends = sorted({f"{float(factors.min()):.6g}", f"{float(factors.max()):.6g}"}, key=float)
            times = f"{' to '.join(ends)} times "
        return "linf box, " + "; ".join([*([times + ", ".join(moved)] if moved else []), *([rest] if rest else [])])

    @property
    def _moving_groups(self) -> list[str]:
        return [name for name in self.groups if name not in self.fixed]

    def _radii(self, eps: Any) -> dict[str, float]:
        """The radius of each column that may move by one."""
        grouped = {column: name for name, columns in self.groups.items() for column in columns}
        if isinstance(eps, numbers.Real) and not isinstance(eps, bool):
            eps = {name: eps for name in self.features if name not in self.fixed and name not in grouped}
        if not isinstance(eps, Mapping):
            raise TypeError("eps must be a dictionary from columns to radii in the data's own units, or one number; "
                            f"given: {type(eps).__name__}.")
        self._check(eps)
        for name, radius in eps.items():
            if isinstance(radius, bool) or not isinstance(radius, numbers.Real) or not 0 <= float(radius) < math.inf:
                raise ValueError(f"The radius of {name!r} must be a finite number of at least 0; given: {radius!r}.")
            if name in self.fixed or grouped.get(name) in self.fixed:
                raise ValueError(f"{name!r} is held fixed and was given the radius {radius:g}: leave one of them out.")
            if name in grouped:
                raise ValueError(f"{name!r} belongs to the one-hot group {grouped[name]!r}, which moves as a whole and "
                                 "has no radius.")
        return {str(name): float(radius) for name, radius in eps.items()}

    def _range(self, name: str, data: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """The ends between which a column's entries (N,) stay."""
        least, most = self.ranges.get(name, (None, None))
        low = torch.full_like(data, -math.inf if least is None else least)
        high = torch.full_like(data, math.inf if most is None else most)
        if bool((data < low - slack - WHOLE).any()) or bool((data > high + slack + WHOLE).any()):
            raise ValueError(f"{name!r} has entries from {float(data.min()):.6g} to {float(data.max()):.6g}, beyond its "
                             f"range [{least}, {most}]. Give the range that the data has, and rows that are scaled as "
                             "the model takes them.")
        return torch.minimum(low, data), torch.maximum(high, data)

    def _check_whole(self, name: str, data: Tensor, slack: Tensor) -> None:
        off = (data - data.round()).abs() - slack - WHOLE
        if bool((off > 0).any()):
            worst = int(off.argmax())
            raise ValueError(f"{name!r} is a column of integers, but row {worst} has {float(data[worst]):.6g} in the "
                             "data's own units. Is the scaler that of these rows?")

    def _check_one_hot(self, name: str, data: Tensor, slack: Tensor) -> None:
        nearest_row = torch.nn.functional.one_hot(data.argmax(1), data.shape[1]).to(data)
        off = ((data - nearest_row).abs() - slack - WHOLE).amax(1)
        if bool((off > 0).any()):
            worst = int(off.argmax())
            raise ValueError(f"The columns of the group {name!r} must be one-hot, but row {worst} has "
                             f"{[round(v, 6) for v in data[worst].tolist()]} in the data's own units. Is the scaler "
                             "that of these rows?")

    def _check(self, names: Iterable[str], what: str = "column") -> None:
        for name in names:
            if name not in self.features:
                raise ValueError(f"There is no {what} {name!r}; {nearest(str(name), self.features)}")

    def _named(self, names: Any, what: str) -> tuple[str, ...]:
        if isinstance(names, str):
            raise TypeError(f"{what} must be a list of names; given: {names!r}.")
        return tuple(names)

    def _scaler(self, scaler: Any) -> tuple[Tensor, Tensor]:
        """Mean and scale of all columns, (D,)."""
        own = getattr(scaler, "feature_names_in_", None)
        if hasattr(scaler, "mean_") and hasattr(scaler, "scale_"):
            pair = scaler.mean_, scaler.scale_
        elif scaler is None or isinstance(scaler, tuple) and len(scaler) == 2:
            pair = scaler or (0.0, 1.0)
        else:
            raise TypeError("scaler must have mean_ and scale_, as sklearn's StandardScaler that was fitted, or be a pair "
                            f"(mean, scale); given: {type(scaler).__name__}.")
        names = self.features if own is None else tuple(map(str, own))
        self._check(names)
        mean, scale = (self._by_column(side, names, rest) for side, rest in zip(pair, (0.0, 1.0), strict=True))
        if not bool(mean.isfinite().all()) or not bool((scale.isfinite() & (scale > 0)).all()):
            raise ValueError("The scaler's means must be finite, and its scales finite and above 0.")
        return mean, scale

    def _by_column(self, given: Any, names: tuple[str, ...], rest: float) -> Tensor:
        if given is None:  # as of a StandardScaler without means
            given = rest
        if isinstance(given, Mapping):
            self._check(given)
            names, given = tuple(given), list(given.values())
        values = torch.as_tensor(given, dtype=torch.float64, device="cpu").flatten()
        if len(values) not in (1, len(names)):
            raise ValueError(f"The scaler has {len(values)} columns, the table {len(names)}: {', '.join(names)}. A scaler "
                             "of some columns needs their names: fit it to a DataFrame, or give dictionaries by name.")
        column = torch.full((len(self.features),), rest, dtype=torch.float64)
        column[[self.features.index(name) for name in names]] = values
        return column
