"""Which nodes come before which, and which entries of them depend on an input."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from auto_LiRPA.bound_ops import Bound
from torch import Tensor

from ..operators.bound import BoundOperator


def ordered(nodes: Iterable[Bound]) -> list[Bound]:
    """The nodes, each after its inputs."""
    found: dict[str, Bound] = {}

    def append(node: Bound) -> None:
        for n in node.inputs:
            if n.name not in found:
                append(n)
        found.setdefault(node.name, node)

    for node in nodes:
        append(node)
    return list(found.values())


@torch.no_grad()
def reached(node: Bound, marks: dict[str, Tensor]) -> Tensor:
    """Entries of a node that depend on marked entries of the inputs, a mask (B, *S).

    Args:
        node: the node, which moves.
        marks: masks of all inputs that move, by the names of their nodes; those of the nodes
            between are added.
    """
    stack = [node]
    while stack:
        last = stack[-1]
        waiting = [n for n in last.inputs if n.perturbed and n.name not in marks]
        if last.name in marks:
            stack.pop()
        elif waiting:
            stack += waiting
        else:
            marks[last.name] = _passed_on(last, marks)
    return marks[node.name]


def _passed_on(node: Bound, marks: Mapping[str, Tensor]) -> Tensor:
    """The mask of a node, from those of its inputs that move."""
    like = node.forward_value
    return node.dependence(*[marks[n.name].to(like) if n.perturbed else None
                             for n in node.inputs]) > 0


@torch.no_grad()
def needed(nodes: Sequence[Bound], result: Bound) -> dict[str, Tensor]:
    """Entries of nodes, by name, on which those of a result depend: masks (1, *S); none: nothing.

    Args:
        nodes: all nodes, each after its inputs.
        result: one of them.
    """
    shape, like = result.output_shape[1:], result.forward_value
    marks = {result.name: torch.ones(1, *shape, dtype=torch.bool, device=like.device)}
    for node in reversed(nodes):
        if node.name not in marks or not isinstance(node, BoundOperator) or not node.perturbed:
            continue
        moving = [n.perturbed for n in node.inputs]

        def map_of(*sizes: Tensor, node: Any = node, moving: list[bool] = moving) -> Tensor:
            given = iter(sizes)
            return node.dependence(*[next(given) if moves else None for moves in moving])

        before = [n for n in node.inputs if n.perturbed]
        zeros = [like.new_zeros(1, *n.output_shape[1:]) for n in before]
        back = torch.func.vjp(map_of, *zeros)[1](marks[node.name].to(like))
        for n, mask in zip(before, back, strict=True):
            marks[n.name] = marks.get(n.name, torch.zeros_like(mask, dtype=torch.bool)) | (mask > 0)
    return marks


def reshaped_inputs(nodes: Sequence[Bound], inputs: Iterable[Bound]) -> dict[str, str]:
    """Nodes that are inputs in another shape, through which alone these are read, and their names.

    Args:
        nodes: all nodes.
        inputs: those of the inputs.
    """
    readers: dict[str, list[Bound]] = {}
    for node in nodes:
        for n in node.inputs:
            readers.setdefault(n.name, []).append(node)
    alone = ((n, found[0]) for n in inputs if len(found := readers.get(n.name, [])) == 1)
    return {node.name: n.name for n, node in alone
            if isinstance(node, BoundOperator) and node.operator.name == "reshape"}
