"""One of several outputs is negative over a box: proven, refuted by a point, or open where it may
not be so.
"""

import pytest
import torch
from torch import nn

import lirpa_explain as lx

torch.set_num_threads(1)
SIDE = 401


def net(seed, activation=nn.Tanh, outputs=2):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 8), activation(), nn.Linear(8, outputs)).double()


def rate(model):
    """Grad V . f of V = |net(x)|^2 and a rotating field, and V."""
    def call(x):
        value = model(x).square().sum(1)
        slope, = torch.autograd.grad(value.sum(), x, create_graph=True)
        field = torch.stack([x[:, 1] - x[:, 0] ** 3, -torch.sin(x[:, 0])], 1)
        return torch.stack([(slope * field).sum(1), value], 1)
    return call


def oscillator(x):
    """A polynomial of products only."""
    return torch.stack([x[:, 0] * x[:, 1] - x[:, 1] ** 2, x[:, 0] ** 2 * x[:, 1]], 1)


MODELS = {"tanh": net(0), "relu": net(1, nn.ReLU), "one output": net(2, outputs=1),
          "gradient": rate(net(3)), "products": oscillator}


def grid(low, high):
    axes = [torch.linspace(float(a), float(b), SIDE, dtype=low.dtype)
            for a, b in zip(low, high, strict=True)]
    return torch.cartesian_prod(*axes)


def smallest(model, x):
    x = x.clone().requires_grad_()
    return model(x).detach().flatten(1).amin(1)


def shifted(model, level):
    return lambda x: model(x) - level


LOW, HIGH = torch.tensor([-1.0, -0.5]).double(), torch.tensor([0.5, 1.5]).double()


@pytest.mark.parametrize("gap, domains", [(-0.02, 512), (-1e-9, 64), (1e-4, 64), (0.02, 512)])
@pytest.mark.parametrize("name", MODELS)
def test_it_agrees_with_a_grid(name, gap, domains):
    model, x = MODELS[name], grid(LOW, HIGH)
    values = smallest(model, x)
    level = float(values.max()) + gap
    found = lx.certify_negative(shifted(model, level), LOW, HIGH, domains=domains)
    bad = x[values - level >= 0]
    assert found.upper >= float((values - level).max()) - 1e-9
    assert found.found <= found.upper
    if gap < 0:
        assert found.decided < 1
    if abs(gap) > 1e-2:
        assert found.decided == (1 if gap > 0 else -1)
    if found.decided == 1:
        assert len(bad) == len(found.open_low) == 0
    else:
        inside = (bad[:, None] >= found.open_low).all(2) & (bad[:, None] <= found.open_high).all(2)
        assert bool(inside.any(1).all()) and len(found.open_low)
    if found.decided == -1:
        assert float(smallest(model, found.point[None]) - level) >= 0
    assert bool((found.point >= LOW).all() and (found.point <= HIGH).all())


def test_what_touches_zero_is_never_certified_and_stays_open_there():
    found = lx.certify_negative(lambda x: -(x - 0.3) ** 2, LOW[:1] * 0, HIGH[:1], domains=200)
    assert found.decided < 1 and bool(((found.open_low <= 0.3) & (0.3 <= found.open_high)).any())


def test_an_end_of_the_box_belongs_to_it():
    low, high = (torch.tensor([end], dtype=torch.float64) for end in (0.1, 0.7))
    assert lx.certify_negative(lambda x: x - 0.7, low, high).decided == -1
    assert lx.certify_negative(lambda x: 0.1 - x, low, high).decided == -1
    assert lx.certify_negative(lambda x: x - 0.7001, low, high).decided == 1


def test_one_face_of_a_box_is_a_box():
    low, high = torch.tensor([1.01, 0.0]).double(), torch.tensor([1.01, 3.0]).double()
    found = lx.certify_negative(lambda x: 1 - x.square().sum(1), low, high)
    assert found.decided == 1


def test_no_time_leaves_the_whole_box_open():
    found = lx.certify_negative(shifted(MODELS["tanh"], 5.0), LOW, HIGH, seconds=0)
    assert found.decided == 0
    assert torch.equal(found.open_low, LOW[None]) and torch.equal(found.open_high, HIGH[None])


def test_shapes_of_more_dimensions_and_nothing_of_the_callers_changes():
    model = nn.Sequential(nn.Flatten(), net(4)).train()
    low, high, state = LOW.reshape(2, 1), HIGH.reshape(2, 1), torch.get_rng_state()
    found = lx.certify_negative(shifted(model, float(smallest(model, grid(LOW, HIGH)).max()) - 0.1),
                                low, high)
    assert found.decided == -1 and found.point.shape == (2, 1) and found.open_low.shape[1:] == (2,
                                                                                                1)
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("low, high, options, error, words", [
    (HIGH, LOW, {}, ValueError, "low <= high"), (LOW, HIGH[:1], {}, ValueError, "low <= high"),
    (-1.0, HIGH, {}, TypeError, "must be tensors"),
    (LOW.long(), HIGH.long(), {}, TypeError, "must be tensors"),
    (LOW, HIGH, {"seconds": -1}, ValueError, "seconds"),
    (LOW, HIGH, {"domains": 0}, ValueError, "domains"),
    (LOW, HIGH, {"batch_size": True}, ValueError, "batch_size")])
def test_bad_arguments(low, high, options, error, words):
    with pytest.raises(error, match=words):
        lx.certify_negative(MODELS["tanh"], low, high, **options)
