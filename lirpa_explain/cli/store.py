"""An output folder in which work is done once: what it was done with, and files that are whole or
not there.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..datasets.folder import Manifest, atomically

MANIFEST = "manifest.json"

DRAWN = "smoothed"
"""The folder of what is of no radius."""


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
        manifest = Manifest(folder / MANIFEST, settings,
                            "give --restart to replace them, or another --out")
        found = [file for kind in ("eps-*", DRAWN)
                 for file in folder.glob(f"{kind}/[0-9]*-[0-9]*.npz*")]
        if restart:
            for file in found:
                file.unlink()
        elif manifest.path.exists() and found:
            manifest.compare()
            return
        elif found:
            raise ValueError(f"{folder} has results but no {MANIFEST} that says of what. Give "
                             "--restart to replace them, or another --out.")
        manifest.write()

    def path(self, eps: float | None, rows: slice, kind: str = "") -> Path:
        """The file of some examples at one radius; of draws, which are of none."""
        folder = self.folder / (DRAWN if eps is None else f"eps-{eps!r}")
        return folder / f"{rows.start:05d}-{rows.stop - 1:05d}{kind}.npz"


def once(path: Path, write: Callable[[Path], None]) -> bool:
    """Write a file unless it is there; returns whether it was written."""
    if path.exists():
        return False
    path.parent.mkdir(exist_ok=True)
    atomically(path, write)
    return True


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
