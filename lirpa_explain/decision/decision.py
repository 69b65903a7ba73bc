"""The decision of a model: which class it predicts, and by what margin.

Inputs are flat here, all of an example's inputs side by side, (B, D): distances are those of the
whole example.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import in_the_name_of
from ..operators.bound import flat_rows
from ..tensors import check_kind


class Decision:
    """The decision of a function of some examples.

    A function with outputs (N, K), K >= 2, decides for the largest of them; one with outputs (N, 1)
    or (N,) decides by the sign, for class 1 above 0, and has the scores (0, output).

    Args:
        function: maps inputs, and further arguments, to outputs.
        inputs: the examples, each (N, *S).
        extras: further arguments; tensors with N rows go with the examples.

    Raises:
        ValueError: the outputs have another shape.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...],
                 extras: tuple[Any, ...] = ()) -> None:
        self.function = function
        self.extras = extras
        self.count = len(inputs[0])
        self.shapes = [x.shape[1:] for x in inputs]
        self.x = torch.cat([flat_rows(x) for x in inputs], 1)
        with torch.no_grad():
            output = self.output(self.x, torch.arange(self.count, device=self.x.device))
        if isinstance(output, Tensor):
            check_kind(output, "The model's output")
        if (not isinstance(output, Tensor) or output.ndim not in (1, 2) or len(output) != self.count
                or output.numel() == 0):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError("A decision needs outputs (N, classes), (N, 1) or (N,); for N = "
                             f"{self.count} examples the model returned {shape}. Wrap the model in "
                             "a function that returns one score for each class.")
        if not output.is_floating_point() or output.device != self.x.device:
            raise ValueError("A decision needs scores that are floating-point numbers on the "
                             f"device of the inputs; the model returned {output.dtype} on "
                             f"{output.device}.")
        self.has_sign = output.ndim == 1 or output.shape[1] == 1
        self.classes = _scores(output).argmax(1)

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Flat examples as the function takes them."""
        sizes = [math.prod(shape) for shape in self.shapes]
        return tuple(part.reshape(-1, *shape)
                     for part, shape in zip(flat.split(sizes, 1), self.shapes, strict=True))

    def output(self, flat: Tensor, index: Tensor) -> Tensor:
        """The function's output at points (B, D), with the further arguments of the examples
        `index` (B,).
        """
        extras = [e[index] if isinstance(e, Tensor) and e.ndim and len(e) == self.count else e
                  for e in self.extras]
        points = (point.clone() for point in self.split(flat))  # which the function may overwrite
        # it may take gradients itself
        with torch.enable_grad(), in_the_name_of("The model rejects these inputs"):
            result = self.function(*points, *extras)
        return (result
                if torch.is_grad_enabled() or not isinstance(result, Tensor) else result.detach())

    def margin(self, flat: Tensor, index: Tensor) -> Tensor:
        """Score of the class of example `index` less the largest other one, (B,): the decision
        holds above 0.
        """
        own, others = self._own_and_others(flat, index)
        return own - others.amax(1)

    def _own_and_others(self, flat: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The score of the example's class, (B,), and all scores with -inf in its place, (B, K)."""
        scores, own = _scores(self.output(flat, index)), self.classes[index][:, None]
        return scores.gather(1, own)[:, 0], scores.scatter(1, own, -torch.inf)

    def gradient(self, flat: Tensor, index: Tensor,
                 rival: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The margin, (B,), and its gradient, (B, D), or that of the margin over a given rival,
        (B,).
        """
        point = flat.detach().requires_grad_()
        with torch.enable_grad():
            own, others = self._own_and_others(point, index)
            margin = own - others.amax(1)
            descended = margin if rival is None else own - others.gather(1, rival[:, None])[:, 0]
            with in_the_name_of("The model's output cannot be differentiated"):
                gradient, = torch.autograd.grad(descended.sum(), point)
        return margin.detach(), gradient

    def strongest_rivals(self, index: Tensor) -> Tensor:
        """The other classes of examples, those with the largest scores first, (B, K - 1)."""
        with torch.no_grad():
            others = self._own_and_others(self.x[index], index)[1]
        return others.argsort(1, descending=True)[:, :-1]

    def rivals(self) -> Tensor:
        """Margins over single classes as linear functions of the output, (N, R, K): R = 1 for a
        sign, else K - 1.
        """
        if self.has_sign:
            return torch.where(self.classes == 1, 1.0, -1.0).to(self.x)[:, None, None]
        with torch.no_grad():
            width = self.output(self.x[:1],
                                torch.zeros(1, dtype=torch.long, device=self.x.device)).shape[1]
        eye = torch.eye(width, dtype=self.x.dtype, device=self.x.device)
        every = eye[self.classes][:, None] - eye[None]
        others = torch.arange(width, device=self.x.device)[None] != self.classes[:, None]
        return every[others].reshape(self.count, width - 1, width)


def _scores(output: Tensor) -> Tensor:
    """The scores of all classes, (B, K)."""
    if output.ndim == 2 and output.shape[1] > 1:
        return output
    sign = output.reshape(-1, 1)
    return torch.cat([torch.zeros_like(sign), sign], 1)
