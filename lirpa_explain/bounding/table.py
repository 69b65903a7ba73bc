"""Rows of a table: radii by column in the data's own units, one-hot categories, whole numbers."""

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from auto_LiRPA import PerturbationLpNorm
from torch import Tensor

from ..arrays import as_inputs, check_among, check_once, is_frame, is_names
from ..boxes import Box
from ..rounding import unit
from .scaler import scaling_of
from .words import FEW

ROUNDED = 8
"""Roundings of the scaler's own arithmetic, by which a box of scaled rows is moved outward."""

WHOLE = 1e-6
"""How far an entry may be from a whole number, beside what scaling and unscaling rounds."""

Ends = tuple[float | None, float | None]


class TableBox(PerturbationLpNorm):
    """The box that a `Table` describes around rows, as auto_LiRPA's perturbation.

    Args:
        table: the table.
        rows: (N, D), as the model takes them.
        eps: the radius of each column that moves by one, in the data's units.
        u: the unit roundoff of the model's type.
        factors: (N,), multiples of the radii; default: 1.
    """

    def __init__(
        self,
        table: "Table",
        rows: Tensor,
        eps: Mapping[str, float],
        u: float,
        factors: Tensor | None = None,
    ) -> None:
        box = table.box(
            rows, eps, u, rows.new_ones(len(rows)) if factors is None else factors.to(rows)
        )
        super().__init__(norm=math.inf, x_L=box.lower, x_U=box.upper)
        self.table, self.rows, self.radii, self.u = table, rows, eps, u
        self.features, self.words = table.features, table.words(eps, factors)

    def resized(self, factors: Tensor) -> "TableBox":
        """The same with all radii times factors, (N,), and no category farther than another one."""
        return TableBox(self.table, self.rows, self.radii, self.u, factors)


class Table:
    """What the columns of a table are, so that radii are given by name and in the data's own units.

    The model's inputs are rows z = (x - mean) / scale of the data x. `around` makes boxes of these,
    moved outward by what the scaler rounds; whatever takes an auto_LiRPA `perturbation` takes them.

    Args:
        features: the names of the columns, in the model's order.
        scaler: what the rows were scaled by: an object with `mean_` and `scale_`, such as sklearn's
            StandardScaler; or a pair (mean, scale) of numbers, sequences or dictionaries by name.
            With names of its own it scales these columns alone. Default: the rows are the data.
        fixed: columns and groups that are held fixed.
        groups: one-hot columns by the name of what they encode. A row's category may become any
            other, unless the group is held fixed: the box holds every one-hot row of the group.
        integer: columns of whole numbers, whose radii are rounded down.
        ranges: by column, (smallest, largest) value of the data in its own units; None for no end.

    Raises:
        TypeError: features are no names, or the scaler is none.
        ValueError: a name that is no column, or comes twice, or a bad number.

    Example:
        >>> scaler = [40, 3000, 0], [10, 1000, 1]
        >>> table = Table(["age", "income", "sex"], scaler=scaler, fixed=["sex"], integer=["age"])
        >>> z = torch.tensor([[0.5, -1.0, 1.0]], dtype=torch.float64)  # of age 45 and income 2000
        >>> box = table.around(z, {"age": 2.5, "income": 100})
        >>> [round(side, 6) for side in (box.x_U - z).flatten().tolist()]
        [0.2, 0.1, 0.0]
        >>> box.words
        'linf box, age up to 2, income up to 100, in their own units; the rest held fixed'
    """

    def __init__(
        self,
        features: Sequence[str],
        *,
        scaler: Any = None,
        fixed: Iterable[str] = (),
        groups: Mapping[str, Sequence[str]] | None = None,
        integer: Iterable[str] = (),
        ranges: Mapping[str, Ends] | None = None,
    ) -> None:
        names = list(features)
        if isinstance(features, str) or not is_names(names):
            raise TypeError(f"features must be a list of names; given: {features!r:.80}.")
        check_once(names, "features")
        self.features = tuple(map(str, names))
        self.groups = {name: tuple(columns) for name, columns in (groups or {}).items()}
        self.group_of = {
            column: name for name, columns in self.groups.items() for column in columns
        }
        check_once([column for columns in self.groups.values() for column in columns], "groups")
        self.fixed, self.integer = _listed(fixed, "fixed"), _listed(integer, "integer")
        self.ranges = dict(ranges or {})
        for given in (self.group_of, self.integer, self.ranges):
            check_among(given, self.features, "column")
        check_among(self.fixed, (*self.features, *self.groups), "column or group")
        self.moving_groups = [name for name in self.groups if name not in self.fixed]
        self.scaling = scaling_of(scaler, self.features)

    def around(self, inputs: Any, eps: float | Mapping[str, float] = 0.0) -> TableBox:
        """The box around rows.

        Args:
            inputs: rows as the model takes them, so scaled: a tensor, an array or a DataFrame (N,
                D).
            eps: radius of each column in the data's own units, by name; others are held fixed. A
                number is that of all columns but those held fixed and those of groups. Groups move
                by themselves.

        Raises:
            TypeError: radii are neither a number nor a dictionary.
            ValueError: a bad name or radius, or a row that is not as the table says.
        """
        rows, _ = as_inputs(inputs, self.features)
        if not isinstance(rows, Tensor) or rows.ndim != 2 or rows.shape[1] != len(self.features):
            given = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(f"The table has rows of {len(self.features)} columns; given: {given}.")
        if rows.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"Rows must be float32 or float64; given: {rows.dtype}.")
        # a DataFrame gets the model's type later
        dtype = torch.float32 if is_frame(inputs) else rows.dtype
        return TableBox(self, rows.detach(), self._radii(eps), unit(dtype))

    def box(self, rows: Tensor, eps: Mapping[str, float], u: float, factors: Tensor) -> Box:
        """The box around rows (N, D), of unit roundoff u, with radii times factors, (N,)."""
        mean, scale = self.scaling.like(rows)
        data = rows * scale + mean
        slack = ROUNDED * u * (data.abs() + mean.abs())
        low, high = data.clone(), data.clone()
        for name, radius in eps.items():
            i = self.features.index(name)
            reach = factors * radius
            if name in self.integer:
                _check_whole(name, data[:, i], slack[:, i])
                reach = (reach * (1 + WHOLE)).floor()
            low[:, i], high[:, i] = self._within(name, data[:, i], reach, slack[:, i])
        for name in self.moving_groups:
            columns = [self.features.index(column) for column in self.groups[name]]
            _check_one_hot(name, data[:, columns], slack[:, columns])
            share = factors.clamp(max=1)[:, None]
            low[:, columns] = data[:, columns] * (1 - share)
            high[:, columns] = data[:, columns] + (1 - data[:, columns]) * share
        moves = high > low
        slack = ROUNDED * u * (torch.maximum(low.abs(), high.abs()) + mean.abs())
        lower, upper = (low - slack - mean) / scale, (high + slack - mean) / scale
        return Box(
            torch.where(moves, torch.minimum(lower, rows), rows),
            torch.where(moves, torch.maximum(upper, rows), rows),
        )

    def words(self, eps: Mapping[str, float], factors: Tensor | None = None) -> str:
        """What moves, and how far, for people."""
        whole = self.integer if factors is None else ()
        radii = {
            name: math.floor(r * (1 + WHOLE)) if name in whole else r
            for name, r in eps.items()
            if r > 0
        }
        moved = [f"{name} up to {r:.6g}" for name, r in radii.items()]
        if len(moved) > FEW:
            ends = f"{min(radii.values()):.6g} to {max(radii.values()):.6g}"
            moved = [f"{len(radii)} columns up to {ends}"]
        moved += ["in their own units"] * bool(moved)
        moved += [f"{name} any of {len(self.groups[name])}" for name in self.moving_groups]
        count = len(radii) + sum(len(self.groups[name]) for name in self.moving_groups)
        if not moved:
            return "linf box of one point"
        rest = "; the rest held fixed" * (count < len(self.features))
        return f"linf box, {_times(factors)}{', '.join(moved)}{rest}"

    def _radii(self, eps: Any) -> dict[str, float]:
        """The radius of each column that may move by one."""
        if isinstance(eps, numbers.Real) and not isinstance(eps, bool):
            eps = {
                name: eps
                for name in self.features
                if name not in self.fixed and name not in self.group_of
            }
        if not isinstance(eps, Mapping):
            raise TypeError(
                "eps must be a dictionary from columns to radii in the data's own units, or one "
                f"number; given: {type(eps).__name__}."
            )
        check_among(eps, self.features, "column")
        for name, radius in eps.items():
            is_number = isinstance(radius, numbers.Real) and not isinstance(radius, bool)
            if not is_number or not 0 <= float(radius) < math.inf:
                raise ValueError(
                    f"The radius of {name!r} must be a finite number of at least 0; given: "
                    f"{radius!r}."
                )
            if name in self.fixed:
                raise ValueError(
                    f"{name!r} is held fixed, and was given a radius: leave one of them out."
                )
            if name in self.group_of:
                raise ValueError(
                    f"{name!r} belongs to the one-hot group {self.group_of[name]!r}, which is held "
                    "fixed or moves as a whole, and has no radius."
                )
        return {str(name): float(radius) for name, radius in eps.items()}

    def _within(
        self, name: str, data: Tensor, reach: Tensor, slack: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How low and how high a column's entries (N,) may become."""
        least, most = self.ranges.get(name, (None, None))
        floor, ceiling = -math.inf if least is None else least, math.inf if most is None else most
        if bool((data < floor - slack).any()) or bool((data > ceiling + slack).any()):
            raise ValueError(
                f"{name!r} has entries from {float(data.min()):.6g} to {float(data.max()):.6g}, "
                f"beyond its range [{least}, {most}]. Give the range that the data has, and rows "
                "that are scaled as the model takes them.")
        return (
            torch.minimum((data - reach).clamp(min=floor), data),
            torch.maximum((data + reach).clamp(max=ceiling), data),
        )


def _listed(names: Any, what: str) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"{what} must be a list of names; given: {names!r}.")
    return tuple(names)


def _times(factors: Tensor | None) -> str:
    """The multiple of the radii."""
    if factors is None or factors.numel() == 0:
        return ""
    ends = dict.fromkeys(f"{float(end):.6g}" for end in (factors.min(), factors.max()))
    return f"{' to '.join(ends)} times "


def _check_whole(name: str, data: Tensor, slack: Tensor) -> None:
    off = (data - data.round()).abs() - slack - WHOLE
    if bool((off > 0).any()):
        worst = int(off.argmax())
        raise ValueError(
            f"{name!r} is a column of integers, but row {worst} has {float(data[worst]):.6g} in "
            "the data's own units. Is the scaler that of these rows?"
        )


def _check_one_hot(name: str, data: Tensor, slack: Tensor) -> None:
    nearest = torch.nn.functional.one_hot(data.argmax(1), data.shape[1]).to(data)
    off = ((data - nearest).abs() - slack - WHOLE).amax(1)
    if bool((off > 0).any()):
        worst = int(off.argmax())
        raise ValueError(
            f"The columns of the group {name!r} must be one-hot, but row {worst} has "
            f"{[round(v, 6) for v in data[worst].tolist()]} in the data's own units. Is the scaler "
            "that of these rows?"
        )
