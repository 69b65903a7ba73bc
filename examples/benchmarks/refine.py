"""Benchmark: how near to exact refining comes, and in what time.

    python examples/benchmarks/refine.py DATA [--parts rows signs tables curve attacks] [--images
    20] [--seconds 10 60]

All networks are trained here, seeds fixed, on the first 20000 training images of MNIST or on UCI's
tables; bounds are computed in float64. Seconds are of the processor, on one thread
(OMP_NUM_THREADS=1): refining and the integer programs are timed by it, whatever else the machine
does. Attributions are Captum's Saliency with abs=False, of the class that is predicted, over linf
balls.

rows     MLP 784-100-100-10, radius 2/255, not cut to the range of pixels: the widest entry of each
image. Refined to a
         tolerance of 1%, with at most a quarter of the time that HiGHS took for the exact range.
         "width" is refined over exact, "found" what was found over exact.
signs    MLPs of 2, 3 and 5 hidden layers of 100 and a CNN, 1/255 and 2/255, cut to [0, 1]: the
share of the entries
         that are not 0 whose sign is open (neither certified nor flipped), before refining and
         after; signs that today's random points and ascents flip count as decided.
tables   Adult and German credit, 2 hidden layers of 256, radius 0.05 in the numerical columns, and
in all (a tenth of
         the records): whether no protected feature is among the 5 largest of |gradient|.
curve    One input: haze mixed into images, sigmoid MLPs of 3 and 5 layers, the derivative over [0,
0.2]. attacks  Random points and corners of the balls of refined rows: how many leave the bounds.
"""

import csv
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import common
import torch
from captum.attr import Saliency
from torch import Tensor, nn

import lirpa_explain as lx
from lirpa_explain.refining import clock

PARTS = ("rows", "signs", "tables", "curve", "attacks")
GERMAN_NUMBERS, GERMAN_PROTECTED = (1, 4, 7, 10, 12, 15, 17), (8, 12, 19)
NETS = {"2 hidden": (784, 100, 100, 10), "3 hidden": (784, 100, 100, 100, 10),
        "5 hidden": (784, *[100] * 5, 10)}


def mlp(*sizes: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """An MLP, its weights drawn with seed 0."""
    torch.manual_seed(0)
    return nn.Sequential(*[m for a, b in zip(sizes, sizes[1:], strict=False)
                           for m in (nn.Linear(a, b), act())][:-1])


def cnn() -> nn.Sequential:
    """A small CNN."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(),
                         nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(784, 100),
                         nn.ReLU(), nn.Linear(100, 10))


def trained(net: nn.Sequential, x: Tensor, labels: Tensor, epochs: int = 6,
            lr: float = 1e-3) -> nn.Sequential:
    """The net after training by Adam, in float64."""
    x, net = x.float(), net.float()
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), labels[batch]).backward()
            optimizer.step()
    return net.double().eval()


def mnist(data: Path, images: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Training data, and test images, flat."""
    x, labels = common.load_mnist(data, 20000, train=True)
    return (x.flatten(1), labels), common.load_mnist(data, images)[0].flatten(1).double()


def seconds_of(work: object) -> tuple[object, float]:
    """What a call returns, and the seconds of the processor that it took."""
    started = time.process_time()
    return work(), time.process_time() - started  # type: ignore[operator]


# (a) and (b): rows beside the exact range


def rows(data: Path, images: int) -> list[list[str]]:
    """A line for each image."""
    training, points = mnist(data, images)
    net = trained(mlp(*NETS["2 hidden"]), *training)
    lines, ratios, founds, shares = [], [], [], []
    for i, x in enumerate(points.split(1)):
        target = net(x).argmax(1)
        certificate = lx.certify(Saliency(net), x, eps=2 / 255, target=target, abs=False)
        row = torch.zeros_like(x, dtype=torch.bool)
        row[0, certificate.width.argmax()] = True
        exact, t_exact = seconds_of(lambda c=certificate,
                                    row=row: c.refine(row, method="exact", tolerance=0.0))
        refined, t = seconds_of(lambda c=certificate, row=row,
                                s=t_exact: c.refine(row, seconds=s / 4))
        entry = int(row.flatten().nonzero())
        attack, t_attack = seconds_of(lambda x=x, target=target,
                                      entry=entry: span(net, x, target, entry))
        width = float(exact.upper_rows - exact.lower_rows)
        ratios.append(float(refined.upper_rows - refined.lower_rows) / width)
        founds.append(float(refined.found_upper - refined.found_lower) / width)
        shares.append(t / t_exact)
        wrong = max(float(refined.lower_rows - exact.found_lower),
                    float(exact.found_upper - refined.upper_rows))
        lines.append([str(i), f"{float(certificate.width.max()) / width:.3f}", f"{ratios[-1]:.4f}",
                      f"{founds[-1]:.4f}", f"{attack / width:.3f}", f"{int(refined.domains)}",
                      f"{t:.2f}", f"{t_exact:.2f}", f"{t_attack:.2f}", f"{max(0.0, wrong):.0e}"])
        common.progress(" ".join(lines[-1]))
    lines.append(["median", "", f"{statistics.median(ratios):.4f}",
                  f"{statistics.median(founds):.4f}", "", "",
                  f"{statistics.median(shares):.2f} of HiGHS", "", "", ""])
    return lines


def span(net: nn.Module, x: Tensor, target: Tensor, entry: int) -> float:
    """The range of an entry that today's attack finds: 60 points, 3 ascents of 20 steps for each
    side.
    """
    ends = [lx.attack(Saliency(net), x, eps=2 / 255, objective=side, options={"entry": entry},
                      target=target, abs=False) for side in ("increase", "decrease")]
    return float(ends[0].value + ends[1].value)


# (c): signs


def signs(data: Path, images: int, limits: Sequence[float], nets: Sequence[str]) -> list[list[str]]:
    """A line for each net and radius."""
    training, points = mnist(data, images)
    lines = []
    for name in nets:
        net = trained(cnn() if name == "CNN" else mlp(*NETS[name]), *training)
        for eps in (1, 2):
            counts: dict[object, int] = {}
            for x in points.split(1):
                target = net(x).argmax(1)
                call = {"eps": eps / 255, "clip": (0, 1), "target": target, "abs": False}
                certificate = lx.certify(Saliency(net), x, **call)
                found = lx.attack(Saliency(net), x, objective="sign_flips", **call)
                nonzero = certificate.nominal != 0
                kept = (found.low > 0) | (found.high < 0)
                before = nonzero & (certificate.sign() == 0) & kept
                add(counts, "all", int(nonzero.sum()))
                add(counts, "before", int(before.sum()))
                for limit in limits:
                    refined = certificate.refine("sign", seconds=limit)
                    entry = refined.rows[0].abs().argmax(1)
                    add(counts, limit, int(((refined.decided[0] == 0) & kept[0, entry]).sum()))
            shares = [f"{counts[key] / counts['all']:.2%}" for key in ("before", *limits)]
            lines.append([name, f"{eps}/255", *shares])
            common.progress(" ".join(lines[-1]))
    return lines


def add(counts: dict[object, int], key: object, more: int) -> None:
    """Count."""
    counts[key] = counts.get(key, 0) + more


# (d): tables


def adult(data: Path) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Training records and labels, test records, and which columns are numerical and protected."""
    import sys

    sys.path.append(str(Path(__file__).parents[1]))
    from tabular_fairness import read_adult, scaled

    table = scaled(read_adult(data / "adult"))
    return *table.training, table.test[0].double(), table.numerical, table.protected


def german(data: Path) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same of German credit: protected are the columns of sex and status, age, and foreign
    worker.
    """
    with open(data / "german_credit" / "german.csv") as file:
        records = list(csv.reader(file))
    columns, numerical, protected = [], [], []
    for j in range(20):
        values = [record[j] for record in records]
        for value in [None] if j in GERMAN_NUMBERS else sorted(set(values)):
            columns.append([float(v) if value is None else float(v == value) for v in values])
            numerical.append(value is None)
            protected.append(j in GERMAN_PROTECTED)
    x, labels = torch.tensor(columns).T.contiguous(), torch.tensor([int(r[20]) for r in records])
    labels = (labels == labels.max()).long()
    is_number = torch.tensor(numerical)
    mean, deviation = (torch.where(is_number, f, d)
                       for f, d in ((x[:800].mean(0), 0.0), (x[:800].std(0), 1.0)))
    x = (x - mean) / deviation
    return x[:800], labels[:800], x[800:].double(), is_number, torch.tensor(protected)


def tables(data: Path, records: int, seconds: float) -> list[list[str]]:
    """A line for each table."""
    lines = []
    for name, read in (("Adult", adult), ("German credit", german)):
        x, labels, test, numerical, protected = read(data)
        net = trained(mlp(x.shape[1], 256, 256, 2), x, labels, epochs=max(3, 60_000 // len(x)))
        for where, radius, share in (("numerical columns", 0.05 * numerical.double(), 1),
                                     ("all columns", 0.05, 10)):
            n = max(1, min(records, len(test)) // share)
            certain, refuted, open_before, times = 0, 0, 0, []
            for one in test[:n].split(1):
                target = net(one).argmax(1)
                certificate = lx.certify(Saliency(net), one, eps=radius, target=target)
                settings = {"mask": protected.double(), "k": 5}
                sandwich = certificate.sandwich("targeted_fairness", settings={"samples": 20},
                                                **settings)
                unfair = bool(protected[certificate.nominal.topk(5).indices].any())
                open_before += int(
                    not unfair and float(certificate.metric("targeted_fairness", **settings)) < 1
                    and float(sandwich.found) == 0)
                refined, t = seconds_of(lambda c=certificate, s=settings: c.refine(
                    ("targeted_fairness >= 1", s), seconds=seconds))
                times.append(t)
                certain += int(refined.decided == 1)
                refuted += int(refined.decided == -1)
            lines.append([f"{name}, {x.shape[1]} columns, {where}", str(n),
                          f"{open_before / n:.1%}", f"{certain / n:.1%}",
                          f"{refuted / n:.1%}", f"{(n - certain - refuted) / n:.1%}",
                          f"{statistics.mean(times):.2f}", f"{max(times):.2f}"])
            common.progress(" ".join(lines[-1]))
    return lines


# (e): one input


class Hazy(nn.Module):
    """The net's outputs for an image into which a share of haze is mixed: (N, 1) -> (N, 10)."""

    def __init__(self, net: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("image", image)

    def forward(self, share: Tensor) -> Tensor:
        """Outputs at shares of haze."""
        return self.net(self.image + share * (1 - self.image))


def curve(data: Path, images: int) -> list[list[str]]:
    """A line for each depth."""
    training, points = mnist(data, images)
    lines = []
    for layers in (3, 5):
        net = trained(mlp(784, *[50] * (layers - 1), 10, act=nn.Sigmoid), *training, epochs=10,
                      lr=5e-3)
        ratios, plain, times = [], [], []
        for image in points.split(1):
            model, x = Hazy(net, image), torch.full((1, 1), 0.1, dtype=torch.float64)
            target = net(image).argmax(1)
            certifier = lx.Certifier(Saliency(model), x, target=target, abs=False)
            certifier.certify(x, eps=0.1, target=target)
            (certificate, refined), t = seconds_of(lambda c=certifier, x=x,
                                                   target=target: both(c, x, target))
            shares = torch.linspace(0, 0.2, 5001, dtype=torch.float64)[:, None].requires_grad_()
            slope, = torch.autograd.grad(model(shares)[:, target].sum(), shares)
            width = float(slope.max() - slope.min())
            assert (float(refined.lower) <= float(slope.min())
                    and float(slope.max()) <= float(refined.upper))
            ratios.append(float(refined.width) / width)
            plain.append(float(certificate.width) / width)
            times.append(t)
        lines.append([str(layers), f"{statistics.median(plain):.2f}",
                      f"{statistics.median(ratios):.4f}",
                      f"{max(ratios):.4f}", f"{statistics.median(times):.3f}", f"{max(times):.3f}"])
        common.progress(" ".join(lines[-1]))
    return lines


def both(certifier: lx.Certifier, x: Tensor,
         target: Tensor) -> tuple[lx.Certificate, lx.Certificate]:
    """A certificate, and the same refined."""
    certificate = certifier.certify(x, eps=0.1, target=target)
    return certificate, certificate.refine("width", tolerance=0.09)


# (g): attacks on refined rows


def attacks(data: Path, images: int, points_each: int = 500) -> list[list[str]]:
    """How many of so many points leave the bounds of refined rows."""
    training, points = mnist(data, images)
    generator = torch.Generator().manual_seed(0)
    lines = []
    for name in ("2 hidden", "3 hidden"):
        net, tried, outside, worst = trained(mlp(*NETS[name]), *training), 0, 0, 0.0
        for x in points.split(1):
            target = net(x).argmax(1)
            certificate = lx.certify(Saliency(net), x, eps=2 / 255, clip=(0, 1), target=target,
                                     abs=False)
            refined = certificate.refine("sign", seconds=5)
            share = torch.rand(points_each, 784, generator=generator, dtype=torch.float64)
            share[::2] = share[::2].round()
            near = (x + (2 * share - 1) * 2 / 255).clamp(0, 1)
            near = torch.cat([near, refined.found_inputs]).requires_grad_()
            a, = torch.autograd.grad(net(near)[:, target].sum(), near)
            values = a @ refined.rows[0].T
            beyond = torch.maximum(refined.lower_rows - values, values - refined.upper_rows)
            tried += values.numel()
            outside += int((beyond > 1e-9).sum())
            worst = max(worst, float(beyond.max()))
        lines.append([name, f"{tried:.3g}", str(outside), f"{max(0.0, worst):.0e}"])
        common.progress(" ".join(lines[-1]))
    return lines


def main(argv: Sequence[str] | None = None) -> dict[str, list[list[str]]]:
    """Run the parts, and return the tables' lines."""
    parser = common.parser(__doc__)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--nets", nargs="+", default=[*NETS, "CNN"], help="of signs")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 60.0])
    args = parser.parse_args(argv)
    torch.set_default_dtype(torch.float64)
    clock.now = time.process_time
    print(f"{common.versions()}\n")
    work = {
        "rows": (("image", "CROWN / exact", "width", "found", "attack", "domains", "s", "s, HiGHS",
                  "s, attack", "wrong"), lambda: rows(args.data, args.images)),
        "signs": (("net", "eps", "open before", *(f"{s:g} s" for s in args.seconds)),
                  lambda: signs(args.data, args.images, args.seconds, args.nets)),
        "tables": (("table", "records", "open before", "certain", "refuted", "open", "mean s",
                    "most s"), lambda: tables(args.data, args.records, args.seconds[0])),
        "curve": (("layers", "CROWN / sampled", "refined / sampled", "most", "s", "most s"),
                  lambda: curve(args.data, args.images)),
        "attacks": (("net", "values", "outside", "by"), lambda: attacks(args.data, args.images)),
    }
    found = {}
    for part in args.parts:
        columns, run = work[part]
        found[part] = run()
        print(f"{part}\n")
        common.print_table(columns, found[part])
        print()
    return found


if __name__ == "__main__":
    main()
