"""Values as they are written on a command line; they are read and never evaluated."""

import ast
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

WORDS = {"inf": math.inf, "-inf": -math.inf, "true": True, "false": False, "none": None,
         "null": None}
"""Words that stand for a value, however they are capitalised."""


def value(text: str) -> Any:
    """Read a Python or JSON literal, a word, or an array from a file.

    Args:
        text: such as `50`, `1e-3`, `True`, `(0, 1)`, `{"a": 1}`, `inf`, `smoothgrad`, or
            `@baselines.npy`.

    Returns:
        The value; a word that is no literal is a str, an array a tensor.

    Raises:
        ValueError: the text is none of these, or there is no such array.

    Example:
        >>> value("50"), value("(0, 1)"), value("inf"), value("smoothgrad_sq")
        (50, (0, 1), inf, 'smoothgrad_sq')
    """
    text = text.strip()
    if text.startswith("@"):
        return torch.from_numpy(read_array(Path(text[1:])))
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for parse in (ast.literal_eval, json.loads):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    if re.fullmatch(r"[A-Za-z][\w.-]*", text):
        return text
    raise ValueError(f"{text!r} is not a value; write a number, a word, a Python or JSON literal, "
                     "or @file.npy.")


def setting(text: str) -> tuple[str, Any]:
    """Read `NAME=VALUE`.

    Raises:
        ValueError: the text is not of that form.

    Example:
        >>> setting("n_steps=20")
        ('n_steps', 20)
    """
    name, equals, rest = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise ValueError(f"{text!r} is not of the form NAME=VALUE, such as n_steps=50.")
    return name.strip(), value(rest)


def call(text: str) -> tuple[str, dict[str, Any]]:
    """Read `NAME` or `NAME:SETTING=VALUE,...`.

    Raises:
        ValueError: the text is not of that form.

    Example:
        >>> call("top_k_overlap:k=3,absolute=False")
        ('top_k_overlap', {'k': 3, 'absolute': False})
    """
    name, colon, rest = text.partition(":")
    if not name.strip() or colon and not rest.strip():
        raise ValueError(f"{text!r} is not of the form NAME or NAME:SETTING=VALUE,..., such as "
                         "top_k_overlap:k=5.")
    parts = re.split(r",(?=\s*[A-Za-z_]\w*\s*=)", rest) if colon else []
    return name.strip(), dict(setting(part) for part in parts)


def read_array(path: Path, name: str | None = None) -> np.ndarray:
    """The array of a .npy or .npz file, which must hold numbers.

    Args:
        path: the file.
        name: of the array in a .npz file that has several.

    Raises:
        ValueError: the file is no array of numbers, or has several and none is named.
        OSError: the file cannot be read.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as an array of numbers; write it with numpy.save "
                         "of numbers, not of objects.") from error
    if isinstance(loaded, np.ndarray):
        array = loaded
    else:
        with loaded:
            found = loaded.files if name is None else [array
                                                       for array in loaded.files if array == name]
            if len(found) != 1:
                raise ValueError(f"{path} has the arrays {', '.join(loaded.files) or 'none'}; name "
                                 "one of them with --array.")
            array = loaded[found[0]]
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path} holds {array.dtype}; only numbers can be read.")
    return array
