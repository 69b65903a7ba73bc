"""The table of operators: what a gradient module may consist of, and how each is bounded.

An operator is a tensor function with a name, and a class of auto_LiRPA `Bound` nodes that bounds
it. Registering it makes it known to auto_LiRPA under `lirpa_explain::<name>`, so that a module
built from operators can be parsed by anybody's `BoundedModule`.

All tensors that depend on an input have the batch as dimension 0, and their rows are independent.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from auto_LiRPA import register_custom_op
from auto_LiRPA.bound_op_map import bound_op_map
from torch import Tensor

from ..registration import Table, empty, unless
from .bound import BoundOperator

DOMAIN = "lirpa_explain"


@dataclass(frozen=True)
class Operator:
    """One row of the table.

    Args:
        name: name in the graph, without the domain.
        function: `function(*tensors, **settings) -> Tensor`; settings are JSON values.
        bound: the class that bounds it.
        covers: the torch layers and functions whose forward or gradient pass contains it, for
            people.
        traits: what `bound` needs to know about this operator (each class says what it reads).
        auto_lirpa: what auto_LiRPA's own bounds of this function lack, if it is known to be
            something.
        breaks: of a function of one variable, or a factor of an upstream gradient that is one:
            where, given the settings, it or its slope may jump. Attacks smooth these.
    """

    name: str
    function: Callable[..., Tensor]
    bound: type[BoundOperator]
    covers: str
    traits: Any = None
    auto_lirpa: str = ""
    breaks: Callable[..., tuple[float, ...]] | None = None


OPERATORS: Table[str, Operator] = Table(
    "operator", "lirpa_explain.operators.register(Operator(...))",
    lambda name, row: empty(row, "covers") + unless(
        (issubclass(row.bound, BoundOperator), "is not bounded by a BoundOperator"),
        (f"{DOMAIN}::{name}" in bound_op_map, "is not known to auto_LiRPA")))


def register(operator: Operator, *, overwrite: bool = False) -> Operator:
    """Add an operator to the table and make it known to auto_LiRPA.

    Args:
        operator: the new row.
        overwrite: replace a row of that name.

    Returns:
        The row, for the caller to keep.

    Raises:
        ValueError: the name is taken and `overwrite` is False.
    """
    if not overwrite:
        refuse_taken(operator.name)
    OPERATORS.add(operator.name, operator, overwrite=overwrite)
    bound = type(f"Bound_{operator.name}", (operator.bound,), {"operator": operator})
    register_custom_op(f"{DOMAIN}::{operator.name}", bound)
    return operator


def refuse_taken(*names: str) -> None:
    """Raise ValueError if one of the names is taken, in the table or as an operation of
    auto_LiRPA.
    """
    OPERATORS.refuse_taken(*names)
    known = [name for name in names if f"{DOMAIN}::{name}" in bound_op_map]
    if known:
        raise ValueError(
            f"The operator {', '.join(map(repr, known))} is already registered with auto_LiRPA; "
            "choose another name, or pass overwrite=True to replace it for the whole process.")


def lookup(name: str) -> Operator:
    """The operator of that name.

    Raises:
        KeyError: there is none; the message names the nearest.
    """
    return OPERATORS[name]


def call(name: str, *tensors: Tensor, **settings: Any) -> Tensor:
    """Apply an operator; under a graph trace it is recorded as one node,
    `lirpa_explain::<name>`.
    """
    operator = lookup(name)
    if torch.jit.is_tracing():
        return _Recorded.apply(operator, json.dumps(settings), [], *tensors)
    return operator.function(*tensors, **settings)


class _Recorded(torch.autograd.Function):
    """An operator as one node of a traced graph.

    `shape` is a list that `forward` fills for `symbolic`: the exporter warns about values of
    unknown shape.
    """

    @staticmethod
    def forward(ctx: Any, operator: Operator, settings: str, shape: list[int],
                *tensors: Tensor) -> Tensor:
        result = operator.function(*tensors, **json.loads(settings))
        shape[:] = result.shape
        return result

    @staticmethod
    def symbolic(graph: Any, operator: Operator, settings: str, shape: list[int],
                 *tensors: Any) -> Any:
        result = graph.op(f"{DOMAIN}::{operator.name}", *tensors, settings_s=settings)
        return result.setType(tensors[0].type().with_sizes(shape))
