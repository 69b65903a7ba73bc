"""Pictures within a page: inline, so that the page needs no other file."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..certificates import Certificate
from ..plots import data_url, is_image, plot_bars, plot_curve, plot_image
from ..smoothing import plot_importance
from .table import Column

MOST_BARS = 20
"""Features of a table that are drawn, those with the largest attribution."""


def shown(image: Tensor) -> Tensor:
    """An input with entries from 0 to 1, brought to that range if it is not in it."""
    image = image.detach().double().cpu()
    if bool((image < 0).any()) or bool((image > 1).any()):
        image = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-12)
    return image


def example_figure(certificate: Certificate, row: int, image: Tensor | None = None,
                   features: Sequence[str] | None = None) -> str:
    """One example: maps of an image, else bars of the largest features.

    Args:
        certificate: of some examples.
        row: which of them.
        image: the input, drawn beside maps.
        features: the names of a table's columns.

    Returns:
        A `data:` address.
    """
    if is_image(certificate):
        picture = None if image is None or image.ndim not in (2, 3) else shown(image)
        draw = plot_importance if certificate.meaning.kind == "smoothed" else plot_image
        return data_url(draw(certificate, row, picture)[0])
    return data_url(plot_bars(certificate, row, features, most=MOST_BARS)[0])


def curve_figure(eps: Sequence[float], column: Column) -> str:
    """The mean of a certified number over the examples, against the radius, as a `data:` address."""
    count = len(column.values) // len(eps)
    means = [sum(column.values[i * count: (i + 1) * count]) / count for i in range(len(eps))]
    order = sorted(range(len(eps)), key=lambda i: eps[i])
    figure, axis = plot_curve([eps[i] for i in order], [means[i] for i in order], ylabel=column.name)
    axis.legend_ = None  # one line alone
    return data_url(figure)
