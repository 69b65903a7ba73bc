"""Attributions that fit a linear model to outputs at masked inputs: its coefficients are linear in
the outputs.
"""

import copy
import warnings
from typing import Any

import torch
from captum._utils.models.linear_model import SkLearnLinearRegression, SkLearnRidge
from captum.attr import KernelShap, Lime
from captum.attr._core.lime import construct_feature_mask, default_from_interp_rep_transform
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ..errors import UnsupportedAttribution, in_the_name_of
from ..guards import isolated
from .ablation import Recorder, Tensors, baselines_of, shared
from .combination import Combination, Masked, combined
from .plan import Plan, register

REGRESSIONS = {SkLearnLinearRegression: "LinearRegression", SkLearnRidge: "Ridge"}
"""Interpretable models whose coefficients are linear in what they are fitted to, and their classes
in scikit-learn."""

SETTINGS = {"alpha", "fit_intercept"}
"""Settings of these that leave them linear."""

PROBES, SAFETY = 8, 4.0
"""How many random outputs Captum's fit is tried on for its roundings, and by how much what is found
is multiplied."""

ADVICE = "give interpretable_model=SkLearnLinearRegression() or SkLearnRidge(alpha=...) of " \
         "captum._utils.models.linear_model, or use KernelShap"


class Fits:
    """Stands in for an interpretable model and notes what it is given to fit.

    A fit draws random numbers, for the order of batches and the start of the coefficients, which
    the coalitions of the next example come after: a copy of the model is fitted, to something, so
    that they are drawn here too.

    Args:
        model: the interpretable model.
    """

    def __init__(self, model: Any) -> None:
        self.model = copy.deepcopy(model)
        self.given: list[tuple[Tensor, Tensor]] = []

    def fit(self, loader: Any) -> None:
        """Note features (J, G) and weights (J,)."""
        x, outputs, weight = loader.dataset.tensors
        self.given.append((x, weight))
        even = TensorDataset(x, torch.zeros_like(outputs), torch.ones_like(weight))
        self.model.fit(DataLoader(even, batch_size=loader.batch_size))

    def representation(self) -> Tensor:
        """Coefficients, (1, G), that nobody reads."""
        return self.model.representation()


@register(KernelShap, "coefficients of a weighted linear regression of f at drawn coalitions, "
          "absent features being b")
def kernel_shap(attribution: KernelShap, inputs: Tensors, keywords: dict[str, Any]) -> Plan:
    """Plan of KernelShap; draws coalitions from torch's generator as Captum does."""
    return _regression(attribution, inputs, keywords, 50)


@register(Lime, "coefficients of a weighted linear or ridge regression of f at drawn coalitions, "
          "absent features being b, whose weights do not depend on x")
def lime(attribution: Lime, inputs: Tensors, keywords: dict[str, Any]) -> Plan:
    """Plan of Lime; draws coalitions from torch's generator as Captum does."""
    return _regression(attribution, inputs, keywords, 25)


def _regression(attribution: Any, inputs: Tensors, keywords: dict[str, Any], samples: int) -> Plan:
    """The plan of a regression.

    Raises:
        UnsupportedAttribution: the interpretable model or the weights are not of the kind; the
            message says what is.
    """
    name = type(attribution).__name__
    regression = _check_model(attribution, name)
    feature_mask, features = construct_feature_mask(keywords.get("feature_mask"), inputs)
    drawn = _drawn(attribution, inputs, keywords, name)
    coalitions = torch.stack([x for x, _ in drawn]).to(inputs[0])
    index = torch.cat([m.broadcast_to(len(m), *x.shape[1:]).flatten(1)
                       for m, x in zip(feature_mask, inputs, strict=True)], 1)
    index = index.to(inputs[0].device).expand(max(len(index), 1), -1)
    rows = index.expand(len(coalitions), -1)[:, None].expand(-1, coalitions.shape[1], -1)
    masks = coalitions.gather(2, rows)
    fitted = [coefficients(regression, *given) for given in drawn]
    weights, error = (torch.stack(parts).to(inputs[0]) for parts in zip(*fitted, strict=True))
    if not keywords.get("return_input_shape", True):
        index = torch.arange(features, device=inputs[0].device)[None]
    combination = Combination(weights, index, torch.float32, None, error)
    function = Masked(attribution.forward_func, len(inputs), len(inputs))
    return combined(inputs, keywords, function, shared(masks),
                    baselines_of(inputs, keywords.get("baselines")), combination)


def _check_model(attribution: Any, name: str) -> Any:
    """The regression in scikit-learn that an interpretable model is."""
    model = attribution.interpretable_model
    settings = getattr(model, "construct_kwargs", None)
    if (type(model) not in REGRESSIONS or not isinstance(settings, dict)
            or not settings.keys() <= SETTINGS):
        raise UnsupportedAttribution(
            f"{name} cannot be certified with the interpretable model "
            f"{type(model).__name__}{'' if not settings else str(settings)}: its coefficients are "
            f"not a linear function of the model's outputs. To certify, {ADVICE}.")
    if getattr(attribution, "from_interp_rep_transform",
               None) is not default_from_interp_rep_transform:
        raise UnsupportedAttribution(f"{name} cannot be certified with a from_interp_rep_transform "
                                     "of one's own: how it depends on the input is not known.")
    from sklearn import linear_model

    return getattr(linear_model, REGRESSIONS[type(model)])(**settings)


def _drawn(attribution: Any, inputs: Tensors, keywords: dict[str, Any],
           name: str) -> list[tuple[Tensor, Tensor]]:
    """Coalitions (J, G) and weights (J,) of each example, which must not depend on the inputs.

    Captum is run on the inputs and, from the same random state, on inputs that are NaN: what
    depends on them differs.
    """
    nowhere = tuple(torch.full_like(x, torch.nan) for x in inputs)
    with isolated(inputs[0].device):
        unknown = _run(attribution, nowhere, keywords, name)
    found = _run(attribution, inputs, keywords, name)
    for given, other in zip(found, unknown, strict=True):
        if not all(torch.equal(a, b) for a, b in zip(given, other, strict=True)):
            raise UnsupportedAttribution(
                f"{name} cannot be certified with weights or coalitions that depend on the input, "
                "as the exponential kernel's do, which is Lime's default: the coefficients are "
                "then no linear function of the outputs. Give a similarity_func and a perturb_func "
                "that read the interpretable sample alone, or use KernelShap.")
    return found


def _run(attribution: Any, inputs: Tensors, keywords: dict[str, Any],
         name: str) -> list[tuple[Tensor, Tensor]]:
    replaced, fits = copy.copy(attribution), Fits(attribution.interpretable_model)
    replaced.forward_func, replaced.interpretable_model = Recorder(), fits
    settings = {key: value for key, value in keywords.items()
                if key not in ("additional_forward_args", "target", "perturbations_per_eval",
                               "show_progress")}
    many = len(inputs) > 1 or any(isinstance(settings.get(key), tuple)
                                  for key in ("baselines", "feature_mask"))
    with in_the_name_of(
        f"Captum's {name}.attribute rejects these arguments"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum says it in the run that counts
        replaced.attribute(inputs if many else inputs[0], **settings)
    return fits.given


def coefficients(regression: Any, coalitions: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What a fit makes of outputs, and how it rounds in float32.

    Args:
        regression: an unfitted model of scikit-learn.
        coalitions: (J, G).
        weight: (J,).

    Returns:
        The coefficients as a matrix (G, J), and for each, (G,), by how much Captum's fit differs,
        in units of the largest output.
    """
    x, w = coalitions.cpu().double().numpy(), weight.cpu().double().numpy()
    count = len(x)
    matrix = torch.from_numpy(regression.fit(x, torch.eye(count).double().numpy(),
                                             sample_weight=w).coef_.copy()).T
    outputs = torch.rand(count, PROBES, generator=torch.Generator().manual_seed(0),
                         dtype=torch.float32) * 2 - 1
    fits = [
        regression.fit(x.astype("float32"), column.numpy(), sample_weight=w.astype("float32")).coef_
        for column in outputs.T]
    off = torch.stack([torch.from_numpy(fit.copy()).double() for fit in fits],
                      1) - matrix @ outputs.double()
    return matrix.contiguous(), SAFETY * off.abs().amax(1)
