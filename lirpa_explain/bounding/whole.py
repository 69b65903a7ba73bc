"""A whole attribution as one module of bound operators, for verification pipelines of one's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import attributions
from ..attributions.combination import Combination
from ..attributions.plan import extras_of
from ..errors import UnsupportedAttribution
from ..graph import capture_program
from ..graph.relus import run_with_relus
from ..guards import isolated, untouched
from ..inputs import check_inputs, check_keywords, uncompiled
from ..operators import call
from .fold import Algebra, fold
from .rows import PlanRows

Samples = list[Tensor]
"""J values (N, D): of each sample of every example."""


class Steps(Algebra[Samples, Samples]):
    """The operations of a plan's sum as bound operators."""

    def times(self, x: Samples, factor: Samples) -> Samples:
        return [call("multiply", value, own) for value, own in zip(x, factor, strict=True)]

    def absolute(self, x: Samples) -> Samples:
        return [call("kink", value, slope=-1.0) for value in x]

    def square(self, x: Samples) -> Samples:
        return [call("power", value, exponent=2.0) for value in x]

    def mean(self, x: Samples, samples: int) -> Samples:
        return [total(x, [1 / samples] * samples)]

    def variance(self, x: Samples, samples: int) -> Samples:
        squares, (mean,) = self.mean(self.square(x), samples), self.mean(x, samples)
        return [total([*squares, *self.square([mean])], [1.0, -1.0])]


STEPS = Steps()


def total(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """A weighted sum as bound operators."""
    parts = [value if weight == 1 else call("scale", value, factor=float(weight))
             for value, weight in zip(values, weights, strict=True)]
    result = parts[0]
    for part in parts[1:]:
        result = call("add", result, part)
    return result


class AttributionModule(nn.Module):
    """An attribution, as a module from the inputs to it: points of a path, weights, multiplier,
    target and all.

    `module(x)` is `attribution.attribute(x, **attribute_kwargs)`, flat: (N, D). It is an ordinary
    module of bound operators, so `auto_LiRPA.BoundedModule(module, x)` bounds it, for sets, linear
    functions (`C`) and methods of one's own. What belongs to examples (targets, baselines, noise,
    further arguments) is that of these N examples; what is random is drawn once, here. Its
    parameters are the model's own.

    Args:
        attribution: an object of one of the classes in `lirpa_explain.ATTRIBUTIONS`.
        inputs: the examples (N, *S), or a tuple.
        torch_relus: whether ReLUs are torch's own, for verifiers that branch on these. Each
            pre-activation, of the forward pass and of gradients, is read by one of them.
        any_rows: whether, made of one example, it is for any number of rows near it, as verifiers
            use it.
        **attribute_kwargs: keywords of `attribution.attribute`.

    Raises:
        UnsupportedAttribution: there is no plan of it, or it is one at a decision's boundary, which
            moves with the inputs.
        UnsupportedOperation: the model contains an operation that has no bound operator.

    Example:
        >>> import lirpa_explain as lx
        >>> from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
        >>> from captum.attr import IntegratedGradients
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(),
        ...                             torch.nn.Linear(4, 2))
        >>> x = torch.rand(2, 3)
        >>> bounded = BoundedModule(lx.AttributionModule(IntegratedGradients(model), x, target=1,
        ...                                              n_steps=3), x)
        >>> ball = BoundedTensor(x, PerturbationLpNorm(eps=0.01))
        >>> lower, upper = bounded.compute_bounds((ball,), method="CROWN")
        >>> lower.shape, bool((lower <= upper).all())
        (torch.Size([2, 3]), True)
    """

    @uncompiled
    def __init__(self, attribution: Any, inputs: Tensor | tuple[Tensor, ...], *,
                 torch_relus: bool = False,
                 any_rows: bool = False, **attribute_kwargs: Any) -> None:
        super().__init__()
        self.torch_relus, self.any_rows = torch_relus, any_rows
        xs = check_inputs(inputs)
        check_keywords(attribute_kwargs)
        with isolated(xs[0].device, attribution), untouched(attribution), torch.no_grad():
            plan = attributions.make_plan(attribution, xs, attribute_kwargs)
            if plan.nearest is not None:
                raise UnsupportedAttribution("An attribution at a decision's boundary is no "
                                             "module: its points are searched for anew at each "
                                             "input. Use certify.")
            if plan.partners is not None:
                raise UnsupportedAttribution(f"{attributions.name_of(attribution)} is no module: "
                                             "what it says of one example depends on others, which "
                                             "are perturbed as well. Use certify.")
            function = attribution.forward_func if plan.function is None else plan.function
            extras = plan.first_extras(len(xs[0]), extras_of(attribute_kwargs))
            self.row = capture_program(plan.row_program(), function, xs, extras)
            self.plan, self.example = plan, xs
            self.sizes = [math.prod(x.shape[1:]) for x in xs]
            self._keep(PlanRows(plan, self.row, xs, (None,) * len(xs)))

    def _keep(self, rows: PlanRows) -> None:
        """Hold what rows are given beside the inputs: one buffer for each sample, step and input of
        a row.
        """
        count, samples = len(self.example[0]), self.plan.samples
        self.weights = rows.weights.tolist()
        every = torch.arange(count, device=self.example[0].device)
        for j in range(samples):
            for k in range(self.plan.steps):
                values = rows.values(every * samples + j, torch.full_like(every, k))
                for i, value in enumerate(values[len(self.example):]):
                    self.register_buffer(f"given_{j}_{k}_{i}", value.clone())
        if self.plan.combination is not None:
            self._keep_combination(self.plan.combination)
        if self.plan.multiply:
            added = rows.multiplier()[1] - torch.cat([x.flatten(1) for x in self.example],
                                                     1).repeat_interleave(samples, 0)
            for j in range(samples):
                self.register_buffer(f"added_{j}", added[j::samples].clone())

    def _keep_combination(self, of: Combination) -> None:
        """Hold the weight of each output in each entry: (J, D) if all examples have the same, else
        J of (N, D).
        """
        count = max(len(of.weights), len(of.index))
        index = of.index.expand(count, -1)[..., None].expand(-1, -1, of.weights.shape[2])
        weights = of.weights.expand(count, -1, -1).gather(1, index).to(self.example[0])
        self.entries = weights.shape[1]
        if count == 1:
            self.register_buffer("combined", weights[0].T.clone())
        for j in range(self.plan.samples if count > 1 else 0):
            self.register_buffer(f"combined_{j}", weights[:, :, j].clone())

    def forward(self, *inputs: Tensor) -> Tensor:
        """The attribution (N, D) of all inputs, side by side."""
        sums = [total([self._gradients(inputs, j, k) for k in range(self.plan.steps)], self.weights)
                for j in range(self.plan.samples)]
        if self.plan.combination is not None:
            return self._combined(sums)
        return fold(self.plan, sums, STEPS, lambda: self._factors(inputs))[0]

    def _combined(self, outputs: Samples) -> Tensor:
        """The linear function (N, D) of J outputs (N, 1)."""
        if hasattr(self, "combined"):
            return call("matmul", call("concatenate", *outputs, dim=1), self.get_buffer("combined"))
        terms = []
        for j, output in enumerate(outputs):
            weights = self.get_buffer(f"combined_{j}")
            terms.append(call("multiply", call("expand", output, shape=[self.entries]), weights))
        return total(terms, [1.0] * len(terms))

    def _gradients(self, inputs: tuple[Tensor, ...], j: int, k: int) -> Tensor:
        count = len(self.row.input_names) - len(inputs)
        values = [*inputs, *(self.get_buffer(f"given_{j}_{k}_{i}") for i in range(count))]
        # auto_LiRPA's optimisation wants of what is constant as many rows as there are
        if self.any_rows:
            values[-1] = call("add", values[-1], self._no_change(inputs[0], values[-1].ndim))
        return run_with_relus(self.row, tuple(values)) if self.torch_relus else self.row(*values)

    def _no_change(self, x: Tensor, dims: int) -> Tensor:
        """Zeros with a row for each row of an input."""
        total = call("sum", call("reshape", x, shape=[self.sizes[0]]), dims=[1], keepdim=True)
        return call("scale", call("reshape", total, shape=[1] * (dims - 1)), factor=0.0)

    def _factors(self, inputs: tuple[Tensor, ...]) -> Samples:
        """The multiplier x + e_j - b_j of each sample."""
        flat = [call("reshape", x, shape=[size])
                for x, size in zip(inputs, self.sizes, strict=True)]
        x = flat[0] if len(flat) == 1 else call("concatenate", *flat, dim=1)
        return [call("add", x, self.get_buffer(f"added_{j}")) for j in range(self.plan.samples)]


