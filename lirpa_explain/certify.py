"""certify(): from a Captum object and an input to bounds that hold for every allowed
perturbation.
"""

import math
from typing import Any

from auto_LiRPA.perturbations import Perturbation
from torch import Tensor

from .bounding.moving import Moving
from .certificates import Certificate
from .certifying.certifier import Certifier
from .certifying.senses import Sense
from .inputs import check_attribution, check_known


def certify(
    attribution: Any, inputs: Tensor | tuple[Tensor, ...], *,
    perturbation: Perturbation | tuple[Perturbation | None, ...] | None = None,
    eps: float | Tensor | tuple[Any, ...] | None = None, norm: float = math.inf,
    clip: tuple[Any, Any] | None = None, method: str = "CROWN", batch_size: int | None = None,
    memory_limit: int | None = None, progress: bool = False, quadrature: str | None = None,
    differentiable: bool = False, spec: Tensor | tuple[Tensor, ...] | None = None,
    iterations: int = 20, lr: float = 0.3, integral: str | None = None,
    expectation: str | None = None, confidence: float = 0.999,
    boundary: str | Moving | None = None, sense: Sense | None = None, parameters: Any = None,
    rounding: str = "default", perturb: str | None = None, fixed: Any = None, features: Any = None,
    slack: float = 0.0, **attribute_kwargs: Any) -> Certificate:
    """Bound a Captum attribution over every allowed perturbation of its input.

    lower <= attribution.attribute(x', **attribute_kwargs) <= upper for every x' in the ball around
    `inputs`. The target, baselines, further arguments and drawn noise are part of the attribution
    and stay as they are.

    Args:
        attribution: an object of one of the classes in `lirpa_explain.ATTRIBUTIONS`.
        inputs: as for Captum: a tensor (N, *S) or a tuple of them; or auto_LiRPA `BoundedTensor`s,
            whose own perturbation is used. In place of a tensor a numpy array of its type, or a
            pandas DataFrame.
        perturbation: an auto_LiRPA `PerturbationLpNorm`, or a tuple of them with None for inputs
            held fixed; what `Table.around` makes, for radii by column in the data's own units.
        eps: the short form: radius of the ball, in units of the input; a number, a tensor that
            broadcasts to the input (for norm 2 and 1: one number an example), or a tuple with one
            for each input.
        norm: with `eps`: math.inf, 2 or 1.
        clip: with `eps` and norm inf: (low, high), the range of the data, to which the ball is cut.
        method: how to bound: "IBP" (fastest, loosest), "CROWN-IBP", "CROWN" or "CROWN-Optimized"
            (slowest, tightest). A quadrature of IntegratedGradients, which Captum also calls
            `method`, is passed on to Captum.
        batch_size: most rows (examples x path points) bounded at once, default 64; memory grows
            with it.
        memory_limit: bytes, at least 2**20, that tensors of bounds may take beside the model; the
            tighter, the slower.
        progress: show a progress bar.
        quadrature: Captum's `method` of IntegratedGradients, for use beside `method`.
        differentiable: keep the bounds differentiable in the model's parameters.
        spec: linear functions of the attribution to bound as well, by propagation and not from the
            box: (K, *S), or (N, K, *S) where they differ from example to example; a tuple for
            several inputs.
        iterations: most steps of method "CROWN-Optimized".
        lr: its first step length, above 0 and at most 1.
        integral: "exact" to bound, for path integrals such as IntegratedGradients, the integral
            over s from 0 to 1 that Captum's finite sum stands for, on `n_steps` equal
            sub-intervals; None to bound the sum.
        expectation: "gaussian" to bound, for a `NoiseTunnel`, the expectation under its noise and
            not the mean of the samples that were drawn; the larger `nt_samples`, the tighter.
            "gaussian-propagated" is tighter where the ball is small beside the noise, and as slow
            as certifying what was drawn.
        confidence: with `expectation`, the probability with which all bounds of an example hold;
            between 0 and 1.
        boundary: for boundary attributions: "fixed" (default): the boundary point found for the
            input is part of the attribution, as a baseline is; "moving": every x' has its own
            nearest boundary point, wherever that is; or a `Moving`, which says how hard to try.
        sense: what is bounded, as an object of a subclass of `certifying.senses.Sense`, where no
            keyword chooses it.
        parameters: how far the model's parameters may change, alone or together with the inputs: a
            `ParameterBox` for all of them, such as `ParameterBox(relative=0.02)`; an auto_LiRPA
            `PerturbationLpNorm` of norm inf; or a dictionary from names or patterns (`fnmatch`) of
            `model.named_parameters()` to one of these, or to None for parameters held fixed: of the
            entries that match, the last counts.
        rounding: "default": moved outward by a few roundings, as they show at the inputs.
            "outward": moved outward by a proven bound of all roundings, the bounds' own and
            Captum's, at every input of the ball; wider, in float32 visibly.
            `lirpa_explain.bounding.outward` says how, and what it presumes.
        perturb: "input", or "layer": the ball lies around the output h of the attribution's layer,
            which may read inputs that cannot move, such as token ids, and all else that the model
            computes from the inputs stays as it is. Bounded is lower <= Captum's attribution with
            h' in place of that output <= upper for every h' in the ball; `eps`, `perturbation`,
            `clip` and `norm` are those of h, each example's h as a whole. Default: "layer" where
            inputs are whole numbers, else "input". For LayerIntegratedGradients,
            LayerGradientXActivation, LayerActivation, LayerGradCam, LayerDeepLift and
            LayerDeepLiftShap.
        fixed: which entries of what is perturbed stay as they are, such as those of padding: a bool
            tensor, True there, whose dimensions are the first ones of the perturbed tensor, (N, T)
            for embeddings (N, T, E); a tuple of these, or None, for several inputs; or with token
            ids a list of those whose tokens stay.
        features: names of the inputs' columns, in the model's order: a list, or for several inputs
            a tuple with a list or None for each. The certificate has them; a DataFrame's columns
            are brought into their order. Default: a DataFrame's own, or those of the `Table` that
            made the perturbation.
        slack: a number from 0 to below 1. Neurons that make up at most this share of a layer's
            relaxation gaps together keep interval or other cheap bounds: faster, and a little
            wider; bounds hold all the same.
        **attribute_kwargs: every keyword of `attribution.attribute`, unchanged.

    Returns:
        A `Certificate`; its `nominal` is what `attribution.attribute` returns. To certify many
        inputs, or the same one at several radii, make a `Certifier`: it traces the model once.

    Raises:
        ValueError: a bad number or shape, or arguments that Captum rejects, with Captum's reason.
        TypeError: an argument of a wrong type.
        UnsupportedAttribution: the attribution is not one that can be certified.
        UnsupportedOperation: the model contains an operation that has no bound operator.
        TrainingModeError: a layer is in training mode whose output is then random or depends on the
            batch.
        MemoryLimitTooSmall: `memory_limit` cannot be kept; the message has one that would do.
        BoundaryNotFound: a boundary attribution found no boundary point for some examples.
        SoundnessError: the bounds contradict the attribution; never expected.

    Example:
        >>> import torch, lirpa_explain as lx
        >>> from captum.attr import IntegratedGradients
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(),
        ...                             torch.nn.Linear(2, 1))
        >>> certificate = lx.certify(IntegratedGradients(model), torch.rand(3, 2), eps=0.01,
        ...                          target=0, n_steps=8)
        >>> bool(certificate.contains(certificate.nominal).all())
        True
    """
    check_attribution(attribution)
    check_known(attribution, attribute_kwargs, certify)
    certifier = Certifier(
        attribution, method=method, batch_size=batch_size, memory_limit=memory_limit,
        progress=progress, differentiable=differentiable, iterations=iterations, lr=lr,
        rounding=rounding, perturb=perturb, slack=slack)
    return certifier.certify(
        inputs, perturbation=perturbation, eps=eps, norm=norm, clip=clip, method=method,
        quadrature=quadrature, spec=spec, integral=integral, expectation=expectation,
        confidence=confidence, boundary=boundary, sense=sense, parameters=parameters, fixed=fixed,
        features=features, **attribute_kwargs)
