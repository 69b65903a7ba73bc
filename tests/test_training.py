"""Training on bounds: interval pass, gradients by parameters, losses, schedules, loops."""

import copy
import functools
import gc
import math
import weakref

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from torch import nn
from torch.nn import functional as F

import lirpa_explain as lx
from lirpa_explain.bounding.engine import Engine
from lirpa_explain.bounding.interval import Interval
from lirpa_explain.bounding.intervals import IntervalPass
from lirpa_explain.bounding.kinks import KINK_RULES, _Kink, _KinkGradient
from lirpa_explain.boxes import Box
from lirpa_explain.certifying import nominal, posed, traces
from lirpa_explain.graph import capture
from lirpa_explain.relaxations.piecewise import step_range
from lirpa_explain.relaxations.ranges import product_range
from lirpa_explain.training import (
    LOSSES,
    ExplanationLoss,
    Ramp,
    certified_cross_entropy,
    explanation_loss,
)
from lirpa_explain.training.losses import Loss, register
from tests.cases import CASES, boxes, problem
from tests.nets import mlp
from tests.test_layers import LAYERS

MASK = torch.tensor([True, False, False, True, False])
OPTIONS = {"metric": {"name": "cosine"}, "top_k": {"k": 2}, "protected": {"mask": MASK, "k": 2},
           "protected_ratio": {"mask": MASK, "k": 2},
           "region": {"mask": MASK}}
ATTRIBUTIONS = {
    "gradient": (None, {}),
    "integrated": (IntegratedGradients, {"n_steps": 3}),
    "smoothed": (lambda model: NoiseTunnel(Saliency(model)),
                 {"nt_samples": 3, "stdevs": 0.1, "abs": False}),
}


def small(activation=nn.ReLU, outputs=3):
    return mlp(5, 8, outputs, activation=activation).train()


def batch(count=6, outputs=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(outputs, (count,), generator=generator)


# The interval pass


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_interval_pass_is_the_engine_on_every_operator(case):
    made = problem(case)
    kinds = boxes(made, "wide", "point", "tiny")
    lower, upper = zip(*kinds, strict=True)
    rest = tuple(t.repeat(len(lower[0]) // len(t), *[1] * (t.ndim - 1)) for t in made.rest)
    perturbations = tuple(lx.Ball(math.inf, *box, None, "").rows(torch.arange(len(box[0])))
                          for box in kinds)
    middle = tuple((low + high) / 2 for low, high in kinds)
    engine = Engine(made.module, tuple(t[:3] for t in (*middle, *rest)))((*middle, *rest),
                                                                         perturbations, "IBP")
    found = IntervalPass(made.module)((*middle, *rest), [Interval(box) for box in kinds])
    # The engine moves what relaxations read outward by roundings.
    for side, other in zip(found.ends, engine, strict=True):
        torch.testing.assert_close(side, other, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", [pytest.param(
    name, marks=() if name in ("layer-norm", "max-pool-1d", "attention") else pytest.mark.slow)
                                  for name in LAYERS])
def test_the_interval_pass_is_the_engine_on_every_layer(name):
    torch.manual_seed(0)
    model = LAYERS[name]().double().eval()
    x = torch.rand(2, 5, dtype=torch.float64)
    module = capture(model, (x,))
    cotangent = torch.randn(2, *module.cotangent_shape, dtype=torch.float64)
    engine = Engine(module, module.example)
    for ball in (lx.Ball(math.inf, x - 0.01, x + 0.02, None, ""),
                 *(lx.Ball(norm, x - 0.01, x + 0.01, torch.full((2, 1), 0.01).double(), "")
                   for norm in (1, 2))):
        box = Interval(Box(ball.low, ball.high))
        expected = engine((x, cotangent), (ball.rows(torch.arange(2)),), "IBP")
        for side, other in zip(IntervalPass(module)((x, cotangent), (box,)).ends, expected,
                               strict=True):
            torch.testing.assert_close(side, other, rtol=1e-7, atol=1e-8)


def test_one_radius_for_all_rows_is_that_radius_in_every_row():
    model, (x, _) = small(), batch()
    module = capture(model, (x,))
    cotangent = torch.eye(3).double().repeat(2, 1)
    common, each = (IntervalPass(module)((x, cotangent),
                                         (Interval(around=(x, x.new_full((rows, 5), 0.1))),))
                    for rows in (1, 6))
    torch.testing.assert_close(common.lower, each.lower)
    torch.testing.assert_close(common.width, each.upper - each.lower)


@functools.cache
def certifier_of(name, method):
    """Of the small model's attributions at the batch, for the balls of several tests."""
    attribution, keywords = (InputXGradient, {}) if name == "product" else ATTRIBUTIONS[name]
    keywords = {"abs": False, **keywords} if attribution is None else keywords
    return lx.Certifier((attribution or Saliency)(small()), method=method, target=batch()[1],
                        **keywords)


@pytest.mark.parametrize("method", ["IBP", "CROWN"])
@pytest.mark.parametrize("norm", [math.inf, 2, 1])
@pytest.mark.parametrize("name", [*ATTRIBUTIONS, "product"])
def test_bounds_are_those_of_a_certificate(name, norm, method):
    certifier, (x, _) = certifier_of(name, method), batch()
    torch.manual_seed(5)
    certificate = certifier.certify(x, eps=0.05, norm=norm)
    torch.manual_seed(5)  # of the noise
    bounds = certifier.bounds(x, eps=0.05, norm=norm)
    for side in ("lower", "upper"):
        torch.testing.assert_close(getattr(bounds, side), getattr(certificate, side), rtol=1e-9,
                                   atol=1e-12)
    torch.testing.assert_close(bounds.value, certificate.nominal)
    torch.testing.assert_close(bounds.width, certificate.width, rtol=1e-9, atol=1e-12)
    assert bounds.shaped(bounds.lower).shape == x.shape


def test_bounds_takes_no_keyword_that_would_change_what_is_bounded():
    x, y = batch()
    with pytest.raises(ValueError, match="integral"):
        lx.Certifier(IntegratedGradients(small()), target=y).bounds(x, eps=0.1, integral="exact")


# Gradients


@pytest.mark.parametrize("method", ["IBP", "CROWN"])
@pytest.mark.parametrize("name", ATTRIBUTIONS)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_losses_pass_gradcheck_in_all_parameters(activation, name, method):
    attribution, keywords = ATTRIBUTIONS[name]
    model = mlp(2, 3, 2, activation=activation).train()
    x, y = torch.rand(2, 2, dtype=torch.float64), torch.tensor([0, 1])
    loss = ExplanationLoss(model, eps=0.05, attribution=attribution, method=method,
                           reduction="none", **keywords)

    def value(*_):  # gradcheck changes the model's own parameters, in place
        torch.manual_seed(5)
        return loss(x, y)

    assert torch.autograd.gradcheck(value, tuple(model.parameters()))


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_the_rules_of_kinks_pass_gradcheck(slope):
    """Away from the kinks, with radii of their own and one radius for all rows."""
    generator = torch.Generator().manual_seed(0)
    center = torch.randn(4, 3, generator=generator).double().requires_grad_()
    z, reach = (torch.randn(4, 3, generator=generator).double(),
                torch.rand(1, 3, generator=generator).double())
    for rows in (4, 1):
        radius = torch.rand(rows, 3, generator=generator).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda c, r: _Kink.apply(c, r, slope), (center, radius))
        assert torch.autograd.gradcheck(lambda c, r: _KinkGradient.apply(c, r, z, reach, slope),
                                        (center, radius))


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_the_rules_of_kinks_are_those_of_the_relaxations(slope):
    """Also where an interval touches 0, is a point, or one row of g stands for all."""
    generator = torch.Generator().manual_seed(1)
    center, radius = (torch.randint(-2, 3, (200, 4), generator=generator).double()
                      for _ in range(2))
    z = Interval(around=(center.requires_grad_(), radius.abs() + 1e-3 * (radius == 0)))
    ends = tuple(end.detach() for end in z.ends)
    g = Interval(Box(-torch.rand(1, 4, generator=generator).double(),
                     torch.rand(1, 4, generator=generator).double()))
    expected = product_range(g.ends, step_range(*ends, slope))
    again = Interval(around=z.around)
    for side, other in zip(KINK_RULES["kink_gradient"](g, again, slope=slope).ends, expected,
                           strict=True):
        torch.testing.assert_close(side, other)
    for side, end in zip(KINK_RULES["kink"](again, slope=slope).ends, ends, strict=True):
        torch.testing.assert_close(side.detach(), F.leaky_relu(end, slope))
    assert again.lower.requires_grad  # what a rule reads without a gradient others read with one


class Additive(nn.Module):
    """Its gradient for the second input does not depend on the inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.other = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(3, 2)

    def forward(self, a, b):
        return self.last(torch.relu(self.first(a))) + self.other(b)


def test_gradients_that_do_not_move_are_entries_too():
    """Side by side with those that do: the loss is that of all entries."""
    torch.manual_seed(0)
    model, inputs = Additive().double(), (torch.rand(2, 4).double(), torch.rand(2, 3).double())
    loss = explanation_loss(model, inputs, torch.tensor([0, 1]), eps=0.1)
    certificate = lx.certify(Saliency(model), inputs, eps=0.1, target=[0, 1], abs=False,
                             method="IBP")
    widths = torch.cat([upper - lower for lower, upper in zip(certificate.lower, certificate.upper,
                                                              strict=True)], 1)
    # certificates move bounds outward
    assert loss.item() == pytest.approx(widths.mean().item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_differentiable_and_have_a_row_for_each_example(name):
    model, (x, y) = small(), batch()
    loss = ExplanationLoss(model, eps=0.05, loss=name, options=OPTIONS.get(name), reduction="none")
    each = loss(x, y)
    assert each.shape == (6,) and each.isfinite().all()
    for row in range(2):
        torch.testing.assert_close(loss(x[row:row + 1], y[row:row + 1])[0], each[row])
    each.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all()
               for p in (model[0].weight, model[2].weight))
    assert model[0].weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert not loss(x, y).requires_grad


def test_losses_of_the_same_bounds_are_added_up():
    model, (x, y) = small(), batch()
    options = {"top_k": {"k": 2, "margin": 0.5}}
    both = explanation_loss(model, x, y, eps=0.1, loss={"top_k": 2.0, "width": 0.5},
                            options=options)
    each = [explanation_loss(model, x, y, eps=0.1, loss="top_k", options=options["top_k"]),
            explanation_loss(model, x, y, eps=0.1)]
    torch.testing.assert_close(both, 2 * each[0] + 0.5 * each[1])
    for loss, given in (({}, None), ({"width": 1.0}, {"k": 2}),
                        ({"width": 1.0}, {"width": {"k": 2}})):
        with pytest.raises(ValueError, match="loss names|width"):
            explanation_loss(model, x, y, eps=0.1, loss=loss, options=given)


@pytest.mark.parametrize("net", ["dense", "convolutions"])
@pytest.mark.parametrize("eps", [None, 0.05])
@pytest.mark.parametrize("method", ["IBP", "CROWN"])
def test_bounds_under_changes_of_the_parameters_are_those_of_a_certificate(net, eps, method):
    torch.manual_seed(3)
    if net == "dense":
        model, x = small(nn.Softplus), batch(3)[0]
    else:
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 2),
                              nn.PReLU(), nn.Flatten(), nn.Linear(18, 3)).double().eval()
        x = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    certifier = lx.Certifier(Saliency(model), method=method, abs=False)
    given = {"eps": eps, "target": 1, "parameters": lx.ParameterBox(relative=0.02, absolute=0.001)}
    bounds, certificate = certifier.bounds(x, **given), certifier.certify(x, **given)
    for side in ("lower", "upper"):
        torch.testing.assert_close(bounds.shaped(getattr(bounds, side)), getattr(certificate, side),
                                   rtol=1e-8, atol=1e-10)
    assert bounds.width.mean() > 0
    bounds.width.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all()
               for p in model.parameters() if p.ndim > 1)


def test_training_makes_explanations_survive_changes_of_the_parameters():
    model, (x, y) = small(), batch(12)
    given = {"parameters": lx.ParameterBox(relative=0.05), "loss": "relative_width"}
    before = explanation_loss(model, x, y, **given).item()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20):
        optimizer.zero_grad()
        (torch.nn.functional.cross_entropy(model(x), y) + explanation_loss(model, x, y,
                                                                           **given)).backward()
        optimizer.step()
    assert explanation_loss(model, x, y, **given) < 0.8 * before


# What losses mean

CERTIFIED = {
    "signs": lambda c: (c.sign() != 0).all(1),
    "top_k": lambda c: c.top_k_overlap(2) == 2,
    "protected": lambda c: c.metric("protected_top_k", mask=MASK, k=2, absolute=True) == 0,
    "protected_ratio": lambda c: c.metric("protected_top_k", mask=MASK, k=2, absolute=True) == 0,
    "region": lambda c: c.metric("share_upper", mask=~MASK) == 0,
}
NUMBER = {
    "width": lambda c: c.width.mean(1),
    "relative_width": lambda c: c.width.mean(1) / c.nominal.abs().mean(1),
    "metric": lambda c: -c.metric("cosine"),
    "squared_change": lambda c: c.metric("targeted_region"),
    "l1": lambda c: c.max_change(1),
    "l2": lambda c: c.max_change(2),
    "linf": lambda c: c.max_change(math.inf),
}


def test_every_loss_has_a_meaning_that_is_tested():
    assert set(CERTIFIED) | set(NUMBER) == set(LOSSES) and not set(CERTIFIED) & set(NUMBER)
    assert set(CERTIFIED) == {name for name, row in LOSSES.items() if row.zero}


@pytest.mark.parametrize("name", CERTIFIED)
def test_a_loss_of_zero_is_a_certificate(name):
    model, (x, y) = small(), batch(12)
    if name == "region":
        with torch.no_grad():
            model[0].weight[:, ~MASK] = 0
    seen = set()
    for eps in (0.001, 0.05, 0.3):
        zero = explanation_loss(model, x, y, eps=eps, loss=name, options=OPTIONS.get(name),
                                reduction="none") == 0
        certificate = lx.certify(Saliency(model), x, eps=eps, method="IBP", target=y, abs=False)
        assert not (zero & ~CERTIFIED[name](certificate)).any()
        seen |= set(zero.tolist())
    assert True in seen


@pytest.mark.parametrize("name", NUMBER)
def test_a_loss_is_the_number_of_the_certificate(name):
    model, (x, y) = small(), batch()
    certificate = lx.certify(Saliency(model), x, eps=0.05, method="IBP", target=y, abs=False)
    found = explanation_loss(model, x, y, eps=0.05, loss=name, options=OPTIONS.get(name),
                             reduction="none")
    torch.testing.assert_close(found.detach(), NUMBER[name](certificate), rtol=1e-7, atol=1e-8)
    for reduction, total in (("mean", found.mean()), ("sum", found.sum())):
        torch.testing.assert_close(explanation_loss(model, x, y, eps=0.05, loss=name,
                                                    options=OPTIONS.get(name),
                                                    reduction=reduction), total)


def test_the_bound_of_the_cosine_has_the_derivative_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    nominal = torch.randn(4, 6, generator=generator).double()
    # Not around the nominal value, where all terms of the bound change sides at once.
    below, above = (torch.tensor([[0.1], [0.3], [2.0], [9.0]])
                    * torch.rand(4, 6, generator=generator).double() for _ in range(2))
    metric = lx.METRICS["cosine"].function
    sides = [t.requires_grad_() for t in (nominal - below, nominal + above, nominal.clone())]
    least = metric(*sides)
    assert (least > 0).any() and (least < 0).any()
    directions = [torch.randn(4, 6, generator=generator).double() for _ in sides]
    there, back = (metric(*[t + s * 1e-6 * d for t, d in zip(sides, directions, strict=True)])
                   for s in (1, -1))
    for row in range(4):
        gradients = torch.autograd.grad(least[row], sides, retain_graph=True)
        slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        torch.testing.assert_close(slope, (there - back)[row] / 2e-6, rtol=1e-4, atol=1e-6)


def test_a_count_cannot_be_trained():
    x, y = batch()
    with pytest.raises(ValueError, match="no derivative"):
        explanation_loss(small(), x, y, eps=0.1, loss="metric", options={"name": "sign_agreement"})


def test_losses_are_registered_once(monkeypatch):
    monkeypatch.setitem(LOSSES, "lowest", None)  # as the table was, afterwards
    del LOSSES["lowest"]
    row = Loss("lowest", lambda bounds: -bounds.lower.amin(1), "-min l", ("lower",))
    register(row)
    with pytest.raises(ValueError, match="overwrite"):
        register(row)
    x, y = batch()
    assert explanation_loss(small(), x, y, eps=0.1, loss="lowest").ndim == 0


@pytest.mark.parametrize("keywords, error, message", [
    ({"loss": "nothing"}, ValueError, "no loss"), ({"options": {"k": 1}}, ValueError, "options"),
    ({"reduction": "max"}, ValueError, "reduction"), ({"method": "nothing"}, ValueError, "method"),
    ({"loss": "top_k", "options": {"k": 9}}, ValueError, "k"),
    ({"n_steps": 3}, (TypeError, ValueError), "n_steps"),
    ({"loss": "region", "options": {"mask": torch.ones(4)}}, ValueError, "mask"),
    ({"eps": -1.0}, ValueError, "eps"),
])
def test_bad_arguments_are_refused(keywords, error, message):
    x, y = batch()
    with pytest.raises(error, match=message):
        explanation_loss(small(), x, y, **{"eps": 0.1, **keywords})
    with pytest.raises(TypeError, match="Module"):
        explanation_loss(lambda x: x, x, y, eps=0.1)


# Models and loops


@pytest.mark.parametrize("shape", [(1,), ()])
def test_models_of_one_output_need_no_target(shape):
    model = nn.Sequential(small(outputs=1), nn.Flatten(0) if shape == () else nn.Identity())
    x, y = batch(outputs=2)
    found = explanation_loss(model, x, y, eps=0.05)
    torch.testing.assert_close(found, explanation_loss(model, x, eps=0.05))
    certificate = lx.certify(Saliency(model), x, eps=0.05, method="IBP", abs=False)
    torch.testing.assert_close(found.detach(), certificate.width.mean())


def test_nothing_of_the_users_is_changed():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5),
                          nn.Linear(8, 3)).double()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    x, y = batch()
    x.requires_grad_()

    def state():
        return ([m.training for m in model.modules()],
                [p.requires_grad for p in model.parameters()], [p.grad for p in model.parameters()],
                x.grad, [len(m._forward_hooks) for m in model.modules()],
                [list(vars(m)) for m in model.modules()], torch.get_rng_state().tolist(),
                [(n, t.tolist()) for n, t in model.state_dict().items()])

    before = state()
    losses = [explanation_loss(model, x, y, eps=0.05, method=method) for method in ("IBP", "CROWN")]
    certified_cross_entropy(model, x, y, eps=0.05)
    assert state() == before
    losses[0].backward()
    assert model[0].bias.grad is None and model[0].weight.grad is not None and x.grad is None
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())


def test_training_mode_means_the_bounds_of_eval_mode_and_current_statistics(monkeypatch):
    traced = []
    capture_program = traces.capture_program
    monkeypatch.setattr(traces, "capture_program", lambda *a,
                        **k: traced.append(1) or capture_program(*a, **k))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5),
                          nn.Linear(8, 3)).double()
    x, y = batch()
    for _ in range(3):
        model(3 * x)  # moves the statistics
        found = explanation_loss(model, x, y, eps=0.05)
    assert len(traced) == 1
    model.eval()
    certificate = lx.certify(Saliency(model), x, eps=0.05, method="IBP", target=y, abs=False)
    torch.testing.assert_close(found.detach(), certificate.width.mean())


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_cached_models_are_collected(name):
    attribution, keywords = ATTRIBUTIONS[name]
    model, (x, y) = small(), batch()
    explanation_loss(model, x, y, eps=0.05, attribution=attribution, **keywords)
    certified_cross_entropy(model, x, y, eps=0.05)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_a_trace_that_contradicts_captum_is_refused(monkeypatch):
    x, y = batch()
    model = small()
    monkeypatch.setattr(posed, "attribute", lambda *a: wrong(*a))

    def wrong(*arguments):
        right = nominal.attribute(*arguments)
        return nominal.Nominal(tuple(part + 1 for part in right.parts), right.is_tuple, right.delta)

    for _ in range(2):
        with pytest.raises(lx.SoundnessError):
            explanation_loss(model, x, y, eps=0.05)


@pytest.mark.parametrize("method", ["IBP", "CROWN"])
@pytest.mark.parametrize("name", ["width", "signs", "top_k"])
def test_training_makes_bounds_tight(name, method):
    model, (x, y) = small(), batch(12)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    loss = ExplanationLoss(model, eps=0.2, loss=name, options=OPTIONS.get(name), method=method)

    def relative():
        certificate = lx.certify(Saliency(model), x, eps=0.2, target=y, abs=False)
        return ((certificate.width.mean() / certificate.nominal.abs().mean()).item(),
                loss(x, y).item())

    before = relative()
    for _ in range(20):
        optimiser.zero_grad()
        (F.cross_entropy(model(x), y) + loss(x, y)).backward()
        optimiser.step()
    after = relative()
    assert after[0] < before[0] and after[1] < before[1]


def test_the_certified_cross_entropy_is_that_of_the_worst_logits():
    model, (x, y) = small(), batch()
    found = certified_cross_entropy(model, x, y, eps=0.1, reduction="none")
    prediction = lx.certify_prediction(model, x, eps=0.1, method="IBP")
    ball = x[None] + 0.1 * (
        2 * torch.rand(200, 6, 5, generator=torch.Generator().manual_seed(0)).double() - 1)
    sampled = F.cross_entropy(model(ball).flatten(0, 1), y.repeat(200),
                              reduction="none").reshape(200, 6).amax(0)
    assert (found >= sampled).all()
    same = prediction.classes == y
    # merged with the last layer
    assert (found[same] <= -prediction.confidence_lower[same].log() + 1e-9).all()
    torch.testing.assert_close(certified_cross_entropy(model, x, y, eps=0.0),
                               F.cross_entropy(model(x), y))
    names = [name for name, _ in model.named_parameters()]

    def value(*tensors):
        """By the formula: bounds of the hidden layer, and the last layer's differences."""
        w = dict(zip(names, tensors, strict=True))
        z = F.linear(x, w["0.weight"], w["0.bias"])
        spread = 0.1 * w["0.weight"].abs().sum(1)
        low, high = (z - spread).relu(), (z + spread).relu()
        difference = w["2.weight"][y][:, None] - w["2.weight"][None]
        margin = torch.einsum("nkh,nh->nk", difference, (low + high) / 2) - torch.einsum(
            "nkh,nh->nk", difference.abs(),
            (high - low) / 2) + w["2.bias"][y][:, None] - w["2.bias"]
        return torch.logsumexp(-margin, 1)

    torch.testing.assert_close(found, value(*model.parameters()))
    expected = torch.autograd.grad(value(*model.parameters()).sum(), list(model.parameters()))
    for gradient, other in zip(torch.autograd.grad(found.sum(), list(model.parameters())), expected,
                               strict=True):
        torch.testing.assert_close(gradient, other)


def test_the_certified_cross_entropy_of_one_output():
    model = small(outputs=1)
    x, y = batch(outputs=2)
    expected = F.binary_cross_entropy_with_logits(model(x)[:, 0], y.double())
    torch.testing.assert_close(certified_cross_entropy(model, x, y, eps=0.0), expected)
    assert certified_cross_entropy(model, x, y, eps=0.1) > expected
    with pytest.raises(ValueError, match="labels"):
        certified_cross_entropy(model, x, y + 1, eps=0.1)


# Schedules and checkpoints


@pytest.mark.parametrize("shape", ["linear", "smooth", "exponential"])
def test_ramps_rise_from_start_to_stop(shape):
    ramp = Ramp(0.01, 0.1, begin=10, end=30, shape=shape)
    values = [ramp(step) for step in range(50)]
    assert set(values[:11]) == {0.01} and set(values[30:]) == {0.1}
    assert values == sorted(values) and len(set(values)) == 21
    assert Ramp(0.3, 0.2, end=0)(0) == 0.2
    if shape != "exponential":
        assert values[20] == pytest.approx(0.055)


@pytest.mark.parametrize("arguments", [{"shape": "round"}, {"begin": 5}, {"stop": math.inf},
                                       {"shape": "exponential"}])
def test_ramps_that_cannot_be_are_refused(arguments):
    with pytest.raises(ValueError):
        Ramp(**{"start": 0.0, "stop": 1.0, "end": 3, **arguments})


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_a_checkpoint_resumes_bit_by_bit(name, tmp_path):
    attribution, keywords = ATTRIBUTIONS[name]
    x, y = batch(24)

    def start():
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)).double()
        return model, torch.optim.Adam(model.parameters(), 0.01), Ramp(0.0, 0.1, end=6, begin=1)

    def train(model, optimiser, eps, steps):
        for _ in range(steps):
            index = torch.randperm(24)[:8]
            optimiser.zero_grad()
            loss = explanation_loss(model, x[index], y[index], eps=eps.value,
                                    attribution=attribution, **keywords)
            (F.cross_entropy(model(x[index]), y[index]) + loss).backward()
            optimiser.step()
            eps.step()
        return model.state_dict()

    torch.manual_seed(0)
    model, optimiser, eps = start()
    train(model, optimiser, eps, 4)
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(),
                "eps": eps.state_dict(),
                "random": torch.get_rng_state()}, tmp_path / "checkpoint.pt")
    expected = copy.deepcopy(train(model, optimiser, eps, 4))

    saved = torch.load(tmp_path / "checkpoint.pt")
    again = start()
    for part, state in zip(again, (saved["model"], saved["optimiser"], saved["eps"]), strict=True):
        part.load_state_dict(state)
    torch.set_rng_state(saved["random"])
    found = train(*again, 4)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    with pytest.raises(ValueError, match="state"):
        eps.load_state_dict({"steps": 3})
