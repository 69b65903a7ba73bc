"""`lirpa-explain ops`: what is supported, from the registries."""

from argparse import Namespace

from ..tables import tables


def run(given: Namespace) -> int:
    """Print the tables that were asked for.

    Returns:
        0.
    """
    made = tables()
    print("\n\n".join(f"# {name}\n\n{made[name]}" for name in given.tables or made))
    return 0
