"""How certificates are written to disk: a numpy .npz archive of arrays, and a header of words,
without pickles.
"""

from __future__ import annotations

import json
import os
import zipfile
from typing import Any

import numpy as np
import torch
from torch import Tensor

_FORMAT = 2
# with a class's name: the array that makes an .npz file one of its certificates
_HEADER = "lirpa_explain."


def write(path: str | os.PathLike[str], values: dict[str, Any], kind: str = "Certificate") -> None:
    """Write fields to exactly this path.

    Args:
        path: The file to write; an existing one is replaced.
        values: By name: tensors, tuples of tensors, or what JSON knows.
        kind: The class whose fields they are.
    """
    words: dict[str, Any] = {}
    dtypes: dict[str, str | list[str]] = {}
    arrays: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            dtypes[name] = _dtype_name(value)
            arrays[name] = _to_numpy(value)
        elif isinstance(value, tuple) and all(isinstance(part, Tensor) for part in value):
            dtypes[name] = [_dtype_name(part) for part in value]
            arrays |= {f"{name}.{i}": _to_numpy(part) for i, part in enumerate(value)}
        else:
            words[name] = value
    arrays[_HEADER + kind] = np.array(
        json.dumps({"format": _FORMAT, "words": words, "dtypes": dtypes}))
    with open(path, "wb") as file:  # np.savez would append .npz to a path
        np.savez(file, **arrays)


def read(path: str | os.PathLike[str], kind: str = "Certificate") -> dict[str, Any]:
    """Return the fields that `write` wrote; the tensors are on the CPU.

    Args:
        path: The file to read.
        kind: The class whose fields they are.

    Raises:
        ValueError: If the file is not a certificate of that class, or one of another format.
    """
    header, arrays = _read(path, kind)
    if header["format"] != _FORMAT:
        raise ValueError(
            f"{path} is a certificate of format {header['format']}; this version of lirpa_explain "
            f"reads format {_FORMAT}. Load it with the version that saved it, or certify again.")

    def tensor(key: str, dtype: str) -> Tensor:
        return torch.from_numpy(arrays[key]).view(getattr(torch, dtype))

    values = header["words"]
    for name, dtypes in header["dtypes"].items():
        if isinstance(dtypes, str):
            values[name] = tensor(name, dtypes)
        else:
            values[name] = tuple(tensor(f"{name}.{i}", dtype) for i, dtype in enumerate(dtypes))
    return values


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """The class whose fields a file holds; None where it is no certificate of ours."""
    try:
        with open(path, "rb") as file:
            names = getattr(np.load(file, allow_pickle=False), "files", [])
    except (ValueError, EOFError, zipfile.BadZipFile):
        return None
    return next((name.removeprefix(_HEADER) for name in names if name.startswith(_HEADER)), None)


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _to_numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if not hasattr(np, _dtype_name(tensor)):  # bfloat16, float8: numpy stores the bits as integers
        tensor = tensor.view({1: torch.uint8, 2: torch.int16}[tensor.element_size()])
    return tensor.numpy()


def _read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the arrays of a saved certificate, or raise a ValueError if it is
    none.
    """
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            names = getattr(archive, "files", [])  # a .npy file's array has none
            other = [name.removeprefix(_HEADER) for name in names if name.startswith(_HEADER)]
            if other and other != [kind]:
                raise ValueError(f"it is a {other[0]}")
            return json.loads(str(archive[_HEADER + kind])), dict(archive)
    except (ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a certificate of this kind ({error}); pass a file that "
                         f"{kind}.save wrote.") from error
