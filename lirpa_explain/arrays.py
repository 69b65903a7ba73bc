"""Arrays of numpy and tables of pandas as tensors, and the names of a table's columns."""

import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = ("float32", "float64")

Names = tuple[str, ...]


def is_frame(value: Any) -> bool:
    """Whether a value is a pandas DataFrame; pandas is imported by whoever has one."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def parameter_of(forward: Any) -> Tensor | None:
    """A floating-point parameter of the model that a function is, or is a method of; or None."""
    model = forward if isinstance(forward, torch.nn.Module) else getattr(forward, "__self__", None)
    if not isinstance(model, torch.nn.Module):
        return None
    return next(
        (parameter for parameter in model.parameters() if parameter.is_floating_point()), None
    )


def as_inputs(
    inputs: Any, features: Any = None, like: Tensor | None = None
) -> tuple[Any, tuple[Names | None, ...]]:
    """Inputs with tensors in place of arrays and tables, and the names of each one's columns.

    Arrays keep their type. A table has none of its own, and gets that of the model.

    Args:
        inputs: a tensor, an array or a DataFrame (N, D), or a tuple of them; anything else stays
            as it is.
        features: names of the columns, in the model's order; for a tuple one list for each input,
            or None. Default: a DataFrame's own columns in their order.
        like: a parameter of the model, with its device and, for tables, type.

    Returns:
        The inputs, a tuple if they were one; and for each the names of its columns, or None.

    Raises:
        TypeError: an array or a column holds no floating-point numbers, or features are no names.
        ValueError: a name is no column of a table, or comes twice.
    """
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    names = _names_of_each(features, len(parts), isinstance(inputs, tuple))
    found = [_as_input(part, given, like) for part, given in zip(parts, names, strict=True)]
    tensors = tuple(tensor for tensor, _ in found)
    return tensors if isinstance(inputs, tuple) else tensors[0], tuple(own for _, own in found)


def as_baselines(
    baselines: Any, names: tuple[Names | None, ...], like: Tensor | None = None
) -> Any:
    """Baselines with tensors in place of arrays and tables, the columns in the inputs' order."""
    if not isinstance(baselines, tuple):
        return _as_input(baselines, names[0] if len(names) == 1 else None, like)[0]
    if len(baselines) != len(names):
        return baselines  # Captum says what is wrong
    return tuple(_as_input(part, own, like)[0] for part, own in zip(baselines, names, strict=True))


def as_tensors(value: Any) -> Any:
    """A tensor in place of an array, also within a tuple; anything else as it is.

    Example:
        >>> as_tensors((np.arange(2.0), 3))
        (tensor([0., 1.], dtype=torch.float64), 3)
    """
    if isinstance(value, tuple):
        return tuple(as_tensors(part) for part in value)
    is_array = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    return _from_array(value) if is_array else value


def nearest(name: str, names: Sequence[str]) -> str:
    """What to say of a name that there is not: which is most like it, or which there are.

    Example:
        >>> nearest("incme", ["age", "income"]), nearest("x", ["age", "income"])
        ("did you mean 'income'?", 'there are age, income.')
    """
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}."


def is_names(value: Any) -> bool:
    """Whether a value is names: a list or tuple of words."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(name, str) for name in value)
    )


def check_among(names: Iterable[str], known: Sequence[str], what: str) -> None:
    """Refuse names that are none of those known.

    Raises:
        ValueError: one of them is none; the message names those nearest.
    """
    for name in names:
        if name not in known:
            raise ValueError(f"There is no {what} {name!r}; {nearest(str(name), known)}")


def check_once(names: Sequence[str], what: str) -> None:
    """Refuse names of which one comes twice.

    Raises:
        ValueError: one does.
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{what} has the name {twice!r} twice; each needs one of its own.")


def _names_of_each(features: Any, count: int, is_tuple: bool) -> tuple[Names | None, ...]:
    if isinstance(features, np.ndarray) or type(features).__module__.startswith("pandas"):
        features = list(features)  # such as scaler.feature_names_in_ or frame.columns
    if features is None:
        return (None,) * count
    each = features if is_tuple else (features,)
    if (
        not isinstance(each, tuple | list)
        or len(each) != count
        or not all(n is None or is_names(n) for n in each)
    ):
        several = f"a tuple of {count} lists of names, or None in place of some"
        wanted = several if is_tuple else "a list of names"
        raise TypeError(f"features must be {wanted}; given: {features!r:.80}.")
    for names in each:
        check_once(names or (), "features")
    return tuple(None if names is None else tuple(map(str, names)) for names in each)


def _as_input(part: Any, names: Names | None, like: Tensor | None) -> tuple[Any, Names | None]:
    if is_frame(part):
        return _from_frame(part, names, like)
    if isinstance(part, np.ndarray):
        is_masked = isinstance(part, np.ma.MaskedArray)
        if is_masked or part.dtype.name not in FLOATS:
            kind = "a masked array" if is_masked else f"one of {part.dtype}"
            raise TypeError("An array must hold float32 or float64, nothing masked; given: "
                            f"{kind}. Convert it, for instance by array.astype('float32').")
        tensor = _from_array(part)
        return (tensor if like is None else tensor.to(like.device)), names
    return part, names


def _from_array(array: np.ndarray) -> Tensor:
    """A copy: the caller's array may be read-only, or change later."""
    native = array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=native, order="C", copy=True))


def _from_frame(frame: Any, names: Names | None, like: Tensor | None) -> tuple[Tensor, Names]:
    known = [str(column) for column in frame.columns]
    check_once(known, "The DataFrame")
    wanted = tuple(known) if names is None else names
    for name in wanted:
        if name not in known:
            raise ValueError(f"The DataFrame has no column {name!r}; {nearest(name, known)}")
    columns = [frame.iloc[:, known.index(name)] for name in wanted]
    words = [
        f"{name!r} ({column.dtype})"
        for name, column in zip(wanted, columns, strict=True)
        if getattr(column.dtype, "kind", "O") not in "biuf"
    ]
    if words:
        raise TypeError(
            f"The DataFrame's columns must hold numbers; these do not: {', '.join(words)}. Encode "
            "them as the model has them, for instance one column of 0 and 1 for each category, or "
            "leave them out by features=[...]."
        )
    if not columns:
        raise ValueError("The DataFrame has no columns.")
    values = np.stack(
        [column.to_numpy(dtype=np.float64, na_value=np.nan) for column in columns], axis=1
    )
    if like is not None:
        return torch.from_numpy(values).to(like), wanted
    narrow = all(str(column.dtype).lower() == "float32" for column in columns)
    return torch.from_numpy(values).to(torch.float32 if narrow else torch.float64), wanted
