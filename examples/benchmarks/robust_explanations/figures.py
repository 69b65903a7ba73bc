"""Curves: accuracy against the certified share, one picture for each data set."""

from collections.abc import Sequence
from pathlib import Path

from .settings import BASELINES, setup_of
from .tables import MARGIN, OURS, Result, failed, grouped, reached

MARKERS = "osD^v<>PXd"
Point = tuple[float, float, bool]
"""Certified share, accuracy, and whether it is that of a constant answer."""


def front(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Shares and accuracies of the points than which no other is better in one of the two and as
    good in the other.
    """
    best: list[Point] = []
    for point in sorted(points, reverse=True):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return [point[0] for point in best], [point[1] for point in best]


def draw(results: Sequence[Result], out: Path) -> None:
    """Save DATA_SET.png for each data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colors = plt.get_cmap("tab10").colors
    styles = {label: (colors[i % len(colors)], MARKERS[i % len(MARKERS)])
              for i, label in enumerate(BASELINES)}
    styles[OURS] = ("black", "o")
    for data_set in dict.fromkeys(r["data_set"] for r in results):
        setup = setup_of(data_set)
        own = [r for r in results if r["data_set"] == data_set]
        picture, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        curves: dict[str, list[Point]] = {}
        for group in grouped(own):
            curves.setdefault(group[0]["label"],
                              []).append((*reached(group), any(map(failed, group))))
        for label, points in curves.items():
            color, marker = styles[label]
            line = {"color": color, "lw": 2 if label == OURS else 1}
            axes.plot([], [], marker=marker, label=label, **line)
            axes.plot(*front(points), **line)
            for share, accuracy, fail in points:
                axes.plot(share, accuracy, marker, color=color,
                          markerfacecolor="white" if fail else color, zorder=3)
        majority = own[0]["majority"]
        axes.axhspan(0, majority + MARGIN, color="0.92", zorder=0)
        accuracies = [point[1] for points in curves.values() for point in points]
        lowest, highest = min(accuracies), max(accuracies)
        bottom = min(lowest, majority) if majority > lowest - 0.05 else lowest
        axes.set_ylim(bottom - 0.01, highest + 0.01)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel(f"certified share ({setup.headline}, eps {setup.eps:g})")
        axes.set_ylabel("test accuracy")
        axes.set_title(f"{data_set}: mean over seeds; grey and hollow: no better than a constant",
                       fontsize=10)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
        picture.savefig(out / f"{data_set}.png", dpi=130)
        plt.close(picture)
