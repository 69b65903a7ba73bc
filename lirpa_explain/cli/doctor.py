"""`lirpa-explain doctor`: what is installed, what is missing, and whether a small certificate is right."""

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
    "matplotlib": ("matplotlib", "pictures and reports"),
    "jinja2": ("jinja2", "reports"),
    "PIL": ("pillow", "folders of images as inputs"),
    "sklearn": ("scikit-learn", "the examples"),
}
"""Modules that some commands need: what pip installs, and what for."""


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
    print(f"CUDA {'is available' if torch.cuda.is_available() else 'is not available: bounds are computed on the CPU'}")
    for module, (package, purpose) in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            print(f"{package} is missing, for {purpose}: pip install {package}")
        else:
            print(f"{package} {metadata.version(package)}, for {purpose}")
    wrong = [method for method in METHODS if not is_right(method)]
    if wrong:
        print(f"Certificates are WRONG by {', '.join(wrong)}: do not use them, and report this output.")
        return 2
    print(f"A small certificate is right by {', '.join(METHODS)}.")
    return 0


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
            if not isinstance(side, torch.Tensor) or not torch.allclose(side, torch.tensor([expected]).double()):
                return False
    return True
