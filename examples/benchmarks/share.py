"""Benchmark: bounds of the kinks that matter most, by chosen planes (`optimize_share`).

    python examples/benchmarks/share.py DATA [--nets "3 hidden" CNN ...] [--shares 0.05 0.25 1]
        [--images 5] [--optimized] [--weights FOLDER]

Nets are those of refine.py (MLPs 784-100-...-10 of 2, 3 and 5 hidden layers on MNIST, in float64),
of cnn.py (max pooling, PneumoniaMNIST) and of large.py (ResNet-20, CIFAR-10), trained there;
radii are in their table, balls are not cut to the range of pixels but for the CNN's. Explained is
the predicted class of the first test images by Saliency with abs=False. "width" is the mean width
of the bounds, "signs" the share of the entries other than 0 whose sign is certified, both means
over the images; "s" are seconds of the processor (start it with OMP_NUM_THREADS=1) that one
certificate takes a `Certifier` whose trace is made, medians. With --optimized CROWN-Optimized is
measured too, by itself and with each share.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cnn
import common
import large
import refine
import torch
from captum.attr import Saliency
from torch import Tensor, nn

import lirpa_explain as lx

RADII = {"2 hidden": (2 / 255, 4 / 255), "3 hidden": (2 / 255, 4 / 255),
         "5 hidden": (1 / 255, 2 / 255), "CNN": (0.0005, 0.001, 0.002),
         "ResNet-20": (0.002 / 255, 0.00283 / 255)}


def perceptron(name: str) -> Callable[[argparse.Namespace], tuple[nn.Module, Tensor]]:
    """How one of refine.py's MLPs and its images are loaded."""

    def load(args: argparse.Namespace) -> tuple[nn.Module, Tensor]:
        training, images = refine.mnist(args.data, args.images)
        return refine.trained(refine.mlp(*refine.NETS[name]), *training), images

    return load


LOAD: dict[str, Callable[[argparse.Namespace], tuple[nn.Module, Tensor]]] = {
    **{name: perceptron(name) for name in refine.NETS},
    "CNN": lambda args: (cnn.load_net(args.data, "max", 10, args.weights),
                         common.load_pneumonia(args.data, "test")[0][:args.images]),
    "ResNet-20": lambda args: (large.load_resnet(args.data),
                               common.load_cifar(args.data, args.images)),
}
"""The nets and their images."""


def measure(net: nn.Module, images: Tensor, eps: float, clip: tuple[int, int] | None,
            **how: object) -> list[str]:
    """Mean width, mean share of signs, and median seconds."""
    target = net(images).argmax(1)
    certifier = lx.Certifier(Saliency(net), images[:1], target=target[:1], abs=False, **how)
    widths, signs, seconds = [], [], []
    for x, label in zip(images.split(1), target.split(1), strict=True):
        started = time.process_time()
        certificate = certifier.certify(x, eps=eps, clip=clip, target=label)
        seconds.append(time.process_time() - started)
        widths.append(float(certificate.width.mean()))
        signs.append(large.share(certificate))
    return [f"{statistics.mean(widths):.4g}", f"{statistics.mean(signs):.1%}",
            f"{statistics.median(seconds):.2f}"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = common.parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nets", nargs="+", choices=LOAD, default=["2 hidden", "3 hidden",
                                                                    "5 hidden", "CNN"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.02, 0.05, 0.1, 0.25, 1.0])
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--optimized", action="store_true")
    parser.add_argument("--weights", type=Path, help="folder for the trained CNN")
    args = parser.parse_args(argv)
    print(f"{common.versions()}\n")
    lines = []
    for name in args.nets:
        torch.set_default_dtype(torch.float64 if name in refine.NETS else torch.float32)
        net, images = LOAD[name](args)
        for eps in RADII[name]:
            for method in ["CROWN", *["CROWN-Optimized"] * args.optimized]:
                for share in (0.0, *args.shares):
                    found = measure(net, images, eps, (0, 1) if name == "CNN" else None,
                                    method=method, optimize_share=share)
                    lines.append([name, f"{eps:.3g}", method, f"{share:g}", *found])
                    common.progress(" ".join(lines[-1]))
    common.print_table(("net", "eps", "method", "share", "width", "signs", "s"), lines)


if __name__ == "__main__":
    main()
