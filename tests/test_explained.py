"""Functions to explain in place of a class's output: their values and gradients, and certificates
of these.
"""

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, Saliency
from torch import nn

import lirpa_explain as lx
from tests.test_captum import check

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor . did not already require "
                                        "gradients:UserWarning")

with torch.random.fork_rng():
    torch.manual_seed(2)
    MODEL = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Tanh(),
                          nn.Flatten(), nn.Linear(27, 3)).double().eval()
    ENCODER = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double().eval()
    IMAGES = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    X = torch.randn(3, 3, dtype=torch.float64)
    BASIS = torch.randn(4, 2, dtype=torch.float64)


def tail_gradient(image, target):
    """The gradient with respect to the channels after the first convolution, and the input's
    gradient of each.
    """
    image = image.clone().requires_grad_()
    hidden = MODEL[0](image)
    above, = torch.autograd.grad(MODEL[1:](hidden)[:, target].sum(), hidden, retain_graph=True)
    return image, hidden, above


def expected(keep):
    image, hidden, above = tail_gradient(IMAGES, 1)
    return torch.autograd.grad(hidden, image, keep(above))[0]


def projected(above):
    projector = BASIS @ torch.linalg.inv(BASIS.T @ BASIS) @ BASIS.T
    return torch.einsum("cd,ndhw->nchw", projector, above)


PARTS = {
    "subspace": (lx.subspace(MODEL, MODEL[0], BASIS), projected),
    "whole": (lx.subspace(MODEL, MODEL[0], torch.eye(4).double() * 3), lambda above: above),
    "channels": (lx.channels(MODEL, MODEL[0], [0, -1]),
                 lambda above: above * torch.tensor([1.0, 0, 0, 1]).double().reshape(4, 1, 1)),
}


@pytest.mark.parametrize("name", PARTS)
def test_gradient_through_a_part_of_a_layer(name):
    part, keep = PARTS[name]
    assert torch.equal(part(IMAGES), MODEL(IMAGES))
    certificate = lx.certify(Saliency(part), IMAGES, eps=0.0, target=1, abs=False)
    torch.testing.assert_close(certificate.nominal, expected(keep))
    check(Saliency(part), IMAGES, {"target": [0, 2]}, eps=0.01, methods=("IBP", "CROWN"))
    check(InputXGradient(part), IMAGES, {"target": 1}, eps=0.01)


def test_parts_add_up():
    whole, *parts = [lx.certify(Saliency(model), IMAGES, eps=0.0, target=1, abs=False).nominal
                     for model in (MODEL, lx.channels(MODEL, MODEL[0], [0, 2]),
                                   lx.channels(MODEL, MODEL[0], [1, 3]))]
    torch.testing.assert_close(whole, sum(parts))


def test_layers_of_a_part_are_certified_too():
    part = lx.channels(MODEL, MODEL[2], [1])
    check(LayerGradCam(part, MODEL[0]), IMAGES, {"target": 1}, eps=0.01)


def test_features_of_tokens():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).double()
    tokens = torch.randn(2, 2, 3, dtype=torch.float64)
    check(Saliency(lx.subspace(model, model[1], BASIS, dim=-1)), tokens, {"target": 0}, eps=0.05)
    check(Saliency(lx.channels(model, model[1], [2], dim=-1)), tokens, {"target": 0}, eps=0.05)


def test_label_free_is_the_similarity_to_a_reference():
    reference = torch.randn(1, 3, dtype=torch.float64)
    model = lx.label_free(ENCODER, reference)
    torch.testing.assert_close(model(X), ENCODER(X) @ ENCODER(reference)[0])
    check(Saliency(model), X, {}, eps=0.05, methods=("IBP", "CROWN"))
    check(IntegratedGradients(model), X, {"n_steps": 4}, eps=0.05)


def test_label_free_of_each_examples_own_features():
    own = ENCODER(X).detach()
    model = lx.label_free(ENCODER)
    torch.testing.assert_close(model(X, own), own.square().sum(1))
    check(Saliency(model), X, {"additional_forward_args": own}, eps=0.05)
    check(IntegratedGradients(model), X, {"additional_forward_args": own, "n_steps": 4}, eps=0.05)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="one row"):
        lx.label_free(ENCODER, X)
    with pytest.raises(ValueError, match="additional_forward_args"):
        lx.certify(Saliency(lx.label_free(ENCODER)), X, eps=0.1)
    with pytest.raises(ValueError, match="no module"):
        lx.channels(MODEL, nn.ReLU(), [0])
    with pytest.raises(ValueError, match="at least one"):
        lx.channels(MODEL, MODEL[0], [])
    with pytest.raises(ValueError, match="independent"):
        lx.subspace(MODEL, MODEL[0], torch.ones(4, 2))
    with pytest.raises((ValueError, IndexError), match="channels"):
        lx.certify(Saliency(lx.channels(MODEL, MODEL[0], [7])), IMAGES, eps=0.1, target=0)


def test_modes_of_the_model_stay_what_they_are():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[1].eval()
    lx.channels(model, model[0], [0]), lx.label_free(model)
    assert [m.training for m in model.modules()] == [True, True, False, True]
