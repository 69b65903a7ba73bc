"""Pictures of explanations with their bounds: which parts of a saliency map can no small change of
the image alter?

A small convolutional network learns handwritten digits. Each row of the picture is one image: its
attribution between its certified bounds, the width of these, and the signs that no image within EPS
in all pixels can flip, on one scale. A line is printed for each: how much of the map is certain,
and whether the label is.

    python examples/images.py [--attribution InputXGradient] [--examples 4] [--eps 0.008] [--out
    images.png]
                              [--data MNIST]

It needs scikit-learn and matplotlib, and less than a minute. MNIST is a folder with the four files
*-ubyte.gz; without it the digits are scikit-learn's.
"""

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from captum import attr
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import lirpa_explain as lx

ATTRIBUTIONS = {"Saliency": {"abs": False}, "InputXGradient": {},
                "IntegratedGradients": {"n_steps": 16}, "GuidedBackprop": {}, "DeepLift": {}}


def load(mnist: Path | None) -> list[Tensor]:
    """Train and test images, (N, 1, H, W) with pixels in [0, 1], then train and test labels,
    (N,).
    """
    if mnist is None:
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        return train_test_split(images, torch.tensor(digits.target), test_size=0.3, random_state=0)
    images = [_idx(mnist / f"{kind}-images-idx3-ubyte.gz").reshape(-1, 1, 28, 28)
              for kind in ("train", "t10k")]
    labels = [_idx(mnist / f"{kind}-labels-idx1-ubyte.gz") for kind in ("train", "t10k")]
    return [*(torch.tensor(part, dtype=torch.float32) / 255 for part in images),
            *(torch.tensor(part).long() for part in labels)]


def _idx(path: Path) -> np.ndarray:
    """The numbers in an IDX file, flat."""
    with gzip.open(path) as file:
        content = file.read()
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * content[3])


def train(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A network with two convolutions, for images of any size that is a multiple of 4."""
    hidden = 16 * (images.shape[-1] // 4) ** 2
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),
                          nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
                          nn.AvgPool2d(2), nn.Flatten(), nn.Linear(hidden, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def main(argv: Sequence[str] | None = None) -> tuple[lx.Certificate, lx.Prediction]:
    """Train, certify, print a line for each image, save the picture; returns both certificates."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attribution", choices=ATTRIBUTIONS, default="InputXGradient",
                        help="Captum's class")
    parser.add_argument("--examples", type=int, default=4, help="how many test images")
    parser.add_argument("--eps", type=float, default=2 / 255,
                        help="radius: largest change of a pixel")
    parser.add_argument("--epochs", type=int, help="of training; default 15, on MNIST 1")
    parser.add_argument("--out", default="images.png", help="file for the picture")
    parser.add_argument("--data", type=Path, metavar="MNIST", help="use MNIST, from this folder")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    train_images, test_images, train_labels, test_labels = load(args.data)
    model = train(train_images, train_labels, args.epochs or (1 if args.data else 15))
    images, labels = test_images[:args.examples], test_labels[:args.examples]
    ball = {"eps": args.eps, "clip": (0, 1)}
    prediction = lx.certify_prediction(model, images, **ball)
    attribution = getattr(attr, args.attribution)(model)
    certificate = lx.certify(attribution, images, target=prediction.classes, **ball,
                             **ATTRIBUTIONS[args.attribution])

    titles = []
    signs, overlap, cosine = (certificate.sign(), certificate.top_k_overlap(5),
                              certificate.metric("cosine"))
    for i in range(len(images)):
        certain = float((signs[i][certificate.nominal[i] != 0] != 0).float().mean())
        titles.append(f"a {labels[i]}, called {prediction.classes[i]}"
                      + ", certainly" * bool(prediction.certain[i]))
        print(f"{titles[-1]:27}{certain:7.1%} of the signs certain, {overlap[i]} of the top 5 "
              f"pixels stay, cosine at least {cosine[i]:.3f}")
    lx.plot_grid(certificate, images, titles=titles)[0].savefig(args.out, dpi=80)
    return certificate, prediction


if __name__ == "__main__":
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    main()
