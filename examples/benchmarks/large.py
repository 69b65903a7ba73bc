"""Benchmark: how far a CIFAR-10 ResNet-20, a ResNet-18 and small vision transformers can be
certified.

    python examples/benchmarks/large.py DATA [--nets resnet20 resnet18 vit vit65] [--methods CROWN]
        [--halvings 5] [--low -26] [--high -10] [--memory 1] [--weights FOLDER]

The gradient of the predicted class's logit (Captum's Saliency with abs=False) is bounded over linf
balls around the first test images. In units of a pixel, from 0 to 1 (a normalisation is part of the
model). "eps * 255" is the largest radius found at which half of the signs of the non-zero entries
are certified, for each image by bisection of log2(eps) with one `Certifier`; "half" is the smallest
share at it, "s" the seconds of the last bound at it, "peak" that of the whole process, with
memory_limit of --memory GiB. "attack" is the smallest radius (times 255) found at which an attack
has changed a tenth of these signs, all at one point: random points, and ascents of their number.

  * resnet20: akamaster/pytorch_resnet_cifar10, BatchNorm in eval mode, 32x32x3 pixels.
  * vit: 28x28 MNIST in patches of 7, dimension 32, a class token, learned positions, 2 layers of
    nn.TransformerEncoderLayer(norm_first=True, activation="gelu", dropout=0) with 4 heads and 64
    hidden units; trained here for --epochs, and kept in --weights for the next time.
  * vit65: the same with patches of 7 taken every 3 pixels, so that there are 64 and the class
    token.
  * resnet18: torchvision's layout (7x7 convolution of stride 2, 3x3 max pooling, widths 64 to 512,
    stages of two basic blocks with 1x1 convolutions as shortcuts, BatchNorm, ReLU) on 3x64x64,
    CIFAR-10's images enlarged; random weights.
  * resnet18_trained: the same, trained here for --steps18 steps of 64 of these images, and kept in
    --weights.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import common
import torch
from captum.attr import Saliency
from torch import Tensor, nn

import lirpa_explain as lx

F = nn.functional


class Block(nn.Module):
    """A basic block: two convolutions, and a shortcut of every other pixel, with more channels."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.pad = (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class ResNet(nn.Module):
    """The CIFAR-10 network with 6 n + 2 layers, of images in [0, 1]."""

    def __init__(self, n: int = 3) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1))
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[Block(16, 16, 1) for _ in range(n)])
        self.layer2 = nn.Sequential(Block(16, 32, 2), *[Block(32, 32, 1) for _ in range(n - 1)])
        self.layer3 = nn.Sequential(Block(32, 64, 2), *[Block(64, 64, 1) for _ in range(n - 1)])
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        x = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class BasicBlock(nn.Module):
    """ResNet-18's block: two convolutions, beside a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = (nn.Conv2d(before, after, 3, stride, 1, bias=False),
                                nn.BatchNorm2d(after))
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.beside = nn.Sequential() if before == after else nn.Sequential(
            nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.beside(x))


class ResNet18(nn.Sequential):
    """The network in torchvision's layout, of images 3x64x64 in [0, 1]."""

    def __init__(self, classes: int = 10) -> None:
        widths = (64, 64, 128, 256, 512)
        stages = [block for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False))
                  for block in (BasicBlock(before, after, 1 + (i > 0)),
                                BasicBlock(after, after, 1))]
        super().__init__(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
                         nn.MaxPool2d(3, 2, 1), *stages,
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class ViT(nn.Module):
    """A small vision transformer of 28x28 images in [0, 1]."""

    def __init__(self, dim: int = 32, layers: int = 2, heads: int = 4, patch: int = 7,
                 stride: int = 7) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, dim, patch, stride)
        self.token = nn.Parameter(torch.randn(1, 1, dim) / 8)
        self.position = nn.Parameter(torch.randn(1, ((28 - patch) // stride + 1) ** 2 + 1, dim) / 8)
        self.layers = nn.Sequential(*[
            nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout=0.0, activation="gelu",
                                       batch_first=True, norm_first=True) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.layers(x)[:, 0]))


ATTACKS = 8
"""Radii that an attack is tried at."""


def load_resnet(data: Path) -> ResNet:
    """The trained ResNet-20 in eval mode."""
    stored = torch.load(data / "cifar_resnet" / "resnet20-12fca82f.th", map_location="cpu",
                        weights_only=True)
    net = ResNet()
    state = {name.removeprefix("module."): value for name, value in stored["state_dict"].items()}
    net.load_state_dict({"mean": net.mean, "std": net.std, **state})
    return net.eval()


def load_images64(data: Path, count: int, part: int = 50) -> tuple[Tensor, Tensor]:
    """First CIFAR-10 images of a file, enlarged to 3x64x64, and classes; part 50 is for testing."""
    import numpy as np

    labels = np.load(data / "cifar10" / ("labels_first1000_test.npy"
                                         if part == 50 else "labels_first4000_train.npy"))
    first = 0 if part == 50 else 1000 * part
    images = F.interpolate(common.load_cifar(data, count, part), scale_factor=2, mode="bilinear")
    return images, torch.tensor(labels[first:first + count]).long()


def load_resnet18(data: Path, weights: Path | None, steps: int) -> ResNet18:
    """A ResNet-18 in eval mode: random weights with their statistics, or trained for `steps`."""
    torch.manual_seed(0)
    net, file = ResNet18(), weights and weights / f"resnet18_{steps}.pth"
    if file and file.exists():
        net.load_state_dict(torch.load(file, weights_only=True))
        return net.eval()
    parts = [load_images64(data, 1000, part) for part in range(4)]
    images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    optimizer = torch.optim.SGD(net.parameters(), 0.05, 0.9, weight_decay=5e-4)
    for i in range(max(steps, 10)):
        index = torch.randint(len(images), (64,))
        with torch.set_grad_enabled(steps > 0):
            # with random weights, for the statistics alone
            loss = F.cross_entropy(net(images[index]), labels[index])
        if steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            common.progress(f"resnet18, step {i}: loss {float(loss):.3f}") if i % 10 == 0 else None
    if file:
        torch.save(net.state_dict(), file)
    return net.eval()


def load_vit(data: Path, weights: Path | None, epochs: int, train_images: int,
             stride: int = 7) -> ViT:
    """The vision transformer in eval mode, trained unless its weights are there."""
    torch.manual_seed(0)
    net, file = (ViT(stride=stride),
                 weights and weights / ("vit.pth" if stride == 7 else f"vit_{stride}.pth"))
    if file and file.exists():
        net.load_state_dict(torch.load(file, weights_only=True))
        return net.eval()
    images, labels = common.load_mnist(data, train_images, train=True)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    total = epochs * (train_images // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total)
    for _ in range(epochs):
        for index in torch.randperm(len(images))[:total // epochs * 128].split(128):
            optimizer.zero_grad()
            F.cross_entropy(net(images[index]), labels[index]).backward()
            optimizer.step()
            schedule.step()
    if file:
        torch.save(net.state_dict(), file)
    return net.eval()


def share(certificate: lx.Certificate) -> float:
    """Share of the non-zero entries whose sign is certified."""
    live = certificate.nominal != 0
    return float((certificate.sign() != 0)[live].double().mean())


def bisect(has: Callable[[float], bool], halvings: int, low: float, high: float) -> float:
    """The largest eps found that has a property, by halving log2(eps); 0 if none has."""
    found = 0.0
    for _ in range(halvings):
        middle = (low + high) / 2
        if has(2**middle):
            low, found = middle, 2**middle
        else:
            high = middle
    return found


def certified(certifier: lx.Certifier, image: Tensor, target: Tensor,
              args: argparse.Namespace) -> dict[str, float]:
    """The largest eps found at which half of the signs are certified."""
    known: dict[float, dict[str, float]] = {0.0: {"share": math.nan, "seconds": math.nan}}

    def half(eps: float) -> bool:
        certificate = certifier.certify(image, eps=eps, target=target)
        known[eps] = {"share": share(certificate), "seconds": certificate.elapsed_s}
        common.progress(
            f"{args.methods[0]}, eps {255 * eps:.5f}/255: {known[eps]['share']:.1%} of the signs, "
            f"mean width {float(certificate.width.mean()):.3g}, {certificate.elapsed_s:.1f} s, "
            f"peak {common.peak() / 1024:.2f} GiB")
        return known[eps]["share"] >= 0.5

    eps = bisect(half, args.halvings, args.low, args.high)
    return {"eps": eps, **known[eps]}


def attacked(net: nn.Module, image: Tensor, target: Tensor, args: argparse.Namespace) -> float:
    """The smallest eps found at which an attack changes a tenth of the signs, all at one point."""
    live = int((Saliency(net).attribute(image, target=target, abs=False) != 0).sum())
    changed = [math.inf]

    def holds(eps: float) -> bool:
        found = lx.attack(Saliency(net), image, eps=eps, target=target, abs=False,
                          objective="sign_flips", samples=20, restarts=2, steps=10)
        part = float(found.value) / live
        common.progress(f"attack, eps {255 * eps:.5f}/255: {part:.1%} of the signs changed")
        changed.extend([eps] if part >= 0.1 else [])
        return part < 0.1

    bisect(holds, ATTACKS, args.low, -4.0)
    return min(changed)


LOAD = {
    "resnet20": lambda args: (load_resnet(args.data), common.load_cifar(args.data, args.images)),
    "resnet18": lambda args: (load_resnet18(args.data, args.weights, 0),
                              load_images64(args.data, args.images)[0]),
    "resnet18_trained": lambda args: (load_resnet18(args.data, args.weights, args.steps18),
                                      load_images64(args.data, args.images)[0]),
    "vit": lambda args: (load_vit(args.data, args.weights, args.epochs, args.train),
                         common.load_mnist(args.data, args.images)[0]),
    "vit65": lambda args: (load_vit(args.data, args.weights, args.epochs, args.train, 3),
                           common.load_mnist(args.data, args.images)[0]),
}
"""The nets and their images."""


def measure(name: str, method: str, args: argparse.Namespace) -> dict[str, Tensor | float]:
    """The bisections of a net and method."""
    net, images = LOAD[name](args)
    target = net(images).argmax(1)
    started = time.perf_counter()
    certifier = lx.Certifier(Saliency(net), images[:1], target=target[:1], abs=False, method=method,
                             memory_limit=int(args.memory * 2**30))
    trace = time.perf_counter() - started
    each = [(images[i:i + 1], target[i:i + 1], args) for i in range(len(images))]
    found = [certified(certifier, *one) for one in each]
    result = {"trace": trace, "peak": common.peak()}  # of certifying, and not of the attacks
    found = [one | {"changed": attacked(net, *of)} for one, of in zip(found, each, strict=True)]
    return result | {key: torch.tensor([one[key] for one in found]) for key in found[0]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, or with the hidden option --one a single measurement of it."""
    parser = common.parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nets", nargs="+", choices=LOAD, default=("resnet20", "vit"))
    parser.add_argument("--methods", nargs="+", default=["CROWN-IBP", "CROWN"])
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--halvings", type=int, default=5)
    parser.add_argument("--low", type=float, default=-26.0, help="log2 of the smallest eps")
    parser.add_argument("--high", type=float, default=-10.0, help="log2 of the largest eps")
    parser.add_argument("--memory", type=float, default=1, help="memory_limit, GiB")
    parser.add_argument("--weights", type=Path, help="folder for the trained transformer")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--train", type=int, default=20000, help="training images")
    parser.add_argument("--steps18", type=int, default=100,
                        help="training steps of resnet18_trained")
    args = parser.parse_args(argv)
    if args.one:
        torch.save(measure(args.nets[0], args.methods[0], args), args.one)
        return
    print(f"{common.versions()}\n")
    options = [f"--{key}={getattr(args, key)}" for key in ("images", "halvings", "memory", "epochs",
                                                           "train", "low", "high", "steps18")]
    lines = []
    for name in args.nets:
        if name == "vit":
            net = load_vit(args.data, args.weights, args.epochs, args.train)
            images, labels = common.load_mnist(args.data, 1000)
            common.progress(f"vit: {(net(images).argmax(1) == labels).double().mean():.1%} of 1000 "
                            "test images right")
        for method in args.methods:
            result = common.in_process(__file__,
                                       [args.data, "--nets", name, "--methods", method, *options,
                                        *(["--weights", args.weights] if args.weights else [])])
            lines.append([name, method, str(args.images), f"{255 * result['eps'].median():.5f}",
                          f"{result['share'].min():.1%}",
                          f"{255 * result['changed'].median():.5f}", f"{result['trace']:.1f}",
                          f"{result['seconds'].median():.1f}", f"{result['peak'] / 1024:.2f}"])
    common.print_table(("net", "method", "images", "eps * 255", "half", "attack", "s, trace",
                        "s", "GiB, peak"), lines)


if __name__ == "__main__":
    main()
