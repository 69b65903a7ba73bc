"""The picture that README shows: an explanation, its certified bounds, and the signs that nothing can flip.

    python -m examples.picture [--out examples/guide/certificate.png]

The network is the quickstart's, the digit the middle one of the first test digits by the share of certain signs.
"""

import argparse
from collections.abc import Sequence

import torch
from captum.attr import IntegratedGradients

import lirpa_explain as lx
from examples.quickstart import load, train

EPS = 2 / 255
PANELS = ("image", "lower", "nominal", "upper", "signs")


def main(argv: Sequence[str] | None = None) -> lx.Certificate:
    """Train, certify, draw one example, save the picture; returns its certificate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20, help="how many test digits to choose from")
    parser.add_argument("--out", default="examples/guide/certificate.png", help="file for the picture")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    train_images, test_images, train_labels, _ = load()
    model = train(train_images, train_labels)
    images = test_images[:args.examples]
    certificate = lx.certify(IntegratedGradients(model), images, eps=EPS, clip=(0, 1), target=model(images).argmax(1),
                             n_steps=32)
    order = certificate.metric("sign_agreement").argsort(stable=True)
    example = int(order[len(order) // 2])
    figure, _ = lx.plot_image(certificate, example, images[example], panels=PANELS)
    figure.savefig(args.out, dpi=75, metadata={"Software": None})
    return certificate[example]


if __name__ == "__main__":
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    print(main())
