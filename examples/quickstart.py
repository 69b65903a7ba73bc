"""Quickstart: which parts of an explanation can no small change of the input take away?

We train a small convolutional network on scikit-learn's handwritten digits, explain its predictions with Captum's
IntegratedGradients, and certify these explanations: bounds of every pixel's attribution that hold for EVERY image
whose pixels differ from the given ones by at most 2/255. The network is trained plainly, with nothing done to make
its certificates tight.

    python examples/quickstart.py [--examples 100] [--out quickstart.png]

needs scikit-learn and matplotlib, and takes less than a minute.
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


def load() -> list[Tensor]:
    """Train images, test images (N, 1, 8, 8) with pixels in [0, 1], train labels and test labels (N,)."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return train_test_split(images, torch.tensor(digits.target), test_size=0.3, random_state=0)


def train(images: Tensor, labels: Tensor, epochs: int = 20) -> nn.Module:
    """A small network with two convolutions."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def sampled_change(explainer: IntegratedGradients, certificate: lx.Certificate, images: Tensor, target: Tensor,
                   points: int = 20) -> Tensor:
    """Largest change |A(x') - A(x)|_2 found at random points and corners of each image's ball: (N,).

    What a search finds is a lower bound of the worst case; what is certified is an upper bound.
    """
    found = torch.zeros(len(images))
    for point in range(points):
        step = 2 * torch.rand_like(images) - 1
        nearby = (images + EPS * (step if point % 2 else step.sign())).clamp(0, 1)
        change = explainer.attribute(nearby, target=target, n_steps=STEPS) - certificate.nominal
        assert certificate.contains(certificate.nominal + change).all()
        found = torch.maximum(found, change.detach().flatten(1).norm(dim=1))
    return found


class Row(NamedTuple):
    """One line of the table: the worst case over the examples of one class, or of all."""

    name: str
    examples: int
    signs: float  # certified, share of the pixels whose attribution is not zero
    overlap: int  # how many of the 5 most important pixels must stay among the 5
    certified: float  # no allowed change of the image moves the attribution further
    sampled: float  # a change of the image was found that moves it this far

    def __str__(self) -> str:
        """The line."""
        return (f"{self.name:>5}{self.examples:>10}{self.signs:>12.1%}{self.overlap:>16}{self.certified:>17.4f}"
                f"{self.sampled:>15.4f}")


HEADER = (f"{'':5}{'':10}{'certified':>12}{'certified top-5':>16}{'certified max':>17}{'sampled max':>15}\n"
          f"{'class':>5}{'examples':>10}{'signs':>12}{'overlap, min':>16}{'change (l2)':>17}{'change (l2)':>15}")


def tabulate(certificate: lx.Certificate, sampled: Tensor, labels: Tensor) -> list[Row]:
    """One row per class that occurs, and a last one for all."""
    certain, nonzero = certificate.sign() != 0, certificate.nominal != 0
    overlap, change = certificate.top_k_overlap(5), certificate.max_change(norm=2)

    def row(name: str, of: Tensor) -> Row:
        return Row(name, int(of.sum()), float(certain[of].sum() / nonzero[of].sum()), int(overlap[of].min()),
                   float(change[of].max()), float(sampled[of].max()))

    return [*(row(str(c), labels == c) for c in labels.unique().tolist()), row("all", labels >= 0)]


def draw(certificate: lx.Certificate, images: Tensor, example: int, path: str) -> None:
    """Picture one example: the image, its attribution between its bounds, and the signs that are certain."""
    figure = Figure(figsize=(13, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 5)
    axes[0].imshow(images[example, 0], cmap="gray_r", vmin=0, vmax=1)
    maps = {"lower bound": certificate.lower, "attribution": certificate.nominal, "upper bound": certificate.upper}
    scale = max(float(values[example].abs().max()) for values in maps.values())
    for axis, values in zip(axes[1:4], maps.values(), strict=True):  # one scale for all three, or they say nothing
        shown = axis.imshow(values[example, 0], cmap="RdBu", vmin=-scale, vmax=scale)
    figure.colorbar(shown, ax=axes[1:4], label="attribution")
    signs = axes[4].imshow(certificate.sign()[example, 0], cmap=ListedColormap(["#b2182b", "#dddddd", "#2166ac"]),
                           vmin=-1.5, vmax=1.5)
    figure.colorbar(signs, ax=axes[4], ticks=[-1, 0, 1]).ax.set_yticklabels(["negative", "open", "positive"])
    for axis, title in zip(axes, ["image", *maps, "certified signs"], strict=True):
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(f"{certificate.attribution}, {certificate.perturbation}")
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Train, explain, certify, print the table and save the figure; the table's rows are returned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100, help="how many test digits to certify")
    parser.add_argument("--out", default="quickstart.png", help="file for the figure")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    train_images, test_images, train_labels, test_labels = load()
    model = train(train_images, train_labels)
    accuracy = (model(test_images).argmax(1) == test_labels).float().mean()
    images, labels = test_images[:args.examples], test_labels[:args.examples]
    predicted = model(images).argmax(1)

    explainer = IntegratedGradients(model)
    certificate = lx.certify(explainer, images, eps=EPS, clip=(0, 1), target=predicted, n_steps=STEPS, progress=True)
    sampled = sampled_change(explainer, certificate, images, predicted)

    rows = tabulate(certificate, sampled, labels)
    print(f"Test accuracy {accuracy:.1%}.\n{certificate}\n\n{HEADER}", *rows, sep="\n")
    draw(certificate, images, example=0, path=args.out)
    print(f"\nMean |attribution| (l2), for scale: {certificate.nominal.flatten(1).norm(dim=1).mean():.4f}. "
          f"Figure: {args.out}")
    return rows


if __name__ == "__main__":
    main()
