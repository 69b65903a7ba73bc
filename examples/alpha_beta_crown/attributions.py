"""Questions about attributions for alpha-beta-CROWN: the models that its YAML files name, and their
VNN-LIB queries.

A YAML file of it says `model: name: Customized("attributions.py", "question", "iris-sign")`. The
queries that go with the models are written by

    python attributions.py FOLDER
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from captum.attr import InputXGradient, Saliency
from sklearn.datasets import load_digits, load_iris
from torch import Tensor, nn

import lirpa_explain as lx


def iris() -> nn.Sequential:
    """A network of four features of a flower."""
    return nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(),
                         nn.Linear(20, 3))


def digits() -> nn.Sequential:
    """A network of 64 pixels."""
    return nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(),
                         nn.Linear(20, 10))


def convolutional() -> nn.Sequential:
    """A convolutional network of the same pixels."""
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(),
                         nn.Flatten(), nn.Linear(27, 16), nn.ReLU(), nn.Linear(16, 10))


def data_of(load: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Examples between 0 and 1, and their classes."""
    x, y = load(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32)
    x = (x - x.amin(0)) / (x.amax(0) - x.amin(0)).clamp(min=1)
    return x, torch.tensor(y)


NETWORKS = {
    "iris": (iris, lambda: data_of(load_iris)),
    "digits": (digits, lambda: data_of(load_digits)),
    "convolutional": (convolutional, lambda: data_of(load_digits)),
}


@cache
def trained(name: str) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network after some steps of training, and its data."""
    make, load = NETWORKS[name]
    x, y = load()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    optimizer = torch.optim.Adam(model.parameters(), 0.01, weight_decay=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval().requires_grad_(False), x, y


@dataclass(frozen=True)
class Question:
    """Whether a property of the attribution of an example holds in a box around it."""

    network: str
    example: int
    attribution: type
    property: lx.interchange.Property
    eps: float

    @property
    def inputs(self) -> Tensor:
        """The example, (1, *S)."""
        return trained(self.network)[1][self.example: self.example + 1]

    @property
    def keywords(self) -> dict[str, object]:
        """What the attribution is given."""
        target = int(trained(self.network)[2][self.example])
        return {"target": target} | ({"abs": False} if self.attribution is Saliency else {})

    def module(self, torch_relus: bool = True) -> lx.MarginModule:
        """What the verifier is given."""
        attribution = self.attribution(trained(self.network)[0])
        return lx.MarginModule(attribution, self.inputs, self.property, torch_relus=torch_relus,
                               **self.keywords)


PROPERTIES = lx.PROPERTIES

QUESTIONS: dict[str, Question] = {
    "iris-sign": Question("iris", 133, Saliency, PROPERTIES["sign"](), 0.15),
    "iris-above": Question("iris", 119, Saliency, PROPERTIES["above"](2, 3), 0.1),
    "iris-top": Question("iris", 133, InputXGradient, PROPERTIES["top_k"](2, 2), 0.15),
    "iris-protected": Question("iris", 133, Saliency, PROPERTIES["out_of_top_k"](0, 2), 0.15),
    "iris-near": Question("iris", 133, Saliency, PROPERTIES["near"](18.0), 0.1),
    "iris-broken": Question("iris", 91, Saliency, PROPERTIES["sign"](), 0.04),
    "pixels-above": Question("convolutional", 0, Saliency, PROPERTIES["above"](34, 41), 0.04),
}


def question(name: str) -> nn.Module:
    """The entry of alpha-beta-CROWN's YAML files."""
    return QUESTIONS[name].module()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    for name, asked in QUESTIONS.items():
        (folder / f"{name}.vnnlib").write_text(asked.module().vnnlib(eps=asked.eps, clip=(0, 1)))
