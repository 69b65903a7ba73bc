"""Teach the package an activation of your own, use it in a model, and certify the model's
explanations.

The activation is Snake, t + sin(a t)^2 / a. Three things declare it: its formula with two
derivatives; where the first three derivatives are zero; and, because it repeats itself, its period
and its mean slope. The gradient's operator and all bounds follow.

    python examples/add_an_operator.py
"""

import math

import torch
from captum.attr import Saliency
from torch import Tensor, nn

import lirpa_explain as lx
from lirpa_explain.operators import activation, register_activation
from lirpa_explain.relaxations.declaration import Differentiable, Formula, declare


def snake(a: float) -> Differentiable:
    """Snake as data: t + sin(a t)^2 / a; the slope is 1 + sin(2 a t)."""
    quarter = math.pi / (4 * a)  # a quarter of the period
    formula = Formula(lambda t: t + torch.sin(a * t).square() / a,
                      lambda t: 1 + torch.sin(2 * a * t), lambda t: 2 * a * torch.cos(2 * a * t),
                      zeros=((3 * quarter,), (quarter, 3 * quarter), (0.0, 2 * quarter)))
    return declare(formula, period=4 * quarter, trend=1.0)


class Snake(nn.Module):
    """The activation as a layer."""

    def forward(self, z: Tensor) -> Tensor:
        """Entry by entry."""
        return activation(z, "snake", a=2.0)


def main() -> tuple[lx.Certificate, Tensor]:
    """Certify, sample, and return the certificate and the sampled gradients."""
    register_activation("snake", snake, "Snake", overwrite=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), Snake(), nn.Linear(16, 16), Snake(), nn.Linear(16, 3))
    x, eps, target = torch.randn(4, 6), 0.02, 1
    certificate = lx.certify(Saliency(model), x, eps=eps, target=target, abs=False)
    points = x + eps * (2 * torch.rand(200, *x.shape) - 1)
    sampled = Saliency(model).attribute(points.flatten(0, 1), target=target,
                                        abs=False).unflatten(0, (200, 4))
    inside = (certificate.lower <= sampled) & (sampled <= certificate.upper)
    print(f"sampled gradients inside the certified bounds: {inside.float().mean():.1%}")
    print(f"mean width certified {certificate.width.mean():.4f}, "
          f"sampled {(sampled.amax(0) - sampled.amin(0)).mean():.4f}")
    return certificate, sampled


if __name__ == "__main__":
    main()
