"""What a worker does: certify a chunk of examples and write it down."""

import hashlib
import pickle
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution
from torch import Tensor

from ..certificates.layout import flatten
from ..certifying.certifier import Certifier
from ..errors import TrainingModeError, UnsupportedAttribution, UnsupportedOperation
from ..guards import isolated, model_of
from ..reporting.table import Measure
from ..smoothing import certify_smoothed
from .examples import Example, Indexed, batch, words_of
from .folder import atomically, digest
from .rows import RADII, Part, write_rows

OF_MODEL = (UnsupportedAttribution, UnsupportedOperation, TrainingModeError)
"""Errors that speak of the model and not of an example: they end the run."""

OF_CERTIFIER = ("batch_size", "memory_limit", "iterations", "lr", "slack")
"""Settings that a certifier is made with."""

ONE_AT_A_TIME = threading.RLock()
"""Random generators and hooks belong to the process: its threads take turns."""


Chunk = tuple[range, list[Example] | bytes | None]
"""Numbers of examples, and these, pickled for another process; None where the data set is at
hand."""


@dataclass(frozen=True)
class Outcome:
    """What became of a chunk.

    Args:
        rows: numbers of its examples.
        failed: reasons, by number, of those that could not be certified.
    """

    rows: range
    failed: dict[int, str]


@dataclass
class Work:
    """An attribution of the examples of a data set.

    Args:
        attribution: a Captum object, or a function without arguments that returns one.
        dataset: the examples; None where they come with each chunk.
        settings: keywords of `certify`, or of `certify_smoothed`.
        target: of all examples, or "predicted"; None: the data set says.
        takes_target: whether the attribution explains one of several outputs.
        measures: the metrics.
        seed: of what is drawn.
        out: the folder.
        fingerprint: of the model, settings and code.
        smooths: whether certificates are smoothed ones.
    """

    attribution: Any
    dataset: Indexed | None
    settings: dict[str, Any]
    target: Any
    takes_target: bool
    measures: list[Measure] | None
    seed: int
    out: Path
    fingerprint: str
    smooths: bool = False
    explaining: Any = field(default=None, init=False, repr=False)
    certifier: Certifier | None = field(default=None, init=False, repr=False)

    def do(self, rows: range, given: list[Example] | bytes | None = None) -> Outcome:
        """Certify a chunk and write its file.

        Args:
            rows: numbers of the examples.
            given: the examples, as in `Chunk`.

        Raises:
            UnsupportedOperation: the model cannot be certified, and so the other errors in
                `OF_MODEL`.
            OSError: the file cannot be written.
        """
        with ONE_AT_A_TIME:
            examples = self._examples(rows, given)
            parts: list[Part] = []
            failed = {place: example.error
                      for place, example in enumerate(examples) if example.error is not None}
            for first, last in _runs([place
                                      for place in range(len(examples)) if place not in failed]):
                self._certify(rows, examples, first, last, parts, failed)
            header = {"fingerprint": self.fingerprint, "inputs": digest_of(examples)}
            labels = [measure.label for measure in self.measures or ()]
            atomically(self.out / file_of(rows),
                       lambda path: write_rows(path, rows, examples, parts, failed, labels, header))
        return Outcome(rows, {rows[place]: reason for place, reason in failed.items()})

    def _examples(self, rows: range, given: list[Example] | bytes | None) -> list[Example]:
        if self.dataset is not None:
            return self.dataset.read(rows)
        return pickle.loads(given) if isinstance(given, bytes) else list(given or ())

    def _certify(self, rows: range, examples: list[Example], first: int, last: int,
                 parts: list[Part], failed: dict[int, str]) -> None:
        """Certify the examples from one place up to another; where that fails, each half of
        them.
        """
        try:
            parts.append(self._part(rows[first], first, examples[first:last]))
        except OF_MODEL:
            raise
        except Exception as error:  # the model is the caller's and may raise anything
            if last - first == 1:
                failed[first] = words_of(error)
                return
            middle = (first + last) // 2
            self._certify(rows, examples, first, middle, parts, failed)
            self._certify(rows, examples, middle, last, parts, failed)

    def _part(self, number: int, place: int, examples: list[Example]) -> Part:
        attribution = self._explaining()
        forward = forward_of(attribution)
        inputs, targets = batch(examples, device_of(forward))
        keywords: dict[str, Any] = {}
        if self.takes_target:
            targets = self._targets(forward, inputs, targets)
            keywords = {} if targets is None else {"target": targets}
        columns: dict[str, Tensor] = {}
        if self.smooths:
            smoothed = certify_smoothed(attribution, inputs, seed=self.seed, **self.settings,
                                        **keywords)
            if smoothed.interrupted:  # half of the draws are none
                raise KeyboardInterrupt
            certificate, columns = smoothed.at(), {RADII: flatten(smoothed.radii)}
        else:
            with seeded(self.seed + number):
                certificate = self._certifier().certify(inputs, **keywords, **{
                    name: value
                    for name, value in self.settings.items() if name not in OF_CERTIFIER})
        metrics = {measure.label: measure.of([certificate]) for measure in self.measures or ()}
        return Part(place, certificate, metrics, columns)

    def _explaining(self) -> Any:
        """The attribution, made once in each process."""
        if self.explaining is None:
            self.explaining = attribution_of(self.attribution, self.smooths)
        return self.explaining

    def _certifier(self) -> Certifier:
        if self.certifier is None:
            made_with = {name: self.settings[name]
                         for name in OF_CERTIFIER if name in self.settings}
            self.certifier = Certifier(self._explaining(), **made_with)
        return self.certifier

    def _targets(self, forward: Any, inputs: Any, targets: Any) -> Any:
        if self.target is None:
            return targets
        if self.target != "predicted":
            return self.target
        if forward is self._explaining():
            raise ValueError(f"Of a {type(forward).__name__} it is not known which model it "
                             "explains, and so what that predicts: give the targets.")
        with torch.no_grad():
            outputs = forward(*inputs) if isinstance(inputs, tuple) else forward(inputs)
        if outputs.ndim > 2:
            raise ValueError(f"The model's output has the shape {tuple(outputs.shape)}; a "
                             "predicted class needs (examples, classes). Give target=.")
        return outputs.argmax(1) if outputs.ndim == 2 else None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"certifier": None, "explaining": None}


def attribution_of(given: Any, may_be_any: bool = False) -> Any:
    """A Captum object, or what a function without arguments returns.

    Args:
        given: by the caller.
        may_be_any: whether anything that explains will do, which is an object with a method
            `attribute`, or a function that the function returns.

    Raises:
        TypeError: it is neither.
    """
    is_one = isinstance(given, Attribution | type) or may_be_any and hasattr(given, "attribute")
    found = given() if callable(given) and not is_one else given
    if (not isinstance(found, Attribution)
            and not (may_be_any and callable(getattr(found, "attribute", found)))):
        what = "The function returned a" if found is not given else "attribution is a"
        raise TypeError(f"{what} {type(found).__name__}; pass an object of one of Captum's "
                        "classes, such as Saliency(model), or a function without arguments that "
                        "returns one.")
    return found


def forward_of(attribution: Any) -> Any:
    """The function that an attribution explains; what explains, where that is not known."""
    return getattr(attribution, "forward_func", attribution)


def device_of(forward: Any) -> torch.device:
    """Where a model is."""
    model = model_of(forward)
    first = next(model.parameters(), None) if model is not None else None
    return torch.device("cpu") if first is None else first.device


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random generators as a seed starts them, and afterwards as they were."""
    with isolated(torch.device("cpu")):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        yield


def digest_of(examples: Sequence[Example]) -> str:
    """A hash of what is certified."""
    return digest([[list(example.inputs), example.target] for example in examples])


def file_of(rows: range) -> str:
    """The name of a chunk's file."""
    return f"{rows.start:09d}-{rows.stop - 1:09d}.parquet"


def _runs(places: list[int]) -> Iterator[tuple[int, int]]:
    """Places that follow one another, as (first, one after the last)."""
    start = 0
    for i in range(1, len(places) + 1):
        if i == len(places) or places[i] != places[i - 1] + 1:
            yield places[start], places[i - 1] + 1
            start = i


@dataclass(frozen=True)
class Payload:
    """Where a worker that has nothing yet finds its work.

    Args:
        path: a file with the pickled `Work`.
        digest: of that file: nothing else is unpickled.
        run: a name of the run, so that no scheduler takes its chunks for those of another.
    """

    path: Path
    digest: str
    run: str


_LOADED: dict[str, Work] = {}
"""The work that this process does, with what it has traced."""


def perform(payload: Payload, chunk: Chunk) -> Outcome:
    """Do a chunk in a worker.

    Raises:
        ValueError: the folder is not there, or the work cannot be unpickled.
    """
    return _load(payload).do(*chunk)


def _load(payload: Payload) -> Work:
    with ONE_AT_A_TIME:
        if payload.digest not in _LOADED:
            host = socket.gethostname()
            try:
                content = payload.path.read_bytes()
            except OSError as error:
                raise ValueError(
                    f"The worker on {host} cannot read {payload.path.parent} ({error}): out must "
                    "be a folder that all workers share.") from error
            if hashlib.sha256(content).hexdigest() != payload.digest:
                raise ValueError(f"{payload.path} is not what this run wrote: another run uses the "
                                 "folder.")
            try:
                work = pickle.loads(content)
            except (AttributeError, ImportError, pickle.UnpicklingError) as error:
                raise ValueError(
                    f"The worker on {host} cannot load the model or the data set ({error}): put "
                    "their classes into a module that it can import.") from error
            _LOADED.clear()
            _LOADED[payload.digest] = work
        return _LOADED[payload.digest]
