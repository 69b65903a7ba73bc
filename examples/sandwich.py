"""What sampling misses: certified, attacked and sampled sensitivity of the same explanations.

Captum's `sensitivity_max` and Quantus' `MaxSensitivity` and `LocalLipschitzEstimate` draw
perturbations at random and report the worst of them. That is a lower bound of the worst case, an
attack finds a better one, and a certificate is an upper bound: sampled <= attacked <= worst case <=
certified. All speak of one ball here: no pixel changes by more than EPS. Samples are corners of it,
each sqrt(D) EPS away from the image (l2), which is the distance of the Lipschitz ratio.

    python examples/sandwich.py [--examples 6] [--samples 50]

It needs scikit-learn, and less than a minute; for its part, Quantus 0.5 or newer:

    pip install quantus
"""

import argparse
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from captum.attr import Saliency
from captum.metrics import sensitivity_max
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lirpa_explain as lx

EPS = 8 / 255
KEYWORDS = {"abs": False}


class Row(NamedTuple):
    """A line of the table, (N,) each."""

    label: str
    sampled: Tensor
    attacked: Tensor
    certified: Tensor


def train() -> tuple[nn.Module, Tensor]:
    """A network with two hidden layers, and images that it was not trained on."""
    digits = load_digits()
    images, labels = (torch.tensor(digits.data, dtype=torch.float32) / 16,
                      torch.tensor(digits.target))
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(),
                          nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(20):
        for batch in torch.randperm(1500).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval(), images[1500:]


def captum_corner(inputs: Tensor | tuple[Tensor, ...],
                  radius: float) -> Tensor | tuple[Tensor, ...]:
    """A random corner of the ball, as Captum's `perturb_func`."""
    if isinstance(inputs, tuple):
        return tuple(x + radius * torch.randn_like(x).sign() for x in inputs)
    return inputs + radius * torch.randn_like(inputs).sign()


def quantus_corner(arr: np.ndarray, radius: float, generator: np.random.Generator,
                   **_: object) -> np.ndarray:
    """A random corner of the ball, as Quantus' `perturb_func`."""
    return arr + np.float32(radius) * generator.choice(np.float32([-1, 1]), arr.shape)


def sampled_by_quantus(model: nn.Module, images: Tensor, target: Tensor,
                       samples: int) -> dict[str, Tensor]:
    """The worst of `samples` corners, by Quantus' metrics; none if it is not installed."""
    try:
        import quantus
    except ImportError as error:
        print(f"Quantus is left out ({error}): pip install quantus\n")
        return {}

    def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray,
                **_: object) -> np.ndarray:
        x = torch.tensor(inputs, requires_grad=True)
        return Saliency(model).attribute(x, target=torch.tensor(targets),
                                         **KEYWORDS).detach().numpy()

    size = images.norm(dim=1).numpy()
    plain = {"nr_samples": samples, "abs": False, "normalise": False, "disable_warnings": True,
             "perturb_func": quantus_corner,
             "perturb_func_kwargs": {"radius": EPS, "generator": np.random.default_rng(0)}}
    metrics = {
        "change / |explanation|": quantus.MaxSensitivity(**plain),
        "change / |image|": quantus.MaxSensitivity(**plain, norm_denominator=lambda a: size),
        "local Lipschitz": quantus.LocalLipschitzEstimate(**plain),
    }
    return {label: torch.tensor(
        np.array(metric(model=model, x_batch=images.numpy(), y_batch=target.numpy(),
                        explain_func=explain)), dtype=torch.float32)
            for label, metric in metrics.items()}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Train, certify, attack, sample, print the table; returns its rows."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=6, help="how many test images")
    parser.add_argument("--samples", type=int, default=50,
                        help="how many random perturbations of each")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    model, images = train()
    images = images[:args.examples]
    target = model(images).argmax(1)
    saliency = Saliency(model)
    certificate = lx.certify(saliency, images, eps=EPS, target=target, **KEYWORDS)
    metrics = {
        "change / |explanation|": ("relative", {}),
        "change / |image|": ("input_relative", {"inputs": images}),
        "local Lipschitz": ("lipschitz", {"distance": EPS * images.shape[1] ** 0.5}),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum's, of gradients it switches on
        sides = {label: certificate.sandwich(name, **options)
                 for label, (name, options) in metrics.items()}
        captum = sensitivity_max(saliency.attribute, images, captum_corner, EPS,
                                 n_perturb_samples=args.samples, target=target, **KEYWORDS)
        sampled = sampled_by_quantus(model, images, target, args.samples)
    first = sides["change / |explanation|"]
    rows = [Row("change / |explanation|, Captum", captum, first.found, first.certified)]
    rows += [Row(f"{label}, Quantus", value, sides[label].found, sides[label].certified)
             for label, value in sampled.items()]

    print(f"{'mean over the images of':36}{'sampled':>10}{'attacked':>10}{'certified':>11}")
    for row in rows:
        print(
            f"{row.label:36}{row.sampled.mean():10.4f}{row.attacked.mean():10.4f}"
            f"{row.certified.mean():11.4f}")
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    main()
