"""Which nodes come before which, and which entries of them depend on an input."""

import functools
from collections.abc import Iterable, Mapping, Sequence

import torch
from auto_LiRPA.bound_ops import Bound
from torch import Tensor

from ..operators.affine import BoundAffine
from ..operators.bound import BoundOperator, value_of
from ..operators.planes import BoundPlanes


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
    moving = [marks[n.name] for n in node.inputs if n.perturbed]
    if isinstance(node, BoundAffine):
        masks = iter(moving)
        values = [next(masks) if n.perturbed else value_of(n) for n in node.inputs]
        like = next((v for v in values if v.is_floating_point()), node.forward_value)
        if node.traits.magnitude is None:  # what does not move is added
            values = [v if v.dtype == torch.bool else torch.zeros_like(v) for v in values]
        return node.added(*(v.to(like) if v.dtype == torch.bool else v for v in values)) > 0
    if isinstance(node, BoundPlanes):
        return functools.reduce(torch.logical_or, moving)
    rows = torch.stack([mask.flatten(1).any(1) for mask in moving]).any(0)
    shape = node.output_shape[1:]
    return rows.reshape(-1, *[1] * len(shape)).expand(-1, *shape)


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
