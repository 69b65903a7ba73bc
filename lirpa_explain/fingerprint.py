"""What a model, or a function, computes with, in a form that can be compared later.

A trace holds what it read when it was made: numbers among a module's attributes, tensors that are
no parameters, what a function closes over. Where one of these has changed, the trace is out of
date.
"""

import functools
import hashlib
import os
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

T = TypeVar("T")

MOST = 50_000
"""Pieces that one fingerprint has at most; what comes after them is not looked at."""

PLAIN = (type(None), bool, int, str, bytes, complex, torch.dtype, torch.device, torch.Size,
         type(Ellipsis))
"""Types of which a value is compared as it is."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Modules whose buffers a trace reads whenever it runs."""

UNREAD = frozenset({
    "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_parameters", "_modules",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_non_persistent_buffers_set",
    "_is_full_backward_hook",
})
"""Attributes of modules that no forward pass reads, or that are looked at in their own way."""

LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
"""Where functions lie that are taken to stay what they are, and to read nothing that changes."""


@dataclass(frozen=True)
class Fingerprint:
    """What something was made with: a trace, for instance, of a model.

    Args:
        pieces: as `pieces_of` finds them, before it was made.
        written: those that making it changed, such as activations that a forward pass notes: no
            sign of a change.
    """

    pieces: dict[str, Hashable]
    written: frozenset[str]

    def matches(self, **parts: Any) -> bool:
        """Whether objects compute with the same things now.

        Example:
            >>> layer = nn.LeakyReLU(0.1)
            >>> _, made_with = fingerprinted(lambda: "a trace", model=layer)
            >>> layer.negative_slope = 0.5
            >>> made_with.matches(model=layer)
            False
        """
        now = pieces_of(**parts)
        return now == self.pieces or changed(self.pieces, now) <= self.written


def fingerprinted(make: Callable[[], T], **parts: Any) -> tuple[T, Fingerprint]:
    """Result of `make`, and the fingerprint of the named `parts` that it was made with."""
    before = pieces_of(**parts)
    made = make()
    return made, Fingerprint(before, frozenset(changed(before, pieces_of(**parts))))


def pieces_of(**parts: Any) -> dict[str, Hashable]:
    """What each of some objects computes with, piece by piece.

    Parameters are known by their identity, since a trace reads their values whenever it runs; other
    tensors and numpy arrays by their entries; modules by their attributes, mode and hooks;
    functions by their code and by what they close over or name; everything else by its attributes,
    or by its identity where it has none.

    Args:
        **parts: the objects, by a name of the caller's.

    Returns:
        A dictionary from a piece, such as "model.layer1.negative_slope", to what can be compared
        with `==`.

    Example:
        >>> pieces_of(model=nn.LeakyReLU(0.1))["model.negative_slope"] == pieces_of(x=0.1)["x"]
        True
    """
    reader = _Reader()
    for name, part in parts.items():
        reader.read(name, part)
    return reader.found


def contents_of(**parts: Any) -> dict[str, str]:
    """What objects compute with, as digests that other processes and days find again.

    As `pieces_of`, but parameters are known by their entries, functions by their code, and what a
    class or a function of the caller's is written in by its file.

    Args:
        **parts: the objects, by a name of the caller's.

    Returns:
        A dictionary from each name to a digest, of 16 letters and digits.

    Example:
        >>> first, second, other = nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(2, 1)
        >>> second.load_state_dict(first.state_dict())
        <All keys matched successfully>
        >>> [contents_of(model=first) == contents_of(model=model) for model in (second, other)]
        [True, False]
    """
    digests = {}
    for name, part in parts.items():
        reader = _Contents()
        reader.read(name, part)
        text = "\n".join(f"{piece}: {found!r}" for piece, found in sorted(reader.found.items()))
        digests[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return digests


def changed(before: Mapping[str, Hashable], after: Mapping[str, Hashable]) -> set[str]:
    """The pieces that differ, or are in one of the two alone."""
    return {name for name in before.keys() | after.keys()
            if name not in before or name not in after or before[name] != after[name]}


class Same:
    """An object compared by its identity, which does not keep it alive if that can be avoided."""

    def __init__(self, value: Any) -> None:
        self._id = id(value)
        try:
            self._get: Callable[[], Any] = weakref.ref(value)
        except TypeError:
            self._get = functools.partial(_itself, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Same) or other._id != self._id:
            return False
        value = self._get()
        return value is not None and value is other._get()

    def __hash__(self) -> int:
        return self._id


def _itself(value: Any) -> Any:
    return value


class _Reader:
    """Walks through objects, each once."""

    def __init__(self) -> None:
        self.found: dict[str, Hashable] = {}
        self._seen: dict[int, str] = {}
        self._kept: list[Any] = []

    def read(self, name: str, value: Any) -> None:
        """Note a value, and what it consists of."""
        if isinstance(value, PLAIN) or isinstance(value, float):
            self.found[name] = type(value), value.hex() if isinstance(value, float) else value
            return
        if id(value) in self._seen:
            self.found[name] = "again", self._seen[id(value)]
            return
        self._seen[id(value)] = name
        # what is made on the way, such as bound methods, must keep its place in memory
        self._kept.append(value)
        self._read_new(name, value)

    def _read_new(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            self._read_module(name, value)
        elif isinstance(value, Tensor):
            self.found[name] = self._of_tensor(value)
        elif isinstance(value, np.ndarray):
            self.found[name] = value.shape, str(value.dtype), _digest(value)
        elif isinstance(value, Mapping):
            self._read_parts(name, value, ((repr(key), part) for key, part in value.items()))
        elif isinstance(value, list | tuple | set | frozenset):
            self._read_parts(name, value, ((str(i), part) for i, part in enumerate(value)))
        elif isinstance(value, types.MethodType):
            self._read_parts(name, value, [("self", value.__self__), ("function", value.__func__)])
        elif isinstance(value, functools.partial):
            parts = {"function": value.func, "args": value.args, "keywords": value.keywords}
            self._read_parts(name, value, parts.items())
        elif isinstance(value, types.FunctionType):
            self.found[name] = self._known(value.__code__)
            if not _is_of_a_library(value):
                self._read_all(name, _read_by(value))
        else:
            self.found[name] = self._known(value)
            if self._has_parts(value):
                self._read_all(name, getattr(value, "__dict__", {}).items())

    def _read_module(self, name: str, module: nn.Module) -> None:
        """A module: its mode, hooks and attributes, and those of its submodules."""
        if isinstance(module, torch.jit.ScriptModule):  # which keeps all that elsewhere
            self.found[name] = hashlib.sha256(module.save_to_buffer()).hexdigest()
            return
        self.found[name] = self._known(module)
        own = type(module).forward
        if not _is_of_a_library(own):
            self.read(f"{name}.forward()", own)
        for key, value in vars(module).items():
            if key == "_buffers":
                self._read_buffers(name, module)
            elif key not in UNREAD and not (key.endswith("_hooks") and not value):
                self.read(f"{name}.{key}", value)
        for key, value in (*module._parameters.items(), *module._modules.items()):
            if value is not None:
                self.read(f"{name}.{key}", value)

    def _read_buffers(self, name: str, module: nn.Module) -> None:
        for key, value in module._buffers.items():
            if type(module) in BATCH_NORMS and value is not None:
                self.found[f"{name}.{key}"] = self._known(value)
            else:
                self.read(f"{name}.{key}", value)

    def _read_parts(self, name: str, value: Any, parts: Any) -> None:
        """A container: its type, and how many parts it has, which are read too."""
        listed = list(parts)
        self.found[name] = type(value), len(listed)
        self._read_all(name, listed)

    def _read_all(self, name: str, parts: Any) -> None:
        for key, part in parts:
            if len(self.found) >= MOST:
                return
            self.read(f"{name}.{key}", part)

    def _known(self, value: Any) -> Hashable:
        """Known by identity if it has parts of its own or is read whenever a trace runs."""
        return Same(value)

    def _of_tensor(self, value: Tensor) -> Hashable:
        return _of_tensor(value)

    def _has_parts(self, value: Any) -> bool:
        """Whether an object is read by its attributes."""
        return not isinstance(value, type | types.ModuleType) and not _is_of_a_library(type(value))


class _Contents(_Reader):
    """Walks through objects and notes what another process would find in them."""

    def _read_new(self, name: str, value: Any) -> None:
        if isinstance(value, set | frozenset):  # whose order differs from process to process
            value = sorted(value, key=repr)
        super()._read_new(name, value)

    def _known(self, value: Any) -> Hashable:
        if isinstance(value, Tensor):
            return self._of_tensor(value)
        if isinstance(value, types.CodeType):
            constants = tuple(map(self._constant, value.co_consts))
            return value.co_name, value.co_code, value.co_names, constants
        if isinstance(value, types.ModuleType):
            return value.__name__, _written_in(value.__name__)
        kind = value if isinstance(value, type) else type(value)
        return f"{kind.__module__}.{kind.__qualname__}", _written_in(kind.__module__)

    def _constant(self, value: Any) -> Hashable:
        """A constant of a function's code."""
        if isinstance(value, types.CodeType):
            return self._known(value)
        return repr(sorted(value, key=repr) if isinstance(value, frozenset) else value)

    def _of_tensor(self, value: Tensor) -> Hashable:
        if nn.parameter.is_lazy(value):
            return type(value).__qualname__
        entries = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return tuple(value.shape), str(value.dtype), _digest(entries)

    def _has_parts(self, value: Any) -> bool:
        return not isinstance(value, type | types.ModuleType | types.BuiltinFunctionType)



def _read_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function reads besides its arguments: closure, defaults, and globals it names."""
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield key, cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield "defaults", function.__defaults__
    yield "keyword defaults", function.__kwdefaults__
    for key in _names(function.__code__):
        if key in function.__globals__:
            yield key, function.__globals__[key]


def _names(code: types.CodeType) -> Iterator[str]:
    """Names of globals and attributes in a function and those within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_of_a_library(thing: Any) -> bool:
    """Whether a function or class is torch's, or of another installed package."""
    code = getattr(thing, "__code__", None)
    if code is not None:
        return code.co_filename.startswith((*LIBRARIES, "<frozen"))
    return _is_installed(getattr(thing, "__module__", None) or "builtins")


@functools.cache
def _is_installed(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None and module != "__main__" or file is not None and file.startswith(LIBRARIES)


@functools.cache
def _written_in(module: str) -> str:
    """Digest of a module's source file; "" for installed packages, known by their versions."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or _is_installed(module) or not os.path.isfile(file):
        return ""
    with open(file, "rb") as source:
        return hashlib.sha256(source.read()).hexdigest()


def _of_tensor(value: Tensor) -> Hashable:
    """A tensor by its contents; a parameter, or what depends on one, by its identity."""
    if nn.parameter.is_lazy(value):  # it has no shape yet
        return Same(value)
    kind = type(value), tuple(value.shape), value.dtype, value.device
    if isinstance(value, nn.Parameter) or value.requires_grad:
        return (*kind, Same(value))
    return (*kind, _digest(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))


def _digest(array: np.ndarray) -> bytes:
    if array.dtype.hasobject:
        return repr(array.tolist()).encode()
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()
