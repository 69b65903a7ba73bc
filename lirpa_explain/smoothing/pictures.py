"""Pictures of smoothed maps: important, unimportant and open, in one scale of colours."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..certificates import Certificate
from ..certificates.html import drawn
from ..plots import (
    DPI,
    PANELS,
    as_drawn,
    as_grey,
    data_url,
    is_image,
    new_figure,
    part_of,
    plane_of,
    scale_of,
)

IMPORTANCE = "RdBu_r", 0.1, 0.9
"""Colours of smoothed maps, from 0 to 1: unimportant, open, important; of matplotlib, without the
darkest ends."""

PALE = -0.8
"""Brightness that is drawn black below what is certain: the image is a light grey there."""


def plot_importance(certificate: Certificate, example: int = 0, image: Tensor | None = None, *,
                    alpha_overlay: float = 0.8, title: str | None = None, figure: Any = None
                    ) -> tuple[Any, list[Any]]:
    """Draw a smoothed map between its bounds, and what is certainly important, unimportant, or
    open, on one scale.

    Where the map has channels, a pixel is drawn as its most important one.

    Args:
        certificate: of smoothed maps of images, such as `SmoothedCertificate.at(radius)`.
        example: which of the N.
        image: (C, H, W) or (H, W) with entries in [0, 1], to draw what is certain over.
        alpha_overlay: from 0 to 1: how opaque that is; what is open is left clear.
        title: of the figure.
        figure: a matplotlib figure or subfigure to draw into; default a new one.

    Returns:
        The figure of matplotlib, and the panels' axes in order.

    Raises:
        ValueError: the certificate is of no smoothed map, or of no images.
        ImportError: matplotlib is missing.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model, x = (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)),
        ...             torch.rand(1, 1, 4, 4))
        >>> found = lx.certify_smoothed(Saliency(model), x, sigma=0.2, nt_samples=50, target=0)
        >>> [axis.get_title() for axis in lx.plot_importance(found.at(0.01))[1]]
        ['lower bound', 'smoothed map', 'upper bound', 'certain within the radius']
    """
    meaning = certificate.meaning
    if meaning.kind != "smoothed":
        raise ValueError("plot_importance draws smoothed maps; this certificate is one of the "
                         f"{meaning.kind}. Draw it with plot_image.")
    low, value, high = (plane_of(side, example, lambda plane: plane.amax(0))
                        for side in (certificate.lower, certificate.nominal, certificate.upper))
    sure = ((low > meaning.threshold).double() - (high < meaning.threshold).double() + 1) / 2
    maps = [(PANELS["lower"], low), ("smoothed map", value), (PANELS["upper"], high),
            ("certain within the radius", sure)]
    figure = figure or new_figure(2.4 * (len(maps) + (image is not None)) + 0.8, 2.6)
    colours = part_of(*IMPORTANCE)
    axes = list(figure.subplots(1, len(maps) + (image is not None), squeeze=False)[0])
    if image is not None:
        axes[0].imshow(as_drawn(image), cmap="gray_r", vmin=0, vmax=1)
        axes[0].set(title=PANELS["image"], xticks=[], yticks=[])
    for axis, (name, plane) in zip(axes[image is not None:], maps, strict=True):
        opacity = None
        if image is not None and plane is sure:
            axis.imshow(as_grey(image), cmap="gray", vmin=PALE, vmax=1)
            opacity = alpha_overlay * (plane.numpy() != 0.5)
        axis.imshow(plane.numpy(), cmap=colours, vmin=0, vmax=1, alpha=opacity)
        axis.set(title=name, xticks=[], yticks=[])
    bar = figure.colorbar(scale_of(colours), ax=axes[-1], shrink=0.8, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["unimportant", "open", "important"])
    if title:
        figure.suptitle(title)
    return figure, axes


@drawn
def picture(certificate: Certificate, most: int) -> str | None:
    """The first example of smoothed maps of images, as a `data:` address; None of anything else."""
    if certificate.meaning.kind != "smoothed" or not is_image(certificate) or not len(certificate):
        return None
    try:
        return data_url(plot_importance(certificate)[0], dpi=DPI // 2)
    except ImportError:
        return None
