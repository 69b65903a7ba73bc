"""Benchmark: an ordinary CNN with BatchNorm and pooling, from one gradient to Integrated Gradients
of 50 steps.

    python examples/benchmarks/cnn.py DATA [--pools max average] [--attributions saliency ig]
    [--methods CROWN]
        [--eps 0.0005 0.001 0.002] [--images 1] [--steps 50] [--weights FOLDER]

The net: images 1x28x28; convolution 16, BatchNorm, ReLU, pooling; convolution 32, BatchNorm, ReLU,
pooling; convolution 32, ReLU; 64 hidden units; 2 classes; all convolutions 3x3. It is trained here
on PneumoniaMNIST (a minute), and kept in --weights for the next time. Explained is the predicted
class of the first test images, by Saliency with abs=False or by Integrated Gradients from a
baseline of 0, over linf balls of radius --eps cut to the range of pixels.

"width" is the mean width of the bounds, "/ found" divides it by the mean width of what was found at
--samples corners and points of the ball, "signs" is the share of entries whose sign is certified.
"s" are seconds of the processor (start it with OMP_NUM_THREADS=1) that one certificate takes a
`Certifier` whose trace is made: medians over the images. "GiB" is by how much that raised the
process's peak.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import common
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import Tensor, nn

import lirpa_explain as lx

POOLS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
BATCH, RATE = 64, 2e-3


def make_net(pool: str) -> nn.Sequential:
    """The net, untrained."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), POOLS[pool](2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), POOLS[pool](2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 2),
    )


def load_net(data: Path, pool: str, epochs: int, weights: Path | None = None) -> nn.Sequential:
    """The net in eval mode, trained unless its weights are there."""
    torch.manual_seed(0)
    net, file = make_net(pool), weights and weights / f"cnn_{pool}.pth"
    if file and file.exists():
        net.load_state_dict(torch.load(file, weights_only=True))
        return net.eval()
    images, labels = common.load_pneumonia(data, "train")
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[index]), labels[index]).backward()
            optimizer.step()
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), file)
    return net.eval()


def sampled_width(attribution: Saliency | IntegratedGradients, keywords: dict[str, object],
                  image: Tensor, target: Tensor, eps: float, samples: int) -> Tensor:
    """Widths of the attributions found at corners and uniform points of the ball, half of each."""
    generator = torch.Generator().manual_seed(0)
    step = 2 * torch.rand(samples, *image.shape[1:], generator=generator) - 1
    step[::2] = step[::2].sign()
    points = (image + eps * step).clamp(0, 1)
    found = torch.cat(
        [attribution.attribute(part, target=target.expand(len(part)), **keywords).detach()
         for part in points.split(16)])
    return found.amax(0) - found.amin(0)


def measure(pool: str, kind: str, method: str, eps: float,
            args: argparse.Namespace) -> dict[str, float]:
    """Medians over the images."""
    net = load_net(args.data, pool, args.epochs, args.weights)
    images = common.load_pneumonia(args.data, "test")[0][:args.images]
    target = net(images).argmax(1)
    attribution, keywords = (Saliency(net), {"abs": False}) if kind == "saliency" \
        else (IntegratedGradients(net), {"n_steps": args.steps})
    certifier = lx.Certifier(attribution, images[:1], target=target[:1], method=method, **keywords)
    certifier.certify(images[:1], target=target[:1], eps=0)
    before, found = common.peak(), []
    for i in range(len(images)):
        image, label = images[i:i + 1], target[i:i + 1]
        started = time.process_time()
        certificate = certifier.certify(image, target=label, eps=eps, clip=(0, 1))
        seconds = time.process_time() - started
        reached = sampled_width(attribution, keywords, image, label, eps, args.samples)
        width = certificate.width.mean()
        signs = (certificate.sign() != 0).double().mean()
        found.append([seconds, float(width), float(width / reached.mean()), float(signs)])
        common.progress(f"{pool} {kind} {method} {eps}: {found[-1]}")
    median = torch.tensor(found).median(0).values.tolist()
    return {**dict(zip(("s", "width", "over", "signs"), median, strict=True)),
            "peak": (common.peak() - before) / 1024}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, or with the hidden option --one a single measurement of it."""
    parser = common.parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=list(POOLS))
    parser.add_argument("--attributions", nargs="+", choices=("saliency", "ig"),
                        default=("saliency", "ig"))
    parser.add_argument("--methods", nargs="+", default=["CROWN"])
    parser.add_argument("--eps", nargs="+", type=float, default=[0.0005, 0.001, 0.002])
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--steps", type=int, default=50, help="of Integrated Gradients")
    parser.add_argument("--samples", type=int, default=64, help="points at which widths are found")
    parser.add_argument("--weights", type=Path, help="folder for the trained nets")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args(argv)
    if args.one:
        torch.save(measure(args.pools[0], args.attributions[0], args.methods[0], args.eps[0], args),
                   args.one)
        return
    print(f"{common.versions()}\n")
    options = [f"--{key}={getattr(args, key)}"
               for key in ("images", "steps", "samples", "weights", "epochs")
               if getattr(args, key) is not None]
    test, labels = common.load_pneumonia(args.data, "test")
    lines = []
    for pool in args.pools:
        net = load_net(args.data, pool, args.epochs, args.weights)
        common.progress(f"{pool}: {(net(test).argmax(1) == labels).double().mean():.1%} of the "
                        "test images right")
        for kind, method, eps in [(k, m, e) for k in args.attributions for m in args.methods
                                  for e in args.eps]:
            result = common.in_process(__file__, [args.data, "--pools", pool, "--attributions",
                                                  kind, "--methods",
                                                  method, "--eps", eps, *options])
            lines.append([pool, kind, method, str(eps), f"{result['width']:.3g}",
                          f"{result['over']:.1f}",
                          f"{result['signs']:.1%}", f"{result['s']:.2f}", f"{result['peak']:.2f}"])
    common.print_table(("pooling", "attribution", "method", "eps", "width", "/ found", "signs", "s",
                        "GiB"), lines)


if __name__ == "__main__":
    main()
