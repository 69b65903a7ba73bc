"""What the command line says where the package cannot be imported: it needs nothing but Python."""

import platform
import sys
from importlib import metadata
from pathlib import Path

PROGRAM = "lirpa-explain"
LISTED = ("lirpa_explain", "torch", "captum", "numpy", "auto_LiRPA")


def leave_as_command(reason: str) -> None:
    """End the process with one line, and no traceback, if it is the command line's own.

    Args:
        reason: what is missing, and what to run.

    Raises:
        SystemExit: with code 2, if the process is `lirpa-explain` or `python -m lirpa_explain`.
    """
    started = sys.argv[0] if sys.argv else ""
    is_module = started == "-m" and "lirpa_explain" in getattr(sys, "orig_argv", ())[:3]
    if not is_module and Path(started).stem != PROGRAM:
        return
    words = getattr(sys, "orig_argv", sys.argv) if is_module else sys.argv
    if "doctor" in words:
        print("\n".join(versions()))
    print(f"{PROGRAM}: {' '.join(reason.split())}", file=sys.stderr)
    raise SystemExit(2)


def versions() -> list[str]:
    """A line for Python, and one for each package that matters."""
    lines = [f"Python {platform.python_version()} ({sys.executable})"]
    for name in LISTED:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name} is missing")
    return lines
