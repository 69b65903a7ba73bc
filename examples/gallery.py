"""A picture of each of Captum's gradient attributions with its certificate.

A small convolutional network learns scikit-learn's handwritten digits. Each row of the picture is
one attribution of one digit: its lower bound, its value and its upper bound, which hold for EVERY
image within 2/255 of this one in all pixels, and the signs that none of these images can flip. The
three maps of a row share one scale of colours.

    python examples/gallery.py [--out gallery.png] [--only Saliency LRP ...]

It needs scikit-learn and matplotlib, and a minute.
"""

import argparse
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum import attr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lirpa_explain as lx

EPS = 2 / 255
STEPS = {"n_steps": 16}
Case = tuple[Any, dict[str, Any]]


class Digits(nn.Module):
    """Two convolutions, of modules that Captum has rules for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(1, 8, 3, padding=1),
                                   nn.Conv2d(8, 16, 3, stride=2, padding=1))
        self.relu1, self.relu2, self.pool, self.last = (nn.ReLU(), nn.ReLU(), nn.AvgPool2d(2),
                                                        nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        hidden = self.relu2(self.second(self.relu1(self.first(x))))
        return self.last(self.pool(hidden).flatten(1))


# name -> the attribution of a model, and keywords of its `attribute`, given training images
CASES: dict[str, Callable[[Digits, Tensor], Case]] = {
    "Saliency": lambda m, b: (attr.Saliency(m), {"abs": False}),
    "InputXGradient": lambda m, b: (attr.InputXGradient(m), {}),
    "IntegratedGradients": lambda m, b: (attr.IntegratedGradients(m), STEPS),
    "SmoothGrad": lambda m,
    b: (attr.NoiseTunnel(attr.Saliency(m)), {"abs": False, "stdevs": 0.1, "nt_samples": 16}),
    "GradientShap": lambda m, b: (attr.GradientShap(m), {"baselines": b[:16], "n_samples": 16}),
    "DeepLift": lambda m, b: (attr.DeepLift(m), {}),
    "DeepLiftShap": lambda m, b: (attr.DeepLiftShap(m), {"baselines": b[:16]}),
    "LRP": lambda m, b: (attr.LRP(m), {}),
    "GuidedBackprop": lambda m, b: (attr.GuidedBackprop(m), {}),
    "Deconvolution": lambda m, b: (attr.Deconvolution(m), {}),
    "GuidedGradCam": lambda m, b: (attr.GuidedGradCam(m, m.second), {}),
    "LayerGradCam": lambda m, b: (attr.LayerGradCam(m, m.first), {}),
    "LayerConductance": lambda m, b: (attr.LayerConductance(m, m.second), STEPS),
    "NeuronIntegratedGradients": lambda m, b: (attr.NeuronIntegratedGradients(m, m.second),
                                               {**STEPS, "neuron_selector": (0, 2, 2)}),
    "Concept (two channels)": lambda m,
    b: (attr.InputXGradient(lx.channels(m, m.second, [0, 1])), {}),
}


def train(images: Tensor, labels: Tensor, epochs: int = 20) -> Digits:
    """The network, trained."""
    model = Digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def certify(name: str, model: Digits, image: Tensor, training: Tensor) -> lx.Certificate:
    """The certificate of one attribution of the predicted class."""
    attribution, keywords = CASES[name](model, training)
    target = {} if "neuron_selector" in keywords else {"target": int(model(image).argmax())}
    return lx.certify(attribution, image, eps=EPS, clip=(0, 1), **target, **keywords)


def draw(certificates: dict[str, lx.Certificate], image: Tensor) -> Figure:
    """A row for each certificate; of attributions with channels, their sum over these."""
    figure = Figure(figsize=(11, 2.1 * len(certificates)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(certificates), 5, squeeze=False)
    signs = ListedColormap(["#b2182b", "#e0e0e0", "#2166ac"])
    for axes, (name, certificate) in zip(rows, certificates.items(), strict=True):
        maps = [side[0].sum(0).numpy()
                for side in (certificate.lower, certificate.nominal, certificate.upper)]
        scale = max(abs(values).max() for values in maps)
        axes[0].imshow(image[0, 0].numpy(), cmap="gray_r", vmin=0, vmax=1)
        for axis, values in zip(axes[1:4], maps, strict=True):
            shown = axis.imshow(values, cmap="RdBu", vmin=-scale, vmax=scale)
        figure.colorbar(shown, ax=axes[3], shrink=0.8)
        certain = torch.tensor((maps[0] > 0).astype(float) - (maps[2] < 0).astype(float))
        axes[4].imshow(certain.numpy(), cmap=signs, vmin=-1.5, vmax=1.5)
        axes[0].set_ylabel(name, fontsize=8)
    for axis, title in zip(rows[0],
                           ["image", "lower bound", "attribution", "upper bound", "certain signs"],
                           strict=True):
        axis.set_title(title)
    for axis in rows.flat:
        axis.set(xticks=[], yticks=[])
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, lx.Certificate]:
    """Train, certify, print a line for each attribution, save the picture; returns the
    certificates.
    """
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="gallery.png", help="file for the picture")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES),
                        help="which attributions")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    training, image = images[:-1], images[-1:]
    model = train(training, torch.tensor(digits.target)[:-1])
    certificates = {}
    for name in args.only:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Captum's, of hooks
            certificates[name] = certify(name, model, image, training)
        signs = certificates[name].sign() != 0
        of = certificates[name].nominal != 0
        print(f"{name:27}{float(signs[of].float().mean()):7.1%} of the signs, width "
              f"{float(certificates[name].width.mean()):.2e}, {certificates[name].elapsed_s:.1f} s")
    draw(certificates, image).savefig(args.out, dpi=80)
    return certificates


if __name__ == "__main__":
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    main()
