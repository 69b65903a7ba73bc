"""A loss of our own for tables, added to the library's table as anybody can."""

import torch
from torch import Tensor

from lirpa_explain.bounding.bounds import Bounds
from lirpa_explain.certificates.box import absolute_box
from lirpa_explain.training import Loss, register_loss

SMALL = 1e-6


def unprotected(bounds: Bounds, mask: Tensor, k: int, margin: float = 0.3, width: float = 0.0) -> Tensor:
    """By how many times protected features fail to stay below the k largest, and some of the width.

    relu(margin + log(largest upper end of the protected) - log(k-th largest lower end of the others)) + width * mean
    width, ends of |v|. A ratio of sizes does not care how large explanations are, which a difference does.

    Args:
        bounds: of N attributions.
        mask: (D,) or (N, D), which features are protected.
        k: from 1 to the number of the others.
        margin: of the logarithms.
        width: weight of the mean width.

    Returns:
        (N,).
    """
    protected = mask.bool().expand_as(bounds.lower)
    low, high = absolute_box(bounds.lower, bounds.upper)
    largest = high.masked_fill(~protected, 0).amax(1)
    kth = low.masked_fill(protected, 0).topk(k, dim=1).values[:, -1]
    ratio = torch.log(largest + SMALL) - torch.log(kth + SMALL)
    return (margin + ratio).relu() + width * bounds.width.mean(1)


register_loss(Loss("unprotected", unprotected, "relu(margin + log(max_protected u / k-th largest l of the others))",
                   ("lower", "upper"), "no protected feature among the k largest", features=("mask",)))
