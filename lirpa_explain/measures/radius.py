"""radius(): how large a ball may be for a property of the explanation to be certified."""

from typing import Any

from torch import Tensor

from ..arrays import as_inputs, parameter_of
from ..attributions import refuse_mixed
from ..certificates import Certificate
from ..certificates.radius import Property, Radius, bisect, broadcastable
from ..certifying.certifier import Certifier


def radius(certifier: Certifier, inputs: Tensor | tuple[Tensor, ...], holds: Property, *,
           high: float, steps: int = 10, **settings: Any) -> Radius:
    """Find the largest eps at which a property is certified, for each example, by bisection.

    After `steps` halvings the radius is known to high / 2^steps. What is certified at `value` is
    certified there, whatever the property; that no larger radius has it is a matter of bounds
    growing with the ball, which they do but for rounding and the choice of relaxations. The radius
    is one of the bounds and not of the explanation: a tighter method may certify a larger one.
    `Certificate.radius` does the same for a certificate at hand.

    Args:
        certifier: of the attribution.
        inputs: as of `Certifier.certify`: a tensor (N, *S), or a tuple, whose balls all have that
            radius.
        holds: maps a certificate to a bool tensor (N,), such as `lambda c: c.top_k_overlap(5) ==
            5`.
        high: the largest radius tried.
        steps: how often the interval is halved.
        **settings: of `Certifier.certify`, such as `norm`, `clip` or `method`, except `eps` and
          `perturbation`.

    Returns:
        A `Radius`, with the certificates on both sides.

    Raises:
        ValueError: high is not above 0, steps is negative, or the property gives another shape.
        TypeError: the property gives no bool tensor, or a setting that is not free.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(),
        ...                             torch.nn.Linear(8, 2))
        >>> certifier = lx.Certifier(Saliency(model), target=0)
        >>> found = lx.radius(certifier, torch.rand(3, 4), lambda c: c.metric("cosine") > 0.9,
        ...                   high=1.0)
        >>> (bool((found.inside.metric("cosine") > 0.9).all()),
        ...  bool((found.value < found.fails).all()))
        (True, True)
    """
    if taken := {"eps", "perturbation"} & set(settings):
        raise TypeError(f"{', '.join(sorted(taken))} cannot be given: radius() chooses the radius "
                        "itself.")

    refuse_mixed(certifier.attribution, "radius")
    features = settings.pop("features", certifier.features)
    given, columns = as_inputs(inputs, features, parameter_of(certifier.attribution.forward_func))
    names: Any = columns if isinstance(given, tuple) else columns[0]
    moved = certifier.perturbed(given, **settings)

    def certify(eps: Tensor) -> Certificate:
        radii = tuple(broadcastable(eps, x) for x in moved)
        return certifier.certify(given, eps=radii if len(radii) > 1 else radii[0], features=names,
                                 **settings)

    return bisect(certify, moved[0], holds, high, steps)
