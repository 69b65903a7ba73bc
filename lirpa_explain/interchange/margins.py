"""A property of an attribution as one module of bound operators, from an input to margins."""

from typing import Any

import torch
from torch import Tensor, nn

from ..bounding.where import Where
from ..bounding.whole import AttributionModule
from ..inputs import check_inputs
from .properties import Property
from .vnnlib import vnnlib


class MarginModule(nn.Module):
    """Margins of a property: `module(x)`, (B, K), is above 0 exactly where it holds.

    What a verifier bounds, branches on and attacks. It is made for one example, and takes any
    number of rows near it.

    Args:
        attribution: an object of one of the classes in `lirpa_explain.ATTRIBUTIONS`.
        inputs: one example (1, *S).
        property: made by a function of `lirpa_explain.PROPERTIES`.
        torch_relus: as for `AttributionModule`.
        **attribute_kwargs: keywords of `attribution.attribute`.

    Raises:
        ValueError: more than one example or input.

    Example:
        >>> import lirpa_explain as lx
        >>> _ = torch.manual_seed(0)
        >>> from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
        >>> from captum.attr import Saliency
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(),
        ...                             torch.nn.Linear(4, 2))
        >>> x = torch.rand(1, 3)
        >>> keep = lx.PROPERTIES["sign"]()
        >>> module = lx.MarginModule(Saliency(model), x, keep, target=0, abs=False)
        >>> bool((module(x) > 0).all())
        True
        >>> ball = BoundedTensor(x, PerturbationLpNorm(eps=1e-4))
        >>> lower, _ = BoundedModule(module, x).compute_bounds((ball,), method="CROWN")
        >>> bool((lower > 0).all())
        True
    """

    def __init__(self, attribution: Any, inputs: Tensor, property: Property, *,
                 torch_relus: bool = False, **attribute_kwargs: Any) -> None:
        super().__init__()
        xs = check_inputs(inputs)
        if len(xs) != 1 or len(xs[0]) != 1:
            raise ValueError("A property is of one example of one input, (1, *S): a query is about "
                             "one set of inputs.")
        self.attribution = AttributionModule(attribution, xs[0], torch_relus=torch_relus,
                                             any_rows=True, **attribute_kwargs)
        with torch.no_grad():
            self.margins = property.margins(self.attribution(xs[0])[0])
        self.words, self.example = property.words, xs[0]
        # in a tuple, lest its parameters are this module's twice
        self._model = (attribution.forward_func,)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Margins (B, K) at inputs (B, *S)."""
        return self.margins(self.attribution(x))

    def vnnlib(self, *, eps: Any = None, perturbation: Any = None, norm: float = torch.inf,
               clip: tuple[Any, Any] | None = None, version: str = "1.0") -> str:
        """The query whether the property can be broken near the example, as text.

        Args:
            eps: radius of the ball, as for `certify`.
            perturbation: in its place.
            norm: must be inf: VNN-LIB describes boxes.
            clip: the range of the data.
            version: of VNN-LIB, "1.0" (read by most verifiers) or "2.0".

        Raises:
            ValueError: a ball that is no box, or an unknown version.
        """
        where = Where.of(self._model[0], self.example, perturbation=perturbation, eps=eps,
                         norm=norm, clip=clip)
        ball = where.balls[0]
        if ball is None or ball.norm != torch.inf:
            raise ValueError("VNN-LIB describes boxes of inputs: give eps or a perturbation in the "
                             "l-inf norm.")
        with torch.no_grad():
            count = self(self.example).shape[1]
        return vnnlib(ball.low, ball.high, tuple(self.example.shape), count, self.words, version)
