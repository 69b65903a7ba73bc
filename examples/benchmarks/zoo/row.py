"""What a row of the table of models holds, and how the libraries are imported."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Made:
    """A model and what it is called with.

    Args:
        function: a module in eval mode, or a function, of the inputs and the further arguments.
        inputs: what moves, (N, *S) each.
        extras: further arguments.
        target: which output is explained; None where there is one number an example.
    """

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    extras: tuple[Any, ...] = ()
    target: Any = 1


@dataclass(frozen=True)
class Row:
    """One model.

    Args:
        make: builds it, with torch's random generator as it is set.
        library: what must be installed.
        cut: what is smaller than in the library's model of that name.
        attribution: Captum's class.
        method: of the bounds.
        eps: radius of the linf ball.
        keywords: more of `attribute`.
    """

    make: Callable[[], Made]
    library: str = "torch"
    cut: str = ""
    attribution: str = "Saliency"
    method: str = "CROWN"
    eps: float = 1e-3
    keywords: dict[str, Any] = field(default_factory=dict)

    def missing(self) -> str | None:
        """The library, if it is not installed."""
        return None if importlib.util.find_spec(self.library) else self.library


def library(name: str) -> Any:
    """A library, or a module of one; before it torchvision, which the others import when they find
    it.
    """
    if importlib.util.find_spec("torchvision"):
        _import_torchvision()
    return importlib.import_module(name)


def _import_torchvision() -> None:
    """Import torchvision also where its compiled operators are not for this build of torch.

    They are declared then; the models here use none of them.
    """
    while True:
        try:
            importlib.import_module("torchvision")
            return
        except RuntimeError as error:
            lacking = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if not lacking:
                raise
            _DECLARED.define(f"{lacking[1]}(Tensor x) -> Tensor")
            for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
                del sys.modules[module]


_DECLARED = torch.library.Library("torchvision", "FRAGMENT")


def image(size: int = 32, channels: int = 3, rows: int = 1) -> tuple[Tensor, ...]:
    """Random pixels."""
    return (torch.rand(rows, channels, size, size),)


def settled(model: torch.nn.Module) -> Any:
    """A model in eval mode as if it were trained: batch norms have seen something, and no weights
    are all zero.
    """
    for weight in model.parameters():
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.3)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.eval()
