"""Properties of an attribution as margins: numbers all of which are above 0 exactly where the
property holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..operators import call
from ..registration import Table, empty


@dataclass(frozen=True)
class Property:
    """What shall hold of every attribution over a set of inputs.

    Args:
        words: it, for people.
        margins: maps the nominal attribution (D,) to a module from attributions (B, D) to margins
            (B, K).
    """

    words: str
    margins: Callable[[Tensor], nn.Module]


class Linear(nn.Module):
    """Margins C a + c."""

    def __init__(self, functions: Tensor) -> None:
        super().__init__()
        self.register_buffer("functions", functions.T.clone())

    def forward(self, a: Tensor) -> Tensor:
        """Margins (B, K) of attributions (B, D)."""
        return call("matmul", a, self.get_buffer("functions"))


class Rank(nn.Module):
    """By how much an entry is above the k-th largest of the others; times -1: below it."""

    def __init__(self, feature: int, count: int, k: int, side: float) -> None:
        super().__init__()
        self.feature, self.count, self.k, self.side = feature, count, k, side

    def forward(self, a: Tensor) -> Tensor:
        """Margins (B, 1) of attributions (B, D)."""
        parts = [_entries(a, start, stop)
                 for start, stop in ((0, self.feature), (self.feature + 1, self.count))
                 if start < stop]
        others = parts[0] if len(parts) == 1 else call("concatenate", *parts, dim=1)
        least = call("ranked", others, dim=1, ranks=[self.k - 1])
        lead = call("add", _entries(a, self.feature, self.feature + 1),
                    call("scale", least, factor=-1.0))
        return call("scale", lead, factor=self.side)


class Near(nn.Module):
    """By how much the l1 distance to the nominal attribution is below a limit."""

    def __init__(self, nominal: Tensor, limit: float) -> None:
        super().__init__()
        self.register_buffer("nominal", -nominal)
        self.register_buffer("limit", nominal.new_full((1,), limit))

    def forward(self, a: Tensor) -> Tensor:
        """Margins (B, 1) of attributions (B, D)."""
        change = call("kink", call("add", a, self.get_buffer("nominal")), slope=-1.0)
        distance = call("sum", change, dims=[1], keepdim=True)
        return call("add", call("scale", distance, factor=-1.0), self.get_buffer("limit"))


def _entries(a: Tensor, start: int, stop: int) -> Tensor:
    return call("slice", a, dim=1, start=start, stop=stop, step=1)


def sign(entries: Sequence[int] | None = None) -> Property:
    """Entries keep the signs that they have at the input.

    Args:
        entries: flat places in the attribution; None: all that are not 0.
    """
    def margins(nominal: Tensor) -> nn.Module:
        chosen = (nominal.nonzero()[:, 0]
                  if entries is None else torch.as_tensor(list(entries), device=nominal.device))
        _check(nominal, chosen.tolist())
        if not len(chosen) or bool((nominal[chosen] == 0).any()):
            raise ValueError("An entry that is 0 at the input has no sign to keep; leave it out of "
                             "entries.")
        return Linear(torch.diag(nominal.sign())[chosen])

    return Property("the sign stays" if entries is None else f"the signs of {list(entries)} stay",
                    margins)


def above(first: int, second: int) -> Property:
    """One entry stays above another.

    Args:
        first: flat place of the larger entry.
        second: that of the smaller one.
    """
    def margins(nominal: Tensor) -> nn.Module:
        _check(nominal, [first, second])
        functions = nominal.new_zeros(1, len(nominal))
        functions[0, first], functions[0, second] = 1, -1
        return Linear(functions)

    return Property(f"{first} stays above {second}", margins)


def top_k(feature: int, k: int) -> Property:
    """An entry stays among the k largest.

    Args:
        feature: its flat place.
        k: from 1 to the number of entries - 1.
    """
    return Property(f"{feature} stays among the {k} largest",
                    lambda nominal: _rank(nominal, feature, k, 1.0))


def out_of_top_k(feature: int, k: int) -> Property:
    """An entry, such as that of a protected feature, stays out of the k largest.

    Args:
        feature: its flat place.
        k: from 1 to the number of entries - 1.
    """
    return Property(f"{feature} stays out of the {k} largest",
                    lambda nominal: _rank(nominal, feature, k, -1.0))


def near(limit: float) -> Property:
    """The l1 distance to the attribution at the input stays below a limit, above 0.

    Raises:
        ValueError: it is not.
    """
    if not limit > 0:
        raise ValueError(f"limit must be above 0; given: {limit}.")
    return Property(f"the l1 change stays below {limit:g}", lambda nominal: Near(nominal, limit))


def _rank(nominal: Tensor, feature: int, k: int, side: float) -> nn.Module:
    _check(nominal, [feature])
    if not 1 <= k < len(nominal):
        raise ValueError(f"k must be from 1 to {len(nominal) - 1}, less than there are entries; "
                         f"given: {k}.")
    return Rank(feature, len(nominal), k, side)


def _check(nominal: Tensor, entries: Sequence[int]) -> None:
    wrong = [entry for entry in entries if not 0 <= entry < len(nominal)]
    if wrong:
        raise ValueError(f"Entries are flat places from 0 to {len(nominal) - 1}; given: {wrong}.")


PROPERTIES: Table[str, Callable[..., Property]] = Table(
    "property", "lirpa_explain.PROPERTIES.add(name, function)", lambda name,
    row: empty(row, "__doc__"))
"""Name -> function of its settings that makes the property."""
PROPERTIES.add("sign", sign)
PROPERTIES.add("above", above)
PROPERTIES.add("top_k", top_k)
PROPERTIES.add("out_of_top_k", out_of_top_k)
PROPERTIES.add("near", near)
