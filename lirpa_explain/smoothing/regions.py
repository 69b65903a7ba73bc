"""Where the entries lie that are certainly important: in an object, or in a cell of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..certificates.layout import Attributions, flatten, mask_weights
from .certificate import SmoothedCertificate


def localisation(certificate: SmoothedCertificate, mask: Attributions, radius: float | None = None
                 ) -> Tensor:
    """The share of the certainly important entries that lies in a region.

    It is a fact about the certificate: every entry counted is important at each x' of the ball. How
    large a share of *all* important entries must lie there, at worst, is the metric "localisation"
    of `certificate.at(radius)`, which counts entries outside that may be important as well.

    Args:
        certificate: of maps.
        mask: shaped like the attribution, or like one example of it; bool, or 0 and 1.
        radius: l2; default: the one of interest, or else 0.

    Returns:
        (N,), from 0 to 1; 0 where nothing is certainly important.

    Raises:
        ValueError: the mask has another shape, or other weights.

    Source:
        Anani, Lorenz, Fritz and Schiele, Pixel-level Certified Explanations via Randomized
        Smoothing, ICML 2025; with `grid_cell` it is their certified grid pointing game.
    """
    weights = mask_weights(mask, certificate.at_input)
    if not bool(((weights == 0) | (weights == 1)).all()):
        raise ValueError("mask must be a set of entries here: bool, or 0 and 1.")
    important = flatten(certificate.labels(radius)) > 0
    inside = (important & (weights == 1)).double().sum(1)
    return inside / important.sum(1).clamp(min=1)


def rectangle(shape: Sequence[int], top: int, left: int, height: int, width: int) -> Tensor:
    """A bounding box as a mask.

    Args:
        shape: of one example's attribution, (..., H, W).
        top: its first row.
        left: its first column.
        height: its rows, at least 1.
        width: its columns, at least 1.

    Returns:
        Of that shape, bool.

    Raises:
        ValueError: the box is empty, or reaches beyond the image.

    Example:
        >>> rectangle((2, 3), top=0, left=1, height=2, width=2).int().tolist()
        [[0, 1, 1], [0, 1, 1]]
    """
    mask = torch.zeros(tuple(shape), dtype=torch.bool)
    rows, columns = _plane(shape)
    if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or \
            left + width > columns:
        raise ValueError(f"The box of {height} x {width} at ({top}, {left}) must have at least one "
                         f"row and column and lie within {rows} x {columns}.")
    mask[..., top: top + height, left: left + width] = True
    return mask


def grid_cell(shape: Sequence[int], cell: int, grid: int = 2) -> Tensor:
    """A cell of an image that is a grid of images, as a mask.

    Args:
        shape: of one example's attribution, (..., H, W).
        cell: which, from 0, row by row.
        grid: cells in each direction.

    Returns:
        Of that shape, bool.

    Raises:
        ValueError: there is no such cell, or the image does not divide into so many.

    Source:
        Böhle, Fritz and Schiele, Convolutional Dynamic Alignment Networks for Interpretable
        Classifications, CVPR 2021 (the grid pointing game).

    Example:
        >>> grid_cell((4, 4), cell=1).int().tolist()
        [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    """
    rows, columns = _plane(shape)
    if not 0 <= cell < grid * grid or rows % grid or columns % grid:
        raise ValueError(f"cell is {cell} of a grid of {grid} x {grid} in {rows} x {columns}; pass "
                         f"a cell from 0 to {grid * grid - 1}, and a grid that divides the image.")
    height, width = rows // grid, columns // grid
    return rectangle(shape, cell // grid * height, cell % grid * width, height, width)


def _plane(shape: Any) -> tuple[int, int]:
    if len(shape) < 2:
        raise ValueError(f"A region of an image needs a shape (..., H, W); given: {tuple(shape)}.")
    return shape[-2], shape[-1]
