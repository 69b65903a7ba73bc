"""A report for someone who was not there: one HTML page about a network's explanations and how
stable they are proven.

A small network learns to tell benign from malignant tumours in scikit-learn's breast cancer data
(30 measurements, each scaled to [0, 1]). Integrated gradients of test patients are certified at
several radii, together with the prediction, attacked, and written as one page that needs neither
other files nor a network: open it in a browser, read for how many patients what is proven, refuted
or open, sort the table by clicking its headers, and open a patient for the picture and the list of
features.

    python examples/report.py [--examples 12] [--eps 0.005 0.01 0.02] [--out report.html]

It needs scikit-learn, matplotlib and jinja2, and less than a minute. The command `lirpa-explain
certify --report` makes the same page of a model and a file of inputs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from captum.attr import IntegratedGradients
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

import lirpa_explain as lx

TRAINED = 400  # of the 569 patients
METRICS = [("top_k_overlap", {"k": 5}), "cosine", "relative"]
SEARCH = {"samples": 20, "restarts": 1}


def train(x: Tensor, y: Tensor) -> nn.Module:
    """A network with two hidden layers."""
    model = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(),
                          nn.Linear(16, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(30):
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval()


def main(arguments: Sequence[str] | None = None) -> dict[float, lx.Certificate]:
    """Train, certify and write the page; returns the certificates."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=12)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.005, 0.01, 0.02])
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    data = load_breast_cancer()
    order = torch.randperm(len(data.data))
    x = torch.tensor(data.data, dtype=torch.float32)[order]
    x, y = (x - x.amin(0)) / (x.amax(0) - x.amin(0)), torch.tensor(data.target)[order]
    model = train(x[:TRAINED], y[:TRAINED])
    patients = x[TRAINED:TRAINED + given.examples]
    classes = model(patients).argmax(1)

    certifier = lx.Certifier(IntegratedGradients(model), target=classes, n_steps=32)
    certificates = {eps: certifier.certify(patients, eps=eps, clip=(0, 1)) for eps in given.eps}
    predictions = {eps: lx.certify_prediction(model, patients, eps=eps, clip=(0, 1))
                   for eps in given.eps}
    found = {eps: [certificate.sandwich("top_k_overlap", k=5, settings=SEARCH),
                   certificate.sandwich("cosine", settings=SEARCH),
                   certificate.sandwich("sign", settings=SEARCH)]
             for eps, certificate in certificates.items()}
    lx.report(certificates, given.out, inputs=patients, features=list(data.feature_names),
              targets=classes,
              names=[f"patient {int(i)}" for i in order[TRAINED:TRAINED + given.examples]],
              metrics=METRICS,
              predictions=predictions, found=found, unit="of a measurement's range",
              title="Integrated gradients of a tumour classifier")
    for eps, certificate in certificates.items():
        both = predictions[eps].certain & (certificate.top_k_overlap(5) == 5)
        print(f"eps {eps:g}: label and top five features certain for {int(both.sum())} of "
              f"{len(patients)} patients")
    print(f"Written: {given.out}")
    return certificates


if __name__ == "__main__":
    main()
