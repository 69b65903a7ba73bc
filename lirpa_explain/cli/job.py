"""What `certify`, `smooth` and `attack` have in common: a model, inputs, targets, an attribution,
from arguments.
"""

import inspect
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution
from torch import Tensor, nn

from ..attributions import mixes, name_of
from ..certificates import Certificate
from ..certifying.certifier import Certifier
from ..guards import isolated
from .data import Data, Reading, read, read_labels
from .model import fingerprint, load_model, make_attribution, predicted, takes_target

RESERVED = ("inputs", "eps", "norm", "clip", "method", "batch_size", "progress", "target",
            "perturbation", "spec", "differentiable")
"""Arguments of `certify` that --set does not take: they have options of their own, or no use
here."""

OF_DRAWS = ("inputs", "target", "return_convergence_delta")
"""The same of smoothed certificates, whose own settings all have options."""

OF_BALLS = (Certifier.certify, Certifier)
"""What takes --set beside the attribution, where bounds are propagated."""

OF_CERTIFIER = ("memory_limit", "iterations", "lr")
"""Arguments of `certify` that belong to the certifier and not to the call."""


@dataclass(frozen=True)
class Job:
    """One attribution of one model on some examples.

    Args:
        model: in evaluation mode.
        data: the examples.
        targets: (N,); None where the attribution or the model knows none.
        attribution: the Captum object.
        keywords: of `certify`.
        for_certifier: of `Certifier`.
        arguments: of the command line.
    """

    model: nn.Module
    data: Data
    targets: Tensor | None
    attribution: Attribution
    keywords: dict[str, Any]
    for_certifier: dict[str, Any]
    arguments: Namespace

    @property
    def chunks(self) -> list[slice]:
        """The examples, some at a time."""
        count, step = len(self.data.inputs), self.arguments.chunk
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    @property
    def tasks(self) -> list[tuple[float | None, slice]]:
        """Every radius and chunk; draws are of no radius."""
        radii = dict.fromkeys(self.arguments.eps) if self.has_ball else [None]
        return [(eps, rows) for eps in radii for rows in self.chunks]

    @property
    def has_ball(self) -> bool:
        """Whether the command says in which balls bounds hold."""
        return hasattr(self.arguments, "eps")

    @property
    def ball(self) -> dict[str, Any]:
        """The keywords of every ball beside eps."""
        return {"norm": self.arguments.norm, "clip": self.arguments.clip}

    def settings(self) -> dict[str, Any]:
        """What determines a certificate, by name, beside eps and the examples of a chunk."""
        from ..version import AUTO_LIRPA_VERSION, __version__

        given = self.arguments
        return {
            **fingerprint(self.model), "inputs": self.data.inputs, "targets": self.targets,
            "attribution": name_of(self.attribution), "--layer": given.layer,
            **{f"--set {name}": value for name, value in given.set},
            **(self._ball_settings() if self.has_ball else {}), "--chunk": given.chunk,
            "--seed": given.seed,
            "dtype": given.dtype, "lirpa_explain": __version__, "auto_LiRPA": AUTO_LIRPA_VERSION,
            "torch": torch.__version__, "captum": metadata.version("captum"),
        }

    def _ball_settings(self) -> dict[str, Any]:
        given = self.arguments
        return {"--norm": given.norm, "--clip": None if given.clip is None else str(given.clip),
                "--method": given.method}

    @cached_property
    def certifier(self) -> Certifier:
        """One that traces the model once for all chunks."""
        return Certifier(self.attribution, method=self.arguments.method,
                         batch_size=self.arguments.batch_size,
                         features=self.feature_names, **self.for_certifier)

    @property
    def feature_names(self) -> Any:
        """The names of the inputs' columns, if they all differ."""
        names = self.data.features or ()
        return names if len(set(names)) == len(names) > 0 else None

    def certify(self, eps: float, rows: slice) -> Certificate:
        """The certificate of a chunk; its noise depends on the seed and the chunk alone."""
        with self.seeded(rows):
            return self.certifier.certify(self.data.inputs[rows], eps=eps, **self.ball,
                                          **self.keywords_of(rows))

    def keywords_of(self, rows: slice) -> dict[str, Any]:
        """The keywords of `certify`, and of the attribution, for a chunk."""
        return (self.keywords
                if self.targets is None else {**self.keywords, "target": self.targets[rows]})

    @contextmanager
    def seeded(self, rows: slice) -> Iterator[None]:
        """The random state in which a chunk is computed."""
        with isolated(self.data.inputs.device):
            torch.manual_seed(self.arguments.seed + rows.start)
            np.random.seed((self.arguments.seed + rows.start) % 2**32)
            yield


def make_job(given: Namespace) -> Job:
    """Read everything that the arguments name.

    Raises:
        ValueError: something is not as described, with what to change.
        TypeError: likewise.
        OSError: a file cannot be read.
        ImportError: an optional library is missing.
    """
    dtype = getattr(torch, given.dtype)
    settings = {name: _like(value, dtype, given.device) for name, value in given.set}
    reserved = RESERVED if hasattr(given, "eps") else OF_DRAWS
    if taken := [name for name in settings if name in reserved]:
        raise ValueError(f"--set {taken[0]} is not possible: " + (
            "give --" + taken[0].replace("_", "-") + "."
            if hasattr(given, taken[0]) else "it has no use here."))
    model = load_model(given.model, given.state_dict, dtype, given.device)
    label = given.target.removeprefix("column:") if given.target.startswith("column:") else None
    how = Reading(array=given.array, label=label, size=given.image_size, mode=given.image_mode,
                  shape=given.shape, dtype=dtype)
    data = read(given.inputs, how)
    chosen = slice(*given.examples)
    if not len(data.inputs[chosen]):
        raise ValueError(f"--examples leaves none of the {len(data.inputs)} examples.")
    every, data = data, data.rows(chosen)
    data = replace(data, inputs=data.inputs.to(given.device))
    attribution, keywords = make_attribution(given.attribution, model, given.layer,
                                             given.noise_tunnel, settings)
    check_keywords(keywords, attribution, OF_BALLS if hasattr(given, "eps") else ())
    targets = None
    if takes_target(attribution):
        targets = find_targets(given, model, every, data, chosen)
    elif given.target != "predicted":
        raise ValueError(f"{name_of(attribution)} has no target; leave --target out.")
    if mixes(attribution) and len(data.inputs) > given.chunk:
        raise ValueError(f"{name_of(attribution)} of one example is made of the other examples of "
                         f"its file: give --chunk {len(data.inputs)}, so that all are in one.")
    for_certifier = {name: keywords.pop(name) for name in OF_CERTIFIER if name in keywords}
    return Job(model, data, targets, attribution, keywords, for_certifier, given)


def find_targets(given: Namespace, model: nn.Module, every: Data, data: Data,
                 chosen: slice) -> Tensor | None:
    """The targets of the chosen examples, as --target says, (N,); None where the model has one
    output alone.

    Args:
        given: the arguments.
        model: asked for what it predicts.
        every: all examples.
        data: those chosen.
        chosen: which these are.

    Raises:
        ValueError: the targets are not one for each example.
    """
    if given.target == "predicted":
        return predicted(model, data.inputs, given.batch_size or 64)
    if data.labels is not None:
        labels = data.labels
    elif given.target.isdigit():
        labels = torch.full((len(data.inputs),), int(given.target))
    else:
        path = Path(given.target)
        if not path.is_file():
            raise ValueError(f"--target {given.target} is none of: predicted, an integer, a file "
                             "of integers, column:NAME of a .csv.")
        labels = read_labels(path)
        if len(labels) != len(every.inputs):
            raise ValueError(f"{path} has {len(labels)} targets for {len(every.inputs)} examples.")
        labels = labels[chosen]
    return labels.to(data.inputs.device)


def check_keywords(keywords: Iterable[str], attribution: Any, further: Iterable[Any]) -> None:
    """Refuse keywords that nothing takes, before anything is computed.

    Args:
        keywords: their names.
        attribution: takes some.
        further: what else takes some.

    Raises:
        ValueError: the first of them, with those there are.
    """
    inner = getattr(attribution, "attribution_method", attribution)
    known = {name for call in (type(inner), inner.attribute, attribution.attribute, *further)
             for name, p in inspect.signature(call).parameters.items()
             if p.kind is not p.VAR_KEYWORD}
    known -= {"self", "forward_func", "model", "layer", "device_ids", "example_inputs",
              "attribution", "kwargs", "attribution_method", *RESERVED}
    for name in keywords:
        if name not in known:
            raise ValueError(f"{name_of(attribution)} has no keyword {name!r}; it has "
                             f"{', '.join(sorted(known))}.")


def _like(value: Any, dtype: torch.dtype, device: str) -> Any:
    """An array from a file as the inputs are."""
    if not isinstance(value, Tensor):
        return value
    return value.to(device=device, dtype=dtype if value.is_floating_point() else value.dtype)
