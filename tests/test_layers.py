"""Layers in small nets: captured with autograd's value, and certified with bounds that no sampled
gradient leaves.
"""

import math

import pytest
import torch
from auto_LiRPA import PerturbationLpNorm
from captum.attr import Saliency
from torch import Tensor, nn
from torch.nn import functional as F

import lirpa_explain as lx
from lirpa_explain.bounding.engine import Engine
from tests.truth import assert_inside, sample_box

EXAMPLES = 2
METHODS = "IBP", "CROWN-IBP", "CROWN"


class Net(nn.Module):
    """A linear map of the input, which brings its entries together, the layer, and a nonlinear
    head.
    """

    def __init__(self, layer, shape: tuple[int, ...], function=None) -> None:
        super().__init__()
        self.shape = shape
        self.first = nn.Linear(5, math.prod(shape))
        self.layer = layer() if layer is not None else None
        self.function = function or (lambda layer, x: layer(x))
        with torch.no_grad():
            outputs = self.layered(torch.zeros(1, 5)).shape[1]
        self.head = nn.Linear(outputs, 3)

    def layered(self, x: Tensor) -> Tensor:
        return self.function(self.layer, self.first(x).reshape(-1, *self.shape)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.head(self.layered(x)))


def sequence(layer, function=None):
    return lambda: Net(layer, (3, 4), function)


def two_steps(layer, function):
    """A sequence short enough for what is unrolled."""
    return lambda: Net(layer, (2, 3), function)


def pixels(layer, function=None):
    return lambda: Net(layer, (2, 4, 4), function)


class Attention(nn.Module):
    """Scaled dot-product attention of one head, written out, with weights that mean something."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x) for m in self.maps)
        return torch.softmax(q @ k.transpose(1, 2) / 2, -1) @ v


class Vit(nn.Module):
    """A small vision transformer: patches, class token, positions, one encoder layer, head on the
    class token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 2, stride=2)
        self.cls = nn.Parameter(torch.randn(1, 1, 4))
        self.position = nn.Parameter(torch.randn(1, 5, 4))
        self.encoder = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True,
                                                  norm_first=True)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x.reshape(-1, 1, 4, 4)).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.encoder(x))[:, 0])


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x + self.embedding(torch.arange(x.shape[1])))


def self_attention(**options):
    def function(layer, x):
        return layer(x, x, x, **options)[0]
    return function


def time_first(layer, x):
    return layer(x.transpose(0, 1))[0].transpose(0, 1)


def heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (2, 2)).transpose(1, 2)


LATER = torch.ones(3, 3).triu(1).bool()
LAYERS = {
    "softmax": sequence(lambda: nn.Softmax(1)),
    "softmax-last": sequence(lambda: nn.Softmax(-1), lambda layer, x: layer(3 * x)),
    "log-softmax": sequence(lambda: nn.LogSoftmax(2)),
    "layer-norm": sequence(lambda: nn.LayerNorm(4)),
    "layer-norm-two-dims-plain": sequence(lambda: nn.LayerNorm((3, 4), elementwise_affine=False)),
    "group-norm": pixels(lambda: nn.GroupNorm(2, 2)),
    "instance-norm": pixels(lambda: nn.InstanceNorm2d(2, affine=True)),
    "instance-norm-1d": sequence(lambda: nn.InstanceNorm1d(3)),
    "instance-norm-running": pixels(lambda: nn.InstanceNorm2d(2, track_running_stats=True)),
    "max-pool-1d": sequence(lambda: nn.MaxPool1d(2, 1)),
    "adaptive-max-pool": pixels(lambda: nn.AdaptiveMaxPool2d((2, 1))),
    "average-pool-1d": sequence(lambda: nn.AvgPool1d(2, 1, padding=1)),
    "average-pool-2d": pixels(lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True)),
    "adaptive-average-pool": pixels(lambda: nn.AdaptiveAvgPool2d((3, 2))),
    "adaptive-average-pool-1d": sequence(lambda: nn.AdaptiveAvgPool1d(3)),
    "transposed-convolution": pixels(lambda: nn.ConvTranspose2d(2, 2, 3, 2, 1, output_padding=1,
                                                                groups=2)),
    "transposed-convolution-1d": sequence(lambda: nn.ConvTranspose1d(3, 2, 2, stride=3,
                                                                     dilation=2)),
    "upsample": pixels(lambda: nn.Upsample(scale_factor=2)),
    "upsample-1d-other-scale": sequence(lambda: nn.Upsample(scale_factor=1.7)),
    "upsample-bilinear": pixels(lambda: nn.Upsample((3, 7), mode="bilinear", align_corners=True)),
    "pad-constant": pixels(lambda: nn.ConstantPad2d((1, 2, -1, 1), 2.5)),
    "pad-reflection": pixels(lambda: nn.ReflectionPad2d((1, 2, 0, 3))),
    "pad-replication-1d": sequence(lambda: nn.ReplicationPad1d((2, 1))),
    "pad-circular": pixels(lambda: nn.CircularPad2d((1, 2, 0, 1))),
    "moves": sequence(None, lambda _,
                      x: x.roll((1, 2), (1, 2)).flip(1).repeat(1, 2, 1).index_select(
                          2, torch.tensor([0, 3, 3]))),
    "indices": pixels(None, lambda _, x: x[:, :, [0, 3, 3], [1, 2, 2]].cumsum(2)),
    "pixel-shuffle": pixels(None, lambda _,
                            x: F.pixel_unshuffle(F.pixel_unshuffle(x, 2).sigmoid(), 2)),
    "attention": sequence(Attention),
    "multihead": sequence(lambda: nn.MultiheadAttention(4, 2, batch_first=True), self_attention()),
    "multihead-time-first": sequence(
        lambda: nn.MultiheadAttention(4, 2), lambda layer, x: self_attention(
            need_weights=False)(layer, x.transpose(0, 1)).transpose(0, 1)),
    "multihead-masked": sequence(lambda: nn.MultiheadAttention(4, 2, batch_first=True),
                                 self_attention(attn_mask=LATER, need_weights=True)),
    "attention-causal": sequence(None, lambda _, x: F.scaled_dot_product_attention(*[heads(x)] * 3,
                                                                                   is_causal=True)),
    "encoder-layer": sequence(lambda: nn.TransformerEncoderLayer(4, 2, 5, batch_first=True)),
    "positions": sequence(Positions),
    "lstm": two_steps(lambda: nn.LSTM(3, 2, batch_first=True), lambda layer, x: layer(x)[0][:, -1]),
    "gru-bidirectional": two_steps(lambda: nn.GRU(3, 2, bidirectional=True), time_first),
    "rnn-two-layers": two_steps(lambda: nn.RNN(3, 2, 2, batch_first=True),
                                lambda layer, x: layer(x)[1].transpose(0, 1)),
    "vit": lambda: nn.Sequential(nn.Linear(5, 16), Vit()),
}

UNROLLED = ("lstm", "gru-bidirectional", "rnn-two-layers")


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = LAYERS[name]().to(dtype).eval()
    for weight in net.parameters():
        if weight.ndim == 1 and not weight.any():  # biases that start at 0
            weight.data.normal_(std=0.2)
    return net, torch.randn(EXAMPLES, 5, dtype=dtype)


def gradient(net: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net(x)[:, 1].sum(), x)[0]


def sampled(net: nn.Module, x: Tensor, eps: float, count: int = 200) -> Tensor:
    """Gradients of output 1 at points of the box and its corners: (n, B, 5)."""
    generator = torch.Generator().manual_seed(0)
    signs = 2 * torch.randint(0, 2, (32, *x.shape), generator=generator).to(x.dtype) - 1
    points = torch.cat([sample_box(x - eps, x + eps, count, generator), x + eps * signs])
    return gradient(net, points.flatten(0, 1).to(x.dtype)).unflatten(0, (-1, len(x)))


def engine(net: nn.Module, x: Tensor):
    """Bounds of the gradient of output 1 on a box around any x."""
    module = lx.capture(net, (x,))

    def of_output(x: Tensor) -> Tensor:
        return F.one_hot(torch.ones(len(x), dtype=torch.long), 3).to(x.dtype)

    bounds = Engine(module, (x, of_output(x)))

    def call(x: Tensor, eps: float, method: str) -> tuple[Tensor, Tensor]:
        return bounds((x, of_output(x)),
                      (PerturbationLpNorm(norm=math.inf, x_L=x - eps, x_U=x + eps),), method)

    return call, lambda x: module(x, of_output(x))


@pytest.mark.parametrize("name", LAYERS)
def test_no_gradient_is_outside_its_bounds(name):
    """And the value is autograd's for any batch, a batch is its rows, and a point has no width."""
    net, x = build(name)
    truth, method = sampled(net, x, 0.05), "CROWN-IBP" if name in UNROLLED else "CROWN"
    certificate = lx.certify(Saliency(net), x, eps=0.05, target=1, abs=False, method=method)
    assert_inside(certificate, truth, what="certificate")
    bounds, value = engine(net, x)
    for count in (1, 4):
        other = torch.randn(count, 5, dtype=x.dtype)
        torch.testing.assert_close(value(other), gradient(net, other), rtol=1e-11, atol=1e-12)
    intervals, together = (bounds(x, 0.05, method) for method in ("IBP", "CROWN-IBP"))
    assert_inside(intervals, truth, what="IBP")
    assert_inside(together, truth, what="CROWN-IBP")
    assert_inside(bounds(x, 0.5, method), sampled(net, x, 0.5), what="wide")
    for one, both in zip(bounds(x[1:], 0.05, "CROWN-IBP"), together, strict=True):
        torch.testing.assert_close(one[0], both[1], rtol=1e-6, atol=1e-9)
    lower, upper = bounds(x, 0.0, method)
    assert_inside((lower, upper), gradient(net, x), what="point")
    assert ((upper - lower).amax(1) <= 1e-9 * (1 + upper.abs().amax(1))).all()


@torch.no_grad()
@pytest.mark.parametrize("layer", [
    nn.LSTM(3, 2, 2, bidirectional=True), nn.GRU(3, 2, 2),
    nn.RNN(3, 2, nonlinearity="relu", bidirectional=True),
    nn.MultiheadAttention(4, 2, add_bias_kv=True, kdim=3, vdim=3),
], ids=["lstm", "gru", "rnn", "keys-and-values"])
def test_values_of_unrolled_layers(layer):
    torch.manual_seed(0)
    layer, x = layer.double(), torch.randn(4, 12, dtype=torch.float64)

    def net(x: Tensor) -> Tensor:
        steps = x.reshape(-1, 4, 3).transpose(0, 1)
        given = (F.pad(steps, (0, 1)), steps,
                 steps) if isinstance(layer, nn.MultiheadAttention) else (steps,)
        return layer(*given)[0].transpose(0, 1).flatten(1)

    module = lx.capture(net, (x,))
    with torch.enable_grad():
        torch.testing.assert_close(
            module(x, F.one_hot(torch.ones(4, dtype=torch.long), net(x).shape[1]).double()),
            gradient(net, x))


@pytest.mark.parametrize("name",
                         ["softmax", "layer-norm", "group-norm", "multihead", "upsample", "vit"])
def test_float32(name):
    net, x = build(name, torch.float32)
    certificate = lx.certify(Saliency(net), x, eps=0.05, target=1, abs=False)
    assert certificate.lower.dtype == torch.float32
    assert_inside(certificate, sampled(net, x, 0.05), what=name)


@pytest.mark.parametrize("size", [30.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_large_logits(size, dtype):
    """Probabilities that round to 0 and 1 leave nothing infinite."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Softmax(1), nn.Linear(4, 3)).to(dtype)
    net[0].weight.data.mul_(size)
    x = torch.randn(EXAMPLES, 5, dtype=dtype)
    for method in METHODS:
        found = lx.certify(Saliency(net), x, eps=0.1, target=1, abs=False, method=method)
        assert_inside(found, sampled(net, x, 0.1), what=method)


def test_unmasked_keys_alone_count():
    """A key that is masked for every query has no influence: its gradient is exactly 0."""
    def attend(x: Tensor) -> Tensor:
        parts = x.reshape(-1, 1, 3, 2)
        mask = torch.tensor([True, True, False]).expand(3, 3)
        return F.scaled_dot_product_attention(parts[..., :2, :].mean(2, keepdim=True).expand(
            -1, 1, 3, 2), parts, parts, attn_mask=mask).flatten(1)

    x = torch.randn(EXAMPLES, 6, dtype=torch.float64)
    module = lx.capture(attend, (x,))
    cotangent = torch.randn(EXAMPLES, 6, dtype=torch.float64)
    ball = PerturbationLpNorm(norm=math.inf, eps=0.3)
    for method in METHODS:
        lower, upper = Engine(module, (x, cotangent))((x, cotangent), (ball,), method)
        assert (not lower[:, 4:].any() and not upper[:, 4:].any()
                and (upper[:, :4] > lower[:, :4]).all()), method


@pytest.mark.parametrize("function", [
    lambda x: F.softmax(x.reshape(-1, 4), 0),
    lambda x: x.reshape(-1, 2, 2).transpose(0, 1) @ x.reshape(-1, 2, 2),
    lambda x: F.layer_norm(x.t(), (len(x),)).t(), lambda x: x.T.roll(1, 1).T,
    lambda x: torch.einsum("ni,mi->nm", x, x),
    lambda x: F.scaled_dot_product_attention(x, x, x), lambda x: x[[2, 0, 1]],
], ids=["softmax", "bmm", "layer-norm", "roll", "gram", "attention", "index"])
def test_layers_over_the_batch_are_refused(function):
    with pytest.raises(lx.UnsupportedOperation):
        lx.capture(function, (torch.randn(3, 4, dtype=torch.float64),))
