"""Benchmark: the gradient of MNIST networks, bounded by lirpa_explain and by auto_LiRPA's own
JacobianOP.

    python examples/benchmarks/mnist.py DATA [--nets kw_mnist mnist_cnn_small] [--images 6]
    [--optimized 1] [--batch 32]
        [--eps 1 4] [--methods CROWN ...] [--double]

For the first test images and each eps, the gradient of the predicted class's logit (Captum's
Saliency with abs=False) is bounded over the linf ball of radius eps/255, not cut to the range of
pixels.

JacobianOP comes with auto_LiRPA 0.7. It gets one image at a time, because its bounds of a batch are
wrong, and a model with the logit of the image's class as only output. It runs as it comes, with
relaxations optimised for the logit ("JacobianOP"), and without that ("JacobianOP-CROWN"). Methods
that optimise get the first --optimized images only.

Each method runs in a process of its own for each net and eps, after an unmeasured run on one image.
Seconds are of the processor (start it with OMP_NUM_THREADS=1), medians over the images, one by one;
for lirpa_explain by one `Certifier`, whose trace is made once ("s, trace"), for JacobianOP with the
building of a BoundedModule for each image, given again under "s, trace". "s, batch" is for one
image of the first --batch images bounded together. MiB: "before" is the most memory the process had
used before its first bound (the imports); "one by one" and "batch" are by how much bounding raised
that.

"/ found" divides by the mean width of the gradients found by the attacks of attack.py, without
ascent; "outside" is by how much one of these leaves the bounds (float32: 1e-6 is rounding). Below
each table the bounds are compared image by image, but for images at which both are narrower than
1e-6 (roundings).
"""

import importlib.util
import logging
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import common
import torch
from attack import found_range, hidden_units
from captum.attr import Saliency
from torch import Tensor, nn

import lirpa_explain as lx

OURS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized")
THEIRS = ("JacobianOP-CROWN", "JacobianOP")
OPTIMIZED = ("CROWN-Optimized", "JacobianOP")
PAIRS = (("CROWN", "JacobianOP-CROWN"), ("CROWN", "JacobianOP"), ("CROWN-Optimized", "JacobianOP"))
COLUMNS = ("method", "images", "mean width", "/ found", "outside", "s, trace", "s, one by one",
           "s, batch", "MiB before", "+ one by one", "+ batch")

Result = dict[str, Tensor | float]


def their_bounds(net: nn.Sequential, image: Tensor, target: Tensor, eps: float, method: str
                 ) -> tuple[Tensor, Tensor, float]:
    """Bounds of one image by JacobianOP, each (1, 784), and the seconds of building the module."""
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

    started = time.process_time()
    # "patches" fails on stride 2
    bounded = BoundedModule(Gradient(), image, bound_opts={"conv_mode": "matrix"})
    building = time.process_time() - started
    ball = BoundedTensor(image, PerturbationLpNorm(norm=math.inf, eps=eps))
    optimize = method == "JacobianOP"
    with torch.set_grad_enabled(optimize):
        lower, upper = bounded.compute_jacobian_bounds(ball, optimize=optimize)
    return lower.detach().flatten(1), upper.detach().flatten(1), building


def measure_theirs(net: nn.Sequential, images: Tensor, target: Tensor, eps: float,
                   method: str) -> Result:
    """Bounds, seconds and memory of JacobianOP."""
    before = common.peak()
    their_bounds(net, images[:1], target[:1], eps, method)
    seconds, bounds = [], []
    for image, t in zip(images.split(1), target.split(1), strict=True):
        started = time.process_time()
        bounds.append(their_bounds(net, image, t, eps, method))
        seconds.append(time.process_time() - started)
    return {"trace": statistics.median(b[2] for b in bounds), "single": statistics.median(seconds),
            "before": before, "single_growth": common.peak() - before,
            "lower": torch.cat([b[0] for b in bounds]), "upper": torch.cat([b[1] for b in bounds])}


def measure_ours(net: nn.Sequential, images: Tensor, target: Tensor, eps: float, method: str,
                 batch: Tensor) -> Result:
    """Bounds, seconds and memory of lirpa_explain."""
    before = common.peak()
    lx.certify(Saliency(net), images[:1], eps=eps, target=target[:1], method=method, abs=False)
    started = time.process_time()
    certifier = lx.Certifier(Saliency(net), images[:1], method=method, target=target[:1], abs=False)
    trace = time.process_time() - started
    seconds, certificates = [], []
    for image, t in zip(images.split(1), target.split(1), strict=True):
        started = time.process_time()
        certificates.append(certifier.certify(image, eps=eps, target=t))
        seconds.append(time.process_time() - started)
    lower, upper = (torch.cat([getattr(c, side).flatten(1) for c in certificates])
                    for side in ("lower", "upper"))
    result = {"trace": trace, "single": statistics.median(seconds), "before": before,
              "single_growth": common.peak() - before, "lower": lower, "upper": upper}
    if method in OPTIMIZED or not len(batch):
        return result
    started = time.process_time()
    together = certifier.certify(batch, eps=eps, target=net(batch).argmax(1))
    result |= {"batch": (time.process_time() - started) / len(batch),
               "batch_growth": common.peak() - before}
    count = min(len(images), len(batch))
    torch.testing.assert_close(together.lower[:count].flatten(1), lower[:count], rtol=1e-3,
                               atol=1e-6)
    torch.testing.assert_close(together.upper[:count].flatten(1), upper[:count], rtol=1e-3,
                               atol=1e-6)
    return result


def line(result: Result, method: str, low: Tensor, high: Tensor) -> list[str]:
    """One method's line of the table; `low` and `high` (N, 784) were found."""
    lower, upper = result["lower"], result["upper"]
    low, high = low[:len(lower)], high[:len(lower)]
    width = (upper - lower).mean()

    def number(key: str, digits: int) -> str:
        return f"{result[key]:.{digits}f}" if key in result else "-"

    return [method, str(len(lower)), f"{width:.3e}", f"{width / (high - low).mean():.4f}",
            f"{common.outside(lower, upper, low, high):.1e}", number("trace", 2),
            number("single", 3), number("batch", 3), number("before", 0),
            number("single_growth", 0), number("batch_growth", 0)]


def comparison(ours: str, theirs: str, results: dict[str, Result]) -> str:
    """Widths image by image, and by what factor ours is faster."""
    a, b = results[ours], results[theirs]
    count = min(len(a["lower"]), len(b["lower"]))
    widths = [(r["upper"] - r["lower"])[:count].mean(1) for r in (a, b)]
    moving = torch.maximum(*widths) > 1e-6
    ratio = (widths[0] / widths[1])[moving]
    ratios = (f"{ratio.min():.6f} to {ratio.max():.6f} on {len(ratio)} images"
              if len(ratio) else "within roundings")
    text = (f"* {ours} / {theirs}: mean width {ratios}; {b['single'] / a['single']:.1f} times "
            f"faster one by one ({(b['single'] - b['trace']) / a['single']:.1f} if JacobianOP's "
            "building is left out)")
    return text + (f", {b['single'] / a['batch']:.1f} times in a batch" if "batch" in a else "")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, or with the hidden option --one a single measurement of it."""
    parser = common.parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nets", nargs="+", choices=common.NETS,
                        default=["kw_mnist", "mnist_cnn_small"])
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--optimized", type=int, default=1, help="images for methods that optimise")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--eps", type=float, nargs="+", default=[1, 4], help="radii in 1/255")
    parser.add_argument("--methods", nargs="+", choices=OURS + THEIRS, default=OURS + THEIRS)
    parser.add_argument("--double", action="store_true",
                        help="compute in float64, where rounding does not matter")
    args = parser.parse_args(argv)
    torch.set_default_dtype(torch.float64 if args.double else torch.float32)
    images, _ = common.load_mnist(args.data, max(args.images, args.batch))
    if args.one:
        logging.disable(logging.INFO)  # auto_LiRPA announces every JacobianOP
        net, (method,) = common.load_net(args.data, args.nets[0]), args.methods
        few = images[:args.optimized if method in OPTIMIZED else args.images]
        arguments = (net, few, net(few).argmax(1), args.eps[0] / 255, method)
        torch.save(measure_ours(*arguments, images[:args.batch])
                   if method in OURS else measure_theirs(*arguments), args.one)
        return

    has_jacobian = importlib.util.find_spec("auto_LiRPA.jacobian") is not None
    methods = [method for method in args.methods if has_jacobian or method in OURS]
    print("The first test images; "
          f"{common.versions()}{'' if has_jacobian else '; there is no JacobianOP'}")
    torch.manual_seed(0)
    for name in args.nets:
        net, images = common.load_net(args.data, name), images[:args.images]
        target = net(images).argmax(1)
        units = [hidden_units(net, *one)
                 for one in zip(images.split(1), target.split(1), strict=True)]
        for eps in args.eps:
            found = [found_range(net, images[i:i + 1], target[i], eps / 255, units[i])
                     for i in range(len(images))]
            low, high = (torch.stack(side) for side in zip(*found, strict=True))
            results = {}
            for method in methods:
                results[method] = common.in_process(__file__, [
                    args.data, "--nets", name, "--images", args.images, "--optimized",
                    args.optimized, "--batch",
                    args.batch, "--eps", eps, "--methods", method, *["--double"] * args.double])
                common.progress(" | ".join(line(results[method], method, low, high)))
            print(f"\n**{name}, eps {eps:g}/255**\n")
            common.print_table(COLUMNS, [line(result, method, low, high)
                                         for method, result in results.items()])
            pairs = [pair for pair in PAIRS if set(pair) <= results.keys()]
            print("\n" * bool(pairs) + "\n".join(comparison(*pair, results) for pair in pairs))


if __name__ == "__main__":
    main()
