"""A gradient module as auto_LiRPA's `BoundedModule`: all that touches its nodes."""

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from auto_LiRPA import BoundedModule, BoundedTensor
from auto_LiRPA.bound_ops import Bound, BoundBuffers, BoundInput, BoundParams
from auto_LiRPA.perturbations import Perturbation, PerturbationLpNorm
from torch import Tensor

from ..boxes import Box
from ..compat import parsing
from ..graph import GradientModule
from ..operators.affine import BoundAffine
from ..operators.bound import BoundOperator, Coefficient, box_of, box_of_interval, moving_box
from ..operators.local import Local
from ..operators.max_pooling import BoundPooled
from ..operators.planes import BoundPlanes
from ..operators.unperturbed import BoundUnperturbed
from ..relaxations.ranges import linear_range
from ..rounding import RELAXED, roundings
from .backward import FAR, Linear, numbers, pull_back
from .integral import Stretch
from .outward import Outward, OutwardPerturbation
from .parameters import Parameters
from .reach import ordered, reshaped_inputs

KEPT = 2 ** 20
"""Most coefficients of a node's entries, for each row, that are kept."""

Readers = list[tuple[BoundOperator, int]]
"""Operators whose relaxation reads a node's bounds, and as which of their inputs."""


class Network:
    """The nodes of one gradient module, and what auto_LiRPA bounds of them.

    All but the constructor is for the time of `at`: the inputs, what moves, and the bounds that
    nodes have by then are kept in the nodes.

    Args:
        module: the module.
        example: one tensor for each of its inputs, in which rows may be few.

    Attributes:
        costs: bytes that one function takes to be bounded, by which functions these are, as far as
            was measured.
    """

    def __init__(self, module: GradientModule, example: tuple[Tensor, ...]) -> None:
        self.module = module
        self._bounded = _parse(module, example)
        self._nodes = {node.name: node for node in self._bounded.children()}
        self._ordered = ordered(self._nodes.values())
        self._inputs = [node for node in self._ordered if isinstance(node, BoundInput)]
        self._loose: list[Bound] = []
        self._widths: dict[str, int] = {}
        self.costs: dict[Hashable, float] = {}
        self._forms: dict[str, Linear] = {}
        self._outward: Outward | None = None

    @functools.cached_property
    def width(self) -> int:
        """Neurons of the widest layer."""
        return max(math.prod(node.output_shape[1:]) for node in self._nodes.values()
                   if node.output_shape is not None)

    @property
    def result(self) -> Bound:
        """The node of the module's output."""
        return self._nodes[self._bounded.final_name]

    @property
    def nodes(self) -> Sequence[Bound]:
        """All nodes, each after its inputs."""
        return self._ordered

    @property
    def rows(self) -> int:
        """How many rows are bounded."""
        return len(self.result.forward_value)

    @property
    def moving_inputs(self) -> list[Bound]:
        """The nodes of inputs that move."""
        return [node for node in self._inputs if _is_input(node)]

    @property
    def values(self) -> dict[str, str]:
        """The name of each value of the module that moves, by that of its node."""
        nodes = [node for node in self._nodes.values() if isinstance(node, BoundOperator)]
        return {node.name: step.output for node, step in zip(nodes, self.module.steps, strict=True)}

    @contextlib.contextmanager
    def at(self, inputs: tuple[Tensor, ...], perturbations: tuple[Perturbation | None, ...],
           parameters: Parameters | None = None, rounded: bool = False) -> Iterator[None]:
        """Set the inputs, and forget what was bounded for them afterwards.

        Args:
            inputs: values of the module's inputs, each with B rows.
            perturbations: the set that each of the first inputs lies in; None, or left out at the
                end: it is fixed.
            parameters: those that move; None if none does.
            rounded: whether bounds are of what is computed in floating point; all inputs must have
                a perturbation then.
        """
        balls = [*perturbations, *[None] * (len(inputs) - len(perturbations))]
        if all(ball is None for ball in balls):  # auto_LiRPA takes that for inputs that all move
            balls[0] = PerturbationLpNorm(norm=math.inf, x_L=inputs[0], x_U=inputs[0])
        if rounded:
            balls = [None if ball is None else OutwardPerturbation(ball) for ball in balls]
        self._bounded(*[x if ball is None else BoundedTensor(x, ball)
                        for x, ball in zip(inputs, balls, strict=True)])
        if not torch.is_grad_enabled():
            self._detach_parameters()
        self._outward = Outward(len(self._nodes)) if rounded else None
        try:
            for node in self._nodes.values():
                node.outward = self._outward
            self._move(parameters)
            yield
        finally:
            self._outward = None
            self._forms = {}
            for node in self._nodes.values():
                node.rounding_margin = node.moving_parameter = node.outward = None
                if isinstance(node, BoundPlanes | BoundPooled):
                    node.forget()

    def read_nodes(self, linearly: bool) -> Iterator[tuple[Bound, Readers]]:
        """Each node that moves and that a relaxation reads, front to back, and its readers."""
        readers: dict[str, Readers] = {name: [] for name in self._nodes}
        for reader in self._nodes.values():
            if isinstance(reader, BoundOperator) and (linearly
                                                      or not isinstance(reader, BoundAffine)):
                for i in reader.relaxed_inputs():
                    readers[reader.inputs[i].name].append((reader, i))
        return ((self._nodes[name], found) for name, found in readers.items()
                if found and self._nodes[name].perturbed)

    def ignored(self, node: Bound, box: Box) -> Tensor:
        """Entries of a node, in this box, on which no operator that reads the node depends."""
        readers = [(reader, i) for reader in self._nodes.values()
                   for i, n in enumerate(reader.inputs) if n is node]
        known = all(isinstance(reader, BoundOperator) for reader, _ in readers) and len(readers) > 0
        nothing = torch.full_like(box.lower, known, dtype=torch.bool)
        ignored = (reader.ignored_entries(i, box) for reader, i in readers) if known else ()
        return functools.reduce(torch.logical_and, ignored, nothing)

    def interval(self, node: Bound) -> Box:
        """Interval bounds of a node from those of its nearest bounded predecessors."""
        if not all(hasattr(n, "interval") for n in self.moving_inputs):  # auto_LiRPA makes these
            self._bounded.compute_bounds(method="IBP", final_node_name=node.name)
            self._loose = [n for n in self._ordered if hasattr(n, "interval")]
        stack = [node]
        while stack:
            last = stack[-1]
            if not last.perturbed:
                value = self._bounded.get_forward_value(last)
                last.lower, last.upper = last.interval = value, value
            waiting = [n for n in last.inputs if not hasattr(n, "interval")]
            if hasattr(last, "interval"):
                stack.pop()
            elif waiting:
                stack += waiting
            else:
                last.interval = last.interval_propagate(*[n.interval for n in last.inputs])
                last.lower, last.upper = last.interval
                self._loose.append(last)
        return box_of_interval(node.interval).or_nothing()

    def linear(self, node: Bound, functions: Coefficient, tell: Callable[[int], None] | None = None,
               keep: bool = False, see: Callable[[Linear], None] | None = None) -> Box:
        """Linear bounds, made numbers, of linear functions of a node.

        Args:
            node: the node.
            functions: (B, K, D), or K local ones.
            tell: is told how many coefficients arrive at each node before it.
            keep: whether they are the node's entries themselves, all of them, and may end passes
                from far behind.
            see: is shown the linear bounds.

        Returns:
            (lower, upper), each (B, K).
        """
        functions = _by_functions(functions, node)
        linear = pull_back(self._ordered, node, functions, self._forms, tell)
        if keep:
            self._forms[node.name] = linear
        if see is not None:
            see(linear)
        box = numbers(self._nodes, linear, functions.shape[:2])
        return box.map(lambda side: side.transpose(0, 1))

    def lower(self, node: Bound, functions: Coefficient) -> Tensor:
        """Linear lower bounds of functions of a node made numbers, as for `linear`: (B, K)."""
        functions = _by_functions(functions, node)
        linear = pull_back(self._ordered, node, functions, self._forms, lower_only=True)
        return numbers(self._nodes, linear, functions.shape[:2]).lower.transpose(0, 1)

    def in_inputs(self, node: Bound, functions: Coefficient, lower_only: bool = False) -> Linear:
        """Linear bounds of functions of a node in the inputs that move; local ones of images.

        Args:
            node: the node.
            functions: (B, K, D), or K local ones.
            lower_only: whether upper bounds are left out.
        """
        return pull_back(self._ordered, node, _by_functions(functions, node), {},
                         lower_only=lower_only, aliases=self._aliases)

    @functools.cached_property
    def _aliases(self) -> dict[str, str]:
        return reshaped_inputs(self._ordered, self._inputs)

    def forms(self, perturbations: Sequence[Perturbation | None]) -> Linear:
        """Linear bounds of the output, one number (B, 1), in the inputs, by their places."""
        node = self.result
        linear = pull_back(self._ordered, node, torch.ones_like(node.forward_value)[None],
                           self._forms)
        places = {id(ball): str(i) for i, ball in enumerate(perturbations) if ball is not None}
        return Linear({places[id(self._nodes[name].perturbation)]: sides
                       for name, sides in linear.inputs.items()}, linear.lower, linear.upper)

    def ends_passes(self, node: Bound) -> bool:
        """Whether to keep linear bounds of all entries: few inputs, and nodes far behind."""
        if self._outward is not None or len(self._ordered) < 2 * FAR:
            return False
        inputs = sum(math.prod(n.output_shape[1:]) for n in self.moving_inputs)
        return inputs * math.prod(node.output_shape[1:]) <= KEPT

    def sums(self, node: Bound, index: Tensor, weights: Sequence[float], sign: Tensor | None = None
             ) -> tuple[Bound, Coefficient]:
        """Weighted sums of n entries each, of a node or of the one it only reshapes."""
        while (isinstance(node, BoundOperator) and node.operator.name == "reshape"
                   and node.inputs[0].perturbed):
            node = node.inputs[0]
        shape, like = node.output_shape[1:], self.result.forward_value
        if len(shape) == 3:
            local = Local.of_entries(index, weights, shape, like)
            return (node, local if sign is None
                    else local.with_values(local.values * sign.T[..., None, None, None]))
        functions = like.new_zeros(*index.shape[:2], math.prod(shape))
        functions = functions.scatter_add(2, index, like.new_tensor(weights).expand(index.shape))
        return node, functions if sign is None else functions * sign[..., None]

    def width_of(self, node: Bound) -> int:
        """The most coefficients that one function of an entry of a node has in one layer."""
        if len(node.output_shape) != 4:  # it depends on whole layers
            return self.width
        if node.name not in self._widths:
            rows = len(self.result.forward_value)
            index = torch.zeros(rows, 1, 1, dtype=torch.long,
                                device=self.result.forward_value.device)
            met: list[int] = []
            with torch.no_grad():
                self.linear(*self.sums(node, index, [1.0]), lambda size: met.append(size // rows))
            self._widths[node.name] = max(met)
        return self._widths[node.name]

    def of_interval(self, functions: Tensor, box: Box) -> Box:
        """Bounds of linear functions (B, K, D) of a value in a box (B, D), each (B, K)."""
        return (linear_range(functions, box)
                if self._outward is None else self._outward.functions(functions, box))

    def current(self, node: Bound) -> Box:
        """The bounds that a node has by now; interval bounds if its turn is still to come."""
        if node.perturbed and not _is_input(node) and getattr(node, "lower", None) is None:
            return self.interval(node)
        return box_of(node)

    def is_settled(self, node: Bound) -> bool:
        """Whether a node that moves has the bounds that relaxations read."""
        return getattr(node, "rounding_margin", None) is not None

    def settle(self, node: Bound, box: Box) -> None:
        """Give a node its bounds, moved outward by roundings, for all its readers."""
        node.lower, node.upper = node.interval = box
        node.rounding_margin = margin = self.rounding_margin(node)
        node.lower, node.upper = node.interval = box.outward(margin)
        self._forget_intervals()

    @torch.no_grad()
    def rounding_margin(self, node: Bound) -> Tensor:
        """By how much the bounds of a node are moved outward where a relaxation reads them."""
        size = (self._size(node)
                if self._outward is None else torch.zeros_like(self.current(node).lower))
        return roundings(RELAXED, size.dtype) * size

    def average_stretches(self, average: bool = True) -> None:
        """Bound averages along stretches of a path from now on, and relax for all of each."""
        for node in self._nodes.values():
            if isinstance(getattr(node, "perturbation", None), Stretch):
                node.perturbation.average = average

    def reopen(self) -> None:
        """Forget the bounds of all nodes but inputs, so that they are bounded once more."""
        self.average_stretches(False)
        self._loose = []
        for node in self._nodes.values():
            if node.perturbed and not _is_input(node):
                node.lower = node.upper = node.rounding_margin = None
                vars(node).pop("interval", None)
            if isinstance(node, BoundPooled):
                node.forget()

    def relaxations_before(self, node: Bound) -> list[BoundPlanes]:
        """The relaxed operators that a node depends on, itself included."""
        found: dict[str, BoundPlanes] = {}
        seen, stack = {node.name}, [node]
        while stack:
            node = stack.pop()
            if isinstance(node, BoundPlanes) and node.perturbed and node.relaxed_inputs():
                found[node.name] = node
            new = [n for n in node.inputs if n.name not in seen]
            seen.update(n.name for n in new)
            stack += new
        return list(found.values())

    def _move(self, parameters: Parameters | None) -> None:
        """Give the nodes of parameters that move their boxes, and mark all that depends on them."""
        moving = {} if parameters is None else parameters.within(self.module)
        for node in self._nodes.values() if moving else ():
            if isinstance(node, BoundParams):
                node.moving_parameter = moving.get(node.ori_name)
            elif isinstance(node, BoundUnperturbed):
                node.moving_parameter = node.moving()
            elif any(n.perturbed or moving_box(n) is not None for n in node.inputs):
                node.perturbed = True

    def _detach_parameters(self) -> None:
        """Read the parameters as constants, so that optimising leaves them alone."""
        for node in self._nodes.values():
            if isinstance(node, BoundParams):
                node.forward_value = node.forward_value.detach()

    def _forget_intervals(self) -> None:
        """Forget intervals of nodes not bounded yet, which came from looser bounds."""
        for node in self._loose:
            if node.perturbed and not self.is_settled(node) and not _is_input(node):
                node.lower = node.upper = None
                del node.interval
        self._loose = []

    def _size(self, node: Bound) -> Tensor:
        """Size of the terms that an entry sums: its rounding errors are relative to it."""
        if isinstance(node, BoundAffine) and node.perturbed:
            first, *others = node.inputs
            sized = self._size if node.traits.bilinear else self._value  # indices have no size
            return node.added(self._size(first), *map(sized, others))
        return self.current(node).size

    def _value(self, node: Bound) -> Tensor:
        """What a node that does not move is."""
        return self.current(node).lower


def _by_functions(functions: Coefficient, node: Bound) -> Coefficient:
    """Functions (B, K, D) of a node as coefficients (K, B, *output); local ones as they are."""
    if isinstance(functions, Local):
        return functions
    return functions.transpose(0, 1).reshape(*functions.shape[1::-1], *node.output_shape[1:])


def _is_input(node: Bound) -> bool:
    """Whether a node has a perturbation of its own."""
    return getattr(node, "perturbation", None) is not None


def _parse(module: GradientModule, example: tuple[Tensor, ...]) -> BoundedModule:
    """The module as a `BoundedModule` whose parameters are the module's own.

    `BoundedModule` copies values back into the parameters it was built from and sets their
    `requires_grad`; it is therefore built from a copy, and given the real tensors afterwards.
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
