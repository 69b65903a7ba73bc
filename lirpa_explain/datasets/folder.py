"""A folder of results: what they were made with, and files that are whole or not there."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

FORMAT = 1


def digest(value: Any) -> str:
    """A short hash of tensors, arrays, mappings, sequences and what `repr` describes fully.

    Example:
        >>> import torch
        >>> (digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)}),
        ...  digest([1]) == digest([2]))
        (True, False)
    """
    sha = hashlib.sha256()
    _feed(sha, value)
    return sha.hexdigest()[:16]


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, Tensor | np.ndarray):
        given = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        array = np.ascontiguousarray(given)
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
    """Write a file under a temporary name beside its own and then rename it, so that it is whole or
    not there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Manifest:
    """What the results of a folder were made with, as a file beside them.

    Args:
        path: of that file.
        settings: whatever determines the results, by name; what is neither a word nor a number, by
            its digest.
        how: what to do if the results are of other settings, as the end of a sentence.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], how: str) -> None:
        self.path, self.how = path, how
        self.settings = {
            name: value if isinstance(value, str | int | float | bool | None) else digest(value)
            for name, value in settings.items()}

    @property
    def fingerprint(self) -> str:
        """All settings in one short hash."""
        return digest(self.settings)

    def write(self, **more: Any) -> None:
        """Write the file; `more` goes beside the settings and is not compared."""
        content = json.dumps({"format": FORMAT, "settings": self.settings, **more}, indent=1)
        atomically(self.path, lambda path: path.write_text(content + "\n"))

    def compare(self) -> None:
        """Read the file.

        Raises:
            ValueError: it is of other settings, or cannot be read; the message says which and what
                to do.
        """
        try:
            content = json.loads(self.path.read_text())
            found = content["settings"] if content["format"] == FORMAT else {}
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{self.path} cannot be read ({error}); {self.how}.") from error
        names = sorted({*found, *self.settings})
        different = [name for name in names if found.get(name) != self.settings.get(name)]
        if different:
            listed = ", ".join(self._described(name, found) for name in different)
            how = self.how[0].upper() + self.how[1:]
            raise ValueError(f"{self.path.parent} has results of another run, which differs in: "
                             f"{listed}. {how}.")

    def _described(self, name: str, found: Mapping[str, Any]) -> str:
        sides = [str(side.get(name, "not given")) for side in (found, self.settings)]
        is_hashed = name not in found or name not in self.settings or any(
            len(side) == 16 and side.isalnum() for side in sides)
        return name if is_hashed else f"{name} ({sides[0]} there, {sides[1]} now)"
