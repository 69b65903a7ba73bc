"""The attribution that a plan describes as a differentiable function of the inputs.

Captum builds no graph of its gradients; the gradient module is plain torch, so autograd
differentiates through it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..attributions import Plan, make_plan
from ..attributions.plan import extras_of
from ..bounding.fold import VALUES, fold
from ..bounding.rows import PlanRows
from ..certifying.request import Request
from ..errors import UnsupportedAttribution, UnsupportedOperation
from ..graph import GradientModule, capture_program
from ..operators.bound import flat_rows


def derivative_of(request: Request, batch_size: int) -> "Derivative | str":
    """The traced attribution of a call, which can be differentiated, or the reason why there is
    none.
    """
    attribution = request.attribution
    try:
        with request.replayed(), torch.no_grad():
            plan = make_plan(attribution, request.xs, request.keywords)
            function = attribution.forward_func if plan.function is None else plan.function
            extras = plan.first_extras(len(request.xs[0]), extras_of(request.keywords))
            module = capture_program(plan.row_program(), function, request.xs, extras)
            return Derivative(plan, module, request.xs, batch_size)
    except (UnsupportedAttribution, UnsupportedOperation) as error:
        return str(error)


class Derivative:
    """Products of vectors with the derivative dA/dx of an attribution.

    Args:
        plan: the attribution at the unperturbed inputs; what it drew stays as it is.
        module: what a row computes, captured of `plan.row_program()`.
        inputs: the unperturbed inputs, each (N, *S).
        batch_size: most rows differentiated at once.
    """

    def __init__(self, plan: Plan, module: GradientModule, inputs: tuple[Tensor, ...],
                 batch_size: int) -> None:
        self.plan, self.module, self.inputs, self.batch_size = plan, module, inputs, batch_size
        self.rows = PlanRows(plan, module, inputs, (None,) * len(inputs))

    def chunks(self, points: tuple[Tensor, ...]) -> list[tuple[Tensor, tuple[Tensor, ...], Tensor]]:
        """Sample (B,), inputs of the module, and weights (B, 1) of all rows, at points in place of
        the inputs.
        """
        def moved(sample: Tensor) -> tuple[Tensor, ...]:
            own = tuple(x[self.rows.example[sample]] for x in points)
            partners = range(self.rows.moving - len(points))
            return (*own, *(points[i][self.rows.partner(i)[sample]] for i in partners))

        return [(sample, (*moved(sample), *values[self.rows.moving:]), weight)
                for sample, values, _, weight in self.rows.chunks(self.batch_size, progress=False)]

    def __call__(self, points: tuple[Tensor, ...],
                 call: Callable[..., Tensor] | None = None) -> Tensor:
        """The attribution (N, D) at points, each (N, *S); for `call` see `pull_back`."""
        return self._finish(self._sums(points, call or self._exact), points)

    def pull_back(self, points: tuple[Tensor, ...], cotangent: Callable[[Tensor], Tensor],
                  call: Callable[..., Tensor] | None = None,
                  parameters: tuple[Tensor, ...] = ()) -> tuple[Tensor, ...]:
        """The gradient of <c, A(x)> at points, one (N, *S) for each input; memory is that of one
        chunk.

        Args:
            points: each (N, *S).
            cotangent: maps A(points) to c, both (N, D).
            call: `call(example, *inputs)` computes rows in place of the module, `example` (B,) that
                of each.
            parameters: of the module, to differentiate by as well; their gradients come last.
        """
        call = call or self._exact
        with torch.enable_grad():
            sums = self._sums(points, call).requires_grad_()
            xs = tuple(x.detach().requires_grad_() for x in points)
            value = self._finish(sums, xs)
            upstream, *totals = torch.autograd.grad(value, (sums, *xs), cotangent(value.detach()),
                                                    allow_unused=True, materialize_grads=True)
            totals += [torch.zeros_like(parameter) for parameter in parameters]
            for sample, values, weight in self.chunks(xs):
                result = call(self.rows.example[sample], *values)
                if not result.requires_grad:
                    continue
                parts = torch.autograd.grad(result, (*xs, *parameters), upstream[sample] * weight,
                                            allow_unused=True, materialize_grads=True)
                totals = [total + part for total, part in zip(totals, parts, strict=True)]
        return tuple(totals)

    def _exact(self, example: Tensor, *inputs: Tensor) -> Tensor:
        return self.module(*inputs)

    @torch.no_grad()
    def _sums(self, points: tuple[Tensor, ...], call: Callable[..., Tensor]) -> Tensor:
        """Weighted sum over the path of each sample, (V, D)."""
        sums = VALUES.zero(self.inputs[0], len(self.rows.example), self.module.size)
        for sample, values, weight in self.chunks(points):
            VALUES.add(sums, sample,
                       VALUES.scaled(call(self.rows.example[sample], *values), weight))
        return sums

    def _finish(self, sums: Tensor, points: tuple[Tensor, ...]) -> Tensor:
        """The attribution (N, D) from the sums of its samples, (V, D), and their multiplier x + e_j
        - b_j at points.
        """

        def factor() -> Tensor:
            moved = (flat_rows((p - x)[self.rows.example])
                     for p, x in zip(points, self.inputs, strict=True))
            return self.rows.multiplier()[1] + torch.cat(list(moved), 1)

        return fold(self.plan, sums, VALUES, factor)
