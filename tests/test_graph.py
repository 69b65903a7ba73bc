"""capture(): autograd's value for any batch; what cannot be captured is refused with a reason."""

import copy
import itertools
import math

import pytest
import torch
from auto_LiRPA import PerturbationLpNorm
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from lirpa_explain import GradientModule, TrainingModeError, UnsupportedOperation, capture
from lirpa_explain.bounding.engine import Engine
from lirpa_explain.graph import functional
from tests.truth import assert_inside, input_gradient, sample_box


class Model(nn.Module):
    """Layers by name, and what is done with them."""

    def __init__(self, function, **layers) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            if isinstance(layer, Tensor) and not isinstance(layer, nn.Parameter):
                self.register_buffer(name, layer)
            else:
                setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def model(function, *shapes, **layers):
    """A row of the table: how to build the model, and the shapes of one example of its inputs."""
    return lambda: Model(function, **{name: layer() for name, layer in layers.items()}), shapes


def linear(n: int, m: int, **options):
    return lambda: nn.Linear(n, m, **options)


def tensor(*shape: int):
    return lambda: torch.linspace(0.5, 2, math.prod(shape)).reshape(shape)


def parameter(*shape: int):
    return lambda: nn.Parameter(tensor(*shape)())


def on_pixels(function, **layers):
    """Between a convolution to (3, 4, 4) and the sum over what comes out."""
    return model(lambda m, x: function(m, m.conv(x)).flatten(1), (2, 4, 4),
                 conv=lambda: nn.Conv2d(2, 3, 3, padding=1), **layers)


def on_sequence(function, **layers):
    """Between a linear layer to (3, 4), with tanh, and a sigmoid of whatever comes out."""
    return model(lambda m, x: torch.sigmoid(function(m, torch.tanh(m.first(x))).flatten(1)), (3, 5),
                 first=linear(5, 4), **layers)


def shared(m: Model, x: Tensor) -> Tensor:
    for _ in range(3):
        x = m.act(m.inner(x))
    return x


MODELS = {
    "linear": model(lambda m, x: torch.tanh(m.a(x)), (4,), a=linear(4, 3)),
    "linear-3d": model(lambda m, x: m.b(torch.relu(m.a(x))).flatten(1), (5, 4), a=linear(4, 3),
                       b=linear(3, 2)),
    "linear-4d-without-bias": model(lambda m, x: torch.tanh(m.a(x)).sum((1, 2)), (2, 5, 4),
                                    a=linear(4, 3, bias=False)),
    "linear-of-one": model(lambda m, x: torch.tanh(m.a(x)), (1,), a=linear(1, 1)),
    "conv1d": model(lambda m, x: torch.relu(m.a(x)).mean(2), (2, 7),
                    a=lambda: nn.Conv1d(2, 3, 3, 2, 1)),
    "conv2d": on_pixels(lambda m, y: m.b(torch.sigmoid(y)),
                        b=lambda: nn.Conv2d(3, 2, 2, stride=3, dilation=2)),
    "conv2d-groups": on_pixels(lambda m, y: m.b(torch.relu(y)),
                               b=lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False)),
    "functional-relu": on_sequence(lambda m, y: F.relu(y)),
    "relu-reused": on_sequence(lambda m, y: m.act(m.b(m.act(y))), act=nn.ReLU, b=linear(4, 4)),
    "relu-in-place": on_sequence(lambda m, y: m.act(2 * y), act=lambda: nn.ReLU(inplace=True)),
    "relu-of-input": model(lambda m, x: torch.relu(x).sum(1), (4,)),
    "relu-of-relu": on_sequence(lambda m, y: torch.relu(torch.relu(y - 0.1) - 0.2)),
    "leaky-relu-in-place": on_sequence(lambda m, y: F.leaky_relu(y + 0.1, 0.2, inplace=True)),
    "softplus": on_sequence(lambda m, y: F.softplus(y, 3)),
    "activations-in-place": on_sequence(lambda m, y: (2 * y).tanh_() - (y + 1).sigmoid_()),
    **{f"activation-{name}": on_sequence(lambda m, y, function=function: function(m, 2 * y))
       for name, function in {
           "gelu": lambda m, y: F.gelu(y), "gelu-tanh": lambda m, y: F.gelu(y, approximate="tanh"),
           "silu": lambda m, y: F.silu(y), "silu-in-place": lambda m, y: F.silu(y, inplace=True),
           "mish": lambda m, y: F.mish(y), "mish-in-place": lambda m, y: F.mish(y, inplace=True),
           "elu": lambda m, y: F.elu(y, 0.7), "elu-in-place": lambda m, y: F.elu(y, inplace=True),
           "selu": lambda m, y: F.selu(y), "celu": lambda m, y: F.celu(y, 2.0),
           "celu-in-place": lambda m, y: F.celu(y, 2.0, inplace=True),
           "hardtanh": lambda m, y: F.hardtanh(y, -0.4, 0.3), "hardtanh-in-place": lambda m,
           y: F.hardtanh_(y, -0.4, 0.3),
           "relu6": lambda m, y: F.relu6(4 * y), "hardswish": lambda m, y: F.hardswish(2 * y),
           "hardswish-in-place": lambda m, y: F.hardswish(2 * y, inplace=True),
           "hardsigmoid": lambda m, y: F.hardsigmoid(2 * y), "logsigmoid": lambda m,
           y: F.logsigmoid(y),
           "softsign": lambda m, y: F.softsign(y), "tanhshrink": lambda m, y: F.tanhshrink(y),
           "hardshrink": lambda m, y: F.hardshrink(y), "softshrink": lambda m,
           y: F.softshrink(y, 0.3),
           "threshold": lambda m, y: F.threshold(y, 0.1, 0.5), "rrelu": lambda m, y: F.rrelu(y),
           "rrelu-in-place": lambda m, y: F.rrelu(y, inplace=True),
           "sin": lambda m, y: torch.sin(3 * y), "cos": lambda m, y: torch.cos(3 * y),
           "exp": lambda m, y: torch.exp(y),
           "log": lambda m, y: torch.log(y + 4), "sqrt": lambda m, y: torch.sqrt(y + 4),
           "rsqrt": lambda m, y: torch.rsqrt(y + 4), "reciprocal": lambda m,
           y: torch.reciprocal(y + 4),
           "square": lambda m, y: torch.square(y), "cube": lambda m, y: y**3,
           "power-real": lambda m, y: (y + 4) ** 1.5,
           "power-negative": lambda m, y: (y + 4) ** -2, "root-of-square": lambda m,
           y: (y**2 + 0.1).sqrt(),
           "times-itself": lambda m, y: y * y, "quotient": lambda m, y: y / (y + 4),
           "inverse": lambda m, y: 2 / (y + 4),
           "normalized": lambda m, y: y / (y * y + 0.1).sum(2, keepdim=True).sqrt(),
           "abs": lambda m, y: y.abs(), "clamp": lambda m, y: y.clamp(-0.3, 0.4),
           "clamp-min": lambda m, y: y.clamp(min=0.1),
           "clamp-max": lambda m, y: y.clamp_max(0.2), "where": lambda m,
           y: torch.where(y > 0.1, y, 3 * y),
           "where-number": lambda m, y: torch.where(y <= 0.1, y * y, 0.5),
           "fill": lambda m, y: y.masked_fill(y < 0.1, 0.5),
       }.items()},
    "prelu": on_sequence(lambda m, y: m.act(y), act=lambda: nn.PReLU(3)),
    "prelu-of-one": on_sequence(lambda m, y: m.act(y), act=nn.PReLU),
    "prelu-of-pixels": on_pixels(lambda m, y: m.act(y), act=lambda: nn.PReLU(3, 0.6)),
    "shared-layer": model(shared, (4,), inner=linear(4, 4), act=nn.Tanh),
    "batch-norm-1d": model(lambda m, x: torch.tanh(m.b(m.a(x))), (4,), a=linear(4, 3),
                           b=lambda: nn.BatchNorm1d(3)),
    "batch-norm-of-sequence": on_sequence(lambda m, y: torch.tanh(m.b(y)),
                                          b=lambda: nn.BatchNorm1d(3)),
    "batch-norm-2d": on_pixels(lambda m, y: torch.relu(m.b(y)), b=lambda: nn.BatchNorm2d(3)),
    "batch-norm-plain": on_pixels(lambda m, y: torch.relu(m.b(y)),
                                  b=lambda: nn.BatchNorm2d(3, affine=False)),
    "max-pool": on_pixels(lambda m, y: F.max_pool2d(torch.tanh(y), 3, 2, 1)),
    "max-pool-1d": model(lambda m, x: F.max_pool1d(m.a(x), 2).flatten(1), (2, 7),
                         a=lambda: nn.Conv1d(2, 3, 2)),
    "average-pool": on_pixels(lambda m,
                              y: F.avg_pool2d(torch.tanh(y), 3, 2, 1, count_include_pad=False)),
    "average-pool-1d": model(lambda m, x: F.avg_pool1d(torch.tanh(x), 3, 2).flatten(1), (2, 7)),
    "adaptive-average-pool": on_pixels(lambda m, y: F.adaptive_avg_pool2d(torch.relu(y), 1)),
    "residual": on_sequence(lambda m, y: y + torch.relu(m.b(y)), b=linear(4, 4)),
    "concatenate": on_sequence(lambda m, y: torch.cat([y, torch.relu(y), 2 * y], 1)[:, 2:]),
    "concatenate-last": on_sequence(lambda m, y: torch.cat([y[..., :1], torch.sigmoid(y)], -1)),
    "stack": on_sequence(lambda m, y: torch.stack([y, torch.relu(y)], 2)),
    "stack-last": on_sequence(lambda m, y: torch.stack([y, y * y], -1)),
    "reshape": on_sequence(lambda m, y: torch.relu(y.reshape(-1, 2, 6)).transpose(1, 2)),
    "merge-rows-and-part": on_sequence(
        lambda m, y: torch.relu(m.b(y.reshape(-1, 4))).view(-1, 3, 2), b=linear(4, 2)),
    "unflatten": on_sequence(lambda m, y: y.unflatten(2, (2, 2)).sum(2)),
    "permute": on_pixels(lambda m, y: torch.tanh(y.permute(0, 2, 3, 1)).reshape(-1, 16, 3)[:, ::3]),
    "transpose": on_sequence(lambda m, y: torch.relu(m.b(y.transpose(1, 2))), b=linear(3, 2)),
    "slice": on_sequence(lambda m, y: torch.relu(y[:, 1:, ::2])),
    "slice-from-the-end": on_sequence(lambda m, y: torch.tanh(y[:, -2:, :-1])),
    "index": on_sequence(lambda m, y: torch.cat([y[:, 1], torch.tanh(y[:, -1])], 1)),
    "split": on_sequence(lambda m, y: (lambda a, b: torch.relu(a - b))(*y.split([3, 1], 2))),
    "chunk": on_sequence(lambda m, y: (lambda a, b: a * torch.sigmoid(b))(*y.chunk(2, -1))),
    "unbind": on_sequence(lambda m, y: (lambda a, b, c: a * b - c)(*y.unbind(1))),
    "split-used-in-part": on_sequence(lambda m, y: torch.relu(y.split(3, 2)[0])),
    "unbind-used-in-part": on_sequence(lambda m, y: y.unbind(1)[0] * y.unbind(1)[2]),
    "concatenate-constant": on_sequence(
        lambda m, y: torch.relu(torch.cat([y, torch.ones_like(y[:, :1])], 1) - 0.5)),
    "stack-constant": on_sequence(lambda m, y: torch.stack([torch.zeros_like(y), y], 1)),
    "mean": on_sequence(lambda m, y: torch.relu(y - y.mean(2, keepdim=True))),
    "mean-over-the-sequence": on_sequence(lambda m, y: torch.relu(y.mean(1))),
    "sum": on_sequence(lambda m, y: torch.relu(y.sum(1, keepdim=True) - y)),
    "squeeze": on_sequence(lambda m, y: torch.relu(y[:, 1:2].squeeze(1)).unsqueeze(2).squeeze(-1)),
    "unsqueeze-and-expand": on_sequence(lambda m,
                                        y: torch.relu(y[:, 1].unsqueeze(1).expand(-1, 3, -1) - y)),
    "outer-sum": on_sequence(lambda m, y: torch.tanh(y[:, :, :1] + y[:, :1, :])),
    "pad": on_pixels(lambda m, y: torch.relu(F.pad(y, (1, 2, 0, 1)))),
    "numbers": on_sequence(lambda m, y: (1 - 2 * y) / 3 - (-y) + 0.5),
    "minus": on_sequence(lambda m, y: torch.sub(torch.relu(y), y, alpha=2)),
    "buffers": on_sequence(lambda m, y: (m.b - torch.relu(y * m.b + m.c)) / m.d, b=tensor(4),
                           c=tensor(3, 1), d=tensor()),
    "parameters": on_sequence(lambda m, y: (m.b - torch.relu(m.c * y)) / m.d + m.d, b=parameter(4),
                              c=parameter(3, 1), d=parameter()),
    "product": on_sequence(lambda m, y: y * torch.sigmoid(y) * m.b(y), b=linear(4, 4)),
    "constants-made-on-the-way": on_sequence(
        lambda m, y: torch.relu(y + torch.zeros_like(y) + torch.ones(4).to(y))),
    "weight-norm": model(lambda m, x: torch.tanh(m.a(x)), (4,),
                         a=lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))),
    "computed-weights": model(lambda m, x: F.linear(torch.tanh(F.linear(x, 2 * m.a)), m.a.t()), (4,
    ), a=parameter(3, 4)),
    "class-token": on_sequence(lambda m,
                               y: torch.relu(torch.cat([m.b.expand(len(y), -1, -1), y], 1) + m.c),
                               b=parameter(1, 1, 4), c=parameter(1, 4, 4)),
    "token-of-one-example": on_sequence(lambda m, y: torch.stack([m.b.repeat(len(y), 1), y[:, 0]],
                                                                 1), b=parameter(1, 4)),
    "time-first": on_sequence(lambda m, y: torch.tanh(m.b(y.transpose(0, 1)) + m.c).permute(
        1, 2, 0), b=linear(4, 2), c=parameter(3, 1, 2)),
    "product-with-a-batch-of-matrices": on_sequence(
        lambda m, y: torch.tanh(torch.einsum("nte,tef->ntf", y, m.b)), b=parameter(3, 4, 2)),
    "matrix-times-rows": on_sequence(lambda m, y: torch.tanh(m.b @ y), b=parameter(2, 3)),
    "product-of-rows": on_sequence(lambda m, y: torch.einsum("nte,nse->nts", y, torch.relu(y))),
    "layer-norm": on_sequence(lambda m, y: torch.tanh(m.b(y)), b=lambda: nn.LayerNorm(4)),
    "group-norm": on_pixels(lambda m, y: torch.tanh(m.b(y)), b=lambda: nn.GroupNorm(3, 3)),
    "attention": on_sequence(lambda m, y: m.b(y, y, y)[0],
                             b=lambda: nn.MultiheadAttention(4, 2, batch_first=True)),
    "lstm": on_sequence(lambda m, y: m.b(y)[0], b=lambda: nn.LSTM(4, 2, batch_first=True)),
    "gru-time-first": on_sequence(lambda m, y: m.b(y.transpose(0, 1))[0][-1],
                                  b=lambda: nn.GRU(4, 2)),
    "no-parameters": model(lambda m, x: (x * x).sum(1), (4,)),
    "two-inputs": model(lambda m, a, b: m.a(torch.cat([torch.relu(a), torch.tanh(b).flatten(1)],
                                                      1)), (4,), (2, 3), a=linear(10, 2)),
    "two-inputs-added": model(lambda m, a, b: torch.tanh(m.a(a + b)), (4,), (4,), a=linear(4, 2)),
    "output-n": model(lambda m, x: torch.tanh(m.a(x)).squeeze(1), (4,), a=linear(4, 1)),
    "output-n-1": model(lambda m, x: torch.relu(m.a(x)), (4,), a=linear(4, 1)),
    "output-n-c-h": model(lambda m, x: torch.relu(m.a(x)), (3, 4), a=linear(4, 2)),
}
each_model = pytest.mark.parametrize("name", MODELS)


def build(name: str,
          dtype: torch.dtype = torch.float64) -> tuple[nn.Module, tuple[tuple[int, ...], ...]]:
    make, shapes = MODELS[name]
    torch.manual_seed(0)
    built = make().to(dtype).eval()
    for norm in built.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.data, norm.running_var.data = (torch.randn(3).to(dtype),
                                                             torch.rand(3).to(dtype) + 0.5)
    return built, shapes


def rows(shapes, count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(count)
    return tuple(torch.randn(count, *shape, generator=generator, dtype=dtype) for shape in shapes)


def gradient(function, xs: tuple[Tensor, ...], cotangent: Tensor) -> Tensor:
    return torch.cat([g.flatten(1) for g in input_gradient(function, xs, cotangent)], 1)


def assert_value(function, module: GradientModule, shapes, count: int,
                 dtype: torch.dtype = torch.float64) -> None:
    xs = rows(shapes, count, dtype)
    cotangent, = rows([module.cotangent_shape], count, dtype)
    assert cotangent.shape == function(*xs).shape
    value, truth = module(*xs, cotangent), gradient(function, xs, cotangent)
    assert value.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(value, truth, rtol=tolerance, atol=tolerance)


@each_model
def test_the_value_is_autograds_for_any_batch_and_any_parameters(name):
    """The module's parameters are the model's own: a change of one in place changes both values."""
    function, shapes = build(name)
    module = capture(function, rows(shapes, 2))
    assert module.shapes == shapes
    for count in (1, 2, 5):
        assert_value(function, module, shapes, count)
    assert_bounds_hold(function, module, rows(shapes, 2))
    own = {id(p) for p in function.parameters()}
    assert all(id(p) in own for p in module.parameters())
    xs, (cotangent,) = rows(shapes, 3), rows([module.cotangent_shape], 3)
    before = gradient(function, xs, cotangent)
    for weight in function.parameters():
        with torch.no_grad():
            weight.mul_(1.5).add_(0.1)
        assert_value(function, module, shapes, 3)
    assert not own or not torch.equal(before, gradient(function, xs, cotangent))


@each_model
def test_the_value_in_single_precision(name):
    function, shapes = build(name, torch.float32)
    assert_value(function, capture(function, rows(shapes, 2, torch.float32)), shapes, 3,
                 torch.float32)


def assert_bounds_hold(function, module: GradientModule, xs: tuple[Tensor, ...],
                       eps: float = 0.1) -> None:
    cotangent, = rows([module.cotangent_shape], 2)
    generator = torch.Generator().manual_seed(0)
    points = [sample_box(x - eps, x + eps, 60, generator).flatten(0, 1) for x in xs]
    truth = gradient(function, tuple(points),
                     cotangent.repeat(60, *[1] * (cotangent.ndim - 1))).unflatten(0, (60, 2))
    balls = tuple(PerturbationLpNorm(norm=math.inf, x_L=x - eps, x_U=x + eps) for x in xs)
    assert_inside(Engine(module, (*xs, cotangent))((*xs, cotangent), balls, "CROWN"), truth)


@each_model
def test_path_takes_the_gradient_elsewhere(name):
    function, shapes = build(name)
    xs, shifts = rows(shapes, 3), tuple(shift[1:] for shift in rows(shapes, 4))
    module = capture(function, xs, path=True)
    scales = tuple(torch.rand(3, *[1] * len(shape), dtype=torch.float64) + 0.1 for shape in shapes)
    cotangent, = rows([module.cotangent_shape], 3)
    at = tuple(s * x + t for s, x, t in zip(scales, xs, shifts, strict=True))
    torch.testing.assert_close(module(*xs, *scales, *shifts, cotangent),
                               gradient(function, at, cotangent))


def test_all_nodes_note_their_shapes_in_one_mode(monkeypatch):
    """Torch makes a fake mode for each node otherwise, which doubles the time of a capture."""
    made, made_as_ever = [], FakeTensorMode.__init__

    def counted(self, *args, **keywords):
        made.append(self)
        made_as_ever(self, *args, **keywords)

    monkeypatch.setattr(FakeTensorMode, "__init__", counted)
    counts = set()
    for depth in (1, 9):
        made.clear()
        net = nn.Sequential(*[nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(depth)])
        capture(net, (torch.ones(2, 3),))
        counts.add(len(made))
    assert len(counts) == 1


@pytest.mark.parametrize("name", ["conv2d", "batch-norm-1d", "residual", "concatenate"])
def test_a_graph_without_anything_to_take_apart_stays_as_it_is(name, monkeypatch):
    """And is what the way of the others makes of it."""
    function, shapes = build(name)
    with monkeypatch.context() as patched:
        patched.setattr(functional, "_Again", None)  # which the other way runs
        kept = capture(function, rows(shapes, 2))
    monkeypatch.setattr(functional, "_stays", lambda node, decompositions: False)
    again = capture(function, rows(shapes, 2))
    assert list(map(str, kept.steps)) == list(map(str, again.steps))


def test_further_arguments():
    """Tensors with rows become inputs; constants and anything else stay what they are."""
    weights, constant = torch.rand(2, 4).double(), torch.rand(4).double()

    def function(x, per_example, fixed, power, flag, nothing):
        assert flag == "on" and nothing is None
        return torch.tanh(x * per_example + fixed * power).sum(1)

    xs = rows([(4,)], 2)
    module = capture(function, xs, (weights, constant, 3.0, "on", None))
    assert module.input_names == ("x0", "argument0", "cotangent")
    x, other, cotangent = *rows([(4,)], 5), *rows([(4,)], 6), *rows([()], 5)
    truth = gradient(lambda x: function(x, other[:5], constant, 3.0, "on", None), (x,), cotangent)
    torch.testing.assert_close(module(x, other[:5], cotangent), truth)


def test_copies_states_and_printing():
    function, shapes = build("batch-norm-1d")
    inputs = (*rows(shapes, 3), torch.ones(3, 3, dtype=torch.float64))
    module = capture(function, inputs[:1])
    value = module(*inputs)
    twin = copy.deepcopy(module)
    assert torch.equal(twin(*inputs), value)
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in module.parameters()}
    with torch.no_grad():
        for weight in twin.parameters():
            weight.add_(1)
    assert torch.equal(module(*inputs), value) and not torch.equal(twin(*inputs), value)
    twin.load_state_dict(module.state_dict())
    assert torch.equal(twin(*inputs), value)
    assert module.to(torch.float32)(*(x.float() for x in inputs)).dtype == torch.float32
    lines = [line.strip() for line in repr(module).splitlines()]
    assert lines[1] == "inputs: x0, cotangent" and lines[-2].startswith("return v")
    assert sum(" = " in line for line in lines) == len(module.steps)
    assert any("tanh_gradient(" in line for line in lines) and any("epsilon=1e-05" in line
                                                                   for line in lines)
    with pytest.raises(TypeError, match="x0, cotangent; 1 were given"):
        module(inputs[0])


# What is refused

MIXED = {
    "minus-mean": lambda x: x - x.mean(0),
    "minus-mean-of-all": lambda x: x - x.mean(),
    "plus-sum": lambda x: x + x.sum(0, keepdim=True),
    "times-sum-of-all": lambda x: x * x.sum(),
    "reshape-over-the-batch": lambda x: x.reshape(4, -1).t(),
    "transpose": lambda x: x.t().reshape(x.shape),
    "transpose-3d": lambda x: x[:, :3, None].expand(-1, 3, 3).transpose(0, 1).sum(2),
    "roll": lambda x: torch.roll(x, 1, 0) * x,
    "flip": lambda x: x.flip(0) * x,
    "first-row": lambda x: x + x[:1],
    "first-row-selected": lambda x: x * x[0],
    "rows-rotated": lambda x: torch.cat([x[1:], x[:1]]) * x,
    "rows-permuted": lambda x: x[torch.tensor([2, 0, 1])] * x,
    "unbind": lambda x: torch.stack(x.unbind(0)[::-1]) * x,
    "gram": lambda x: x @ x.t(),
    "softmax-over-the-batch": lambda x: torch.softmax(x, 0),
    "cumulative-sum": lambda x: x.cumsum(0),
    "merged-rows-averaged": lambda x: x + x.reshape(-1, 2).mean(0).repeat(2),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixing_the_examples_is_refused(name):
    with pytest.raises(UnsupportedOperation):
        capture(MIXED[name], rows([(4,)], 3))


def test_batch_statistics_are_refused():
    function = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double().train()
    with pytest.raises(TrainingModeError, match="eval"):
        capture(function, rows([(4,)], 3))


@pytest.mark.parametrize("function", [
    lambda x: x * 2 if x.sum() > 0 else x, lambda x: x * x[0, 0].item(),
    lambda x: x[x > 0][:3] * x[:, 0],
], ids=["if", "item", "mask"])
def test_what_is_computed_must_not_depend_on_values(function):
    with pytest.raises(UnsupportedOperation,
                       match=r"decides by the values of its input|aten\.index"):
        capture(function, rows([(4,)], 3))


class Odd(nn.Module):
    def __init__(self, odd) -> None:
        super().__init__()
        self.odd = odd

    def forward(self, x):
        return self.odd(x) + 1


@pytest.mark.parametrize(("odd", "operation"), [
    (torch.erfinv, "erfinv"), (torch.lgamma, "digamma"), (torch.special.i0, "special_i1")])
def test_an_unsupported_operation_is_named_with_its_place(odd, operation):
    """What the gradient needs of an operation may be another operation."""
    function = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), Odd(odd))).double()
    with pytest.raises(UnsupportedOperation) as error:
        capture(function, rows([(4,)], 3))
    for part in (f"aten.{operation}", "1.1 (Odd)", "test_graph.py", "`return self.odd(x) + 1`",
                 "register(Operator", f"rule(torch.ops.aten.{operation}"):
        assert part in str(error.value)


@pytest.mark.parametrize("output",
                         [lambda x: x.sum(), lambda x: (x, x), lambda x: x.sum(0), lambda x: 3.0])
def test_an_output_without_a_batch_is_refused(output):
    with pytest.raises(UnsupportedOperation, match="first dimension is the batch"):
        capture(output, rows([(4,)], 3))


# What is either followed or refused

VIEWS = {
    "view": lambda y: y.view(-1, 2, 2), "slice": lambda y: y[:, :2], "select": lambda y: y[:, 0],
    "transpose": lambda y: y[:, None].transpose(1, 2),
    "expand": lambda y: y[:, None].expand(-1, 2, -1),
    "detach": lambda y: y.detach(),
}
OVERWRITES = {
    "times": lambda y: y.mul_(3), "relu": lambda y: F.relu(y, inplace=True),
    "assign": lambda y: y.__setitem__((..., slice(0, 1)), 0.5),
}


def overwriting(view: str, overwrite: str, through_view: bool, use: str):
    """A tensor, or a view of it, is overwritten; then one of the two, or both, are used."""
    def function(x: Tensor) -> Tensor:
        base = 2 * x
        part = VIEWS[view](base)
        OVERWRITES[overwrite](part if through_view else base)
        used = [value for name, value in (("view", part), ("base", base)) if name in use]
        return torch.sigmoid(x) + sum((value * value).reshape(len(x), -1).sum(1, keepdim=True)
                                      for value in used)

    return function


TRICKY = {f"{overwrite}-{'view' if through_view else 'base'}-of-{view}-then-use-{use}": overwriting(
    view, overwrite, through_view, use) for view, overwrite, through_view, use in itertools.product(
        VIEWS, OVERWRITES, (False, True), ("view", "base", "view-and-base"))} | {
            "relu-in-place-after-flatten": lambda x: F.relu((2 * x).view(-1, 2, 2).flatten(1),
                                                            inplace=True),
            "relu-in-place-after-convolution": lambda x: F.conv1d(
                x[:, None], torch.ones(2, 1, 3).to(x)).flatten(1).relu_(),
            "loop-over-examples": lambda x: torch.stack([row.tanh() for row in x]),
            "loop-over-time": lambda x: torch.stack(
                [s.tanh() for s in x.reshape(-1, 2, 2).permute(1, 0, 2)], 1),
            "stacked-in-the-batch": lambda x: torch.cat([x, 2 * x]).tanh()[len(x):],
            "cut-of-merged-rows": lambda x: torch.tanh(x[:, :2] * x.reshape(-1,
                                                                            2)[:len(x)].detach()),
            "back-and-forth": lambda x: x.reshape(-1, 2).t().reshape(2, len(x),
                                                                     2).permute(1, 0, 2).tanh(),
            "transposed-and-back": lambda x: x.t().contiguous().t().tanh(),
            "as-strided": lambda x: x.as_strided((len(x), 2), (4, 2)).tanh(),
            "times-a-detached-mean": lambda x: torch.tanh(x * x.mean(0).detach()),
            "first-factor-constant": lambda x: torch.einsum("ij,nj->ni", torch.ones(4, 4).to(x),
                                                            x).tanh(),
            "repeat": lambda x: x.repeat(1, 2).tanh(), "roll": lambda x: x.roll(1, 1).tanh(),
            "where": lambda x: torch.where(x > 0, x, 2 * x),
            "threshold": lambda x: F.threshold(x, 0.0, 5.0),
            "in-float32": lambda x: x.float().tanh().to(x), "softmax": lambda x: x.softmax(1),
            "power": lambda x: x**3,
            "unused-input": lambda x: torch.ones_like(x), "detached": lambda x: 2 * x.detach(),
        }


@pytest.mark.parametrize("name", TRICKY)
def test_tricky_functions_are_right_or_refused(name):
    function, xs = TRICKY[name], rows([(4,)], 3)
    try:
        cotangent = torch.rand(function(*xs).shape, dtype=torch.float64)
        truth = gradient(function, xs, cotangent)
    except RuntimeError:
        truth = None  # autograd refuses it
    try:
        value = capture(function, xs)(*xs, cotangent)
    except UnsupportedOperation:
        return
    assert truth is not None
    torch.testing.assert_close(value, truth)
