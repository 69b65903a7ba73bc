"""Bounds of a gradient module's output: auto_LiRPA's `BoundedModule`, driven in the right order.

Pre-activations are bounded front to back, then upstream gradients back to front, then the result. Interval bounds
come first; linear bounds follow only for the entries that a relaxation can still gain from.
"""

import contextlib
import copy
import functools
import math
from collections.abc import Iterable, Iterator

import torch
from auto_LiRPA import BoundedModule, BoundedTensor
from auto_LiRPA.bound_ops import Bound, BoundBuffers, BoundParams
from auto_LiRPA.perturbations import Perturbation, PerturbationLpNorm
from torch import Tensor

from ..boxes import Box
from ..compat import parsing
from ..graph import GradientModule
from ..operators.affine import BoundAffine
from ..operators.bound import (
    BoundOperator,
    MovingParameter,
    box_of,
    box_of_interval,
    flat_rows,
    moving_box,
)
from ..operators.planes import BoundPlanes
from ..operators.unperturbed import BoundUnperturbed
from ..relaxations.ranges import linear_range
from .integral import Stretch
from .optimize import Optimization, optimized
from .outward import Outward, OutwardPerturbation
from .parameters import Parameters

METHODS = {
    "IBP": "interval bounds throughout",
    "CROWN-IBP": "linear bounds of the result, interval bounds of everything within",
    "CROWN": "linear bounds of the result and of everything within that a relaxation reads",
    "CROWN-Optimized": "as CROWN, with the planes of every relaxation chosen for each function that is bounded",
}

LINEAR_WITHIN = ("CROWN", "CROWN-Optimized")

COEFFICIENTS = 2 ** 22
"""Most entries of one coefficient tensor (functions x rows x neurons of the widest layer) computed at once, unless a
limit of memory is given."""

TENSORS = {"CROWN": 8, "CROWN-Optimized": 64}
"""How many such tensors exist at a time, about: what a limit of memory in bytes is divided by."""

ROUNDINGS = 32
"""Roundings by which bounds that a relaxation reads are moved outward. The derivative of a kink jumps: a bound on the
wrong side of 0 by one rounding would be wrong by a whole neuron."""


class Engine:
    """Bounds of one gradient module for any number of rows.

    Args:
        module: the module.
        example: one tensor for each of its inputs, in which rows may be few.
        options: how method "CROWN-Optimized" optimises.
        memory_limit: bytes that coefficients may take, or None.
    """

    def __init__(self, module: GradientModule, example: tuple[Tensor, ...], options: Optimization | None = None,
                 memory_limit: int | None = None) -> None:
        self.module = module
        self.options = options or Optimization()
        self.memory_limit = memory_limit
        self.bounded = _parse(module, example)
        nodes = list(self.bounded.children())
        self._nodes = {node.name: node for node in nodes}
        self._width = max(math.prod(node.output_shape[1:]) for node in nodes if node.output_shape is not None)
        self._item_size = example[0].element_size()
        self._parameters: Parameters | None = None
        self._rounded = False
        self._outward: Outward | None = None

    @contextlib.contextmanager
    def perturbed(self, parameters: Parameters | None, rounded: bool = False) -> Iterator[None]:
        """While it is active, bounds hold for all values of these parameters; None: for those they have.

        With `rounded` they hold for what is computed in floating point; all inputs must have a perturbation then.
        """
        self._parameters, self._rounded = parameters, rounded
        try:
            yield
        finally:
            self._parameters, self._rounded = None, False

    def __call__(self, inputs: tuple[Tensor, ...], perturbations: tuple[Perturbation | None, ...], method: str,
                 functions: Tensor | None = None) -> Box:
        """Lower and upper bounds of the module's output, or of linear functions of it.

        Args:
            inputs: values of the module's inputs, each with B rows.
            perturbations: the set that each of the first inputs lies in; None, or left out at the end: it is fixed.
            method: a key of `METHODS`.
            functions: (B, K, D), K linear functions of each row's output; None for the output itself, (B, D).

        Returns:
            (lower, upper), each (B, K or D), differentiable in the parameters unless grad mode is off.
        """
        moving = [name for name, p in zip(self.module.input_names, perturbations, strict=False) if p is not None]
        if not self.module.depends_on([*moving, *self._moving_parameters()]):
            value = self.module(*inputs)
            value = value if functions is None else torch.einsum("bkd,bd->bk", functions, value)
            return Box.point(value)
        with self._at(inputs, perturbations):
            return self._bounds(method, functions)

    def lower_bound(self, inputs: tuple[Tensor, ...], perturbations: tuple[Perturbation | None, ...],
                    functions: Tensor) -> Tensor:
        """CROWN's lower bound of linear functions, the extreme of one linear bound and not improved by any other.

        Args:
            inputs: as for calls.
            perturbations: likewise; their `concretize` sees the coefficients of that bound last.
            functions: (B, K, D).

        Returns:
            (B, K).
        """
        with self._at(inputs, perturbations):
            self._bound_within("CROWN")
            final = self._nodes[self.bounded.final_name]
            C = functions.reshape(*functions.shape[:2], *final.output_shape[1:])
            return self.bounded.compute_bounds(C=C, method="CROWN", final_node_name=final.name)[0]

    @contextlib.contextmanager
    def _at(self, inputs: tuple[Tensor, ...], perturbations: tuple[Perturbation | None, ...]) -> Iterator[None]:
        """Set the inputs, and forget what was bounded for them afterwards."""
        balls = [*perturbations, *[None] * (len(inputs) - len(perturbations))]
        if all(ball is None for ball in balls):  # auto_LiRPA takes that for inputs that all move
            balls[0] = PerturbationLpNorm(norm=math.inf, x_L=inputs[0], x_U=inputs[0])
        if self._rounded:
            balls = [None if ball is None else OutwardPerturbation(ball) for ball in balls]
        self.bounded(*[x if ball is None else BoundedTensor(x, ball) for x, ball in zip(inputs, balls, strict=True)])
        if not torch.is_grad_enabled():
            self._detach_parameters()
        self._outward = Outward(len(self._nodes)) if self._rounded else None
        try:
            for node in self._nodes.values():
                node.outward = self._outward
            self._move_parameters()
            yield
        finally:
            self._outward = None
            for node in self._nodes.values():
                node.rounding_margin = node.moving_parameter = node.outward = None
                if isinstance(node, BoundPlanes):
                    node.forget()

    def _moving_parameters(self) -> dict[str, MovingParameter]:
        """The module's parameters that move, by their names in it."""
        return {} if self._parameters is None else self._parameters.within(self.module)

    def _move_parameters(self) -> None:
        """Give the nodes of parameters that move their boxes, and mark all that depends on them."""
        moving = self._moving_parameters()
        for node in self._nodes.values() if moving else ():
            if isinstance(node, BoundParams):
                node.moving_parameter = moving.get(node.ori_name)
            elif isinstance(node, BoundUnperturbed):
                node.moving_parameter = node.moving()
            elif any(n.perturbed or moving_box(n) is not None for n in node.inputs):
                node.perturbed = True

    def _relaxed_by(self, method: str) -> dict[str, list[tuple[BoundOperator, int]]]:
        """Each node, front to back, with the operators whose relaxation reads its bounds, as which input.

        What is affine reads bounds, where its weight moves, for linear bounds only.
        """
        users: dict[str, list[tuple[BoundOperator, int]]] = {name: [] for name in self._nodes}
        for user in self._nodes.values():
            if isinstance(user, BoundOperator) and not (method == "IBP" and isinstance(user, BoundAffine)):
                for i in user.relaxed_inputs():
                    users[user.inputs[i].name].append((user, i))
        return users

    def _detach_parameters(self) -> None:
        """Read the parameters as constants, so that optimising mixtures does not differentiate by them too."""
        for node in self._nodes.values():
            if isinstance(node, BoundParams):
                node.forward_value = node.forward_value.detach()

    def _bound_within(self, method: str) -> None:
        """Bound every node that a relaxation reads."""
        for name, users in self._relaxed_by(method).items():
            if users and self._nodes[name].perturbed:
                self._bound(name, users, method)

    def _bounds(self, method: str, functions: Tensor | None) -> Box:
        self._bound_within(method)
        final = self._nodes[self.bounded.final_name]
        box = self._interval(final.name)
        for node in self._nodes.values():
            if isinstance(getattr(node, "perturbation", None), Stretch):
                node.perturbation.average = True  # not before: relaxations are made for all of the stretch
        rows, count = box[0].shape
        if functions is None:
            every = torch.arange(count, device=box[0].device).expand(rows, -1)
            return box if method == "IBP" else _intersect(box, self._linear(final.name, every, method))
        box = linear_range(functions, box) if self._outward is None else self._outward.functions(functions, box)
        if method == "IBP":
            return box
        chunk = self._chunk(rows, method)
        return _intersect(box, self._concatenated(final.name, functions.split(chunk, 1), method))

    def _bound(self, name: str, users: list[tuple[BoundOperator, int]], method: str) -> None:
        """Give a node its bounds: intervals, then linear bounds of the entries that are open for a user."""
        node = self._nodes[name]
        for user, _ in users:
            user.refuse_perturbed_parameters()
        lower, upper = self._interval(name)
        if method in LINEAR_WITHIN:
            open_entries = functools.reduce(torch.logical_or, [
                user.open_entries(i, *[Box(lower, upper) if n is node else self._current(n) for n in user.inputs])
                for user, i in users])
            index = _first_true(flat_rows(open_entries))
            if index.shape[1]:
                linear_lower, linear_upper = self._linear(name, index, method)
                flat = flat_rows(lower), flat_rows(upper)
                at_index = Box(flat[0].gather(1, index), flat[1].gather(1, index))
                better = _intersect(at_index, Box(linear_lower, linear_upper))
                wanted = flat_rows(open_entries).gather(1, index)  # a batch gives what its rows give
                lower, upper = (side.scatter(1, index, torch.where(wanted, new, old)).reshape(lower.shape)
                                for side, new, old in zip(flat, better, at_index, strict=True))
        node.lower, node.upper = node.interval = lower, upper
        with torch.no_grad():
            size = self._size(node) if self._outward is None else torch.zeros_like(lower)
            node.rounding_margin = margin = ROUNDINGS * torch.finfo(lower.dtype).eps * size
        node.lower, node.upper = node.interval = lower - margin, upper + margin
        self._forget_intervals()

    def _forget_intervals(self) -> None:
        """Drop the intervals of nodes whose turn is to come: they are as loose as what they were computed from."""
        for node in self._nodes.values():
            is_bounded = getattr(node, "rounding_margin", None) is not None
            if node.perturbed and not is_bounded and getattr(node, "perturbation", None) is None:
                node.lower = node.upper = None
                if hasattr(node, "interval"):
                    del node.interval

    def _size(self, node: Bound) -> Tensor:
        """Size of the terms that an entry is the sum of: what its rounding errors are relative to."""
        if isinstance(node, BoundAffine) and node.perturbed:
            return node.added(*[self._size(n) for n in node.inputs])
        lower, upper = self._current(node)
        return torch.maximum(lower.abs(), upper.abs())

    def _current(self, node: Bound) -> Box:
        """The bounds that a node has by now; interval bounds if its turn is still to come."""
        if node.perturbed and getattr(node, "perturbation", None) is None and getattr(node, "lower", None) is None:
            return self._interval(node.name)
        return box_of(node)

    def _interval(self, name: str) -> Box:
        """Interval bounds of a node from those of its nearest bounded predecessors."""
        return or_nothing(box_of_interval(self.bounded.compute_bounds(method="IBP", final_node_name=name)))

    def _linear(self, name: str, index: Tensor, method: str) -> Box:
        """Linear bounds, made numbers, of a node's entries `index` (B, K) in the flattened node: each (B, K)."""
        node = self._nodes[name]
        size = math.prod(node.output_shape[1:])
        rows = len(index)
        zero = node.forward_value.new_zeros(())
        parts = (zero.new_zeros(rows, part.shape[1], size).scatter(2, part[..., None], 1.0)
                 for part in index.split(self._chunk(rows, method), 1))
        return self._concatenated(name, parts, method)

    def rows_at_once(self, batch_size: int, method: str) -> int:
        """How many rows, `batch_size` at most, one function of each leaves within the limit of memory."""
        return max(1, min(batch_size, self._entries(method) // self._width))

    def _chunk(self, rows: int, method: str) -> int:
        """How many functions of so many rows are bounded at once."""
        return max(1, self._entries(method) // (rows * self._width))

    def _entries(self, method: str) -> int:
        """Most entries of one coefficient tensor."""
        if self.memory_limit is not None:
            return self.memory_limit // (self._item_size * TENSORS.get(method, TENSORS["CROWN"]))
        return COEFFICIENTS if method != "CROWN-Optimized" else COEFFICIENTS // 4

    def _concatenated(self, name: str, parts: Iterable[Tensor], method: str) -> Box:
        """Linear bounds of a node's linear functions, given in parts (B, K, D) of which each is bounded at once."""
        shape = self._nodes[name].output_shape[1:]

        def bound(functions: Tensor) -> Box:
            C = functions.reshape(*functions.shape[:2], *shape)
            lower, upper = self.bounded.compute_bounds(C=C, method="CROWN", final_node_name=name)[:2]
            return Box(lower.reshape(C.shape[:2]), upper.reshape(C.shape[:2]))

        relaxed = self._relaxations_before(name) if method == "CROWN-Optimized" else []
        sides = [optimized(bound, part, relaxed, self.options) if relaxed else bound(part) for part in parts]
        return or_nothing(Box(torch.cat([s[0] for s in sides], 1), torch.cat([s[1] for s in sides], 1)))

    def _relaxations_before(self, name: str) -> list[BoundPlanes]:
        """The relaxed operators that a node depends on, itself included."""
        found: dict[str, BoundPlanes] = {}
        seen, stack = {name}, [self._nodes[name]]
        while stack:
            node = stack.pop()
            if isinstance(node, BoundPlanes) and node.perturbed and node.relaxed_inputs():
                found[node.name] = node
            new = [n for n in node.inputs if n.name not in seen]
            seen.update(n.name for n in new)
            stack += new
        return list(found.values())


def _parse(module: GradientModule, example: tuple[Tensor, ...]) -> BoundedModule:
    """The module as a `BoundedModule` whose parameters are the module's own.

    `BoundedModule` copies values back into the parameters it was built from and sets their `requires_grad`; it is
    therefore built from a copy, and given the real tensors afterwards.
    """
    device = example[0].device
    with parsing(), torch.no_grad():
        copied = copy.deepcopy(module).eval()
        bounded = BoundedModule(copied, example, bound_opts={"conv_mode": "matrix"}, device=device)
    for node in bounded.children():
        if isinstance(node, BoundParams):
            node._parameters["param"] = module.get_parameter(node.ori_name)
            node.forward = functools.partial(getattr, node, "param")
        elif isinstance(node, BoundBuffers):
            node._buffers["buffer"] = module.get_buffer(node.ori_name)
    return bounded


def _first_true(mask: Tensor) -> Tensor:
    """Indices (B, K) of the true entries of each row, K the largest count; rows with fewer repeat other entries."""
    counts = mask.sum(1)
    return torch.argsort(mask.to(torch.int8), dim=1, descending=True, stable=True)[:, : int(counts.max())]


def or_nothing(box: Box) -> Box:
    """NaN, which overflow leaves, bounds nothing."""
    return box.or_nothing()


def _intersect(first: Box, second: Box) -> Box:
    """Both boxes hold, so their intersection does; where roundings have crossed its sides, what lies between them."""
    return first.intersect(second).ordered()
