"""Benchmark: how seconds and peak memory grow with width, depth, input size and steps of Integrated
Gradients.

    python examples/benchmarks/scaling.py [--factors width depth input n_steps] [--methods CROWN
    CROWN-Optimized]
        [--limit 32] [--eps 0.01]

ReLU networks with random weights are made, one factor changed at a time: MLPs of 64 inputs and 3
hidden layers of 64 units; for "image", two convolutions (3x3, 8 and 16 channels, stride 1 and 2)
and 10 logits on square images. The gradient of the first logit at 8 inputs (Saliency with
abs=False; for "n_steps" Integrated Gradients from a baseline of 0) is bounded over linf balls of
radius --eps; CROWN-Optimized gets 1 input, and only the smaller values of a factor.

Each measurement is a process of its own: the seconds of the processor (start it with
OMP_NUM_THREADS=1) that one `Certifier.certify` takes after one of a small net, and the MiB by which
that raised the process's peak (Linux). Both once more with memory_limit of --limit MiB. "grows as"
is the exponent of the factor between a line and the one before.
"""

import math
import time
from collections.abc import Sequence

import common
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import Tensor, nn

import lirpa_explain as lx

FACTORS = {"width": (64, 128, 256, 512, 1024), "depth": (2, 4, 8, 16),
           "input": (64, 256, 1024, 4096), "image": (8, 16, 24), "n_steps": (5, 20, 80)}
FEW = {"CROWN": 5, "CROWN-Optimized": 3}
Result = dict[str, float]


def problem(factor: str, value: int, count: int) -> tuple[nn.Sequential, Tensor]:
    """A net and inputs."""
    torch.manual_seed(0)
    if factor == "image":
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1),
                            nn.ReLU(), nn.Flatten(), nn.Linear(4 * value**2, 10))
        return net, torch.rand(count, 3, value, value)
    size = {"input": 64, "width": 64, "depth": 3} | {factor: value}
    sizes = [size["input"], *[size["width"]] * size["depth"], 10]
    layers = [m for a, b in zip(sizes, sizes[1:], strict=False)
              for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), torch.rand(count, sizes[0])


def measure(factor: str, value: int, method: str, eps: float, limit: int | None) -> Result:
    """Seconds and MiB of one certificate."""
    net, x = problem(factor, value, 1 if method == "CROWN-Optimized" else 8)
    attribution, keywords = Saliency(net), {"abs": False}
    if factor == "n_steps":
        attribution, keywords = IntegratedGradients(net), {"n_steps": value}
    certifier = lx.Certifier(attribution, x[:1], method=method, target=0, **keywords,
                             memory_limit=None if limit is None else limit * 2**20)
    small, point = problem(factor, 8, 1)
    lx.certify(Saliency(small), point, eps=eps, target=0, abs=False, method=method)
    before = common.peak()
    started = time.process_time()
    certifier.certify(x, eps=eps)
    return {"seconds": time.process_time() - started, "memory": common.peak() - before}


def lines(factor: str, method: str, args: Sequence[str],
          limits: Sequence[int | None]) -> list[list[str]]:
    """The table of a factor, measured line by line."""
    table, previous = [], None
    for value in FACTORS[factor][:1 if factor == "image" and method == "CROWN-Optimized"
                                 else FEW[method]]:
        free, held = (common.in_process(__file__, ["--factors", factor, "--values", value,
                                                   "--methods", method, *args,
                                                   *([] if limit is None else ["--limit", limit])])
                      for limit in limits)

        def grows(key: str, new: Result = free, old: tuple[int, Result] | None = previous,
                  at: int = value) -> str:
            if old is None or min(new[key], old[1][key]) <= 0:
                return "-"
            return f"{math.log(new[key] / old[1][key]) / math.log(at / old[0]):.1f}"

        table.append([factor, str(value), method, f"{free['seconds']:.2f}", grows("seconds"),
                      f"{free['memory']:.0f}",
                      grows("memory"), f"{held['seconds']:.2f}", f"{held['memory']:.0f}"])
        common.progress(" | ".join(table[-1]))
        previous = value, free
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, or with the hidden option --one a single measurement of it."""
    parser = common.parser(__doc__)
    parser.add_argument("--factors", nargs="+", choices=FACTORS, default=list(FACTORS))
    parser.add_argument("--values", type=int, nargs="+", help="for --one")
    parser.add_argument("--methods", nargs="+", choices=FEW, default=list(FEW))
    parser.add_argument("--limit", type=int, help="MiB")
    parser.add_argument("--eps", type=float, default=0.01)
    args = parser.parse_args(argv)
    if args.one:
        torch.save(measure(args.factors[0], args.values[0], args.methods[0], args.eps, args.limit),
                   args.one)
        return
    limit = args.limit or 32
    print(f"memory_limit {limit} MiB; {common.versions()}\n")
    table = [line for factor in args.factors for method in args.methods
             for line in lines(factor, method, ["--eps", args.eps], (None, limit))]
    common.print_table(("factor", "value", "method", "s", "grows as", "MiB", "grows as", "s, limit",
                        "MiB, limit"), table)


if __name__ == "__main__":
    main()
