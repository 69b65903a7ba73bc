"""Small public networks of VNN-COMP go in as ONNX files, are certified, and come out as
attributions in ONNX files.

LIRPA_EXPLAIN_VNNCOMP names a checkout of github.com/ChristopherBrix/vnncomp2022_benchmarks.
"""

import gzip
import os
from pathlib import Path

import onnx
import pytest
import torch
from captum.attr import Saliency

import lirpa_explain as lx
from tests.truth import assert_sound, ball

FOLDER = os.environ.get("LIRPA_EXPLAIN_VNNCOMP")
NETWORKS = ("acasxu/onnx/ACASXU_run2a_1_1_batch_2000", "rl_benchmarks/onnx/cartpole",
            "rl_benchmarks/onnx/lunarlander", "reach_prob_density/onnx/gcas",
            "mnist_fc/onnx/mnist-net_256x2", "collins_rul_cnn/onnx/NN_rul_small_window_20")


@pytest.mark.slow
@pytest.mark.skipif(FOLDER is None, reason="LIRPA_EXPLAIN_VNNCOMP names no folder")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_public_network_goes_in_is_certified_and_comes_out(name, tmp_path):
    packed = Path(str(FOLDER)) / "benchmarks" / f"{name}.onnx.gz"
    path = tmp_path / "net.onnx"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    inputs, = {i.name for i in onnx.load(path).graph.input} - {
        w.name for w in onnx.load(path).graph.initializer}
    shape = next(i for i in onnx.load(path).graph.input if i.name == inputs).type.tensor_type.shape
    x = torch.rand(1, *[d.dim_value for d in shape.dim][1:],
                   generator=torch.Generator().manual_seed(0))
    model = lx.load_onnx(path).eval()
    saliency, keywords = (Saliency(model), {"target": 0, "abs": False} if model(x).shape[1:] != (1,
    ) else {"abs": False})
    certificate = lx.certify(saliency, x, eps=1e-3, method="CROWN", **keywords)
    assert_sound(certificate, saliency, ball(x, 1e-3, count=20), **keywords)
    files = lx.export(saliency, x, tmp_path / "attribution.onnx",
                      property=lx.PROPERTIES["near"](1e3), eps=1e-3, **keywords)
    assert files.difference < 1e-2 and files.vnnlib.exists()
