"""An output folder in which work is done once: what it was done with, and files that are whole or not there."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MANIFEST = "manifest.json"
FORMAT = 1


def digest(value: Any) -> str:
    """A short hash of tensors, arrays, mappings, sequences and what `repr` describes fully.

    Example:
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)}), digest([1]) == digest([2])
        (True, False)
    """
    sha = hashlib.sha256()
    _feed(sha, value)
    return sha.hexdigest()[:16]


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().contiguous().numpy() if isinstance(value, Tensor) else np.ascontiguousarray(value)
        sha.update(f"{array.dtype}{array.shape}".encode())
        sha.update(array.tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            sha.update(repr(key).encode())
            _feed(sha, value[key])
    elif isinstance(value, list | tuple):
        sha.update(f"{type(value).__name__}{len(value)}".encode())
        for part in value:
            _feed(sha, part)
    else:
        sha.update(repr(value).encode())


def atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name beside its own and then rename it, so that it is whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Store:
    """The results of one command with one set of settings, by radius and examples.

    Args:
        folder: where they are; it is made if it is not there.
        settings: whatever determines the results, by name.
        restart: throw away what there is.

    Raises:
        ValueError: the folder has results of other settings; the message says which and what to do.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], restart: bool = False) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / MANIFEST
        wanted = {name: value if isinstance(value, str | int | float | bool | None) else digest(value)
                  for name, value in settings.items()}
        found = list(folder.glob("eps-*/[0-9]*-[0-9]*.npz"))
        if restart:
            for file in found:
                file.unlink()
        elif manifest.exists():
            self._compare(manifest, wanted)
            return
        elif found:
            raise ValueError(f"{folder} has results but no {MANIFEST} that says of what. Give --restart to replace "
                             "them, or another --out.")
        content = json.dumps({"format": FORMAT, "settings": wanted}, indent=1)
        atomically(manifest, lambda path: path.write_text(content + "\n"))

    def _compare(self, manifest: Path, wanted: dict[str, Any]) -> None:
        try:
            content = json.loads(manifest.read_text())
            found = content["settings"] if content["format"] == FORMAT else {}
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{manifest} cannot be read ({error}); give --restart or another --out.") from error
        different = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
        if different:
            raise ValueError(f"{self.folder} has results of another run, which differs in: "
                             f"{', '.join(map(_described(found, wanted), different))}. Give --restart to replace them, "
                             "or another --out.")

    def path(self, eps: float, rows: slice, kind: str = "") -> Path:
        """The file of some examples at one radius."""
        return self.folder / f"eps-{eps!r}" / f"{rows.start:05d}-{rows.stop - 1:05d}{kind}.npz"

    def once(self, path: Path, write: Callable[[Path], None]) -> bool:
        """Write a file unless it is there; returns whether it was written."""
        if path.exists():
            return False
        path.parent.mkdir(exist_ok=True)
        atomically(path, write)
        return True


def _described(found: dict[str, Any], wanted: dict[str, Any]) -> Callable[[str], str]:
    def describe(name: str) -> str:
        sides = [str(side.get(name, "not given")) for side in (found, wanted)]
        hashed = name not in found or name not in wanted or any(len(side) == 16 and side.isalnum() for side in sides)
        return name if hashed else f"{name} ({sides[0]} there, {sides[1]} now)"

    return describe


def save_arrays(path: Path, arrays: Mapping[str, Tensor | None]) -> None:
    """Write tensors as a .npz file of exactly this name."""
    known: dict[str, Any] = {name: tensor.detach().cpu().numpy() for name, tensor in arrays.items()
                             if tensor is not None}
    with open(path, "wb") as file:  # np.savez would append .npz to a path
        np.savez(file, **known)


def load_arrays(path: Path) -> dict[str, Tensor]:
    """Read what `save_arrays` wrote.

    Raises:
        ValueError: the file is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return {name: torch.from_numpy(loaded[name]) for name in loaded.files}
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read; delete it and run the command again.") from error
