"""`lirpa-explain plot`: pictures of certificates that were saved."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from ..certificates import Certificate
from ..certificates.layout import tensors
from ..plots import is_image, plot_bars, plot_curve, plot_image
from ..reporting.figures import shown
from ..reporting.table import Measure
from ..smoothing import plot_importance
from .data import Reading, read


def run(given: Namespace) -> int:
    """Do what the arguments say.

    Returns:
        0.

    Raises:
        ValueError: a file is no certificate, or the example is not in it.
        OSError: a file cannot be read or written.
    """
    figure = curve(given) if given.certificate.is_dir() else picture(given)
    figure.savefig(given.out, dpi=given.dpi)
    print(f"Written: {given.out}")
    return 0


def picture(given: Namespace) -> Any:
    """One example of one certificate.

    Raises:
        ValueError: there is no such example.
    """
    certificate = Certificate.load(given.certificate)
    count = len(tensors(certificate.nominal)[0])
    if not 0 <= given.example < count:
        raise ValueError(f"--example {given.example} is not in {given.certificate}, which has examples 0 to "
                         f"{count - 1}.")
    if not is_image(certificate) or given.kind == "bars":
        return plot_bars(certificate, given.example, given.names, most=given.most)[0]
    image = None
    if given.inputs is not None:
        data = read(given.inputs, Reading())
        index = first_of(given.certificate) + given.example
        if index >= len(data.inputs):
            raise ValueError(f"{given.inputs} has {len(data.inputs)} examples, and not number {index}.")
        image = shown(data.inputs[index])
    if certificate.meaning.kind == "smoothed":
        return plot_importance(certificate, given.example, image)[0]
    return plot_image(certificate, given.example, image, sign=given.sign)[0]


def first_of(path: Path) -> int:
    """The number of the first example of a certificate in an output folder, which is its file's name; else 0."""
    start = path.stem.split("-")[0]
    return int(start) if start.isdigit() else 0


def curve(given: Namespace) -> Any:
    """The mean of a metric over all examples in an output folder, against the radius.

    Raises:
        ValueError: the folder has no certificates.
    """
    radii = {float(folder.name.removeprefix("eps-")): folder for folder in given.certificate.glob("eps-*")}
    measure, points = Measure(*given.metric), []
    for eps, folder in sorted(radii.items()):
        files = sorted(file for file in folder.glob("*.npz") if file.stem.replace("-", "").isdigit())
        points.append((eps, float(measure.of([Certificate.load(file) for file in files]).double().mean())))
    if not points:
        raise ValueError(f"{given.certificate} has no certificates; give a folder that lirpa-explain certify wrote.")
    return plot_curve([eps for eps, _ in points], [mean for _, mean in points], ylabel=f"mean {measure.label}")[0]
