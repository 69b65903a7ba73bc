"""Teach the package a metric of your own: a number about an explanation, bounded over every point
of a box.

The metric is the lead of the most important feature, |a_first| - max of the other |a_i|, where
`first` is the one that leads now. Its smallest value over a box is attained where that feature is
smallest and every other one largest, so the bound is exact. A positive lead certifies who is first,
and by how much. From then on it is an objective of attacks, a number to sandwich, a column of
reports, and a condition for `refine` and `radius`.

    python examples/add_a_metric.py
"""

import math

import torch
from captum.attr import Saliency
from torch import Tensor, nn

import lirpa_explain as lx
from lirpa_explain.boxes import Box
from lirpa_explain.certificates.metrics import Metric, register


def least_lead(lower: Tensor, upper: Tensor, nominal: Tensor) -> Tensor:
    """The smallest lead over the box, (N,), of lower, upper and nominal (N, D)."""
    sizes = Box(lower, upper).absolute()
    first = nominal.abs().argmax(1, keepdim=True)
    rivals = sizes.upper.scatter(1, first, -math.inf).amax(1)
    return sizes.lower.gather(1, first)[:, 0] - rivals


LEAD = Metric("lead", least_lead, direction="lower", exact=True, range="any",
              formula="|a_first| - max of other |a_i|", source="", worst=-math.inf)


def main() -> lx.Sandwich:
    """Certify, attack, and return both sides."""
    register(LEAD, overwrite=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    x = torch.randn(4, 6)
    certificate = lx.certify(Saliency(model), x, eps=0.02, target=1, abs=False)
    lead = certificate.metric("lead")
    print(f"the first feature certainly stays the first in {int((lead > 0).sum())} of {len(x)} "
          "explanations")
    sides = certificate.sandwich("lead")
    for i in range(len(x)):
        print(f"example {i}: the lead is at least {lead[i]:.4f}; it shrinks by at most "
              f"{sides.certified[i]:.4f}, and an attack shrinks it by {sides.found[i]:.4f}")
    return sides


if __name__ == "__main__":
    main()
