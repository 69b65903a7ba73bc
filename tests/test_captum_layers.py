"""Attributions at layers, of neurons and with other backward rules: hand-checked numbers, and every
keyword.
"""

import warnings

import pytest
import torch
from captum.attr import (
    LRP,
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    GradientShap,
    GuidedBackprop,
    GuidedGradCam,
    InternalInfluence,
    LayerActivation,
    LayerConductance,
    LayerDeepLift,
    LayerDeepLiftShap,
    LayerGradCam,
    LayerGradientShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    LayerLRP,
    NeuronConductance,
    NeuronDeconvolution,
    NeuronDeepLift,
    NeuronDeepLiftShap,
    NeuronGradient,
    NeuronGradientShap,
    NeuronGuidedBackprop,
    NeuronIntegratedGradients,
    NoiseTunnel,
    Saliency,
)
from captum.testing.helpers import basic_models
from torch import nn

import lirpa_explain as lx
from tests.nets import layers, mlp
from tests.test_captum import FACTOR, TWO, B, X, Y, check
from tests.truth import parts

# Captum's own, of hooks and settings
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LAYERED = basic_models.BasicModel_MultiLayer()
HUNDRED = torch.tensor([[0.0, 100.0, 0.0]])
IMAGE = torch.arange(16.0).reshape(1, 1, 4, 4)

# attribution, inputs, keywords, by hand: Captum's own tests of each class, tests/attr
BY_HAND = {
    # test_deeplift_basic.py and test_lrp.py
    "deep_lift": (
        DeepLift(basic_models.ReLUDeepLiftModel()), (torch.tensor([[1.0]]), torch.tensor([[2.0]])),
        {"baselines": (torch.tensor([[0.0]]), torch.tensor([[0.0]]))}, ([[2.0]], [[1.0]])),
    "lrp": (LRP(basic_models.SimpleLRPModel(inplace=False).eval()), torch.tensor([[1.0, 2.0, 3.0]]),
            {}, [[18.0, 36.0, 54.0]]),
    "grad_cam": (LayerGradCam(LAYERED, LAYERED.linear0), HUNDRED, {"target": 0}, [[400.0]]),
    "gradient_x_activation_0": (LayerGradientXActivation(LAYERED, LAYERED.linear0), HUNDRED,
                                {"target": 0}, [[0.0, 400.0, 0.0]]),
    "gradient_x_activation_1": (LayerGradientXActivation(LAYERED, LAYERED.linear1), HUNDRED,
                                {"target": 0}, [[90.0, 101.0, 101.0, 101.0]]),
    "influence_0": (InternalInfluence(LAYERED, LAYERED.linear0), HUNDRED,
                    {"target": 0, "n_steps": 500, "method": "riemann_trapezoid"},
                    [[3.9, 3.9, 3.9]]),
    "conductance_0": (LayerConductance(LAYERED, LAYERED.linear0), HUNDRED,
                      {"target": 0, "n_steps": 500, "method": "gausslegendre"},
                      [[0.0, 390.0, 0.0]]),
    "neuron_gradient": (NeuronGradient(LAYERED, LAYERED.linear2), HUNDRED, {"neuron_selector": 0},
                        [[4.0, 4.0, 4.0]]),
    "neuron_integrated": (NeuronIntegratedGradients(LAYERED, LAYERED.linear2), HUNDRED,
                          {"neuron_selector": 0, "n_steps": 200}, [[0.0, 390.0, 0.0]]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_hand_checked_numbers(name):
    attribution, inputs, keywords, by_hand = BY_HAND[name]
    quadrature = keywords.get("method")
    given = {key: value for key, value in keywords.items() if key != "method"}
    certificate = lx.certify(attribution, inputs, eps=0.001, quadrature=quadrature, **given)
    by_hand = by_hand if isinstance(by_hand, tuple) else (by_hand,)
    for part, number in zip(parts(certificate.nominal), by_hand, strict=True):
        torch.testing.assert_close(part, torch.tensor(number), rtol=0.02, atol=0.02)


CONV = basic_models.BasicModel_ConvNet_One_Conv()


@pytest.mark.parametrize(("kind", "by_hand"), [
    (GuidedBackprop, [[0.0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]]),
    (Deconvolution, [[2.0, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]])])
def test_hand_checked_rules(kind, by_hand):
    """Captum's tests/attr/test_guided_backprop.py and test_deconvolution.py."""
    certificate = lx.certify(kind(CONV), IMAGE, eps=0.001, target=0)
    torch.testing.assert_close(certificate.nominal[0, 0], torch.tensor(by_hand))


# Tiny models in float64


class Blocks(nn.Module):
    """(N, 3) -> (N, 3), with a layer of two outputs, a reused and a functional ReLU."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 6), nn.Linear(6, 4), nn.Linear(4, 3)
        self.relu, self.pair, self.tanh = nn.ReLU(), Pair(), nn.Tanh()

    def forward(self, x, factor=1.0):
        hidden = self.relu(self.first(x)) * factor
        left, right = self.pair(self.second(hidden))
        return self.last(self.tanh(left) + torch.relu(right)) + x


class Pooled(nn.Module):
    """Layers with Captum's epsilon rule, which it has none for nn.Flatten."""

    def __init__(self):
        super().__init__()
        self.first, self.pool, self.norm = (nn.Conv2d(1, 3, 3, padding=1), nn.AvgPool2d(2),
                                            nn.BatchNorm2d(3))
        self.relu, self.last = nn.ReLU(), nn.Linear(27, 3)

    def forward(self, x):
        return self.last(self.norm(self.pool(self.relu(self.first(x)))).flatten(1))


class Pair(nn.Module):
    """Two outputs."""

    def forward(self, x):
        return x * 2, self.shifted(x)

    def shifted(self, x):
        return x - 0.1


def build(model, seed=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model().double().eval()


BLOCKS = build(Blocks)
IMAGES = build(lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                                     nn.Conv2d(3, 4, 2),
                                     nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 2 * 2, 3)))
# Averages, because where all of a window is 0 a Deconvolution hands a gradient to whichever entry a
# maximum names.
AVERAGED = build(lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
                                       nn.Conv2d(3, 4, 2),
                                       nn.ReLU(), nn.Flatten(), nn.Linear(4 * 2 * 2, 3)))
RELU = build(lambda: mlp(3, 6, 5, 3, seed=None))
SMOOTH = build(lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.Sigmoid(),
                                     nn.Linear(5, 4),
                                     nn.ELU(), nn.Linear(4, 4), nn.Softplus(), nn.Linear(4, 3)))
TANHS = build(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, 3)))
POOLED = build(Pooled)
PICTURES = torch.rand(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that layers must not feed each other
    LAYERS_OF_TWO = LayerIntegratedGradients(TWO, [TWO.first, TWO.second])
PATH = {"target": [0, 1, 2, 0], "n_steps": 3}
ONE = {"target": [0, 1, 2, 0]}
SHAP = {"n_samples": 3, "stdevs": 0.2, "baselines": B}

CASES = {
    # at layers
    "activation": (LayerActivation(BLOCKS, BLOCKS.second), X, {}),
    "activation_input": (LayerActivation(BLOCKS, BLOCKS.tanh), X,
                         {"attribute_to_layer_input": True}),
    "gradient_x_activation": (LayerGradientXActivation(BLOCKS, BLOCKS.first), X, ONE),
    "gradient_x_activation_input": (LayerGradientXActivation(BLOCKS, BLOCKS.tanh), X,
                                    {**ONE, "attribute_to_layer_input": True}),
    "gradient_x_activation_pair": (LayerGradientXActivation(BLOCKS, BLOCKS.pair), X, ONE),
    "gradient_x_activation_layers": (LayerGradientXActivation(BLOCKS, [BLOCKS.pair, BLOCKS.first]),
                                     X, ONE),
    "layer_gradient": (LayerGradientXActivation(BLOCKS, BLOCKS.second, multiply_by_inputs=False), X,
                       ONE),
    "unused": (LayerGradientXActivation(TWO, TWO.first), (X, Y),
               {"target": 0, "grad_kwargs": {"allow_unused": False}}),
    "rows_of_further_arguments": (LayerGradientXActivation(TWO, TWO.last), (X, Y),
                                  {"target": 1, "additional_forward_args": (FACTOR, True),
                                   "attribute_to_layer_input": True}),
    "grad_cam": (LayerGradCam(IMAGES, IMAGES[0]), PICTURES, {"target": 1}),
    "grad_cam_relu": (LayerGradCam(IMAGES, IMAGES[3]), PICTURES,
                      {"target": [0, 2], "relu_attributions": True}),
    "grad_cam_channels": (LayerGradCam(IMAGES, IMAGES[0]), PICTURES,
                          {"target": 1, "attr_dim_summation": False}),
    "guided_grad_cam": (GuidedGradCam(IMAGES, IMAGES[3]), PICTURES, {"target": 1}),
    "guided_grad_cam_bilinear": (GuidedGradCam(IMAGES, IMAGES[3]), PICTURES,
                                 {"target": 1, "interpolate_mode": "bilinear"}),
    "influence": (InternalInfluence(BLOCKS, BLOCKS.second), X, {**PATH, "baselines": B[:4]}),
    "influence_batches": (InternalInfluence(BLOCKS, BLOCKS.first), X,
                          {**PATH, "internal_batch_size": 5}),
    "conductance": (LayerConductance(BLOCKS, BLOCKS.first), X, PATH),
    "conductance_trapezoid": (LayerConductance(BLOCKS, BLOCKS.pair), X,
                              {**PATH, "method": "riemann_trapezoid", "baselines": 0.3}),
    "conductance_batches": (LayerConductance(BLOCKS, BLOCKS.second), X,
                            {**PATH, "internal_batch_size": 5, "attribute_to_layer_input": True}),
    "integrated": (LayerIntegratedGradients(BLOCKS, BLOCKS.first), X, {**PATH, "baselines": B[:4]}),
    "integrated_gradients_only": (LayerIntegratedGradients(BLOCKS, BLOCKS.second,
                                                           multiply_by_inputs=False), X, PATH),
    "integrated_pair": (LayerIntegratedGradients(BLOCKS, BLOCKS.pair), X, PATH),
    "integrated_input": (LayerIntegratedGradients(BLOCKS, BLOCKS.second), X,
                         {**PATH, "attribute_to_layer_input": True, "method": "riemann_right"}),
    "integrated_two_inputs": (LAYERS_OF_TWO, (X, Y), {"target": 1, "n_steps": 3,
                                                      "additional_forward_args": (FACTOR, True)}),
    "layer_shap": (LayerGradientShap(BLOCKS, BLOCKS.first), X, {**ONE, **SHAP}),
    "layer_shap_gradients": (LayerGradientShap(BLOCKS, BLOCKS.second, multiply_by_inputs=False), X,
                             {**ONE, **SHAP}),
    "layer_shap_input": (LayerGradientShap(BLOCKS, BLOCKS.second), X,
                         {**ONE, **SHAP, "attribute_to_layer_input": True}),
    "tunnel_of_layer": (NoiseTunnel(LayerGradientXActivation(BLOCKS, BLOCKS.first)), X,
                        {**ONE, "nt_samples": 3, "stdevs": 0.1}),
    # of neurons
    "neuron_gradient": (NeuronGradient(BLOCKS, BLOCKS.first), X, {"neuron_selector": 2}),
    "neuron_input": (NeuronGradient(BLOCKS, BLOCKS.tanh), X,
                     {"neuron_selector": (1,), "attribute_to_neuron_input": True}),
    "neuron_slice": (NeuronGradient(IMAGES, IMAGES[3]), PICTURES,
                     {"neuron_selector": (slice(0, 2), 1, 0)}),
    "neuron_function": (NeuronGradient(BLOCKS, BLOCKS.pair), X,
                        {"neuron_selector": lambda pair: (pair[0] * pair[1]).sum(1)}),
    "neuron_integrated": (NeuronIntegratedGradients(BLOCKS, BLOCKS.second), X,
                          {"neuron_selector": 1, "n_steps": 3, "baselines": B[:1]}),
    "neuron_conductance": (NeuronConductance(BLOCKS, BLOCKS.first), X,
                           {**PATH, "neuron_selector": 3}),
    "neuron_conductance_slice": (
        NeuronConductance(BLOCKS, BLOCKS.second, multiply_by_inputs=False), X,
        {**PATH, "neuron_selector": (slice(1, 3),), "method": "gausslegendre"}),
    "neuron_shap": (NeuronGradientShap(BLOCKS, BLOCKS.second), X, {"neuron_selector": 0, **SHAP}),
    "neuron_guided": (NeuronGuidedBackprop(IMAGES, IMAGES[3]), PICTURES,
                      {"neuron_selector": (0, 1, 1)}),
    "neuron_deconvolution": (NeuronDeconvolution(RELU, RELU[2]), X, {"neuron_selector": 2}),
    # of the input
    "guided": (GuidedBackprop(RELU), X, ONE),
    "guided_images": (GuidedBackprop(IMAGES), PICTURES, {"target": 0}),
    "guided_sees_no_functional_relu": (GuidedBackprop(BLOCKS), X, ONE),
    "deconvolution": (Deconvolution(RELU), X, ONE),
    "deconvolution_images": (Deconvolution(AVERAGED), PICTURES, {"target": [2, 1]}),
    "tunnel_of_integrated_layer": (NoiseTunnel(LayerIntegratedGradients(BLOCKS, BLOCKS.first)), X,
                                   {**PATH, "nt_samples": 3, "stdevs": 0.1,
                                    "nt_samples_batch_size": 2}),
    "tunnel_of_guided": (NoiseTunnel(GuidedBackprop(RELU)), X,
                         {**ONE, "nt_samples": 3, "stdevs": 0.1}),
    "shap": (GradientShap(RELU), X, {**ONE, **SHAP}),
    "shap_gradients": (GradientShap(RELU, multiply_by_inputs=False), X, {**ONE, **SHAP}),
    "shap_function_of_baselines": (GradientShap(RELU), X, {**ONE, **SHAP, "baselines": lambda: B}),
    "shap_two_inputs": (GradientShap(TWO), (X, Y), {"target": 1, "n_samples": 3,
                                                    "stdevs": (0.1, 0.3), "baselines": (B, Y[:3])}),
    # by secant slopes
    "deep_lift": (DeepLift(RELU), X, {**ONE, "baselines": B[:4]}),
    "deep_lift_zero": (DeepLift(RELU), X, ONE),
    "deep_lift_multipliers": (DeepLift(RELU, multiply_by_inputs=False), X,
                              {**ONE, "baselines": 0.3}),
    "deep_lift_smooth": (DeepLift(SMOOTH), X, {**ONE, "baselines": B[:4]}),
    "deep_lift_images": (DeepLift(AVERAGED), PICTURES, {"target": 1, "baselines": 0.5}),
    "deep_lift_at_its_baseline": (DeepLift(SMOOTH), X, {**ONE, "baselines": X.clone()}),
    "deep_lift_shap": (DeepLiftShap(RELU), X, {**ONE, "baselines": B}),
    "deep_lift_shap_function": (DeepLiftShap(SMOOTH), X,
                                {**ONE, "baselines": lambda inputs: B[:len(inputs)]}),
    "deep_lift_shap_two_inputs": (DeepLiftShap(TWO), (X, Y),
                                  {"target": 1, "baselines": (B[:3], Y[:3]),
                                   "additional_forward_args": (FACTOR, True)}),
    "layer_deep_lift": (LayerDeepLift(RELU, RELU[2]), X, {**ONE, "baselines": B[:4]}),
    "layer_deep_lift_input": (LayerDeepLift(SMOOTH, SMOOTH[2]), X,
                              {**ONE, "baselines": B[:1], "attribute_to_layer_input": True}),
    "layer_deep_lift_multipliers": (LayerDeepLift(SMOOTH, SMOOTH[0], multiply_by_inputs=False), X,
                                    ONE),
    "layer_deep_lift_shap": (LayerDeepLiftShap(SMOOTH, SMOOTH[2]), X, {**ONE, "baselines": B}),
    "neuron_deep_lift": (NeuronDeepLift(RELU, RELU[2]), X,
                         {"neuron_selector": 1, "baselines": B[:4]}),
    "neuron_deep_lift_shap": (NeuronDeepLiftShap(SMOOTH, SMOOTH[2]), X,
                              {"neuron_selector": 1, "baselines": B}),
    "tunnel_of_deep_lift": (NoiseTunnel(DeepLift(SMOOTH)), X,
                            {**ONE, "nt_samples": 3, "stdevs": 0.1}),
    "lrp": (LRP(RELU), X, ONE),
    "lrp_tanh": (LRP(layers(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Dropout(), nn.ReLU(),
                            nn.Linear(4, 3))), X, ONE),
    "lrp_images": (LRP(build(Pooled)), PICTURES, {"target": [2, 1]}),
    "layer_lrp": (LayerLRP(RELU, RELU[0]), X, ONE),
    "layer_lrp_input": (LayerLRP(RELU, RELU[2]), X, {**ONE, "attribute_to_layer_input": True}),
    "layer_lrp_first": (LayerLRP(RELU, RELU[0]), X, {**ONE, "attribute_to_layer_input": True}),
    "layer_lrp_layers": (LayerLRP(TANHS, [TANHS[0], TANHS[2], TANHS[3]]), X, ONE),
    "layer_lrp_images": (LayerLRP(POOLED, [POOLED.first, POOLED.pool]), PICTURES,
                         {"target": [2, 1]}),
    "tunnel_of_lrp": (NoiseTunnel(LRP(RELU)), X, {**ONE, "nt_samples": 3, "stdevs": 0.1}),
    "tunnel_of_shap": (NoiseTunnel(GradientShap(RELU)), X,
                       {**ONE, "baselines": B[:4], "n_samples": 3, "nt_samples": 2, "stdevs": 0.1}),
    "tunnel_of_deep_lift_shap": (NoiseTunnel(DeepLiftShap(RELU)), X,
                                 {**ONE, "baselines": B[:4], "nt_samples": 2, "stdevs": 0.1}),
    # functions of other kinds
    "bound_method": (Saliency(RELU.forward), X, ONE),
    "data_parallel": (Saliency(nn.DataParallel(RELU)), X, ONE),
    "data_parallel_layer": (LayerGradientXActivation(nn.DataParallel(BLOCKS), BLOCKS.first), X,
                            ONE),
}


@pytest.mark.parametrize("name", CASES)
def test_keywords(name):
    attribution, inputs, keywords = CASES[name]
    check(attribution, inputs, keywords, eps=0.03, methods=("IBP", "CROWN"), batch_size=200)


def test_batches_give_what_their_rows_give():
    certifier = lx.Certifier(LayerConductance(BLOCKS, BLOCKS.first), X, target=0, n_steps=3)
    together = certifier.certify(X, eps=0.05, target=[0, 1, 2, 0])
    for i, target in enumerate([0, 1, 2, 0]):
        alone = certifier.certify(X[i:i + 1], eps=0.05, target=target)
        torch.testing.assert_close(alone.lower, together.lower[i:i + 1], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(alone.upper, together.upper[i:i + 1], rtol=1e-9, atol=1e-12)


SPECS = {name: CASES[name]
         for name in ("gradient_x_activation", "conductance", "integrated", "layer_shap",
                      "neuron_conductance", "neuron_shap", "guided", "shap", "grad_cam")}


@pytest.mark.parametrize("name", SPECS)
def test_linear_functions(name):
    """Bounds of linear functions hold at other points, and are never wider than those of the
    box.
    """
    from tests.test_captum import neighbours, seeded

    attribution, inputs, keywords = SPECS[name]
    value = seeded(attribution.attribute, inputs, **keywords)
    C = torch.randn(2, *value.shape[1:], dtype=torch.float64,
                    generator=torch.Generator().manual_seed(2))
    certificate = seeded(lx.certify, attribution, inputs, eps=0.03, spec=C, **keywords)
    for point in (inputs, *neighbours(inputs, 0.03, 3)):
        found = torch.einsum("kd,nd->nk", C.flatten(1),
                             seeded(attribution.attribute, point, **keywords).flatten(1))
        slack = 1e-9 * (1 + found.abs())
        assert ((certificate.spec_lower - slack <= found) & (found <= certificate.spec_upper
                                                             + slack)).all()
    size = torch.einsum("kd,nd->nk", C.flatten(1).abs(), certificate.width.flatten(1))
    assert (certificate.spec_upper - certificate.spec_lower <= size * (1 + 1e-9)).all()


@pytest.mark.filterwarnings("default::UserWarning")
def test_warnings_where_captum_does_something_else():
    with pytest.warns(lx.CaptumWarning,
                      match="1 activation.* as functions, which Captum's GuidedBackprop"):
        lx.certify(GuidedBackprop(BLOCKS), X, eps=0.01, target=0)
    with pytest.warns(lx.CaptumWarning,
                      match="1 activation.* as functions, which Captum's DeepLift does not see"):
        lx.certify(DeepLift(BLOCKS), X, eps=0.01, target=0)
    with pytest.warns(lx.CaptumWarning, match="riemann_trapezoid sum to 3/4"):
        lx.certify(NeuronConductance(BLOCKS, BLOCKS.first), X, eps=0.01, target=0,
                   neuron_selector=0, n_steps=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind in (GuidedBackprop, Deconvolution, DeepLift):
            lx.certify(kind(RELU), X, eps=0.01, target=0)
    assert not [w for w in caught if "as functions" in str(w.message)]


def test_squares_of_means_are_refused():
    with pytest.raises(lx.UnsupportedAttribution, match="smoothgrad"):
        lx.certify(NoiseTunnel(DeepLiftShap(RELU)), X, eps=0.01, target=0, baselines=B[:4],
                   nt_type="vargrad")


def test_hooks_are_gone_afterwards():
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in BLOCKS.modules()]
    for name in ("conductance", "integrated", "neuron_function", "guided_sees_no_functional_relu"):
        attribution, inputs, keywords = CASES[name]
        lx.certify(attribution, inputs, eps=0.01, **keywords)
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in BLOCKS.modules()] == before


def test_layers_in_a_tuple_are_certified_part_by_part():
    attribution, inputs, keywords = CASES["gradient_x_activation_layers"]
    certificate = lx.certify(attribution, inputs, eps=0.01, **keywords)
    assert [part.shape for part in certificate.lower] == [
        part.shape for part in parts(attribution.attribute(inputs, **keywords))]
