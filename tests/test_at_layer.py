"""Balls around a layer's output: against Captum's own value with that output replaced by a hook."""

import contextlib
import functools
import itertools
import math

import pytest
import torch
from captum.attr import (
    IntegratedGradients,
    InternalInfluence,
    LayerActivation,
    LayerConductance,
    LayerDeepLift,
    LayerDeepLiftShap,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    Saliency,
    configure_interpretable_embedding_layer,
    remove_interpretable_embedding_layer,
)
from torch import nn

import lirpa_explain as lx
from lirpa_explain.attributions.at_layer import AT_LAYER
from lirpa_explain.bounding.ball import make_balls
from lirpa_explain.bounding.points import draw
from tests.truth import assert_inside, flat

# Captum's own, of hooks and settings
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

IDS = torch.tensor([[3, 8, 5, 0], [7, 7, 2, 9]])
PAD = torch.zeros_like(IDS)
EPS = 0.1


class Text(nn.Module):
    """A classifier of token ids, which a mask and a scale that differ by example may reach."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 3, padding_idx=0)
        self.hidden = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, ids, mask=None):
        h = self.hidden(self.embedding(ids) + 0.1)
        return h.mean(1) if mask is None else (h * mask[:, :, None]).sum(1) / mask.sum(1,
                                                                                       keepdim=True)


def text(dtype=torch.float64):
    torch.manual_seed(0)
    return Text().to(dtype).eval()


NET = text()
LAYER = NET.embedding

CASES = {
    LayerActivation: (LayerActivation(NET, LAYER), {}),
    LayerGradCam: (LayerGradCam(NET, LAYER), {"target": 1}),
    LayerGradientXActivation: (LayerGradientXActivation(NET, LAYER),
                               {"target": torch.tensor([0, 1])}),
    LayerIntegratedGradients: (LayerIntegratedGradients(NET, LAYER),
                               {"target": 1, "baselines": PAD, "n_steps": 4}),
    LayerDeepLift: (LayerDeepLift(NET, LAYER), {"target": 1, "baselines": PAD[:1]}),
}


@functools.cache
def certifier(kind):
    """Of a case, which tests share."""
    attribution, keywords = CASES[kind]
    return lx.Certifier(attribution, **keywords)


@contextlib.contextmanager
def replaced(layer, inputs, value):
    """The layer returns `value` at these inputs, alone or before baselines, else its own."""

    def hook(_, given, result):
        rows = len(inputs)
        if torch.equal(given[0][:rows], inputs) and len(given[0]) in (rows, 2 * rows):
            return torch.cat([value, result[rows:]])
        return result

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def points(h, count=24, fixed=None, **ball):
    """Points of the ball around a layer's output, some of them its corners."""
    generator, where = torch.Generator().manual_seed(0), make_balls(h, **ball)[0]
    for i in range(count):
        point = draw(where, h, i % 2 == 0, generator)
        yield point if fixed is None else torch.where(fixed, h, point)


def values(attribution, layer, inputs, at, **keywords):
    """Captum's attributions with the layer's output at each point, (n, N, D)."""
    found = []
    for point in at:
        with replaced(layer, inputs, point):
            found.append(flat(attribution.attribute(inputs, **keywords)))
    return torch.stack(found)


def embedded(ids=IDS):
    return LAYER(ids).detach()


def test_the_cases_are_those_of_the_table():
    assert set(CASES) | {LayerDeepLiftShap} == set(AT_LAYER)  # which Captum refuses for token ids


@pytest.mark.parametrize("norm", [math.inf, 2, 1])
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_token_ids_are_certified_at_the_embedding(kind, norm):
    attribution, keywords = CASES[kind]
    certificate = certifier(kind).certify(IDS, eps=EPS, norm=norm)
    assert torch.equal(certificate.nominal, attribution.attribute(IDS, **keywords))
    assert certificate.attribution == kind.__name__
    assert certificate.perturbation.endswith("at the output of embedding (Embedding)")
    found = values(attribution, LAYER, IDS, points(embedded(), eps=EPS, norm=norm), **keywords)
    assert_inside(certificate, found)
    assert bool((found.amax(0) - found.amin(0) > 0).any())


@pytest.mark.parametrize("norm", [math.inf, 2, 1])
@pytest.mark.parametrize("method", ["IBP", "CROWN"])
def test_what_is_held_fixed_does_not_move(norm, method):
    attribution, keywords = CASES[LayerIntegratedGradients]
    certify = functools.partial(certifier(LayerIntegratedGradients).certify, IDS, eps=EPS,
                                norm=norm, method=method)
    free, by_mask, by_ids = certify(), certify(fixed=IDS < 4), certify(fixed=[0, 2, 3])
    assert torch.equal(by_mask.lower, by_ids.lower) and torch.equal(by_mask.upper, by_ids.upper)
    at = points(embedded(), fixed=(IDS < 4)[:, :, None], eps=EPS, norm=norm)
    assert_inside(by_mask, values(attribution, LAYER, IDS, at, **keywords))
    assert bool((by_mask.width <= free.width + 1e-12).all())
    nothing = certify(fixed=torch.ones_like(IDS).bool())
    if method == "CROWN":
        assert by_mask.width.sum() < 0.9 * free.width.sum()
        assert float(nothing.width.max()) < 1e-9


def test_a_batch_gives_what_its_rows_give():
    attribution, keywords = CASES[LayerGradientXActivation]
    both = lx.certify(attribution, IDS, eps=EPS, fixed=IDS == 0, **keywords)
    for i, target in enumerate([0, 1]):
        one = lx.certify(attribution, IDS[i:i + 1], eps=EPS, fixed=[0], target=target)
        torch.testing.assert_close(one.lower, both.lower[i:i + 1], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.upper, both.upper[i:i + 1], rtol=1e-9, atol=1e-12)


def test_radii_may_differ_by_token():
    attribution, keywords = CASES[LayerGradientXActivation]
    eps = torch.tensor([0.1, 0.0, 0.2, 0.05], dtype=torch.float64)[:, None]
    certificate = lx.certify(attribution, IDS, eps=eps, **keywords)
    assert_inside(certificate,
                  values(attribution, LAYER, IDS, points(embedded(), eps=eps), **keywords))


def test_arguments_beside_the_ids_stay():
    mask = (IDS != 0).double()
    attribution = LayerIntegratedGradients(NET, LAYER)
    keywords = {"target": 0, "baselines": PAD, "n_steps": 3, "additional_forward_args": mask}
    certificate = lx.certify(attribution, IDS, eps=EPS, **keywords)
    assert torch.equal(certificate.nominal, attribution.attribute(IDS, **keywords))
    assert_inside(certificate,
                  values(attribution, LAYER, IDS, points(embedded(), eps=EPS), **keywords))
    assert float(certificate.upper[0, 3].abs().max()) < 1e-12  # the first example's padding


def test_a_function_that_calls_the_layer_is_a_model_too():
    attribution = LayerGradientXActivation(lambda ids: torch.softmax(NET(ids), 1), LAYER)
    hooks = len(LAYER._forward_hooks)
    certificate = lx.certify(attribution, IDS, eps=0.01, target=1)
    assert_inside(certificate,
                  values(attribution, LAYER, IDS, points(embedded(), eps=0.01), target=1))
    assert len(LAYER._forward_hooks) == hooks


class Two(nn.Module):
    """Two inputs of token ids, one embedding each; the second of them returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Embedding(12, 3), nn.Embedding(12, 2), nn.Linear(5,
                                                                                                 2)

    def forward(self, a, b):
        return torch.tanh(self.head(torch.cat([self.first(a), self.second(b)], 2))).mean(1)


def test_several_layers_and_several_inputs():
    torch.manual_seed(1)
    net, others = Two().double(), IDS.flip(1)
    attribution = LayerIntegratedGradients(net, [net.first, net.second])
    keywords = {"target": 0, "n_steps": 3, "baselines": (0, 1)}
    given = (IDS, others)
    certificate = lx.certify(attribution, given, eps=(EPS, 0.02), fixed=(IDS == 0, None),
                             **keywords)
    assert [part.shape[-1] for part in certificate.nominal] == [3, 2]
    h, k = net.first(IDS).detach(), net.second(others).detach()
    at = zip(points(h, eps=EPS, fixed=(IDS == 0)[:, :, None]), points(k, eps=0.02), strict=True)
    for one, other in at:
        with replaced(net.first, IDS, one), replaced(net.second, others, other):
            assert_inside(certificate, flat(tuple(attribution.attribute(given, **keywords))))


class Numbers(nn.Module):
    """A model of numbers, with or without a way past the layer."""

    def __init__(self, skips: bool) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 3),
                                                                             nn.Tanh())
        self.skips = skips

    def forward(self, x):
        h = self.act(self.a(x))
        return self.b(h + x.sum(1, keepdim=True) if self.skips else h)


def numbers(skips):
    torch.manual_seed(2)
    return Numbers(skips).double(), torch.randn(2, 3).double(), torch.randn(2, 3).double()


@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("kind", [*CASES, LayerDeepLiftShap], ids=lambda kind: kind.__name__)
def test_layers_of_a_model_of_numbers(kind, to_input):
    """Inputs that give the layer another output within the ball."""
    net, x, start = numbers(skips=False)
    attribution, keywords = kind(net, net.act), {"attribute_to_layer_input": to_input}
    keywords |= {"target": 1} if kind is not LayerActivation else {}
    keywords |= ({"baselines": start}
                 if "Lift" in kind.__name__ or "Integrated" in kind.__name__ else {})
    certificate = lx.certify(attribution, x, perturb="layer", eps=EPS, **keywords)
    torch.testing.assert_close(certificate.nominal, attribution.attribute(x, **keywords))
    before = net.a if to_input else nn.Sequential(net.a, net.act)
    for point in points(x, eps=EPS):
        reached = float((before(point) - before(x)).abs().max())
        point = x + (point - x) * min(1.0, 0.999 * EPS / reached)
        assert float((before(point) - before(x)).abs().max()) <= EPS
        assert_inside(certificate, flat(attribution.attribute(point, **keywords)))


def test_what_goes_past_the_layer_stays():
    net, x, start = numbers(skips=True)
    attribution = LayerIntegratedGradients(net, net.a)
    keywords = {"target": 1, "baselines": start, "n_steps": 3}
    certificate = lx.certify(attribution, x, perturb="layer", eps=EPS, **keywords)
    assert_inside(certificate,
                  values(attribution, net.a, x, points(net.a(x).detach(), eps=EPS), **keywords))
    # in Captum's pass of the baselines too
    with pytest.raises(lx.UnsupportedAttribution, match="past the layer"):
        lx.certify(LayerDeepLift(net, net.a), x, perturb="layer", eps=EPS, target=1,
                   baselines=start)


def test_substitutions_hold_for_every_choice_of_words():
    table = {8: [4, 6], 5: [1], 9: [10], 2: []}
    words = lx.substitutions(LAYER, IDS, table)
    for name in (LayerIntegratedGradients, LayerGradientXActivation):
        attribution, keywords = CASES[name]
        certificate = certifier(name).certify(IDS, perturbation=words)
        choices = [[[t, *table.get(t, [])] for t in row] for row in IDS.tolist()]
        for first, second in itertools.product(*(list(itertools.product(*row)) for row in choices)):
            assert_inside(certificate,
                          flat(attribution.attribute(torch.tensor([first, second]), **keywords)))
    assert "substitutes of 3 of 8 tokens" in certificate.perturbation
    still = certifier(name).certify(IDS, perturbation=lx.substitutions(LAYER, IDS, {}))
    assert float(still.width.max()) < 1e-9


def test_substitutions_want_each_token_to_be_alone():
    with pytest.raises(ValueError, match="that token alone"):
        lx.substitutions(lambda ids: LAYER(ids).cumsum(1), IDS, {8: [4]})
    with pytest.raises(ValueError, match="rejects these tokens"):
        lx.substitutions(LAYER, IDS, {8: [99]})
    with pytest.raises(TypeError, match="token ids"):
        lx.substitutions(LAYER, embedded(), {8: [4]})


def test_everything_after_the_certificate_goes_on(tmp_path):
    """Linear functions, another radius, an attack, the sandwich, saving."""
    attribution, keywords = CASES[LayerIntegratedGradients]
    spec = torch.randn(2, 4, 3, dtype=torch.float64)
    certificate = lx.certify(attribution, IDS, eps=EPS, fixed=[0], spec=spec, **keywords)
    found = values(attribution, LAYER, IDS,
                   points(embedded(), fixed=(IDS == 0)[:, :, None], eps=EPS), **keywords)
    numbers = torch.einsum("sd,knd->kns", spec.flatten(1), found)
    assert bool((numbers >= certificate.spec_lower - 1e-9).all()
                and (numbers <= certificate.spec_upper + 1e-9).all())
    ratio = certificate.sandwich("max_change",
                                 settings={"samples": 8, "steps": 2, "restarts": 1}).ratio
    assert bool((ratio >= 1 - 1e-9).all())
    result = lx.attack(attribution, IDS, eps=EPS, fixed=[0], samples=8, steps=2, restarts=1,
                       **keywords)
    assert torch.equal(result.worst_inputs[0, 3], embedded()[0, 3])
    with replaced(LAYER, IDS, result.worst_inputs):
        torch.testing.assert_close(attribution.attribute(IDS, **keywords), result.attribution)
    smaller = certificate.radius(lambda c: c.metric("cosine") > 0.9, high=0.2, steps=2)
    searched = lx.radius(lx.Certifier(attribution, **keywords), IDS,
                         lambda c: c.metric("cosine") > 0.9, high=0.2, steps=2, fixed=[0])
    assert torch.equal(smaller.value, searched.value)
    certificate.save(tmp_path / "certificate.pt")
    assert lx.Certificate.load(tmp_path / "certificate.pt").perturbation == certificate.perturbation


def test_a_certifier_traces_once():
    attribution, keywords = CASES[LayerIntegratedGradients]
    certifier = lx.Certifier(attribution, IDS, perturb="layer", **keywords)
    trace, = certifier.traces._kept.values()
    for ids in (IDS, IDS.flip(0)):
        certifier.certify(ids, eps=EPS)
        assert list(certifier.traces._kept.values()) == [trace]
    bounds = certifier.bounds(IDS, eps=EPS, method="IBP")
    assert bool((bounds.lower <= bounds.upper).all())


def test_the_exact_integral_at_a_layer():
    attribution = LayerIntegratedGradients(NET, LAYER)
    certificate = lx.certify(attribution, IDS, eps=0.02, integral="exact", target=1, baselines=PAD,
                             n_steps=10)
    fine = attribution.attribute(IDS, target=1, baselines=PAD, n_steps=4000,
                                 method="riemann_middle")
    assert bool((certificate.lower <= fine + 1e-3).all()
                and (fine - 1e-3 <= certificate.upper).all())
    assert certificate.meaning.kind == "integral"


def test_parameters_behind_the_layer_may_move_and_others_not():
    attribution, keywords = CASES[LayerGradientXActivation]
    box = lx.ParameterBox(relative=0.01)
    certificate = lx.certify(attribution, IDS, eps=0.01, parameters={"hidden.*": box}, **keywords)
    generator = torch.Generator().manual_seed(0)
    for point in points(embedded(), eps=0.01):
        net = text()
        for p in net.hidden.parameters():
            p.data *= 1 + 0.01 * (2 * torch.rand(p.shape, generator=generator, dtype=p.dtype) - 1)
        moved = LayerGradientXActivation(net, net.embedding)
        assert_inside(certificate, values(moved, net.embedding, IDS, [point], **keywords)[0])
    with pytest.raises(ValueError, match="hold them fixed"):
        lx.certify(attribution, IDS, eps=0.01, parameters=box, **keywords)


def test_interpretable_embeddings_are_inputs():
    net = text()
    layer = configure_interpretable_embedding_layer(net, "embedding")
    try:
        x, pad = (layer.indices_to_embeddings(IDS).detach(),
                  layer.indices_to_embeddings(PAD).detach())
        attribution = IntegratedGradients(net)
        certificate = lx.certify(attribution, x, eps=EPS, fixed=IDS == 0, target=1, baselines=pad,
                                 n_steps=4)
        for point in points(x, eps=EPS, fixed=(IDS == 0)[:, :, None]):
            value = attribution.attribute(point, target=1, baselines=pad, n_steps=4)
            assert_inside(certificate, flat(value))
    finally:
        remove_interpretable_embedding_layer(net, layer)


def test_float32_and_outward_roundings():
    net = text(torch.float32)
    attribution = LayerGradientXActivation(net, net.embedding)
    h = net.embedding(IDS).detach()
    for norm in (math.inf, 2):
        certificate = lx.certify(attribution, IDS, eps=0.01, norm=norm, fixed=[0],
                                 rounding="outward", target=1)
        at = points(h, fixed=(IDS == 0)[:, :, None], eps=0.01, norm=norm)
        assert_inside(certificate, values(attribution, net.embedding, IDS, at, target=1),
                      rounding=0.0)


def test_what_cannot_be_perturbed_says_what_to_do():
    with pytest.raises(TypeError, match="perturb='layer'"):
        lx.certify(Saliency(NET), IDS, eps=EPS, target=1)
    with pytest.raises(TypeError, match="perturb='layer'"):
        lx.certify(LayerGradCam(NET, LAYER), IDS, perturb="input", eps=EPS, target=1)
    for kind in (LayerConductance, InternalInfluence):
        with pytest.raises(lx.UnsupportedAttribution,
                           match="LayerIntegratedGradients, LayerDeepLift"):
            lx.certify(kind(NET, NET.hidden), IDS, perturb="layer", eps=EPS, target=1)
    with pytest.raises(ValueError, match="one of input, layer"):
        lx.certify(LayerGradCam(NET, LAYER), IDS, perturb="output", eps=EPS, target=1)
    twice = nn.Sequential(nn.Embedding(12, 3), nn.Flatten(), nn.Linear(12, 2)).double()
    both = LayerGradCam(lambda ids: twice(ids) * twice(ids), twice[0])
    with pytest.raises(lx.UnsupportedOperation, match="2 times"):
        lx.certify(both, IDS, eps=EPS, target=1)


@pytest.mark.parametrize(("fixed", "error", "words"), [
    (IDS, TypeError, "bool tensor"),
    (torch.ones(2, 3, dtype=torch.bool), ValueError, r"shape \(2, 4\)"),
    (["pad"], TypeError, "token ids"),
    ((None, None), ValueError, "2 entries for 1"),
])
def test_bad_masks(fixed, error, words):
    with pytest.raises(error, match=words):
        lx.certify(LayerGradCam(NET, LAYER), IDS, eps=EPS, fixed=fixed, target=1)


def test_inputs_can_be_held_fixed_as_well():
    torch.manual_seed(3)
    net, x = (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(),
              torch.randn(2, 3).double())
    fixed = torch.tensor([[True, False, False]])
    certificate = lx.certify(Saliency(net), x, eps=EPS, norm=2, fixed=fixed, target=0, abs=False)
    for point in points(x, eps=EPS, norm=2, fixed=fixed):
        assert_inside(certificate, flat(Saliency(net).attribute(point, target=0, abs=False)))
    with pytest.raises(TypeError, match="perturb='layer'"):
        lx.certify(Saliency(net), x, eps=EPS, fixed=[0], target=0)
