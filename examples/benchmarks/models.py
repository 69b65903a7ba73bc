"""Benchmark: which models that people explain can be certified, how fast, and how tightly.

    python examples/benchmarks/models.py [--only "torchvision *" GRU] [--limit 300] [--out
    results/models.csv]

Each model of `zoo` is built with random weights, and a Captum attribution of it is certified over a
small linf ball, in a process of its own. "trace" is the seconds until the model is recorded and
lowered, "s" those of the certificate after that, "MiB" the most memory that the process held, "/
sampled" the width beside that between the values found at points of the ball, its corners among
them, "outside" by how much those leave the bounds, relative to the largest number.
"""

import argparse
import csv
import dataclasses
import fnmatch
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import torch
from captum import attr
from torch import Tensor
from zoo import MODELS, Made, Row

import lirpa_explain as lx

COLUMNS = ("model", "library", "cut", "attribution", "method", "eps", "trace", "s", "MiB",
           "/ value", "/ sampled", "outside", "result")


def measure(row: Row, points: int, file: Path | None = None) -> dict[str, Any]:
    """One line's numbers; what is known before the certificate is saved first, for the case that it
    takes too long.
    """
    torch.manual_seed(0)
    made = row.make()
    attribution = getattr(attr, row.attribution)(made.function)
    keywords = {"target": made.target, "additional_forward_args": made.extras or None,
                **row.keywords, **({"abs": False} if row.attribution == "Saliency" else {})}
    inputs = made.inputs if len(made.inputs) > 1 else made.inputs[0]
    result: dict[str, Any] = {"result": "refused"}
    started = time.perf_counter()
    try:
        certifier = lx.Certifier(attribution, inputs, method=row.method, memory_limit=2**30,
                                 **keywords)
        result |= {"trace": time.perf_counter() - started, "result": "timeout"}
        if file:
            torch.save(result, file)
        certificate = certifier.certify(inputs, eps=row.eps, **keywords)
    except lx.errors.LirpaExplainError as error:
        return result | {"result": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    result |= {"s": certificate.elapsed_s, "MiB": common.peak(), "result": "certified"}
    lower, upper = _flat(certificate.lower), _flat(certificate.upper)
    low, high = found(attribution, made, row.eps, keywords, points)
    value = _flat(certificate.nominal).abs()
    moves, outside = (bool((high - low > 1e-6 * value.amax()).any()),
                      common.outside(lower, upper, low, high))
    return result | {
        "/ value": float((upper - lower).sum() / value.sum()),
        "/ sampled": float((upper - lower).sum() / (high - low).sum()) if moves else math.nan,
        "outside": outside / float(torch.maximum(lower.abs(), upper.abs()).amax().clamp(min=1e-30))}


def found(attribution: Any, made: Made, eps: float, keywords: dict[str, Any],
          points: int) -> tuple[Tensor, Tensor]:
    """The least and the largest values at points of the ball, every other one a corner."""
    values = []
    for i in range(points):
        noise = [2 * torch.rand_like(x) - 1 if i % 2 else (torch.rand_like(x) - 0.5).sign()
                 for x in made.inputs]
        moved = tuple(x + eps * (u if i else 0 * u)
                      for x, u in zip(made.inputs, noise, strict=True))
        values.append(
            _flat(attribution.attribute(moved if len(moved) > 1 else moved[0], **keywords)))
    return torch.stack(values).amin(0), torch.stack(values).amax(0)


def _flat(values: Any) -> Tensor:
    return torch.cat([value.detach().flatten(1)
                      for value in (values if isinstance(values, tuple) else (values,))], 1)


def in_process(name: str, row: Row, args: argparse.Namespace) -> dict[str, Any]:
    """The numbers of one model, measured in a process of its own that is ended when its time is
    up.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.pt"
        command = [sys.executable, "-W", "ignore", __file__, "--only", name, "--method", row.method,
                   "--points", str(args.points), "--one", str(file)]
        try:
            done = subprocess.run(command, timeout=args.limit, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True)
        except subprocess.TimeoutExpired:
            result = torch.load(file, weights_only=True) if file.exists() else {}
            return result | {"result": f"more than {args.limit:g} s"}
        if done.returncode:
            return {"result": f"ended with {done.returncode}: "
                    f"{' '.join(done.stderr.split())[-200:]}"}
        return torch.load(file, weights_only=True)


def line(name: str, row: Row, numbers: dict[str, Any]) -> list[str]:
    """One line of the table."""
    forms = {"trace": ".1f", "s": ".1f", "MiB": ".0f", "/ value": ".2g", "/ sampled": ".3g",
             "outside": ".0e"}
    return [name, row.library, row.cut, row.attribution, row.method, f"{row.eps:g}",
            *[format(numbers[key], form) if key in numbers else "" for key, form in forms.items()],
            numbers["result"]]


def main(argv: Sequence[str] | None = None) -> list[list[str]]:
    """Run the benchmark, or with the hidden option --one a single measurement of it; returns the
    table's lines.
    """
    parser = common.parser(__doc__)
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names")
    parser.add_argument("--method", choices=lx.METHODS,
                        help="of the bounds, in place of the table's")
    parser.add_argument("--limit", type=float, default=300, help="seconds for a model")
    parser.add_argument("--points", type=int, default=40, help="points of the ball that are tried")
    parser.add_argument("--out", type=Path, help="a CSV file for the table")
    args = parser.parse_args(argv)
    chosen = {name: row for name, row in MODELS.items()
              if any(fnmatch.fnmatchcase(name, p) for p in args.only)}
    if args.method:
        chosen = {name: dataclasses.replace(row, method=args.method)
                  for name, row in chosen.items()}
    if args.one:
        torch.set_num_threads(1)
        torch.save(measure(next(iter(chosen.values())), args.points, args.one), args.one)
        return []
    print(f"{common.versions()}\n")
    lines = []
    for name, row in chosen.items():
        numbers = ({"result": f"{row.library} is not installed"}
                   if row.missing() else in_process(name, row, args))
        lines.append(line(name, row, numbers))
        common.progress(", ".join(lines[-1]))
    common.print_table(COLUMNS, lines)
    if args.out:
        with args.out.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *lines])
    return lines


if __name__ == "__main__":
    main()
