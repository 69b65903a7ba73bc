"""Functions of parameters alone, such as a transposed weight: their values, and their ranges where
parameters move.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..boxes import Box
from ..relaxations.ranges import product_range
from .bound import BoundOperator, MovingParameter, box_of, moving_box, refuse_parameter
from .registry import Operator, register

MOVES = frozenset({
    "t.default", "transpose.int", "permute.default", "view.default", "_unsafe_view.default",
    "reshape.default",
    "_reshape_alias.default", "expand.default", "unsqueeze.default", "squeeze.default",
    "squeeze.dim", "squeeze.dims",
    "slice.Tensor", "select.int", "split.Tensor", "unsafe_split.Tensor", "split_with_sizes.default",
    "chunk.default",
    "unbind.int", "narrow.default", "clone.default", "contiguous.default", "flip.default",
    "roll.default",
    "diagonal.default", "index_select.default", "embedding.default", "index.Tensor",
    "gather.default", "tril.default",
    "triu.default", "constant_pad_nd.default", "repeat.default",
})
"""ATen operations that move, repeat and leave out entries of their first argument, and increase in
it."""


INCREASING = frozenset({"exp.default", "tanh.default", "sigmoid.default", "relu.default",
                        "softplus.default"})
"""ATen functions of one variable that increase in it."""


def _box(value: Any) -> Box:
    return value if isinstance(value, Box) else Box.point(torch.as_tensor(value))


def _sum(x: Any, y: Any, factor: float = 1) -> Box:
    """Range of x + factor * y."""
    x, y = _box(x), _multiple(_box(y), factor)
    return Box(x[0] + y[0], x[1] + y[1])


def _multiple(x: Box, factor: float) -> Box:
    return Box(x[0] * factor, x[1] * factor) if factor >= 0 else Box(x[1] * factor, x[0] * factor)


def _reciprocal(x: Box) -> Box:
    has_sign = (x[0] > 0) | (x[1] < 0)
    return Box(torch.where(has_sign, 1 / x[1], -torch.inf),
               torch.where(has_sign, 1 / x[0], torch.inf))


def _matrix_product(x: Box, y: Box) -> Box:
    (c, r), (d, s) = x.around, y.around
    spread = c.abs() @ s + r @ (d.abs() + s)
    return Box(c @ d - spread, c @ d + spread)


RANGES: dict[str, Callable[..., Box]] = {
    "neg.default": lambda x: _multiple(x, -1),
    "add.Tensor": lambda x, y, alpha=1: _sum(x, y, alpha),
    "add.Scalar": lambda x, y, alpha=1: _sum(x, y, alpha),
    "sub.Tensor": lambda x, y, alpha=1: _sum(x, y, -alpha),
    "sub.Scalar": lambda x, y, alpha=1: _sum(x, y, -alpha),
    "rsub.Scalar": lambda x, y, alpha=1: _sum(y, x, -alpha),
    "mul.Scalar": _multiple,
    "mul.Tensor": lambda x, y: product_range(_box(x), _box(y)),
    "div.Scalar": lambda x, y: _multiple(x, 1 / y),
    "div.Tensor": lambda x, y: product_range(_box(x), _reciprocal(_box(y))),
    "reciprocal.default": _reciprocal,
    "cat.default": lambda xs,
    dim=0: Box(*(torch.cat(sides, dim) for sides in zip(*map(_box, xs), strict=True))),
    "stack.default": lambda xs,
    dim=0: Box(*(torch.stack(sides, dim) for sides in zip(*map(_box, xs), strict=True))),
    "mm.default": _matrix_product,
    "mv.default": _matrix_product,
    "addmm.default": lambda b, x, y: _sum(b, _matrix_product(x, y)),
}
"""Other ATen operations -> their range from the arguments, of which tensors are boxes."""


class BoundUnperturbed(BoundOperator):
    """Any function of parameters; auto_LiRPA sees its value."""

    takes_parameters = True

    def bound_interval(self, *boxes: Box) -> Box:
        return Box.point(self.forward(*[box.lower for box in boxes]))

    def moving(self) -> MovingParameter | None:
        """What the engine needs to know of the value; None if no parameter among the inputs
        moves.
        """
        moving = [node.moving_parameter for node in self.inputs if moving_box(node) is not None]
        names = tuple(name for parameter in moving for name in parameter.names)
        return MovingParameter(self.parameter_range(*map(box_of, self.inputs)),
                               names) if names else None

    def parameter_range(self, *boxes: Box) -> Box:
        """Bounds of the value, of its own shape, from bounds of the parameters.

        Raises:
            UnsupportedOperation: there is no rule for it.
        """
        target = self.settings["target"]
        if target in MOVES | INCREASING and all(box.is_point for box in boxes[1:]):
            return Box(self.forward(*[box.lower for box in boxes]),
                       self.forward(*[box.upper for box in boxes]))
        if target not in RANGES or self.settings.get("keywords"):
            for node in self.inputs:
                refuse_parameter(node, f"aten.{target} of parameters")
        return RANGES[target](*_filled(boxes, self.settings["arguments"]))


TENSOR = {"tensor": True}
"""What stands for a tensor among the arguments of an operation, in lists too."""


def _filled(tensors: Sequence[Any], arguments: Any) -> Any:
    """Arguments in which each `TENSOR` is the next of the tensors."""
    values = iter(tensors)
    return tree_map(lambda leaf: next(values) if leaf == TENSOR else leaf, arguments,
                    is_leaf=lambda node: node == TENSOR)


def call_aten(*tensors: Tensor, target: str, arguments: list[Any],
              keywords: dict[str, Any] | None = None, output: int | None = None) -> Any:
    """Call an ATen operation, such as "cat.default", on tensors in their places among its
    arguments.
    """
    packet, overload = target.split(".")
    positional, named = _filled(tensors, (arguments, keywords or {}))
    result = getattr(getattr(torch.ops.aten, packet), overload)(*positional, **named)
    return result if output is None else result[output]


register(Operator("unperturbed", call_aten, BoundUnperturbed,
                  "functions of parameters alone, such as transposed weights"))
