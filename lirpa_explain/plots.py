"""Pictures of certificates. Maps that are compared share one scale of colours; matplotlib's global
state is left alone.

Functions return (figure, axes) of matplotlib and draw no windows; `figure.savefig(path)` saves.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .boxes import Box
from .certificates import Certificate
from .certificates.html import drawn
from .certificates.layout import tensors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Map = np.ndarray
Maps = dict[str, Map]
Sides = tuple[Tensor, Tensor, Tensor]

DIVERGING = "RdBu"
"""Colours of attributions of both signs, negative red and positive blue: Captum's red and green are
one colour to one reader in twenty."""

SIGNS: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Sides], str, int]] = {
    "all": (lambda low, value, high: (low, value, high), DIVERGING, -1),
    "positive": (lambda low, value, high: (low.clamp(min=0), value.clamp(min=0), high.clamp(min=0)),
                 "Blues", 0),
    "negative": (lambda low, value, high: ((-high).clamp(min=0), (-value).clamp(min=0),
                                           (-low).clamp(min=0)), "Reds", 0),
    "absolute_value": (lambda low, value, high: (Box(low, high).absolute().lower, value.abs(),
                                                 Box(low, high).absolute().upper), "Purples", 0),
}
"""Captum's words for what of an attribution is shown -> (lower, value, upper) of that, its colours,
and where the scale starts: at minus its end, or at 0."""

PANELS = {
    "image": "the input",
    "lower": "lower bound",
    "nominal": "attribution",
    "upper": "upper bound",
    "width": "width of the bounds",
    "signs": "certain signs",
}

CERTAIN = ("#b2182b", "#e0e0e0", "#2166ac")
"""Colours of what is certainly negative, open, and certainly positive: the ends of `DIVERGING`, and
grey."""

DPI = 100

LETTER = 0.08
"""Width of a letter of a feature's name, in inches."""


def plot_image(certificate: Certificate, example: int = 0, image: Tensor | None = None, *,
               panels: Sequence[str] | None = None, sign: str = "all", cmap: Any = None,
               alpha_overlay: float | None = None, outlier_perc: float = 2.0,
               title: str | None = None, figure: Any = None) -> tuple[Figure, list[Axes]]:
    """Draw an image's attribution between its bounds, and which signs are certain, on one scale.

    Channels are summed, as Captum does; the bounds of the sum are the sums of the bounds.

    Args:
        certificate: of images, (N, C, H, W) or (N, H, W).
        example: which of the N.
        image: (C, H, W) or (H, W) with entries in [0, 1]; needed for the panel "image" and for
            `alpha_overlay`.
        panels: which of `PANELS`, in order; default all, "image" only if there is one.
        sign: as in Captum: a key of `SIGNS`. Bounds are those of what is shown.
        cmap: colours of attributions; default red to blue, which colour-blind readers tell apart as
            well.
        alpha_overlay: from 0 to 1: draw attributions over the grey image, so opaque; None for no
            image below.
        outlier_perc: from 0 up to 100: the scale ends where this per cent of the total is left out,
            over all maps.
        title: of the figure.
        figure: a matplotlib figure or subfigure to draw into; default a new one.

    Returns:
        The figure, and the panels' axes in order.

    Raises:
        ValueError: an argument is not as described.
        ImportError: matplotlib is missing.

    Example:
        >>> import lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> x = torch.rand(1, 1, 4, 4)
        >>> figure, axes = lx.plot_image(lx.certify(Saliency(model), x, eps=0.01, target=0,
        ...                                         abs=False), image=x[0])
        >>> [axis.get_title() for axis in axes][:3]
        ['the input', 'lower bound', 'attribution']
    """
    from matplotlib.colors import ListedColormap

    panels = _checked_panels(panels, image, alpha_overlay)
    if sign not in SIGNS:
        raise ValueError(f"sign must be one of {', '.join(SIGNS)}; given: {sign!r}.")
    if not 0 <= outlier_perc < 100:
        raise ValueError(f"outlier_perc must be from 0 to less than 100; given: {outlier_perc!r}.")
    grey = None if image is None else as_grey(image)
    raw = [plane_of(side, example)
           for side in (certificate.lower, certificate.nominal, certificate.upper)]
    _, colors, start = SIGNS[sign]
    maps = _maps(raw, sign)
    scale = _scale([maps[name] for name in ("lower", "nominal", "upper")], outlier_perc)
    cmap = colors if cmap is None else cmap
    figure = figure or new_figure(2.4 * len(panels), 2.6)
    axes = list(figure.subplots(1, len(panels), squeeze=False)[0])
    for axis, name in zip(axes, panels, strict=True):
        axis.set(title=PANELS[name], xticks=[], yticks=[])
        if name == "image":
            axis.imshow(as_drawn(image), cmap="gray_r", vmin=0, vmax=1)
        elif name == "signs":
            certain = (raw[0] > 0).int() - (raw[2] < 0).int()
            axis.imshow(certain.numpy(), cmap=ListedColormap(CERTAIN), vmin=-1.5, vmax=1.5)
        else:
            if alpha_overlay is not None:
                axis.imshow(grey, cmap="gray_r", vmin=0, vmax=1)
            shown = axis.imshow(maps[name], cmap=cmap, vmin=start * scale, vmax=scale,
                                alpha=alpha_overlay)
            if name == [p for p in panels if p not in ("image", "signs")][-1]:
                figure.colorbar(shown, ax=axis, shrink=0.8)
    if title:
        figure.suptitle(title)
    return figure, axes


def plot_grid(
    certificate: Certificate, images: Tensor | None = None, examples: Sequence[int] | None = None,
    titles: Sequence[str] | None = None, **settings: Any) -> tuple[Figure, list[list[Axes]]]:
    """Draw several images of a batch, one below the other; each has a scale of its own.

    Args:
        certificate: of images.
        images: all N of them, or None.
        examples: which; default all.
        titles: one for each.
        **settings: further arguments of `plot_image`.

    Returns:
        The figure, and for each example the axes of its panels.

    Raises:
        ValueError: there are not as many titles as images; and as `plot_image`.
    """
    chosen = list(range(len(_first(certificate.nominal)))) if examples is None else list(examples)
    if titles is not None and len(titles) != len(chosen):
        raise ValueError(f"titles must be one for each of the {len(chosen)} examples; given: "
                         f"{len(titles)}.")
    panels = _checked_panels(settings.pop("panels", None), images, settings.get("alpha_overlay"))
    figure = new_figure(2.4 * len(panels), 2.6 * len(chosen))
    rows = figure.subfigures(len(chosen), 1, squeeze=False)[:, 0]
    axes = [plot_image(certificate, example, None if images is None else images[example],
                       panels=panels,
                       title=None if titles is None else titles[i], figure=row, **settings)[1]
            for i, (example, row) in enumerate(zip(chosen, rows, strict=True))]
    return figure, axes


def plot_bars(certificate: Certificate, example: int = 0, names: Sequence[str] | None = None, *,
              most: int | None = None, title: str | None = None) -> tuple[Figure, Axes]:
    """Draw a bar for each feature, with its bounds as a whisker, largest first; uncertain signs are
    faded.

    Args:
        certificate: of rows of a table, (N, D), or anything that is flattened to that.
        example: which of the N.
        names: of the D features; default the certificate's, or their numbers.
        most: how many to draw; default all.
        title: of the figure.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: there are not as many names as features, or `most` is below 1.
        ImportError: matplotlib is missing.

    Example:
        >>> import lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model, x = torch.nn.Linear(3, 2), torch.rand(1, 3)
        >>> certificate = lx.certify(Saliency(model), x, eps=0.1, target=0)
        >>> figure, axis = lx.plot_bars(certificate, names=["a", "b", "c"], most=2)
        >>> len(axis.patches)
        2
    """
    low, value, high = (
        torch.cat([part[example].detach().flatten() for part in tensors(side)]).double().cpu()
        for side in (certificate.lower, certificate.nominal, certificate.upper))
    if names is not None and len(names) != len(value):
        raise ValueError(f"names must be one for each of the {len(value)} features; given: "
                         f"{len(names)}.")
    if most is not None and most < 1:
        raise ValueError(f"most must be at least 1; given: {most}.")
    names = certificate.features if names is None else names
    order = value.abs().argsort(descending=True, stable=True)[:most]
    labels = [str(int(i)) if names is None else names[int(i)] for i in order]
    meaning = certificate.meaning
    certain = (low > meaning.threshold) | (high < meaning.threshold)
    colors = [CERTAIN[2] if v > meaning.threshold else CERTAIN[0] for v in value[order]]
    figure = new_figure(5.5 + LETTER * max(map(len, labels)), 1 + 0.3 * len(order))
    axis = figure.subplots()
    position = np.arange(len(order))
    axis.barh(position, value[order].numpy(),
              color=[(c, 1.0 if sure else 0.3)
                     for c, sure in zip(colors, certain[order].tolist(), strict=True)])
    axis.hlines(position, low[order].numpy(), high[order].numpy(), color="black", linewidth=1)
    for ends in (low, high):
        axis.plot(ends[order].numpy(), position, "|", color="black")
    axis.axvline(meaning.threshold, color="black", linewidth=0.5)
    axis.set(yticks=position, yticklabels=labels, xlabel="attribution and its bounds; faded: "
             f"{meaning.above} or {meaning.below} is not certain")
    axis.invert_yaxis()
    if title:
        axis.set_title(title)
    return figure, axis


def plot_curve(
    eps: Sequence[float], certified: Sequence[float], found: Sequence[float] | None = None, *,
    ylabel: str = "", title: str | None = None, logarithmic: bool = False) -> tuple[Figure, Axes]:
    """Draw a certified figure against the radius, with what attacks have found, and the gap between
    them.

    Args:
        eps: the radii.
        certified: the certified figure at each.
        found: the figure that was found at each.
        ylabel: what the figure is.
        title: of the figure.
        logarithmic: whether both axes are.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: there are not as many figures as radii.
        ImportError: matplotlib is missing.

    Example:
        >>> figure, axis = plot_curve([0.1, 0.2], [1.0, 2.0], [0.9, 1.5], ylabel="largest change")
        >>> [line.get_label() for line in axis.lines]
        ['certified', 'found']
    """
    for name, values in (("certified", certified), ("found", found)):
        if values is not None and len(values) != len(eps):
            raise ValueError(f"{name} must be one for each of the {len(eps)} radii; given: "
                             f"{len(values)}.")
    figure = new_figure(5, 3.5)
    axis = figure.subplots()
    axis.plot(eps, certified, "o-", color=CERTAIN[2], label="certified")
    if found is not None:
        axis.plot(eps, found, "s--", color=CERTAIN[0], label="found")
        axis.fill_between(eps, found, certified, color="#e0e0e0", label="the truth lies between")
    if logarithmic:
        axis.set(xscale="log", yscale="log")
    axis.set(xlabel="eps", ylabel=ylabel, title=title or "")
    axis.legend()
    return figure, axis


def is_image(certificate: Certificate) -> bool:
    """Whether an attribution is drawn as images: one part, (N, C, H, W) or (N, H, W)."""
    parts = tensors(certificate.nominal)
    return len(parts) == 1 and parts[0].ndim in (3, 4)


def data_url(figure: Any, dpi: int = DPI) -> str:
    """A matplotlib figure as a PNG in a `data:` address."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@drawn
def picture(certificate: Certificate, most: int) -> str | None:
    """The first examples of images, as a `data:` address; None of anything else, or without
    matplotlib.
    """
    if not is_image(certificate) or len(certificate) == 0 or certificate.meaning.threshold != 0:
        return None
    try:
        return data_url(plot_grid(certificate, examples=range(min(most, len(certificate))))[0],
                        dpi=DPI // 2)
    except ImportError:
        return None


def new_figure(width: float, height: float) -> Figure:
    """A figure of that many inches, without a window.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need matplotlib: pip install matplotlib.") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _checked_panels(panels: Sequence[str] | None, image: Tensor | None,
                    alpha_overlay: float | None) -> list[str]:
    chosen = [name for name in PANELS
              if name != "image" or image is not None] if panels is None else list(panels)
    if not chosen or not set(chosen) <= PANELS.keys():
        raise ValueError(f"panels must be some of {', '.join(PANELS)}; given: {chosen}.")
    if image is None and ("image" in chosen or alpha_overlay is not None):
        raise ValueError("The panel 'image' and alpha_overlay need the image; pass it.")
    if alpha_overlay is not None and not 0 <= alpha_overlay <= 1:
        raise ValueError(f"alpha_overlay must be from 0 to 1; given: {alpha_overlay!r}.")
    return chosen


def _first(side: Tensor | tuple[Tensor, ...]) -> Tensor:
    parts = tensors(side)
    if len(parts) > 1:
        raise ValueError(f"The attribution has {len(parts)} parts; make a certificate of one of "
                         "them to draw it.")
    return parts[0]


def plane_of(side: Tensor | tuple[Tensor, ...], example: int,
             over_channels: Callable[[Tensor], Tensor] = lambda plane: plane.sum(0)) -> Tensor:
    """One example as (H, W), channels summed, or whatever else is made of them.

    Raises:
        ValueError: it is none of an image.
    """
    plane = _first(side)[example].detach().double().cpu()
    if plane.ndim not in (2, 3):
        raise ValueError("An image's attribution is (N, C, H, W) or (N, H, W); this one has "
                         f"{plane.ndim + 1} dimensions. For rows of a table there is plot_bars.")
    return over_channels(plane) if plane.ndim == 3 else plane


def _maps(raw: list[Tensor], sign: str) -> Maps:
    low, value, high = SIGNS[sign][0](*raw)
    return {"lower": low.numpy(), "nominal": value.numpy(), "upper": high.numpy(),
            "width": (high - low).numpy()}


def _scale(maps: list[Map], outlier_perc: float) -> float:
    """The entry up to which all but some per cent of the total lie, as Captum's scale, but over all
    maps.
    """
    values = np.sort(np.abs(np.concatenate([m.ravel() for m in maps])))
    values = values[np.isfinite(values)]
    total = np.cumsum(values)
    if not len(values) or total[-1] == 0:
        return 1.0
    return float(values[np.searchsorted(total, total[-1] * (1 - outlier_perc / 100))])


def as_drawn(image: Any) -> Map:
    """An image as matplotlib draws it: (H, W), or (H, W, 3)."""
    if image.ndim == 3 and len(image) == 3:
        return image.detach().cpu().movedim(0, -1).numpy()
    return as_grey(image)


def part_of(name: str, low: float, high: float) -> Any:
    """A map of colours of matplotlib from one of its places to another."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        f"{name} in part", colormaps[name](torch.linspace(low, high, 256).numpy()))


def scale_of(colours: Any) -> Any:
    """What a colour bar from 0 to 1 is drawn of."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0, 1), colours)


def as_grey(image: Tensor) -> Map:
    """An image without colours, (H, W)."""
    grey = image.detach().double().cpu()
    return (grey.mean(0) if grey.ndim == 3 else grey).numpy()
