"""A cheap pass first: affine forms of a whole layer, carried forward once through a network.

In deep convolutional nets intervals leave most neurons open of which linear bounds then close all
but a few, at the price of one pass back for each. An affine form says the same of all neurons of a
layer at once, a little less tightly:

    y = center + sum_d columns_d e_d + error f,    e_d and f anywhere in [-1, 1],

with one e_d for each entry of the input and for each relaxed neuron, and an error of each entry's
own. Affine steps map it; of a function between two lines the mean slope is taken, and what lies
between is an error; a maximum is its pivot and a lead of at most U.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
from auto_LiRPA.bound_ops import Bound
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor

from ..boxes import Box
from ..operators.activation import BoundActivation
from ..operators.affine import BoundAffine
from ..operators.bound import box_of, moving_box, value_of
from ..operators.max_pooling import BoundMaxPool

LARGE = 2 ** 24
"""Entries of the input times neurons of the widest layer from which on the pass is worth it, for
one row at a time."""

COLUMNS = 2 ** 22
"""Most entries of one tensor of columns that are mapped at once, about: layers are up to ..."""

WIDER = 8
"""... so many times as wide as the input."""

FRESH = 512
"""Most entries of a layer whose errors, the largest ones, are columns of their own, which later
layers add up with their signs; at most half as many as the input has, in all."""

LIVE = 2.1
"""Forms that are alive at once, where two paths meet, and what is mapped: times the largest form,
memory is taken."""


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

    @property
    def box(self) -> Box:
        """Where it lies."""
        radius = sum((part.abs().sum(0, keepdim=True) for part in self.columns.values()),
                     self.error)
        return Box(self.center - radius, self.center + radius)

    def mapped(self, function: Callable[[Tensor], Tensor], is_last: bool) -> dict[Hashable, Tensor]:
        """The columns mapped; those of a form that nobody else reads are dropped on the way."""
        if not is_last:
            return {key: function(part) for key, part in self.columns.items()}
        return {key: function(self.columns.pop(key)) for key in list(self.columns)}


class Forms:
    """The forms of a network's nodes, made when they are asked for, and dropped when all have read
    them.

    Args:
        nodes: all nodes, each after its inputs.
    """

    def __init__(self, nodes: Sequence[Bound]) -> None:
        self.nodes = nodes
        self._left = {node.name: sum(n is node for reader in nodes if isinstance(reader, READERS)
                                     for n in reader.inputs) for node in nodes}
        self._forms: dict[str, Form | None] = {}

    def box(self, node: Bound) -> Box | None:
        """Bounds of a node whose predecessors have bounds; None: it has no form."""
        # each after its inputs, so that nothing recurs
        for n in self.nodes[:self.nodes.index(node) + 1]:
            if n.name not in self._forms:
                self._forms[n.name] = self._made(n) if n.perturbed else None
                for before in n.inputs if isinstance(n, READERS) else ():
                    self._left[before.name] -= 1
                    if self._left[before.name] == 0:
                        self._forms[before.name] = None
        form = self._forms[node.name]
        return None if form is None else form.box

    def _made(self, node: Bound) -> Form | None:
        ball = getattr(node, "perturbation", None)
        if ball is not None:
            is_box = type(ball) is PerturbationLpNorm and ball.norm == math.inf
            return _of_input(node.name, box_of(node)) if is_box else None
        forms = [self._forms.get(n.name) for n in node.inputs]
        if not isinstance(node,
                          READERS) or any(form is None and n.perturbed or moving_box(n) is not None
                                          for form, n in zip(forms, node.inputs, strict=True)):
            return None
        is_last = [self._left[n.name] == 1 for n in node.inputs]
        if isinstance(node, BoundAffine):
            if node.operator.name == "add":
                return _sum(node, forms, is_last)
            return (_together(node, forms)
                    if node.operator.name == "concatenate" else _affine(node, forms, is_last[0]))
        form = forms[0]
        if form is None:
            return None
        return (_between_lines(node, form, is_last[0])
                if isinstance(node, BoundActivation) else _largest(node, form, is_last[0]))


READERS = (BoundAffine, BoundActivation, BoundMaxPool)
"""The operators that hand forms on."""


def _of_input(name: str, box: Box) -> Form:
    center, radius = box.around
    count = max(1, COLUMNS // (WIDER * radius.numel()))
    flat = radius.flatten()
    columns: dict[Hashable, Tensor] = {}
    for i in range(0, len(flat), count):
        part = flat[i:i + count]
        columns[name, i] = _one_hot(torch.arange(i, i + len(part), device=part.device), part,
                                    radius.shape[1:])
    return Form(center, columns, torch.zeros_like(center))


def _one_hot(index: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    """Tensors (d, *S) with one value each, at an index of the flattened tensor."""
    columns = values.new_zeros(len(index), math.prod(shape))
    return columns.scatter(1, index[:, None], values[:, None]).reshape(-1, *shape)


def _sum(node: BoundAffine, forms: list[Form | None], is_last: list[bool]) -> Form:
    """Of x + y, either of which may be fixed, and be broadcast."""
    shape = node.output_shape[1:]
    centers = [value_of(n) if form is None else form.center
               for n, form in zip(node.inputs, forms, strict=True)]
    moving = [form for form in forms if form is not None]
    columns: dict[Hashable, Tensor] = {}
    for form, last in zip(forms, is_last, strict=True):
        own = {} if form is None else form.columns
        for key in list(own):
            part = own.pop(key) if last else own[key]
            columns[key] = columns.pop(key) + part if key in columns else part.expand(-1, *shape)
    error = functools.reduce(torch.add, [form.error.expand(1, *shape) for form in moving])
    return Form(functools.reduce(torch.add, centers).expand(1, *shape), columns, error)


def _together(node: BoundAffine, forms: list[Form | None]) -> Form:
    """Of several values side by side: what belongs to one of them is 0 at the places of the
    others.
    """
    centers = [value_of(n) if form is None else form.center
               for n, form in zip(node.inputs, forms, strict=True)]

    def at_own_place(part: Tensor, place: int) -> Tensor:
        return node.forward(*[part if i == place else center.new_zeros(len(part), *center.shape[1:])
                              for i, center in enumerate(centers)])

    columns: dict[Hashable, Tensor] = {}
    errors = []
    for i, form in enumerate(forms):
        for key, part in () if form is None else form.columns.items():
            mapped = at_own_place(part, i)
            columns[key] = columns[key] + mapped if key in columns else mapped
        errors.append(torch.zeros_like(centers[i]) if form is None else form.error)
    return Form(node.forward(*centers), columns, node.forward(*errors))


def _affine(node: BoundAffine, forms: list[Form | None], is_last: bool) -> Form | None:
    """Of an affine step of its first input: columns without its constant, and errors by its
    magnitude.
    """
    form = forms[0]
    if (form is None or any(forms[1:])
            or node.traits.magnitude is None and not node.traits.homogeneous):
        return None
    weights = [value_of(n) for n in node.inputs[1:]]
    return Form(node.forward(form.center, *weights),
                form.mapped(lambda part: node.forward(part, *weights), is_last),
                node.magnitude(form.error, *weights))


def _between_lines(node: BoundActivation, form: Form, is_last: bool) -> Form:
    """Of a function of one variable: what lies between its lines is a column for each of a few
    entries.
    """
    box = box_of(node.inputs[0])
    (below, low), (above, high) = node.planes(box)
    slope = (below + above) / 2
    least = torch.minimum(*((below - slope) * end + low for end in box))
    most = torch.maximum(*((above - slope) * end + high for end in box))
    between, center = (most - least) / 2, slope * form.center + (least + most) / 2
    columns = form.mapped(lambda part: slope * part, is_last)
    return _with_errors(node, center, columns, slope.abs() * form.error, between)


def _largest(node: BoundMaxPool, form: Form, is_last: bool) -> Form:
    """Of maxima: the pivots, and half of by how much another position may lead these."""
    race = node.race(box_of(node.inputs[0]))
    shape = node.output_shape[1:]

    def pivots(x: Tensor) -> Tensor:
        return x.flatten(1).gather(1, race.place.expand(len(x), -1)).reshape(-1, *shape)

    lead = race.lead.upper.masked_fill(~race.candidates,
                                       0.0).clamp(min=0).amax(2).reshape(1, *shape) / 2
    return _with_errors(node, pivots(form.center) + lead, form.mapped(pivots, is_last),
                        pivots(form.error), lead)


def _with_errors(node: Bound, center: Tensor, columns: dict[Hashable, Tensor], error: Tensor,
                 new: Tensor) -> Form:
    """A form with new errors of its entries, (1, *S): the largest are columns, which later layers
    add up by sign.
    """
    flat = new.flatten()
    inputs, fresh = (sum(len(part) for key, part in columns.items()
                         if isinstance(key, tuple) is of_input) for of_input in (True, False))
    largest, index = flat.topk(max(0, min(FRESH, len(flat), inputs // 2 - fresh)))
    index = index[largest > 0]
    if len(index):
        columns[node.name] = _one_hot(index, flat[index], new.shape[1:])
    return Form(center, columns, error + flat.index_fill(0, index, 0.0).reshape(new.shape))


def worth(inputs: Iterable[Bound], width: int, item_size: int, limit: int | None) -> bool:
    """Whether a network is so large that the pass is worth it, and there is the memory for it.

    Args:
        inputs: the nodes of inputs that move.
        width: neurons of the widest layer.
        item_size: bytes of an entry.
        limit: bytes that are left, or None.
    """
    entries = sum(node.value[0].numel() for node in inputs) * width
    return entries >= LARGE and (limit is None or LIVE * entries * item_size <= limit)
