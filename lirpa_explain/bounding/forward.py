"""A cheap pass first: affine forms of a whole layer, carried forward once through a network.

In deep convolutional nets intervals leave most neurons open of which linear bounds then close all
but a few, at the price of one pass back for each. An affine form says the same of all neurons of a
layer at once, a little less tightly:

    y = center + sum_d columns_d e_d + error f,    e_d and f anywhere in [-1, 1],

with one e_d for each entry of the input and for each relaxed neuron, and an error of each entry's
own. Every operator maps it by its expansion: affine steps exactly; of a function between two lines
the mean slope is taken, and what lies between is an error; of a product its tangent. Errors of
errors grow from layer to layer, as intervals do, so that linear bounds of a whole layer, where
there are some, are taken for its form.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
from auto_LiRPA.bound_ops import Bound
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor

from ..boxes import Box
from ..operators.bound import (
    BoundOperator,
    box_of,
    dense_sides,
    flat_functions,
    moving_box,
    value_of,
)
from ..operators.expansion import Expansion
from .backward import Linear
from .reach import needed

LARGE = 2 ** 24
"""Input entries times the widest layer's neurons from which the pass pays, one row at a time."""

LARGE_DENSE = 2 ** 28
"""Squared neurons of the widest layer from which it pays as well: functions of such a layer may
depend on all of another."""

COLUMNS = 2 ** 22
"""Most entries of one tensor of columns that are mapped at once, about: layers are up to ..."""

WIDER = 8
"""... so many times as wide as the input."""

FRESH = 512
"""Most entries of a layer whose errors, the largest ones, are columns of their own, which later
layers add up with their signs; at most half as many as the input has, in all."""


@dataclass(frozen=True)
class Form:
    """An affine form of one row.

    Args:
        center: (1, *S).
        columns: tensors (d, *S) by where they come from: some of the input's entries, or a
            relaxation's errors.
        error: (1, *S), at least 0.
    """

    center: Tensor
    columns: dict[Hashable, Tensor]
    error: Tensor

    @functools.cached_property
    def box(self) -> Box:
        """Where it lies; asked for while its columns are whole."""
        radius = sum((part.abs().sum(0, keepdim=True) for part in self.columns.values()),
                     self.error)
        return Box(self.center - radius, self.center + radius)


class Forms:
    """The forms of a network's nodes, made on demand, dropped when all readers have them.

    Where they take more memory than they may, those are dropped that are read last.

    Args:
        nodes: all nodes, each after its inputs.
        result: that for which they are made.
        most: bytes that columns may take, or None.
    """

    def __init__(self, nodes: Sequence[Bound], result: Bound, most: int | None = None) -> None:
        self.nodes, self.most = nodes, most
        self._needed = needed(nodes, result)
        self._readers: dict[str, list[int]] = {node.name: [] for node in nodes}
        for place, reader in enumerate(nodes):
            for n in _read(reader):
                self._readers[n.name].append(place)
        self._forms: dict[str, Form | None] = {}

    def box(self, node: Bound) -> Box | None:
        """Bounds of a node whose predecessors have bounds; None: it has no form."""
        form = self.form(node)
        return None if form is None else form.box

    def form(self, node: Bound) -> Form | None:
        """The form of a node, if it has one; it is made of those of its predecessors."""
        last = self.nodes.index(node)
        for place in range(len(self._forms), last + 1):  # each after its inputs: nothing recurs
            n = self.nodes[place]
            self._forms[n.name] = self._made(n, place) if n.perturbed else None
            for before in _read(n):
                if self._readers[before.name][-1] == place:
                    self._forms[before.name] = None
            self._drop_beyond_memory(place)
        return self._forms[node.name]

    def _drop_beyond_memory(self, place: int) -> None:
        """Drop those forms that are read last while all take more memory than they may."""
        if self.most is None or self._held() <= self.most:
            return
        made = [name for name, form in self._forms.items() if form is not None]
        made.sort(key=lambda name: next((i for i in self._readers[name] if i > place), place))
        while made and self._held() > self.most:
            self._forms[made.pop()] = None

    def _held(self) -> int:
        """Bytes of all columns, of which some share their memory."""
        storages = (part.untyped_storage() for form in self._forms.values() if form is not None
                    for part in form.columns.values())
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def open_to(self, node: Bound, share: float) -> Tensor:
        """Entries of a node, (1, *S), that the result depends on and more may be known of than
        their forms say: of these more than a share is not linear in the inputs.
        """
        needed = self.needed(node)
        if share == 0 or (form := self._forms.get(node.name)) is None:
            return needed
        linear: dict[Hashable, Tensor] = {
            key: part for key, part in form.columns.items() if isinstance(key, tuple)}
        sure = Form(form.center, linear, torch.zeros_like(form.error)).box.radius
        return needed & (sure < (1 - share) * form.box.radius)

    def needed(self, node: Bound) -> Tensor:
        """Entries of a node, (1, *S), on which the result depends."""
        nothing = torch.zeros(1, *node.output_shape[1:], dtype=torch.bool,
                              device=node.forward_value.device)
        return self._needed.get(node.name, nothing)

    def of_linear(self, linear: Linear) -> Form:
        """Linear bounds in the inputs, of S functions of one row, as a form of shape (1, S).

        Between both sides lies their mean, and half of how far they are apart is the error.
        """
        columns: dict[Hashable, Tensor] = {}
        center, error = ((linear.upper + sign * linear.lower) / 2 for sign in (1, -1))
        for node in self.nodes:
            if node.name not in linear.inputs:
                continue
            middle, radius = (side.flatten() for side in box_of(node).around)
            lower, upper = (flat_functions(A)[:, 0] for A in dense_sides(*linear.inputs[node.name])
                            if A is not None)
            mean, half = (lower + upper) / 2, (upper - lower) / 2
            center = center + (mean @ middle)[:, None]
            error = error + (half @ middle + half.abs() @ radius)[:, None]
            for first, part in _parts(radius):
                columns[node.name, first] = (mean[:, first:first + len(part)] * part).T
        return Form(center.T, columns, error.T.clamp(min=0))

    def renew(self, node: Bound, index: Tensor, parts: Sequence[Form]) -> None:
        """Put linear bounds of all needed entries that move in the place of a node's form, if they
        are tighter; of others no more is known than their range.

        Args:
            node: the node.
            index: (S,), these entries in the flattened node.
            parts: forms of theirs, as `of_linear` makes them, side by side.
        """
        old = self.form(node)
        if old is None:
            return

        def put(sides: Iterable[Tensor], into: Tensor) -> Tensor:
            flat = into.flatten(1).index_copy(1, index, torch.cat(list(sides), 1))
            return flat.reshape(into.shape)

        nothing = torch.zeros_like(old.error)
        columns = {key: put((part.columns[key] for part in parts),
                            nothing.new_zeros(len(column), *nothing.shape[1:]))
                   for key, column in parts[0].columns.items()}
        new = Form(put((part.center for part in parts), old.center), columns,
                   put((part.error for part in parts), old.box.radius))
        if new.box.radius.sum() < old.box.radius.sum():
            self._forms[node.name] = _with_errors(node, new.center, columns, nothing, new.error)

    def _made(self, node: Bound, place: int) -> Form | None:
        ball = getattr(node, "perturbation", None)
        if ball is not None:
            is_box = type(ball) is PerturbationLpNorm and ball.norm == math.inf
            return _of_input(node.name, box_of(node)) if is_box else None
        read = _read(node)
        forms = [self._forms.get(n.name) if n in read else None for n in node.inputs]
        if not read or any(form is None and n in read and n.perturbed or moving_box(n) is not None
                           for form, n in zip(forms, node.inputs, strict=True)):
            return None
        known = [value_of(n) if form is None and n in read else None
                 for form, n in zip(forms, node.inputs, strict=True)]
        expansion = node.expansion(*[value if form is None else form.center
                                     for form, value in zip(forms, known, strict=True)])
        is_last = [self._readers[n.name][-1:] == [place] and node.inputs.count(n) == 1
                   for n in node.inputs]
        return None if expansion is None else _mapped(node, expansion, forms, is_last)


def _read(node: Bound) -> list[Bound]:
    """The inputs of whose forms that of a node is made."""
    return ([node.inputs[i] for i in node.expanded_inputs()]
            if isinstance(node, BoundOperator) else [])


def _of_input(name: str, box: Box) -> Form:
    center, radius = box.around
    columns: dict[Hashable, Tensor] = {}
    for first, part in _parts(radius.flatten()):
        index = torch.arange(first, first + len(part), device=part.device)
        columns[name, first] = _one_hot(index, part, radius.shape[1:])
    return Form(center, columns, torch.zeros_like(center))


def _parts(radius: Tensor) -> list[tuple[int, Tensor]]:
    """Entries of an input, (d,), in parts that are columns of one tensor, each with its first."""
    count = max(1, COLUMNS // (WIDER * len(radius)))
    return [(i, radius[i:i + count]) for i in range(0, len(radius), count)]


def _one_hot(index: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    """Tensors (d, *S) with one value each, at an index of the flattened tensor."""
    columns = values.new_zeros(len(index), math.prod(shape))
    return columns.scatter(1, index[:, None], values[:, None]).reshape(-1, *shape)


def _mapped(node: Bound, expansion: Expansion, forms: Sequence[Form | None],
            is_last: Sequence[bool]) -> Form:
    """The form of an operator's output from those of its inputs; columns of a form that nobody else
    reads are dropped on the way.
    """
    moving = [{} if form is None else form.columns for form in forms]
    columns = {}
    for key in list(dict.fromkeys(key for own in moving for key in own)):
        parts = [own.pop(key, None) if last else own.get(key)
                 for own, last in zip(moving, is_last, strict=True)]
        columns[key] = expansion.linear(*parts)
    error = expansion.magnitude(*[None if form is None else form.error for form in forms])
    if expansion.error is None:
        return Form(expansion.value, columns, error)
    return _with_errors(node, expansion.value, columns, error, expansion.error)


def _with_errors(node: Bound, center: Tensor, columns: dict[Hashable, Tensor], error: Tensor,
                 new: Tensor) -> Form:
    """Add an error (1, *S) of each entry; the largest become columns, which may cancel later."""
    flat = new.flatten()
    inputs, fresh = (sum(len(part) for key, part in columns.items()
                         if isinstance(key, tuple) is of_input) for of_input in (True, False))
    largest, index = flat.topk(max(0, min(FRESH, len(flat), inputs // 2 - fresh)))
    index = index[largest > 0]
    if len(index):
        columns[node.name] = _one_hot(index, flat[index], new.shape[1:])
    return Form(center, columns, error + flat.index_fill(0, index, 0.0).reshape(new.shape))


def worth(inputs: Iterable[Bound], width: int) -> bool:
    """Whether a network is so large that the pass is worth it.

    Args:
        inputs: the nodes of inputs that move.
        width: neurons of the widest layer.
    """
    entries = sum(node.value[0].numel() for node in inputs)
    return entries * width >= LARGE or width * width >= LARGE_DENSE
