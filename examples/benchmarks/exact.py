"""Benchmark: certified widths beside the exact ones, on ReLU networks small enough for integer
programs.

    python examples/benchmarks/exact.py [--layers 2 3 4] [--width 16] [--images 3] [--eps 0.01 0.02
    0.05]

Run from a checkout: tests/reference.py holds the integer programs (scipy's HiGHS; scikit-learn has
the data). MLPs of 2 to 4 linear layers, with hidden layers of --width units, are trained on
scikit-learn's digits, averaged down to 4x4 pixels in [0, 1] (the last 297 are left for the test).
At the first test images the gradient of the predicted class's logit (Captum's Saliency with
abs=False) is bounded over the linf ball of radius eps, in float64; its exact range is found by two
integer programs for each entry. Images whose gradient is constant on the ball, as the integer
programs prove, are counted ("constant") and left out of the ratios; "exact width" is that of all
images.

"/ exact" is the mean width over that of the exact ranges, of all entries of these images; "worst
image" the same of the image where it is largest. "outside" is by how much the exact range leaves
the bounds. Seconds are for an image.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import common
import torch
from captum.attr import Saliency
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lirpa_explain as lx

METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized")


def data() -> tuple[Tensor, Tensor]:
    """Digits (1797, 16) in [0, 1] and their classes."""
    digits = load_digits()
    images = torch.tensor(digits.images)[:, None] / 16
    return nn.functional.avg_pool2d(images, 2).flatten(1), torch.tensor(digits.target)


def train(layers: int, width: int, images: Tensor, labels: Tensor) -> nn.Sequential:
    """An MLP of so many linear layers."""
    sizes = [16, *[width] * (layers - 1), 10]
    modules = [m for a, b in zip(sizes, sizes[1:], strict=False)
               for m in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*modules[:-1])
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(400):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval()


def exact(net: nn.Sequential, image: Tensor, target: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The exact range of the gradient, each side (16,)."""
    from tests.reference import exact_gradient_range

    layers = [(m.weight, m.bias) for m in net if isinstance(m, nn.Linear)]
    return exact_gradient_range(layers, image, eps, nn.functional.one_hot(target, 10).to(image))


def line(label: list[str], method: str, certificates: list[lx.Certificate], low: Tensor,
         high: Tensor) -> list[str]:
    """One line of the table."""
    lower, upper = (torch.cat([getattr(c, side) for c in certificates])
                    for side in ("lower", "upper"))
    moving = (high - low).sum(1) > 1e-9
    width, true = (upper - lower)[moving].mean(1), (high - low)[moving].mean(1)
    ratios = [f"{width.mean() / true.mean():.4f}",
              f"{(width / true).max():.4f}"] if len(width) else ["-", "-"]
    return [*label, str(len(lower)), str(int((~moving).sum())), f"{(high - low).mean():.4f}",
            method, *ratios, f"{common.outside(lower, upper, low, high):.0e}",
            f"{statistics.median(c.elapsed_s for c in certificates):.3f}"]


def main(argv: Sequence[str] | None = None) -> list[list[str]]:
    """Run the benchmark, and return the table's lines."""
    sys.path.append(str(Path(__file__).parents[2]))
    parser = common.parser(__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.01, 0.02, 0.05])
    args = parser.parse_args(argv)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    images, labels = data()
    points = images[1500:1500 + args.images]
    print(f"{common.versions()}\n")
    lines = []
    for layers in args.layers:
        net = train(layers, args.width, images[:1500], labels[:1500])
        accuracy = (net(images[1500:]).argmax(1) == labels[1500:]).double().mean()
        common.progress(f"{layers} layers: test accuracy {accuracy:.1%}")
        target = net(points).argmax(1)
        certifier = lx.Certifier(Saliency(net), points[:1], target=target[:1], abs=False)
        for eps in args.eps:
            started = time.perf_counter()
            ranges = [exact(net, *one, eps) for one in zip(points, target, strict=True)]
            seconds = (time.perf_counter() - started) / len(points)
            low, high = (torch.stack(side) for side in zip(*ranges, strict=True))
            common.progress(f"{layers} layers, eps {eps:g}: integer programs took {seconds:.1f} s "
                            "an image")
            for method in METHODS:
                certificates = [certifier.certify(points[i:i + 1], eps=eps, target=target[i:i + 1],
                                                  method=method) for i in range(len(points))]
                lines.append(line([str(layers), f"{eps:g}"], method, certificates, low, high))
    common.print_table(("layers", "eps", "images", "constant", "exact width", "method", "/ exact",
                        "worst image", "outside", "s"), lines)
    return lines


if __name__ == "__main__":
    main()
