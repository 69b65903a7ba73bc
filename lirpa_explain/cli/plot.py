"""`lirpa-explain plot`: pictures of certificates that were saved."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from ..certificates import Certificate
from ..certificates.layout import tensors
from ..certificates.storage import kind_of
from ..plots import is_image, plot_bars, plot_curve, plot_image
from ..reporting.figures import shown
from ..reporting.table import Measure
from ..smoothing import SmoothedCertificate, plot_importance
from .data import Reading, read
from .store import DRAWN

CURVE = 20
"""Steps of the radius of a curve of smoothed certificates, up to twice the deviation of the
noise."""


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
    certificate = loaded(given.certificate, given.radius)
    count = len(tensors(certificate.nominal)[0])
    if not 0 <= given.example < count:
        raise ValueError(f"--example {given.example} is not in {given.certificate}, which has "
                         f"examples 0 to {count - 1}.")
    if not is_image(certificate) or given.kind == "bars":
        return plot_bars(certificate, given.example, given.names, most=given.most)[0]
    image = None
    if given.inputs is not None:
        data = read(given.inputs, Reading())
        index = first_of(given.certificate) + given.example
        if index >= len(data.inputs):
            raise ValueError(f"{given.inputs} has {len(data.inputs)} examples, and not number "
                             f"{index}.")
        image = shown(data.inputs[index])
    if certificate.meaning.kind == "smoothed":
        return plot_importance(certificate, given.example, image)[0]
    return plot_image(certificate, given.example, image, sign=given.sign)[0]


def loaded(path: Path, radius: float | None) -> Certificate:
    """A certificate from a file; of a smoothed one, that within a radius.

    Raises:
        ValueError: the file is none, or has one radius only.
    """
    if kind_of(path) == SmoothedCertificate.__name__:
        return SmoothedCertificate.load(path).at(radius)
    certificate = Certificate.load(path)
    if radius is not None:
        raise ValueError(f"{path} has one radius only: --radius is for smoothed certificates.")
    return certificate


def first_of(path: Path) -> int:
    """The number of the first example of a certificate in an output folder, which is its file's
    name; else 0.
    """
    start = path.stem.split("-")[0]
    return int(start) if start.isdigit() else 0


def curve(given: Namespace) -> Any:
    """The mean of a metric over all examples in an output folder, against the radius.

    Raises:
        ValueError: the folder has no certificates.
    """
    radii = {float(folder.name.removeprefix("eps-")): folder
             for folder in given.certificate.glob("eps-*")}
    measure, points = Measure(*given.metric), []
    for eps, folder in sorted(radii.items()):
        files = sorted(file
                       for file in folder.glob("*.npz") if file.stem.replace("-", "").isdigit())
        points.append(
            (eps, float(measure.of([Certificate.load(file) for file in files]).double().mean())))
    drawn = [SmoothedCertificate.load(file)
             for file in sorted((given.certificate / DRAWN).glob("*.npz"))]
    if drawn and not points:
        sigma = drawn[0].settings.sigma
        measure = (Measure("importance_agreement")
                   if measure == Measure("sign_agreement") else measure)
        points = [(radius, float(measure.of([found.at(radius) for found in drawn]).double().mean()))
                  for radius in (2 * sigma * step / CURVE for step in range(CURVE + 1))]
    if not points:
        raise ValueError(f"{given.certificate} has no certificates; give a folder that "
                         "lirpa-explain certify or smooth wrote.")
    return plot_curve([eps for eps, _ in points], [mean for _, mean in points],
                      ylabel=f"mean {measure.label}")[0]
