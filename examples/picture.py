"""The pictures that README and the guide show: an explanation and its bounds, as an image, as bars,
and by the radius.

    python -m examples.picture [--out examples/guide]

The first is of the quickstart's network, at the middle one of the first test digits by the share of
certain signs; the others are of the report's network, which tells benign from malignant tumours.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from captum.attr import IntegratedGradients
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer

import lirpa_explain as lx
from examples import quickstart, report

EPS = 2 / 255
PANELS = ("image", "lower", "nominal", "upper", "signs")
RADII = (0.0025, 0.005, 0.01, 0.02)
SEARCH = {"samples": 20, "restarts": 1}


def image(out: Path, examples: int, epochs: int) -> lx.Certificate:
    """A digit; returns its certificate."""
    torch.manual_seed(0)
    train_images, test_images, train_labels, _ = quickstart.load()
    model = quickstart.train(train_images, train_labels, epochs)
    images = test_images[:examples]
    certificate = lx.certify(IntegratedGradients(model), images, eps=EPS, clip=(0, 1),
                             target=model(images).argmax(1), n_steps=32)
    order = certificate.metric("sign_agreement").argsort(stable=True)
    example = int(order[len(order) // 2])
    figure, _ = lx.plot_image(certificate, example, images[example], panels=PANELS)
    save(figure, out / "certificate.png")
    return certificate[example]


def table(out: Path, patients: int) -> tuple[list[float], list[float]]:
    """A patient as bars, and several by the radius; returns the means of what is certified and
    found.
    """
    torch.manual_seed(0)
    data = load_breast_cancer()
    order = torch.randperm(len(data.data))
    x = torch.tensor(data.data, dtype=torch.float32)[order]
    x, y = (x - x.amin(0)) / (x.amax(0) - x.amin(0)), torch.tensor(data.target)[order]
    model = report.train(x[:report.TRAINED], y[:report.TRAINED])
    shown = x[report.TRAINED:report.TRAINED + patients]
    certifier = lx.Certifier(IntegratedGradients(model), target=model(shown).argmax(1), n_steps=16,
                             features=list(data.feature_names))
    sides = []
    for eps in RADII:
        certificate = certifier.certify(shown, eps=eps, clip=(0, 1))
        sides.append(certificate.sandwich("max_change", settings=SEARCH))
    save(lx.plot_bars(certificate, 0, most=10)[0], out / "bars.png")
    certified = [float(side.certified.mean()) for side in sides]
    found = [float(side.found.mean()) for side in sides]
    save(lx.plot_curve(RADII, certified, found, ylabel="largest change of the attribution (l2)")[0],
         out / "curve.png")
    return certified, found


def save(figure: Figure, path: Path) -> None:
    """Write a picture that is light enough for git."""
    figure.savefig(path, dpi=75, metadata={"Software": None})


def main(argv: Sequence[str] | None = None) -> tuple[lx.Certificate, list[float], list[float]]:
    """Train, certify and draw; returns the digit's certificate, and what is certified and found by
    the radius.
    """
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20,
                        help="how many test digits to choose from")
    parser.add_argument("--epochs", type=int, default=20, help="of training the network for digits")
    parser.add_argument("--patients", type=int, default=12,
                        help="how many patients the curve is a mean of")
    parser.add_argument("--out", type=Path, default=Path("examples/guide"),
                        help="folder for the pictures")
    args = parser.parse_args(argv)
    return image(args.out, args.examples, args.epochs), *table(args.out, args.patients)


if __name__ == "__main__":
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    print(main()[0])
