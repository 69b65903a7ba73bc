"""What is bounded in which order.

Pre-activations are bounded front to back, then upstream gradients back to front, then the result.
Interval bounds come first; linear bounds follow only for the entries that a relaxation can still
gain from.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from auto_LiRPA.bound_ops import Bound
from auto_LiRPA.perturbations import Perturbation
from torch import Tensor

from ..boxes import Box
from ..operators.activation import BoundActivation
from ..operators.bound import flat_rows
from ..operators.max_pooling import BoundMaxPool, BoundPooled
from ..operators.windows import Comparison, Race
from .backward import Linear
from .forward import Form, Forms, worth
from .memory import Memory
from .methods import Method
from .network import Network, Readers
from .optimize import Optimization, optimized
from .parameters import Parameters
from .picked import first_true, joined, with_entries
from .portions import Portions
from .slack import negligible

ONE_SIDE = 2 ** 21
"""Coefficients of all functions of a node from which on the bounds that may suffice are computed
before the others."""

PRICE = 2 ** 28
"""Coefficients of all functions of a node from which linear bounds are computed of those entries
alone whose affine forms consist of errors, which is what linear bounds can gain; of fewer
coefficients also where errors are the same share of a form, ..."""

LEAST_SHARE, MOST_SHARE = 0.05, 0.9
"""... which below the first counts for nothing, and is at most the second."""

FEW_OPEN = 0.02
"""Share of a layer's entries up to which these are bounded one by one at once, without a pass for
all of them."""


class Schedule:
    """One method at work on one network.

    A method that bounds otherwise is a subclass: `bounds` for one that chooses other sets to bound
    over, such as parts of the inputs' balls; `bound_within`, `result` or `linear` for one that
    bounds something else over the same sets.

    Args:
        network: what is bounded.
        method: by what.
        memory: how much of it at once.
        options: how planes are chosen, where the method chooses them.
        parameters: those that move; None if none does.
        rounded: whether bounds are of what is computed in floating point.
        slack: share of a layer's gaps that neurons without linear bounds may have.
    """

    def __init__(self, network: Network, method: Method, memory: Memory, options: Optimization,
                 parameters: Parameters | None = None, rounded: bool = False,
                 slack: float = 0.0) -> None:
        self.network, self.method, self.memory, self.options = network, method, memory, options
        self.parameters, self.rounded, self.slack = parameters, rounded, slack
        self.portions = Portions(memory, method, network.costs)

    def bounds(self, inputs: tuple[Tensor, ...], perturbations: tuple[Perturbation | None, ...],
               functions: Tensor | None) -> Box:
        """Bounds of the network's output, or of linear functions of it; see `engine.Engine`."""
        with self.network.at(inputs, perturbations, self.parameters, self.rounded), \
                self.portions.measured(len(inputs[0])):
            self.bound_within()
            return self.result(functions)

    def forms(self, inputs: tuple[Tensor, ...],
              perturbations: tuple[Perturbation | None, ...]) -> tuple[Box, Linear]:
        """Bounds of the network's output, one number, and its linear bounds; see
        `engine.Engine`.
        """
        with self.network.at(inputs, perturbations, self.parameters, self.rounded), \
                self.portions.measured(len(inputs[0])):
            self.bound_within()
            return self.result(None), self.network.forms(perturbations)

    def lower_bound(self, inputs: tuple[Tensor, ...],
                    perturbations: tuple[Perturbation | None, ...], functions: Tensor) -> Tensor:
        """The linear lower bound of linear functions by itself; see `engine.Engine`."""
        with self.network.at(inputs, perturbations, self.parameters, self.rounded), \
                self.portions.measured(len(inputs[0])):
            self.bound_within()
            return self.network.linear(self.network.result, functions)[0]

    def bound_within(self) -> None:
        """Bound every node that a relaxation reads: intervals, then linear bounds of what is open
        for a reader.
        """
        forms = self._forms() if self.method.is_linear_within else None
        for node, readers in self.network.read_nodes(self.method.is_linear):
            for reader, _ in readers:
                reader.refuse_perturbed_parameters()
            self.network.settle(node, self._bounded(node, readers, forms))

    def _bounded(self, node: Bound, readers: Readers, forms: Forms | None) -> Box:
        """Bounds of a node, once all that relaxations before it read is settled."""
        box = self._start(node)
        if not self.method.is_linear_within:
            return box
        box = box if forms is None else self._first_pass(node, box, readers, forms)
        self._compare(node, box, readers)
        wanted = self._worth_a_pass(node, self._wanted(node, box, readers), forms)
        if not self._is_kept(node):
            box, wanted = self._by_sides(node, box, wanted, readers)
        return self._tightened(node, box, wanted, forms)

    def _start(self, node: Bound) -> Box:
        """What is known of a node before linear bounds of it."""
        return self.network.interval(node)

    def _forms(self) -> Forms | None:
        """Affine forms, where the network is large and one row is bounded for what its parameters
        are.
        """
        if (torch.is_grad_enabled() or self.rounded or self.parameters is not None
                or self.network.rows != 1
                or not worth(self.network.moving_inputs, self.memory.width)):
            return None
        self.network.interval(self.network.result)
        return Forms(self.network.nodes, self.network.result, self.portions.room)

    def _first_pass(self, node: Bound, box: Box, readers: Readers, forms: Forms) -> Box:
        """A box of a node cut to what affine forms say, where intervals leave a large share of it
        open.
        """
        wanted = self._open_entries(node, box, readers)
        if int(wanted.sum()) <= FEW_OPEN * wanted.numel() or (found := forms.box(node)) is None:
            return box
        return box.intersect(found.outward(self.network.rounding_margin(node))).ordered()

    def _worth_a_pass(self, node: Bound, wanted: Tensor, forms: Forms | None) -> Tensor:
        """Those of the wanted entries that the result depends on and of which linear bounds may
        tell more than affine forms do, by a share that is worth their price.
        """
        if forms is None or not wanted.any():
            return wanted
        wanted = wanted & forms.needed(node)
        price = int(wanted.sum()) * self.network.width_of(node) / PRICE
        return wanted & forms.open_to(node, min(price, MOST_SHARE) if price > LEAST_SHARE else 0.0)

    def result(self, functions: Tensor | None) -> Box:
        """Bounds of the output (B, D), or of linear functions (B, K, D) of it, once all within is
        bounded.
        """
        node = self.network.result
        box = self.network.interval(node)
        self.network.average_stretches()
        rows, count = box.lower.shape
        if functions is not None:
            box = self.network.of_interval(functions, box)
        if not self.method.has_linear_result:
            return box
        if functions is None:
            every = torch.arange(count, device=box.lower.device).expand(rows, -1)
            return box.intersect(self._linear_entries(node, every)).ordered()
        parts = (functions[:, part]
                 for part in self.portions.of("functions", functions.shape[1], rows))
        return box.intersect(self.linear(node, parts, functions.shape[1])).ordered()

    def linear(self, node: Bound, parts: Iterable[Tensor], count: int) -> Box:
        """Linear bounds of a node's linear functions, given in parts (B, K, D) of which each is
        bounded at once.

        Args:
            node: the node.
            parts: the functions.
            count: how many they are together; those that are not given are bounded by nothing.
        """
        bound = functools.partial(self.network.linear, node)
        relaxed = self.network.relaxations_before(node) if self.method.chosen else []
        sides = [optimized(bound, part, relaxed, self.options) if relaxed else bound(part)
                 for part in parts]
        return joined(sides, count)

    def _compare(self, node: Bound, box: Box, readers: Readers) -> None:
        """Bound by how much the entries of a node, in this box, lead each other, for the poolings
        that read it.
        """
        pools = [reader
                 for reader, i in readers if isinstance(reader, BoundPooled) and i == reader.pooled]
        known: dict[str, Comparison] = {}
        for pool in sorted(pools, key=lambda reader: not isinstance(reader, BoundMaxPool)):
            key = str(pool.settings | {"rectified": pool.rectified})
            if key not in known:
                known[key] = self._compared(node, pool, pool.race(box))
            pool.known = known[key]

    def _compared(self, node: Bound, pool: BoundPooled, race: Race) -> Comparison:
        """Linear bounds of the differences that decide a race, where its outcome is read at all."""
        ignored = torch.zeros_like(race.undecided)
        if isinstance(pool, BoundMaxPool):
            ignored = self.network.ignored(pool, self.network.interval(pool)).reshape(ignored.shape)
        wanted = race.rivals & ~ignored
        lead = race.lead.map(lambda side: torch.full_like(side, torch.inf))
        lead = Box(-lead.lower, lead.upper)
        if self._is_worth_a_side(node, int(wanted.sum())):
            lead = self._leads(node, race, lead, wanted, -1.0)
            lead = self._leads(node, race, lead, wanted & (lead.upper >= 0), 1.0)
        elif wanted.any():
            index = first_true(flat_rows(wanted))
            pairs, margin = self._pairs(node, race, index)
            bounds = self._linear_sums(node, pairs, [1.0, -1.0]).outward(margin)
            lead = with_entries(lead, index, bounds, flat_rows(wanted))
        return Comparison(race.pivot, lead, ignored)

    def _leads(self, node: Bound, race: Race, lead: Box, wanted: Tensor, sign: float) -> Box:
        """Leads with one linear bound more, the upper one if the sign is -1, of those that are
        wanted.
        """
        index = first_true(flat_rows(wanted))
        if not index.shape[1]:
            return lead
        pairs, margin = self._pairs(node, race, index)
        bound = sign * (self._lower_sums(node, pairs, [1.0, -1.0], torch.full_like(margin, sign))
                        - margin)
        old = lead.map(lambda side: flat_rows(side).gather(1, index))
        return with_entries(lead, index, Box(bound, old.upper)
                             if sign > 0 else Box(old.lower, bound), flat_rows(wanted))

    def _pairs(self, node: Bound, race: Race, index: Tensor) -> tuple[Tensor, Tensor]:
        """The two entries of each difference of a race, (B, K, 2), and by how much roundings may
        move it, (B, K).
        """
        pairs = torch.stack(race.pairs(index), 2)
        margin = flat_rows(self.network.rounding_margin(node))
        return pairs, margin.gather(1, pairs[..., 0]) + margin.gather(1, pairs[..., 1])

    def _wanted(self, node: Bound, box: Box, readers: Readers) -> Tensor:
        """Which entries of a node get linear bounds; bool, of the node's shape.

        Those of a function of one variable get none where its argument has: lines below the
        function, at the ends of the argument's bounds, are nowhere above its range.
        """
        if self._is_kept(node):
            wanted = torch.ones_like(box.lower, dtype=torch.bool)
        else:
            wanted = self._open_entries(node, box, readers)
            if self.slack:
                wanted = wanted & ~negligible(node, box, readers, self.network.current, self.slack)
        if isinstance(node, BoundActivation) and self.network.is_settled(node.inputs[0]):
            wanted = wanted & ~node.open_entries(0, self.network.current(node.inputs[0]))
        return wanted

    def _is_kept(self, node: Bound) -> bool:
        """Whether linear bounds of all entries of a node are kept, to end passes from far
        behind.
        """
        return not self.method.chosen and self.network.ends_passes(node)

    def _open_entries(self, node: Bound, box: Box, readers: Readers) -> Tensor:
        """Which entries of a node, in this box, a reader can gain from; bool, of the node's
        shape.
        """
        current, found = self.network.current, torch.zeros_like(box.lower, dtype=torch.bool)
        for reader, i in readers:
            if not found.all():
                found = found | reader.open_entries(
                    i, *[box if n is node else current(n) for n in reader.inputs])
        return found

    def _by_sides(self, node: Bound, box: Box, wanted: Tensor,
                  readers: Readers) -> tuple[Box, Tensor]:
        """A box in which one bound closes many of the wanted entries, and what is wanted of both
        sides still.

        The sign of most neurons follows from one of their bounds, that on the side of 0 on which
        the value itself is. The other one is computed for those alone that stay open.
        """
        if not self._is_worth_a_side(node, int(wanted.sum())):
            return box, wanted
        value = node.forward_value.clamp(*box)
        by_lower, by_upper = (~self._open_entries(node, part, readers)
                              for part in (Box(value, box.upper), Box(box.lower, value)))
        sign = by_lower.to(value) - (by_upper & ~by_lower).to(value)
        for side in (sign, -sign):
            of_side = wanted & (sign != 0)
            box = self._with_side(node, box, of_side, side)
            wanted = wanted & self._open_entries(node, box, readers)
        return box, wanted & (sign == 0)

    def _is_worth_a_side(self, node: Bound, count: int) -> bool:
        """Whether so many functions of a node take so long that each of their bounds counts."""
        is_plain = not (self.method.chosen or self.rounded or self.parameters is not None)
        return (is_plain and count * self.network.width >= ONE_SIDE
                and count * self.network.width_of(node) >= ONE_SIDE)

    def _with_side(self, node: Bound, box: Box, wanted: Tensor, sign: Tensor) -> Box:
        """A box with the linear lower bound of entries whose sign is 1, or the upper one where it
        is -1.
        """
        wanted, sign = flat_rows(wanted), flat_rows(sign)
        index = first_true(wanted)
        if not index.shape[1]:
            return box
        at = sign.gather(1, index)
        bound = at * self._lower_sums(node, index[..., None], [1.0], at)
        old = box.map(lambda side: flat_rows(side).gather(1, index))
        new = Box(torch.where(at > 0, torch.maximum(old.lower, bound), old.lower),
                  torch.where(at < 0, torch.minimum(old.upper, bound), old.upper)).ordered()
        return with_entries(box, index, new, wanted)

    def _tightened(self, node: Bound, box: Box, wanted: Tensor, forms: Forms | None = None) -> Box:
        """A box of a node cut to linear bounds of the wanted entries; these renew its affine forms
        if they are of all that moves.
        """
        if forms is not None and ((box.width > 0) & forms.needed(node) & ~wanted).any():
            forms = None
        wanted = flat_rows(wanted)
        index = first_true(wanted)
        if not index.shape[1]:
            return box
        linear = self._linear_entries(node, index, forms)
        old = box.map(lambda side: flat_rows(side).gather(1, index))
        better = old.intersect(linear).ordered()  # roundings may have crossed what both contain
        return with_entries(box, index, better, wanted)

    def _linear_entries(self, node: Bound, index: Tensor, forms: Forms | None = None) -> Box:
        """Linear bounds of a node's entries `index` (B, K) in the flattened node: each (B, K).

        Forms, if there are any, are renewed by them.
        """
        if forms is None or self.method.chosen:
            return self._linear_sums(node, index[..., None], [1.0])
        parts: list[Form] = []
        box = self._linear_sums(node, index[..., None], [1.0],
                                lambda linear: parts.append(forms.of_linear(linear)))
        forms.renew(node, index[0], parts)
        return box

    def _linear_sums(self, node: Bound, index: Tensor, weights: Sequence[float],
                     see: Callable[[Linear], None] | None = None) -> Box:
        """Linear bounds of weighted sums of n entries each, `index` (B, K, n) in the flattened
        node: each (B, K).
        """
        zero, rows, count = node.forward_value.new_zeros(()), len(index), index.shape[1]
        key, size = (node.name, len(weights)), math.prod(node.output_shape[1:])
        if self.method.chosen:  # planes are chosen for each function of a whole layer
            parts = (zero.new_zeros(rows, index[:, part].shape[1], size).scatter_add(
                2, index[:, part], zero.new_tensor(weights).expand(index[:, part].shape))
                for part in self.portions.of(key, count, rows))
            return self.linear(node, parts, count)
        fits = count <= self.memory.functions_at_once(rows, self.method)
        width = None if fits or self.memory.limit is not None else self.network.width_of(node)
        is_whole = (count, len(weights)) == (size, 1)
        fits = fits or count <= self.memory.functions_at_once(rows, self.method, width)
        if is_whole and fits and self.network.ends_passes(node):
            return self.network.linear(*self.network.sums(node, index, weights),
                                       keep=True, see=see).or_nothing()
        sums = (self.network.sums(node, index[:, part], weights)
                for part in self.portions.of(key, count, rows, width))
        return joined([self.network.linear(of, functions, see=see) for of, functions in sums],
                       count)

    def _lower_sums(self, node: Bound, index: Tensor, weights: Sequence[float],
                    sign: Tensor) -> Tensor:
        """Linear lower bounds of the same, each times a sign (B, K): (B, K)."""
        rows, count = index.shape[:2]
        key, width = (node.name, len(weights), "side"), self.network.width_of(node)
        found = [
            self.network.lower(*self.network.sums(node, index[:, part], weights, sign[:, part]))
            for part in self.portions.of(key, count, rows, width)]
        return joined([Box.point(part) for part in found], count).lower
