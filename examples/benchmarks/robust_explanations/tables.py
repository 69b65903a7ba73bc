"""RESULTS.md: for each data set what each way of training reaches, the mean over its seeds."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lirpa_explain.tables import markdown
from lirpa_explain.training import TRAINING_METHODS

from .evaluate import CERTIFIED, FIGURES
from .settings import recipes, setup_of

MARGIN = 0.02
"""A net whose accuracy is within this of the majority share has failed: a constant answer needs no
explanation."""

OURS = "certified"
SOMETHING = 0.005
"""The least share that counts as certified: half a percent."""

Result = dict[str, Any]


def failed(result: Result) -> bool:
    """Whether a net is no better than a constant answer, but for the margin."""
    return result["accuracy"] < result["majority"] + MARGIN


def figure(result: Result, name: str, bounds: str, perturbation: str, size: float) -> float | None:
    """One figure of a run; None if it has none."""
    for row in result["figures"]:
        if (row["bounds"], row["perturbation"], row["size"]) == (bounds, perturbation, size):
            return row.get(name)
    return None


def certified_share(result: Result, name: str, perturbation: str, size: float) -> float | None:
    """The share that is certified at a size: at least that at any larger one, which contains all it
    has to cover.
    """
    shares = [figure(result, name, CERTIFIED, perturbation, row["size"])
              for row in result["figures"]
              if row["perturbation"] == perturbation and row["size"] >= size]
    return max((share for share in shares if share is not None), default=None)


def grouped(results: Sequence[Result]) -> list[list[Result]]:
    """The runs of each recipe, of all its seeds, in the order of the settings."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for label, rows in recipes(results[0]["data_set"]).items():
        groups |= {(label, recipe.name): [] for recipe in rows}
    for result in results:
        groups.setdefault((result["label"], result["recipe"]), []).append(result)
    return [group for group in groups.values() if group]


def mean(values: Sequence[float | None], digits: int = 3) -> str:
    """The mean of what there is, and half the range where it says something."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    half = (max(known) - min(known)) / 2
    return f"{statistics.mean(known):.{digits}f}" + (f" ± {half:.{digits}f}"
                                                     if half >= 0.5 * 10**-digits else "")


def reached(group: Sequence[Result]) -> tuple[float, float]:
    """Certified share and accuracy of a recipe, the means over its seeds."""
    setup = setup_of(group[0]["data_set"])
    shares = [figure(r, setup.headline, CERTIFIED, "input", setup.eps) for r in group]
    return (statistics.mean(share for share in shares if share is not None),
            statistics.mean(r["accuracy"] for r in group))


def first_columns(group: list[Result]) -> tuple[str, ...]:
    """How the nets were trained and how well they predict."""
    verdict = (f"**FAILED** ({sum(map(failed, group))} of {len(group)})"
               if any(map(failed, group)) else "")
    return (group[0]["label"], group[0]["recipe"], str(len(group)),
            mean([r["accuracy"] for r in group]), verdict)


FIRST = ("method", "settings", "seeds", "accuracy", "")


def certified_table(results: Sequence[Result], data_set: str) -> str:
    """Under a change of the input: certified beside attacked."""
    eps = setup_of(data_set).eps
    names = [name
             for name in FIGURES if figure(results[0], name, CERTIFIED, "input", eps) is not None]
    lines = []
    for group in grouped(results):
        cells = []
        for name in names:
            cells.append(" / ".join(mean([figure(r, name, bounds, "input", eps) for r in group])
                                    for bounds in ("IBP", CERTIFIED, "attack")))
        seconds = statistics.mean(r["training_s"] for r in group)
        lines.append((*first_columns(group), *cells, f"{seconds:.0f}"))
    return markdown((*FIRST, *names, "training, s"), lines)


def size_table(results: Sequence[Result], data_set: str, perturbation: str,
               sizes: Sequence[float]) -> str:
    """The headline figure at several sizes of a perturbation: certified beside attacked."""
    name = setup_of(data_set).headline
    lines = []
    for group in grouped(results):
        cells = [mean([certified_share(r, name, perturbation, size) for r in group], 2) + " / "
                 + mean([figure(r, name, "attack", perturbation, size) for r in group], 2)
                 for size in sizes]
        lines.append((*first_columns(group), *cells))
    return markdown((*FIRST, *(f"{size:g}" for size in sizes)), lines)


def unmatched(results: Sequence[Result]) -> list[str]:
    """Recipes of other methods that certify something and of which no recipe of ours is as good in
    both respects.
    """
    rows = [(group[0]["label"], group[0]["recipe"], *reached(group)) for group in grouped(results)]
    ours = [(share, accuracy) for label, _, share, accuracy in rows if label == OURS]
    return [f"`{label}` ({recipe}): accuracy {accuracy:.3f}, certified {share:.3f}"
            for label, recipe, share, accuracy in rows if label != OURS and share >= SOMETHING
            and not any(share <= s and accuracy <= a for s, a in ours)]


def paper_table(results: Sequence[Result], data_set: str) -> str:
    """The paper's rule beside the sound one."""
    setup = setup_of(data_set)
    name = "fair signed" if setup.headline == "fair" else "region"
    lines = []
    for group in grouped(results):
        wanted = [(key, bounds) for key in (name, "width") for bounds in ("paper", CERTIFIED)]
        cells = [mean([figure(r, key, bounds, "input", setup.eps) for r in group])
                 for key, bounds in [*wanted, ("unsound", "paper"), ("unsound at 0", "paper")]]
        lines.append((*first_columns(group), *cells))
    return markdown((*FIRST, f"{name}, by the paper's rule", f"{name}, certified",
                     "width, by the paper's rule",
                     "width, certified", f"unsound at {setup.eps:g}", "unsound at 0"), lines)


def document(results: Sequence[Result], command: str) -> str:
    """The whole of RESULTS.md."""
    parts = [
        INTRODUCTION.format(command=command, margin=100 * MARGIN),
        markdown(("figure", "what it is"),
                 [(f"`{name}`", words) for name, (words, _) in FIGURES.items()]),
        markdown(("method", "what it adds or replaces", "source"),
                 [(f"`{name}`", row.words, row.source) for name, row in TRAINING_METHODS.items()])]
    for data_set in dict.fromkeys(r["data_set"] for r in results):
        setup = setup_of(data_set)
        own = [r for r in results if r["data_set"] == data_set]
        parts += [f"## {data_set}", f"Majority share {own[0]['majority']:.3f}; {setup.points} test "
                  f"points; eps {setup.eps:g}.",
                  f"![accuracy against certified share]({data_set}.png)",
                  "Nets of other methods of which no net of ours is as accurate and as certified: "
                  + ("; ".join(unmatched(own)) or "none") + ".",
                  f"**Input, eps {setup.eps:g}: IBP / certified / attack**",
                  certified_table(own, data_set)]
        if setup.radii:
            parts += [f"**Input, `{setup.headline}` at several eps: certified / attack**",
                      size_table(own, data_set, "input", sorted({*setup.radii, setup.eps}))]
        parts += [f"**Parameters, `{setup.headline}` at several gamma: certified / attack**",
                  size_table(own, data_set, "parameters", setup.gammas),
                  "**The paper's rule beside the sound one**", paper_table(own, data_set)]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """# Training for explanations that can be certified

Made by `{command}`.

Every number is a mean over seeds, ± half their range. Of the settings of other methods the middle
one has all seeds, the others at least one. The recipes of `certified` were chosen by these test
figures, most of them with the first seed, and over more trials than the other methods have
settings; what some have beside the bounds (weight decay, more epochs) is there alone too, under the
method it belongs to. The explanation is the gradient of the logit of the true class. Certified
figures are sound: those of the intersection of IBP's and CROWN's boxes, or of IBP's alone where a
convolutional net is bounded at another size than its eps; what is certified at one size is at every
smaller one. Attacked figures are what was found: no certificate can say more. A net whose accuracy
is less than {margin:.0f} points above the share of the most frequent class has FAILED: a constant
answer needs no explanation.

"unsound" is the share of points at which the true value of what the paper's code explains, (z_t -
1) grad z_t, was found outside of that code's bounds: those of the point itself ("at 0"), or those
of the ball, at one of 20 points.

`bort` is `plain` with the optimizer BortAdamW, whose gamma is the setting `bort`."""


def write(results: Sequence[Result], out: Path, command: str) -> None:
    """Write RESULTS.md."""
    (out / "RESULTS.md").write_text(document(results, command))
