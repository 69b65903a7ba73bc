"""Models in ONNX files."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..extras import imported

OPSETS = range(13, 18)
"""The versions of ONNX's operations of which onnx2torch knows all that models are made of."""

TOLERANCE = 1e-4
"""Largest difference to onnxruntime's outputs, relative to the largest of them."""


def load_onnx(path: str | Path, *, check: bool = True) -> nn.Module:
    """A model from an ONNX file, in evaluation mode, converted by onnx2torch.

    Args:
        path: the file.
        check: whether its outputs are compared with onnxruntime's, on random inputs of the file's
            own shape, with one example where that leaves the number open.

    Raises:
        ImportError: onnx2torch, or for the check onnxruntime, is not installed.
        ValueError: it contains an operation that cannot be converted, or its outputs differ from
            onnxruntime's.
    """
    onnx, onnx2torch = (imported(name, "onnx", "reading ONNX files")
                        for name in ("onnx", "onnx2torch"))
    proto = onnx.load(path)
    try:
        model: nn.Module = onnx2torch.convert(_of_known_version(proto)).eval()
    except NotImplementedError as error:
        raise ValueError(f"{path} cannot be converted: {error}") from error
    if check:
        _compare(model, proto, str(path))
    return model


def _of_known_version(proto: Any) -> Any:
    """The same model in operations of a version, and of a form, that the converter knows."""
    for node in proto.graph.node:
        if node.op_type == "Reshape":  # which says what a size of 0 means; there are none
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    newest = max(opset.version for opset in proto.opset_import if opset.domain in ("", "ai.onnx"))
    if newest in OPSETS:
        return proto
    nearest = OPSETS[0] if newest < OPSETS[0] else OPSETS[-1]
    return imported("onnx.version_converter", "onnx",
                    "reading ONNX files").convert_version(proto, nearest)


def _compare(model: nn.Module, proto: object, path: str) -> None:
    onnxruntime = imported("onnxruntime", "onnx",
                           "comparing with onnxruntime (or pass check=False)")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    tensors = {given.name: torch.rand([n if isinstance(n, int) else 1 for n in given.shape],
                                      generator=generator) for given in session.get_inputs()}
    theirs = session.run(None, {name: x.numpy() for name, x in tensors.items()})
    with torch.no_grad():
        ours = model(*tensors.values())
    for one, other in zip(ours if isinstance(ours, tuple | list) else [ours], theirs, strict=True):
        difference = float((one - torch.as_tensor(other)).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(one.abs().max())):
            raise ValueError(f"The outputs of {path} as converted differ from onnxruntime's by "
                             f"{difference:.3g}.")
