"""What auto_LiRPA needs to be importable, and an old auto_LiRPA needs on today's torch and numpy.

Nothing else in the package looks at versions.

auto_LiRPA 0.3 was written for torch < 1.13. On today's torch and numpy four things it uses are
gone; each is supplied here, and only if it is missing. auto_LiRPA 0.7.1 needs none of them.
"""

import contextlib
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

INSTALL_AUTO_LIRPA = (
    "lirpa_explain needs auto_LiRPA, which is not installed. Run: pip install --no-deps "
    "auto_LiRPA==0.3 appdirs (or, for its public repository's newest: pip install --no-deps "
    "git+https://github.com/Verified-Intelligence/auto_LiRPA.git appdirs graphviz). --no-deps, "
    "because auto_LiRPA's own requirements exclude current versions of torch.")


def exporter_globals() -> Any:
    """The settings object of torch's graph exporter, wherever this torch keeps it.

    Raises:
        ImportError: this torch keeps it nowhere that is known.
    """
    for name in ("torch.onnx._internal.torchscript_exporter._globals", "torch.onnx._globals"):
        try:
            return importlib.import_module(name).GLOBALS
        except ImportError:
            continue
    raise ImportError(f"torch {torch.__version__} has no graph exporter that lirpa_explain knows; "
                      "install torch==2.13.0.")


@contextlib.contextmanager
def parsing() -> Iterator[None]:
    """Settings under which auto_LiRPA may parse a module that contains custom operators; restored
    afterwards.
    """
    settings = exporter_globals()
    saved = {name: getattr(settings, name)
             for name in ("autograd_inlining", "_export_onnx_opset_version")
             if hasattr(settings, name)}
    settings.autograd_inlining = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in saved.items():
            setattr(settings, name, value)


def _numpy_arraysetops() -> types.ModuleType:
    module = types.ModuleType("numpy.lib.arraysetops")
    module.isin = np.isin  # type: ignore[attr-defined]
    return module


@contextlib.contextmanager
def _removed_names() -> Iterator[None]:
    """Names that auto_LiRPA 0.3 imports and that today's numpy and torch no longer have."""
    symbolic_helper: Any = importlib.import_module("torch.onnx.symbolic_helper")
    added_module = "numpy.lib.arraysetops" not in sys.modules and not hasattr(np.lib, "arraysetops")
    added_setter = not hasattr(symbolic_helper, "_set_opset_version")
    if added_module:
        sys.modules["numpy.lib.arraysetops"] = _numpy_arraysetops()
    if added_setter:
        symbolic_helper._set_opset_version = _set_opset_version
    try:
        yield
    finally:
        if added_module:
            del sys.modules["numpy.lib.arraysetops"]
        if added_setter:
            del symbolic_helper._set_opset_version


def _set_opset_version(version: int) -> None:
    exporter_globals()._export_onnx_opset_version = version


def _node_attribute(node: Any, name: str) -> Any:
    """Attribute of a graph node by name; `torch._C.Node` lost this operator."""
    return getattr(node, node.kindOf(name))(name)


def _named_members(self: Any, get_members: Any, prefix: str = "", recurse: bool = True,
                   remove_duplicate: bool = True) -> Iterator[tuple[str, Any]]:
    """`nn.Module._named_members` in today's signature, with auto_LiRPA's translation of names."""
    members = torch.nn.Module._named_members(self, get_members, prefix, recurse, remove_duplicate)
    for name, value in members:
        yield self.node_name_map.get(name,
                                     name) if "node_name_map" in self.__dict__ else name, value


def optimizable_operator() -> type:
    """auto_LiRPA's class of operators whose relaxations its CROWN-Optimized chooses; before 0.7, of
    any operator.
    """
    bound_ops = importlib.import_module("auto_LiRPA.bound_ops")
    kind = bound_ops.BoundOptimizableActivation
    return kind if hasattr(kind, "dump_alpha") else bound_ops.Bound


def prepare() -> str:
    """Import auto_LiRPA, with what it lacks on this torch and numpy supplied.

    Returns:
        The version of auto_LiRPA.

    Raises:
        ImportError: auto_LiRPA is not installed; the message gives the commands that install it.
    """
    if importlib.util.find_spec("auto_LiRPA") is None:
        raise ImportError(INSTALL_AUTO_LIRPA)
    # auto_LiRPA 0.3 changes the process's warning filters when imported.
    with warnings.catch_warnings(record=True), _removed_names():
        import auto_LiRPA
    if not hasattr(torch._C.Node, "__getitem__"):
        setattr(torch._C.Node, "__getitem__", _node_attribute)  # noqa: B010
    if "remove_duplicate" not in auto_LiRPA.BoundedModule._named_members.__code__.co_varnames:
        setattr(auto_LiRPA.BoundedModule, "_named_members", _named_members)  # noqa: B010
    return auto_LiRPA.__version__
