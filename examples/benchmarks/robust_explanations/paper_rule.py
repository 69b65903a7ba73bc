"""The bounds of the paper's public code, by its own rule: not sound, and here to show what its
figures were worth.

The code explains by e = (z_t - 1) grad z_t, z_t the target's logit: the gradient of the
cross-entropy with the logit where the softmax should be, and without the other classes. Its
intervals are sound but for one thing: the first ReLU is never differentiated, so the bounds are
those of another function. A change gamma of the parameters is halved:
|dW| <= gamma/2 |W| and |db| <= gamma/2.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lirpa_explain.training.gradients import input_gradient, target_logits

Box = tuple[Tensor, Tensor]
Product = Callable[[Tensor, Tensor], Tensor]


def paper_bounds(net: nn.Sequential, x: Tensor, y: Tensor, eps: float, gamma: float = 0.0) -> Box:
    """The code's bounds of its explanation, in the shape of x each.

    Args:
        net: linear layers, convolutions without padding, ReLUs and Flatten.
        x: (N, *S).
        y: (N,).
        eps: change of the input.
        gamma: change of the parameters.
    """
    box = x - eps, x + eps
    shapes, kinks = [], []
    for layer in net:
        shapes.append(box[0].shape)
        if isinstance(layer, nn.ReLU):
            box = box[0].clamp(min=0), box[1].clamp(min=0)
            kinks.append((box[0].sign(), box[1].sign()))
        elif isinstance(layer, nn.Flatten):
            box = box[0].flatten(1), box[1].flatten(1)
        else:
            low, high = _product(_forward(layer), layer.weight, box, gamma)
            bias = layer.bias[(...,) + (None,) * (low.ndim - 2)]
            box = low + bias - gamma / 2, high + bias + gamma / 2
    target = F.one_hot(y, box[0].shape[1]).to(x)
    low, high = target * (box[0] - 1), target * (box[1] - 1)
    for layer, shape in zip(reversed(net), reversed(shapes), strict=True):
        if isinstance(layer, nn.ReLU):
            slopes = kinks.pop()
            if kinks:  # the first ReLU is left out
                ends = torch.stack([a * b for a in (low, high) for b in slopes])
                low, high = ends.amin(0), ends.amax(0)
        elif isinstance(layer, nn.Flatten):
            low, high = low.reshape(shape), high.reshape(shape)
        else:
            low, high = _product(_backward(layer, shape), layer.weight, (low, high), gamma)
    return low, high


def paper_explanation(net: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """What the code sets out to bound, truly: (z_t - 1) grad z_t, in the shape of x."""
    factor = target_logits(net(x), y) - 1
    return factor.reshape(-1, *[1] * (x.ndim - 1)) * input_gradient(net, x, y, create_graph=False)


def share_outside(net: nn.Sequential, x: Tensor, y: Tensor, eps: float, bounds: Box,
                  samples: int = 20) -> float:
    """The share of examples at which the true explanation at some sampled point of the ball leaves
    bounds.
    """
    slack = 1e-5 * (bounds[0].abs().amax() + bounds[1].abs().amax())
    found = torch.zeros(len(x), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for i in range(samples):
        noise = 2 * torch.rand(x.shape, generator=generator) - 1 if i else torch.zeros_like(x)
        e = paper_explanation(net, x + eps * noise, y)
        found |= ((e < bounds[0] - slack) | (e > bounds[1] + slack)).flatten(1).any(1)
    return found.double().mean().item()


def _product(apply: Product, weight: Tensor, box: Box, gamma: float) -> Box:
    """Interval times interval by centre and radius, for an apply(value, weight) that is linear in
    both.
    """
    centre, radius = (box[1] + box[0]) / 2, (box[1] - box[0]) / 2
    change = gamma / 2 * weight.abs()
    middle = apply(centre, weight)
    reach = apply(radius, weight.abs()) + apply(centre.abs(), change) + apply(radius, change)
    return middle - reach, middle + reach


def _forward(layer: nn.Module) -> Product:
    if isinstance(layer, nn.Conv2d):
        return lambda value, weight: F.conv2d(value, weight, stride=layer.stride)
    return F.linear


def _backward(layer: nn.Module, shape: torch.Size) -> Product:
    if isinstance(layer, nn.Conv2d):
        return lambda value, weight: torch.nn.grad.conv2d_input(
            shape, weight, value, stride=layer.stride)
    return torch.matmul
