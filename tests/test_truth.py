"""What the tests share can fail: values outside are noticed, and rows that cover do cover."""

import itertools

import pytest
import torch
from captum.attr import InputXGradient, NoiseTunnel, Saliency

from tests.covering import covering
from tests.nets import NETS, make
from tests.truth import assert_inside, ball, flat, parts, values_at


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [-1, 1])
def test_a_value_outside_is_noticed_and_a_rounding_is_not(side, dtype):
    lower, upper = -torch.ones(2, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype)
    values = torch.zeros(4, 2, 3, dtype=dtype)
    for beyond, is_noticed in ((1e-12, False), (1e-2, True)):
        values[2, 1, 0] = side * (1 + beyond)
        if is_noticed:
            with pytest.raises(AssertionError, match="is 0.01 outside"):
                assert_inside((lower, upper), values)
        else:
            assert_inside((lower, upper), values)
    with pytest.raises(AssertionError, match="not finite"):
        assert_inside((lower, upper * torch.inf), values)


@pytest.mark.parametrize("name", NETS)
def test_values_of_one_call_are_those_of_each_point(name):
    model, x = make(name, "tanh")
    attribution, points = InputXGradient(model), ball(x, 0.1, count=4)
    together = values_at(attribution, points, target=[0, 2, 1])
    for value, *point in zip(together, *points, strict=True):
        alone = attribution.attribute(tuple(point), target=[0, 2, 1])
        torch.testing.assert_close(value, flat(alone))
    assert all(torch.equal(part[0], own) for part, own in zip(points, parts(x), strict=True))


def test_the_noise_of_a_seed_is_the_same_at_each_point():
    model, x = make("mlp", "tanh")
    again = (x.expand(3, *x.shape),)
    values = values_at(NoiseTunnel(Saliency(model)), again, seed=1, target=0, nt_samples=2)
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


@pytest.mark.parametrize("strength", [2, 3])
def test_rows_that_cover_have_all_combinations_in_fewer_rows(strength):
    factors = "abcd", range(3), (True, False), "xyz"
    rows = covering(*factors, strength=strength)
    for places in itertools.combinations(range(4), strength):
        met = {tuple(row[i] for i in places) for row in rows}
        assert met == set(itertools.product(*(factors[i] for i in places)))
    assert len(rows) < 4 * 3 * 2 * 3 * 0.8
