"""Data sets in any form as examples: inputs without a batch dimension, and what is to be explained
of each.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

Target = int | tuple[int, ...] | None


@dataclass(frozen=True)
class Example:
    """One example, or why there is none.

    Args:
        inputs: one tensor (*S) for each input of the model.
        target: which output is explained; None where the data set does not say.
        is_tuple: whether the inputs came as a tuple.
        error: why it could not be read.
    """

    inputs: tuple[Tensor, ...] = ()
    target: Target = None
    is_tuple: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Indexed:
    """Examples that are found by their number, by whoever certifies them.

    Args:
        get: an item of the data set.
        count: how many there are.
    """

    get: Callable[[int], Any]
    count: int

    def read(self, rows: range) -> list[Example]:
        """Some of the examples; those that cannot be read say why."""
        return [self._read(row) for row in rows]

    def _read(self, row: int) -> Example:
        try:
            return example_of(self.get(row))
        except Exception as error:  # the data set is the caller's and may raise anything
            return Example(error=f"cannot be read: {words_of(error)}")


@dataclass(frozen=True)
class Streamed:
    """Examples that come one after the other, and are read where the run is started.

    Args:
        items: of the data set.
        count: how many there are, if it says so.
    """

    items: Iterable[Any]
    count: int | None

    def chunks(self, size: int) -> Iterator[tuple[range, list[Example]]]:
        """The examples, some at a time, and their numbers.

        Yields:
            Numbers, and the examples that have them.
        """
        items, start = iter(self.items), 0
        while part := [example_of(item) for item in itertools.islice(items, size)]:
            yield range(start, start + len(part)), part
            start += len(part)


@dataclass(frozen=True)
class Paired:
    """Items of arrays: inputs and targets with the same number, or inputs alone."""

    arrays: tuple[Any, ...]

    def __call__(self, row: int) -> tuple[Any, ...]:
        """The item of a number."""
        return tuple(array[row] for array in self.arrays)


@dataclass(frozen=True)
class Numbered:
    """Items of a data set that is indexed by numbers."""

    dataset: Any

    def __call__(self, row: int) -> Any:
        """The item of a number."""
        return self.dataset[row]


def examples_of(dataset: Any) -> Indexed | Streamed:
    """A data set as examples.

    Args:
        dataset: an array (N, *S); a pair of arrays, inputs and targets; a torch `Dataset` or a
            sequence of items; or an iterable of them. An item is an input, or a pair of an input (a
            tuple if the model has several) and a target.

    Raises:
        TypeError: it is none of these.
        ValueError: it is empty, or inputs and targets are not equally many.
    """
    if isinstance(dataset, DataLoader):
        raise TypeError("dataset is a DataLoader, whose items are batches: pass its data set, "
                        "loader.dataset.")
    if isinstance(dataset, str | bytes | Mapping) or hasattr(dataset, "iloc"):
        raise TypeError(f"dataset is a {type(dataset).__name__}; pass arrays such as "
                        "table.to_numpy(), a torch Dataset, or an iterable of (input, target).")
    arrays = dataset if isinstance(dataset, tuple) else (dataset,)
    if arrays and all(isinstance(array, Tensor | np.ndarray) for array in arrays):
        return _of_arrays(arrays)
    if (not isinstance(dataset, IterableDataset) and hasattr(dataset, "__getitem__")
            and hasattr(dataset, "__len__")):
        if not len(dataset):
            raise ValueError("dataset is empty: there is nothing to certify.")
        return Indexed(Numbered(dataset), len(dataset))
    if isinstance(dataset, Iterable):
        return Streamed(dataset, _length(dataset))
    raise TypeError(f"dataset is a {type(dataset).__name__}; pass arrays, a torch Dataset with a "
                    "length, or an iterable of (input, target).")


def _of_arrays(arrays: tuple[Any, ...]) -> Indexed:
    if (len(arrays) > 2 or any(array.ndim == 0 for array in arrays)
            or len({len(array) for array in arrays}) != 1):
        shapes = ", ".join(str(tuple(array.shape)) for array in arrays)
        raise ValueError("Arrays must be inputs (N, *S), or a pair of them and N targets; given "
                         f"shapes: {shapes}. Several inputs are an iterable of ((x1, x2), target).")
    if not len(arrays[0]):
        raise ValueError("dataset is empty: there is nothing to certify.")
    return Indexed(Paired(arrays), len(arrays[0]))


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None


def example_of(item: Any) -> Example:
    """An item of a data set.

    Raises:
        TypeError: it is neither an input nor a pair of an input and a target.
    """
    if not isinstance(item, tuple | list):
        return Example((_tensor(item),))
    if len(item) not in (1, 2):
        raise TypeError(f"an item has {len(item)} parts; it must be an input, or (input, target), "
                        "and several inputs are a tuple in place of the one: ((x1, x2), target).")
    inputs, target = item[0], item[1] if len(item) == 2 else None
    parts = tuple(map(_tensor, inputs if isinstance(inputs, tuple | list) else (inputs,)))
    return Example(parts, _target(target), isinstance(inputs, tuple | list))


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor | np.ndarray | np.generic | float | int):
        raise TypeError(f"an input is a {type(value).__name__}; it must be a tensor or an array.")
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def _target(value: Any) -> Target:
    if value is None:
        return None
    if isinstance(value, tuple | list):
        return tuple(map(int, value))
    number = value.item() if hasattr(value, "item") else value
    if number != int(number):
        raise TypeError(f"a target is {number!r}; it must be an integer, a tuple of them, or None.")
    return int(number)


def batch(examples: Sequence[Example],
          device: torch.device) -> tuple[Tensor | tuple[Tensor, ...], Any]:
    """Examples as a batch of inputs, and their targets as Captum takes them; None where there are
    none.

    Raises:
        ValueError: the examples differ in shape, in their number of inputs or in the kind of their
            targets.
    """
    shapes = {tuple((x.shape, x.dtype) for x in example.inputs) for example in examples}
    kinds = {type(example.target) for example in examples}
    if len(shapes) > 1 or len(kinds) > 1:
        raise ValueError("examples of a batch must have inputs of one shape and type, and targets "
                         "of one kind.")
    parts = tuple(torch.stack(column).to(device)
                  for column in zip(*(example.inputs for example in examples), strict=True))
    targets: Any = [example.target for example in examples]
    if kinds == {int}:
        targets = torch.tensor(targets, device=device)
    return parts if examples[0].is_tuple else parts[0], None if kinds == {type(None)} else targets


def words_of(error: BaseException) -> str:
    """The reason that an error gives, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
