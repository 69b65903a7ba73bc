"""What a call is about: an attribution as a function of what is perturbed, its inputs or its
layer's output.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arrays import Names
from ..attributions import at_layer, name_of
from ..bounding.parameters import Parameters
from ..errors import UnsupportedAttribution
from ..guards import isolated, no_training_layers
from ..inputs import check_inputs
from ..rounding import TOLERANCE
from .nominal import Nominal, attribute

PERTURB = ("input", "layer")
"""What can be perturbed."""


@dataclass(frozen=True)
class Call:
    """A call of Captum's as the caller would make it.

    Args:
        attribution: a Captum object.
        inputs: as the caller gave them, a tensor or a tuple.
        xs: the inputs as a tuple of plain tensors, each (N, *S).
        keywords: of `attribution.attribute`.
    """

    attribution: Any
    inputs: Any
    xs: tuple[Tensor, ...]
    keywords: dict[str, Any]

    @property
    def nominal(self) -> Nominal:
        """What it returns."""
        return attribute(self.attribution, self.inputs, self.xs, self.keywords)


@dataclass(frozen=True)
class Posed:
    """A call as one of what is perturbed.

    Args:
        call: to which what is perturbed is the inputs.
        original: the caller's, if that is another one.
        place: where the perturbation lies, in words, if not at the inputs.
    """

    call: Call
    original: Call | None = None
    place: str = ""

    @property
    def ids(self) -> tuple[Tensor, ...]:
        """The inputs that the perturbed ones were made of."""
        return () if self.original is None else self.original.xs

    def names_of(self, columns: tuple[Names | None, ...]) -> tuple[Names | None, ...]:
        """The names of the features of what is perturbed, given those of the inputs: a layer's have
        none.
        """
        return columns if self.original is None else (None,) * len(self.call.xs)

    @property
    def nominal(self) -> Nominal:
        """What Captum returns to the caller.

        Raises:
            UnsupportedAttribution: the attribution of the layer's output is not that of the inputs.
        """
        if self.original is None:
            return self.call.nominal
        theirs, ours = self.original.nominal, self.call.nominal
        if theirs.flat.shape == ours.flat.shape:
            scale = theirs.flat.abs().amax(1, keepdim=True)
            if bool(((theirs.flat - ours.flat).abs() <= TOLERANCE[ours.flat.dtype] * scale).all()):
                return theirs
        raise UnsupportedAttribution(
            f"{name_of(self.original.attribution)} is not a function of the layer's output: with "
            "that output given, Captum's value is another one. Perhaps the model computes "
            "something else from its inputs, past the layer, that is not the same for inputs and "
            "baselines: give it as additional_forward_args.")


class Poser:
    """Poses the calls of one attribution; what is traced of it is made once.

    Args:
        attribution: a Captum object.
        perturb: "input", "layer", or None: "layer" if the inputs are whole numbers, such as token
            ids.
    """

    def __init__(self, attribution: Any, perturb: str | None = None) -> None:
        check_perturb(perturb)
        self.attribution, self.perturb = attribution, perturb
        self._from_layer: at_layer.FromLayer | None = None

    def pose(self, inputs: Any, keywords: dict[str, Any], perturb: str | None = None,
             as_input: bool = False) -> Posed:
        """A call as one of what is perturbed.

        Args:
            inputs: as the caller gave them.
            keywords: of `attribution.attribute`.
            perturb: as for the class, and before what it was made with.
            as_input: whether an attribution of a layer's output shall be one to inputs, if there is
                such a one.
        """
        check_perturb(perturb)
        perturb = self.perturb if perturb is None else perturb
        if perturb is None and at_layer.supports(self.attribution) and _are_whole(inputs):
            perturb = "layer"
        if perturb != "layer":
            return Posed(Call(self.attribution, inputs, check_inputs(inputs), keywords))
        xs = check_inputs(inputs, moving=False)
        if self._from_layer is None:
            self._from_layer = at_layer.FromLayer(self.attribution)
        with isolated(xs[0].device, self.attribution), no_training_layers():
            found = self._from_layer.of(xs, keywords, as_input)
        values = check_inputs(found.values, what="The layer's outputs")
        if len(values[0]) != len(xs[0]):
            raise UnsupportedAttribution("The layer's output has the shape "
                                         f"{tuple(values[0].shape)} for {len(xs[0])} examples; it "
                                         "must have one row for each of them.")
        return Posed(Call(found.attribution, found.values, values, found.keywords),
                     Call(self.attribution, inputs, xs, keywords),
                     f"at the output of {self._from_layer.words}")

    def check_parameters(self, posed: Posed, parameters: Parameters | None) -> None:
        """Refuse parameters that move what is perturbed, or its baselines.

        Raises:
            ValueError: they do.
        """
        if parameters is None or posed.original is None or self._from_layer is None:
            return
        values = parameters.draw(True, torch.Generator().manual_seed(0))
        with isolated(posed.call.xs[0].device, self.attribution), parameters.set_to(values):
            again = self._from_layer.of(posed.original.xs, posed.original.keywords)
        before, after = (torch.utils._pytree.tree_leaves((of, keywords.get("baselines", ())))
                         for of, keywords in ((posed.call.inputs, posed.call.keywords),
                                              (again.values, again.keywords)))
        if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
            raise ValueError("parameters moves parameters that the layer's output is computed "
                             "from, while perturb='layer' puts a ball around the output that they "
                             "give now: hold them fixed, by None for their names.")


def check_perturb(perturb: Any) -> None:
    """Refuse what cannot be perturbed."""
    if perturb is not None and perturb not in PERTURB:
        raise ValueError(f"perturb must be one of {', '.join(PERTURB)}; given: {perturb!r}.")


def _are_whole(inputs: Any) -> bool:
    """Whether some of the inputs are tensors of whole numbers."""
    xs = inputs if isinstance(inputs, tuple) else (inputs,)
    return any(isinstance(x, Tensor) and not x.is_floating_point() and not x.is_complex()
               for x in xs)
