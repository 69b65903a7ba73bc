"""The networks."""

from collections.abc import Callable

from torch import nn

Activation = Callable[[], nn.Module]
ACTIVATIONS: dict[str, Activation] = {"relu": nn.ReLU, "softplus": lambda: nn.Softplus(beta=10)}


def fully_connected(*sizes: int) -> Callable[[Activation], nn.Sequential]:
    """Linear layers of these sizes, on flattened inputs."""
    def make(activation: Activation) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(before, after), activation()]
        return nn.Sequential(*layers[:-1])

    return make


def small_cnn(channels: int, classes: int) -> Callable[[Activation], nn.Sequential]:
    """The "small" net of Gowal et al. without padding, for images of 28 x 28."""
    def make(activation: Activation) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, 16, 4, stride=2), activation(),
                             nn.Conv2d(16, 32, 4), activation(), nn.Flatten(),
                             nn.Linear(3200, 100), activation(), nn.Linear(100, classes))

    return make
