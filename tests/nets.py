"""The small nets of the tests: a table that any test may use, and how to make one of other sizes.

All are in float64 and evaluation mode. A seed is torch's own, so what a test draws after making a
net is fixed too; None leaves it alone, for nets that are made together.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]

ACTIVATIONS: dict[str, Activation] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": lambda: nn.Softplus(2.0),
}
MORE_ACTIVATIONS: dict[str, Activation] = {
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": lambda: nn.CELU(0.5),
    "hardtanh": nn.Hardtanh,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "logsigmoid": nn.LogSigmoid,
    "softsign": nn.Softsign,
    "tanhshrink": nn.Tanhshrink,
    "prelu": nn.PReLU,
    "softshrink": nn.Softshrink,
    "hardshrink": nn.Hardshrink,
    "threshold": lambda: nn.Threshold(0.1, 0.5),
}


def layers(*modules: nn.Module) -> nn.Sequential:
    """These layers, one after the other."""
    return nn.Sequential(*modules).double().eval()


def mlp(
    *sizes: int, activation: Activation = nn.ReLU, seed: int | None = 0, gain: float = 1.0
) -> nn.Sequential:
    """Linear layers of these sizes with activations between them.

    Args:
        sizes: Inputs, hidden neurons, outputs.
        activation: Makes each of the activations.
        seed: Of the weights.
        gain: What weights and biases are multiplied by: large ones have more kinks in a ball.
    """
    if seed is not None:
        torch.manual_seed(seed)
    pairs = [(nn.Linear(n, m), activation()) for n, m in itertools.pairwise(sizes)]
    net = layers(*list(itertools.chain(*pairs))[:-1])
    for weight in net.parameters():
        weight.data.mul_(gain)
    return net


def cnn(activation: Activation) -> nn.Sequential:
    """Strided and grouped convolutions, batch normalization with statistics, both poolings."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), activation(),
        nn.Conv2d(4, 4, 3, padding=1, groups=2), activation(), nn.MaxPool2d(2, 1), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
    return net.double().eval()


class Residual(nn.Module):
    """Two residual blocks around one layer that is used twice."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.first(x))
        for _ in range(2):
            x = x + self.activation(self.block(x)) / 2
        return self.last(x)


class PictureAndVector(nn.Module):
    """Two inputs, joined by concatenation."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.picture = nn.Sequential(
            nn.Conv2d(1, 2, 3), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.vector, self.head = nn.Linear(3, 3), nn.Linear(5, 3)
        self.activation = activation()

    def forward(self, picture: Tensor, vector: Tensor) -> Tensor:
        joined = torch.cat([self.picture(picture), self.activation(self.vector(vector))], 1)
        return self.head(joined)


class TwoVectors(nn.Module):
    """Two inputs (N, 3), (N, 2), joined by a sum; arguments: a factor for each example, a flag."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 5), nn.Linear(2, 5), nn.Linear(5, outputs)

    def forward(self, a: Tensor, b: Tensor, factor: Any = 1.0, negative: bool = False) -> Tensor:
        hidden = torch.tanh(self.first(a)) * factor + torch.relu(self.second(b))
        return self.last(-hidden if negative else hidden)


@dataclass(frozen=True)
class Net:
    """How to build a net of three outputs, and the shape of one example of each of its inputs."""

    build: Callable[[Activation], nn.Module]
    shapes: tuple[tuple[int, ...], ...]


NETS: dict[str, Net] = {
    "mlp": Net(lambda activation: mlp(5, 7, 6, 3, activation=activation, seed=None), ((5,),)),
    "cnn": Net(cnn, ((2, 6, 6),)),
    "residual": Net(Residual, ((4,),)),
    "two inputs": Net(PictureAndVector, ((1, 5, 5), (3,))),
}


def make(
    name: str, activation: str = "relu", seed: int = 0, examples: int = 3
) -> tuple[nn.Module, Tensor | tuple[Tensor, ...]]:
    """A net of the table and examples of its inputs; its weights are twice torch's: more kinks."""
    torch.manual_seed(seed)
    row = NETS[name]
    model = row.build((ACTIVATIONS | MORE_ACTIVATIONS)[activation]).double().eval()
    for weight in model.parameters():
        weight.data.mul_(2)
    xs = tuple(torch.randn(examples, *shape, dtype=torch.float64) for shape in row.shapes)
    return model, xs if len(xs) > 1 else xs[0]


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor | tuple[Tensor, ...]]:
    """Each net of the table, with ReLUs, and three examples."""
    return make(request.param)
