"""Pictures: one scale for all maps, bounds of what is shown, Captum's words, no global state."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot

import lirpa_explain as lx
from lirpa_explain.plots import CERTAIN, PANELS, SIGNS


def certificate(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    nominal = torch.randn(shape, generator=generator)
    low, high = torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)
    return lx.Certificate(lower=nominal - low, upper=nominal + high, nominal=nominal,
                          attribution="Saliency",
                          method="CROWN", perturbation="made up", dtype="float32", elapsed_s=0.0)


IMAGES = certificate((3, 2, 5, 4))
PICTURES = torch.rand(3, 2, 5, 4)


def drawn(axis):
    return axis.images[-1]


@pytest.mark.parametrize("sign", SIGNS)
def test_all_maps_share_one_scale_and_bound_what_is_shown(sign):
    _, axes = lx.plot_image(IMAGES, 1, PICTURES[1], sign=sign)
    maps = dict(zip(PANELS, axes, strict=True))
    low, value, high, width = (drawn(maps[name]).get_array()
                               for name in ("lower", "nominal", "upper", "width"))
    assert len({drawn(maps[name]).get_clim()
                for name in ("lower", "nominal", "upper", "width")}) == 1
    transform = {"all": lambda a: a, "positive": lambda a: a.clip(min=0),
                 "negative": lambda a: (-a).clip(min=0), "absolute_value": np.abs}[sign]
    for share in (0, 0.3, 1):  # any attribution within the bounds is drawn within them
        inside = IMAGES.lower[1] + share * (IMAGES.upper[1] - IMAGES.lower[1])
        shown = transform(inside.double().sum(0).numpy())
        assert (low <= shown + 1e-6).all() and (shown <= high + 1e-6).all()
    np.testing.assert_allclose(value, transform(IMAGES.nominal[1].double().sum(0).numpy()),
                               rtol=1e-6)
    np.testing.assert_allclose(width, high - low)


def test_the_scale_leaves_out_outliers_of_all_maps_together():
    _, axes = lx.plot_image(IMAGES, 0, outlier_perc=0, panels=["nominal"])
    planes = [side[0].double().sum(0).abs().max().item()
              for side in (IMAGES.lower, IMAGES.nominal, IMAGES.upper)]
    assert drawn(axes[0]).get_clim() == pytest.approx((-max(planes), max(planes)))
    _, trimmed = lx.plot_image(IMAGES, 0, outlier_perc=30, panels=["nominal"])
    assert drawn(trimmed[0]).get_clim()[1] < max(planes)


def test_certain_signs_are_those_of_the_drawn_sums():
    _, axes = lx.plot_image(IMAGES, 2, panels=["signs"])
    low, high = (side[2].sum(0) for side in (IMAGES.lower, IMAGES.upper))
    assert (drawn(axes[0]).get_array() == ((low > 0).int() - (high < 0).int()).numpy()).all()


def test_the_image_lies_below_the_overlay():
    _, axes = lx.plot_image(IMAGES, 0, PICTURES[0], panels=["lower", "upper"], alpha_overlay=0.4)
    for axis in axes:
        grey, heat = axis.images
        np.testing.assert_allclose(grey.get_array(), PICTURES[0].double().mean(0).numpy())
        assert heat.get_alpha() == 0.4


def test_a_grid_has_a_row_for_each_example():
    figure, rows = lx.plot_grid(IMAGES, PICTURES, examples=[2, 0], titles=["a", "b"],
                                panels=["image", "nominal"])
    assert [len(row) for row in rows] == [2, 2]
    np.testing.assert_allclose(drawn(rows[0][1]).get_array(),
                               IMAGES.nominal[2].double().sum(0).numpy())
    assert [part.get_suptitle() for part in figure.subfigs] == ["a", "b"]


def test_bars_are_sorted_and_fade_where_the_sign_is_open():
    table = certificate((2, 6), seed=3)
    _, axis = lx.plot_bars(table, 1, names=list("abcdef"))
    order = table.nominal[1].abs().argsort(descending=True)
    np.testing.assert_allclose([bar.get_width() for bar in axis.patches],
                               table.nominal[1][order].numpy(), rtol=1e-6)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["abcdef"[int(i)]
                                                                      for i in order]
    certain = table.sign()[1][order] != 0
    assert [bar.get_facecolor()[3] == 1 for bar in axis.patches] == certain.tolist()
    positive = matplotlib.colors.to_rgb(CERTAIN[2])
    assert ([bar.get_facecolor()[:3] == positive for bar in axis.patches]
            == (table.nominal[1][order] > 0).tolist())
    whiskers = axis.collections[0].get_segments()
    np.testing.assert_allclose([s[0][0] for s in whiskers], table.lower[1][order].numpy(),
                               rtol=1e-6)
    np.testing.assert_allclose([s[1][0] for s in whiskers], table.upper[1][order].numpy(),
                               rtol=1e-6)


def test_curves():
    _, axis = lx.plot_curve([0.1, 0.2], [1, 3], [0.5, 1], ylabel="change", title="t",
                            logarithmic=True)
    assert [line.get_ydata().tolist() for line in axis.lines] == [[1, 3], [0.5, 1]]
    assert (axis.get_xscale(), axis.get_ylabel(), axis.get_title()) == ("log", "change", "t")


def test_infinite_bounds_can_be_drawn(tmp_path):
    wide = certificate((1, 1, 3, 3))
    wide.upper[0, 0, 0, 0] = torch.inf
    lx.plot_image(wide)[0].savefig(tmp_path / "wide.png")
    assert (tmp_path / "wide.png").stat().st_size > 1000


def test_pyplot_is_not_touched():
    """Figures are the caller's alone: pyplot, which captum imports, knows none of them."""
    before = pyplot.get_fignums()
    lx.plot_grid(IMAGES)
    assert pyplot.get_fignums() == before


@pytest.mark.parametrize(("call", "message"), [
    (lambda: lx.plot_image(IMAGES, sign="both"), "absolute_value"),
    (lambda: lx.plot_image(IMAGES, panels=["image"]), "need the image"),
    (lambda: lx.plot_image(IMAGES, panels=["heat"]), "panels must be"),
    (lambda: lx.plot_image(IMAGES, outlier_perc=100), "outlier_perc"),
    (lambda: lx.plot_image(IMAGES, image=PICTURES[0], alpha_overlay=2), "alpha_overlay"),
    (lambda: lx.plot_image(certificate((2, 6))), "plot_bars"),
    (lambda: lx.plot_grid(IMAGES, titles=["a"]), "titles"),
    (lambda: lx.plot_grid(IMAGES, [0, 1]), "images must be a tensor .*; given: list"),
    (lambda: lx.plot_bars(certificate((2, 6)), names=["a"]), "6 features"),
    (lambda: lx.plot_bars(certificate((2, 6)), most=0), "at least 1"),
    (lambda: lx.plot_curve([0.1], [1, 2]), "1 radii"),
])
def test_wrong_arguments(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
