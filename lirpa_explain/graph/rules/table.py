"""The table itself, and how a rule gets into it."""

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten

RULES: dict[Any, Callable[..., Any]] = {}

PASS_THROUGH = {aten.detach.default, aten.alias.default, aten.clone.default, aten.contiguous.default,
                aten.lift_fresh_copy.default}

VALUE_FREE = {aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.new_zeros.default,
              aten.new_ones.default, aten.new_full.default, aten.empty_like.default, aten.new_empty.default}


def rule(*targets: Any, overwrite: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: lower these ATen operations by the decorated function.

    Raises:
        ValueError: one of them has a rule already and `overwrite` is False.
    """
    taken = [str(t) for t in targets if t in RULES]
    if taken and not overwrite:
        raise ValueError(f"{', '.join(taken)}: there is a rule already; pass overwrite=True to replace it.")

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return register
