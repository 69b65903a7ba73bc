"""Train a small network on handwritten digits, with and without a loss on certified explanations.

Prints, for both, the accuracy and how many signs of the gradient are certified: no perturbation of
the pixels by `eps` can flip them. Run with `python examples/train_certified.py`; it takes a few
seconds.
"""

import argparse
from dataclasses import dataclass

import torch
from captum.attr import Saliency
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

import lirpa_explain as lx


@dataclass(frozen=True)
class Row:
    """What is printed of one network: shares from 0 to 1."""

    label: str
    accuracy: float
    majority: float
    signs: float


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images, (N, 64) in [0, 1], and their labels."""
    pixels, labels = load_digits(return_X_y=True)
    split = train_test_split(pixels / 16, labels, test_size=0.25, random_state=0, stratify=labels)
    train, test, train_labels, test_labels = (torch.as_tensor(part) for part in split)
    return train.float(), test.float(), train_labels, test_labels


def train(x: Tensor, y: Tensor, eps: float, alpha: float, epochs: int) -> nn.Module:
    """A network trained by Adam; alpha weighs the width of the certified bounds, eps rises from
    0.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    batches = -(-len(x) // 64)
    radius = lx.training.Ramp(0.0, eps, begin=batches, end=epochs * batches // 2)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(64):
            loss = F.cross_entropy(model(x[index]), y[index])
            if alpha:
                loss = loss + alpha * lx.training.explanation_loss(
                    model, x[index], y[index], eps=radius.value, clip=(0, 1), reduction="sum")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            radius.step()
    return model.eval()


def main(arguments: list[str] | None = None) -> list[Row]:
    """Train both networks, and certify the gradients of the first test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eps", type=float, default=0.03, help="largest change of a pixel, of 1")
    parser.add_argument("--alpha", type=float, default=0.1,
                        help="weight of the loss on explanations")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--examples", type=int, default=100, help="test images to certify")
    options = parser.parse_args(arguments)
    x, test, y, labels = load()
    rows = []
    print(f"{'training':<12}{'accuracy':>10}{'majority':>10}{'certified signs':>17}")
    for label, alpha in (("plain", 0.0), ("certified", options.alpha)):
        model = train(x, y, options.eps, alpha, options.epochs)
        with torch.no_grad():
            accuracy = (model(test).argmax(1) == labels).float().mean().item()
        count = options.examples
        certificate = lx.certify(Saliency(model), test[:count], eps=options.eps, clip=(0, 1),
                                 target=labels[:count], abs=False)
        row = Row(label, accuracy, labels.bincount().max().item() / len(labels),
                  (certificate.sign() != 0).float().mean().item())
        print(f"{row.label:<12}{row.accuracy:>10.1%}{row.majority:>10.1%}{row.signs:>17.1%}")
        rows.append(row)
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
