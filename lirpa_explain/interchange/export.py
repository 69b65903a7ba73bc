"""An attribution, and the question whether a property of it holds, as standard ONNX and VNN-LIB
files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bounding.whole import AttributionModule
from ..extras import imported
from ..inputs import check_inputs, uncompiled
from .margins import MarginModule
from .properties import Property

TOLERANCE = 1e-5
"""Largest difference to onnxruntime's outputs, relative to the largest of them."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        onnx: the file of the attribution, or of the property's margins.
        vnnlib: the file of the query; None without a property.
        difference: largest difference of onnxruntime's outputs from the module's; None if it is not
            installed.
    """

    onnx: Path
    vnnlib: Path | None
    difference: float | None


@uncompiled
def export(attribution: Any, inputs: Tensor, path: str | Path, *, property: Property | None = None,
           eps: Any = None, perturbation: Any = None, norm: float = torch.inf,
           clip: tuple[Any, Any] | None = None,
           version: str = "1.0", **attribute_kwargs: Any) -> Exported:
    """Write an attribution, forward and gradient pass and all, as an ONNX model of standard
    operators.

    With a property, the model's outputs are its margins, and beside it lies the VNN-LIB query
    whether one of them can be 0 or less in the box of inputs: what a verifier proves impossible
    holds for Captum's attribution.

    Args:
        attribution: an object of one of the classes in `lirpa_explain.ATTRIBUTIONS`.
        inputs: one example (1, *S).
        path: where to write, such as "saliency.onnx"; the query gets the suffix .vnnlib.
        property: made by a function of `lirpa_explain.PROPERTIES`, such as `PROPERTIES["sign"]([0,
            2])`.
        eps: radius of the ball, as for `certify`; only with a property.
        perturbation: in its place.
        norm: must be inf: VNN-LIB describes boxes.
        clip: the range of the data.
        version: of VNN-LIB, "1.0" (read by most verifiers) or "2.0".
        **attribute_kwargs: keywords of `attribution.attribute`.

    Returns:
        The files, and how far onnxruntime's outputs are from ours.

    Raises:
        ValueError: more than one example or input, a ball that is no box, or outputs that differ
            from onnxruntime's.
        ImportError: onnx or onnxscript is not installed.

    Example:
        >>> import tempfile, lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(),
        ...                             torch.nn.Linear(4, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = lx.export(Saliency(model), torch.rand(1, 3), f"{folder}/a.onnx", target=0,
        ...                       abs=False, property=lx.PROPERTIES["above"](0, 1), eps=0.01)
        ...     print(files.vnnlib.read_text().splitlines()[-1])
        (assert (or (and (<= Y_0 0.0))))
    """
    onnx = imported("onnx", "onnx", "writing ONNX files")
    imported("onnxscript", "onnx", "writing ONNX files")
    xs = check_inputs(inputs)
    if len(xs) != 1 or len(xs[0]) != 1:
        raise ValueError("export takes one example of one input, (1, *S): a query is about one set "
                         "of inputs.")
    query = None
    if property is None:
        module: nn.Module = AttributionModule(attribution, xs[0], **attribute_kwargs).eval()
    else:
        margins = MarginModule(attribution, xs[0], property, **attribute_kwargs)
        query = margins.vnnlib(eps=eps, perturbation=perturbation, norm=norm, clip=clip,
                               version=version)
        module = margins
    path = Path(path)
    _write(module, xs[0], path)
    onnx.checker.check_model(onnx.load(path))
    difference = _difference(module, xs[0], path)
    if query is None:
        return Exported(path, None, difference)
    path.with_suffix(".vnnlib").write_text(query)
    return Exported(path, path.with_suffix(".vnnlib"), difference)


def _write(module: nn.Module, x: Tensor, path: Path) -> None:
    """By torch's newer exporter: the older one would write our operators as they are."""
    program = torch.onnx.export(module, (x,), dynamo=True, input_names=["x"], output_names=["y"],
                                verbose=False)
    assert program is not None
    program.save(path)


def _difference(module: nn.Module, x: Tensor, path: Path) -> float | None:
    try:
        onnxruntime = imported("onnxruntime", "onnx", "comparing")
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    theirs = torch.as_tensor(session.run(None, {"x": x.cpu().numpy()})[0])
    with torch.no_grad():
        ours = module(x).cpu()
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(ours.abs().max())):
        raise ValueError(f"onnxruntime's outputs of {path} differ from the attribution by "
                         f"{difference:.3g}.")
    return difference
