"""The data sets, as tensors: from a folder, or downloaded.

The folder has adult/adult.{data,test}.gz, german_credit/german.csv and
credit_default/credit-card-clients.csv as UCI gives them, mnist/*-ubyte.gz, and medmnist/NAME*.npz.
Without it scikit-learn (with pandas), torchvision or medmnist download.
"""

import csv
import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Rows = list[list[str]]

ADULT_TEST = 16281
"""How many rows of OpenML's Adult, the first ones, are UCI's test file."""


@dataclass(frozen=True)
class Data:
    """A classification task.

    Args:
        train_x: (N, *S), features in about [0, 1].
        train_y: (N,), classes.
        test_x: (M, *S).
        test_y: (M,).
        protected: indices of the features that an explanation shall not rest on; empty for images.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    protected: tuple[int, ...] = ()

    @property
    def majority(self) -> float:
        """The share of the most frequent class in the test data: the accuracy of a constant
        answer.
        """
        return float(self.test_y.bincount().max() / len(self.test_y))

    def subset(self, train: int, test: int) -> "Data":
        """The first examples."""
        return replace(self, train_x=self.train_x[:train], train_y=self.train_y[:train],
                       test_x=self.test_x[:test], test_y=self.test_y[:test])


# Tables


def one_hot(train: Rows, test: Rows, numeric: Sequence[int], protected: Sequence[int],
            labels: tuple[list[int], list[int]]) -> Data:
    """Numeric columns scaled to [0, 1] on the training rows, then one column for each value of
    every other one.

    Every column of a protected attribute is protected.
    """
    columns: list[np.ndarray] = []
    owners: list[int] = []
    count = len(train)
    order = [*numeric, *(i for i in range(len(train[0])) if i not in numeric)]
    for i in order:
        values = np.array([row[i] for row in train + test])
        if i in numeric:
            numbers = values.astype(float)
            low, high = numbers[:count].min(), numbers[:count].max()
            columns.append((numbers - low) / ((high - low) or 1))
        else:
            columns += [values == value for value in np.unique(values)]
        owners += [i] * (len(columns) - len(owners))
    x = torch.tensor(np.stack(columns, 1).astype(np.float32))
    y = [torch.tensor(part) for part in labels]
    return Data(x[:count], y[0], x[count:], y[1],
                tuple(i for i, owner in enumerate(owners) if owner in protected))


def split(rows: Rows, labels: list[int]) -> tuple[Rows, Rows, tuple[list[int], list[int]]]:
    """The paper's split: a fifth for testing, as scikit-learn's train_test_split draws it with
    random_state=42.
    """
    order = np.random.RandomState(42).permutation(len(rows))
    cut = -(-len(rows) // 5)
    test, train = order[:cut], order[cut:]
    return ([rows[i] for i in train], [rows[i] for i in test],
            ([labels[i] for i in train], [labels[i] for i in test]))


def read_csv(text: str) -> Rows:
    """The rows of a file."""
    return list(csv.reader(text.splitlines(), skipinitialspace=True))


def openml(number: int) -> Rows:
    """The rows of an OpenML data set, its target last; cells that are missing are "?"."""
    from sklearn.datasets import fetch_openml

    frame = fetch_openml(data_id=number, as_frame=True).frame
    return [["?" if cell == "nan" else cell for cell in row]
            for row in frame.astype(str).values.tolist()]


def adult(folder: Path | None) -> Data:
    """Census income, 63 features, without native country and rows with "?". Protected: race and sex
    (7 features).
    """
    if folder is None:
        rows = openml(1590)
        parts = rows[ADULT_TEST:], rows[:ADULT_TEST]
    else:
        parts = tuple(
            read_csv(gzip.decompress((folder / "adult" / f"adult.{part}.gz").read_bytes()).decode())
            for part in ("data", "test"))
    train, test = ([row for row in part if len(row) == 15 and "?" not in row] for part in parts)
    labels = tuple([int(row[14].startswith(">50K")) for row in part] for part in (train, test))
    return one_hot(*([row[:13] for row in part] for part in (train, test)),
                   numeric=(0, 2, 4, 10, 11, 12), protected=(8, 9), labels=labels)


def german(folder: Path | None) -> Data:
    """German credit, 62 features, class 1 is good credit. Protected: personal status and sex (4
    features).

    The paper's 62nd feature is the number of the row in the file. It is kept, so that the net is
    the paper's; it says nothing about an applicant.
    """
    rows = (openml(31)
            if folder is None else read_csv((folder / "german_credit" / "german.csv").read_text()))
    labels = [int(row[20] in ("1", "good")) for row in rows]
    numbered = [[str(i), *row[:20]] for i, row in enumerate(rows)]
    train, test, parts = split(numbered, labels)
    return one_hot(train, test, numeric=(0, 2, 5, 8, 11, 13, 16, 18), protected=(9,), labels=parts)


def credit_default(folder: Path | None) -> Data:
    """Credit card clients of Taiwan; age and months of delay are categories, as in the paper's
    code. Protected: sex.
    """
    if folder is None:
        rows = openml(42477)
    else:
        rows = read_csv((folder / "credit_default" / "credit-card-clients.csv").read_text())[1:]
    labels = [int(float(row[23])) for row in rows]
    cells = [[str(float(cell)) for cell in row[:23]] for row in rows]
    train, test, parts = split(cells, labels)
    return one_hot(train, test, numeric=(0, *range(11, 23)), protected=(1,), labels=parts)


# Images


def mnist(folder: Path | None) -> Data:
    """Handwritten digits, (1, 28, 28)."""
    parts = []
    for train in (True, False):
        if folder is None:
            from torchvision.datasets import MNIST

            files = MNIST("downloads", train=train, download=True)
            parts += [files.data[:, None] / 255, files.targets]
        else:
            stem = folder / "mnist" / ("train" if train else "t10k")
            pixels, labels = (np.frombuffer(
                gzip.decompress(Path(f"{stem}-{kind}-ubyte.gz").read_bytes()), np.uint8)
                              for kind in ("images-idx3", "labels-idx1"))
            parts += [torch.tensor(pixels[16:].reshape(-1, 1, 28, 28)) / 255,
                      torch.tensor(labels[8:]).long()]
    return Data(*parts)


def medical(name: str) -> Callable[[Path | None], Data]:
    """The loader of a MedMNIST data set, (1, 28, 28) or (3, 28, 28)."""
    def load(folder: Path | None) -> Data:
        if folder is None:
            import medmnist

            info = medmnist.INFO[f"{name}mnist"]
            splits = {part: getattr(medmnist, info["python_class"])(split=part, download=True)
                      for part in ("train", "test")}
            arrays: Any = {f"{part}_{key}": getattr(files, attribute)
                           for part, files in splits.items()
                           for key, attribute in (("images", "imgs"), ("labels", "labels"))}
        else:
            arrays = np.load(next((folder / "medmnist").glob(f"{name}mnist*.npz")))
        parts = []
        for part in ("train", "test"):
            images = torch.tensor(arrays[f"{part}_images"]) / 255
            images = (images[:, None]
                      if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous())
            parts += [images, torch.tensor(arrays[f"{part}_labels"].reshape(-1).astype(np.int64))]
        return Data(*parts)

    return load


# What scikit-learn ships, for --quick without a folder


def cancer(folder: Path | None) -> Data:
    """Breast cancer, 30 features. Protected, to have some: the three of smoothness."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    rows = [[str(value) for value in row] for row in table.data]
    train, test, parts = split(rows, [int(label) for label in table.target])
    return one_hot(train, test, numeric=range(30), protected=(4, 14, 24), labels=parts)


def digits(folder: Path | None) -> Data:
    """Handwritten digits, (1, 8, 8)."""
    from sklearn.datasets import load_digits

    table = load_digits()
    x, y = torch.tensor(table.images[:, None].astype(np.float32)) / 16, torch.tensor(table.target)
    return Data(x[:1500], y[:1500], x[1500:], y[1500:])
