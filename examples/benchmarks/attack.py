"""Benchmark: certified widths beside the strongest attack found, on auto_LiRPA's four MNIST
networks.

    python examples/benchmarks/attack.py DATA [--nets kw_mnist ...] [--images 2] [--optimized 1]
    [--eps 1 2 4 8]

For the first test images and each eps, the gradient of the predicted class's logit (Captum's
Saliency with abs=False) is bounded over the linf ball of radius eps/255, not cut to the range of
pixels, by CROWN and, for the first --optimized images, by CROWN-Optimized. "found" is the mean over
the entries of the largest minus the smallest gradient met at any point of the ball that was tried;
"/ found" divides the certified mean width by that of the same images. "signs" is the share of
non-zero entries whose sign is certified, "kept" the share whose sign no point changed: the first
cannot exceed the second. "outside" is by how much a point's gradient leaves the bounds (float32:
1e-6 is rounding).

The found width is the truth seen from below, worth as much as the points are. A ReLU net's gradient
changes only where a hidden unit changes its sign, and a random point of a 784-dimensional ball,
even a random corner, moves a pre-activation z by about eps |dz/dx|_2, a small part of the eps
|dz/dx|_1 that is possible: most units that can change sign never do. So beside random points and
corners there are, by the units' gradients dz/dx at the image:
  * for each unit that may change sign (|z| <= 1.3 eps |dz/dx|_1) the two corners that push it
    furthest, and a point just beyond its kink, where few other units have changed;
  * corners that push several of these units at once, each in a direction at random;
  * for each entry i of the gradient two corners that push it up and down: to first order a unit
    adds df/dh dz/dx_i to it, h = relu(z), while it is active, so each unit is pushed by its
    contribution's sign and size, and the more the nearer it is to its kink;
  * for each entry and side, projected gradient ascent (--steps) on the gradient of the net with
    softplus for relu, sharper with each step.
"""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import common
import torch
from captum.attr import Saliency
from torch import Tensor, nn

import lirpa_explain as lx

Units = list[tuple[Tensor, Tensor, Tensor]]


def hidden_units(net: nn.Sequential, image: Tensor, target: Tensor) -> Units:
    """Of each ReLU layer: pre-activations z (U,), their gradients dz/dx (U, 784), and df/dh (U,)
    for h = relu(z).
    """
    x = h = image.clone().requires_grad_()
    before, after = [], []
    for layer in net:
        before += [h] if isinstance(layer, nn.ReLU) else []
        h = layer(h)
        after += [h] if isinstance(layer, nn.ReLU) else []
    slopes = torch.autograd.grad(h[0, target].sum(), after, retain_graph=True)
    rows = [torch.cat([torch.autograd.grad(z.flatten(), x, unit, retain_graph=True,
                                           is_grads_batched=True)[0].flatten(1)
                       for unit in torch.eye(z.numel()).split(512)]) for z in before]
    return [(z.detach().flatten(), row, slope.flatten())
            for z, row, slope in zip(before, rows, slopes, strict=True)]


def directed_steps(units: Units, eps: float) -> Tensor:
    """Steps from the image, (P, 784) with entries of at most 1, in units of eps."""
    z, dz, slope = (torch.cat(part) for part in zip(*units, strict=True))
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
    return torch.cat([torch.zeros(1, 784), uniform, to_kink * dz.sign(), corners])


def ascent(net: nn.Sequential, image: Tensor, target: Tensor, eps: float, units: Units, steps: int
           ) -> Iterator[Tensor]:
    """Points (1568, 1, 28, 28) after each step: one for each entry and side of the softened net's
    gradient.
    """
    size = image.numel()
    row = torch.arange(2 * size)
    side = torch.where(row < size, 1.0, -1.0)
    x = image.expand(2 * size, -1, -1, -1)
    reach = [float((eps * dz.abs().sum(1)).mean().clamp(min=1e-6)) for _, dz, _ in units]
    for step in range(steps):
        sharpness = 2 * 8 ** (step / max(1, steps - 1))
        scale = iter(reach)
        soft = nn.Sequential(*[nn.Softplus(sharpness / next(scale))
                               if isinstance(layer, nn.ReLU) else layer for layer in net])
        x = x.detach().requires_grad_()
        gradient = torch.autograd.grad(soft(x)[:, target].sum(), x, create_graph=True)[0].flatten(1)
        direction = torch.autograd.grad((side * gradient[row, row % size]).sum(), x)[0].sign()
        x = torch.clamp(x.detach() + max(0.1, 1 - step / steps) * eps * direction, image - eps,
                        image + eps)
        yield x


def found_range(net: nn.Sequential, image: Tensor, target: Tensor, eps: float, units: Units,
                steps: int = 0) -> tuple[Tensor, Tensor]:
    """Smallest and largest gradient found at points of the ball, each (784,)."""
    low, high = torch.full((784,), math.inf), torch.full((784,), -math.inf)

    def points() -> Iterator[Tensor]:
        for part in directed_steps(units, eps).split(256):
            yield image + eps * part.reshape(-1, 1, 28, 28)
        for x in ascent(net, image, target, eps, units, steps):
            yield from x.split(256)

    for x in points():
        x = x.detach().requires_grad_()
        gradient = torch.autograd.grad(net(x)[:, target].sum(), x)[0].flatten(1)
        low, high = torch.minimum(low, gradient.amin(0)), torch.maximum(high, gradient.amax(0))
    return low, high


def line(name: str, method: str, eps: float, certificates: list[lx.Certificate],
         found: list[tuple[Tensor, Tensor]]) -> list[str]:
    """One line of the table."""
    low, high = (torch.stack(side) for side in zip(*found[:len(certificates)], strict=True))
    lower, upper, nominal = (torch.cat([getattr(c, key).flatten(1) for c in certificates])
                             for key in ("lower", "upper", "nominal"))
    live = nominal != 0
    certified, kept = ((lower > 0) | (upper < 0))[live], ((low > 0) | (high < 0))[live]
    width, ratio = (upper - lower).mean(1), (upper - lower).mean(1) / (high - low).mean(1)
    return [name, f"{eps:g}/255", method, str(len(certificates)), f"{width.mean():.3e}",
            f"{width.mean() / (high - low).mean():.3f}", f"{ratio.min():.3f} to {ratio.max():.3f}",
            f"{certified.double().mean():.1%}", f"{kept.double().mean():.1%}",
            f"{common.outside(lower, upper, low, high):.1e}",
            f"{statistics.median(c.elapsed_s for c in certificates):.2f}"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = common.parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nets", nargs="+", choices=common.NETS, default=common.NETS)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--optimized", type=int, default=1, help="images for CROWN-Optimized")
    parser.add_argument("--eps", type=float, nargs="+", default=[1, 2, 4, 8], help="radii in 1/255")
    parser.add_argument("--steps", type=int, default=8, help="of projected gradient ascent")
    args = parser.parse_args(argv)
    images, _ = common.load_mnist(args.data, args.images)
    print(f"The first {args.images} test images; {common.versions()}\n")
    torch.manual_seed(0)
    lines = []
    for name in args.nets:
        net = common.load_net(args.data, name)
        target = net(images).argmax(1)
        certifier = lx.Certifier(Saliency(net), images[:1], target=target[:1], abs=False)
        units = [hidden_units(net, images[i:i + 1], target[i]) for i in range(len(images))]
        for eps in args.eps:
            started = time.perf_counter()
            found = [found_range(net, images[i:i + 1], target[i], eps / 255, units[i], args.steps)
                     for i in range(len(images))]
            common.progress(f"{name}, {eps:g}/255: {time.perf_counter() - started:.0f} s of "
                            "attacks")
            for method, count in (("CROWN", args.images), ("CROWN-Optimized", args.optimized)):
                certificates = [certifier.certify(images[i:i + 1], eps=eps / 255,
                                                  target=target[i:i + 1],
                                                  method=method) for i in range(count)]
                lines += [line(name, method, eps, certificates, found)] if count else []
                common.progress(" | ".join(lines[-1]))
    common.print_table(("net", "eps", "method", "images", "mean width", "/ found", "image by image",
                        "signs", "kept", "outside", "s an image"), lines)


if __name__ == "__main__":
    main()
