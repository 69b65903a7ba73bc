"""What is run: the data sets with their nets and radii, and the ways to train."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from . import data, nets


@dataclass(frozen=True)
class Setup:
    """A data set, its net, and how it is trained and evaluated.

    Args:
        load: from the folder of the data, or None, to the data.
        net: from the activation to a new net.
        eps: radius of the l-inf ball, in training and in evaluation.
        epochs: of training.
        batch: examples a step.
        lr: of Adam; constant until the radius is reached, then a cosine to 0.
        headline: the figure of the curve: "fair", "signs" or "region", see `evaluate.FIGURES`.
        points: test examples that are explained.
        radii: further radii at which explanations are certified.
        gammas: relative changes of the parameters, |dW| <= gamma |W|.
        channels: of an image, whose changes add up in "region".
        balanced: whether the task's loss weighs classes by 1 / their number; for data whose classes
            are not as frequent in training as in the test.
        thin: whether other methods are trained with the middle of their settings alone; for nets
            that take minutes.
        crown_everywhere: whether CROWN is run beside IBP for every perturbation, and not for `eps`
            alone: for 100 images and the CNN it takes a minute, and two for its parameters.
    """

    load: Callable[[Path | None], data.Data]
    net: Callable[[nets.Activation], nn.Sequential]
    eps: float
    epochs: int
    batch: int
    lr: float
    headline: str
    points: int
    radii: tuple[float, ...] = ()
    gammas: tuple[float, ...] = (0.01, 0.02, 0.05)
    channels: int = 1
    balanced: bool = False
    thin: bool = False
    crown_everywhere: bool = True


TABULAR: dict[str, Any] = {"eps": 0.05, "batch": 32, "lr": 1e-3, "headline": "fair", "points": 200,
                           "radii": (0.01, 0.025)}
DIGITS: dict[str, Any] = {"load": data.mnist, "eps": 0.05, "lr": 1e-3, "headline": "signs",
                          "points": 100, "radii": (0.01, 0.025)}
MEDICAL: dict[str, Any] = {"eps": 0.025, "epochs": 20, "batch": 100, "lr": 1e-3,
                           "headline": "region", "points": 100, "crown_everywhere": False}

SETUPS: dict[str, Setup] = {
    "adult": Setup(data.adult, nets.fully_connected(63, 256, 256, 2), epochs=10, **TABULAR),
    "german": Setup(data.german, nets.fully_connected(62, 256, 256, 2), epochs=20, **TABULAR),
    "credit_default": Setup(data.credit_default, nets.fully_connected(146, 256, 256, 2), epochs=10,
                            **TABULAR),
    "mnist_fc": Setup(net=nets.fully_connected(784, 128, 10), epochs=20, batch=100, **DIGITS),
    "mnist_cnn": Setup(net=nets.small_cnn(1, 10), epochs=10, batch=256, thin=True,
                       crown_everywhere=False, **DIGITS),
    "pneumonia": Setup(data.medical("pneumonia"), nets.small_cnn(1, 2), balanced=True, **MEDICAL),
    "breast": Setup(data.medical("breast"), nets.small_cnn(1, 2),
                    **{**MEDICAL, "epochs": 40, "batch": 32}),
    "derma": Setup(data.medical("derma"), nets.small_cnn(3, 7), channels=3, **MEDICAL),
    "blood": Setup(data.medical("blood"), nets.small_cnn(3, 8), channels=3, **MEDICAL),
}
"""Data sets by name."""

DEFAULT = ("adult", "german", "credit_default", "mnist_fc", "mnist_cnn", "pneumonia", "breast")

_SMALL = {"batch": 32, "epochs": 6, "lr": 3e-3, "points": 10, "gammas": (0.02,)}
QUICK: dict[str, Setup] = {
    "cancer": Setup(data.cancer, nets.fully_connected(30, 32, 32, 2), eps=0.05, headline="fair",
                    **_SMALL),
    "digits": Setup(data.digits, nets.fully_connected(64, 32, 10), eps=0.05, headline="signs",
                    **_SMALL),
}
"""What --quick runs: data that scikit-learn ships."""


def setup_of(name: str) -> Setup:
    """The setup of that name, of --quick or not."""
    return {**SETUPS, **QUICK}[name]


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Args:
        method: a key of `lirpa_explain.training.TRAINING_METHODS`.
        weight: of the penalty.
        settings: of the method.
        eps_factor: radius in training, as a multiple of that of the data set.
        base: the method that a penalty is added to: a key of `TRAINING_METHODS`.
        base_factor: its radius, from the first step on, as a multiple of that of the data set.
        gamma: relative change of the parameters that the method "certified" trains for, beside that
            of the input.
        warmup: share of the steps over which the radius, and gamma, grow from 0, linearly.
        activation: a key of `nets.ACTIVATIONS`.
        adam_decay: weight decay of Adam.
        bort: gamma of BortAdamW; 0 for Adam.
        epochs: if not those of the data set.
        batch: likewise.
        lr: likewise.
    """

    method: str = "plain"
    weight: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    eps_factor: float = 1.0
    base: str = "plain"
    base_factor: float = 1.0
    gamma: float = 0.0
    warmup: float = 0.5
    activation: str = "relu"
    adam_decay: float = 0.0
    bort: float = 0.0
    epochs: int | None = None
    batch: int | None = None
    lr: float | None = None

    @property
    def name(self) -> str:
        """What differs from the defaults, short enough for a file."""
        default = Recipe(self.method)
        changed = {key: value
                   for key, value in vars(self).items() if value != getattr(default, key)}
        changed |= changed.pop("settings", {})
        options = changed.pop("options", {})
        if isinstance(changed.get("loss"), dict):
            changed["loss"] = "+".join(f"{weight:g}x{name}"
                                       for name, weight in changed["loss"].items())
            options = {key: value for own in options.values() for key, value in own.items()}
        changed |= options
        return ",".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
                        for key, value in changed.items()) or "default"


def grid(method: str, values: tuple[float, ...], key: str = "weight", **fixed: Any) -> list[Recipe]:
    """A recipe for each value of one of its fields, or of a setting of the method."""
    return [Recipe(method, **fixed, **{key: v})
            if hasattr(Recipe, key) else Recipe(method, settings={key: v}, **fixed) for v in values]


BASELINES: dict[str, list[Recipe]] = {
    "plain": [Recipe()],
    "pgd": grid("pgd", (0.5, 1.0, 2.0), "eps_factor"),
    "atex": grid("atex", (0.1, 1.0, 10.0)),
    "hessian": grid("hessian", (0.001, 0.01, 0.1)),
    "softplus": grid("softplus", (1e-4, 1e-3, 1e-2), "decay", activation="softplus"),
    "l2_alignment": grid("l2_alignment", (0.1, 1.0, 10.0)),
    "cosine_alignment": grid("cosine_alignment", (0.1, 1.0, 10.0)),
    "ig_sum_norm": grid("ig_sum_norm", (0.1, 1.0, 10.0), "beta"),
    "smoothing": grid("smoothing", (1.0, 2.0, 4.0), "eps_factor"),
    "bort": grid("plain", (0.1, 1.0, 10.0), "bort"),
}
"""Label -> the recipes that every data set is trained with: one field over three values."""

CONTROLS: dict[str, dict[str, list[Recipe]]] = {
    "credit_default": {"plain": [Recipe(adam_decay=3e-4, batch=128, epochs=20)]},
    "mnist_fc": {"pgd": [Recipe("pgd", eps_factor=0.5, adam_decay=1e-5, epochs=30)]},
    "pneumonia": {"plain": [Recipe(adam_decay=1e-3)],
                  "atex": [Recipe("atex", 1.0, adam_decay=1e-3)]},
}
"""Data set -> label -> what our own recipes have beside the loss on bounds, alone."""


def widths(weights: tuple[float, ...], **fixed: Any) -> list[Recipe]:
    """The width of the bounds, as in the paper the sum over the examples of a batch."""
    return [Recipe("certified", weight, {"reduction": "sum"}, **fixed) for weight in weights]


def changes(weights: tuple[float, ...], **fixed: Any) -> list[Recipe]:
    """The certified mean squared change, which weighs the least robust examples most."""
    return [Recipe("certified", weight, {"loss": "squared_change"}, **fixed) for weight in weights]


def signs(weight: float, **fixed: Any) -> Recipe:
    """A hinge on certain signs."""
    return Recipe("certified", weight, {"loss": "signs", "options": {"margin": 0.0}}, **fixed)


def protected(weight: float, width: float, **fixed: Any) -> Recipe:
    """A hinge on protected features among the top 5, and some of the width."""
    loss = {"protected_ratio": 1.0} | ({"width": width} if width else {})
    return Recipe("certified", weight,
                  {"loss": loss, "options": {"protected_ratio": {"k": 5, "margin": 0.3}}}, **fixed)


CERTIFIED: dict[str, list[Recipe]] = {
    "adult": [protected(0.3, 0.0, batch=128, epochs=20), protected(0.3, 0.4, batch=128, epochs=20),
              *widths((0.02, 0.1))],
    "german": [*widths((0.05, 0.1, 0.2), epochs=60), protected(0.1, 32.0, epochs=60)],
    "credit_default": [*(protected(0.3, 0.4, batch=128, epochs=20, adam_decay=decay)
                         for decay in (0.0, 1e-4, 3e-4)),
                       protected(1.0, 0.4, batch=128, epochs=20, adam_decay=1e-4),
                       protected(0.3, 0.0, batch=128, epochs=20), *widths((0.02, 0.1))],
    "mnist_fc": [*widths((0.01,)),
                 *(signs(weight, adam_decay=1e-5, base="pgd", base_factor=0.5, epochs=30)
                   for weight in (0.03, 0.1, 0.3, 1.0, 10.0)),
                 *(signs(weight, adam_decay=1e-5) for weight in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0))],
    "mnist_cnn": [*(signs(weight, epochs=20, lr=2e-3, warmup=0.4, base="pgd")
                    for weight in (0.003, 0.03)),
                  *(signs(weight, epochs=25, lr=2e-3, warmup=0.4) for weight in (0.3, 1.0, 3.0))],
    "pneumonia": [*changes((0.01, 0.03), adam_decay=1e-3, base="atex"),
                  *widths((0.003, 0.1)), *changes((0.01, 0.03, 0.1, 0.3), adam_decay=1e-3),
                  *changes((0.003, 0.03, 0.1), adam_decay=1e-3, activation="softplus"),
                  *changes((0.3,), adam_decay=1e-3, gamma=0.02)],
    "breast": [*widths((0.001, 0.003, 0.01, 0.03)), *changes((0.3, 1.0)),
               *changes((0.3,), gamma=0.02)],
    "derma": widths((0.003, 0.01, 0.03, 0.1)),
    "blood": widths((0.003, 0.01, 0.03, 0.1)),
    "cancer": [protected(0.03, 0.4)],
    "digits": [signs(1.0)],
}
"""Data set -> the recipes of our own loss."""


def middle(label: str) -> Recipe:
    """The middle setting of another method."""
    rows = BASELINES[label]
    return rows[len(rows) // 2]


def recipes(name: str, quick: bool = False) -> dict[str, list[Recipe]]:
    """Label -> recipes of a data set; with `quick` one of each."""
    thin, controls = setup_of(name).thin, CONTROLS.get(name, {})
    others = {label: ([middle(label)] if thin else rows) + controls.get(label, [])
              for label, rows in BASELINES.items()}
    every = {**others, "certified": CERTIFIED[name]}
    return {label: [replace(rows[0], epochs=None)]
            for label, rows in every.items()} if quick else every


def trials(name: str, seeds: int, quick: bool = False) -> Iterator[tuple[str, Recipe, int]]:
    """Label, recipe and seed of each net of a data set.

    Of the settings of other methods the middle one gets all seeds, and the outer ones, which show
    what the setting does, the first.
    """
    for label, rows in recipes(name, quick).items():
        for recipe in rows:
            outer = recipe in BASELINES.get(label, []) and recipe != middle(label)
            yield from ((label, recipe, seed) for seed in range(1 if quick or outer else seeds))


def shortened(setup: Setup) -> Setup:
    """A setup for a glance at a large data set."""
    return replace(setup, epochs=2, points=10, radii=(), gammas=(0.02,))
