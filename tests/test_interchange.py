"""ONNX and VNN-LIB files say what Captum computes, and what the property is; what verifiers return
is looked at.
"""

import builtins
import re

import onnx
import onnxruntime
import pytest
import torch
import vnnlib
import vnnlib.compat
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import nn

import lirpa_explain as lx

torch.manual_seed(0)
MLP = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
CNN = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                    nn.Linear(8, 3))
SMOOTH = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 3), nn.Softmax(1))
for _net in (MLP, CNN, SMOOTH):
    _net.eval()
X, IMAGE = torch.rand(1, 4), torch.rand(1, 1, 6, 6)

EXPORTED = {
    "saliency": (Saliency(MLP), X, {"abs": False}),
    "integrated": (IntegratedGradients(SMOOTH), X, {"n_steps": 2}),
    "pooling": (InputXGradient(CNN), IMAGE, {}),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_attributions_are_captums_in_onnxruntime(name, tmp_path):
    attribution, x, keywords = EXPORTED[name]
    files = lx.export(attribution, x, tmp_path / "a.onnx", target=1, **keywords)
    assert files.vnnlib is None and files.difference < 1e-5
    assert {node.domain for node in onnx.load(files.onnx).graph.node} <= {"", "ai.onnx"}
    session = onnxruntime.InferenceSession(files.onnx)
    for seed in range(3):
        point = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        theirs = torch.as_tensor(session.run(None, {"x": point.numpy()})[0])
        captum = attribution.attribute(point.clone(), target=1, **keywords).detach().flatten(1)
        torch.testing.assert_close(theirs, captum, rtol=1e-4, atol=1e-5)


def held(name: str, a: torch.Tensor, nominal: torch.Tensor) -> bool:
    """Whether a property holds, said in another way."""
    order = a.argsort(descending=True).tolist()
    return {"sign": bool((a[[0, 2]].sign() == nominal[[0, 2]].sign()).all()),
            "above": bool(a[1] > a[3]),
            "top_k": order.index(2) < 2, "out_of_top_k": order.index(0) >= 2,
            "near": float((a - nominal).abs().sum()) < 0.5}[name]


SETTINGS = {"sign": ([0, 2],), "above": (1, 3), "top_k": (2, 2), "out_of_top_k": (0, 2),
            "near": (0.5,)}


@pytest.mark.parametrize("name", lx.PROPERTIES)
def test_margins_are_above_0_exactly_where_a_property_holds(name):
    generator = torch.Generator().manual_seed(0)
    nominal = torch.tensor([1.0, 0.3, 0.8, -0.9, 0.1])
    margins = lx.PROPERTIES[name](*SETTINGS[name]).margins(nominal)
    seen = set()
    for _ in range(200):
        a = nominal + torch.randn(5, generator=generator) * torch.rand(1, generator=generator)
        seen.add(held(name, a, nominal))
        assert bool((margins(a[None]) > 0).all()) == held(name, a, nominal)
    assert seen == {True, False}


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_query_is_the_box_and_the_property(version, tmp_path):
    keep = lx.PROPERTIES["sign"]()
    files = lx.export(Saliency(MLP), X, tmp_path / "a.onnx", property=keep, eps=0.03, clip=(0, 1),
                      version=version, target=0, abs=False)
    text = files.vnnlib.read_text()
    low, high = (X - 0.03).clamp(0, 1).flatten(), (X + 0.03).clamp(0, 1).flatten()
    if version == "2.0":
        case, = vnnlib.compat.transform(vnnlib.parse_query_string(text))
        box = torch.tensor(case.input_box)
        assert len(case.output_constraints) == 4
    else:
        ends = {(side, int(i)): float(v)
                for side, i, v in re.findall(r"\(([<>])= X_(\d+) ([^\s)]+)", text)}
        box = torch.tensor([[ends[">", i], ends["<", i]] for i in range(4)])
        assert re.findall(r"\(and \(<= Y_(\d) 0.0\)\)", text) == list("0123")
    assert torch.equal(box[:, 0], low) and torch.equal(box[:, 1], high)


def test_replayed_counterexamples_are_captums():
    attribution = InputXGradient(MLP)
    point = X + 1.0
    keep = lx.PROPERTIES["near"](1e-3)
    found = lx.replay(attribution, X, point.flatten().tolist(), property=keep, target=0)
    torch.testing.assert_close(found.attribution, attribution.attribute(point, target=0).detach())
    assert found.broken and not lx.replay(attribution, X, X, property=keep, target=0).broken
    assert lx.replay(attribution, X, X, target=0).margins is None


def asked(path, name, *settings, **keywords):
    return lx.export(Saliency(MLP), X, path, property=lx.PROPERTIES[name](*settings), eps=0.1,
                     target=0, **keywords)


@pytest.mark.parametrize(("call", "words"), [
    (lambda path: lx.export(Saliency(MLP), X.expand(2, 4), path, target=0), "one example"),
    (lambda path: asked(path, "near", 1.0, norm=2), "box"),
    (lambda path: asked(path, "above", 0, 9), "0 to 3"),
    (lambda path: asked(path, "top_k", 0, 4), "1 to 3"),
    (lambda path: asked(path, "near", 1.0, version="3"), "version"),
    (lambda path: lx.PROPERTIES["near"](0.0), "above 0"),
    (lambda path: lx.replay(Saliency(MLP), X, [1.0], target=0), "4 entries"),
], ids=range(7))
def test_bad_arguments_are_refused(call, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        call(tmp_path / "a.onnx")


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("onnx2torch"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(ImportError, match=r"lirpa_explain\[onnx\]"):
        lx.load_onnx(tmp_path / "a.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_models_in_onnx_files_are_certified(name, tmp_path):
    pytest.importorskip("onnx2torch")
    net, x = {"mlp": (MLP, X), "cnn": (CNN, IMAGE)}[name]
    torch.onnx.export(net, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    model = lx.load_onnx(tmp_path / "net.onnx")
    torch.testing.assert_close(model(x), net(x), rtol=1e-4, atol=1e-5)
    ours, theirs = (lx.certify(Saliency(m), x, eps=0.01, target=1, abs=False) for m in (net, model))
    torch.testing.assert_close(theirs.upper, ours.upper, rtol=1e-3, atol=1e-4)
