"""The table of activations: functions of one variable, each with all that other rooms ask of it.

From a row's declaration follow the operators `name` and `name_gradient` and their bounds. Other
rooms make their tables of it: the rules that lower torch's operations, DeepLift's modules and
secant slopes, the functions that hooks on modules do not see. They follow it: what is registered
later is known everywhere.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from ..registration import Table, empty, unless
from ..relaxations import univariate
from ..relaxations.declaration import Differentiable, Function
from ..relaxations.secant import Secant
from .activation import BoundActivation, BoundActivationGradient, Curve
from .registry import OPERATORS, Operator, refuse_taken, register

Build = Callable[..., Differentiable]


@dataclass(frozen=True)
class Aten:
    """How torch calls an activation, where its arguments are the operator's settings.

    Args:
        forward: names of operations `(z, *settings)`: "tanh" is aten.tanh, "library::name" that of
            a library.
        backward: names of operations `(g, z, *settings)`.
        settings: names of the operator's settings, in the operation's order, with its defaults.
        saves_result: the backward operations get the result instead of z.
    """

    forward: tuple[str, ...]
    backward: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    saves_result: bool = False


@dataclass(frozen=True)
class Layer:
    """A type of module that Captum's DeepLift rescales, exactly this and no subclass.

    Args:
        kind: the type.
        settings: from a module to the settings of the activation.
        forward: what it computes, out of place, `forward(z, **settings)`.
        functions: those that compute the same, unseen by hooks on modules.
        steepest: at least the largest slope, given the settings, where that can exceed 1.
    """

    kind: type[nn.Module]
    settings: Callable[[Any], dict[str, float]]
    forward: Callable[..., Tensor]
    functions: tuple[Callable[..., Any], ...] = ()
    steepest: Callable[..., float] = field(default=lambda **settings: 1.0)


@dataclass(frozen=True)
class Activation:
    """One row of the table.

    Args:
        name: name of the operator; that of the gradient has `_gradient` appended.
        build: `build(**settings)` declares the function (see `relaxations.declaration.declare`);
            settings are numbers, strings, booleans or None. Its kinks and jumps are those that
            attacks smooth.
        covers: the layers and functions it stands for, for people.
        auto_lirpa: what auto_LiRPA's own bounds of it lack, if anything is known.
        gradient_auto_lirpa: what they lack of its gradient; None if that is the same.
        aten: how torch calls it.
        composed: torch's functions `(z)` that compute it by several operations; it is recorded in
            their place.
        primitive: `primitive(**settings) -> (activation, its settings, factor)`: the activation of
            which this is, but for a factor, the derivative; autograd multiplies by it. None of
            settings for which there is none.
        secant: `secant(**settings)`: the function as DeepLift's rule bounds it.
        layers: the types of modules that DeepLift rescales.
        operators: function and gradient where they have relaxations of their own, in place of
            `build`'s.
        without: why there is no `aten` or `composed`, no `secant` with `layers`, or no `build`:
            reasons by column.
    """

    name: str
    build: Build | None
    covers: str
    auto_lirpa: str = ""
    gradient_auto_lirpa: str | None = None
    aten: tuple[Aten, ...] = ()
    composed: tuple[Callable[..., Tensor], ...] = ()
    primitive: Callable[..., tuple[str, dict[str, Any], float] | None] | None = None
    secant: Callable[..., Secant] | None = None
    layers: tuple[Layer, ...] = ()
    operators: tuple[Operator, Operator] | None = None
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def has(self) -> dict[str, bool]:
        """Whether the row has something in each column that `without` may speak of."""
        return {"build": self.build is not None, "aten": bool(self.aten or self.composed),
                "secant": self.secant is not None and bool(self.layers)}


def _complaints(name: str, row: Activation) -> list[str]:
    """Columns that a row has without a word on why not, or has although it says why not."""
    return empty(row, "covers") + unless(
        *[(there or column in row.without, f"has no {column!r} and does not say why")
          for column, there in row.has.items()],
        *[(not row.has.get(column, True), f"says why it has no {column!r}, which it has or nothing "
           "has") for column in row.without],
        *[(operator in OPERATORS, f"has no operator {operator!r}")
          for operator in (name, f"{name}_gradient")])


ACTIVATIONS: Table[str, Activation] = Table(
    "activation", "lirpa_explain.operators.register_activation(name, build, covers)", _complaints)

LAYERS: Table[type[nn.Module], tuple[Activation, Layer]] = Table(
    "rescaled module", "a layer of lirpa_explain.operators.register_activation(..., layers=...)",
    lambda kind, row: [], spell=lambda kind: getattr(kind, "__name__", str(kind)),
    source=ACTIVATIONS, make=lambda row: {layer.kind: (row, layer) for layer in row.layers})
"""The modules that DeepLift rescales, with the activation of each."""


def curve(build: Callable[..., Function]) -> Curve:
    """How the function that `build(**settings)` returns is bounded."""
    return Curve(
        range=lambda lo, hi, **settings: univariate.range_of(build(**settings), lo, hi),
        lines=lambda lo, hi, **settings: univariate.lines(build(**settings), lo, hi),
        open=lambda lo, hi, **settings: ~univariate.is_straight(build(**settings), lo, hi),
        family=lambda lo, hi, **settings: univariate.line_family(build(**settings), lo, hi),
    )


OF_USERS = {"aten": "a model calls it by lirpa_explain.operators.activation",
            "secant": "Captum's DeepLift has no rule for it, and keeps its gradient"}
"""What a user's activation need not have, and why."""


def register_activation(name: str, build: Build, covers: str, auto_lirpa: str = "", *,
                        overwrite: bool = False, **columns: Any) -> None:
    """Add a function of one variable, with its gradient, to the tables.

    A model may then call `activation(z, name, **settings)`; it is differentiable, and bounded as
    one function.

    Args:
        name: name of the operator; that of the gradient has `_gradient` appended.
        build: `build(**settings)` declares the function (see `relaxations.declaration.declare`);
            settings are numbers, strings, booleans or None.
        covers: the layers and functions it stands for, for people.
        auto_lirpa: what auto_LiRPA's own bounds of it lack, if anything is known.
        overwrite: replace what has that name.
        **columns: further fields of `Activation`, such as `aten`, the operations that torch calls
            it by.

    Raises:
        ValueError: the name, or that of an operation, is taken and `overwrite` is False.
    """
    row = Activation(name, build, covers, auto_lirpa, **columns)
    reasons = {column: reason for column, reason in OF_USERS.items() if not row.has[column]}
    add_activation(replace(row, without=reasons | dict(row.without)), overwrite=overwrite)


def add_activation(row: Activation, *, overwrite: bool = False) -> None:
    """Add a row, and the operators that follow from it."""
    operators = row.operators or _operators(row)
    if not overwrite:
        refuse_taken(*(operator.name for operator in operators))
    ACTIVATIONS.add(row.name, row, overwrite=overwrite)
    for operator in operators:
        register(operator, overwrite=overwrite)


def _operators(row: Activation) -> tuple[Operator, Operator]:
    """The function and its gradient, as operators."""
    if row.build is None:
        raise ValueError(f"The activation {row.name!r} has neither a declaration nor operators; "
                         "pass build.")
    built = lru_cache(maxsize=256)(row.build)

    def value(z: Tensor, **settings: Any) -> Tensor:
        return built(**settings).function.value(z)

    def gradient(g: Tensor, z: Tensor, **settings: Any) -> Tensor:
        return g * built(**settings).derivative.value(z)

    def breaks(**settings: Any) -> tuple[float, ...]:
        function = built(**settings).function
        return tuple(place for place in function.breaks if place not in function.poles)

    given = [parameter.replace(kind=parameter.KEYWORD_ONLY)
             for parameter in inspect.signature(row.build).parameters.values()]
    for function, tensors in ((value, "z"), (gradient, "gz")):
        parameters = [inspect.Parameter(t, inspect.Parameter.POSITIONAL_ONLY) for t in tensors]
        setattr(function, "__signature__", inspect.Signature([*parameters, *given]))  # noqa: B010
    lacks = row.auto_lirpa if row.gradient_auto_lirpa is None else row.gradient_auto_lirpa
    return (Operator(row.name, value, BoundActivation, row.covers,
                     curve(lambda **s: built(**s).function), row.auto_lirpa, breaks),
            Operator(f"{row.name}_gradient", gradient, BoundActivationGradient, row.covers,
                     curve(lambda **s: built(**s).derivative), lacks, breaks))


def secant_of(name: str, **settings: Any) -> Secant:
    """The activation of that name as DeepLift's rule bounds it.

    Raises:
        ValueError: there is no such activation, or it has none.
    """
    row = ACTIVATIONS[name]
    if row.secant is None:
        those = ", ".join(key for key, other in ACTIVATIONS.items() if other.secant is not None)
        raise ValueError(f"The activation {name!r} declares no secant slope; those that do are "
                         f"{those}. Declare it by register_activation(..., secant=...).")
    return row.secant(**settings)
