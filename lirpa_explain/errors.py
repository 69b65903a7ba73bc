"""The errors a user can meet beyond ValueError and TypeError, each saying what to do about it."""


class LirpaExplainError(Exception):
    """Base class of the errors of this package."""


class UnsupportedOperation(LirpaExplainError, NotImplementedError):
    """The model, or its gradient, contains an operation that has no bound operator."""


class UnsupportedAttribution(LirpaExplainError, TypeError):
    """The attribution object is not one that can be certified."""


class TrainingModeError(LirpaExplainError, ValueError):
    """The model contains a layer whose output is random or depends on the batch in training mode."""


class BoundaryNotFound(LirpaExplainError, ValueError):
    """No point where the decision changes was found for some examples, so that no boundary attribution exists."""


class SoundnessError(LirpaExplainError, AssertionError):
    """A certificate contradicts the attribution it certifies; it must not be used.

    Never expected: please report the model, the input and the message.
    """


class CaptumWarning(UserWarning):
    """Captum computes something else than one would expect; certified is what it computes."""
