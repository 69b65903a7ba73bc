"""The command line: from arguments to an exit code."""

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ..errors import LirpaExplainError, SoundnessError
from .parser import make_parser

DONE, NOT_CERTIFIED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; a requirement is not certified; something must be changed; stopped by
Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `lirpa-explain`.

    Args:
        arguments: those of the command line; default: the process's own.

    Returns:
        The exit code. Where it is 2, one line on stderr says what to change.

    Raises:
        SoundnessError: a certificate is wrong; never expected.

    Example:
        >>> main(["ops", "methods"])
        # methods
        <BLANKLINE>
        | method | bounds |
        ...
        0
    """
    with warnings.catch_warnings():
        warnings.showwarning = _one_line  # type: ignore[assignment]
        try:
            given = make_parser().parse_args(arguments)
            return given.run(given)
        except SystemExit as done:  # --help
            return DONE if done.code is None else int(done.code)
        except SoundnessError:
            raise
        except (ValueError, TypeError, OSError, ImportError, LirpaExplainError) as error:
            _say(str(error))
            return BAD_INPUT
        except KeyboardInterrupt as stop:
            _say(f"Interrupted{f': {stop}' if str(stop) else ''}. The same command resumes.")
            return INTERRUPTED


def _say(message: str) -> None:
    print(f"lirpa-explain: {' '.join(message.split())}", file=sys.stderr)


def _one_line(message: Warning | str, *_: Any) -> None:
    _say(f"Warning: {message}")
