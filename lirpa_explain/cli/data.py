"""Inputs for the command line: arrays, tables, folders of images; and the targets that go with
them.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .values import read_array

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
"""Endings of the files that are read from a folder of images."""


@dataclass(frozen=True)
class Data:
    """Examples, and what is known about them.

    Args:
        inputs: (N, *S).
        names: of the examples, (N,); None where they have none but their numbers.
        features: of the columns of a table; None where they have no names.
        labels: the column that was set apart as target, (N,); None if none was.
    """

    inputs: Tensor
    names: list[str] | None = None
    features: list[str] | None = None
    labels: Tensor | None = None

    def rows(self, chosen: slice) -> "Data":
        """Some of the examples."""
        return replace(self, inputs=self.inputs[chosen],
                       names=None if self.names is None else self.names[chosen],
                       labels=None if self.labels is None else self.labels[chosen])


@dataclass(frozen=True)
class Reading:
    """How inputs are read.

    Args:
        array: the name of the array in a .npz file.
        label: the column of a table that is the target.
        size: (height, width) to which images are brought; None: they are equally large.
        mode: "RGB" or "L", the channels of images.
        shape: the shape of one example, if not as stored.
        dtype: of the inputs.
    """

    array: str | None = None
    label: str | None = None
    size: tuple[int, int] | None = None
    mode: str = "RGB"
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float32


def read(path: Path, how: Reading) -> Data:
    """Read inputs.

    Args:
        path: a .npy, .npz or .csv file, or a folder of images, whose entries become numbers from 0
            to 1.
        how: details.

    Returns:
        The examples.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not as described, with what to change.
        OSError: it cannot be read.
        ImportError: images need Pillow, which is missing.
    """
    kind = "folder" if path.is_dir() else path.suffix.lower()
    if kind not in READERS:
        raise ValueError(f"{path} is neither a folder of images nor a file that ends in .npy, .npz "
                         "or .csv; convert it to one of these.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    if how.label is not None and kind != ".csv":
        raise ValueError(f"--target column:{how.label} goes with inputs in a .csv file; give the "
                         "targets as a file.")
    data = READERS[kind](path, how)
    if data.inputs.ndim < 2 or not data.inputs.numel():
        raise ValueError(f"{path} has the shape {tuple(data.inputs.shape)}; inputs are (examples, "
                         "features, ...).")
    if how.shape is None:
        return data
    try:
        return replace(data, inputs=data.inputs.reshape(len(data.inputs), *how.shape))
    except RuntimeError as error:
        raise ValueError(f"--shape {','.join(map(str, how.shape))} does not fit examples of "
                         f"{data.inputs[0].numel()} numbers.") from error


def read_labels(path: Path) -> Tensor:
    """Targets from a .npy, .npz or one-column .csv file: integers, (N,) or (N, 1).

    Raises:
        ValueError: they are no integers from 0.
    """
    column = (_table(path)[1] if path.suffix.lower() == ".csv" else read_array(path))
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    return _integers(column, str(path))


def _integers(column: np.ndarray, name: str) -> Tensor:
    if (column.ndim != 1 or not np.isfinite(column).all() or (column != np.round(column)).any()
            or (column < 0).any()):
        raise ValueError(f"The targets of {name} must be one column of integers from 0.")
    return torch.from_numpy(column.astype(np.int64))


def _numbered(array: np.ndarray, how: Reading) -> Data:
    return Data(torch.from_numpy(array).to(how.dtype))


def _read_array(path: Path, how: Reading) -> Data:
    return _numbered(read_array(path, how.array), how)


def _read_table(path: Path, how: Reading) -> Data:
    header, numbers = _table(path)
    labels = None
    if how.label is not None:
        if header is None or how.label not in header:
            raise ValueError(f"{path} has no column {how.label!r}; it has "
                             f"{', '.join(header or ['no header'])}.")
        at = header.index(how.label)
        labels = _integers(numbers[:, at], f"column {how.label!r}")
        numbers, header = np.delete(numbers, at, 1), header[:at] + header[at + 1:]
    return replace(_numbered(numbers, how), features=header, labels=labels)


def _table(path: Path) -> tuple[list[str] | None, np.ndarray]:
    """The header, if the first line is one, and the numbers of a .csv file."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [(line, row) for line, row in enumerate(csv.reader(file), 1)
                if any(cell.strip() for cell in row)]
    header = None
    if rows and not all(_is_number(cell) for cell in rows[0][1]):
        header = [cell.strip() for cell in rows.pop(0)[1]]
    if not rows:
        raise ValueError(f"{path} has no rows of numbers.")
    width = len(header or rows[0][1])
    for line, row in rows:
        if len(row) != width:
            raise ValueError(f"{path}, line {line}, has {len(row)} cells where {width} are "
                             "expected.")
        for place, cell in enumerate(row):
            if not _is_number(cell):
                raise ValueError(f"{path}, line {line}, column "
                                 f"{header[place] if header else place + 1}: {cell!r} is not a "
                                 "number; encode or remove it.")
    return header, np.array([[float(cell) for cell in row] for _, row in rows])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_images(path: Path, how: Reading) -> Data:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("Folders of images need Pillow: pip install pillow.") from error
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES)
    if not files:
        raise ValueError(f"{path} has no images; they end in {', '.join(IMAGES)}.")
    arrays = []
    for file in files:
        try:
            with Image.open(file) as image:
                shown = image.convert(how.mode)
        except UnidentifiedImageError as error:
            raise ValueError(f"{file} is not an image that Pillow can read; remove it.") from error
        if how.size is not None:
            shown = shown.resize(how.size[::-1])
        arrays.append(np.asarray(shown, dtype=np.float64) / 255)
        if arrays[-1].shape != arrays[0].shape:
            raise ValueError(f"{file} is {shown.height}x{shown.width}, but {files[0].name} is "
                             f"{arrays[0].shape[0]}x{arrays[0].shape[1]}; give --image-size "
                             "HEIGHTxWIDTH.")
    stack = torch.from_numpy(np.stack(arrays)).to(how.dtype)
    return Data(stack.movedim(-1, 1) if stack.ndim == 4 else stack[:, None],
                [file.name for file in files])


READERS: dict[str, Callable[[Path, Reading], Data]] = {
    ".npy": _read_array, ".npz": _read_array, ".csv": _read_table, "folder": _read_images}
"""What reads inputs, by the ending of their file."""
