"""Where in the user's model something comes from, for messages."""

import os
import traceback
from collections.abc import Iterable

import numpy as np
import torch
from torch import fx

from .rules import PASS_THROUGH

OURS = tuple(os.path.dirname(os.path.abspath(path)) + os.sep
             for path in (torch.__file__, np.__file__, os.path.dirname(__file__)))
"""Folders of torch, numpy and this package."""


def base_name(node: fx.Node) -> str:
    """Name of an ATen operation without its overload."""
    return str(node.target).removeprefix("aten.").split(".")[0]


def where(node: fx.Node) -> str:
    """Module path and source line that a node came from, as far as the trace knows."""
    origin = _forward_of(node)
    module = origin.meta.get("module")
    lines = [line.strip() for line in (origin.meta.get("stack_trace") or "").splitlines()]
    frames = [i for i, line in enumerate(lines)
              if line.startswith('File "') and is_of_the_user(line.split('"')[1])]
    found = f" in module {module}" if module else ""
    if frames:
        source = lines[frames[-1] + 1] if frames[-1] + 1 < len(lines) else ""
        found += f" ({lines[frames[-1]]}: `{source}`)"
    return found


def line_of(frames: Iterable[traceback.FrameSummary]) -> str:
    """The innermost line of the user's code among frames of a stack, the innermost of which comes
    last.
    """
    own = [frame for frame in frames if is_of_the_user(frame.filename)]
    return f' (File "{own[-1].filename}", line {own[-1].lineno}: `{own[-1].line}`)' if own else ""


def is_of_the_user(filename: str) -> bool:
    """Whether a file is the user's, or of a package of theirs."""
    return not filename.startswith((*OURS, "<frozen"))


def _forward_of(node: fx.Node) -> fx.Node:
    """Best guess of the forward operation of a backward one: one that shares a tensor with it, of
    its name first.
    """
    if "module" in node.meta:
        return node
    name = base_name(node).removesuffix("_backward")
    near = [candidate for argument in node.all_input_nodes
            for candidate in (*argument.users, argument, *argument.all_input_nodes)
            if candidate.meta.get("module") and candidate.target not in PASS_THROUGH]
    return next((c for c in near if base_name(c).startswith(name)), near[0] if near else node)
