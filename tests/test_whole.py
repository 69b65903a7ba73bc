"""AttributionModule: a whole attribution in auto_LiRPA's own code is Captum's, and bounds of it
hold.
"""

import numpy as np
import pytest
import torch
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
from captum.attr import (
    DeepLift,
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    LayerGradientXActivation,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
)
from torch import Tensor, nn

import lirpa_explain as lx
from tests.truth import assert_inside, sample_box

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(),
                    nn.Linear(4, 2)).double()
X = torch.rand(2, 3, generator=torch.Generator().manual_seed(0)).double()


def masked(x: Tensor, mask: Tensor) -> Tensor:
    return NET(x * mask)


ATTRIBUTIONS = {
    "saliency": (Saliency(NET), {"target": [0, 1]}),
    "input-x-gradient": (InputXGradient(NET), {"target": 1}),
    "integrated": (IntegratedGradients(NET),
                   {"target": 1, "n_steps": 2, "baselines": X.flip(0) / 2}),
    "further-arguments": (IntegratedGradients(masked), {
        "target": 1, "n_steps": 2, "additional_forward_args": (torch.tensor([[1, 0, 1], [0, 1, 1]]),
        )}),
    "deep-lift": (DeepLift(NET), {"target": 0, "baselines": X[:1] / 3}),
    "layer": (LayerGradientXActivation(NET, NET[0]), {"target": 0}),
    "squares": (NoiseTunnel(Saliency(NET)),
                {"target": 1, "nt_type": "smoothgrad_sq", "nt_samples": 2}),
    "variance": (NoiseTunnel(InputXGradient(NET)),
                 {"target": 1, "nt_type": "vargrad", "nt_samples": 2}),
    "ablation": (FeatureAblation(NET), {"target": [1, 0], "baselines": X.flip(0) / 2}),
    "ablation-of-groups": (FeatureAblation(NET),
                           {"target": 1, "feature_mask": torch.tensor([[0, 1, 1], [1, 0, 1]])}),
    "occlusion": (Occlusion(NET), {"target": 1, "sliding_window_shapes": (2,)}),
    "shapley": (ShapleyValueSampling(masked),
                {"target": 0, "n_samples": 2, "additional_forward_args": (
                    torch.tensor([[1, 1, 1], [0, 1, 1]]),)}),
    "shap": (GradientShap(NET), {"target": 1, "n_samples": 2, "baselines": X}),
}


@pytest.fixture
def in_double_precision():
    """auto_LiRPA's own identity matrix is of the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_double_precision")
@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_a_whole_attribution_is_captums_and_its_bounds_hold(name):
    attribution, keywords = ATTRIBUTIONS[name]

    def seeded() -> None:
        torch.manual_seed(0)
        np.random.seed(0)

    def captum(x: Tensor) -> Tensor:
        seeded()
        return attribution.attribute(x, **keywords).detach().flatten(1).double()

    seeded()
    module = lx.AttributionModule(attribution, X, **keywords)
    joined = module.plan.combination
    # what Captum rounds its result to
    single = joined is not None and joined.dtype == torch.float32
    rounding = 1e-6 if single else 1e-10
    torch.testing.assert_close(module(X), captum(X), rtol=rounding, atol=rounding / 10)
    assert {id(p) for p in module.parameters()} <= {id(p) for p in NET.parameters()}
    points = sample_box(X - 0.05, X + 0.05, 8, torch.Generator().manual_seed(1))
    values = torch.stack([captum(x) for x in points])
    torch.testing.assert_close(module(points[0]), values[0], rtol=10 * rounding, atol=rounding / 10)
    bounded = BoundedModule(module, X)
    ball = BoundedTensor(X, PerturbationLpNorm(norm=torch.inf, x_L=X - 0.05, x_U=X + 0.05))
    C = torch.randn(2, 3, values.shape[2], generator=torch.Generator().manual_seed(2)).double()
    assert_inside(tuple(side.detach() for side in bounded.compute_bounds((ball,), method="IBP")),
                  values, rounding=10 * rounding)
    lower, upper = bounded.compute_bounds((ball,), method="CROWN", C=C)
    assert_inside((lower.detach(), upper.detach()), torch.einsum("bkd,sbd->sbk", C, values),
                  rounding=10 * rounding)


def test_what_is_no_module_is_refused():
    decision = nn.Linear(3, 2, bias=False).double()
    decision.weight.data = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]).double()
    with pytest.raises(lx.UnsupportedAttribution, match="certify"):
        lx.AttributionModule(lx.BoundarySaliency(decision), X, target=1)
