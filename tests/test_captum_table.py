"""Captum's shipped table of cases: every row is certified, or there is a reason why it is not."""

import copy

import pytest
import torch
from captum import attr
from captum.attr import NoiseTunnel
from captum.testing.attr.helpers.gen_test_utils import get_target_layer, parse_test_config
from captum.testing.attr.helpers.test_config import config

import lirpa_explain as lx
from tests.test_captum import check

METHODS = ("IBP", "CROWN-IBP", "CROWN")
SAMPLES = 20
"""Of attributions that draw; Captum's table has up to 2000, each a row like the others."""

NO_GRADIENT = "it changes the input and looks at the output; there is no gradient"
REASONS = {
    attr.FeatureAblation: NO_GRADIENT, attr.FeaturePermutation: NO_GRADIENT, attr.Occlusion: NO_GRADIENT,
    attr.ShapleyValueSampling: NO_GRADIENT, attr.LayerFeatureAblation: NO_GRADIENT,
    attr.NeuronFeatureAblation: NO_GRADIENT, attr.Lime: NO_GRADIENT, attr.KernelShap: NO_GRADIENT,
}
"""Classes of the table that are not certified, and why."""

CASES = [(row, kind) for row in config for kind in row["algorithms"]]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Captum's own, of hooks and settings



def test_every_row_of_captums_table_is_certified_or_has_a_reason():
    assert len(config) == 77
    assert {kind for _, kind in CASES} == {k for _, k in CASES if k in lx.ATTRIBUTIONS} | set(REASONS)
    assert not REASONS.keys() & lx.ATTRIBUTIONS.keys()
    assert sum(kind in lx.ATTRIBUTIONS for _, kind in CASES) == CERTIFIED


CERTIFIED = 155
CERTIFIABLE = [(row, kind) for row, kind in CASES if kind in lx.ATTRIBUTIONS]


@pytest.mark.parametrize(("row", "kind"), CERTIFIABLE, ids=[f"{row['name']}-{k.__name__}" for row, k in CERTIFIABLE])
def test_captums_table(row, kind):
    _, model, keywords, layer, noise_tunnel, _ = parse_test_config(row)
    attribution = kind(model) if layer is None else kind(model, get_target_layer(model, layer))
    keywords = copy.deepcopy(keywords)
    keywords.update({"n_samples": SAMPLES} if "n_samples" in keywords else {})
    check(NoiseTunnel(attribution) if noise_tunnel else attribution, keywords.pop("inputs"), keywords, eps=0.01,
          methods=METHODS, batch_size=2000, pairs=1)


@pytest.mark.parametrize("kind", REASONS)
def test_other_classes_are_refused(kind):
    attribution = kind.__new__(kind)
    with pytest.raises(lx.UnsupportedAttribution, match=kind.__name__):
        lx.certify(attribution, torch.ones(1, 2), eps=0.1)
