"""certify_smoothed(): certificates for any attribution and any model, by randomised smoothing."""

from __future__ import annotations

from typing import Any

from ..certificates.layout import flatten, tensors
from ..certifying.columns import check_columns, entry_names, given_tensors
from ..certifying.provenance import versions
from ..inputs import check_explains, check_inputs, uncompiled
from .certificate import SmoothedCertificate, checked
from .draws import Drawer
from .keywords import joined
from .looks import Looks
from .sampling import State, run
from .settings import Smoothing
from .statistics import need_scipy, samples_needed


@uncompiled
def certify_smoothed(attribution: Any, inputs: Any, *, sigma: float,
                     keep: float = 0.2, nt_samples: int = 1000, confidence: float = 0.999,
                     levels: int = 1, radius: float | None = None, absolute: bool = True,
                     sum_channels: bool = False, seed: int = 0, batch_size: int = 64,
                     progress: bool = False, features: Any = None,
                     attribute_keywords: dict[str, Any] | None = None, **attribute_kwargs: Any
                     ) -> SmoothedCertificate:
    """Certify which entries of an attribution stay important under noise, at every x' of an l2
    ball.

    Smoothed is the map that says how often each entry is among the `keep` share that is largest, at
    x + e with e ~ N(0, sigma^2 I). Nothing need be known of the model or of the attribution, which
    are only evaluated: any of Captum's classes will do, or any function.

    Args:
        attribution: an object with Captum's `attribute`, or a function of the inputs and keywords,
            which gives one row for each example, and treats the rows of a batch alone.
        inputs: as for Captum: a tensor (N, *S), or a tuple of them; noise and radius are of all
            inputs together. Arrays and DataFrames as of `certify`.
        sigma: deviation of the noise, in units of the input. Radii grow with it, and maps blur.
        keep: share of the entries of an example, of all inputs together, that count as important.
        nt_samples: most draws of each example.
        confidence: probability, for each example, that everything that is said of it holds.
        levels: in how many steps an entry's rank counts; 1 for important or not.
        radius: an l2 radius of interest. Half of the error is spent on Holm's test at this radius,
            which decides more there and less elsewhere, and an example is drawn no more once all of
            its entries are decided. What is said of other radii still holds.
        absolute: whether |attribution| is ranked, or the signed attribution.
        sum_channels: whether an image's channels are summed first, so that pixels are ranked.
        seed: of the draws, which depend neither on the batch size nor on the other examples.
        batch_size: most noisy inputs at once.
        progress: show a bar, with the time left.
        features: names of the inputs' columns, as of `certify`.
        attribute_keywords: keywords of `attribute` whose names are arguments of this function, such
            as `{"nt_samples": 5}` of a `NoiseTunnel`.
        **attribute_kwargs: every keyword of `attribution.attribute`, unchanged. Tensors with a row
            for each example go with their examples.

    Returns:
        A `SmoothedCertificate`. Interrupted (Ctrl-C), it is one of the draws so far, and `more`
        goes on.

    Raises:
        ValueError: a number is out of range, draws are too few for the confidence, or the
            attribution rejects its arguments, with its reason.
        TypeError: an argument of a wrong type.
        UnsupportedAttribution: the attribution has no row for each example, or mixes these.
        TrainingModeError: a layer is in training mode whose output is then random or depends on the
            batch.
        ImportError: scipy is missing.

    Source:
        Cohen, Rosenfeld and Kolter, Certified Adversarial Robustness via Randomized Smoothing,
        2019; Levine, Singla and Feizi, Certifiably Robust Interpretation in Deep Learning, 2019;
        Anani, Lorenz, Fritz and Schiele, Pixel-level Certified Explanations via Randomized
        Smoothing, 2025.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> from captum.attr import Occlusion
        >>> model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(),
        ...                             torch.nn.Linear(8, 2))
        >>> found = lx.certify_smoothed(Occlusion(model), torch.rand(2, 6), sigma=0.2, keep=0.34,
        ...                             nt_samples=100, target=0, sliding_window_shapes=(1,))
        >>> found.radii.shape, bool(found.at(0.05).contains(found.nominal).all())
        (torch.Size([2, 6]), True)
    """
    need_scipy()
    settings = Smoothing(sigma, keep, levels, absolute, sum_channels, confidence, radius,
                         nt_samples, seed)
    checked(batch_size)
    check_explains(attribution)
    keywords = joined(attribute_kwargs, attribute_keywords)
    inputs, columns, keywords = given_tensors(attribution, inputs, keywords, features)
    xs = check_inputs(inputs)
    check_columns(columns, xs)
    drawer = Drawer(attribution, xs, isinstance(inputs, tuple), keywords, settings)
    at_input = drawer.at_input()
    entries = flatten(at_input).shape[1]
    settings.kept(entries)
    drawer.check_rows_are_independent(batch_size)
    looks = looks_of(settings, entries)
    state = run(drawer, State.start(len(xs[0]), entries, looks), batch_size, progress)
    dtype = str(flatten(at_input).dtype).removeprefix("torch.")
    return SmoothedCertificate(at_input, state, settings, drawer.name, drawer.digest, dtype,
                               versions(), drawer,
                               entry_names(attribution, columns, xs, tensors(at_input)))


def looks_of(settings: Smoothing, entries: int) -> Looks:
    """When the draws are looked at.

    Args:
        settings: of the map.
        entries: of an example.

    Raises:
        ValueError: the draws are too few for anything to be decided.
    """
    early = settings.radius is not None
    alone = Looks.planned(settings.nt_samples, early=False)
    needed = samples_needed(settings, entries, alone.pending[0][1])
    if settings.nt_samples < needed:
        at = "" if settings.radius is None else f" at radius {settings.radius:g}"
        raise ValueError(
            f"nt_samples={settings.nt_samples} is too few to decide anything about {entries} "
            f"entries with confidence {settings.confidence:g}{at}, even if all draws agree: at "
            f"least {needed} are needed. Draw more, or ask for less (confidence, radius, or "
            "entries: sum_channels adds those of a pixel up).")
    least = samples_needed(settings, entries,
                           Looks.planned(settings.nt_samples, True).pending[0][1])
    return Looks.planned(settings.nt_samples, early, least)
