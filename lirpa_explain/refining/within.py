"""Bounds within domains: a schedule whose rows are domains, and whose linear bounds feel the
half-spaces.

Front to back, every node that a relaxation reads is bounded as for CROWN, with its linear bounds
kept as functions of the inputs: their extremes are those over the ball cut by the half-spaces of
all decisions before. A node's own decisions then add theirs, made of its linear bounds, and narrow
its box. Where what is known of a node is empty, beyond roundings, the domain is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from auto_LiRPA.bound_ops import Bound
from auto_LiRPA.perturbations import Perturbation
from torch import Tensor

from ..bounding.backward import Linear
from ..bounding.gains import KINKS, gains, splittable, watching
from ..bounding.network import Readers
from ..bounding.reach import reached
from ..bounding.schedule import Schedule
from ..boxes import Box
from ..operators.activation import BoundActivationGradient
from ..operators.bound import Coefficient, flat_functions, flat_rows
from ..operators.planes import to_shape
from ..rounding import DECIDED, roundings
from .cuts import ROUNDS, Cuts, least
from .domains import INPUT, Domain, Limits
from .functions import Functions
from .ground import Ground

MOST_INPUTS = 64
"""Entries of inputs up to which it is noted what they have to do with each pre-activation."""


Reads = Mapping[str, Tensor]
"""Masks of entries of nodes, by name."""


@dataclass
class Bounded:
    """What is known of functions on domains, one a row.

    Args:
        lower: (B, K), lower bounds.
        at: coefficients of the inputs in these bounds, (B, K, D): where the bounds want the inputs.
        box: of the inputs that move, (B, D) each.
        gains: by node, `INPUT` for the inputs, (B, K, n): about how much a function's bound can
            gain from knowing an entry exactly.
        wants: likewise by kinks, above 0 where the bound is lower for an entry above 0, below 0 for
            one below.
        behind: by node, (B, n): about how much the domain's half-spaces can gain likewise, where
            functions gain nothing.
        reads: of whole balls, which entries of upstream gradients the bounds are made of, by node:
            (B, K, n).
    """

    lower: Tensor
    at: Tensor
    box: Box
    gains: dict[str, Tensor] = field(default_factory=dict)
    wants: dict[str, Tensor] = field(default_factory=dict)
    behind: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)


class WithinDomains(Schedule):
    """CROWN within domains."""

    def run(self, inputs: tuple[Tensor, ...], balls: tuple[Perturbation | None, ...],
            domains: Sequence[Domain], functions: Tensor | None, rounds: int = ROUNDS,
            reads: Reads | None = None) -> Bounded | None:
        """Bound domains that are not bounded yet, and functions on all of them.

        Args:
            inputs: of the engine, a row for each domain.
            balls: likewise.
            domains: B of them; their boxes, and whether they are empty, are set.
            functions: (B, K, D), functions of which lower bounds are wanted; None for none.
            rounds: of the multipliers; 0 for none, the half-spaces then being left out.
            reads: the entries (B, n) of upstream gradients that these functions read, by node;
                default: all. Further ones have their bounds on a larger domain.
        """
        self.ground, self.rounds = Ground.of(inputs, balls), rounds
        with torch.no_grad(), self.network.at(inputs, balls):
            self.moving = [node for ball in balls if ball is not None
                           for node in self.network.moving_inputs if node.perturbation is ball]
            self.cuts, self.effects = (Cuts.none(self.ground.center),
                                       dict[str, tuple[Tensor, Tensor]]())
            self.empty = torch.zeros(len(domains), dtype=torch.bool, device=inputs[0].device)
            fresh = not all(domain.is_bounded for domain in domains)
            boxes, self.open, self.read = dict[str, Box](), dict[str, Tensor](), dict[str, Tensor]()
            nodes, self.reads = list(self.network.read_nodes(True)), reads or {}
            self.upstream = {node.name for node, readers in nodes if _reads_gradients(readers)}
            self.marks, self.behind = self._unknown(domains), dict[str, Tensor]()
            for node, readers in nodes:
                boxes[node.name] = self._bound(node, readers, domains, fresh)
            for i, (domain, is_empty) in enumerate(zip(domains, self.empty.tolist(), strict=True)):
                domain.settle({name: Box(box.lower[i], box.upper[i])
                               for name, box in boxes.items()},
                              {name: mask[i] for name, mask in self.open.items()},
                              {name: mask[i] for name, mask in self.read.items()}, is_empty)
            self.kinks = self._splittable()
            return (None if functions is None
                    else self._functions(functions, any(d.whole is None for d in domains)))

    def _splittable(self) -> dict[str, bool]:
        """Nodes whose entries can be cut, and whether that is at the one kink at 0."""
        found: dict[str, bool] = {}
        for operator in self.network.relaxations_before(self.network.result):
            place = splittable(operator)
            if place is not None:
                name = operator.inputs[place].name
                found[name] = found.get(name, True) and operator.operator.name in KINKS
        return found

    def _bound(self, node: Bound, readers: Readers, domains: Sequence[Domain], fresh: bool) -> Box:
        """Bound a node, settle it, and add the half-spaces of its decisions; its box, (B, n)."""
        for reader, _ in readers:
            reader.refuse_perturbed_parameters()
        box = self.network.interval(node)
        shape, box = box.lower.shape, box.map(flat_rows)
        limits = Limits.of(domains, node.name, box.lower)
        margin = flat_rows(self.network.rounding_margin(node)).expand_as(box.lower)
        known = [domain.box(node.name) or Box(box.lower[i], box.upper[i])
                 for i, domain in enumerate(domains)]
        box = box.intersect(Box(*(torch.stack(side) for side in zip(*known, strict=True))))
        box = box.ordered()
        self._compare(node, box.map(lambda side: side.reshape(shape)), readers)
        if fresh or node.name in self.upstream:
            is_open = flat_rows(self._open_entries(node, box.map(lambda side: side.reshape(shape)),
                                                   readers))
            if fresh:
                self.open[node.name] = is_open
            if limits.count:
                seen: dict[str, Tensor] = {}
                self._add_cuts(self._linear(node, limits.entry, seen), limits, margin)
                self._note_behind(seen, limits)
            wanted = (is_open | limits.mask(is_open.shape[1])) & self._is_news(
                node, is_open, domains)
            box = self._cut(node, box, wanted, limits, margin)
        self.network.settle(node, box.map(lambda side: side.reshape(shape)))
        if limits.count:
            self._decide(node, box, limits, shape)
        return box

    def _unknown(self, domains: Sequence[Domain]) -> dict[str, Tensor]:
        """The inputs, marked where more is known of them than the bounds that domains have
        inherited say.
        """
        every = torch.tensor([domain.since is None or any(d.node == INPUT for d in domain.decisions)
                              for domain in domains], device=self.ground.center.device)
        return self._marked(every[:, None].expand_as(self.ground.center))

    def _marked(self, inputs: Tensor) -> dict[str, Tensor]:
        """A mask (B, D) of the inputs, by their nodes."""
        return {node.name: mask.reshape(len(mask), *node.output_shape[1:])
                for node, mask in zip(self.moving, inputs.split(self.ground.sizes, 1), strict=True)}

    def _is_news(self, node: Bound, like: Tensor, domains: Sequence[Domain]) -> Tensor:
        """Entries (B, n) of a node that more may be known of than the domains know.

        Those of upstream gradients that functions read and nobody has bounded; else what depends on
        inputs that a new half-space depends on: all new bounds come from these.
        """
        if node.name not in self.upstream:
            return flat_rows(reached(node, self.marks))
        self.read[node.name] = reads = self.reads.get(node.name, torch.ones_like(like))
        return reads & ~torch.stack([torch.zeros_like(like[0]) | domain.is_read(node.name)
                                     for domain in domains])

    def _cut(self, node: Bound, box: Box, wanted: Tensor, limits: Limits, margin: Tensor) -> Box:
        """The box cut to linear bounds of the wanted entries, (B, n)."""
        most = int(wanted.sum(1).max())
        if not most:
            return box
        index = wanted.to(torch.int8).topk(most, 1).indices
        lower, upper = self._linear(node, index)
        if self.ground.is_box and sum(self.ground.sizes) <= MOST_INPUTS:
            reach = ((lower.dense().abs() + upper.dense().abs()) / 2) * self.ground.radius[:, None]
            least_width = torch.finfo(reach.dtype).tiny ** 0.5
            self.effects[node.name] = (index,
                                       reach / reach.sum(2, keepdim=True).clamp(min=least_width))
        both = least(self.ground, Functions.joined([lower, -upper]), self.cuts, self.rounds)
        old = box.map(lambda side: side.gather(1, index))
        new = old.intersect(Box(both[:, :most], -both[:, most:]))
        possible = new.intersect(
            limits.box(wanted.shape[1]).map(lambda side: side.gather(1, index)))
        self.empty |= (possible.lower - possible.upper > 2 * margin.gather(1, index)).any(1)
        new = new.ordered()
        return Box(*(side.scatter(1, index, part) for side, part in zip(box, new, strict=True)))

    def _linear(self, node: Bound, index: Tensor,
                seen: dict[str, Tensor] | None = None) -> tuple[Functions, Functions]:
        """Linear bounds, below and above, of entries (B, K) of a node as functions of the inputs.

        Args:
            node: whose entries.
            index: which of them.
            seen: gets the coefficients (K, B, *output) that arrive at relaxations, by operator.
        """
        chunk = self.memory.functions_at_once(len(index), self.method, self.network.width_of(node))
        operators = [] if seen is None else self.network.relaxations_before(node)
        below, above, noted = list[Functions](), list[Functions](), list[dict[str, Tensor]]()
        for part in index.split(chunk, 1):
            noted.append({})
            with watching(operators, noted[-1].__setitem__):
                linear = self.network.in_inputs(*self.network.sums(node, part[..., None], (1.0,)))
            below.append(self._in_inputs(linear, 0, part.shape[1]))
            above.append(self._in_inputs(linear, 1, part.shape[1]))
        if seen is not None:
            seen |= {name: torch.cat([some[name] for some in noted]) for name in noted[0]}
        return Functions.joined(below), Functions.joined(above)

    def _in_inputs(self, linear: Linear, side: int, count: int) -> Functions:
        """One side of linear bounds of so many functions, over all inputs that move."""
        constant = (linear.upper if side else linear.lower).expand(count, len(self.ground.center)).T
        coefficients = [linear.inputs.get(node.name, (None, None))[side] for node in self.moving]
        return Functions.of(coefficients, constant, self.ground.sizes)

    def _add_cuts(self, sides: tuple[Functions, Functions], limits: Limits, margin: Tensor) -> None:
        """Half-spaces: where z >= place, its upper linear bound is; where z <= place, its lower
        one.

        Args:
            sides: linear bounds of the decided entries.
            limits: the decisions.
            margin: by how much roundings may move entries of the node.
        """
        (lower, upper), up = sides, limits.side > 0
        G = torch.where(up[..., None], upper.dense(), -lower.dense()) * limits.side.abs()[..., None]
        h = torch.where(up, upper.c,
                        -lower.c) - limits.side * limits.place + margin.gather(1, limits.entry)
        self.cuts = self.cuts.and_also(G, torch.where(limits.side == 0, torch.ones_like(h), h))
        news = self._marked(((G != 0) & limits.is_new[..., None]).any(1))
        self.marks = {name: self.marks[name] | mask for name, mask in news.items()}

    def _note_behind(self, seen: dict[str, Tensor], limits: Limits) -> None:
        """Add up what the half-spaces added last, relative to their extent, can gain from knowing
        pre-activations.
        """
        extent = (self.cuts.G[:, -limits.count:].abs() * self.ground.radius[:, None]).sum(2)
        share = limits.side.abs() / extent.clamp(min=torch.finfo(extent.dtype).tiny ** 0.5)
        operators = self.network.relaxations_before(self.network.result)
        for name, gain in gains(operators, seen, True).items():
            own = torch.einsum("bmn,bm->bn", gain, share)
            self.behind[name] = self.behind[name] + own if name in self.behind else own

    def _decide(self, node: Bound, box: Box, limits: Limits, shape: torch.Size) -> None:
        """Narrow a settled node to what is decided, so that relaxations see it on the right side of
        the place.
        """
        lower, upper = flat_rows(node.lower), flat_rows(node.upper)
        reach = roundings(DECIDED, lower.dtype) * torch.maximum(lower.abs(), upper.abs())
        decided = limits.box(lower.shape[1])
        low, high = (torch.fmax(lower, decided.lower + reach),
                     torch.fmin(upper, decided.upper - reach))
        crossed = low > high  # as good as empty: one of both sides is as right as the other
        low, high = (torch.where(crossed & decided.upper.isfinite(), high, low),
                     torch.where(crossed & ~decided.upper.isfinite(), low, high))
        node.lower, node.upper = node.interval = Box(low.reshape(shape), high.reshape(shape))

    def _functions(self, functions: Tensor, notes_reads: bool) -> Bounded:
        """Lower bounds of functions of the result."""
        node = self.network.result
        operators = self.network.relaxations_before(node)
        parts, noted = [], list[tuple[dict[str, Tensor], ...]]()
        for part in functions.split(self.memory.functions_at_once(len(functions), self.method), 1):
            seen: dict[str, Tensor] = {}
            with watching(operators, seen.__setitem__):
                linear = self.network.in_inputs(*self._of_result(part), lower_only=True)
            bound = self._in_inputs(linear, 0, part.shape[1])
            parts.append((least(self.ground, bound, self.cuts, self.rounds), bound.dense()))
            noted.append((gains(operators, seen, True), gains(operators, seen, False),
                          self._wants(seen), self._reads_of(seen) if notes_reads else {}))
        joined, rest, wants, read = ({name: torch.cat([some[name] for some in kind], 1)
                                      for name in kind[0]} for kind in zip(*noted, strict=True))
        lower, A = (torch.cat(tensors, 1) for tensors in zip(*parts, strict=True))
        box = self.network.of_interval(functions, self.network.interval(node))
        inputs = Box(self.ground.center - self.ground.radius,
                     self.ground.center + self.ground.radius)
        if self.effects:
            shared = [gain for gain in map(self._input_gains, (joined, rest)) if len(gain)]
            joined |= {INPUT: sum(shared[1:], shared[0])} if shared else {}
        return Bounded(torch.fmax(lower, box.lower), A, inputs, joined, wants, self.behind, read)

    def _of_result(self, functions: Tensor) -> tuple[Bound, Coefficient]:
        """Functions (B, K, D) of the result as such of some node; of one entry each, they are local
        where it is one.
        """
        if bool(((functions != 0).sum(2) > 1).any()):
            return self.network.result, functions
        entry = functions.abs().argmax(2, keepdim=True)
        return self.network.sums(self.network.result, entry, (1.0,),
                                 functions.gather(2, entry)[..., 0])

    def _wants(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gains of kinks, below 0 where a lower bound of the functions is made by an entry below 0,
        (B, K, n).
        """
        found: dict[str, Tensor] = {}
        for operator in self.network.relaxations_before(self.network.result):
            if operator.name in seen and operator.operator.name in KINKS:
                A, node = -seen[operator.name] * operator.gap().abs(), operator.inputs[-1]
                if isinstance(operator, BoundActivationGradient):
                    A = A * self.network.current(operator.inputs[0]).center.sign()
                own = flat_functions(to_shape(A, node)).transpose(0, 1)
                found[node.name] = found[node.name] + own if node.name in found else own
        return found

    def _reads_of(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries of upstream gradients of which products have coefficients, (B, K, n)."""
        found: dict[str, Tensor] = {}
        for operator in self.network.relaxations_before(self.network.result):
            name = operator.inputs[0].name
            if name in self.upstream and operator.name in seen:
                read = flat_functions(to_shape((seen[operator.name] != 0).to(
                    seen[operator.name].dtype), operator.inputs[0])) != 0
                found[name] = (found[name] | read.transpose(0, 1)
                               if name in found else read.transpose(0, 1))
        return found

    def _input_gains(self, gains: dict[str, Tensor]) -> Tensor:
        """The gains of all nodes, shared out among the inputs by how much of the nodes' intervals
        is due to each.
        """
        found = []
        for name, (index, share) in self.effects.items():
            if name in gains:
                at = gains[name].gather(2, index[:, None].expand(-1, gains[name].shape[1], -1))
                found.append(torch.einsum("bki,bij->bkj", at, share))
        return torch.stack(found).sum(0) if found else torch.zeros(0)


def _reads_gradients(readers: Readers) -> bool:
    """Whether a node is read as an upstream gradient alone: what it is matters to functions only
    where these read it.
    """
    return all(isinstance(reader, BoundActivationGradient) and i == 0 for reader, i in readers)
