"""The table itself, and how a rule gets into it."""

from collections.abc import Callable
from typing import Any

import torch

from ...errors import UnsupportedOperation
from ...operators.activations import ACTIVATIONS
from ...registration import Table, unless
from .calls import rules_of

aten = torch.ops.aten

RULES: Table[Any, Callable[..., Any]] = Table(
    "lowering rule", "@lirpa_explain.graph.rules.rule(torch.ops.aten. ...)",
    lambda target, row: unless(
        (isinstance(target, torch._ops.OpOverload), "is not of an overload of an operation")),
    error=UnsupportedOperation, source=ACTIVATIONS, make=rules_of)

PASS_THROUGH = {aten.detach.default, aten.alias.default, aten.clone.default,
                aten.contiguous.default, aten.lift_fresh_copy.default}

OF_GIVEN: set[Any] = set()
"""Operations whose rules take what is made of further arguments as it is, such as indices; others
take numbers."""


def rule(*targets: Any,
         overwrite: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: lower these ATen operations by the decorated function.

    Raises:
        ValueError: one of them has a rule already and `overwrite` is False.
    """
    if not overwrite:
        RULES.refuse_taken(*targets)

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for target in targets:
            RULES.add(target, function, overwrite=overwrite)
        return function

    return register
