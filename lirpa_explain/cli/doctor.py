"""`lirpa-explain doctor`: what is installed, what is missing, and whether a small certificate is
right.
"""

import importlib
import importlib.util
import platform
import sys
from argparse import Namespace
from importlib import metadata
from pathlib import Path

import torch
from captum.attr import Saliency

from ..bounding.methods import METHODS
from ..certify import certify

REQUIRED = ("torch", "captum", "numpy", "tqdm")

OPTIONAL = {
    "matplotlib": ("matplotlib", "cli", "pictures and reports"),
    "jinja2": ("jinja2", "cli", "reports"),
    "PIL": ("pillow", "cli", "folders of images as inputs"),
    "pandas": ("pandas", "frames", "tables"),
    "pyarrow": ("pyarrow", "datasets", "certifying data sets"),
    "scipy": ("scipy", "smoothed", "certificates of smoothed attributions, exact refining"),
    "onnx": ("onnx", "onnx", "ONNX files"),
    "onnxscript": ("onnxscript", "onnx", "writing ONNX files"),
    "onnxruntime": ("onnxruntime", "onnx", "comparing ONNX files"),
    "onnx2torch": ("onnx2torch", "onnx", "models from ONNX files"),
    "sklearn": ("scikit-learn", "examples", "the examples"),
}
"""Modules that some commands need: what pip installs, the extra that it belongs to, and what
for."""


def run(given: Namespace) -> int:
    """Print what is found.

    Returns:
        0, or 2 if certificates are wrong.
    """
    from ..version import AUTO_LIRPA_VERSION, __version__

    auto_lirpa = importlib.import_module("auto_LiRPA")
    print(f"lirpa_explain {__version__}, Python {platform.python_version()} ({sys.executable})")
    for name in REQUIRED:
        print(f"{name} {metadata.version(name)}")
    print(f"auto_LiRPA {AUTO_LIRPA_VERSION} ({Path(str(auto_lirpa.__file__)).parent})")
    print("CUDA is available" if torch.cuda.is_available()
          else "CUDA is not available: bounds are computed on the CPU")
    missing = [extra for module, (_, extra, _) in OPTIONAL.items() if not is_found(module)]
    if missing:
        print("To have what is missing: pip install "
              f"'lirpa_explain[{','.join(sorted(set(missing)))}]'")
    wrong = [method for method in METHODS if not is_right(method)]
    if wrong:
        print(f"Certificates are WRONG by {', '.join(wrong)}: do not use them, and report this "
              "output.")
        return 2
    print(f"A small certificate is right by {', '.join(METHODS)}.")
    return 0


def is_found(module: str) -> bool:
    """Print whether an optional module is there and can be imported."""
    package, _, purpose = OPTIONAL[module]
    if importlib.util.find_spec(module) is None:
        print(f"{package} is missing, for {purpose}")
        return False
    try:
        importlib.import_module(module)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        reason = " ".join(str(error).split())
        print(f"{package} {metadata.version(package)}, for {purpose}, CANNOT BE IMPORTED: {reason}")
        return True
    print(f"{package} {metadata.version(package)}, for {purpose}")
    return True


def is_right(method: str) -> bool:
    """Whether the gradient of relu(x_0) + 2 x_1 is bounded as it must be.

    At x_0 = 1 it is (1, 2) within 0.5, and (0 or 1, 2) within 2.
    """
    inner, outer = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        inner.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        outer.weight.copy_(torch.tensor([[1.0, 2.0, -2.0]]))
    model = torch.nn.Sequential(inner, torch.nn.ReLU(), outer).double()
    x = torch.tensor([[1.0, 9.0]], dtype=torch.float64)
    for eps, low, high in ((0.5, (1.0, 2.0), (1.0, 2.0)), (2.0, (0.0, 2.0), (1.0, 2.0))):
        certificate = certify(Saliency(model), x, eps=eps, method=method, target=0, abs=False)
        for side, expected in ((certificate.lower, low), (certificate.upper, high)):
            if (not isinstance(side, torch.Tensor)
                    or not torch.allclose(side, torch.tensor([expected]).double())):
                return False
    return True
