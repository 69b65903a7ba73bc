"""Optional packages, imported where they are used."""

import importlib
from typing import Any


def imported(name: str, extra: str, purpose: str) -> Any:
    """A package of an extra.

    Args:
        name: the package.
        extra: the extra of this package that it belongs to.
        purpose: what it is needed for.

    Raises:
        ImportError: it is not installed, or not in working order; says how to install it.

    Example:
        >>> imported("json", "none", "reading JSON").__name__
        'json'
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is needed for {purpose}: pip install 'lirpa_explain[{extra}]', "
                          f"or pip install {name}.") from error
    # such as a torchvision that was built for another torch
    except (RuntimeError, OSError) as error:
        raise ImportError(f"{name}, needed for {purpose}, cannot be imported: "
                          f"{' '.join(str(error).split())}") from error
