"""Can a small change of a person's record put a protected feature among the reasons of a decision?

A small network learns to predict an income above 50,000 from UCI's Adult records; protected are the
columns of sex and race. An explanation, |gradient| of the predicted class, is called fair if no
protected feature is among its K largest. For test records it is certified that this stays so for
EVERY change of the numerical columns by up to EPS standard deviations each, and beside it that the
prediction stays. An attack says how far the rest is really unfair.

Without --data there is no protected group at hand: scikit-learn's breast cancer measurements stand
in for the records, and three of them (those of the fractal dimension) for the protected features,
which says nothing of fairness.

    python examples/tabular_fairness.py [--data ADULT] [--examples 200] [--k 5] [--out
    tabular_fairness.png]

It needs scikit-learn and matplotlib, and less than a minute. ADULT is a folder with adult.data.gz
and adult.test.gz as UCI publishes them, compressed.
"""

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from captum.attr import Saliency
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import lirpa_explain as lx

COLUMNS = ("age workclass fnlwgt education education-num marital-status occupation relationship "
           "race sex capital-gain capital-loss hours-per-week native-country").split()
NUMERICAL = {"age", "education-num", "capital-gain", "capital-loss", "hours-per-week"}
LEFT_OUT = {"fnlwgt", "native-country"}
PROTECTED = {"race", "sex"}
RADII = (0.01, 0.03, 0.1)


class Table(NamedTuple):
    """Records as numbers, numerical columns in standard deviations from their mean, one column for
    each category.
    """

    names: list[str]
    numerical: Tensor  # (D,), bool
    protected: Tensor  # (D,), bool
    training: tuple[Tensor, Tensor]  # (N, D) and labels (N,)
    test: tuple[Tensor, Tensor]


class Row(NamedTuple):
    """A line of the table: shares of the test records."""

    eps: float
    label: float  # the prediction is certain
    fair: float  # no protected feature can reach the top k
    both: float
    broken: float  # a change was found that puts one there, or one is there already


def read_adult(folder: Path) -> Table:
    """UCI's Adult; records with unknown entries are left out."""
    records = []
    for name in ("adult.data.gz", "adult.test.gz"):
        with gzip.open(folder / name, "rt") as file:
            lines = [line.strip().rstrip(".").split(", ")
                     for line in file if line.count(",") == len(COLUMNS)]
        records.append([line for line in lines if "?" not in line])
    names, columns = [], ([], [])
    for i, column in enumerate(COLUMNS):
        if column in LEFT_OUT:
            continue
        values = sorted({line[i] for line in records[0]}) if column not in NUMERICAL else [None]
        names += [column if value is None else f"{column}: {value}" for value in values]
        for part, lines in zip(columns, records, strict=True):
            part.extend([float(line[i]) if value is None else float(line[i] == value)
                         for line in lines] for value in values)
    labels = [torch.tensor([line[-1] == ">50K" for line in lines]).long() for lines in records]
    training, test = (torch.tensor(part).T.contiguous() for part in columns)
    numerical = torch.tensor([name in NUMERICAL for name in names])
    protected = torch.tensor([name.split(":")[0] in PROTECTED for name in names])
    return Table(names, numerical, protected, (training, labels[0]), (test, labels[1]))


def read_breast_cancer() -> Table:
    """scikit-learn's measurements of tumours; the protected features are a stand-in."""
    data = load_breast_cancer()
    names = [str(name) for name in data.feature_names]
    training, test, train_labels, test_labels = train_test_split(
        torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target), test_size=0.4,
        random_state=0)
    protected = torch.tensor(["fractal" in name for name in names])
    return Table(names, torch.ones(len(names), dtype=torch.bool), protected,
                 (training, train_labels), (test, test_labels))


def scaled(table: Table) -> Table:
    """The table with its numerical columns in standard deviations from the mean of the training
    data.
    """
    x = table.training[0]
    mean = torch.where(table.numerical, x.mean(0), 0.0)
    deviation = torch.where(table.numerical & (x.std(0) > 0), x.std(0), 1.0)
    (train, train_labels), (test, test_labels) = table.training, table.test
    return table._replace(training=((train - mean) / deviation, train_labels),
                          test=((test - mean) / deviation, test_labels))


def train(x: Tensor, labels: Tensor) -> nn.Module:
    """A network with one hidden layer, of smooth units: its gradient changes little under small
    changes.
    """
    model = nn.Sequential(nn.Linear(x.shape[1], 16), nn.Softplus(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    for _ in range(max(2, 20_000 // len(x))):
        for batch in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def measure(model: nn.Module, x: Tensor, table: Table, eps: float,
            k: int) -> tuple[Row, lx.Certificate]:
    """The line of one radius, and the certificate of the explanations."""
    ball = {"eps": eps * table.numerical}
    prediction = lx.certify_prediction(model, x, **ball)
    certificate = lx.certify(Saliency(model), x, target=prediction.classes, **ball)
    top = {"mask": table.protected, "k": k, "absolute": True}
    fair = certificate.metric("targeted_fairness", **top) == 1
    is_unfair = table.protected[certificate.nominal.topk(k).indices].any(1)
    broken = is_unfair | (
        certificate.sandwich("targeted_fairness", settings={"samples": 20}, **top).found == 1)
    shares = (float(which.float().mean())
              for which in (prediction.certain, fair, prediction.certain & fair, broken))
    return Row(eps, *shares), certificate


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Train, certify, attack, print the table, save the picture; returns the table's rows."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="ADULT",
                        help="folder with adult.data.gz and adult.test.gz")
    parser.add_argument("--examples", type=int, default=200, help="how many test records")
    parser.add_argument("--k", type=int, default=5, help="how many features are reasons")
    parser.add_argument("--out", default="tabular_fairness.png", help="file for the picture")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    table = scaled(read_adult(args.data) if args.data else read_breast_cancer())
    model, (test, labels) = train(*table.training), table.test
    protected = [name for name, is_protected in zip(table.names, table.protected, strict=True)
                 if is_protected]
    print(f"test accuracy {(model(test).argmax(1) == labels).float().mean():.1%}; "
          f"{len(table.names)} features, "
          f"{'protected' if args.data else 'as a stand-in for protected ones'}: "
          f"{', '.join(protected)}\n")

    x = test[:args.examples]
    print(
        f"Shares of {len(x)} test records; fair: no protected feature among the {args.k} largest "
        f"|gradients|\n{'eps':>6}{'label certain':>16}{'certainly fair':>17}{'both':>9}"
        f"{'unfair, or made so by attack':>31}")
    rows = []
    for eps in RADII:
        row, certificate = measure(model, x, table, eps, args.k)
        rows.append(row)
        print("{:>6}{:>16.1%}{:>17.1%}{:>9.1%}{:>31.1%}".format(*row))
    names = [name + " *" * bool(is_protected)
             for name, is_protected in zip(table.names, table.protected, strict=True)]
    title = (f"One explanation, eps = {RADII[-1]} (* "
             f"{'protected' if args.data else 'stand-in for protected'})")
    figure, _ = lx.plot_bars(certificate, names=names, most=20, title=title)
    figure.set_size_inches(8, 7)
    figure.savefig(args.out, dpi=80)
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    main()
