"""Benchmark: smoothed certificates of a ResNet-20 and a vision transformer, and beside propagation.

    python examples/benchmarks/smoothed.py DATA [--images 2] [--samples 100] [--weights FOLDER]
        [--picture FILE] [--parts resnet20 vit beside] [--only Saliency ...]

For each attribution: which share of the pixels is certainly important, or certainly not, at every
x' within l2 radius 0.10, in units of a pixel from 0 to 1, when the largest quarter of the pixels
counts as important under noise of deviation 0.15 or 0.25; confidence 0.999 an image, channels
summed. That is the setting of Anani et al. (2025): n = 100 draws, of which 10 guess, so that
tau = Phi(0.10 / 0.15) = 0.75 at sigma 0.15, and alpha = 0.001. "located" is their grid pointing
game, at sigma 0.15: of a 2 x 2 mosaic of the images that the net is surest of, of different
classes, the share of the certainly important pixels that lies in the cell whose class is explained
(a quarter by chance), and how many pixels these are. "important" is the share that is certainly
important, of at most a quarter.

  * resnet20: as in large.py, with each ReLU a module of its own, which some of Captum's rules need;
    mosaics of 64 x 64.
  * vit: that of large.py, trained here; mosaics of four digits at half the size.

"beside": which pixels are certainly among the largest fifth, or certainly not, of the gradient
itself by propagation, and of its smoothed map, for auto_LiRPA's mnist_cnn_small.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import large
import torch
from captum import attr
from torch import Tensor, nn

import lirpa_explain as lx

F = nn.functional
SIGMAS = (0.15, 0.25)
RADIUS = 0.10
DRAWN = ("Saliency", "GuidedBackprop", "LayerGradCam", "GuidedGradCam")
"""Attributions in the picture."""


class Block(large.Block):
    """That of large.py, with its ReLUs as modules."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__(before, after, stride)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return self.relu2(y + x)


class ResNet(large.ResNet):
    """That of large.py, with its ReLUs as modules."""

    def __init__(self, n: int = 3) -> None:
        super().__init__(n)
        self.relu = nn.ReLU()
        for layer in (self.layer1, self.layer2, self.layer3):
            for i, old in enumerate(layer):
                layer[i] = Block(old.conv1.in_channels, old.conv1.out_channels, old.conv1.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        x = self.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def load_resnet(data: Path) -> ResNet:
    """The trained ResNet-20 in eval mode."""
    net = ResNet()
    net.load_state_dict(large.load_resnet(data).state_dict())
    return net.eval()


Case = tuple[Any, dict[str, Any]]


def cases(net: nn.Module, last: nn.Module | None, size: int) -> dict[str, Case]:
    """Twelve of Captum's attributions, with their keywords.

    Args:
        net: the model.
        last: its last block, for those of layers; None for a transformer, which gets others.
        size: of an image.
    """
    patches = patch_numbers(size)
    few = {"perturbations_per_eval": 32, "n_samples": 32, "feature_mask": patches}
    step = {"sliding_window_shapes": (size // 4,) * 2, "strides": (size // 4,) * 2}
    found: dict[str, Case] = {
        "Saliency": (attr.Saliency(net), {}),
        "InputXGradient": (attr.InputXGradient(net), {}),
        "IntegratedGradients": (attr.IntegratedGradients(net), {"n_steps": 8}),
        "NoiseTunnel": (attr.NoiseTunnel(attr.Saliency(net)), {"nt_samples": 4, "stdevs": 0.1}),
        "GradientShap": (attr.GradientShap(net), {"n_samples": 4}),
        "DeepLift": (attr.DeepLift(net), {}),
        "KernelShap": (attr.KernelShap(net), few),
    }
    if last is not None:
        found |= {
            "GuidedBackprop": (attr.GuidedBackprop(net), {}),
            "Deconvolution": (attr.Deconvolution(net), {}),
            "LayerGradCam": (grad_cam(attr.LayerGradCam(net, last), size), {}),
            "GuidedGradCam": (attr.GuidedGradCam(net, last), {}),
            "Occlusion": (attr.Occlusion(net), step | {"perturbations_per_eval": 8}),
        }
    else:
        found |= {
            "FeatureAblation": (attr.FeatureAblation(net), {"feature_mask": patches}),
            "ShapleyValueSampling": (attr.ShapleyValueSampling(net),
                                     {"feature_mask": patches, "n_samples": 2}),
            "Lime": (attr.Lime(net), few),
            "LayerGradCam": (grad_cam(attr.LayerGradCam(net, net.patches), size), {}),
            "Occlusion": (attr.Occlusion(net),
                          {"sliding_window_shapes": (7, 7), "strides": (3, 3)}),
        }
    return found


def patch_numbers(size: int) -> Tensor:
    """Which of 4 x 4 patches each pixel is in, (1, 1, size, size)."""
    rows = torch.arange(size) * 4 // size
    return (rows[:, None] * 4 + rows)[None, None]


def grad_cam(attribution: attr.LayerGradCam, size: int) -> Callable[..., Tensor]:
    """Grad-CAM as a map over the image."""

    def upsampled(x: Tensor, target: Any) -> Tensor:
        return F.interpolate(attribution.attribute(x, target=target), (size, size), mode="bilinear")

    return upsampled


def keywords_of(name: str, keywords: dict[str, Any], images: Tensor, target: Tensor
                ) -> dict[str, Any]:
    """The keywords of a call, with baselines of black images and the surroundings of a window."""
    keywords = dict(keywords)
    if name == "GradientShap":
        keywords["baselines"] = torch.zeros(2, *images.shape[1:])
    if name == "Occlusion":
        window = keywords["sliding_window_shapes"]
        channels = images.shape[1]
        keywords |= {"sliding_window_shapes": (channels, *window),
                     "strides": (channels, *keywords["strides"])}
    return keywords | {"target": target}


def smooth(case: Case, name: str, images: Tensor, target: Tensor, sigma: float, samples: int
           ) -> lx.SmoothedCertificate:
    """The certificate of one attribution."""
    attribution, keywords = case
    return lx.certify_smoothed(
        attribution, images, sigma=sigma, keep=0.25, nt_samples=samples, radius=RADIUS,
        absolute=False, sum_channels=True, batch_size=50,
        attribute_keywords=keywords_of(name, keywords, images, target))


def mosaic(net: nn.Module, images: Tensor, shrink: bool) -> tuple[Tensor, int]:
    """The 2 x 2 grid of the images that a net is surest of, of four classes, and the class of the
    first.
    """
    with torch.no_grad():
        sure, classes = net(images).softmax(1).max(1)
    chosen: list[int] = []
    for i in sure.argsort(descending=True).tolist():
        if classes[i] not in classes[chosen]:
            chosen.append(i)
    parts = images[chosen[:4]]
    if shrink:
        parts = F.interpolate(parts, scale_factor=0.5, mode="area")
    rows = [torch.cat([parts[i], parts[i + 1]], 2) for i in (0, 2)]
    return torch.cat(rows, 1)[None], int(classes[chosen[0]])


def measure(title: str, net: nn.Module, last: nn.Module | None, images: Tensor, all_images: Tensor,
            args: argparse.Namespace) -> dict[str, lx.SmoothedCertificate]:
    """Print the table of a net; return the certificates at the first deviation."""
    size = images.shape[-1]
    grid, target = mosaic(net, all_images, shrink=last is None)
    with torch.no_grad():
        classes = net(images).argmax(1)
    lines, kept, started = [], {}, time.perf_counter()
    for name, case in cases(net, last, size).items():
        if args.only and name not in args.only:
            continue
        found = [smooth(case, name, images, classes, sigma, args.samples) for sigma in SIGMAS]
        if grid.shape[-1] != size:
            case = cases(net, last, grid.shape[-1])[name]
        wide = smooth(case, name, grid, torch.tensor([target]), SIGMAS[0], args.samples)
        important = flat(found[0].labels()).gt(0).double().mean().item()
        certified = [f"{one.certified().mean():.1%}" for one in found]
        seconds = sum(one.state.elapsed_s for one in found) / len(found) / len(images)
        lines.append([name, *certified, f"{important:.1%}", f"{wide.certified().item():.1%}",
                      located(wide), f"{seconds:.1f}"])
        common.progress(" | ".join(lines[-1]))
        kept[name] = found[0]
    print(f"\n**{title}**, {len(images)} images, {time.perf_counter() - started:.0f} s in all, "
          f"peak {common.peak():.0f} MiB\n")
    common.print_table(["attribution", *(f"certified, sigma {s}" for s in SIGMAS), "important",
                        "certified, mosaic", "located", "s an image"], lines)
    return kept


def located(wide: lx.SmoothedCertificate) -> str:
    """The share of a mosaic's certainly important pixels in its first cell, and how many these
    are.
    """
    labels = wide.labels()[0]
    count = int((labels > 0).sum())
    inside = lx.smoothing.localisation(wide, lx.smoothing.grid_cell(labels.shape, 0)).item()
    return f"{inside:.1%} of {count}" if count else "none"


def flat(labels: Any) -> Tensor:
    """Labels as rows."""
    return labels.flatten(1)


def draw(kept: dict[str, lx.SmoothedCertificate], image: Tensor, path: Path) -> None:
    """A row for each of some attributions of the first image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 2.95 * len(DRAWN)), layout="constrained")
    FigureCanvasAgg(figure)
    for part, name in zip(figure.subfigures(len(DRAWN), 1), DRAWN, strict=True):
        lx.plot_importance(kept[name].at(RADIUS), 0, image, figure=part,
                           title=f"{name}, sigma {SIGMAS[0]}, l2 radius {RADIUS}")
    figure.savefig(path, dpi=80)


def beside(args: argparse.Namespace) -> None:
    """Propagation and smoothing at equal radii, of a small net."""
    net = common.load_net(args.data, "mnist_cnn_small")
    images, _ = common.load_mnist(args.data, args.images)
    target = net(images).argmax(1)
    k, lines = round(0.2 * images[0].numel()), []
    smoothed = {(sigma, n): lx.certify_smoothed(attr.Saliency(net), images, sigma=sigma,
                                                nt_samples=n, batch_size=100, target=target)
                for sigma in SIGMAS for n in (100, 1000)}
    for radius in (0.003, 0.01, 0.03, 0.1, 0.3):
        box = lx.certify(attr.Saliency(net), images, eps=radius, norm=2, target=target)
        best, worst = (flat(rank) for rank in box.rank_interval())
        decided = ((worst <= k) | (best > k)).double().mean()
        cells = [f"{one.certified(radius).mean():.1%}" for one in smoothed.values()]
        lines.append([f"{radius}", f"{decided:.1%}", f"{box.elapsed_s / len(images):.2f}", *cells])
    seconds = ", ".join(f"{one.state.elapsed_s / len(images):.2f}" for one in smoothed.values())
    print(f"\n**mnist_cnn_small**, {len(images)} images; smoothing took {seconds} s an image\n")
    common.print_table(["l2 radius", "propagation (CROWN)", "s an image",
                        *(f"sigma {sigma}, n = {n}" for sigma, n in smoothed)], lines)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--parts", nargs="+", default=["beside", "vit", "resnet20"],
                        choices=["beside", "vit", "resnet20"])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--only", nargs="+", help="these attributions alone")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if "beside" in args.parts:
        beside(args)
    if "vit" in args.parts:
        net = large.load_vit(args.data, args.weights, epochs=4, train_images=6000)
        digits, labels = common.load_mnist(args.data, 500)
        with torch.no_grad():
            right = (net(digits).argmax(1) == labels).double().mean()
        print(f"\nThe transformer classifies {right:.1%} of 500 test digits.")
        measure("vit", net, None, digits[:args.images], digits, args)
    if "resnet20" in args.parts:
        net, images = load_resnet(args.data), common.load_cifar(args.data, 200)
        kept = measure("resnet20", net, net.layer3, images[:args.images], images, args)
        if args.picture:
            draw(kept, images[0], args.picture)


if __name__ == "__main__":
    main()
