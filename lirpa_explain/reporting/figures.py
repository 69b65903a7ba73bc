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


def curve_figure(eps: Sequence[float], column: Column, found: Column | None = None,
                 axis_label: str = "eps") -> str:
    """The mean of a certified number over the examples, against the radius, as a `data:` address.

    Args:
        eps: the radii, in the order of the columns.
        column: the certified number.
        found: what attacks found of it.
        axis_label: what a radius is, with its unit.
    """
    order = sorted(range(len(eps)), key=lambda i: eps[i])
    certified = _means(column, len(eps))
    reached = None if found is None else _means(found, len(eps))
    figure, axis = plot_curve([eps[i] for i in order], [certified[i] for i in order],
                              None if reached is None else [reached[i] for i in order],
                              ylabel=column.name)
    axis.set_xlabel(axis_label)
    if found is None:
        axis.legend_ = None  # one line alone
    return data_url(figure)


def _means(column: Column, radii: int) -> list[float]:
    """The means over the examples at each radius."""
    count = len(column.values) // radii
    return [sum(column.values[i * count: (i + 1) * count]) / count for i in range(radii)]
