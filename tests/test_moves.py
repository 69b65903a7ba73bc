"""Operations that move entries, and what is made of further arguments: values are autograd's,
bounds hold.
"""

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import Tensor, nn
from torch.nn import functional as F

import lirpa_explain as lx
from lirpa_explain import UnsupportedOperation, capture
from lirpa_explain.graph.rules.moves import PICKS, PUTS, STRIDED
from lirpa_explain.graph.trace import pure, record
from tests.test_graph import assert_bounds_hold, assert_value, gradient, rows
from tests.truth import assert_inside, sample_box

aten = torch.ops.aten
ORDER = torch.tensor([2, 0, 3, 0])
WHERE = torch.tensor([[0, 2, 1, 1], [1, 1, 0, 2]])


def squared(function, added: float = 0.0):
    """Of entries (3, 4) of a nonlinear value."""
    return lambda x: (function(torch.tanh(x)).flatten(1) + added).square()


def written(x: Tensor, write) -> Tensor:
    out = x.new_zeros(x.shape[0], 3, 4)
    write(out, torch.tanh(x))
    return out.flatten(1).square()


def into_slices(out: Tensor, h: Tensor) -> None:
    out[:, 1:] = h[:, :2] * 2
    out[:, 0, 1:3] = h[:, 2, :2]
    out[:, :, 3].mul_(3.0)
    out[:, 0] += 1.0


def one_by_one(out: Tensor, h: Tensor) -> None:
    for t in range(3):
        out[:, t] = h[:, t] if t == 0 else torch.sin(out[:, t - 1].clone() + h[:, t])


def one_entry(out: Tensor, h: Tensor) -> None:
    out[:, 1, 2] = h.sum((1, 2)) ** 2


MOVES = {
    "gather": squared(lambda h: h.gather(1, WHERE.expand(h.shape[0], 2, 4))),
    "index-select": squared(lambda h: h.index_select(2, ORDER)),
    "indices": squared(lambda h: h[:, [0, 2, 2], [1, 3, 3]]),
    "indices-apart": squared(lambda h: h[:, [0, 2]][:, :, ORDER]),
    "mask": squared(lambda h: h[:, torch.tensor([True, False, True])]),
    "unfold": squared(lambda h: h.unfold(2, 3, 1)),
    "im2col": squared(lambda h: F.unfold(h[:, None], 2)),
    "col2im": squared(lambda h: F.fold(h.reshape(-1, 4, 3), (2, 4), (2, 2))),
    "flip": squared(lambda h: h.flip(1, 2) * h),
    "roll": squared(lambda h: h.roll((1, -1), (1, 2)) * h),
    "rot90": squared(lambda h: torch.rot90(h, 1, (1, 2))),
    "triangles": squared(lambda h: h.tril() + h.triu(1) * 2),
    "diagonal": squared(lambda h: h.diagonal(0, 1, 2)),
    "embedded-diagonal": squared(lambda h: torch.diag_embed(h[:, 0])),
    "channel-shuffle": squared(lambda h: F.channel_shuffle(h.reshape(-1, 4, 3, 1), 2)),
    "as-strided": squared(lambda h: h.contiguous().as_strided((h.shape[0], 2, 3), (12, 4, 1), 1)),
    "scatter": squared(lambda h: torch.zeros_like(h).scatter(1, WHERE[:1].expand(h.shape[0], 1, 4),
                                                             h[:, :1])),
    "scatter-number": squared(lambda h: h.scatter(1, WHERE[:1].expand(h.shape[0], 1, 4), 2.0)),
    "scatter-add": squared(lambda h: h.scatter_add(2, ORDER.expand(h.shape[0], 3, 4), h)),
    "index-add": squared(lambda h: h.index_add(1, torch.tensor([0, 0, 2]), h, alpha=2)),
    "index-copy": squared(lambda h: h.index_copy(1, torch.tensor([2, 0]), h[:, :2] * 2)),
    "index-fill": squared(lambda h: h.index_fill(2, torch.tensor([1]), 3.0)),
    "put": squared(lambda h: h.index_put((torch.arange(h.shape[0])[:, None], torch.tensor([0, 2])),
                                         h[:, :2])),
    "slices-written": lambda x: written(x, into_slices),
    "steps-written": lambda x: written(x, one_by_one),
    "entry-written": lambda x: written(x, one_entry),
    "diagonal-written": lambda x: written(x, lambda out,
                                          h: out.diagonal(0, 1, 2).copy_(h[:, 0, :3])),
    "channels-last": squared(lambda h: F.adaptive_avg_pool2d(
        h.reshape(-1, 3, 2, 2).to(memory_format=torch.channels_last), 1)),
    "pooling-of-volumes": squared(lambda h: F.avg_pool3d(h.reshape(-1, 1, 3, 2, 2), 2, 1, 1, True,
                                                         False)),
    "adaptive-pooling-of-volumes": squared(
        lambda h: F.adaptive_avg_pool3d(h.reshape(-1, 1, 3, 2, 2), (2, 1, 2))),
    "antialiased": squared(lambda h: F.interpolate(h[:, None], (2, 3), mode="bilinear",
                                                   antialias=True)),
    "trilinear": squared(lambda h: F.interpolate(h.reshape(-1, 1, 3, 2, 2), (2, 3, 2),
                                                 mode="trilinear")),
    "variance": squared(lambda h: torch.cat(
        [v.flatten(1) for v in (h.var(2), h.std(1), *torch.var_mean(h, 2, unbiased=False))], 1),
                        1e-3),
    "losses": squared(lambda h: F.mse_loss(h, h.flip(1).detach(), reduction="none")
                      + F.smooth_l1_loss(h, torch.ones_like(h), reduction="none", beta=0.3)),
}


@pytest.mark.parametrize("name", MOVES)
def test_the_value_is_autograds_and_bounds_hold(name):
    function, shapes = MOVES[name], ((3, 4),)
    module = capture(function, rows(shapes, 2))
    for count in (1, 4):
        assert_value(function, module, shapes, count)
    assert_bounds_hold(function, module, rows(shapes, 2))


def test_every_rule_of_a_move_is_tried():
    def compute(function):
        def call(x: Tensor, g: Tensor) -> tuple[Tensor, ...]:
            z = x.detach().requires_grad_()
            out = function(z)
            return torch.autograd.grad(out, z, torch.ones_like(out) * g)

        return call

    tried = set()
    for function in MOVES.values():
        tensors = (torch.rand(3, 3, 4).double(), torch.ones(()).double())
        graph = pure(record(compute(function), tensors, range(0)), tensors).graph
        tried |= {node.target for node in graph.graph.nodes}
    seldom = {aten.take.default, aten.index_select_backward.default,
              aten.native_channel_shuffle.default}
    assert {*PICKS, *STRIDED, *PUTS} - seldom <= tried


NET = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)).double()
TABLE = nn.Embedding(6, 4).double()
PARTS = nn.ParameterList([nn.Parameter(torch.rand(2, 4).double()),
                          nn.Parameter(torch.rand(1, 4).double())])

IDS = torch.tensor([[1, 0], [3, 3], [5, 2]])
MASK = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
LENGTHS = torch.tensor([2, 1, 3])

ARGUMENTS = {
    "lengths": (lambda x, n: NET(x)[torch.arange(x.shape[0]), n - 1], LENGTHS),
    "lengths-gathered": (
        lambda x, n: NET(x).gather(1, (n - 1)[:, None, None].expand(-1, 1, 4))[:, 0], LENGTHS),
    "padding": (lambda x, m: (NET(x) * m[..., None]).sum(1) / m.sum(1, keepdim=True), MASK),
    "additive": (lambda x, m: F.scaled_dot_product_attention(
        x, NET(x), x, ((1.0 - m.to(x.dtype)) * torch.finfo(x.dtype).min)[:, None]).sum(1), MASK),
    "boolean": (lambda x, m: F.scaled_dot_product_attention(
        x, NET(x), x, m.bool()[:, None].expand(-1, 3, -1)).sum(1), MASK),
    "filled": (lambda x, m: torch.softmax(NET(x).sum(2).masked_fill(m == 0, -torch.inf), 1), MASK),
    "heads": (lambda x, m: nn.functional.multi_head_attention_forward(
        *[NET(x).transpose(0, 1)] * 3, 4, 2, torch.eye(12, 4).double(), None, None, None, False,
        0.0, torch.eye(4).double(), None, key_padding_mask=m == 0, training=False)[0].sum(0), MASK),
    "categories": (lambda x, i: NET(x[:, 0] + TABLE(i).sum(1)), IDS),
    "labels": (lambda x, i: -F.cross_entropy(NET(x[:, 0]), i[:, 0] % 4, reduction="none"), IDS),
    "one-hot": (lambda x, i: NET(x[:, 0]) * F.one_hot(i[:, 0] % 4, 4), IDS),
    "graph": (lambda x, i: torch.zeros_like(x).scatter_add(1, (i[:, :, None] % 3).expand(-1, -1, 4),
                                                           NET(x)[:, :2]).flatten(1), IDS),
    "flags": (lambda x,
              m: torch.where((m[:, :1] > 0) & (m[:, 1:2] > 0), NET(x)[:, 0], x[:, 1] ** 2), MASK),
    "branch": (lambda x, n: NET(x).sum(1) if bool((n > 0).all()) else x.sum(1), LENGTHS),
    "weights": (lambda x, w: (x * w[:, None, None]).sin().sum(1),
                torch.tensor([0.5, 2.0, 1.0]).double()),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_further_arguments_of_each_example(name):
    function, given = ARGUMENTS[name]
    xs = rows([(3, 4)], 3)
    module = capture(function, xs, (given,))
    order = [2, 2, 0, 1]
    x, argument = rows([(3, 4)], 4)[0], given[order]
    cotangent, = rows([module.cotangent_shape], 4)
    truth = gradient(lambda x: function(x, argument), (x,), cotangent)
    torch.testing.assert_close(module(x, *module.further((argument,), 4), cotangent), truth)
    attribution = IntegratedGradients(function) if name == "padding" else Saliency(function)
    keywords = {"n_steps": 3} if name == "padding" else {"abs": False}
    target = None if name == "labels" else 1
    certificate = lx.certify(attribution, xs[0], eps=0.05, additional_forward_args=(given,),
                             target=target, **keywords)
    points = sample_box(xs[0] - 0.05, xs[0] + 0.05, 10, torch.Generator().manual_seed(0))
    values = [attribution.attribute(p, additional_forward_args=(given,), target=target, **keywords)
              for p in points]
    box = certificate.lower.flatten(1), certificate.upper.flatten(1)
    assert_inside(box, torch.stack(values).detach().flatten(2))
    assert bool(torch.isfinite(certificate.upper).all())


def test_lists_of_parameters_stay_live():
    def function(x: Tensor) -> Tensor:
        tokens = torch.cat([*PARTS])
        return (torch.stack([PARTS[0][0], tokens[torch.tensor([2, 0])][0]])
                @ x[0, 0].new_ones(4, 4))[1] * x[:, 0]

    module = capture(function, rows([(3, 4)], 2))
    assert_value(function, module, ((3, 4),), 3)
    with torch.no_grad():
        PARTS[1].mul_(1.5)
    assert_value(function, module, ((3, 4),), 3)


def test_one_example_at_a_time():
    """A model that reshapes to one row is bounded as what it is for each example."""
    def function(x: Tensor) -> Tensor:
        return NET(x.reshape(1, -1)[:, :4])

    module = capture(function, rows([(3, 4)], 1))
    assert_value(function, module, ((3, 4),), 1)


READ_OF_THE_BATCH = {
    "longest": lambda x, n: NET(x)[:, : int(n.max())].sum(1),
    "branch": lambda x, n: NET(x).sum(1) if bool((n > 1).all()) else x.sin().sum(1),
    "mask-if-needed": lambda x, n: (NET(x) if bool((n == 3).all())
                                    else NET(x) * (torch.arange(3) < n[:, None])[..., None]).sum(1),
}


@pytest.mark.parametrize("lengths", [[3, 3, 3, 2], [2, 3], [1, 1, 2, 2, 1]], ids=str)
@pytest.mark.parametrize("name", READ_OF_THE_BATCH)
def test_what_is_read_of_the_whole_batch(name, lengths):
    """As Captum calls it, the model reads something of all examples that it would not read of
    each.
    """
    function, given = READ_OF_THE_BATCH[name], torch.tensor(lengths)
    x, = rows([(3, 4)], len(lengths))
    certifier = lx.Certifier(Saliency(function), abs=False, target=1,
                             additional_forward_args=(given,))
    certificate = certifier.certify(x, eps=0.05)
    values = [Saliency(function).attribute(p, target=1, abs=False, additional_forward_args=(given,))
              for p in sample_box(x - 0.05, x + 0.05, 10, torch.Generator().manual_seed(0))]
    assert_inside((certificate.lower.flatten(1), certificate.upper.flatten(1)),
                  torch.stack(values).flatten(2))
    alone = certifier.certify(x[-1:], eps=0.05, additional_forward_args=(given[-1:],))
    value = Saliency(function).attribute(x[-1:], target=1, abs=False,
                                         additional_forward_args=(given[-1:],))
    torch.testing.assert_close(alone.nominal, value)
    assert bool((alone.lower <= value).all() and (value <= alone.upper).all())


@pytest.mark.parametrize(("function", "words"), [
    (lambda x: nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 3, 3]),
                                                 batch_first=True).data[:3], "packed"),
    (lambda x: torch.fft.rfft(x.tanh()).abs().sum(1), "cosines"),
    (lambda x: torch.linalg.inv(x @ x.mT + torch.eye(3)).sum(1), "decompositions"),
    (lambda x: F.grid_sample(x[:, None], x[:, None, :, :2], align_corners=False)[:, 0, 0],
     "fixed places"),
], ids=["packed", "complex", "inverse", "grid"])
def test_what_is_refused_says_what_to_do_instead(function, words):
    with pytest.raises(UnsupportedOperation, match=words):
        capture(function, rows([(3, 4)], 2))


@pytest.mark.parametrize(("function", "given", "words"), [
    (lambda x, n: NET(x)[:, : int(n.sum()) - 4].sum(1), torch.cat([LENGTHS, LENGTHS]),
     "differently"),
    (lambda x, i: NET(x)[:, 0][:, i[0]], IDS, "batch"),
    (lambda x, _: TABLE(x[:, :, 0].abs().clamp(0, 5).long()).sum(1) * x[:, 0], IDS,
     "further argument"),
    (lambda x, _: x.float().sum(1).double(), IDS, "other numbers"),
], ids=["read-differently", "indices-of-others", "ids-of-inputs", "single-precision"])
def test_what_is_refused(function, given, words):
    with pytest.raises(UnsupportedOperation, match=words):
        lx.certify(Saliency(function), rows([(3, 4)], len(given))[0], eps=0.1, target=1,
                   additional_forward_args=(given,))
