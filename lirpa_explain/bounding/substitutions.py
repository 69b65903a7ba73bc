"""Words that may be replaced by others: the box around the rows of each token's substitutes."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from auto_LiRPA import PerturbationLpNorm
from torch import Tensor

from ..errors import in_the_name_of
from ..rounding import TOLERANCE
from ..tensors import plain


class Substitutions(PerturbationLpNorm):
    """A box around the layer's output at each token and at its substitutes.

    Args:
        low: smallest value of each entry over a token's substitutes, (N, T, *E).
        high: largest value.
        words: the substitutions, for people.
    """

    def __init__(self, low: Tensor, high: Tensor, words: str) -> None:
        super().__init__(norm=math.inf, x_L=low, x_U=high)
        self.words = words


def substitutions(layer: Callable[[Tensor], Tensor], ids: Tensor,
                  table: Mapping[int, Iterable[int]]) -> Substitutions:
    """What a layer returns if tokens are replaced by synonyms, any number of them at once, as a
    perturbation.

    [min_s a(s), max_s a(s)], entry by entry, over the token s = t itself and the substitutes s in
    table[t]: a box that contains the layer's output at every choice of substitutes for all tokens
    together, and what lies between.

    Args:
        layer: the embedding, or another function of token ids (N, T) whose values (N, T, *E) at a
            token depend on that token, and where it stands, alone.
        ids: token ids, (N, T).
        table: the substitutes of a token id; a token without any, such as padding, stays.

    Returns:
        A perturbation of the layer's output, for `certify(..., perturbation=..., perturb="layer")`.

    Raises:
        TypeError: `ids` are no whole numbers.
        ValueError: the layer rejects a substitute, or a token changes its values at others.

    Example:
        >>> import lirpa_explain as lx
        >>> from captum.attr import LayerIntegratedGradients
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Flatten(),
        ...                             torch.nn.Linear(12, 2))
        >>> ids = torch.tensor([[1, 5, 8]])
        >>> words = lx.substitutions(model[0], ids, {5: [6, 7]})
        >>> attribution = LayerIntegratedGradients(model, model[0])
        >>> certificate = lx.certify(attribution, ids, perturbation=words, target=0, n_steps=4)
        >>> bool(certificate.contains(attribution.attribute(torch.tensor([[1, 7, 8]]), target=0,
        ...                                                 n_steps=4)).all())
        True
    """
    if (not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex()
            or ids.dtype == torch.bool):
        given = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"ids must be a tensor of token ids, such as torch.long; given: {given}.")
    choices = {token: list(table.get(token, ())) for token in ids.unique().tolist()}
    with torch.no_grad(), in_the_name_of("The layer rejects these tokens"):
        first = plain(layer(ids))
        rows = [plain(layer(_replaced(ids, choices, i)))
                for i in range(max(map(len, choices.values())))]
    if rows:
        _check_alone(layer, ids, _replaced(ids, choices, 0), first)
    box = torch.stack([first, *rows])
    count = sum(int((ids == token).sum()) for token, others in choices.items() if others)
    return Substitutions(box.amin(0), box.amax(0), f"substitutes of {count} of {ids.numel()} "
                         "tokens, the box around their values")


def _replaced(ids: Tensor, choices: Mapping[int, list[int]], i: int) -> Tensor:
    """The ids with the substitute number i of each token that has so many."""
    changed = ids.clone()
    for token, others in choices.items():
        if i < len(others):
            changed[ids == token] = others[i]
    return changed


def _check_alone(layer: Callable[[Tensor], Tensor], ids: Tensor, others: Tensor,
                 first: Tensor) -> None:
    """Refuse a layer at which a token has an effect on the values at its neighbours."""
    tolerance = TOLERANCE.get(first.dtype, 1e-2)
    is_even = torch.arange(ids.shape[-1], device=ids.device).expand_as(ids) % 2 == 0
    for stays in (is_even, ~is_even):
        with torch.no_grad():
            moved = plain(layer(torch.where(stays, ids, others)))
        if (first.shape[: ids.ndim] != ids.shape
                or not torch.allclose(moved[stays], first[stays], tolerance, tolerance)):
            raise ValueError("The layer's values at a token must depend on that token alone, one "
                             "row (N, T, *E) each; here they change with the tokens beside it. "
                             "Give the embedding itself.")
