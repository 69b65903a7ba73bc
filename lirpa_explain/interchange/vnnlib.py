"""A set of inputs and a property as text in the VNN-LIB format.

A verifier is asked whether some input of the box breaks the property: one of the margins is at most
0.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal

from torch import Tensor

Names = Callable[[int], str]


def vnnlib(low: Tensor, high: Tensor, shape: Sequence[int], margins: int, words: str,
           version: str = "1.0") -> str:
    """The query whether the property can be broken.

    Args:
        low: lower ends of the box, (1, *S).
        high: upper ends.
        shape: of the model's input, (1, *S).
        margins: K, the number of outputs.
        words: the property, for people.
        version: of the format, a key of `VERSIONS`.

    Returns:
        The text; numbers are exact.

    Raises:
        ValueError: the version is not known.
    """
    if version not in VERSIONS:
        raise ValueError(f"version must be one of {', '.join(VERSIONS)}; given: {version!r}.")
    head, x, y = VERSIONS[version](shape, margins, str(low.dtype).removeprefix("torch."))
    lines = [f"; VNN-LIB {version}. Can this be broken: {words}?", *head]
    for i, (least, most) in enumerate(zip(low.flatten().tolist(), high.flatten().tolist(),
                                          strict=True)):
        lines += [f"(assert (>= {x(i)} {_exact(least)}))", f"(assert (<= {x(i)} {_exact(most)}))"]
    broken = [f"(<= {y(k)} 0.0)" for k in range(margins)]
    if version == "1.0":
        broken = [f"(and {part})" for part in broken]
    lines.append(f"(assert {broken[0]})"
                 if margins == 1 and version != "1.0" else f"(assert (or {' '.join(broken)}))")
    return "\n".join(lines) + "\n"


def _exact(value: float) -> str:
    """A number in full, without an exponent.

    Example:
        >>> _exact(0.5), _exact(2.0 ** -12)
        ('0.5', '0.000244140625')
    """
    text = f"{Decimal(value):f}"
    return text if "." in text else f"{text}.0"


def _first(shape: Sequence[int], margins: int, dtype: str) -> tuple[list[str], Names, Names]:
    size = 1
    for n in shape:
        size *= n
    declared = [f"(declare-const X_{i} Real)" for i in range(size)]
    declared += [f"(declare-const Y_{k} Real)" for k in range(margins)]
    return declared, "X_{}".format, "Y_{}".format


def _second(shape: Sequence[int], margins: int, dtype: str) -> tuple[list[str], Names, Names]:
    sizes = list(shape)

    def place(i: int) -> str:
        places = []
        for n in reversed(sizes):
            places.append(i % n)
            i //= n
        return f"X[{','.join(map(str, reversed(places)))}]"

    head = ["(vnnlib-version <2.0>)", "(declare-network N",
            f"  (declare-input X {dtype} {sizes})".replace(", ", ","),
            f"  (declare-output Y {dtype} [1,{margins}])", ")"]
    return head, place, "Y[0,{}]".format


VERSIONS: dict[str, Callable[[Sequence[int], int, str], tuple[list[str], Names, Names]]] = {
    "1.0": _first, "2.0": _second}
"""Version -> from the input's shape, the number of outputs and their type: declarations, and names
of inputs and outputs by their flat places."""
