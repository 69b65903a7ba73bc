"""Perturbation methods: linear functions of outputs at masked inputs, bounded as one function."""

import copy

import pytest
import torch
from captum._utils.models.linear_model import SkLearnLasso, SkLearnLinearRegression, SkLearnRidge
from captum.attr import (
    FeatureAblation,
    FeaturePermutation,
    KernelShap,
    LayerFeatureAblation,
    Lime,
    NeuronFeatureAblation,
    NoiseTunnel,
    Occlusion,
    ShapleyValues,
    ShapleyValueSampling,
)
from torch import nn

import lirpa_explain as lx
from lirpa_explain.attributions.ablation import ablated, marginal
from lirpa_explain.attributions.lime import coefficients
from lirpa_explain.bounding.ball import make_balls
from lirpa_explain.bounding.points import draw
from tests.nets import mlp

# Captum's own, of several examples and missing features
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

EPS = 0.05
FLOAT32 = 3e-6
"""Captum rounds most of these to float32, whatever the inputs."""


def net() -> nn.Sequential:
    return mlp(4, 8, 6, 3, seed=3)


def selected(original, perturbed, sample, **_):
    return 1.0 + float(sample.sum())


def linear_lime(model, regression=None):
    return Lime(model, regression or SkLearnRidge(alpha=0.1), similarity_func=selected)


MASK = torch.tensor([[0, 1, 1, 0]])
TARGETS = torch.tensor([0, 2, 1])
CASES = {
    "ablation": (FeatureAblation, {"target": TARGETS}),
    "ablation_groups": (FeatureAblation,
                        {"target": [0, 2, 1], "feature_mask": MASK, "baselines": 0.3}),
    "ablation_each": (FeatureAblation, {
        "target": 1, "feature_mask": torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1], [1, 0, 0, 0]])}),
    "occlusion": (Occlusion, {"target": 1, "sliding_window_shapes": (2,),
                              "baselines": torch.full((1, 4), 0.2)}),
    "occlusion_strides": (Occlusion, {"target": TARGETS, "sliding_window_shapes": (3,),
                                      "strides": (1,), "perturbations_per_eval": 2}),
    "shapley_sampling": (ShapleyValueSampling,
                         {"target": TARGETS, "n_samples": 4, "perturbations_per_eval": 3}),
    "shapley": (ShapleyValues, {"target": 0, "feature_mask": torch.tensor([[0, 1, 2, 2]])}),
    "kernel_shap": (KernelShap, {"target": TARGETS, "n_samples": 12, "baselines": 0.1}),
    "kernel_shap_groups": (KernelShap, {"target": 2, "n_samples": 9, "feature_mask": MASK,
                                        "return_input_shape": False}),
    "lime_ridge": (linear_lime, {"target": TARGETS, "n_samples": 12}),
    "lime_linear": (lambda model: linear_lime(model, SkLearnLinearRegression()),
                    {"target": 0, "n_samples": 15}),
    "layer": (lambda model: LayerFeatureAblation(model, model[1]), {"target": TARGETS}),
    "layer_input": (lambda model: LayerFeatureAblation(model, model[3]),
                    {"target": 1, "attribute_to_layer_input": True, "layer_baselines": 0.1,
                     "layer_mask": torch.tensor([[0, 0, 1, 1, 2, 2]])}),
    "permutation": (FeaturePermutation, {"target": TARGETS, "perturbations_per_eval": 3}),
    "permutation_groups": (FeaturePermutation, {"target": 1, "feature_mask": MASK}),
    "neuron": (lambda model: NeuronFeatureAblation(model, model[2]), {"neuron_selector": (3,)}),
    "tunnel": (lambda model: NoiseTunnel(FeatureAblation(model)),
               {"target": TARGETS, "nt_samples": 3, "stdevs": 0.1, "nt_samples_batch_size": 2}),
    "tunnel_drawn": (lambda model: NoiseTunnel(KernelShap(model)),
                     {"target": 0, "nt_samples": 2, "stdevs": 0.1, "n_samples": 10}),
}
BALLS = {"inf": {"eps": EPS}, "l2": {"eps": EPS, "norm": 2}, "l1": {"eps": EPS, "norm": 1},
         "clipped": {"eps": EPS, "clip": (0, 1)}}


@pytest.fixture(scope="module")
def x():
    return torch.rand(3, 4, dtype=torch.float64,
                      generator=torch.Generator().manual_seed(5)) * 0.8 + 0.1


def seeded(call, *args, **kwargs):
    torch.manual_seed(7)
    return call(*args, **copy.deepcopy(kwargs))


def assert_holds(certificate, attribute, x, ball, points=12):
    """Captum's values at points of the ball lie within the bounds."""
    balls = make_balls(x, **ball)
    generator = torch.Generator().manual_seed(0)
    for i in range(points):
        found = attribute(draw(balls[0], x, i % 2 == 0, generator))
        assert certificate.contains(found, rtol=FLOAT32).all()


TURNS = [(name, ("IBP", "CROWN")[i % 2]) for i, name in enumerate(CASES)]


@pytest.mark.parametrize(("name", "method"), [
    *TURNS, ("ablation", "CROWN"), ("occlusion", "CROWN-IBP"), ("kernel_shap", "CROWN-Optimized"),
    ("layer", "CROWN-Optimized"), ("layer_input", "CROWN"), ("tunnel_drawn", "IBP")])
def test_bounds_hold_of_captums_values(name, method, x):
    make, keywords = CASES[name]
    attribution = make(net())
    certificate = seeded(lx.certify, attribution, x, eps=EPS, method=method, **keywords)
    assert torch.equal(certificate.nominal, seeded(attribution.attribute, x, **keywords))
    assert_holds(certificate, lambda p: seeded(attribution.attribute, p, **keywords), x,
                 BALLS["inf"], 4)


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("name", ["ablation_groups", "layer", "permutation"])
def test_balls_of_all_kinds(name, ball, x):
    make, keywords = CASES[name]
    attribution = make(net())
    certificate = seeded(lx.certify, attribution, x, **BALLS[ball], **keywords)
    assert_holds(certificate, lambda p: seeded(attribution.attribute, p, **keywords), x,
                 BALLS[ball])
    assert (certificate.width > 0).any()


LINEAR = {
    "ablation": (FeatureAblation, {}), "occlusion": (Occlusion, {"sliding_window_shapes": (1,)}),
    "shapley_sampling": (ShapleyValueSampling, {"n_samples": 3}), "shapley": (ShapleyValues, {}),
    "kernel_shap": (KernelShap, {"n_samples": 30}),
    "lime": (lambda model: linear_lime(model, SkLearnLinearRegression()), {"n_samples": 30}),
}


@pytest.mark.parametrize(("name", "ball"),
                         [*((name, "inf") for name in LINEAR), ("occlusion", "l2"),
                          ("kernel_shap", "l1"), ("shapley", "clipped")])
def test_of_a_linear_model_bounds_are_exact(name, ball, x):
    """All of them are w_i (x_i - b_i), which moves by |w_i| eps and not by what the outputs move
    by.
    """
    model = nn.Linear(4, 3).double()
    make, keywords = LINEAR[name]
    certificate = seeded(lx.certify, make(model), x, target=1, baselines=0.2, **BALLS[ball],
                         **keywords)
    weight = model.weight[1].detach()
    low, high = (x - EPS, x + EPS) if ball != "clipped" else ((x - EPS).clamp(0, 1),
                                                              (x + EPS).clamp(0, 1))
    ends = torch.stack([weight * (low - 0.2), weight * (high - 0.2)])
    torch.testing.assert_close(certificate.lower.double(), ends.amin(0), rtol=0, atol=3e-6)
    torch.testing.assert_close(certificate.upper.double(), ends.amax(0), rtol=0, atol=3e-6)


@pytest.mark.parametrize("name", ["occlusion", "layer"])
def test_a_batch_gives_what_its_rows_give_and_no_ball_gives_no_width(name, x):
    make, keywords = CASES[name]
    attribution = make(net())
    whole = seeded(lx.certify, attribution, x, eps=EPS, batch_size=5, **keywords)
    for i in range(3):
        own = {key: value[i:i + 1] if value is TARGETS else value
               for key, value in keywords.items()}
        one = seeded(lx.certify, attribution, x[i:i + 1], eps=EPS, **own)
        torch.testing.assert_close(one.lower, whole.lower[i:i + 1], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(one.upper, whole.upper[i:i + 1], rtol=1e-6, atol=1e-9)
    assert (seeded(lx.certify, attribution, x, eps=0.0, **keywords).width < 1e-5).all()


def test_outputs_meet_in_x(x):
    """The difference of f and its ablation, by CROWN, is near to what is attained, and not twice
    the range of f.
    """
    model = net()
    certificate = lx.certify(FeatureAblation(model), x, eps=EPS, target=0)
    points = x + EPS * (
        2 * torch.randint(0, 2, (300, 3, 4), generator=torch.Generator().manual_seed(0)) - 1)
    found = torch.stack([FeatureAblation(model).attribute(p, target=0) for p in points])
    found = found.amax(0) - found.amin(0)
    assert certificate.width.mean() < 1.5 * found.mean()
    assert lx.certify(FeatureAblation(model), x, eps=EPS, target=0,
                      method="IBP").width.mean() > 3 * found.mean()


def test_functions_of_combinations(x):
    """Shapley values sum to f(x) - f(b): by propagation, the sum's bounds are those of f."""
    model = net()
    spec = torch.ones(1, 4, dtype=torch.float64)
    certificate = lx.certify(ShapleyValues(model), x, eps=EPS, target=0, spec=spec)
    low, high = certificate.region_sum(spec[0], refine="spec")
    box_low, box_high = certificate.region_sum(spec[0])
    assert (high - low < 0.9 * (box_high - box_low)).all()
    torch.testing.assert_close(low.double(), certificate.spec_lower[:, 0], rtol=1e-6, atol=1e-6)
    part = certificate[[2, 0]].region_sum(spec[0], refine="spec")
    torch.testing.assert_close(torch.stack(part), torch.stack([low[[2, 0]], high[[2, 0]]]),
                               rtol=1e-6, atol=1e-6)
    points = x + EPS * (2 * torch.rand(200, 3, 4, generator=torch.Generator().manual_seed(0),
                                       dtype=torch.float64) - 1)
    total = model(points)[..., 0] - model(torch.zeros(1, 4, dtype=torch.float64))[0, 0]
    assert (low - 1e-6 <= total.amin(0)).all() and (total.amax(0) <= high + 1e-6).all()


class Several(nn.Module):
    """Two inputs and a further argument with rows."""

    def __init__(self):
        super().__init__()
        self.first, self.second = mlp(4, 6, 3, seed=1), mlp(2, 6, 3, activation=nn.Tanh, seed=2)

    def forward(self, a, b, scale, number):
        return self.first(a) * scale[:, None] + number * self.second(b)


@pytest.mark.parametrize("kind",
                         [FeatureAblation, FeaturePermutation, ShapleyValueSampling, KernelShap])
def test_several_inputs_groups_across_them_and_further_arguments(kind, x):
    pair = x, x[:, :2] * 2
    keywords = {"target": TARGETS,
                "additional_forward_args": (torch.tensor([1.0, 2.0, 0.5]).double(), 3),
                "feature_mask": (torch.tensor([[0, 0, 1, 2]]), torch.tensor([[1, 2]])),
                **({} if kind is FeaturePermutation else {"baselines": (0.1, 0.0)})}
    attribution = kind(Several())
    certificate = seeded(lx.certify, attribution, pair, eps=(EPS, None), **keywords)
    for seed in range(4):
        noise = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = seeded(attribution.attribute, (x + EPS * (2 * noise - 1), pair[1]), **keywords)
        assert certificate.contains(found, rtol=FLOAT32).all()


def test_weights_are_captums():
    """Of ablation and of permutations, by hand: two features, masked in turn."""
    masks = torch.tensor([[[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]])
    weights, index = ablated(masks, False)
    assert weights[0][index[0]].tolist() == [[1, -1, 0], [1, 0, -1]]
    masks = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]])
    weights, index = marginal(masks, 2)
    assert (2 * weights[0][index[0]]).tolist() == [[-1, 1, 0, -1, 1], [-1, -1, 1, 1, 0]]


def test_permuted_features_of_a_linear_model_are_exact_in_both_examples(x):
    """w_i (x_i - z_i) with z another example: where it is the example itself, nothing is left of
    either.
    """
    model = nn.Linear(4, 3).double()
    x = torch.cat([x, x.flip(0) + 0.3])
    radius = torch.linspace(0.01, 0.06, 6, dtype=torch.float64)[:, None]
    shift = torch.tensor([1, 2, 3, 4, 5, 0])

    def cyclic(rows, mask):
        swapped = torch.where(torch.arange(len(rows))[:, None] == 5, rows, rows[shift])
        return torch.where(mask, swapped, rows)

    certificate = lx.certify(FeaturePermutation(model, cyclic), x, eps=radius.expand(6, 4),
                             target=1)
    reach = model.weight[1].detach().abs() * (radius + radius[shift])
    reach[5] = 0
    torch.testing.assert_close(certificate.upper - certificate.lower, 2 * reach, rtol=1e-9,
                               atol=1e-9)
    with pytest.raises(lx.UnsupportedAttribution, match="no radius by itself"):
        certificate.radius(lambda c: c.sign()[:, 0] != 0, high=0.1)
    with pytest.raises(ValueError, match="cannot be refined.*outputs at masked inputs"):
        certificate.refine()


def test_coefficients_are_those_of_the_normal_equations():
    from sklearn.linear_model import Ridge

    generator = torch.Generator().manual_seed(0)
    coalitions = torch.randint(0, 2, (20, 3), generator=generator).float()
    weight = torch.rand(20, generator=generator) + 0.5
    matrix, error = coefficients(Ridge(alpha=0.3), coalitions, weight)
    x, w = coalitions.double(), weight.double()
    center = x - (w[:, None] * x).sum(0) / w.sum()
    by_hand = torch.linalg.solve(center.T @ (w[:, None] * center) + 0.3 * torch.eye(3).double(),
                                 center.T * w)
    torch.testing.assert_close(matrix, by_hand, rtol=1e-9, atol=1e-12)
    assert (error < 1e-4).all()


def test_the_users_lime_and_random_state_stay_as_they_are(x):
    lime = linear_lime(net())
    lime.attribute(x, target=0, n_samples=8)
    before = lime.interpretable_model.linear.weight.clone()
    state = torch.get_rng_state()
    lx.certify(lime, x, eps=EPS, target=0, n_samples=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(lime.interpretable_model.linear.weight, before)


def custom(sample, original, **_):
    return original * sample[0].to(original)


def own_transform(model):
    lime = linear_lime(model)
    lime.from_interp_rep_transform = custom
    return lime


def rolled(x, mask):
    return torch.stack([x[:, i].roll(i + 1) for i in range(x.shape[1])], 1)


REFUSED = {
    "lasso": (Lime, {}, "SkLearnLasso.*SkLearnLinearRegression"),
    "lasso given": (lambda model: linear_lime(model, SkLearnLasso(alpha=0.1)), {},
                    "SkLearnLasso.*KernelShap"),
    "positive": (lambda model: linear_lime(model, SkLearnLinearRegression(positive=True)), {},
                 "positive"),
    "kernel": (lambda model: Lime(model, SkLearnRidge(alpha=0.1)), {}, "weights or coalitions that "
               "depend on the in"),
    "transform": (own_transform, {}, "from_interp_rep_transform"),
    "permutation_tunnel": (lambda model: NoiseTunnel(FeaturePermutation(model)), {},
                           "other examples of its batch"),
    "permutation_sums": (lambda model: FeaturePermutation(model, lambda x, _: x + 0.5), {},
                         "more than move entries"),
    "permutation_several": (lambda model: FeaturePermutation(model, rolled), {},
                            "from several examples"),
    "squares": (lambda model: NoiseTunnel(FeatureAblation(model)),
                {"nt_type": "smoothgrad_sq", "stdevs": 0.1, "nt_samples": 2}, "smoothgrad"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_linear_in_the_outputs_is_refused(name, x):
    make, keywords, words = REFUSED[name]
    with pytest.raises(lx.UnsupportedAttribution, match=words):
        lx.certify(make(net()), x, eps=EPS, target=0, **keywords)


def test_other_ways_of_bounding(x):
    """Outward roundings where Captum's are known; training's bounds; a module; an attack within the
    bounds.
    """
    model = net()
    for kind in (FeatureAblation, FeaturePermutation):
        proven = lx.certify(kind(model.float()), x.float(), eps=EPS, target=0, rounding="outward")
        assert proven.contains(proven.nominal, rtol=0).all()
    with pytest.raises(ValueError, match="rounding='outward' does not go with KernelShap"):
        lx.certify(KernelShap(model), x.float(), eps=EPS, target=0, rounding="outward")
    model.double()
    for kind, method in ((FeatureAblation, "IBP"), (FeaturePermutation, "IBP"),
                         (FeatureAblation, "CROWN")):
        certificate = seeded(lx.certify, kind(model), x, eps=EPS, target=0, method=method)
        bounds = seeded(lx.Certifier(kind(model), method=method).bounds, x, eps=EPS, target=0)
        torch.testing.assert_close(bounds.lower, certificate.lower, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(bounds.value, certificate.nominal, rtol=1e-9, atol=1e-12)
        bounds.width.mean().backward()
        assert all(layer.weight.grad is not None for layer in model if isinstance(layer, nn.Linear))
    with pytest.raises(lx.UnsupportedAttribution, match="is no module"):
        lx.AttributionModule(FeaturePermutation(model), x, target=0)
    module = lx.AttributionModule(FeatureAblation(model), x, target=0)
    torch.testing.assert_close(module(x), certificate.nominal.flatten(1), rtol=1e-9, atol=1e-12)
    for kind in (FeatureAblation, FeaturePermutation):
        certificate = lx.certify(kind(model), x, eps=EPS, target=0)
        sandwich = certificate.sandwich("max_change",
                                        settings={"samples": 5, "restarts": 1, "steps": 3})
        assert ((sandwich.found <= sandwich.certified + 1e-9).all()
                and (sandwich.found > 0.4 * sandwich.certified).all())
