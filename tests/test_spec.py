"""Linear functions of an attribution, and what they decide that the box cannot."""

import functools
import itertools

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.certificates import refine
from tests.nets import make
from tests.test_soundness import attributions_of
from tests.tolerances import ROUNDING
from tests.truth import assert_inside, ball, flat, parts, values_at

KINDS = [kind for kind in attributions_of(nn.Identity())]
EPS, TOLERANCE = 0.03, ROUNDING[torch.float64]


@functools.lru_cache
def case(kind, name="mlp", activation="tanh"):
    """Inputs, the certifier of an attribution, and Captum's values at points of the ball, the
    inputs first.
    """
    model, x = make(name, activation)
    attribution, keywords = attributions_of(model)[kind]
    keywords["target"] = [0, 2, 1]
    certifier = lx.Certifier(attribution, x, iterations=3, **keywords)
    return x, certifier, values_at(attribution, ball(x, EPS, count=40), seed=3, **keywords)


def certified(kind, name="mlp", activation="tanh", **more):
    x, certifier, values = case(kind, name, activation)
    torch.manual_seed(3)
    return certifier.certify(x, eps=EPS, **more), values


def functions(x, count=5):
    generator = torch.Generator().manual_seed(0)
    found = tuple(torch.randn(count, *part.shape[1:], generator=generator, dtype=torch.float64)
                  for part in parts(x))
    return found if isinstance(x, tuple) else found[0]


def of_box(C, lower, upper):
    return torch.where(C > 0, C * lower[:, None], C * upper[:, None]).sum(2)


@pytest.mark.parametrize(("kind", "method"), [
    (kind, method) for kind in KINDS for method in lx.METHODS
    if method == "CROWN" or kind in ("gradient", "integrated gradients", "vargrad")])
def test_functions_of_sampled_points_lie_inside_and_never_wider_than_the_box(kind, method):
    C = functions(case(kind)[0])
    certificate, values = certified(kind, method=method, spec=C)
    lower, upper = flat(certificate.lower), flat(certificate.upper)
    assert (certificate.spec_lower >= of_box(C, lower, upper) - TOLERANCE).all()
    assert (certificate.spec_upper <= -of_box(-C, lower, upper) + TOLERANCE).all()
    assert_inside((certificate.spec_lower, certificate.spec_upper), values @ C.T)
    torch.testing.assert_close(certificate.spec_nominal, values[0] @ C.T)
    # propagation gains on the box
    if method == "CROWN" and kind not in ("vargrad", "smoothgrad squared ig"):
        box = -of_box(-C, lower, upper) - of_box(C, lower, upper)
        assert (certificate.spec_upper - certificate.spec_lower).mean() < 0.9 * box.mean()


def test_several_inputs_and_functions_of_each_example():
    x = make("two inputs", "relu")[1]
    shared = functions(x)
    each = tuple(torch.stack([part, 2 * part, -part]) for part in shared)
    one, _ = certified("input x gradient", "two inputs", "relu", spec=shared)
    own, _ = certified("input x gradient", "two inputs", "relu", spec=each)
    torch.testing.assert_close(own.spec_lower[0], one.spec_lower[0])
    torch.testing.assert_close(own.spec_upper[1], 2 * one.spec_upper[1])
    torch.testing.assert_close(own.spec_lower[2], -one.spec_upper[2])


@pytest.mark.parametrize(("spec", "error"), [
    (torch.ones(2, 4), ValueError), (torch.ones(5), ValueError), (torch.ones(2, 2, 5), ValueError),
    (torch.full((2, 5), torch.nan), ValueError), ("all", TypeError),
    ((torch.ones(2, 5),) * 2, TypeError),
    (torch.ones(0, 5), ValueError),
], ids=str)
def test_bad_functions_are_refused(spec, error):
    with pytest.raises(error, match="spec"):
        certified("gradient", spec=spec)


@pytest.mark.parametrize("kind", KINDS)
def test_refined_ranks_and_signs_hold_at_sampled_points(kind):
    certificate, values = certified(kind)
    k = 2
    signs, certain = (flat(certificate.sign(refine=r)) for r in (None, "spec"))
    assert (((certain == signs) | (signs == 0)).all()
            and ((values.sign() == certain) | (certain == 0)).all())
    for absolute in (True, False):
        top, refined = (flat(certificate.top_k(k, absolute, refine=r)) for r in (None, "spec"))
        overlap, least = (certificate.top_k_overlap(k, absolute, refine=r) for r in (None, "spec"))
        assert (refined | ~top).all() and (least >= overlap).all()
        leaders = (values.abs() if absolute else values).topk(k).indices
        found = torch.zeros(values.shape, dtype=torch.bool).scatter(-1, leaders, True)
        assert (found | ~refined).all() and ((found & found[0]).sum(-1) >= least).all()


def test_refining_decides_more():
    """Two features that move together: their order is certain, though their intervals overlap."""
    weight = nn.Parameter(torch.tensor([[1.0, 0.9, 0.1]]).double())
    attribution = Saliency(lambda x: torch.sigmoid(2 * (x * weight).sum(1)))
    certificate = lx.certify(attribution, torch.full((1, 3), 0.3).double(), eps=0.3)
    assert (certificate.top_k_overlap(1).item() == 0
            and certificate.top_k_overlap(1, refine="spec").item() == 1)
    assert certificate.top_k(2, refine="spec").tolist() == [[True, True, False]]
    box, refined = (certificate.region_sum(torch.tensor([1.0, -1.0, 0.0]), refine=r)
                    for r in (None, "spec"))
    assert refined[0].item() > 0 > box[0].item()


@pytest.mark.parametrize("refined", [None, "spec"])
@pytest.mark.parametrize("kind", ["gradient", "integrated gradients", "vargrad"])
def test_region_sums_of_sampled_points_lie_inside(kind, refined):
    certificate, values = certified(kind)
    mask = torch.tensor([True, False, True, True, False])
    lower, upper = certificate.region_sum(mask, refine=refined)
    sums = values[..., mask].sum(-1)
    assert (sums >= lower - TOLERANCE).all() and (sums <= upper + TOLERANCE).all()
    with pytest.raises(ValueError, match="mask must be"):
        certificate.region_sum(torch.ones(4))


def test_a_loaded_certificate_has_nothing_to_refine_with(tmp_path):
    model, x = make("mlp", "relu")
    certificate = lx.certify(IntegratedGradients(model), x, eps=EPS, target=0, n_steps=2,
                             spec=torch.eye(5).double())
    certificate.save(tmp_path / "a.npz")
    loaded = lx.Certificate.load(tmp_path / "a.npz")
    assert torch.equal(loaded.spec_lower, certificate.spec_lower) and loaded.refiner is None
    assert torch.equal(loaded.top_k(2), certificate.top_k(2))
    for ask in (lambda: loaded.sign(refine="spec"), lambda: loaded.top_k(1, refine="spec"),
                lambda: loaded.top_k_overlap(1, refine="spec"),
                lambda: loaded.region_sum(x[0] > 0, refine="spec")):
        with pytest.raises(ValueError, match="nothing to refine with"):
            ask()
    with pytest.raises(ValueError, match="pass None or 'spec'"):
        certificate.sign(refine="more")


def test_the_noise_that_was_drawn_is_refined():
    model, x = make("mlp", "relu")
    torch.manual_seed(0)
    certificate = lx.certify(NoiseTunnel(InputXGradient(model)), x, eps=0.0, target=0, nt_samples=3)
    lower, upper = certificate.region_sum(torch.ones(5), refine="spec")
    torch.testing.assert_close(lower, certificate.nominal.sum(1))
    torch.testing.assert_close(upper, certificate.nominal.sum(1))


def test_least_overlap_is_below_the_true_one():
    """All relations of 2 leaders with 3 others: the true one by enumerating who may come and who
    may leave.
    """
    size, k = 5, 2
    for bits in itertools.product([False, True], repeat=k * (size - k)):
        reach = torch.zeros(1, k, size, dtype=torch.bool)
        reach[0, :, k:] = torch.tensor(bits).reshape(k, size - k)
        most = max(t for t in range(k + 1) for leave in itertools.combinations(range(k), t)
                   for come in itertools.combinations(range(k, size), t)
                   if all(reach[0, i, o] for i in leave for o in come))
        assert refine.least_overlap(reach, k).item() <= k - most
    assert refine.least_overlap(torch.zeros(1, 3, 9, dtype=torch.bool), 3).item() == 3


def test_sums_of_absolute_values_are_bounded_as_a_whole():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(),
                        nn.Linear(8, 2)).double()
    x = torch.rand(3, 4, dtype=torch.float64)
    certificate = lx.certify(Saliency(net), x, eps=0.3, target=0, abs=False)
    ones = torch.ones(4, dtype=torch.float64)
    points = (x + 0.3 * (2 * torch.rand(2000, 3, 4, dtype=torch.float64)
                         - 1)).flatten(0, 1).requires_grad_()
    sums = torch.autograd.grad(net(points)[:, 0].sum(), points)[0].abs().sum(1).reshape(2000, 3)
    for name, worst, sign in (("mass_upper", sums.amax(0), 1), ("mass_lower", sums.amin(0), -1)):
        box, whole = (certificate.metric(name, refine=way, mask=ones, absolute=True)
                      for way in (None, "spec"))
        assert bool((sign * (whole - worst) >= -1e-9).all())
        assert bool((sign * (box - whole) >= 0).all())
        assert bool((sign * (box - whole) > 1e-6).any())
    with pytest.raises(ValueError, match="mass_lower, mass_upper"):
        certificate.metric("cosine", refine="spec")
