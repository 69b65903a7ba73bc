"""Attributions whose backward pass follows other rules: what Captum's own hooks make of it is
recorded.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from captum.attr import Deconvolution, GuidedBackprop
from torch import Tensor, nn

from ..graph.program import Program, Values, leaves
from .plan import Plan, common_fields, register
from .unseen import warn_of_unseen


@register(GuidedBackprop, "grad f(x) in which each nn.ReLU hands back relu(g) * [z > 0]")
@register(Deconvolution, "grad f(x) in which each nn.ReLU hands back relu(g)")
def modified_relu(attribution: Any, inputs: tuple[Tensor, ...], keywords: dict[str, Any]) -> Plan:
    """Plan of GuidedBackprop and Deconvolution. Captum's hooks do not see functional ReLUs, and
    neither do we.
    """
    return Plan(**common_fields(inputs, keywords), program=hooked_gradient(attribution))


def hooked_gradient(attribution: Any) -> Program:
    """The gradient with Captum's hooks of an attribution that modifies that of ReLUs."""

    def compute(call: Callable[..., Tensor], points: Values,
                cotangent: Tensor) -> tuple[Tensor, ...]:
        zs = leaves(points["input"])
        with relu_hooks(attribution), warn_of_unseen(type(attribution).__name__, (nn.ReLU,)):
            return torch.autograd.grad(call(*zs), zs, cotangent)

    return Program((type(attribution).__name__,), ("input",), compute)


@contextlib.contextmanager
def relu_hooks(attribution: Any) -> Iterator[None]:
    """Captum's hooks on the ReLUs of a model."""
    try:
        attribution.model.apply(attribution._register_hooks)
        yield
    finally:
        attribution._remove_hooks()
        attribution.backward_hooks.clear()
