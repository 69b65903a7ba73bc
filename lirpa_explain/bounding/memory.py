"""How much is bounded at once, so that coefficients fit into memory."""

from dataclasses import dataclass

from .methods import Method

COEFFICIENTS = 2 ** 22
"""Most entries of one coefficient tensor (functions x rows x neurons of the widest layer) computed
at once, unless a limit of memory is given."""

TOGETHER = 2 ** 17
"""Most neurons (rows x those of the widest layer) of rows whose neurons are bounded linearly
together: of each row as many are bounded as the row with the most open ones has."""

CHOSEN_SHARE = 4
"""By this it is divided where planes are chosen: the descent holds the graph of each bound."""


@dataclass(frozen=True)
class Memory:
    """The budget of one network.

    Args:
        width: neurons of its widest layer.
        item_size: bytes of one entry.
        limit: bytes that coefficients may take, or None.

    Example:
        >>> from lirpa_explain.bounding.methods import METHODS
        >>> Memory(width=1000, item_size=8, limit=2**20).rows_at_once(64, METHODS["CROWN"])
        8
    """

    width: int
    item_size: int
    limit: int | None = None

    def rows_at_once(self, batch_size: int, method: Method) -> int:
        """Rows a batch, at most `batch_size`, so that the coefficients of one function of each fit
        the budget.
        """
        rows = min(batch_size, self.entries(method) // self.width)
        if method.is_linear_within:
            rows = min(rows, TOGETHER // self.width)
        return max(1, rows)

    def functions_at_once(self, rows: int, method: Method, width: int | None = None) -> int:
        """How many functions of so many rows are bounded at once, which have so many coefficients
        at most in a layer.

        Args:
            rows: how many.
            method: by what.
            width: default: those of the whole widest layer.
        """
        return max(1, self.entries(method) // (rows * (width or self.width)))

    def entries(self, method: Method) -> int:
        """Most entries of one coefficient tensor."""
        if self.limit is not None:
            return self.limit // (self.item_size * method.tensors)
        return COEFFICIENTS // CHOSEN_SHARE if method.chosen else COEFFICIENTS
