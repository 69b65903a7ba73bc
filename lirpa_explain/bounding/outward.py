"""Outward bounds: they hold for what is computed in floating point, at every input of the set.

A module computes y_k = f_k(y_j, ...) + d_k step by step, where d_k is what rounding does to step k.
With T_k the sum of the sizes of the terms that step k adds up, at most, over the bounds of its
inputs (`operators.terms`), and n_k their number,

    |d_k| <= E_k = gamma_{n_k} T_k + n_k t        (`rounding`)

in whatever order they are added up. So

* intervals: each step's interval is moved outward by E_k, which covers the roundings of the
  interval rule too, since it adds up the same terms;
* linear bounds: A_k y_k = A_k f_k(y_j, ...) + A_k d_k, so that each backward step adds |A_k| E_k to
  the bias, outward. The new coefficients are computed as A_k W with an error of gamma |A_k| |W|,
  which times the sizes of the inputs is the same |A_k| T_k; they are exact numbers for the steps
  before. n_k counts their terms, the sum of the bias over the entries of the step, and one addition
  for each step of the module;
* planes: the constant of a plane is moved outward by gamma (sum_i |a_i| |x_i| + |c|);
* at the inputs: A x0 +- |A| r is moved outward by gamma |A| |x|.

Intermediate bounds hold for what is computed, so a relaxation made from them does: a kink whose
pre-activation may have been rounded to the other side is not taken for stable.

This presumes: IEEE arithmetic that rounds to nearest, with subnormal numbers; products and sums of
the very terms of an operation, so no convolutions by Winograd's or Fourier transforms and no
reduced precision such as TF32; elementary functions within 4 units in the last place, where
`operators.terms.RELATIVE` lists them, and else relative to value and argument; functions of
parameters alone, such as a normalized weight, taken as they are computed.
"""

import math
from typing import Any

import torch
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor

from ..boxes import Box
from ..errors import UnsupportedOperation
from ..operators.bound import BoundOperator, flat_rows, weighted_sum
from ..operators.terms import CARRIED, EXACT, has_terms, terms
from ..operators.unperturbed import BoundUnperturbed
from ..relaxations.ranges import linear_range
from ..rounding import OWN, gamma, rounded

PRODUCTS = frozenset({"matmul", "convolution", "convolution_gradient", "along"})
"""Operators whose entries are sums over some of the entries of a row, as their weights say."""


class Outward:
    """Roundings of the nodes of one bounded module, for one set of inputs.

    Args:
        nodes: how many there are.
    """

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self._errors: dict[str, Tensor] = {}
        self._uncancelled: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    @torch.no_grad()
    def interval(self, node: BoundOperator, boxes: tuple[Box, ...], box: Box) -> Box:
        """The interval of a node moved outward; its error is kept for linear bounds.

        Raises:
            UnsupportedOperation: nothing is known of the operator's terms.
        """
        if isinstance(node, BoundUnperturbed):
            return box
        if not has_terms(node):
            raise UnsupportedOperation(f"{node.operator.name}: rounding='outward' does not know "
                                       "the terms that it adds up. Register them with "
                                       "lirpa_explain.operators.terms.terms.register.")
        sizes = [self._uncancelled.get(n.name, own.size) if node.operator.name in CARRIED
                 else own.size for n, own in zip(node.inputs, boxes, strict=True)]
        size = box.size
        added = torch.maximum(terms(node, boxes, sizes, size), size)
        if node.operator.name in CARRIED:
            self._uncancelled[node.name] = added
        error = rounded(added, self.count(node, boxes)).expand_as(size)
        self._errors[node.name] = error
        if node.operator.name in EXACT:
            return box
        return box.outward(error)

    def linear(self, node: BoundOperator, lower: Tensor | None, upper: Tensor | None,
               result: Any) -> Any:
        """What a backward step returns, with the biases of coefficients (S, B, *output) moved
        outward.
        """
        if isinstance(node, BoundUnperturbed):
            return result
        coefficients, *biases = result
        error = self._errors[node.name]
        error = error * (1 + gamma(error[0].numel() + OWN, error.dtype))
        for i, (A, sign) in enumerate(((lower, -1), (upper, 1))):
            if A is not None:
                biases[i] = biases[i] + sign * weighted_sum(A.detach().abs(), error).nan_to_num(
                    nan=math.inf)
        return coefficients, *biases

    def planes(self, node: BoundOperator, planes: tuple[Tensor, ...], boxes: list[Box], sign: float
               ) -> tuple[Tensor, ...]:
        """Planes of a node, or families of them, with their constants moved outward: down for sign
        -1, up for 1.
        """
        with torch.no_grad():
            parts = [torch.where(a == 0, 0.0, a.abs() * box.size)
                     for a, box in zip(planes, boxes, strict=False)]
            size = sum(parts, planes[-1].abs())
            # beyond an infinite one is nothing
            error = rounded(size, self.count(node, boxes)).nan_to_num(posinf=0)
        return *planes[:-1], planes[-1] + sign * error

    def count(self, node: BoundOperator, boxes: Any) -> int:
        """n_k: most roundings that a term of a node takes part in."""
        if node.name not in self._counts:
            inputs, outputs = boxes[0][0], math.prod(node.output_shape[1:])
            if node.operator.name in PRODUCTS:
                weights = [(boxes[1][0] != 0).to(inputs)]
                row = torch.ones_like(inputs[:1])
                added = node.forward(row, *weights)
                total = torch.func.vjp(lambda x: node.forward(x, *weights),
                                       row)[1](torch.ones_like(added))[0]
                most = int(added.max()) + int(total.max())
            else:
                most = max(math.prod(n.output_shape[1:]) for n in node.inputs)
            self._counts[node.name] = most + outputs + self.nodes + OWN
        return self._counts[node.name]

    def functions(self, functions: Tensor, box: Box) -> Box:
        """Bounds of linear functions (B, K, D) of a value in a box (B, D), moved outward."""
        size = torch.einsum("bkd,bd->bk", functions.abs(), box.size.detach())
        return linear_range(functions, box).outward(rounded(size, functions.shape[2] + OWN))


class OutwardPerturbation(PerturbationLpNorm):
    """A ball whose linear bounds are made numbers outward.

    Args:
        ball: the same ball, rounded as it is: with monotone rounding x - r and x + r leave out no
            number of the type.
    """

    def __init__(self, ball: PerturbationLpNorm) -> None:
        super().__init__(eps=ball.eps, norm=ball.norm, x_L=ball.x_L, x_U=ball.x_U)

    def concretize(self, x: Tensor, A: Any, *args: Any, **kwargs: Any) -> Any:
        """As auto_LiRPA's, moved outward by gamma |A| |x|."""
        value = super().concretize(x, A, *args, **kwargs)
        if value is None or not isinstance(A, Tensor):
            return value
        sign = kwargs.get("sign", args[0] if args else -1)
        eps = torch.as_tensor(self.eps, dtype=x.dtype, device=x.device)
        eps = eps.reshape(-1, *[1] * (x.ndim - 1)) if eps.ndim else eps
        size = flat_rows(
            (Box(x - eps, x + eps) if self.x_L is None else Box(self.x_L, self.x_U)).size)
        error = torch.einsum("bsd,bd->bs", A.detach().abs().flatten(2), size)
        return value + sign * rounded(error, 2 * size.shape[1] + OWN).reshape(value.shape)

