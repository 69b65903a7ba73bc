"""Curves: accuracy against the certified share, one picture for each data set."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from .evaluate import CERTIFIED
from .settings import BASELINES
from .tables import MARGIN, OURS, Result, failed, figure, grouped, setup_of

MARKERS = "osD^v<>PXd"


def draw(results: Sequence[Result], out: Path) -> None:
    """Save DATA_SET.png for each data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colors = plt.get_cmap("tab10").colors
    styles = {label: (colors[i % len(colors)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(BASELINES)}
    styles[OURS] = ("black", "o")
    for data_set in dict.fromkeys(r["data_set"] for r in results):
        setup = setup_of(data_set)
        own = [r for r in results if r["data_set"] == data_set]
        picture, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        curves: dict[str, list[tuple[float, float, bool]]] = {}
        for group in grouped(own):
            shares = [figure(r, setup.headline, CERTIFIED, "input", setup.eps) for r in group]
            curves.setdefault(group[0]["label"], []).append(
                (statistics.mean(s for s in shares if s is not None), statistics.mean(r["accuracy"] for r in group),
                 any(map(failed, group))))
        for label, points in curves.items():
            color, marker = styles[label]
            points.sort()
            shares, accuracies, _ = zip(*points, strict=True)
            axes.plot(shares, accuracies, color=color, marker=marker, lw=2 if label == OURS else 1, label=label)
            for share, accuracy, fail in points:
                if fail:
                    axes.plot(share, accuracy, marker, color=color, markerfacecolor="white", zorder=3)
        majority = own[0]["majority"]
        axes.axhspan(0, majority + MARGIN, color="0.92", zorder=0)
        lowest = min(p[1] for points in curves.values() for p in points)
        axes.set_ylim(min(lowest, max(majority, lowest - 0.05)) - 0.01, min(1.005, axes.get_ylim()[1]))
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel(f"certified share ({setup.headline}, eps {setup.eps:g})")
        axes.set_ylabel("test accuracy")
        axes.set_title(f"{data_set}: mean over seeds; grey and hollow: no better than a constant", fontsize=10)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
        picture.savefig(out / f"{data_set}.png", dpi=130)
        plt.close(picture)
