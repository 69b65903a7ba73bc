"""How large a change of the image leaves an explanation as it is? The radius of a property, from
both sides.

A small network learns scikit-learn's handwritten digits. For each of a few test images, bisection
finds the largest radius at which a property of input times gradient is certified, and the next one
at which it is not. Bounds are not exact, so the same search finds the smallest radius at which an
attack breaks the property: the true radius lies between what is certified and what is broken. The
picture shows a certified and the found figure against the radius, for the first image.

    python examples/radius.py [--examples 4] [--steps 7] [--out radius.png]

It needs scikit-learn and matplotlib, and less than a minute.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from captum.attr import InputXGradient
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lirpa_explain as lx

HIGH = 0.2  # the largest radius tried
ATTACK = {"samples": 20, "restarts": 2, "steps": 8}


class Property(NamedTuple):
    """What is to stay, and the number that an attack drives down to break it."""

    words: str
    holds: Callable[[lx.Certificate], Tensor]
    metric: str
    options: dict[str, Any]
    broken: float  # the property does not hold where the metric gets worse by this


PROPERTIES = [
    Property("the 3 most important pixels stay the 3", lambda c: c.top_k_overlap(3) == 3,
             "top_k_overlap", {"k": 3}, 1),
    Property("cosine at least 0.9", lambda c: c.metric("cosine") >= 0.9, "cosine", {}, 0.1),
]


class Row(NamedTuple):
    """A line of the table, (N,) each."""

    words: str
    certified: Tensor  # certified at this radius
    fails: Tensor  # not certified at this one
    broken: Tensor  # an image within this radius breaks the property; inf if none was found


def train() -> tuple[nn.Module, Tensor]:
    """A network with two hidden layers, and images that it was not trained on."""
    digits = load_digits()
    images, labels = (torch.tensor(digits.data, dtype=torch.float32) / 16,
                      torch.tensor(digits.target))
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(),
                          nn.Linear(16, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005, weight_decay=1e-4)
    for _ in range(20):
        for batch in torch.randperm(1500).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval(), images[1500:]


def search(certificate: lx.Certificate, goal: Property, steps: int) -> Row:
    """The radii of one property, of the certificate and of an attack."""
    certified = certificate.radius(goal.holds, high=HIGH, steps=steps)

    def withstands(certificate: lx.Certificate) -> Tensor:
        return certificate.sandwich(goal.metric, settings=ATTACK,
                                    **goal.options).found < goal.broken

    attacked = certificate.radius(withstands, high=HIGH, steps=steps)
    return Row(goal.words, certified.value, certified.fails, attacked.fails)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Train, search, print the table, save the picture; returns the table's rows."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=4, help="how many test images")
    parser.add_argument("--steps", type=int, default=7,
                        help="how often the interval of radii is halved")
    parser.add_argument("--out", default="radius.png", help="file for the picture")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    model, images = train()
    images = images[:args.examples]
    certifier = lx.Certifier(InputXGradient(model), target=model(images).argmax(1))
    certificate = certifier.certify(images, eps=0.01, clip=(0, 1))
    print("For each image: certified at this radius, not at this one; broken at this one\n")
    rows = []
    for goal in PROPERTIES:
        rows.append(row := search(certificate, goal, args.steps))
        cells = ["{:.4f}, {:.4f}; {:.4f}".format(*radii)
                 for radii in zip(*(column.tolist() for column in row[1:]), strict=True)]
        print(f"{row.words:40}" + "   ".join(cells))

    radii = [0.002, 0.005, 0.01, 0.02, 0.04]
    sides = [certifier.certify(images, eps=eps, clip=(0, 1)).sandwich("cosine", settings=ATTACK)
             for eps in radii]
    figure, _ = lx.plot_curve(radii, [float(side.certified[0]) for side in sides],
                              [float(side.found[0]) for side in sides],
                              ylabel="1 - cosine with the explanation",
                              title="How far one explanation can turn")
    figure.savefig(args.out, dpi=100)
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    main()
