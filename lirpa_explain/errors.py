"""The errors a user can meet beyond ValueError and TypeError, each saying what to do about it."""

import contextlib
from collections.abc import Iterator

import torch


class LirpaExplainError(Exception):
    """Base class of the errors of this package."""


class UnsupportedOperation(LirpaExplainError, NotImplementedError):
    """The model, or its gradient, contains an operation that has no bound operator."""


class UnsupportedAttribution(LirpaExplainError, TypeError):
    """The attribution object is not one that can be certified."""


class TrainingModeError(LirpaExplainError, ValueError):
    """The model contains a layer whose output is random or depends on the batch in training
    mode.
    """


class BoundaryNotFound(LirpaExplainError, ValueError):
    """No point where the decision changes was found for some examples, so that no boundary
    attribution exists.
    """


class SoundnessError(LirpaExplainError, AssertionError):
    """A certificate contradicts the attribution it certifies; it must not be used.

    Never expected: please report the model, the input and the message.
    """


class MemoryLimitTooSmall(LirpaExplainError, ValueError):
    """Not even one function of one example can be bounded within the limit of memory.

    Args:
        limit: the limit, bytes.
        least: a limit that would do.
        rows: examples times path points that were bounded at once.
    """

    def __init__(self, limit: int, least: int, rows: int = 1) -> None:
        super().__init__(limit, least, rows)
        self.limit, self.least, self.rows = limit, least, rows

    def __str__(self) -> str:
        return (f"memory_limit={self.limit} is too small for this model: bounding one function at "
                f"a time takes about {self.least} bytes beside it. Give memory_limit={self.least}, "
                "or more, which is faster; or method='CROWN-IBP' or 'IBP', which take less.")


class WorkerDied(LirpaExplainError, RuntimeError):
    """A process that certified part of a data set ended before it was done, and nobody else took
    its part.
    """


class CaptumWarning(UserWarning):
    """Captum computes something else than one would expect; certified is what it computes."""


@contextlib.contextmanager
def in_the_name_of(who: str) -> Iterator[None]:
    """Let errors of others, such as torch in the caller's model, say whose they are.

    Args:
        who: what comes before their message.

    Raises:
        LirpaExplainError: as it was.
        torch.OutOfMemoryError: as it was.
        TypeError: in place of a TypeError.
        ValueError: in place of any other built-in error but that memory is short.
    """
    try:
        yield
    except (torch.OutOfMemoryError, LirpaExplainError):
        raise
    except TypeError as error:
        raise TypeError(f"{who}: {error}") from error
    except (AssertionError, ArithmeticError, AttributeError, LookupError, RuntimeError,
            ValueError) as error:
        raise ValueError(f"{who}: {error}") from error
