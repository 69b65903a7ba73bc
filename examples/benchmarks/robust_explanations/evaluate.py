"""What explanations of a net are worth: certified, attacked, and by the paper's rule.

The explanation is the gradient of the logit of the true class. Every row of figures says which
perturbation it is for ("input", |x' - x| <= size, or "parameters", |W' - W| <= size |W| for all
weights and biases) and where its box comes from.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from captum.attr import Saliency
from torch import Tensor, nn

import lirpa_explain as lx
from lirpa_explain.attacks.objectives import Objective
from lirpa_explain.certificates.metrics import evaluate as metric
from lirpa_explain.training import input_gradient

from .data import Data
from .paper_rule import paper_bounds, share_outside
from .settings import Setup

CERTIFIED = "certified"
"""The name of the intersection of all sound boxes, which is as sound as they are."""
TOP = 5
TOLERANCE = 0.03
"""The paper's: the largest mean squared change of an explanation that counts as none."""

Box = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Explained:
    """The examples whose explanations are looked at.

    Args:
        net: the net.
        x: (N, *S).
        y: (N,).
        nominal: their explanations, (N, D).
        mask: (D,), protected features.
        channels: of an image.
    """

    net: nn.Sequential
    x: Tensor
    y: Tensor
    nominal: Tensor
    mask: Tensor
    channels: int


FIGURES: dict[str, tuple[str, Callable[[Tensor, Tensor, Explained], Tensor]]] = {
    "fair": (f"share of points without a protected feature in the top {TOP} of |v| (targeted)",
             lambda low, high, e: metric("targeted_fairness", low, high, e.nominal, mask=e.mask,
                                         k=TOP, absolute=True)),
    "fair signed": (f"the same for the top {TOP} of v, as the paper has it", lambda low, high,
                    e: metric("targeted_fairness", low, high, e.nominal, mask=e.mask, k=TOP)),
    "region": (f"share of points with a mean squared change of at most {TOLERANCE} (targeted)",
               lambda low, high, e: metric("targeted_region", low, high, e.nominal,
                                           channels=e.channels) <= TOLERANCE),
    "width": ("mean |v' - v''| (untargeted)",
              lambda low, high, e: metric("untargeted", low, high, e.nominal)),
    "signs": ("share of the signs of all features that stay",
              lambda low, high, e: ((low > 0) | (high < 0)).double().mean(1)),
}
"""Name -> what it is, and its value for each point (N,), from the ends of a box (N, D)."""


def evaluate(net: nn.Sequential, data: Data, setup: Setup, activation: str) -> dict[str, Any]:
    """All figures of a net: its accuracy, and a row for each perturbation, size and source of
    bounds.
    """
    with torch.no_grad():
        accuracy = (net(data.test_x).argmax(1) == data.test_y).double().mean().item()
    x, y = data.test_x[:setup.points], data.test_y[:setup.points]
    nominal = input_gradient(net, x, y, create_graph=False).flatten(1)
    mask = torch.zeros(nominal.shape[1], dtype=torch.bool)
    mask[list(data.protected)] = True
    explained = Explained(net, x, y, nominal, mask, setup.channels)
    certifier = lx.Certifier(Saliency(net), abs=False)
    rows = []
    for size in sorted({setup.eps, *setup.radii}):
        methods = ("IBP", "CROWN") if size == setup.eps or setup.crown_everywhere else ("IBP",)
        rows += [{"perturbation": "input", "size": size, **row}
                 for row in figures(explained, certifier, methods, activation, eps=size)]
    for size in setup.gammas:
        methods = ("IBP", "CROWN") if setup.crown_everywhere else ("IBP",)
        rows += [{"perturbation": "parameters", "size": size, **row}
                 for row in figures(explained, certifier, methods, activation, gamma=size)]
    return {"accuracy": accuracy, "majority": data.majority, "figures": rows}


def figures(e: Explained, certifier: lx.Certifier, methods: Sequence[str], activation: str,
            eps: float = 0.0, gamma: float = 0.0) -> Iterator[dict[str, Any]]:
    """A row for each source of bounds, under a change of the input or of the parameters."""
    boxes = certified(e, certifier, methods, eps, gamma)
    low, high, worst = attacked(e, eps, gamma)
    outside = torch.maximum(boxes[CERTIFIED][0] - low, high - boxes[CERTIFIED][1]).amax().item()
    for name, box in boxes.items():
        yield {"bounds": name, **summary(e, *box), "outside": outside}
    yield {"bounds": "attack", **worst, **summary(e, low, high, ("width", "signs"))}
    if activation == "relu":
        low, high = paper_bounds(e.net, e.x, e.y, eps, gamma)
        row = summary(e, low.flatten(1), high.flatten(1))
        # The code's own explanation is its bound without a perturbation, and its change is measured
        # from there.
        still = paper_bounds(e.net, e.x, e.y, 0.0)
        row |= summary(replace(e, nominal=still[0].flatten(1)), low.flatten(1), high.flatten(1),
                       ("region",))
        if eps:
            row |= {"unsound": share_outside(e.net, e.x, e.y, eps, (low, high)),
                    "unsound at 0": share_outside(e.net, e.x, e.y, 0.0, still)}
        yield {"bounds": "paper", **row}


def summary(e: Explained, low: Tensor, high: Tensor,
            names: Iterable[str] = tuple(FIGURES)) -> dict[str, float]:
    """The mean over the points of each figure that a box has."""
    return {name: FIGURES[name][1](low, high, e).double().mean().item() for name in names
            if e.mask.any() or not name.startswith("fair")}


def perturbation(eps: float, gamma: float) -> dict[str, Any]:
    """The keywords of `lx.certify` and `lx.attack`."""
    return {"eps": eps} if eps else {"parameters": lx.ParameterBox(relative=gamma)}


def certified(e: Explained, certifier: lx.Certifier, methods: Sequence[str], eps: float,
              gamma: float) -> dict[str, Box]:
    """Sound boxes (N, D) by method, and their intersection."""
    boxes = {}
    for method in methods:
        certificate = certifier.certify(e.x, target=e.y, method=method, **perturbation(eps, gamma))
        boxes[method] = certificate.lower.flatten(1), certificate.upper.flatten(1)
    lows, highs = (torch.stack(ends) for ends in zip(*boxes.values(), strict=True))
    return {**boxes, CERTIFIED: (lows.amax(0), highs.amin(0))}


def attacked(e: Explained, eps: float, gamma: float) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The smallest and largest value found of each entry, (N, D), and the figures at the worst
    points found.

    Gradient ascent on the change, on flipped signs, and on what brings protected features into the
    top.
    """
    def run(objective: str | Objective) -> lx.AttackResult:
        found = lx.attack(Saliency(e.net), e.x, objective=objective, target=e.y, abs=False,
                          samples=20, restarts=1, steps=10, **perturbation(eps, gamma))
        if found.interrupted:
            # an attack ends with what it has; this figure is wanted whole or not at all
            raise KeyboardInterrupt
        return found

    results = {"region": run("l2"), "signs": run("sign_flips")}
    if e.mask.any():
        results |= {"fair": run(intrusion(e.mask, True)),
                    "fair signed": run(intrusion(e.mask, False))}
    worst: dict[str, float] = {}
    for name in results.keys() - {"signs"}:
        a = results[name].attribution.flatten(1)
        worst |= summary(e, a, a, (name,))
    low = torch.stack([result.low.flatten(1) for result in results.values()]).amin(0)
    high = torch.stack([result.high.flatten(1) for result in results.values()]).amax(0)
    return low, high, worst


def intrusion(mask: Tensor, absolute: bool) -> Objective:
    """By how much the largest protected feature exceeds the last of the top of the others; below 0
    it stays out.
    """
    def value(a: Tensor, nominal: Tensor, shapes: Any) -> Tensor:
        size = a.abs() if absolute else a
        return size[:, mask].amax(1) - size[:, ~mask].topk(TOP, 1).values[:, -1]

    return Objective("intrusion", "margin of the largest protected feature", value, value)
