"""Gradients of a target logit that are differentiable in the parameters, and a smooth stand-in for
ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

RELU = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
"""What computes a ReLU; nn.ReLU calls the first."""


def input_gradient(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor,
                   create_graph: bool = True) -> Tensor:
    """Gradient of the logit of the target with respect to the input, f_y'(x).

    Args:
        model: from (N, *S) to logits (N, C), one example independent of the others.
        x: (N, *S).
        y: (N,), int64, targets.
        create_graph: keep the result differentiable, in the parameters and in x if x asks for
            gradients.

    Returns:
        (N, *S). No `.grad` is touched.

    Example:
        >>> input_gradient(torch.nn.Flatten(), torch.ones(1, 2), torch.tensor([1]))
        tensor([[0., 1.]])
    """
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(target_logits(model(x), y).sum(), x,
                                   create_graph=create_graph)[0]


def target_logits(logits: Tensor, y: Tensor) -> Tensor:
    """The target's entry of each row: (N, C) and (N,) give (N,)."""
    return logits.gather(1, y[:, None])[:, 0]


class smooth_relu(TorchFunctionMode):  # noqa: N801  (a context manager, read as a verb)
    """Context in which every ReLU of torch computes softplus_beta(z) = log(1 + exp(beta z)) / beta.

    The gradient of a ReLU net is piecewise constant; that of this one can be differentiated.
    Neither the model nor its parameters change.

    Args:
        beta: sharpness, above 0; the larger, the closer to ReLU.

    Source:
        Dombrowski et al., Explanations can be manipulated and geometry is to blame, 2019.

    Example:
        >>> with smooth_relu(beta=1.0):
        ...     torch.nn.ReLU()(torch.zeros(1))
        tensor([0.6931])
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        if not beta > 0:
            raise ValueError(f"beta must be a number above 0; given: {beta!r}.")
        self.beta = beta

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        if func in RELU:
            return F.softplus(args[0] if args else (kwargs or {})["input"], beta=self.beta)
        return func(*args, **(kwargs or {}))
