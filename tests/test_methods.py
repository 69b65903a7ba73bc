"""Methods of bounding are rows: what a row says is what is done, also where a user adds one."""

import ast
import math
from pathlib import Path

import pytest
import torch
from auto_LiRPA import PerturbationLpNorm
from captum.attr import Saliency
from torch import nn

import lirpa_explain as lx
from lirpa_explain.bounding.engine import Engine
from lirpa_explain.bounding.memory import COEFFICIENTS, Memory
from lirpa_explain.bounding.methods import METHODS, Method, lookup, register
from lirpa_explain.bounding.parameters import Parameters
from lirpa_explain.bounding.schedule import Schedule
from lirpa_explain.boxes import Box

PACKAGE = Path(lx.__file__).parent
EPS = 0.1


class Halves(Schedule):
    """Bounds over both halves of the first input's box, cut across its first entry, and their
    hull.
    """

    def bounds(self, inputs, perturbations, functions):
        first, over = perturbations[0], super().bounds
        if first is None:
            return over(inputs, perturbations, functions)
        low, high = first.x_L, first.x_U
        middle = torch.where(torch.arange(low.shape[1]) == 0, (low + high) / 2, high)
        boxes = [over(inputs, (PerturbationLpNorm(norm=math.inf, x_L=a, x_U=b), *perturbations[1:]),
                      functions)
                 for a, b in ((low, middle), (torch.where(middle < high, middle, low), high))]
        (a, b), (c, d) = boxes
        return torch.minimum(a, c), torch.maximum(b, d)


ROWS = {
    "linear within": (Method("linear within", "CROWN within, and intervals of the result",
                             within="linear", result="intervals"), "IBP", "CROWN"),
    "chosen result": (Method("chosen result", "CROWN-IBP, with the planes chosen for each function",
                             within="intervals", result="linear", chosen=True, tensors=64),
                      "CROWN-IBP", None),
    "halves": (Method("halves", "intervals over both halves of the ball", within="intervals",
                      result="intervals", schedule=Halves), "IBP", None),
    "halves by CROWN": (Method("halves by CROWN", "linear bounds over both halves of the ball",
                               within="linear", result="linear", schedule=Halves), None, None),
}
"""Rows that a user may add, a method that is nowhere narrower, and one that is nowhere wider."""


def flat(certificate):
    return certificate.lower.flatten(1), certificate.upper.flatten(1)


def contains(outer, inner):
    slack = 1e-12 * (1 + outer[1].abs())
    return bool((outer[0] <= inner[0] + slack).all() and (inner[1] <= outer[1] + slack).all())


def model_and_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    return model.double().eval(), torch.rand(2, 3).double()


@pytest.fixture
def registered(request):
    row = register(ROWS[request.param][0])
    yield row, *ROWS[request.param][1:]
    del METHODS[row.name]


@pytest.mark.parametrize("registered", ROWS, indirect=True)
def test_a_row_that_a_user_adds_certifies(registered):
    row, wider, narrower = registered
    model, x = model_and_inputs()
    C = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, 1.0]]).double()

    def certified(method):
        return lx.certify(Saliency(model), x, eps=EPS, target=0, abs=False, method=method, spec=C,
                          iterations=3)

    certificate = certified(row.name)
    assert certificate.method == row.name
    for i in range(40):
        at = (x
              + EPS * (2 * torch.rand_like(x).round() - 1 if i % 2 else 2 * torch.rand_like(x) - 1))
        at.requires_grad_()
        gradient = torch.autograd.grad(model(at)[:, 0].sum(), at)[0]
        assert contains(flat(certificate), (gradient, gradient))
        functions = gradient @ C.mT
        assert contains((certificate.spec_lower, certificate.spec_upper), (functions, functions))
    for other, outer in ((wider, True), (narrower, False)):
        if other is not None:
            boxes = flat(certified(other)), flat(certificate)
            assert contains(*boxes) if outer else contains(*reversed(boxes))
            assert not torch.equal(boxes[0][0], boxes[1][0])  # it is not that other method itself
    trained = lx.Certifier(Saliency(model), method=row.name, abs=False, iterations=3).bounds(
        x, eps=EPS, target=0)
    torch.testing.assert_close(trained.lower, certificate.lower, rtol=1e-6, atol=1e-9)


def test_a_removed_row_is_gone_and_names_those_there_are():
    assert list(lx.METHODS) == ["IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized"]
    assert all(name == row.name and row.words for name, row in METHODS.items())
    model, x = model_and_inputs()
    with pytest.raises(ValueError, match="method must be one of IBP, CROWN-IBP"):
        lx.certify(Saliency(model), x, eps=EPS, target=0, method="halves")
    with pytest.raises(ValueError, match="There is no method of bounding 'halves'; there are"):
        lookup("halves")
    with pytest.raises(ValueError, match="The method of bounding 'IBP' is already registered"):
        register(METHODS["IBP"])


@pytest.mark.parametrize(("fields", "message"), [
    ({"within": "planes"}, "within must be one of intervals, linear; given: 'planes'"),
    ({"result": None}, "result must be one of intervals, linear; given: None"),
    ({"chosen": True}, "chooses planes and bounds nothing by them"),
    ({"tensors": 0}, "tensors must be an integer of at least 1; given: 0"),
    ({"tensors": True}, "tensors must be an integer of at least 1; given: True"),
])
def test_rows_that_say_nothing_that_can_be_done_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Method(**{"name": "mine", "words": "mine", "within": "intervals", "result": "intervals",
                  **fields})


def test_a_budget_of_memory_is_shared_by_the_tensors_of_a_method():
    limited, free = Memory(width=10, item_size=8, limit=2**20), Memory(width=10, item_size=8)
    for name, entries, at_once in (("CROWN", 2**13, COEFFICIENTS),
                                   ("CROWN-Optimized", 2**11, COEFFICIENTS // 4)):
        assert limited.entries(METHODS[name]) == entries
        assert limited.functions_at_once(4, METHODS[name]) == entries // 40
        assert free.entries(METHODS[name]) == at_once


def test_an_engine_over_parameters_leaves_the_engine_as_it_is():
    model, x = model_and_inputs()
    module = lx.capture(model, (x,))
    engine, given = Engine(module, module.example), (x, torch.ones(2, 2).double())
    ball = PerturbationLpNorm(norm=math.inf, x_L=x - EPS, x_U=x + EPS)
    name, weight = next(iter(module.named_parameters()))
    moving = Parameters({name: weight}, {name: Box(weight - 0.1, weight + 0.1)}, "")
    with torch.no_grad():
        moved, plain = engine.over(moving), engine(given, (ball,), "CROWN")
        wider, again = moved(given, (ball,), "CROWN"), engine(given, (ball,), "CROWN")
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert (wider[0] < plain[0]).all() and (plain[1] < wider[1]).all()


def names_in(node):
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value in METHODS}


def decides(node):
    """Whether code decides by the name of a method: compares with it, or keeps a table of names."""
    if isinstance(node, ast.Compare | ast.MatchValue):
        return bool(names_in(node))
    if isinstance(node, ast.Dict):
        return any(names_in(key) for key in node.keys if key is not None)
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return bool(names_in(node)) and all(isinstance(e, ast.Constant) for e in node.elts)
    return False


@pytest.mark.parametrize("code", ['method == "IBP"', 'm not in ("CROWN", "IBP")', '{"CROWN": 8}',
                                  'LINEAR = "CROWN", "CROWN-Optimized"'])
def test_the_search_for_names_finds_them(code):
    assert any(decides(node) for node in ast.walk(ast.parse(code)))


def test_nothing_is_decided_by_the_name_of_a_method():
    found = [f"{path.relative_to(PACKAGE)}:{node.lineno}" for path in sorted(PACKAGE.rglob("*.py"))
             for node in ast.walk(ast.parse(path.read_text())) if decides(node)]
    assert not found
