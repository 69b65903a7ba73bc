"""How large a ball is, for people."""

from collections.abc import Sequence

from torch import Tensor

FEW = 8
"""So many radii that differ by feature are written out."""


def radius_words(radius: Tensor, count: int, names: Sequence[str] | None = None) -> str:
    """A radius, or what is to be said of several.

    Args:
        radius: broadcasts to inputs of `count` dimensions, the first of which are the examples.
        count: that number.
        names: of the features of an example, flattened.

    Example:
        >>> import torch
        >>> radius_words(torch.tensor([[0.1], [0.25]]), 2)
        '0.1 to 0.25 by example'
        >>> radius_words(torch.tensor([0.1, 0, 0.25]), 2)
        '(0.1, 0, 0.25) by feature'
        >>> radius_words(torch.tensor([0.1, 0, 0.25]), 2, ["age", "sex", "income"])
        'age 0.1, sex 0, income 0.25'
    """
    if radius.numel() == 0:
        return "0"
    low, high = float(radius.min()), float(radius.max())
    if low == high:
        return f"{high:.6g}"
    by_example = radius.ndim == count and bool((radius != radius[:1]).any())
    row = radius[0] if radius.ndim == count else radius
    if by_example:
        also = "feature and " if bool((radius.flatten(1) != radius.flatten(1)[:, :1]).any()) else ""
        return f"{low:.6g} to {high:.6g} by {also}example"
    if row.numel() > FEW or names is not None and len(names) != row.numel():
        return f"{low:.6g} to {high:.6g} by feature"
    values = [f"{value:.6g}" for value in row.flatten().tolist()]
    if names is None:
        return f"({', '.join(values)}) by feature"
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
