"""Teach the package an attribution of your own: a class of Captum's kind, and the sum that it
computes.

The attribution is the mean gradient at several brightnesses of the input, mean_k grad f(s_k x). Its
class computes it as Captum's would, one call of autograd for each s_k. Its plan says the same as a
sum: points s_k x + (1 - s_k) b on the path from the baseline b = 0, with weights 1 / K. All bounds,
attacks, metrics and reports follow; the class stays the truth that every certificate is compared
with.

    python examples/add_an_attribution.py
"""

from typing import Any

import torch
from captum.attr import GradientAttribution
from torch import Tensor, nn

import lirpa_explain as lx
from lirpa_explain.attributions import Plan, register
from lirpa_explain.attributions.plan import common_fields


class MeanGradient(GradientAttribution):
    """The mean of the gradients at multiples of the input."""

    def attribute(self, inputs: Tensor, target: Any = None,
                  multiples: tuple[float, ...] = (0.5, 0.75, 1.0)) -> Tensor:
        """The attribution, shaped like the inputs (N, *S)."""
        points = [(multiple * inputs).detach().requires_grad_() for multiple in multiples]
        gradients = [self.gradient_func(self.forward_func, (point,), target)[0] for point in points]
        return torch.stack(gradients).mean(0)


@register(MeanGradient, "mean_k grad f(s_k x)", overwrite=True)
def mean_gradient(attribution: MeanGradient, inputs: tuple[Tensor, ...],
                  keywords: dict[str, Any]) -> Plan:
    """Plan of MeanGradient."""
    multiples = torch.tensor(keywords.get("multiples", (0.5, 0.75, 1.0)), dtype=torch.float64)
    return Plan(**common_fields(inputs, keywords),
                baselines=tuple(torch.zeros_like(x[:1]) for x in inputs),
                scales=multiples, weights=torch.full_like(multiples, 1 / len(multiples)))


def main() -> tuple[lx.Certificate, Tensor]:
    """Certify, sample, and return the certificate and the sampled attributions."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
                          nn.Linear(16, 3))
    x, eps, target = torch.randn(4, 6), 0.02, 1
    attribution = MeanGradient(model)
    certificate = lx.certify(attribution, x, eps=eps, target=target, multiples=(0.6, 0.8, 1.0, 1.2))
    points = x + eps * (2 * torch.rand(200, *x.shape) - 1)
    sampled = attribution.attribute(points.flatten(0, 1), target,
                                    (0.6, 0.8, 1.0, 1.2)).unflatten(0, (200, 4))
    inside = (certificate.lower <= sampled) & (sampled <= certificate.upper)
    print(f"sampled attributions inside the certified bounds: {inside.float().mean():.1%}")
    print(f"mean width certified {certificate.width.mean():.4f}, "
          f"sampled {(sampled.amax(0) - sampled.amin(0)).mean():.4f}")
    return certificate, sampled


if __name__ == "__main__":
    main()
