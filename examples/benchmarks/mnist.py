"""Benchmark: the gradient of an MNIST network, bounded by lirpa_explain and by auto_LiRPA's own JacobianOP.

    python examples/benchmarks/mnist.py DATA [--net kw_mnist] [--images 10] [--eps 1 2 4] [--methods CROWN ...]
        [--double]

DATA holds auto_lirpa/kw_mnist.pth (from examples/vision/pretrained of auto_LiRPA's repository) and
mnist/t10k-images-idx3-ubyte.gz. For the first test images and each eps, the gradient of the predicted class's logit
(Captum's Saliency with abs=False) is bounded over the linf ball of radius eps/255, not cut to the range of pixels.
RESULTS.md holds what this printed. Linux only: it reads memory from /proc.

JacobianOP comes with auto_LiRPA 0.7. It gets one image at a time, because its bounds of a batch are wrong, and a model
with the logit of the image's class as only output. It runs as it comes, with relaxations optimised for the logit
("JacobianOP"), and without that ("JacobianOP-CROWN").

Each method runs in a process of its own for each eps. Seconds are for all images, everything included, after an
unmeasured run on one image; for JacobianOP, what remains without building its BoundedModule for each image is given
too. "before" is the most memory that the process had used before its first bound, the imports; "one by one" and
"batch" are by how much bounding the images so raised that.

"outside" is by how much a sampled gradient leaves the bounds (float32: 1e-6 is rounding).

The sampled width is the truth seen from below: for each entry the largest minus the smallest gradient found at points
of the ball. It is worth as much as the points are. A ReLU net's gradient changes only where a hidden unit changes its
sign, and a random point of a 784-dimensional ball, even a random corner, moves a pre-activation z by about
eps |dz/dx|_2, a small part of the eps |dz/dx|_1 that is possible: most units that can change sign never do. So beside
random points and corners there are, by the units' gradients dz/dx at the image:
  * for each unit that may change sign (|z| <= 1.3 eps |dz/dx|_1) the two corners that push it furthest, and a point
    just beyond its kink, where few other units have changed;
  * corners that push several of these units at once, each in a direction at random;
  * for each entry i of the gradient two corners that push it up and down: to first order a unit adds
    df/dh dz/dx_i to it, h = relu(z), while it is active, so each unit is pushed by its contribution's sign and size,
    and the more the nearer it is to its kink.
"""

import argparse
import gzip
import importlib.util
import logging
import math
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from captum.attr import Saliency
from torch import Tensor, nn

import lirpa_explain as lx

OURS = ("IBP", "CROWN-IBP", "CROWN")
THEIRS = ("JacobianOP-CROWN", "JacobianOP")
COLUMNS = ("method", "mean width", "/ sampled", "outside", "s, one by one", "s, build left out", "s, batch",
           "MiB before", "+ one by one", "+ batch")


def load(data: Path, name: str, count: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """The network, the first test images (N, 1, 28, 28) in [0, 1], and the classes it predicts (N,)."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )
    net.load_state_dict(torch.load(data / "auto_lirpa" / f"{name}.pth", map_location="cpu", weights_only=True))
    with gzip.open(data / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        pixels = bytearray(file.read()[16:16 + count * 784])
    images = torch.frombuffer(pixels, dtype=torch.uint8).reshape(-1, 1, 28, 28) / 255
    return net.eval(), images, net(images).argmax(1)


# Bounds: one process for each method and eps


def our_bounds(net: nn.Sequential, images: Tensor, target: Tensor, eps: float, method: str) -> tuple[Tensor, Tensor]:
    """Bounds by lirpa_explain, each (N, 784)."""
    certificate = lx.certify(Saliency(net), images, eps=eps, target=target, method=method, abs=False)
    return certificate.lower.flatten(1), certificate.upper.flatten(1)


def their_bounds(net: nn.Sequential, image: Tensor, target: Tensor, eps: float, method: str
                 ) -> tuple[Tensor, Tensor, float]:
    """Bounds of one image by JacobianOP, each (1, 784), and the seconds without building the module."""
    from auto_LiRPA import BoundedModule, BoundedTensor
    from auto_LiRPA.jacobian import JacobianOP
    from auto_LiRPA.perturbations import PerturbationLpNorm

    class Gradient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            select = nn.Linear(10, 1, bias=False)
            select.weight.data = nn.functional.one_hot(target, 10).to(image)
            self.logit = nn.Sequential(*net, select)

        def forward(self, x: Tensor) -> Tensor:
            return JacobianOP.apply(self.logit(x), x)

    bounded = BoundedModule(Gradient(), image, bound_opts={"conv_mode": "matrix"})  # "patches" fails on stride 2
    started = time.perf_counter()
    ball = BoundedTensor(image, PerturbationLpNorm(norm=math.inf, eps=eps))
    optimize = method == "JacobianOP"
    with torch.set_grad_enabled(optimize):
        lower, upper = bounded.compute_jacobian_bounds(ball, optimize=optimize)
    return lower.detach().flatten(1), upper.detach().flatten(1), time.perf_counter() - started


def peak() -> float:
    """The most memory this process has held, MiB.

    Not getrusage's ru_maxrss: that counts what the parent held when it started this process.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(net: nn.Sequential, images: Tensor, target: Tensor, eps: float, method: str) -> dict[str, Tensor | float]:
    """Bounds, seconds and memory of one method."""
    bound = our_bounds if method in OURS else their_bounds
    before = peak()
    bound(net, images[:1], target[:1], eps, method)
    started = time.perf_counter()
    singles = [bound(net, *one, eps, method) for one in zip(images.split(1), target.split(1), strict=True)]
    result = {"single": time.perf_counter() - started, "before": before, "single_growth": peak() - before,
              "lower": torch.cat([s[0] for s in singles]), "upper": torch.cat([s[1] for s in singles])}
    if method in THEIRS:
        return result | {"bounding": sum(s[2] for s in singles)}
    started = time.perf_counter()
    lower, upper = our_bounds(net, images, target, eps, method)
    result |= {"batch": time.perf_counter() - started, "batch_growth": peak() - before}
    torch.testing.assert_close(lower, result["lower"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(upper, result["upper"], rtol=1e-3, atol=1e-6)
    return result


# Samples


def hidden_units(net: nn.Sequential, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of all units: pre-activations z (U,), their gradients dz/dx (U, 784), and df/dh (U,) for h = relu(z)."""
    x = h = image.clone().requires_grad_()
    before, after = [], []
    for layer in net:
        before += [h] if isinstance(layer, nn.ReLU) else []
        h = layer(h)
        after += [h] if isinstance(layer, nn.ReLU) else []
    slopes = torch.autograd.grad(h[0, target].sum(), after, retain_graph=True)
    rows = [
        torch.autograd.grad(z.flatten(), x, unit, retain_graph=True, is_grads_batched=True)[0].flatten(1)
        for z in before for unit in torch.eye(z.numel()).split(512)
    ]
    return torch.cat([z.detach().flatten() for z in before]), torch.cat(rows), torch.cat([s.flatten() for s in slopes])


def sampled_range(net: nn.Sequential, image: Tensor, target: Tensor, eps: float, units: tuple[Tensor, Tensor, Tensor]
                  ) -> tuple[Tensor, Tensor]:
    """Smallest and largest gradient found at points of the ball, each (784,)."""
    z, dz, slope = units
    reach = eps * dz.abs().sum(1)  # how far z can move, to first order
    open_units = (z.abs() <= 1.3 * reach) & (reach > 0)
    z, dz, slope, reach = z[open_units], dz[open_units], slope[open_units], reach[open_units]
    to_kink = (-1.02 * z / reach).clamp(-1, 1)[:, None]
    uniform = 2 * torch.rand(300, 784) - 1
    several = torch.randn(1000, len(z)) * (torch.rand(1000, len(z)) < torch.rand(1000, 1)) / reach
    entries = (slope[:, None] * dz).T
    near = torch.exp(-2 * z.abs() / reach) / reach
    corners = torch.cat([uniform, dz, -dz, several @ dz, entries @ dz, -entries @ dz,
                         (entries * near) @ dz, -(entries * near) @ dz]).sign()
    steps = torch.cat([torch.zeros(1, 784), uniform, to_kink * dz.sign(), corners])
    low, high = torch.full((784,), math.inf), torch.full((784,), -math.inf)
    for part in steps.split(256):
        x = (image + eps * part.reshape(-1, 1, 28, 28)).requires_grad_()
        gradient = torch.autograd.grad(net(x)[:, target].sum(), x)[0].flatten(1)
        low, high = torch.minimum(low, gradient.amin(0)), torch.maximum(high, gradient.amax(0))
    return low, high


# The table


def line(result: dict[str, Tensor | float], method: str, low: Tensor, high: Tensor) -> list[str]:
    """One method's line of the table; `low` and `high` (N, 784) were found by sampling."""
    width = (result["upper"] - result["lower"]).mean()
    outside = torch.maximum(result["lower"] - low, high - result["upper"]).clamp(min=0).max()

    def number(key: str, digits: int) -> str:
        return f"{result[key]:.{digits}f}" if key in result else "-"

    return [method, f"{width:.6f}", f"{width / (high - low).mean():.4f}", f"{outside:.1e}", number("single", 2),
            number("bounding", 2), number("batch", 2), number("before", 0), number("single_growth", 0),
            number("batch_growth", 0)]


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print lines of cells as a Markdown table."""
    table = [COLUMNS, ["---"] + ["---:"] * (len(COLUMNS) - 1), *lines]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("|", " | ".join(cell.rjust(width) if i else cell.ljust(width)
                              for i, (cell, width) in enumerate(zip(cells, widths, strict=True))), "|")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, or with the hidden option --one a single measurement of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--net", choices=("kw_mnist", "mnist_a_adv"), default="kw_mnist")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--eps", type=float, nargs="+", default=[1, 2, 4], help="radii in 1/255")
    parser.add_argument("--methods", nargs="+", choices=OURS + THEIRS, default=OURS + THEIRS)
    parser.add_argument("--double", action="store_true", help="compute in float64, where rounding does not matter")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_default_dtype(torch.float64 if args.double else torch.float32)
    net, images, target = load(args.data, args.net, args.images)
    if args.one:
        logging.disable(logging.INFO)  # auto_LiRPA announces every JacobianOP
        torch.save(measure(net, images, target, args.eps[0] / 255, args.methods[0]), args.one)
        return

    has_jacobian = importlib.util.find_spec("auto_LiRPA.jacobian") is not None
    methods = [method for method in args.methods if has_jacobian or method in OURS]
    print(f"{args.net}, the first {args.images} test images; torch {torch.__version__}, auto_LiRPA "
          f"{lx.AUTO_LIRPA_VERSION}{'' if has_jacobian else ' (which has no JacobianOP)'}, Python "
          f"{platform.python_version()}, {torch.get_num_threads()} thread(s), {torch.get_default_dtype()}")
    torch.manual_seed(0)
    units = [hidden_units(net, *one) for one in zip(images.split(1), target.split(1), strict=True)]
    for eps in args.eps:
        ranges = [sampled_range(net, images[i], target[i], eps / 255, units[i]) for i in range(len(images))]
        low, high = (torch.stack(side) for side in zip(*ranges, strict=True))
        results = {}
        with tempfile.TemporaryDirectory() as folder:
            for method in methods:
                file = Path(folder) / "result.pt"
                subprocess.run([sys.executable, "-W", "ignore", __file__, args.data, "--net", args.net, "--images",
                                str(args.images), "--eps", str(eps), "--methods", method, "--one", file,
                                *["--double"] * args.double], check=True, stdout=subprocess.DEVNULL)
                results[method] = torch.load(file, weights_only=True)
        print(f"\neps {eps:g}/255: sampled mean width {(high - low).mean():.6f}\n")
        print_table([line(result, method, low, high) for method, result in results.items()])
        width = {method: (result["upper"] - result["lower"]).mean(1) for method, result in results.items()}
        for method in (m for m in THEIRS if {m, "CROWN"} <= width.keys()):
            ratio = width["CROWN"] / width[method]
            print(f"\nMean width of CROWN / {method}, image by image: {ratio.min():.6f} to {ratio.max():.6f}")


if __name__ == "__main__":
    main()
