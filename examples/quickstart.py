"""Quickstart: what can no small change of the input alter in an explanation?

A small convolutional network learns scikit-learn's handwritten digits. Captum's IntegratedGradients
explains its predictions, and lirpa_explain certifies the explanations: bounds of every pixel's
attribution that hold for EVERY image within 2/255 of the given one in all pixels. Nothing in the
training favours tight certificates.

    python examples/quickstart.py [--examples 100] [--out quickstart.png]

It needs scikit-learn and matplotlib, and less than a minute.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import torch
from captum.attr import IntegratedGradients
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import lirpa_explain as lx

EPS = 2 / 255
STEPS = 32
HEADER = """\
                 certified   smallest certified   certified max     sampled max
class  examples      signs        top-5 overlap     change (l2)     change (l2)"""


class Row(NamedTuple):
    """A line of the table: the worst case over the examples of one class, or over all."""

    label: str
    examples: int
    # share of the non-zero attributions whose sign no allowed change of the image can flip
    signs: float
    overlap: int  # how many of the 5 most important pixels must stay among the 5
    certified: float  # no allowed change of the image moves the attribution further than this
    sampled: float  # an allowed change was found that moves it this far


def load() -> list[Tensor]:
    """Train and test images, (N, 1, 8, 8) with pixels in [0, 1], then train and test labels,
    (N,).
    """
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return train_test_split(images, torch.tensor(digits.target), test_size=0.3, random_state=0)


def train(images: Tensor, labels: Tensor, epochs: int = 20) -> nn.Module:
    """A network with two convolutions."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def sampled_change(explainer: IntegratedGradients, nominal: Tensor, images: Tensor,
                   target: Tensor) -> Tensor:
    """The largest change of each attribution (l2) at random points and corners of the ball:
    (N,).
    """
    largest = torch.zeros(len(images))
    for i in range(40):
        step = 2 * torch.rand_like(images) - 1
        nearby = (images + EPS * (step.sign() if i % 2 else step)).clamp(0, 1)
        change = explainer.attribute(nearby, target=target, n_steps=STEPS).detach() - nominal
        largest = torch.maximum(largest, change.flatten(1).norm(dim=1))
    return largest


def tabulate(certificate: lx.Certificate, sampled: Tensor, labels: Tensor) -> list[Row]:
    """A row for each class that occurs, and one for all."""
    certain, nonzero = certificate.sign() != 0, certificate.nominal != 0
    overlap, change = certificate.top_k_overlap(5), certificate.max_change(norm=2)

    def row(label: str, of: Tensor) -> Row:
        return Row(label, int(of.sum()), float(certain[of].sum() / nonzero[of].sum()),
                   int(overlap[of].min()), float(change[of].max()), float(sampled[of].max()))

    return [*(row(str(label), labels == label) for label in labels.unique().tolist()),
            row("all", labels >= 0)]


def draw(certificate: lx.Certificate, image: Tensor, example: int, title: str) -> Figure:
    """A picture of one example: image, attribution between its bounds, and the signs that are
    certain.
    """
    figure = Figure(figsize=(13, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 5)
    axes[0].imshow(image[0].numpy(), cmap="gray_r", vmin=0, vmax=1)
    bounds = [side[example, 0].numpy()
              for side in (certificate.lower, certificate.nominal, certificate.upper)]
    scale = max(abs(values).max() for values in bounds)
    # one scale, or the three could not be compared
    for axis, values in zip(axes[1:4], bounds, strict=True):
        shown = axis.imshow(values, cmap="RdBu", vmin=-scale, vmax=scale)
    figure.colorbar(shown, ax=axes[1:4], shrink=0.8)
    colors = ListedColormap(["#b2182b", "#e0e0e0", "#2166ac"])
    signs = axes[4].imshow(certificate.sign()[example, 0].numpy(), cmap=colors, vmin=-1.5, vmax=1.5)
    figure.colorbar(signs, ax=axes[4], shrink=0.8,
                    ticks=[-1, 0, 1]).set_ticklabels(["negative", "open", "positive"])
    for axis, name in zip(axes, ["image", "lower bound", "attribution", "upper bound",
                                 "certain signs"], strict=True):
        axis.set(title=name, xticks=[], yticks=[])
    figure.suptitle(title)
    return figure


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Train, explain, certify, print the table, save the figure; returns the table's rows."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100, help="how many test digits to certify")
    parser.add_argument("--out", default="quickstart.png", help="file for the figure")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    train_images, test_images, train_labels, test_labels = load()
    model = train(train_images, train_labels)
    print(f"test accuracy {(model(test_images).argmax(1) == test_labels).float().mean():.1%}\n")

    images, labels = test_images[:args.examples], test_labels[:args.examples]
    target = model(images).argmax(1)
    explainer = IntegratedGradients(model)
    certificate = lx.certify(explainer, images, eps=EPS, clip=(0, 1), target=target, n_steps=STEPS,
                             progress=True)
    print(certificate)

    sampled = sampled_change(explainer, certificate.nominal, images, target)
    rows = tabulate(certificate, sampled, labels)
    print("\nFor comparison, the attributions' l2 norms are "
          f"{certificate.nominal.flatten(1).norm(dim=1).mean():.1f} on average.\n\n{HEADER}")
    for row in rows:
        print("{:>5}{:>10}{:>11.1%}{:>21}{:>16.4f}{:>16.4f}".format(*row))

    title = (f"IntegratedGradients of class {int(target[0])}, for every image within 2/255 of this "
             "one")
    draw(certificate, images[0], 0, title).savefig(args.out, dpi=120)
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    main()
