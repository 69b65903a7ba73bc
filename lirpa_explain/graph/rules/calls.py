"""How torch's calls of an activation are lowered, from what its row says of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...errors import UnsupportedOperation
from ...operators.activations import Activation, Aten
from ..builder import Builder, Rows


@dataclass(frozen=True)
class Calls:
    """The rules of an activation.

    Args:
        operator: name of the operator; the gradient's is that and `_gradient`.
        aten: how torch calls it.
    """

    operator: str
    aten: Aten

    def _given(self, values: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
        names = [name for name, _ in self.aten.settings]
        given = dict(self.aten.settings) | dict(zip(names, values, strict=False))
        return {name: number(value) for name, value in (given | keywords).items() if name in names}

    def apply(self, b: Builder, z: Rows, *values: Any, **keywords: Any) -> Rows:
        """Lower a forward operation."""
        return b.emit(self.operator, z, **self._given(values, keywords))

    def differentiate(self, b: Builder, g: Rows, z: Rows, *values: Any, **keywords: Any) -> Rows:
        """Lower a backward operation."""
        z = input_of(b, z, self.operator) if self.aten.saves_result else z
        return b.emit(f"{self.operator}_gradient", g, z, **self._given(values, keywords))


def rules_of(row: Activation) -> dict[Any, Callable[..., Any]]:
    """The rules of the operations by which torch calls an activation and its gradient."""
    rules: dict[Any, Callable[..., Any]] = {}
    for aten in row.aten:
        calls = Calls(row.name, aten)
        rules |= {operation(name): calls.apply for name in aten.forward}
        rules |= {operation(name): calls.differentiate for name in aten.backward}
    return rules


def operation(name: str) -> Any:
    """The operation of that name: of ATen, or of a library where it is "library::name"."""
    library, _, base = name.rpartition("::")
    return getattr(getattr(torch.ops, library or "aten"), base).default


def number(value: Any) -> Any:
    """A setting as a JSON value: numbers as floats, because 1 and 1.0 are the same setting."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def input_of(b: Builder, result: Rows, operator: str) -> Rows:
    """The pre-activation of an activation's result.

    Autograd may save either; the former is what is bounded.

    Raises:
        UnsupportedOperation: The activation is not in the trace.
    """
    step = b.producer(result)
    if step is None or step.operator != operator:
        raise UnsupportedOperation(
            f"a gradient of {operator} whose forward operation is not in the trace")
    return replace(result, name=step.inputs[0])
