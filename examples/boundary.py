"""Do robust networks have attributions at the boundary that look like the plain ones? A paper's
claim, measured.

Three networks with one hidden layer learn handwritten digits: by ordinary training, by adversarial
training (l2 PGD), and on images with Gaussian noise, whose logits are then averaged over noise
(randomized smoothing, for a fixed draw of it). For each, the nearest point where the decision
changes is searched for, and measured are, all found and certified:

  * distance: of the boundary point found, and how near the nearest one can be (certified);
  * the gap |grad at the boundary - grad at the image|: found, and an upper bound that holds
    wherever the nearest boundary point is (certified); absolute, and relative to |grad at the
    image|;
  * the same gap between mean gradients along the path from the boundary point, and along that from
    a black image;
  * how far IntegratedGradients move when the baseline moves by EPS (l2), relative to themselves:
    the black image, or the boundary point.

Wang, Fredrikson, Datta (ICML 2022) predict gaps of gradients that close as networks get smoother.

    python examples/boundary.py [--examples 8] [--epochs 30] [--out boundary.png] [--mnist DATA]

It needs scikit-learn and matplotlib, and less than a minute. DATA is a folder with MNIST's four
files *-ubyte.gz, or an npz file with x_train, y_train, x_test and y_test; it takes some minutes.
"""

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from captum.attr import IntegratedGradients, Saliency
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import lirpa_explain as lx

# radius of the input's ball in the picture's certificates, and of the baseline's in the table
EPS = 0.05
STEPS = 8
COLUMNS = ("network", "accuracy", "distance", "gap", "gap / |grad|", "gap of paths",
           "change, black", "change, boundary")


class Row(NamedTuple):
    """A line of the table: means over the examples, pairs of what was found and what is
    certified.
    """

    label: str
    accuracy: float
    distance: tuple[float, float]
    gap: tuple[float, float]
    relative: tuple[float, float]
    paths: tuple[float, float]
    black: tuple[float, float]
    boundary: tuple[float, float]


class Smoothed(nn.Module):
    """Mean of a network's logits over a fixed draw of Gaussian noise added to the image."""

    def __init__(self, model: nn.Module, noise: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("noise", noise)  # (J, 1, H, W)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        total = self.model(x + self.noise[0])
        for noise in self.noise[1:]:
            total = total + self.model(x + noise)
        return total / len(self.noise)


def load(mnist: Path | None) -> list[Tensor]:
    """Train and test images, (N, 1, H, W) with pixels in [0, 1], then train and test labels,
    (N,).
    """
    if mnist is None:
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        return train_test_split(images, torch.tensor(digits.target), test_size=0.3, random_state=0)
    if mnist.is_file():
        with np.load(mnist) as arrays:
            parts = [arrays[name] for name in ("x_train", "x_test", "y_train", "y_test")]
    else:
        parts = [_idx(mnist / f"{kind}-{what}-ubyte.gz") for what in ("images-idx3", "labels-idx1")
                 for kind in ("train", "t10k")]
    images = [torch.tensor(part, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
              for part in parts[:2]]
    return [*images, *(torch.tensor(part).long() for part in parts[2:])]


def _idx(path: Path) -> np.ndarray:
    """The numbers in an IDX file, flat."""
    with gzip.open(path) as file:
        content = file.read()
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * content[3])


def network(size: int) -> nn.Sequential:
    """A network with one hidden layer, for images of size x size."""
    return nn.Sequential(nn.Flatten(), nn.Linear(size**2, 32), nn.ReLU(), nn.Linear(32, 10))


def train(images: Tensor, labels: Tensor, epochs: int, attack: float = 0.0,
          noise: float = 0.0) -> nn.Module:
    """Train a network: on l2 attacks of radius `attack` if it is not 0, else with noise of
    deviation `noise`.
    """
    torch.manual_seed(0)
    model = network(images.shape[-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            x, y = images[batch], labels[batch]
            x = attacked(model, x, y, attack) if attack else x + noise * torch.randn_like(x)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def attacked(model: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int = 4) -> Tensor:
    """Images in the l2 balls around x, within [0, 1], that raise the loss."""
    step = torch.zeros_like(x)
    for _ in range(steps):
        point = (x + step).requires_grad_()
        slope, = torch.autograd.grad(nn.functional.cross_entropy(model(point), y), point)
        step = step + radius / 2 * _unit(slope)
        step = step * (radius / step.flatten(1).norm(dim=1).clamp(min=1e-12)).clamp(max=1).reshape(
            -1, 1, 1, 1)
        step = (x + step).clamp(0, 1) - x
    return (x + step).detach()


def _unit(x: Tensor) -> Tensor:
    return x / x.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, 1, 1, 1)


def networks(images: Tensor, labels: Tensor, epochs: int) -> dict[str, nn.Module]:
    """The three networks by name."""
    noise = 0.5 * torch.randn(8, 1, *images.shape[2:], generator=torch.Generator().manual_seed(0))
    return {
        "standard": train(images, labels, epochs),
        "adversarial": train(images, labels, epochs, attack=1.0),
        "smoothed": Smoothed(train(images, labels, epochs, noise=0.5), noise),
    }


def measure(label: str, model: nn.Module, images: Tensor, accuracy: float,
            search: lx.BoundarySearch, progress: bool) -> Row:
    """The table's line for one network."""
    points = lx.find_boundary(model, images, search_options=search, progress=progress)
    keywords = {"progress": progress}
    gradients = lx.boundary_gap(lx.BoundarySaliency(model, search=search), images, **keywords)
    paths = lx.boundary_gap(lx.BoundaryIntegratedGradients(
        model, multiply_by_inputs=False, search=search), images, n_steps=STEPS, **keywords)
    path = lx.BoundaryIntegratedGradients(model, search=search)
    keywords |= {"eps": EPS, "n_steps": STEPS, "target": points.classes}
    black = lx.baseline_sensitivity(IntegratedGradients(model), images, **keywords)
    boundary = lx.baseline_sensitivity(path, images, **keywords)

    def means(found: Tensor, certified: Tensor, unit: Tensor | float = 1.0) -> tuple[float, float]:
        return float((found / unit).mean()), float((certified / unit).mean())

    return Row(label, accuracy, means(points.distance, points.certified_distance),
               means(gradients.found, gradients.certified),
               means(gradients.found, gradients.certified, gradients.plain_norm),
               means(paths.found, paths.certified), means(black.found, black.certified, black.norm),
               means(boundary.found, boundary.certified, boundary.norm))


def draw(models: dict[str, nn.Module], image: Tensor, search: lx.BoundarySearch) -> Figure:
    """A line of pictures for each network: image, boundary point, and attributions with how certain
    they are.
    """
    figure = Figure(figsize=(16, 2.6 * len(models)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(models), 7, squeeze=False)
    for line, (label, model) in zip(axes, models.items(), strict=True):
        saliency, path = (kind(model, search=search)
                          for kind in (lx.BoundarySaliency, lx.BoundaryIntegratedGradients))
        points = saliency.boundary_points(image)
        shown = [("image", image, None),
                 (f"boundary, {float(points.distance):.2f} away", points.points, None)]
        plain = Saliency(model).attribute(image.clone().requires_grad_(), target=points.classes,
                                          abs=False)
        shown.append(("gradient at the image", plain, None))
        for name, attribution, options in (("gradient at the boundary", saliency, {}),
                                           ("IG from the boundary", path, {"n_steps": STEPS})):
            certificate = lx.certify(attribution, image, eps=EPS / 8, norm=2, boundary="moving",
                                     **options)
            shown += [(name, certificate.nominal, None),
                      (f"its bounds' width, l2 ball {EPS / 8:.3g}",
                       certificate.width, certificate.nominal)]
        for axis, (title, values, like) in zip(line, shown, strict=True):
            pixels = values[0, 0].detach().numpy()
            if "gradient" in title or "IG" in title:
                scale = abs(pixels).max()
                drawn = axis.imshow(pixels, cmap="RdBu", vmin=-scale, vmax=scale)
            elif like is not None:
                drawn = axis.imshow(pixels, cmap="viridis", vmin=0)
            else:
                drawn = axis.imshow(pixels, cmap="gray_r", vmin=0, vmax=1)
            figure.colorbar(drawn, ax=axis, shrink=0.7)
            axis.set(xticks=[], yticks=[])
            axis.set_title(title, fontsize=9)
        line[0].set_ylabel(label)
    return figure


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Train, search, certify, print the table, save the figure; returns the table's rows."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=8, help="how many test images")
    parser.add_argument("--epochs", type=int, help="of training; default 30, on MNIST 3")
    parser.add_argument("--out", default="boundary.png", help="file for the figure")
    parser.add_argument("--mnist", type=Path, metavar="DATA",
                        help="use MNIST, from this folder or npz file")
    args = parser.parse_args(argv)

    train_images, test_images, train_labels, test_labels = load(args.mnist)
    models = networks(train_images, train_labels, args.epochs or (3 if args.mnist else 30))
    search = lx.BoundarySearch(clip=(0, 1))
    right = torch.stack([model(test_images[:500]).argmax(1) == test_labels[:500]
                         for model in models.values()])
    images = test_images[:500][right.all(0)][:args.examples]
    rows = []
    print(f"Means over {len(images)} test images that all networks recognise, each as "
          f"found/certified; baselines move by {EPS} (l2).\n\n"
          + "".join(f"{column:>18}" for column in COLUMNS))
    for (label, model), correct in zip(models.items(), right, strict=True):
        rows.append(row := measure(label, model, images, float(correct.float().mean()), search,
                                   progress=True))
        cells = [row.label, f"{row.accuracy:.1%}",
                 *("{:.3f}/{:.3f}".format(*pair) for pair in row[2:])]
        print("".join(f"{cell:>18}" for cell in cells), flush=True)
    draw(models, images[:1], search).savefig(args.out, dpi=100)
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    main()
