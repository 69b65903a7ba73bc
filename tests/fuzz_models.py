"""Random small architectures, drawn from tables: layers, functions, branches, heads, inputs and
kinds of weights.

A row of a table says for which numbers of dimensions of an example it is made (a vector, a sequence
(C, L), an image (C, H, W)), and how. What it makes of a shape is found by running it; what does not
fit is drawn again.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lirpa_explain.operators import activation
from tests.fuzz_operations import ALL, LONGEST, OPERATIONS, GRUSteps, Shape, WithIds, draw_with_ids

aten = torch.ops.aten
LARGEST = LONGEST
"""Most entries of a value within a net."""


class Function(nn.Module):
    """A function of one tensor as a module with a name."""

    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


class Wrapped(Function):
    """The same around a layer, `function(layer, x)`."""

    def __init__(self, name: str, layer: nn.Module,
                 function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__(name, function)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer, x)


class Beside(nn.Module):
    """A parameter or constant beside the value: a class token, a bias of positions, a mask."""

    def __init__(self, how: str, shape: Shape) -> None:
        super().__init__()
        self.how = how
        self.token = nn.Parameter(torch.randn(1, 1, *shape[1:]))
        self.table = nn.Embedding(shape[0], math.prod(shape[1:]))
        self.register_buffer("constant", torch.randn(1, 1, *shape[1:]))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "token":
            return torch.cat([self.token.expand(len(x), *self.token.shape[1:]), x], 1)
        if self.how == "constant":
            return torch.cat([x, self.constant.expand(len(x), *self.constant.shape[1:])], 1)
        if self.how == "positions":
            return x + self.table(torch.arange(x.shape[1])).reshape(x.shape[1:])
        return x * self.token + self.constant

    def extra_repr(self) -> str:
        return self.how


# Layers: name -> (numbers of dimensions, level, make(draw, shape)); level 2: Captum's LRP has a
# rule for it; 1: it is linear between activations, so that DeepLift needs none

Make = Callable[[random.Random, Shape], nn.Module]


def _convolution(kind: Any, transposed: bool = False) -> Make:
    def make(draw: random.Random, shape: Shape) -> nn.Module:
        groups = draw.choice([g for g in (1, 1, 2, 3) if shape[0] % g == 0])
        settings = {"stride": draw.choice((1, 1, 2)), "dilation": draw.choice((1, 1, 2)),
                    "padding": draw.choice((0, 1)), "groups": groups, "bias": draw.random() < 0.8}
        if transposed and settings["stride"] > 1:
            settings["output_padding"] = draw.choice((0, 1))
        if not transposed and draw.random() < 0.2:
            settings["padding_mode"] = draw.choice(("reflect", "replicate", "circular"))
        return kind(shape[0], groups * draw.choice((1, 2)), draw.choice((1, 2, 3)), **settings)
    return make


def _max_pool(kind: Any) -> Make:
    return lambda draw, shape: kind(draw.choice((2, 3)), draw.choice((1, 2)), draw.choice((0, 1)),
                                    draw.choice((1, 2)), ceil_mode=draw.random() < 0.3)


def _average_pool(kind: Any, **more: Any) -> Make:
    return lambda draw, shape: kind(draw.choice((2, 3)), draw.choice((1, 2)), draw.choice((0, 1)),
                                    ceil_mode=draw.random() < 0.3,
                                    count_include_pad=draw.random() < 0.5,
                                    **{name: draw.choice(values) for name, values in more.items()})


def _norm(kind: Any, **options: Any) -> Make:
    return lambda draw, shape: kind(shape[0], affine=draw.random() < 0.7, **options)


def _recurrent(kind: Any) -> Make:
    def make(draw: random.Random, shape: Shape) -> nn.Module:
        layer = kind(shape[1], 2, batch_first=True, bidirectional=draw.random() < 0.3)
        return Wrapped("all steps", layer, lambda layer, x: layer(x)[0])
    return make


def _attention(draw: random.Random, shape: Shape) -> nn.Module:
    mask = torch.ones(shape[0], shape[0]).triu(1).bool() if draw.random() < 0.4 else None
    return Wrapped("self", nn.MultiheadAttention(
        shape[1], draw.choice([h for h in (1, 2) if shape[1] % h == 0]), batch_first=True),
                   lambda layer,
                   x: layer(x, x, x, attn_mask=mask, need_weights=mask is not None)[0])


LAYERS: dict[str, tuple[tuple[int, ...], int, Make]] = {
    "linear": (ALL, 2, lambda draw,
               s: nn.Linear(s[-1], draw.choice((s[-1], 3, 4)), bias=draw.random() < 0.8)),
    "conv1d": ((2,), 1, _convolution(nn.Conv1d)),
    "conv2d": ((3,), 2, _convolution(nn.Conv2d)),
    "transposed 1d": ((2,), 1, _convolution(nn.ConvTranspose1d, True)),
    "transposed 2d": ((3,), 1, _convolution(nn.ConvTranspose2d, True)),
    "max pool 1d": ((2,), 2, _max_pool(nn.MaxPool1d)),
    "max pool 2d": ((3,), 2, _max_pool(nn.MaxPool2d)),
    "average pool 1d": ((2,), 1, _average_pool(nn.AvgPool1d)),
    "average pool 2d": ((3,), 2, _average_pool(nn.AvgPool2d, divisor_override=(None, 3))),
    "adaptive average 1d": ((2,), 1, lambda draw, s: nn.AdaptiveAvgPool1d(draw.choice((1, 2, 3)))),
    "adaptive average 2d": ((3,), 2, lambda draw,
                            s: nn.AdaptiveAvgPool2d(draw.choice((1, 2, (3, 2))))),
    "adaptive max 1d": ((2,), 0, lambda draw, s: nn.AdaptiveMaxPool1d(1)),
    "adaptive max 2d": ((3,), 0, lambda draw, s: nn.AdaptiveMaxPool2d(draw.choice((1, 2)))),
    "batch norm 1d": ((1, 2), 1, _norm(nn.BatchNorm1d)),
    "batch norm 2d": ((3,), 2, _norm(nn.BatchNorm2d)),
    "layer norm": (ALL, 0, lambda draw,
                   s: nn.LayerNorm(s[-draw.choice(range(1, len(s) + 1)):], eps=draw.choice(
                       (1e-5, 0.1)), elementwise_affine=draw.random() < 0.7)),
    "group norm": ((2, 3), 0, lambda draw,
                   s: nn.GroupNorm(draw.choice([g for g in (1, 2) if s[0] % g == 0]), s[0], 0.01)),
    "instance norm 1d": ((2,), 0, _norm(nn.InstanceNorm1d)),
    "instance norm 2d": ((3,), 0, _norm(nn.InstanceNorm2d, track_running_stats=True)),
    "rnn": ((2,), 0, _recurrent(nn.RNN)),
    "gru": ((2,), 0, _recurrent(nn.GRU)),
    "lstm": ((2,), 0, _recurrent(nn.LSTM)), "gru steps": ((2,), 0, lambda draw, s: GRUSteps(s[1])),
    "attention": ((2,), 0, _attention),
    "encoder": ((2,), 0, lambda draw, s: nn.TransformerEncoderLayer(
        s[1], 1, 4, activation=draw.choice(("relu", "gelu")), batch_first=True,
        norm_first=draw.random() < 0.5)),
    "softmax": (ALL, 0, lambda draw, s: nn.Softmax(-1)),
    "log softmax": (ALL, 0, lambda draw, s: nn.LogSoftmax(1)),
    "dropout": (ALL, 2, lambda draw, s: nn.Dropout()),
    "beside": ((2, 3), 0, lambda draw,
               s: Beside(draw.choice(("token", "constant", "positions", "scale")), s)),
    "upsample 1d": ((2,), 0, lambda draw,
                    s: nn.Upsample(scale_factor=draw.choice((2, 1.7)), mode=draw.choice(
                        ("nearest", "linear", "nearest-exact")))),
    "upsample 2d": ((3,), 0, lambda draw, s: nn.Upsample((s[1] + 1, s[2]), mode=draw.choice(
        ("nearest", "bilinear", "bicubic", "nearest-exact")))),
    "pad 1d": ((2,), 0, lambda draw, s: draw.choice((nn.ReflectionPad1d, nn.ReplicationPad1d,
                                                     nn.CircularPad1d))((draw.choice((0, 1)), 1))),
    "pad 2d": ((3,), 0, lambda draw,
               s: draw.choice((nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d))(
                   (draw.choice((0, 1)), 1, 0, 1))),
    "pad constant": (ALL, 0, lambda draw,
                     s: nn.ConstantPad1d((1, draw.choice((-1, 0, 1))), draw.choice((0, 2.5)))),
    "pixels": ((3,), 0, lambda draw, s: nn.PixelUnshuffle(2) if s[0] % 4 else nn.PixelShuffle(2)),
    "flatten": ((2, 3), 1, lambda draw, s: nn.Flatten()),
}

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu in place": lambda: nn.ReLU(inplace=True), "tanh": nn.Tanh,
}
"""Those for which LRP has a rule."""
DEEP_LIFT: dict[str, Callable[[], nn.Module]] = ACTIVATIONS | {
    "leaky relu": lambda: nn.LeakyReLU(0.1),
    "steep relu": lambda: nn.LeakyReLU(1.5), "sigmoid": nn.Sigmoid, "softplus": nn.Softplus,
    "softplus with settings": lambda: nn.Softplus(3.0, 2.0), "elu": nn.ELU,
    "elu of 2": lambda: nn.ELU(2.0),
}
"""Those for which DeepLift has one."""
ANY: dict[str, Callable[[], nn.Module]] = DEEP_LIFT | {
    "gelu": nn.GELU, "gelu by tanh": lambda: nn.GELU("tanh"), "silu": nn.SiLU, "mish": nn.Mish,
    "selu": nn.SELU,
    "celu": lambda: nn.CELU(0.5), "hardtanh": nn.Hardtanh, "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid, "hardshrink": nn.Hardshrink, "softshrink": nn.Softshrink,
    "prelu": nn.PReLU,
    "rrelu": nn.RReLU, "threshold": lambda: nn.Threshold(0.1, 0.5), "logsigmoid": nn.LogSigmoid,
    "softsign": nn.Softsign, "tanhshrink": nn.Tanhshrink,
}
IN_PLACE: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("relu_", "tanh_", "sigmoid_", "gelu_", "silu_", "mish_", "hardtanh_",
                     "hardswish_", "hardsigmoid_",
                     "elu_", "celu_", "abs_", "sin_", "cos_", "square_", "leaky_relu_"), ()),
    "clamp_": (-1.0, 0.5), "clamp_max_": (0.5,), "clamp_min_": (-0.5,), "threshold_": (0.1, 0.5),
    "add_": (0.5,),
    "sub_": (0.5,), "mul_": (-1.5,), "div_": (2.0,), "pow_": (2,), "exp_": (),
}
"""Operations of torch.ops.aten with their further arguments, applied to a copy."""

FUNCTIONS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "sin": (ALL, torch.sin), "cos": (ALL, torch.cos), "abs": (ALL, torch.abs),
    "square": (ALL, torch.square),
    "exp": (ALL, lambda x: (x / 2).exp()), "cube": (ALL, lambda x: x**3),
    "neg": (ALL, lambda x: 1 - x),
    "log": (ALL, lambda x: torch.log(x.square() + 0.5)),
    "root": (ALL, lambda x: (x.square() + 0.5).sqrt()),
    "inverse root": (ALL, lambda x: (x * x + 0.5).rsqrt()),
    "reciprocal": (ALL, lambda x: (1 + x.exp()).reciprocal()),
    "of positive": (ALL, lambda x: (x.abs() + 0.1).log_().neg()),
    "power": (ALL, lambda x: (x.sigmoid() + 0.1)**1.5),
    "root in place": (ALL,
                      lambda x: (x.square() + 0.5).sqrt_().clone().rsqrt_().clone().reciprocal_()),
    "share": (ALL, lambda x: x / (1 + x.abs().sum(1, keepdim=True))),
    "clamp": (ALL, lambda x: x.clamp(-0.7, 0.4)), "clamp max": (ALL, lambda x: x.clamp(max=0.3)),
    "clamp min": (ALL, lambda x: torch.clamp_min(x, -0.2)),
    "sign": (ALL, lambda x: x + x.sign()), "signed": (ALL, lambda x: x * torch.sgn(x)),
    "where": (ALL, lambda x: torch.where(x > 0.1, x, 0.5 * x)),
    "where numbers": (ALL, lambda x: torch.where(x <= 0.2, x.square(), 0.3)),
    "where first a number": (ALL, lambda x: torch.where(x < -0.1, 0.5, x)),
    "step": (ALL, lambda x: x + torch.where(x >= 0.0, 1.0, -1.0)),
    "between": (ALL, lambda x: torch.where((x > -0.5) & (x < 0.5), x, 0.1 * x)),
    "logical": (ALL, lambda x: torch.where(torch.logical_and(x >= -0.5, x <= 0.5).logical_not(), x,
                                           2 * x)),
    "masked fill": (ALL, lambda x: x.masked_fill(~(x > -0.3), -0.3)),
    "masked fill in place": (ALL, lambda x: (2 * x).masked_fill_(x < 0.0, 1.0)),
    "compared with tensors": (ALL, lambda x: torch.where(
        (x > torch.tensor(-0.6)).bitwise_and_(x < torch.tensor(0.4)).logical_not_(), 2 * x,
        x.sin())),
    "compared closed": (ALL, lambda x: torch.where(
        torch.logical_and(x >= torch.tensor(-0.5), x <= torch.tensor(0.6)), x.cos(), 0.1 * x)),
    "filled with tensors": (ALL,
                            lambda x: (x + 1).masked_fill(x < 0.2, torch.tensor(0.5)).masked_fill_(
                                x > 0.6, torch.tensor(0.7))),
    "scalars": (ALL, lambda x: aten.sub_.Scalar(aten.add_.Scalar(aten.sub.Scalar(aten.add.Scalar(
        x, 0.5), 0.2), 0.3), 0.1)),
    "where of scalars": (ALL, lambda x: x * aten.where.Scalar(x > 0.1, 0.4, -0.7)),
    "overloads of where": (ALL, lambda x: aten.where.ScalarSelf(
        x > 0.3, 0.5, aten.where.ScalarOther(x > -0.2, x, 0.1))),
    "with a vector": ((1,
    ), lambda x: x * (x @ torch.linspace(-1, 1, x.shape[1], dtype=x.dtype))[:, None]),
    "sum of products": ((2,), lambda x: torch.baddbmm(x, x @ x.transpose(1, 2), x, beta=0.5)),
    "own activation": (ALL, lambda x: activation(x, "softsign")),
    "mean": ((2, 3), lambda x: x.mean(-1)),
    "mean kept": (ALL, lambda x: x - x.mean(-1, keepdim=True)),
    "sum": ((2, 3), lambda x: x.sum(1)), "sum of two": ((3,), lambda x: x.sum((2, 3))),
    "cumsum": (ALL, lambda x: x.cumsum(1)), "flip": (ALL, lambda x: x.flip(-1)),
    "roll": (ALL, lambda x: x.roll(1, -1)),
    "index": (ALL, lambda x: x[:, [0, -1, 0]]),
    "index two": ((3,), lambda x: x[:, :, [0, 1, 1], [1, 0, 1]]),
    "index select": (ALL, lambda x: x.index_select(1, torch.tensor([0, 0]))),
    "repeat": (ALL, lambda x: x.repeat(1, 2, *[1] * (x.ndim - 2))),
    "slice": (ALL, lambda x: x[:, ::2]),
    "last": ((2, 3), lambda x: x[:, -1]),
    "chunks": (ALL, lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "split": ((2, 3), lambda x: torch.cat([p.tanh() for p in x.split([1, x.shape[1] - 1], 1)], 1)),
    "unbind": ((2, 3), lambda x: torch.stack(x.unbind(1)[::-1], -1)),
    "glu": (ALL, lambda x: F.glu(x, 1)), "transpose": ((2, 3), lambda x: x.transpose(1, -1)),
    "time first": ((2,), lambda x: torch.tanh(x.transpose(0, 1)).transpose(0, 1).contiguous()),
    "merge": ((2,), lambda x: x.reshape(-1, x.shape[2]).sigmoid().view(x.shape)),
    "unsqueeze": ((1,), lambda x: x.unsqueeze(1)),
    "squeeze": ((2,), lambda x: x.mean(1, keepdim=True).squeeze(1)),
    "expand": ((1,), lambda x: x[:, None].expand(-1, 2, -1)),
    "unflatten": ((2,), lambda x: x.unsqueeze(-1).tanh()),
    "attend": ((2,), lambda x: F.scaled_dot_product_attention(x, x, x)),
    "gram": ((2,), lambda x: x @ x.transpose(1, 2) / 2),
    "normalize": (ALL, lambda x: F.normalize(x, dim=1, eps=0.1)),
    "logsumexp": ((2, 3), lambda x: x.log_softmax(1).exp() * x),
    "softmin": (ALL, lambda x: F.softmin(x, 1)),
    "pad": (ALL, lambda x: F.pad(x, (1, 0), value=0.5)),
    "einsum": ((2,), lambda x: torch.einsum("bij,bik->bjk", x, x)),
} | OPERATIONS

COMBINATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "add scaled": lambda a, b: torch.add(a, b, alpha=0.5), "subtract": lambda a,
    b: a - b,
    "multiply": torch.mul, "divide": lambda a, b: a / (1 + b.square()), "gate": lambda a,
    b: a * torch.sigmoid(b),
    "concatenate": lambda a, b: torch.cat([a, b], 1), "stack": lambda a,
    b: torch.stack([a, b], 1).flatten(1, 2),
    "choose": lambda a, b: torch.where(a > 0, a, b), "matmul": lambda a, b: a @ b.transpose(-1, -2),
    "mean": lambda a, b: (a + b) / 2,
}

SHAPES: tuple[Shape, ...] = ((3,), (4,), (6,), (2, 3), (3, 4), (2, 5), (4, 2, 2), (1, 4, 4),
                             (2, 3, 4), (2, 4, 4))
"""Of one example of the input."""

WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "ordinary": lambda w: w, "doubled": lambda w: 2 * w, "tiny": lambda w: 1e-4 * w,
    "large": lambda w: 6 * w,
    "dyadic": lambda w: (4 * w).round() / 4, "zero bias": lambda w: w if w.ndim > 1 else 0 * w,
}

LEVELS = (ANY, DEEP_LIFT, ACTIVATIONS)

HEADS: dict[str, tuple[int, Callable[[int], nn.Module]]] = {
    "linear": (2, lambda n: nn.Linear(n, 3)),
    "softmax": (0, lambda n: nn.Sequential(nn.Linear(n, 3), nn.Softmax(1))),
    "log softmax": (0, lambda n: nn.Sequential(nn.Linear(n, 3), nn.LogSoftmax(1))),
    "column": (2, lambda n: nn.Linear(n, 1)),
    "scalar": (1, lambda n: nn.Sequential(nn.Linear(n, 1),
                                          Function("squeeze", lambda x: x.squeeze(1)))),
    "planes": (1, lambda n: nn.Sequential(nn.Linear(n, 4), nn.Unflatten(1, (2, 2)))),
}
"""The highest level at which each is drawn, and how it is made for n entries."""
EXTRAS: tuple[Any, ...] = ((), (), (), "rows", 0.7, True)
"""Further arguments of the model: none, one number an example, a number, or whether to change the
sign."""


class Branches(nn.Module):
    """Two ways from one value, and how they are combined."""

    def __init__(self, how: str, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.how, self.first, self.second = how, first, second

    def forward(self, x: Tensor) -> Tensor:
        return COMBINATIONS[self.how](self.first(x), self.second(x))

    def extra_repr(self) -> str:
        return self.how


class Net(nn.Module):
    """Steps and a head; a second input is added to, or multiplied with, the value after the first
    step.
    """

    def __init__(self, steps: list[nn.Module], head: nn.Module, beside: nn.Module | None,
                 multiplied: bool) -> None:
        super().__init__()
        self.steps, self.head, self.beside, self.multiplied = (nn.ModuleList(steps), head, beside,
                                                               multiplied)

    @property
    def takes_ids(self) -> bool:
        """Whether the last further argument is ids."""
        return any(isinstance(step, WithIds) for step in self.steps)

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        ids = ()
        if self.takes_ids:
            *others, ids = others
        for i, step in enumerate(self.steps):
            x = step(x, ids) if isinstance(step, WithIds) else step(x)
            if i == 0 and self.beside is not None:
                y, *others = others
                y = self.beside(y).reshape(x.shape)
                x = x * y if self.multiplied else x + y
        x = x.flatten(1)
        for extra in others:
            x = -x if extra is True else x * extra
        return self.head(x)


@dataclass(frozen=True)
class Architecture:
    """A drawn net in eval mode and float64, and what it takes."""

    model: Net
    shapes: tuple[Shape, ...]
    extras: Any
    head: str
    weights: str


def shape_after(module: nn.Module, shape: Shape) -> Shape | None:
    """Shape of an example behind a module, or None where it does not fit, or pools nothing but
    padding.
    """
    try:
        with torch.no_grad():
            ids = (torch.zeros(2, LONGEST).long(),) * isinstance(module, WithIds)
            result = module.eval()(torch.zeros(2, *shape), *ids)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return None
    fits = (len(result) == 2 and 2 <= result.ndim <= 4 and 0 < result[0].numel() <= LARGEST
            and result.isfinite().all())
    return tuple(result.shape[1:]) if fits else None


def draw_step(draw: random.Random, shape: Shape, level: int, depth: int = 0) -> nn.Module:
    """One step: a layer or an activation of a level; at level 0 also a function or two branches."""
    kind = draw.choice(("layer",) * 9 + ("activation",) if level else (
        "layer", "layer", "layer", "activation", "activation", "in place", "function", "function",
        "function", "branches", *["ids"] * (depth == 0)))
    if kind == "layer":
        return draw.choice([row for row in LAYERS.values()
                            if len(shape) in row[0] and row[1] >= level])[2](draw, shape)
    if kind == "activation":
        return draw.choice(list(LEVELS[level].values()))()
    if kind == "in place":
        name = draw.choice(list(IN_PLACE))
        return Function(name, lambda x: getattr(aten, name)(x.clone(), *IN_PLACE[name]))
    if kind == "ids":
        return draw_with_ids(draw, shape)
    if kind == "function":
        name = draw.choice([name for name, row in FUNCTIONS.items() if len(shape) in row[0]])
        return Function(name, FUNCTIONS[name][1])
    if depth == 2:
        return nn.Identity()
    parts = [nn.Identity() if draw.random() < 0.3
             else draw_fitting(draw, shape, level, depth + 1)[0] for _ in "ab"]
    return Branches(draw.choice(list(COMBINATIONS)), *parts)


def draw_fitting(draw: random.Random, shape: Shape, level: int,
                 depth: int = 0) -> tuple[nn.Module, Shape]:
    """A step that fits, and the shape behind it."""
    while True:
        try:
            step = draw_step(draw, shape, level, depth)
        # settings that torch does not allow together
        except (ValueError, AssertionError, IndexError):
            continue
        after = shape_after(step, shape)
        if after is not None:
            return step, after


def draw_architecture(draw: random.Random, level: int) -> Architecture:
    """An architecture, with torch's random generator as it is set; above level 0 every other step
    is an activation.

    LRP knows modules alone, so at level 2 there is neither a second input nor a further argument.
    """
    shape = first = draw.choice(SHAPES)
    steps: list[nn.Module] = []
    inputs = (shape,)
    beside = None
    for i in range(draw.choice((2, 3, 4, 5))):
        if level and i % 2:
            steps.append(draw.choice(list(LEVELS[level].values()))())
            continue
        step, shape = draw_fitting(draw, shape, level)
        steps.append(step)
        if i == 0 and draw.random() < 0.2 and level < 2:
            beside, inputs = nn.Linear(2, math.prod(shape)), (first, (2,))
    head = draw.choice([name for name, (lowest, _) in HEADS.items() if lowest >= level])
    model = Net(steps, HEADS[head][1](math.prod(shape)), beside, draw.random() < 0.5)
    weights = draw.choice(list(WEIGHTS))
    extras = draw.choice(EXTRAS) if level < 2 else ()
    for weight in model.parameters():
        weight.data = WEIGHTS[weights](weight.data
                                       if weight.any() else 0.3 * torch.randn_like(weight))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return Architecture(model.double().eval(), inputs, extras, head, weights)
