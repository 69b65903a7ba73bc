"""Captum's shipped table of cases: every row is certified, or there is a reason why it is not."""

import copy

import pytest
from captum import attr
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import NoiseTunnel
from captum.testing.attr.helpers.gen_test_utils import get_target_layer, parse_test_config
from captum.testing.attr.helpers.test_config import config

import lirpa_explain as lx
from tests.test_captum import check

OTHERS = ("IBP", "CROWN-IBP")
SAMPLES = 20
"""Of attributions that draw; Captum's table has up to 2000, each a row like the others."""

FEW = 2
"""Permutations, of each of which there are as many outputs as features."""

LASSO = ("Lime's default model, a Lasso, is not linear in the outputs, and its default weights "
         "depend on the input")
LIME = {(row["name"], attr.Lime): LASSO for row in config if attr.Lime in row["algorithms"]}
ALONE = {("conv_layer_single_target", attr.LayerDeepLift): "MaxPool2d"}
"""Rows that are refused as a batch, since Captum's rule for a module hands the first example's
gradient to others where entries do not differ, and certified one example at a time; and the
module."""

REFUSED = {**LIME, **ALONE}
"""Rows that are refused as a batch."""

CASES = [(row, kind) for row in config for kind in row["algorithms"]]

# Captum's own, of hooks and settings
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")



CERTIFIED = [(row, kind) for row, kind in CASES
             if kind in lx.ATTRIBUTIONS and (row["name"], kind) not in REFUSED]


def attribution_of(row, kind):
    _, model, keywords, layer, noise_tunnel, _ = parse_test_config(row)
    attribution = kind(model) if layer is None else kind(model, get_target_layer(model, layer))
    return NoiseTunnel(attribution) if noise_tunnel else attribution, copy.deepcopy(keywords)


def test_every_row_of_captums_table_is_certified_or_has_a_reason():
    assert len(config) == 77 and len(CERTIFIED) == 276
    assert {kind for _, kind in CASES} <= lx.ATTRIBUTIONS.keys()


@pytest.mark.parametrize("index", range(len(CERTIFIED)),
                         ids=[f"{row['name']}-{k.__name__}" for row, k in CERTIFIED])
def test_captums_table(index):
    """By CROWN and one of the others, which take turns in the rows of a class."""
    row, kind = CERTIFIED[index]
    turn = [kind for _, kind in CERTIFIED[:index]].count(kind)
    methods = (OTHERS[turn % 2], "CROWN")
    attribution, keywords = attribution_of(row, kind)
    keywords.update({"n_samples": SAMPLES} if "n_samples" in keywords else {})
    keywords.update({"n_samples": FEW} if kind is attr.ShapleyValueSampling else {})
    check(attribution, keywords.pop("inputs"), keywords, eps=0.01, methods=methods, batch_size=2000,
          pairs=1)


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_rows_that_are_refused(name, kind):
    row = next(row for row in config if row["name"] == name)
    attribution, keywords = attribution_of(row, kind)
    with pytest.raises(lx.UnsupportedAttribution,
                       match="SkLearnLasso" if kind is attr.Lime else "MaxPool2d"):
        lx.certify(attribution, keywords.pop("inputs"), eps=0.01, **keywords)


@pytest.mark.parametrize(("name", "kind"), ALONE)
def test_rows_that_are_certified_one_example_at_a_time(name, kind):
    row = next(row for row in config if row["name"] == name)
    attribution, keywords = attribution_of(row, kind)
    for i, x in enumerate(keywords.pop("inputs").split(1)):
        check(attribution, x, keywords, eps=0.01, methods=(("IBP", "CROWN")[i % 2],), pairs=1)


@pytest.mark.parametrize("name", [name for name, _ in LIME])
def test_lime_is_certified_as_its_refusal_advises(name):
    row = next(row for row in config if row["name"] == name)
    attribution, keywords = attribution_of(row, attr.Lime)
    attribution.interpretable_model, attribution.similarity_func = SkLearnRidge(alpha=0.1), selected
    keywords.update({"n_samples": SAMPLES} if "n_samples" in keywords else {})
    check(attribution, keywords.pop("inputs"), keywords, eps=0.01, batch_size=2000, pairs=1)


def selected(original, perturbed, sample, **_):
    """Weights of Lime that read the coalition alone."""
    return 1.0 + float(sample.sum())
