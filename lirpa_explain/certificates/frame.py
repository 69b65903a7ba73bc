"""A certificate as a pandas table, in the long form: a row for each entry of each example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lirpa_explain.certificates.box import signs
from lirpa_explain.certificates.layout import features, flatten, tensors
from lirpa_explain.certificates.names import labels
from lirpa_explain.extras import imported

if TYPE_CHECKING:
    from pandas import DataFrame

    from lirpa_explain.certificates.certificate import Certificate


def to_frame(certificate: Certificate) -> DataFrame:
    """See `Certificate.to_frame`."""
    pandas = imported("pandas", "frames", "to_frame()")
    lower, nominal, upper = (
        flatten(side).detach().cpu()
        for side in (certificate.lower, certificate.nominal, certificate.upper)
    )
    count, width = nominal.shape
    columns: dict[str, Any] = {"example": np.repeat(np.arange(count), width)}
    if isinstance(certificate.nominal, tuple):
        sizes = [features(part) for part in tensors(certificate.nominal)]
        columns["input"] = np.tile(np.repeat(np.arange(len(sizes)), sizes), count)
    columns["feature"] = np.tile(np.array(_features(certificate)), count)
    for name, side in (("nominal", nominal), ("lower", lower), ("upper", upper)):
        columns[name] = (
            (side if hasattr(np, str(side.dtype)[6:]) else side.double()).numpy().ravel()
        )
    threshold = certificate.meaning.threshold
    columns["sign" if threshold == 0 else "side"] = (
        signs(lower - threshold, upper - threshold).numpy().ravel()
    )
    return pandas.DataFrame(columns)


def _features(certificate: Certificate) -> Any:
    """Names; else the numbers of columns; else places."""
    nominal = certificate.nominal
    if certificate.features is None and not isinstance(nominal, tuple) and nominal.ndim == 2:
        return range(nominal.shape[1])
    return list(labels(certificate.features, nominal))
